"""Chebyshev-Tucker: seconds to build and to evaluate, beside the peers that do the same work, on one thread.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/decomposition/benchmarks/chebyshev_tucker.py

Peers: ``numpy.polynomial`` for the full tensor of coefficients, SciPy's grid interpolator for scattered points. The
comparison of the reduced with the full construction is an experiment (``decomposition/function_tensors_speed``).
"""

from __future__ import annotations

import logging

import numpy as np

from tensorbench.core.timing import compare, measure
from tensorbench.decomposition.baselines.functions import grid_interpolator, plain_chebyshev
from tensorbench.decomposition.datasets.functions import FUNCTIONS, long_range
from tensorbench.decomposition.functional.chebtuck_build import from_cp, from_function
from tensorbench.decomposition.functional.chebyshev import midpoints
from tensorbench.decomposition.functional.molecules import hard_core

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    f = FUNCTIONS["exponential"]

    seconds = compare({"ours": lambda: from_function(f, 129), "chebfit": lambda: plain_chebyshev(f, 129)}, repeats=3)
    logger.info(
        "129³ values of a callable: Chebyshev-Tucker %.2f s (goal 1.5), numpy's chebfit along each axis %.2f s",
        *seconds.values(),
    )

    model, peer = from_function(f, 65), grid_interpolator(f, 33)
    points = np.random.default_rng(0).uniform(-1, 1, (1_000_000, 3))
    seconds = compare({"ours": lambda: model(points), "splines": lambda: peer.evaluate(points)}, repeats=3)
    with measure() as cost:
        model(points)
    logger.info(
        "10⁶ points, ranks %s, m = 65: %.2f s (goal 3), %.0f MiB (goal 500); cubic splines on 33³: %.2f s",
        model.ranks, seconds["ours"], cost.peak_mib, seconds["splines"],
    )  # fmt: skip
    small = points[:2000]
    plain = plain_chebyshev(f, 65)
    seconds = compare({"ours": lambda: model(small), "plain": lambda: plain.evaluate(small)}, repeats=3)
    logger.info("2000 points: full interpolant %.0f times slower", seconds.ratio("plain", "ours").value)

    cp = long_range(hard_core(100))
    system = from_cp(cp.weights.numpy(), [F.numpy() for F in cp.factors], 129)
    axes = [midpoints(256)] * 3
    seconds = compare({"ours": lambda: system.grid(*axes), "canonical": lambda: cp.full()}, repeats=2)
    logger.info(
        "256³ grid from ranks %s: %.2f s (goal 2); multiplying out %d canonical terms %.2f s",
        system.ranks, seconds["ours"], cp.rank, seconds["canonical"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
