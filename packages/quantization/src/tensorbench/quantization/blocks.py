"""One block quantiser: elements of few bits that share a scale, the scale in a format of its own.

``BlockSpec`` says how: MX formats are ``BlockSpec("e4m3")`` and its kin (32 elements, E8M0 scale), NVFP4 is
``BlockSpec("e2m1", scale="e4m3", block=16, tensor_scale="absmax")``. ``quantize`` gives integer codes and scales,
``fake_quantize`` the decoded values at once, without codes, for training. ``block=(16, 16)`` shares a scale over tiles
of the last two axes, so that the quantised transpose is the transpose of the quantised; otherwise blocks run along one
axis and the two differ.

Decoded: ``x ≈ element · block scale · tensor scale``. Sources: OCP MX 1.0; arXiv 2506.08027; arXiv 2509.17791.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped, UInt8
from torch import Tensor

from tensorbench.core.errors import unknown

from . import kernels
from .formats import FloatFormat, Format, floating, get_format
from .packing import pack
from .rounding import ROUNDINGS, Rounding
from .scales import POWER_MODES, SCALE_MODES, ScaleMode, block_scale

WIDE_TARGET = 448.0  # of the largest block scale, in formats of scales with float32's range


@dataclass(frozen=True)
class BlockSpec:
    """How a tensor is quantised. Every field is checked when the spec is made.

    Args:
        elem: format of the elements.
        scale: format of the scale of a block; ``fp32`` leaves it as it is.
        block: elements that share a scale, or a tile of the last two axes; ``None`` is one block along the axis.
        scale_mode: see ``scales``; by default ``rceil`` for E8M0 and ``nearest`` for other formats.
        tensor_scale: ``absmax`` multiplies a float32 number for the whole tensor, such that the largest block scale is
            the largest number of its format (448 where that is beyond 2^16); ``None`` leaves it out.
        rounding, random_bits, midpoint: of the elements, see ``rounding``; scales always round as ``scale_mode`` says.
        infinity: ``saturate`` or ``nan`` (the block becomes NaN, as it does when it holds a NaN).
        pad: whether a last block may be ragged (filled with zeros, which are cut off again).
    """

    elem: str
    scale: str = "e8m0"
    block: int | tuple[int, int] | None = 32
    scale_mode: ScaleMode | None = None
    tensor_scale: Literal["absmax"] | None = None
    rounding: Rounding = "even"
    random_bits: int | None = None
    midpoint: bool = False
    infinity: Literal["nan", "saturate"] = "nan"
    pad: bool = True

    def __post_init__(self) -> None:
        element, scale = get_format(self.elem), get_format(self.scale)
        power = isinstance(scale, FloatFormat) and scale.specials == "power"
        if self.scale_mode is None:
            object.__setattr__(self, "scale_mode", "rceil" if power else "nearest")
        if self.scale_mode not in SCALE_MODES:
            raise ValueError(unknown("scale mode", str(self.scale_mode), SCALE_MODES))
        if (self.scale_mode in POWER_MODES) != power:
            allowed = POWER_MODES if power else ("nearest", "up")
            raise ValueError(
                f"scale mode {self.scale_mode!r} does not fit {self.scale}; use one of {', '.join(allowed)}"
            )
        sizes = self.block if isinstance(self.block, tuple) else (self.block,)
        if any(size is not None and (isinstance(size, bool) or size < 1) for size in sizes) or len(sizes) > 2:
            raise ValueError(f"block {self.block!r} must be a positive number, a pair of them, or None")
        if self.rounding not in ROUNDINGS:
            raise ValueError(unknown("rounding", self.rounding, ROUNDINGS))
        if self.tensor_scale not in (None, "absmax"):
            raise ValueError(unknown("tensor scale", str(self.tensor_scale), ("absmax",)))
        if self.infinity not in ("nan", "saturate"):
            raise ValueError(unknown("policy for infinity", self.infinity, ("nan", "saturate")))
        if isinstance(element, FloatFormat) and not element.signed:
            raise ValueError(f"{self.elem} has no sign; elements need one")

    @property
    def element_format(self) -> Format:
        return get_format(self.elem)

    @property
    def scale_format(self) -> Format:
        return get_format(self.scale)

    @property
    def bits_per_element(self) -> float:
        """Bits stored for each element with its share of the block's scale (full blocks; ``None``: elements only)."""
        size = math.prod(self.block) if isinstance(self.block, tuple) else self.block
        return self.element_format.bits + (self.scale_format.bits / size if size else 0.0)


MX = {
    name: BlockSpec(elem)
    for name, elem in [
        ("mxfp8_e4m3", "e4m3"),
        ("mxfp8_e5m2", "e5m2"),
        ("mxfp6_e3m2", "e3m2"),
        ("mxfp6_e2m3", "e2m3"),
        ("mxfp4", "e2m1"),
        ("mxint8", "mxint8"),
    ]
}
"""The formats of the MX specification, with scales rounded up (``rceil``); ``dataclasses.replace`` changes a field."""
NVFP4 = BlockSpec("e2m1", scale="e4m3", block=16, tensor_scale="absmax")


@dataclass(frozen=True)
class Layout:
    """Where the elements of a tensor went when it was cut into blocks, and back."""

    shape: torch.Size
    axis: int
    tile: tuple[int, int]  # of the last two axes, after ``axis`` was moved last

    def undo(self, blocks: Float[Tensor, "*batch rows columns tile_elements"]) -> Float[Tensor, "*shape"]:
        moved = list(self.shape)
        moved.append(moved.pop(self.axis))
        lead, rows, columns = moved[:-2], moved[-2] if len(moved) > 1 else 1, moved[-1]
        height, width = self.tile
        x = blocks.reshape(*lead, blocks.shape[-3], blocks.shape[-2], height, width).transpose(-3, -2)
        x = x.reshape(*lead, blocks.shape[-3] * height, blocks.shape[-2] * width)[..., :rows, :columns]
        return x.reshape(moved).movedim(-1, self.axis)


def to_blocks(
    x: Shaped[Tensor, "*shape"], block: int | tuple[int, int] | None, axis: int = -1, *, pad: bool = True
) -> tuple[Shaped[Tensor, "*batch rows columns tile_elements"], Layout]:
    """``x`` cut into blocks along ``axis`` (or tiles of the last two axes, ``axis`` being the second of them).

    Raises:
        ValueError: an axis out of range, an empty or scalar tensor, a ragged last block without ``pad``.
    """
    if x.ndim == 0 or x.numel() == 0:
        raise ValueError(f"shape {tuple(x.shape)} has no elements to cut into blocks")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} is out of range for shape {tuple(x.shape)}; use -{x.ndim} to {x.ndim - 1}")
    axis = axis % x.ndim
    moved = x.movedim(axis, -1)
    if moved.ndim == 1:
        moved = moved[None]
    height, width = block if isinstance(block, tuple) else (1, block or moved.shape[-1])
    down, right = -moved.shape[-2] % height, -moved.shape[-1] % width
    if down or right:
        if not pad:
            raise ValueError(
                f"blocks of {block} do not divide axis {axis} of shape {tuple(x.shape)}; "
                "pass pad=True to fill the last with zeros"
            )
        moved = torch.nn.functional.pad(moved, (0, right, 0, down))
    *lead, rows, columns = moved.shape
    tiles = moved.reshape(*lead, rows // height, height, columns // width, width).transpose(-3, -2)
    return tiles.reshape(*lead, rows // height, columns // width, height * width), Layout(
        x.shape, axis, (height, width)
    )


@dataclass(frozen=True)
class Scaled:
    """Blocks with their scales, before the elements are rounded."""

    blocks: Tensor
    scale: Tensor  # of each block, with a last axis of one; NaN where the block is NaN
    tensor_scale: Tensor
    layout: Layout


def scale_blocks(x: Float[Tensor, "*shape"], spec: BlockSpec, axis: int = -1) -> Scaled:
    """Cut ``x`` into blocks and find their scales; a NaN (or, by the spec's policy, infinite) block's is NaN."""
    x = floating(x)
    blocks, layout = to_blocks(x, spec.block, axis, pad=spec.pad)
    amax = blocks.abs().amax(-1, keepdim=True)
    if spec.infinity == "saturate" and bool(amax.isinf().any()):  # the finite elements set the scale
        finite = torch.where(blocks.isinf(), torch.zeros_like(blocks), blocks).abs().amax(-1, keepdim=True)
        amax = torch.where(amax.isinf(), finite, amax)
    scale, whole = _scales(amax, spec)
    return Scaled(blocks, scale, whole, layout)


def scale_target(spec: BlockSpec) -> float:
    """The largest block scale that a scale of the tensor aims at."""
    # with the largest of a scale that reaches as far as float32, the tensor's scale would be zero
    return spec.scale_format.max if spec.scale_format.max <= 2**16 else WIDE_TARGET


def _scales(amax: Tensor, spec: BlockSpec) -> tuple[Tensor, Tensor]:
    """The scale of each block, NaN where its largest magnitude is not finite, and that of the tensor."""
    finite = torch.isfinite(amax)
    sound = bool(finite.all())
    clean = amax if sound else torch.where(finite, amax, torch.zeros_like(amax))
    whole = torch.ones((), dtype=amax.dtype, device=amax.device)
    if spec.tensor_scale == "absmax":
        largest = clean.amax()
        if largest > 0:
            whole = largest / (spec.element_format.max * scale_target(spec))
            clean = clean / whole
    scale = block_scale(clean, spec.element_format, spec.scale_format, spec.scale_mode or "nearest")
    return (scale if sound else torch.where(finite, scale, torch.nan)), whole


def _round_elements(scaled: Scaled, spec: BlockSpec, generator: torch.Generator | None) -> Tensor:
    ratio = scaled.blocks / (scaled.scale * scaled.tensor_scale)
    ratio = torch.where(torch.isnan(ratio), torch.zeros_like(ratio), ratio)
    return spec.element_format.round(
        ratio, spec.rounding, generator=generator, random_bits=spec.random_bits, midpoint=spec.midpoint
    )


@dataclass(frozen=True)
class _Fast:
    """What the loops of ``kernels`` need: ``x`` as (outer, along, inner) with blocks along the middle."""

    x: np.ndarray
    block: int
    grid: kernels.Grid
    scale: Tensor
    tensor_scale: Tensor
    layout: Layout

    @property
    def factor(self) -> np.ndarray:
        return (self.scale * self.tensor_scale).numpy()


def _fast(x: Tensor, spec: BlockSpec, axis: int) -> _Fast | None:
    """None where the loops do not apply, so that the plain way has to do it (and to raise the errors)."""
    grid = kernels.Grid.of(spec.element_format)  # elements have a sign
    if grid is None or spec.rounding != "even" or x.dtype != torch.float32 or x.device.type != "cpu":
        return None
    if isinstance(spec.block, tuple) or x.ndim == 0 or x.numel() == 0 or not -x.ndim <= axis < x.ndim:
        return None
    axis = axis % x.ndim
    along = x.shape[axis]
    block = spec.block or along
    if along % block and not spec.pad:
        return None
    seen = x.detach().contiguous().numpy().reshape(math.prod(x.shape[:axis]), along, math.prod(x.shape[axis + 1 :]))
    largest = kernels.largest_magnitudes(seen, block)
    if spec.infinity == "saturate" and not np.isfinite(largest).all():
        return None
    layout = Layout(x.shape, axis, (1, block))
    if spec.scale_mode in POWER_MODES and spec.tensor_scale is None:
        scale = torch.from_numpy(kernels.power_scales(largest, spec.element_format, spec.scale_mode))
        return _Fast(seen, block, grid, scale, torch.ones(()), layout)
    if spec.scale_mode == "nearest":
        target = scale_target(spec) if spec.tensor_scale == "absmax" else 0.0
        made = kernels.float_scales(largest, spec.element_format, spec.scale_format, target)
        if made is not None:
            return _Fast(seen, block, grid, torch.from_numpy(made[0]), torch.tensor(made[1]), layout)
    return _Fast(seen, block, grid, *_scales(torch.from_numpy(largest), spec), layout)


def fake_quantize(
    x: Float[Tensor, "*shape"], spec: BlockSpec, axis: int = -1, *, generator: torch.Generator | None = None
) -> Float[Tensor, "*shape"]:
    """``quantize(x, spec, axis).dequantize()`` without the codes, in the dtype of ``x``. No gradient of its own."""
    with torch.no_grad():
        if (fast := _fast(floating(x), spec, axis)) is not None:
            values = kernels.decoded(fast.x, fast.factor, fast.block, fast.grid)
            return torch.from_numpy(values).view(x.shape).to(x.dtype)
        scaled = scale_blocks(x, spec, axis)
        q = _round_elements(scaled, spec, generator) * (scaled.scale * scaled.tensor_scale)
        return scaled.layout.undo(q).to(x.dtype)


@dataclass(frozen=True)
class QuantTensor:
    """Codes and scales of a tensor; ``codes`` and ``scales`` are integers (bytes where they fit) in the
    order of the blocks."""

    codes: Integer[Tensor, "*batch rows columns tile_elements"]
    scales: Integer[Tensor, "*batch rows columns"]
    tensor_scale: Float[Tensor, ""]
    spec: BlockSpec
    layout: Layout

    @property
    def shape(self) -> torch.Size:
        return self.layout.shape

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
        """The decoded tensor; blocks whose scale is NaN are NaN."""
        elements = self.spec.element_format.decode(self.codes, dtype)
        scale = self.decoded_scales(dtype)[..., None]
        return self.layout.undo(elements * (scale * self.tensor_scale.to(dtype)))

    def decoded_scales(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "*batch rows columns"]:
        """The scale of each block; NaN of a NaN block."""
        if self.spec.scale == "fp32":
            return self.scales.to(torch.int32).view(torch.float32).to(dtype)
        return self.spec.scale_format.decode(self.scales, dtype)

    def pack(self) -> tuple[UInt8[Tensor, " element_bytes"], UInt8[Tensor, " scale_bytes"]]:
        """The bytes to store: codes of 4 and 6 bits without gaps, and the scales (of 8, 16 or 32 bits)."""
        return pack(self.codes, self.spec.element_format.bits), pack(self.scales, self.spec.scale_format.bits)

    @property
    def nbytes(self) -> int:
        """Bytes that ``pack`` takes, padding of the last blocks included."""
        bits = self.codes.numel() * self.spec.element_format.bits
        scale_bits = self.scales.numel() * self.spec.scale_format.bits
        return -(-bits // 8) + -(-scale_bits // 8)


def quantize(
    x: Float[Tensor, "*shape"], spec: BlockSpec, axis: int = -1, *, generator: torch.Generator | None = None
) -> QuantTensor:
    """Quantise ``x`` in blocks along ``axis``.

    Raises:
        ValueError: integer input, an axis out of range, no elements, a ragged block without ``pad``, stochastic
            rounding without a generator.
    """
    with torch.no_grad():
        fast = _fast(floating(x), spec, axis)
        if fast is not None and fast.x.shape[2] == 1 and fast.x.shape[1] % fast.block == 0:
            codes = torch.from_numpy(
                kernels.codes(fast.x[:, :, 0], fast.factor[:, :, 0], fast.block, spec.element_format, fast.grid)
            )
            codes, layout = to_blocks(codes.view(x.shape), fast.block)
            scales = _encode_scales(fast.scale.view(codes.shape[:-1]), spec)
            return QuantTensor(codes, scales, fast.tensor_scale, spec, layout)
        scaled = scale_blocks(x, spec, axis)
        codes = spec.element_format.encode(_round_elements(scaled, spec, generator))
        if spec.element_format.bits <= 8:
            codes = codes.to(torch.uint8)
        return QuantTensor(codes, _encode_scales(scaled.scale[..., 0], spec), scaled.tensor_scale, spec, scaled.layout)


def _encode_scales(scale: Tensor, spec: BlockSpec) -> Tensor:
    if spec.scale == "fp32":
        return scale.to(torch.float32).contiguous().view(torch.int32)
    nan = torch.isnan(scale)
    form = spec.scale_format
    codes = form.encode(torch.where(nan, torch.ones_like(scale), scale))
    if bool(nan.any()):
        if not isinstance(form, FloatFormat) or not form.has_nan:
            raise ValueError(f"a block holds NaN, and {spec.scale} has no code for it")
        codes = torch.where(nan, form.nan_code, codes)
    return codes.to(torch.uint8) if form.bits <= 8 else codes
