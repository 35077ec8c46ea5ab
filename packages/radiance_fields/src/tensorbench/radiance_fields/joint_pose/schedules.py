"""How wide the kernels are at which step: coarse to fine, randomly scaled, or for BARF which frequencies are on.

Joint-TensoRF (Cheng, Chiu and Liu 2024, arXiv 2402.13252): the widths fall along a line through given values;
every step draws a share of them from a pool, for the field and for the images independently. BARF (Lin et al. 2021,
arXiv 2104.06405): frequency k of a positional encoding has the weight (1 − cos(π clamp(α − k, 0, 1))) / 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

PAPER_3D = (0.3, 0.15, 0.07, *[0.0] * 8)  # of the scene's length unit, at even shares of the steps (reference options)
PAPER_2D = (0.025, 0.0125, 0.00625, *[0.0] * 7)  # of the mean of an image's sides
POOL_3D = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
POOL_2D = (0.0, 0.25, 0.5, 0.75, 1.0)


def interpolated(progress: float, values: Sequence[float]) -> float:
    """The line through ``values`` at even distances from progress 0 to 1."""
    if not values:
        raise ValueError("a schedule needs one value or more")
    if not 0 <= progress <= 1:
        raise ValueError(f"progress {progress} is a share of the steps and must be in [0, 1]")
    at = progress * (len(values) - 1)
    low = min(int(at), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (at - low) * (values[high] - values[low])


@dataclass(frozen=True)
class C2F:
    """Widths of the field's and of the images' kernel over the share of the steps that is done."""

    schedule3d: tuple[float, ...] = PAPER_3D
    schedule2d: tuple[float, ...] = PAPER_2D

    def __post_init__(self) -> None:
        for name, values in (("schedule3d", self.schedule3d), ("schedule2d", self.schedule2d)):
            if not values or min(values) < 0:
                raise ValueError(f"{name} {values}: give widths of 0 or more")

    def field(self, progress: float) -> float:
        """Width of the field's kernel, in the unit of the schedule."""
        return interpolated(progress, self.schedule3d)

    def images(self, progress: float) -> float:
        """Width of the images' kernel, in the unit of the schedule."""
        return interpolated(progress, self.schedule2d)


NONE = C2F((0.0,), (0.0,))


@dataclass(frozen=True)
class RandomScale:
    """Shares of the scheduled widths, drawn anew in every step."""

    pool3d: tuple[float, ...] = POOL_3D
    pool2d: tuple[float, ...] = POOL_2D

    def __post_init__(self) -> None:
        for name, pool in (("pool3d", self.pool3d), ("pool2d", self.pool2d)):
            if not pool or min(pool) < 0:
                raise ValueError(f"{name} {pool}: give shares of 0 or more")

    def draw(self, generator: torch.Generator) -> tuple[float, float]:
        """A share for the field and one for the images, independent."""
        first = int(torch.randint(len(self.pool3d), (), generator=generator))
        second = int(torch.randint(len(self.pool2d), (), generator=generator))
        return self.pool3d[first], self.pool2d[second]


FIXED = RandomScale((1.0,), (1.0,))


@dataclass(frozen=True)
class BarfSchedule:
    """Which frequencies of an encoding are on: none until ``start``, all from ``end`` (shares of the steps)."""

    start: float = 0.0
    end: float = 0.4

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"start {self.start} and end {self.end} must be shares of the steps, start before end")

    def weights(self, progress: float, levels: int) -> Float[Tensor, "levels"]:
        """A weight for each of ``levels`` frequencies."""
        alpha = (progress - self.start) / (self.end - self.start) * levels
        ramp = (alpha - torch.arange(levels, dtype=torch.float32)).clamp(0, 1)
        return (1 - torch.cos(math.pi * ramp)) / 2


def falling_rates(
    optimizer: torch.optim.Optimizer, steps: int, decay: float, warmup: float, *, last: bool
) -> torch.optim.lr_scheduler.LambdaLR:
    """All rates fall exponentially to ``decay``; that of the poses (the last or the first group) rises from zero over
    the first ``warmup`` share of the steps (an option of the reference codes, there off)."""
    if not 0 <= warmup < 1 or not 0 < decay <= 1:
        raise ValueError(f"warmup {warmup} must be in [0, 1) and decay {decay} in (0, 1]")
    rising = max(1.0, warmup * steps)

    def field(step: int) -> float:
        return decay ** (step / steps)

    def poses(step: int) -> float:
        return min(1.0, (step + 1) / rising) * field(step)

    others = [field] * (len(optimizer.param_groups) - 1)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, [*others, poses] if last else [poses, *others])


def voxel_sigma(width: float, resolution: Sequence[int], box: Float[Tensor, "2 3"]) -> float:
    """A width in scene units in cells: times the mean over axes of cells per unit (the reference's scale)."""
    lengths = (box[1] - box[0]).tolist()
    return width * sum(cells / length for cells, length in zip(resolution, lengths, strict=True)) / 3


def pixel_sigma(width: float, h: int, w: int) -> float:
    """A width in shares of the mean side of an image, in pixels."""
    return width * (h + w) / 2
