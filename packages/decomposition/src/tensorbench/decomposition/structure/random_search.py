"""The two searches that know nothing: uniform random structures, and all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .objective import Objective
from .space import RankSpace, Structure
from .trajectory import Exhausted, Meter, Trajectory, check_space


@dataclass(frozen=True)
class RandomSearch:
    """Uniform random structures until the budget (or ``samples`` draws) is spent."""

    samples: int = 1000

    def __call__(
        self,
        objective: Objective,
        space: RankSpace,
        budget: int | None,
        generator: np.random.Generator,
        start: Structure | None = None,
    ) -> Trajectory:
        check_space(objective, space)
        meter = Meter(objective, budget)
        try:
            if start is not None:
                meter.values([start])
            for _ in range(self.samples):
                meter.values([space.random(generator)])
        except Exhausted:
            pass
        meter.mark()
        return meter.finish("budget")


@dataclass(frozen=True)
class BruteForce:
    """Every structure of the space. Raises ValueError when there are more than ``limit`` points."""

    limit: int = 100_000

    def __call__(
        self,
        objective: Objective,
        space: RankSpace,
        budget: int | None = None,
        generator: np.random.Generator | None = None,
        start: Structure | None = None,
    ) -> Trajectory:
        check_space(objective, space)
        if space.size > self.limit:
            raise ValueError(f"the space has {space.size} points, over the limit of {self.limit} for brute force")
        meter = Meter(objective, budget)
        try:
            meter.values(list(space.all()))
        except Exhausted:
            return meter.finish("budget")
        meter.mark()
        return meter.finish("converged")
