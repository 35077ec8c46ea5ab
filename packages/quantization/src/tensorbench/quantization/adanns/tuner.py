"""The best configuration within a budget, chosen on validation queries.

AdANNS (Rege, Kusupati et al., 2023, arXiv 2305.19435) tunes d_c, d_s and n_probe (IVF), d (OPQ) for a budget of
compute or bytes. A sweep measures every configuration once; budgets are then read off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..front import pareto_places
from .ivf import IVF, MGIVF


@dataclass(frozen=True)
class Trial:
    """A configuration, what it costs (in the budget's unit) and its score on validation queries (more is better)."""

    config: dict[str, Any] = field(hash=False)
    cost: float
    score: float


def best_within(trials: Iterable[Trial], budget: float) -> Trial:
    """The best score at a cost of at most ``budget``; of equal scores the cheapest.

    Raises:
        ValueError: nothing is that cheap; the message says what the cheapest costs.
    """
    trials = list(trials)
    fit = [trial for trial in trials if trial.cost <= budget]
    if not fit:
        raise ValueError(f"no configuration costs at most {budget:g}; the cheapest costs {_cheapest(trials):g}")
    return max(fit, key=lambda trial: (trial.score, -trial.cost))


def cheapest_reaching(trials: Iterable[Trial], score: float) -> Trial | None:
    """The cheapest trial of at least that score, or None."""
    enough = [trial for trial in trials if trial.score >= score]
    return min(enough, key=lambda trial: (trial.cost, -trial.score)) if enough else None


def pareto(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that no other beats in both cost and score, cheapest first."""
    trials = list(trials)
    return [trials[place] for place in pareto_places((trial.cost, trial.score) for trial in trials)]


def _cheapest(trials: list[Trial]) -> float:
    return min((trial.cost for trial in trials), default=float("nan"))


def sweep(
    configs: Iterable[dict[str, Any]], measure: Callable[..., tuple[float, float]], *, most: float = np.inf
) -> list[Trial]:
    """``measure(**config)`` returns cost and score; those above a cost of ``most`` are left out."""
    trials = [Trial(config, *measure(**config)) for config in configs]
    return [trial for trial in trials if trial.cost <= most]


def ivf_grid(
    dims: Sequence[int], n_lists: Sequence[int], n_probes: Sequence[int], n: int, *, most: float, decoupled: bool = True
) -> Iterator[dict[str, int]]:
    """Configurations of an IVF over ``n`` vectors that cost at most ``most`` multiply-adds when cells are equally full.

    Those with the same cells follow one another. ``decoupled=False`` keeps d_s = d_c.
    """
    for n_list in n_lists:
        for d_c in dims:
            for d_s in dims if decoupled else [d_c]:
                for n_probe in n_probes:
                    if n_probe <= n_list and n_list * d_c + n_probe / n_list * n * d_s <= most:
                        yield {"n_list": n_list, "d_c": d_c, "d_s": d_s, "n_probe": n_probe}


class IVFFamily:
    """Builds the IVF of a configuration, with k-means once for each (n_list, d_c).

    ``coarse(part, d)`` and ``fine(part, d)`` give the vectors of the part "database", "valid" or "test" for the cells
    and for the distances: prefixes of one embedding (AdANNS-IVF), rigid embeddings (IVF-RR, MG-IVF-RR), reductions
    (MG-IVF-SVD).
    """

    def __init__(
        self, coarse: Callable[[str, int], np.ndarray], fine: Callable[[str, int], np.ndarray], *, seed: int = 0
    ) -> None:
        self.coarse, self.fine, self.seed = coarse, fine, seed
        self._cells: dict[tuple[int, int], IVF] = {}
        self._full: dict[tuple[int, int, int], MGIVF] = {}

    def index(self, n_list: int, d_c: int, d_s: int) -> MGIVF:
        if (n_list, d_c, d_s) not in self._full:
            coarse, fine = self.coarse("database", d_c), self.fine("database", d_s)
            if (n_list, d_c) not in self._cells:
                self._cells[n_list, d_c] = MGIVF(n_list, seed=self.seed).train((coarse, fine))
            made = MGIVF(n_list, seed=self.seed)
            made.centroids = self._cells[n_list, d_c].centroids
            self._full[n_list, d_c, d_s] = made.train((coarse, fine)).add((coarse, fine))
        return self._full[n_list, d_c, d_s]

    def search(self, part: str, k: int, *, n_list: int, d_c: int, d_s: int, n_probe: int):
        """What :meth:`~.ivf.IVF.search` finds for the queries of a part."""
        index = self.index(n_list, d_c, d_s)
        return index.search((self.coarse(part, d_c), self.fine(part, d_s)), k, n_probe=n_probe)
