"""TNGA: structure search by a genetic algorithm.

Li and Sun, "Evolutionary Topology Search for Tensor Network Decomposition", ICML 2020. The paper searches the
topology; as in its successors' comparisons the genes here are the ranks of the template's edges and, where modes may
be permuted, the assignment of modes. Per generation: keep the fittest, draw couples with weights log(α / (0.01 +
5·place)), exchange the genes of the edges at one vertex, mutate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .objective import Objective
from .space import RankSpace, Structure
from .trajectory import Exhausted, Meter, Trajectory, check_space


@dataclass(frozen=True)
class TNGA:
    """Settings; the defaults are those of the authors' demonstration (50 individuals, 40 kept, α = 200, 5 % mutation).

    Raises:
        ValueError: population < 2, survivors outside 1..population, alpha <= 0, mutation outside [0, 1], max_gen < 1.
    """

    population: int = 50
    survivors: int = 40
    alpha: float = 200.0
    mutation: float = 0.05
    max_gen: int = 30

    def __post_init__(self):
        if self.population < 2 or not 1 <= self.survivors <= self.population:
            raise ValueError(
                f"population >= 2 and survivors in 1..population, got {self.population} and {self.survivors}"
            )
        if self.alpha <= 0 or not 0 <= self.mutation <= 1 or self.max_gen < 1:
            raise ValueError(
                f"alpha > 0, mutation in [0, 1], max_gen >= 1, got {self.alpha}, {self.mutation}, {self.max_gen}"
            )

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
        people = [space.random(generator) for _ in range(self.population - (start is not None))]
        people += [start] if start is not None else []
        try:
            for _ in range(self.max_gen):
                values = meter.values(people)
                meter.mark()
                fittest = [people[i] for i in np.argsort(values, kind="stable")[: self.survivors]]
                places = np.arange(len(fittest))
                weights = np.maximum(np.log(self.alpha / (0.01 + 5.0 * places)), 0.01)
                weights /= weights.sum()
                people = []
                while len(people) < self.population:
                    a, b = generator.choice(len(fittest), size=2, p=weights)
                    people += self._cross(fittest[a], fittest[b], space, generator)
                people = [self._mutate(p, space, generator) for p in people[: self.population]]
        except Exhausted:
            return meter.finish("budget")
        return meter.finish("generations")

    def _cross(self, a: Structure, b: Structure, space: RankSpace, generator) -> list[Structure]:
        vertex = generator.integers(space.topology.vertices)
        swap = [vertex in edge for edge in space.topology.edges]
        children = []
        for one, other in ((a, b), (b, a)):
            ranks = [q if s else r for r, q, s in zip(one.ranks, other.ranks, swap, strict=True)]
            children.append(space.structure(ranks, one.permutation))
        return children

    def _mutate(self, structure: Structure, space: RankSpace, generator) -> Structure:
        fresh = generator.integers(1, space.max_rank + 1, size=space.variables)
        hit = generator.random(space.variables) < self.mutation
        permutation = list(structure.permutation)
        if space.permutable:
            for i in range(len(permutation)):
                if generator.random() < self.mutation:
                    j = int(generator.integers(len(permutation)))
                    permutation[i], permutation[j] = permutation[j], permutation[i]
        return space.structure(np.where(hit, fresh, structure.ranks), permutation)
