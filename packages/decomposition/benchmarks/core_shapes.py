"""Core shapes: speed of the parts against named peers, in one process and on one thread, as ratios.

    OMP_NUM_THREADS=1 python packages/decomposition/benchmarks/core_shapes.py

Peers: ``numpy.linalg.svd`` for the singular values, pruned enumeration of all shapes for the exact search, the integer
programs for the approximation scheme's pruning. The comparison with fitting every candidate is an experiment of its own
(``decomposition/core_shapes_speed``).
"""

from __future__ import annotations

import logging
from math import log

import numpy as np

from tensorbench.core.data import load
from tensorbench.core.timing import compare, growth
from tensorbench.decomposition.structure.core_shapes import brute_force, exact, hosv, packing_ip
from tensorbench.decomposition.structure.hosv import HOSV
from tensorbench.decomposition.structure.packing import _DoubleBudget

logger = logging.getLogger("benchmark")


def steep_spectra(sizes: tuple[int, ...]) -> HOSV:
    """Polynomially falling spectra, as those of images are."""
    values = tuple(1.0 / np.arange(1, size + 1) ** 2.0 for size in sizes)
    return HOSV(tuple(a / a.sum() for a in values), 1.0, (0.0,) * len(sizes))


def every_split(s: HOSV, budget: int, eps: float = 0.5) -> None:
    """Step 2 of the scheme without pruning: each split's integer program solved."""
    program = _DoubleBudget(s, s.ranks)
    powers = [(1 + eps) ** k for k in range(int(log(budget) / log(1 + eps)) + 1)]
    for split in [(p, budget - p) for p in powers] + [(budget - p, p) for p in powers]:
        if program.possible(*split):
            program.solve(*split)


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("tensorbench").setLevel(logging.WARNING)
    pines = load("indian_pines")
    s = hosv(pines)

    seconds = compare({"gram": lambda: hosv(pines), "svd": lambda: hosv(pines, method="svd")}, repeats=3)
    ratio = seconds.speedup("gram", "svd")
    logger.info(
        "singular values of 145 x 145 x 200: Gram %.3f s, SVD %.2f s, %.1f times", *seconds.values(), ratio.value
    )

    small = steep_spectra((60, 60, 60))
    seconds = compare({"exact": lambda: exact(small, 20_000), "all": lambda: brute_force(small, 20_000)}, repeats=3)
    ratio = seconds.speedup("exact", "all")
    logger.info(
        "exact, 60 x 60 x 60, B = 20000: %.4f s, enumeration %.2f s, %.0f times", *seconds.values(), ratio.value
    )

    seconds = compare({"pruned": lambda: packing_ip(s, 20_000), "all": lambda: every_split(s, 20_000)}, repeats=3)
    ratio = seconds.speedup("pruned", "all")
    logger.info("scheme on Pines, B = 20000: %.3f s, every program %.2f s, %.1f x", *seconds.values(), ratio.value)

    long = steep_spectra((700, 700, 600))
    seconds = compare({"scheme": lambda: packing_ip(long, 100_000), "exact": lambda: exact(long, 100_000)}, repeats=3)
    logger.info("sum of sizes 2000, B = 100000: scheme %.2f s, exact %.4f s", *seconds.values())

    budgets = [1_000, 3_000, 10_000, 30_000, 100_000]
    took = [compare({"a": lambda b=b: packing_ip(s, b), "b": lambda: None}, repeats=3)["a"] for b in budgets]
    found = growth(budgets, took)
    logger.info("growth of the scheme's time with the budget: %.2f [%.2f, %.2f]", *found)


if __name__ == "__main__":
    main()
