"""Fake quantisation of one tensor with a scale that can be learned: integers, few-bit floats and block formats.

Uniform and symmetric (Schaefer et al. 2023, arXiv 2302.01382): ``q = s · clip(round(x / s), -n, n)`` with
``n = 2^(bits - 1) - 1`` and ``s = alpha / n``, where ``alpha`` is the calibrated range. Asymmetric: ``2^bits`` codes
with an integer zero point. Few-bit floats replace the grid of integers by that of ``formats``; block formats (MX,
NVFP4) find their own scales (``blocks``). 16 bits are bfloat16.

The backward pass is straight through: rounding has gradient one, clipping one inside and zero outside, so that the
gradient of the scale is ``round(x / s) - x / s`` inside and ``±n`` outside, as in learned step sizes (Esser et al.
2020, arXiv 1902.08153).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

from ..blocks import MX, NVFP4, BlockSpec, fake_quantize
from ..formats import FloatFormat, get_format

Granularity = Literal["tensor", "channel", "group"]
BLOCK_FORMATS: dict[str, BlockSpec] = {**MX, "nvfp4": NVFP4}
FLOAT_FORMATS = {"fp8_e4m3": "e4m3", "fp8_e5m2": "e5m2", "fp6_e3m2": "e3m2", "fp6_e2m3": "e2m3", "fp4_e2m1": "e2m1"}
FORMATS = ("int", *FLOAT_FORMATS, *BLOCK_FORMATS)


@dataclass(frozen=True)
class QuantSpec:
    """How a tensor is quantised.

    Args:
        bits: 2 to 8 for integers; 16 is a cast to bfloat16 and 32 no quantisation. Other formats know their own width.
        symmetric: without zero point.
        granularity: one scale for the tensor, for each entry of axis 0, or for ``group`` neighbours of a flattened row.
        fmt: ``int``, a float (``fp8_e4m3``) or a block format (``mxfp8_e4m3``, ``nvfp4``).
        group: numbers that share a scale when granularity is ``group``.
    """

    bits: int = 8
    symmetric: bool = True
    granularity: Granularity = "tensor"
    fmt: str = "int"
    group: int | None = None

    def __post_init__(self) -> None:
        if self.fmt not in FORMATS:
            raise ValueError(unknown("format", self.fmt, FORMATS))
        if self.granularity not in get_args(Granularity):
            raise ValueError(unknown("granularity", self.granularity, get_args(Granularity)))
        if self.fmt == "int" and self.bits not in (*range(2, 9), 16, 32):
            raise ValueError(f"bits {self.bits} of integers must be 2 to 8, 16 (bfloat16) or 32 (not quantised)")
        if not self.symmetric and self.fmt != "int":
            raise ValueError(f"{self.fmt} has no zero point; symmetric=False is for fmt='int'")
        if (self.granularity == "group") != (self.group is not None) or (self.group is not None and self.group < 1):
            raise ValueError(f"granularity {self.granularity!r} and group {self.group} do not go together")

    @property
    def width(self) -> float:
        """Bits stored for an element, scales of blocks included (those of tensors, channels and groups are not)."""
        if self.fmt in BLOCK_FORMATS:
            return BLOCK_FORMATS[self.fmt].bits_per_element
        return get_format(FLOAT_FORMATS[self.fmt]).bits if self.fmt in FLOAT_FORMATS else self.bits

    @property
    def has_scale(self) -> bool:
        """Whether a range is to be calibrated."""
        return self.fmt in FLOAT_FORMATS or (self.fmt == "int" and self.bits <= 8)

    @property
    def largest(self) -> float:
        """The largest code, in units of the scale."""
        if self.fmt in FLOAT_FORMATS:
            return get_format(FLOAT_FORMATS[self.fmt]).max
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1

    @classmethod
    def of(cls, precision: int | str, **more) -> QuantSpec:
        """``8`` is eight-bit integers, ``"nvfp4"`` that format."""
        return cls(fmt=precision) if isinstance(precision, str) else cls(bits=precision, **more)


class Quantizer(nn.Module):
    """Values in, quantised values of the same shape out. ``set_range`` comes first where the format has a scale; blocks
    run along ``axis``, which should be the one that a product sums over.

    >>> q = Quantizer(QuantSpec(bits=4)); q.set_range(-x.abs().max(), x.abs().max()); q(x)
    """

    def __init__(self, spec: QuantSpec, axis: int = -1) -> None:
        super().__init__()
        self.spec, self.axis = spec, axis
        self.scale = nn.Parameter(torch.ones(()), requires_grad=spec.has_scale)
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self.ready = not spec.has_scale

    def grouped(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "groups values"]:
        """``x`` as a matrix with a row for everything that shares a scale."""
        if self.spec.granularity == "tensor":
            return x.reshape(1, -1)
        if x.ndim < 1 or x.shape[0] == 0:
            raise ValueError(f"shape {tuple(x.shape)} has no channels along axis 0")
        if self.spec.granularity == "channel":
            return x.reshape(x.shape[0], -1)
        assert self.spec.group is not None
        if (x.numel() // x.shape[0]) % self.spec.group:
            raise ValueError(f"rows of {x.numel() // x.shape[0]} (shape {tuple(x.shape)}) cannot be cut into groups of "
                             f"{self.spec.group}; use a divisor")  # fmt: skip
        return x.reshape(-1, self.spec.group)

    def set_range(self, low: Float[Tensor, "*groups"] | float, high: Float[Tensor, "*groups"] | float) -> None:
        """The range to represent, one number or one for each row of ``grouped``. A range of zero keeps zeros zero.

        Raises:
            ValueError: a range that is not finite, or the wrong way round.
        """
        low, high = torch.as_tensor(low, dtype=torch.float32), torch.as_tensor(high, dtype=torch.float32)
        if not bool((torch.isfinite(low) & torch.isfinite(high) & (low <= high)).all()):
            raise ValueError(f"a range needs finite low <= high, got {low.min():g} to {high.max():g}")
        if not self.spec.has_scale:
            return
        if self.spec.symmetric:
            scale = torch.maximum(low.abs(), high.abs()) / self.spec.largest
        else:
            low, high = low.clamp(max=0), high.clamp(min=0)  # zero has to be a code
            scale = (high - low) / self.spec.largest
        if bool((scale == 0).any()):
            warnings.warn("a tensor is all zero: its scale is set to 1 and it stays zero", stacklevel=2)
            scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        if self.spec.granularity == "tensor":
            scale = scale.reshape(())
        self.scale = nn.Parameter(scale.detach().clone(), requires_grad=True)
        zero = torch.zeros_like(scale) if self.spec.symmetric else torch.round(-low.reshape(scale.shape) / scale)
        self.zero_point = zero.to(torch.int32)
        self.ready = True

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest integer code."""
        top = int(self.spec.largest)
        return (-top, top) if self.spec.symmetric else (0, top)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        spec = self.spec
        if spec.fmt in BLOCK_FORMATS:
            return _BlockStraightThrough.apply(x, spec.fmt, self.axis)
        if spec.bits == 32 and spec.fmt == "int":
            return x
        if spec.bits == 16 and spec.fmt == "int":
            return x.to(torch.bfloat16).to(x.dtype)
        if not self.ready:
            raise ValueError("the quantiser has no range yet; call set_range, or calibrate the model")
        learns = torch.is_grad_enabled() and (x.requires_grad or self.scale.requires_grad)
        if not learns and spec.fmt == "int" and spec.granularity == "tensor" and x.dtype == torch.float32:
            return self._in_place(x)
        return self._quantise(x)

    def _in_place(self, x: Tensor) -> Tensor:
        """As ``_quantise`` without gradient: one new tensor. (torch's own kernel writes a mask too, and is slower.)"""
        low, high = self.code_range
        scale = self.scale.detach()
        q = (x * (1 / scale)).round_()
        if self.spec.symmetric:
            return q.clamp_(low, high).mul_(scale)
        return q.add_(self.zero_point).clamp_(low, high).sub_(self.zero_point).mul_(scale)

    def _quantise(self, x: Tensor) -> Tensor:
        rows = x if self.spec.granularity == "tensor" else self.grouped(x)
        scale, zero = self.scale, self.zero_point.to(x.dtype)
        if self.spec.granularity != "tensor":
            scale, zero = scale.reshape(-1, 1), zero.reshape(-1, 1)
        v = rows * (1 / scale)  # the order of operations of torch's own kernel
        if self.spec.fmt == "int":
            low, high = self.code_range
            rounded = v + (torch.round(v) - v).detach()
            q = (rounded + zero).clamp(low, high) - zero
        else:
            form = get_format(FLOAT_FORMATS[self.spec.fmt])
            assert isinstance(form, FloatFormat)
            inside = v.clamp(-form.max, form.max)
            q = inside + (form.round(inside.detach()) - inside).detach()
        return (q * scale).reshape(x.shape)

    def get_extra_state(self) -> bool:
        """Whether a range was set; part of ``state_dict``."""
        return self.ready

    def set_extra_state(self, state: bool) -> None:
        self.ready = bool(state)

    def _load_from_state_dict(self, state_dict, prefix, *more) -> None:
        if (stored := state_dict.get(prefix + "scale")) is not None and stored.shape != self.scale.shape:
            self.scale = nn.Parameter(self.scale.new_ones(stored.shape), requires_grad=self.scale.requires_grad)
        if (stored := state_dict.get(prefix + "zero_point")) is not None and stored.shape != self.zero_point.shape:
            self.zero_point = self.zero_point.new_zeros(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *more)

    def extra_repr(self) -> str:
        return repr(self.spec)


class _BlockStraightThrough(torch.autograd.Function):
    """A block format forward, the identity backward (its scales follow the block's largest number: nothing is cut)."""

    @staticmethod
    def forward(ctx, x: Tensor, name: str, axis: int) -> Tensor:
        return fake_quantize(x, BLOCK_FORMATS[name], axis)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None
