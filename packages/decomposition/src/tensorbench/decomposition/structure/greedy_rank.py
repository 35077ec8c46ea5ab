"""Greedy rank growth: start with every bond at 1 and raise the one that lowers the objective most.

The rule of Hashemizadeh, Liu, Miller, Rabusseau, "Adaptive Learning of Tensor Network Structures" (arXiv 2008.05437),
read as a structure search: it runs on any template (the complete graph in that paper). With an objective that
transfers cores, every candidate starts from the cores of the current network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .objective import Objective
from .space import RankSpace, Structure
from .trajectory import Exhausted, Meter, Trajectory, check_space


@dataclass(frozen=True)
class Greedy:
    """Settings.

    Args:
        increment: by how much a rank is raised.
        patience: steps without a better objective before the search ends (it always takes the best step there is).

    Raises:
        ValueError: increment < 1 or patience < 0.
    """

    increment: int = 1
    patience: int = 1

    def __post_init__(self):
        if self.increment < 1 or self.patience < 0:
            raise ValueError(f"increment >= 1 and patience >= 0, got {self.increment} and {self.patience}")

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
        centre = start or space.structure([1] * space.variables)
        try:
            meter.values([centre])
            idle, best = 0, meter.value
            while idle <= self.patience:
                grown = [
                    centre.with_rank(edge, rank + self.increment)
                    for edge, rank in enumerate(centre.ranks)
                    if rank + self.increment <= space.max_rank
                ]
                if not grown:
                    break
                values = meter.values(grown, start=centre)
                meter.mark()
                centre = grown[int(np.argmin(values))]
                idle = 0 if meter.value < best else idle + 1
                best = meter.value
        except Exhausted:
            return meter.finish("budget")
        return meter.finish("converged")
