"""Quantisers of one operand that do more than a ``BlockSpec`` says: functions for the fields of ``layers.GemmSpec``.

- ``DelayedScale``: the scale of the tensor from a maximum that is sampled every k-th call and held in between. The
  first author's later recipe (Hu, Luschi, Balança 2026) samples every 50 steps and aims the largest block scale at
  448 in UE5M3 too, which leaves room for the maximum to grow.
- ``Percentile`` and ``MovingAbsmax``: another statistic than the largest magnitude for the scale of a block.
- ``ClampCompensate``: outliers beyond a quantile are clamped before rounding and added back exactly, as a sparse
  product would (Wang et al. 2025, arXiv 2501.17116; the quantiles of the two signs differ, and their default is
  0.99).

State belongs to one operand of one layer: make a new object for each. Source: Hu, Luschi and Balança (2025, arXiv
2509.17791).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..blocks import BlockSpec, fake_quantize, to_blocks
from ..formats import floating
from ..scales import block_scale

TARGET = 448.0  # of the largest block scale


def quantize_with(
    x: Float[Tensor, "*shape"],
    spec: BlockSpec,
    axis: int,
    amax: Float[Tensor, "*batch rows columns one"],
    *,
    tensor_scale: Float[Tensor, ""] | float = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*shape"]:
    """``fake_quantize`` with given magnitudes for the scales of the blocks and a given scale of the tensor.

    NaN and infinity are treated as the spec says: a block that holds one becomes NaN (infinity saturates if asked to).
    """
    blocks, layout = to_blocks(floating(x), spec.block, axis, pad=spec.pad)
    sound = torch.isfinite(blocks).all(-1, keepdim=True) if spec.infinity == "nan" else ~blocks.isnan().any(-1, True)
    amax = torch.where(sound & torch.isfinite(amax), amax, torch.zeros_like(amax))
    scale = block_scale(amax / tensor_scale, spec.element_format, spec.scale_format, spec.scale_mode or "nearest")
    decoded = scale * tensor_scale
    ratio = torch.where(sound, blocks / decoded, torch.zeros_like(blocks))
    q = spec.element_format.round(
        ratio, spec.rounding, generator=generator, random_bits=spec.random_bits, midpoint=spec.midpoint
    )
    return layout.undo(q * torch.where(sound, decoded, torch.nan)).to(x.dtype)


@dataclass
class DelayedScale:
    """The tensor's scale from a maximum sampled on calls 1, 1 + every, …; block scales beyond their format saturate."""

    spec: BlockSpec
    every: int = 50
    target: float = TARGET
    held: Tensor | None = field(default=None, repr=False)
    calls: int = 0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every {self.every} must be at least 1 call")
        if not 0 < self.target <= self.spec.scale_format.max:
            raise ValueError(
                f"target {self.target} must be positive and at most {self.spec.scale_format.max} in {self.spec.scale}"
            )
        self.spec = replace(self.spec, tensor_scale=None)

    def __call__(self, x: Tensor, axis: int, *, generator: torch.Generator | None = None) -> Tensor:
        if self.calls % self.every == 0 or self.held is None:
            largest = x.detach().abs().amax()
            if not bool(torch.isfinite(largest)):
                raise ValueError("the tensor holds NaN or infinity: there is no maximum to hold")
            self.held = largest
        self.calls += 1
        whole = self.held / (self.spec.element_format.max * self.target)
        whole = torch.where(self.held > 0, whole, torch.ones_like(whole))
        blocks, _ = to_blocks(x, self.spec.block, axis, pad=self.spec.pad)
        amax = blocks.abs().amax(-1, keepdim=True)
        return quantize_with(x, self.spec, axis, amax, tensor_scale=whole, generator=generator)


@dataclass(frozen=True)
class Percentile:
    """The scale of a block from a quantile of its magnitudes; larger elements saturate."""

    spec: BlockSpec
    share: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share {self.share} of the block must be in (0, 1]")

    def __call__(self, x: Tensor, axis: int, *, generator: torch.Generator | None = None) -> Tensor:
        blocks, _ = to_blocks(x, self.spec.block, axis, pad=self.spec.pad)
        inside, _ = to_blocks(torch.ones_like(x), self.spec.block, axis, pad=self.spec.pad)
        # The zeros that fill a ragged block are no part of its statistics; the tensor's own NaN is quantize_with's.
        magnitudes = torch.where(inside > 0, torch.nan_to_num(blocks.abs()), torch.nan)
        amax = torch.nanquantile(magnitudes, self.share, dim=-1, keepdim=True)
        return quantize_with(x, self.spec, axis, amax, generator=generator)


@dataclass
class MovingAbsmax:
    """The scale of a block from an exponential mean of its largest magnitudes (``decay`` of the past); one shape."""

    spec: BlockSpec
    decay: float = 0.9
    mean: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay {self.decay} must be in [0, 1)")

    def __call__(self, x: Tensor, axis: int, *, generator: torch.Generator | None = None) -> Tensor:
        blocks, _ = to_blocks(x, self.spec.block, axis, pad=self.spec.pad)
        amax = blocks.abs().amax(-1, keepdim=True)
        if self.mean is None:
            self.mean = amax
        elif self.mean.shape != amax.shape:
            raise ValueError(
                f"blocks of shape {tuple(amax.shape)} after {tuple(self.mean.shape)}: the mean is of fixed places; "
                "keep the batch size, or use Percentile"
            )
        else:
            self.mean = torch.lerp(amax, self.mean, self.decay)
        return quantize_with(x, self.spec, axis, self.mean, generator=generator)


@dataclass(frozen=True)
class ClampCompensate:
    """Clamp to the quantiles ``1 - share`` and ``share``, round, and add the rest back exactly."""

    spec: BlockSpec
    share: float = 0.999

    def __post_init__(self) -> None:
        if not 0.5 < self.share < 1:
            raise ValueError(f"share {self.share} must be in (0.5, 1)")

    def __call__(self, x: Tensor, axis: int, *, generator: torch.Generator | None = None) -> Tensor:
        clamped, rest = clamp_outliers(x, self.share)
        return fake_quantize(clamped, self.spec, axis, generator=generator) + rest


def clamp_outliers(x: Float[Tensor, "*shape"], share: float) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """``x`` within its quantiles, and the (sparse) rest."""
    flat = x.flatten()
    high = min(int(share * flat.numel()), flat.numel() - 1)
    low = flat.numel() - 1 - high
    clamped = x.clamp(flat.kthvalue(low + 1).values, flat.kthvalue(high + 1).values)
    return clamped, x - clamped
