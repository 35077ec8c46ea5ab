"""Which terms of progressive volume distillation count at which step (Fang et al. 2022, arXiv 2211.15977).

Features alone at first; then also density and colour at the samples; then also the rendered pixels. Terms that have
come in stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.distill.losses import Weights

_PAPER = (2000, 5000, 30_000)
NEVER = 2**62


@dataclass(frozen=True)
class Stages:
    """``volume`` and ``pixels`` are the steps at which density and colour, and rendered pixels, come in (steps count
    from 1, as in the reference code, whose options are called stage1 and stage2).

    Raises ValueError where they decrease.
    """

    volume: int = 2000
    pixels: int = 5000

    def __post_init__(self) -> None:
        if not 0 <= self.volume <= self.pixels:
            raise ValueError(
                f"stages begin in order: density and colour (step {self.volume}) no later than pixels ({self.pixels})"
            )

    @staticmethod
    def of(steps: int) -> Stages:
        """The paper's shares of a training of ``steps``: 2000 and 5000 of 30 000."""
        first, second, whole = _PAPER
        return Stages(round(steps * first / whole), round(steps * second / whole))

    def at(self, step: int) -> int:
        """1, 2 or 3."""
        return 1 if step < self.volume else 2 if step < self.pixels else 3

    def without_features(self) -> Stages:
        """For fields whose features cannot be compared: density and colour from the start."""
        return Stages(0, self.pixels)


MODES = ("full", "no_stages", "rgb_only", "density_only", "color_only", "features_only")


def mode(name: str, steps: int, weights: Weights | None = None) -> tuple[Stages, Weights]:
    """Stages and weights of the method and its ablations, for a training of ``steps``.

    ``full``; ``no_stages``: all terms from the first step; ``rgb_only``: rendered pixels alone, which is plain
    distillation; ``density_only``, ``color_only``: one of them at the samples, nothing rendered; ``features_only``.

    Raises ValueError for another name.
    """
    w = weights or Weights()
    match name:
        case "full":
            return Stages.of(steps), w
        case "no_stages":
            return Stages(0, 0), w
        case "rgb_only":
            return Stages(0, 0), replace(w, features=0.0, density=0.0, color=0.0)
        case "density_only":
            return Stages(0, NEVER), replace(w, features=0.0, color=0.0)
        case "color_only":
            return Stages(0, NEVER), replace(w, features=0.0, density=0.0)
        case "features_only":
            return Stages(NEVER, NEVER), w
    raise ValueError(unknown("mode of distillation", name, MODES))
