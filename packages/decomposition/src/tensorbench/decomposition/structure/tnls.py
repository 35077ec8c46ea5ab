"""TNLS: structure search by local sampling, the predecessor of TnALE.

Li, Zeng, Tao, Zhao, "Permutation Search of Tensor Network Structures via Local Sampling", ICML 2022, arXiv 2206.06597.
Every generation draws structures around the centre (rank steps round(N(0, c₁^t)), with probability c₂^t a random
transposition of two modes) and moves to the best of them if it is not worse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .objective import Objective
from .space import RankSpace, Structure
from .trajectory import Exhausted, Meter, Trajectory, check_space


@dataclass(frozen=True)
class TNLS:
    """Settings; the defaults are the paper's. Raises ValueError for non-positive counts or decay outside (0, 1]."""

    samples: int = 60
    c1: float = 0.9
    c2: float = 0.94
    max_gen: int = 20

    def __post_init__(self):
        if self.samples < 1 or self.max_gen < 1:
            raise ValueError(f"samples and max_gen must be >= 1, got {self.samples} and {self.max_gen}")
        if not (0 < self.c1 <= 1 and 0 < self.c2 <= 1):
            raise ValueError(f"c1 and c2 must lie in (0, 1], got {self.c1} and {self.c2}")

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
        centre = start or space.random(generator)
        try:
            value = meter.values([centre])[0]
            for generation in range(self.max_gen):
                sampled = [self._sample(centre, space, generation, generator) for _ in range(self.samples)]
                values = meter.values(sampled)
                meter.mark()
                best = int(np.argmin(values))
                if values[best] <= value:
                    centre, value = sampled[best], values[best]
        except Exhausted:
            return meter.finish("budget")
        return meter.finish("generations")

    def _sample(self, centre: Structure, space: RankSpace, generation: int, generator) -> Structure:
        steps = np.rint(generator.normal(0.0, self.c1**generation, size=space.variables)).astype(int)
        ranks = np.array(centre.ranks)
        # at the rim of the space the step is turned inwards instead of lost
        steps = np.where(ranks == space.max_rank, -np.abs(steps), np.where(ranks == 1, np.abs(steps), steps))
        sampled = space.structure(np.clip(ranks + steps, 1, space.max_rank), centre.permutation)
        if space.permutable and generator.random() < self.c2**generation:
            i, j = generator.choice(len(space.dims), size=2, replace=False)
            swapped = list(sampled.permutation)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            sampled = sampled.with_permutation(swapped)
        return sampled
