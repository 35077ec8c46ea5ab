"""TnALE: tensor network structure search by alternating local enumeration.

Li, Zeng, Li, Caiafa, Zhao, "Alternating Local Enumeration (TnALE): Solving Tensor Network Structure Search with Fewer
Evaluations", ICML 2023, arXiv 2304.12875. Instead of sampling the neighbourhood of the current structure, whose size
grows as (2·radius+1)^K, its variables are enumerated one after another, each over a window while all others are
fixed: rank 1 to rank K, all transpositions of the modes, rank K back to rank 1 (a round trip; algorithm ALE). The
first L₀ sweeps are a warm-up: wide windows of which only both ends and the centre are fitted and the other errors
interpolated linearly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .objective import Objective
from .space import RankSpace, Structure
from .trajectory import Exhausted, Meter, Trajectory, check_space


def interpolate_errors(positions: np.ndarray, fitted: dict[int, float]) -> np.ndarray:
    """Errors at all window positions from those fitted: piecewise linear, never negative."""
    known = sorted(fitted)
    values = np.interp(positions, positions[known], [fitted[k] for k in known])
    return np.maximum(values, 0.0)


@dataclass(frozen=True)
class TnALE:
    """Settings of the search; call it.

    Args:
        radius_init: window radius during the warm-up.
        radius: window radius after it.
        warmup: number L₀ of warm-up sweeps.
        interpolate: in the warm-up fit three structures per window and interpolate the rest.
        round_trips: round trips per sweep before the centre is updated.
        restarts: after convergence start again this often from a random point of the best structure's neighbourhood
            (every rank drawn from its window, one random transposition), as the authors' program does.

    Raises:
        ValueError: a radius below 1, negative counts.
    """

    radius_init: int = 2
    radius: int = 1
    warmup: int = 2
    interpolate: bool = True
    round_trips: int = 1
    restarts: int = 0

    def __post_init__(self):
        if self.radius < 1 or self.radius_init < 1:
            raise ValueError(f"radii must be >= 1, got radius_init={self.radius_init}, radius={self.radius}")
        if self.warmup < 0 or self.round_trips < 1 or self.restarts < 0:
            raise ValueError(
                f"warmup, restarts >= 0 and round_trips >= 1, got {self.warmup}, {self.restarts}, {self.round_trips}"
            )

    def __call__(
        self,
        objective: Objective,
        space: RankSpace,
        budget: int | None,
        generator: np.random.Generator,
        start: Structure | None = None,
    ) -> Trajectory:
        """Search until the structure no longer changes over a whole sweep, or the budget of evaluations is spent."""
        check_space(objective, space)
        meter = Meter(objective, budget)
        centre = start or space.random(generator)
        try:
            for attempt in range(self.restarts + 1):
                if attempt:
                    centre = self._perturbed(meter.best or centre, space, generator)
                self._descend(meter, space, centre, warmup=self.warmup if attempt == 0 else 0)
        except Exhausted:
            return meter.finish("budget")
        return meter.finish("converged")

    def _descend(self, meter: Meter, space: RankSpace, centre: Structure, warmup: int) -> None:
        value, sweep = np.inf, 0
        while True:
            warm = sweep < warmup
            if sweep == warmup:
                value = np.inf  # values of the warm-up may be interpolated: the exact sweeps do not trust them
            found, found_value = centre, np.inf
            for _ in range(self.round_trips):
                found, found_value = self._round_trip(meter, space, found, warm)
            meter.mark()
            unchanged = found.key == centre.key
            if found_value <= value:
                centre, value = found, found_value
            elif not warm:
                return
            if unchanged and not warm:
                return
            sweep += 1

    def _round_trip(self, meter: Meter, space: RankSpace, current: Structure, warm: bool) -> tuple[Structure, float]:
        radius = self.radius_init if warm else self.radius
        bound, value = np.inf, np.inf  # error of the current structure as far as known, and its objective
        edges = list(range(space.variables))
        for edge in edges:
            current, bound, value = self._rank_step(meter, space, current, bound, edge, radius, warm)
        if space.permutable:
            candidates = space.transpositions(current)
            current, bound, value = self._pick(meter, candidates, meter.errors(candidates), 0, bound, warm)
        for edge in reversed(edges):
            current, bound, value = self._rank_step(meter, space, current, bound, edge, radius, warm)
        return current, value

    def _rank_step(self, meter, space, current, bound, edge, radius, warm) -> tuple[Structure, float, float]:
        candidates = space.window(current, edge, radius)
        here = next(i for i, c in enumerate(candidates) if c.ranks == current.ranks)
        if warm and self.interpolate:
            ends = sorted({0, len(candidates) // 2, len(candidates) - 1})
            fitted = dict(zip(ends, meter.errors([candidates[i] for i in ends]), strict=True))
            errors = interpolate_errors(np.arange(len(candidates)), fitted)
        else:
            errors = np.array(meter.errors(candidates))
        return self._pick(meter, candidates, errors, here, bound, warm)

    def _pick(self, meter, candidates, errors, here, bound, warm) -> tuple[Structure, float, float]:
        """The best candidate. In the warm-up the current structure's error is at most what was found before."""
        errors = np.array(errors, dtype=float)
        if warm and self.interpolate:
            errors[here] = min(errors[here], bound)
        values = np.array([meter.objective.combine(c, e) for c, e in zip(candidates, errors, strict=True)])
        # ties stay where the search is, so that "unchanged" means what it says
        best = here if values[here] <= values.min() else int(np.argmin(values))
        return candidates[best], float(errors[best]), float(values[best])

    def _perturbed(self, centre: Structure, space: RankSpace, generator: np.random.Generator) -> Structure:
        out = centre
        for edge in range(space.variables):
            window = space.window(out, edge, self.radius_init)
            out = window[generator.integers(len(window))]
        if space.permutable:
            swaps = space.transpositions(out)
            out = swaps[generator.integers(len(swaps))]
        return out
