"""When a grid grows, when empty space is marked, how the learning rate falls.

TensoRF's schedule (Chen et al. 2022, arXiv 2203.09517 and the reference implementation): 128³ to 300³ voxels at
steps 2000, 3000, 4000, 5500 and 7000 of 30 000, evenly in the logarithm; alpha masks at 2000 (which also shrinks the
box) and 4000 (after which rays that see nothing are dropped); rates fall to a tenth, from the start again after growth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

_PAPER_STEPS = 30_000
_PAPER_UPSAMPLE = (2000, 3000, 4000, 5500, 7000)
_PAPER_MASK = (2000, 4000)


@dataclass(frozen=True)
class Schedule:
    """What happens to the field after which step.

    ``upsample``: voxels by step. ``mask``: steps after which the alpha mask is built anew; with ``shrink`` the first
    one also cuts the box, with ``filter_rays`` the last one drops rays that meet only empty space (those that miss the
    box are never used). ``decay``: what the rates fall to by the end; ``reset_lr``: start again after growth.
    """

    upsample: dict[int, int] = field(default_factory=dict)
    mask: Sequence[int] = ()
    shrink: bool = True
    filter_rays: bool = True
    mask_threshold: float = 1e-4
    mask_dilate: int = 3
    mask_resolution: tuple[int, int, int] | None = None
    lr_grid: float = 0.02
    lr_net: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    decay: float = 0.1
    reset_lr: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay {self.decay} is what is left of the learning rate and must be in (0, 1]")
        early = [step for step in [*self.upsample, *self.mask] if step < 1]
        if early:
            raise ValueError(f"steps {early} of the schedule: the first step is 1")


def log_spaced(first: int, last: int, count: int) -> list[int]:
    """Voxel numbers of ``count`` growths from ``first`` to ``last``, evenly spaced in the logarithm."""
    return [round(math.exp(math.log(first) + (math.log(last / first)) * k / count)) for k in range(1, count + 1)]


def tensorf_schedule(steps: int, first_voxels: int = 128**3, last_voxels: int = 300**3, **options: object) -> Schedule:
    """The paper's schedule, in proportion to a budget of steps."""
    at = [max(1, round(step * steps / _PAPER_STEPS)) for step in _PAPER_UPSAMPLE]
    grow = dict(zip(at, log_spaced(first_voxels, last_voxels, len(at)), strict=True)) if last_voxels else {}
    mask = tuple(max(1, round(step * steps / _PAPER_STEPS)) for step in _PAPER_MASK)
    return Schedule(upsample=grow, mask=mask, **options)  # type: ignore[arg-type]


class Decay:
    """Exponential fall of the learning rates over training, which can wait and start again.

    The factor after a share u of training is ``decay^(u − u₀)``, u₀ the share at the last restart; 1 while ``hold``.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.start, self.hold, self.used = decay, 0.0, False, 0.0

    def __call__(self, used: float) -> float:
        self.used = used
        if self.hold:
            self.start = used
        return self.decay ** (used - self.start)

    def restart(self) -> None:
        """From the full rates again."""
        self.start = self.used
