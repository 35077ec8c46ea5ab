"""The Barron construction: seconds of its pieces on one thread, beside named peers where there are some.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/pde_operators/benchmarks/barron.py

Peers: Newton's method on central differences with SciPy's sparse LU; a loop over a dictionary for products. The
experiment ``pde_operators/barron_speed`` has the same comparisons with intervals, and scikit-learn's matching pursuit.
"""

from __future__ import annotations

import logging

import numpy as np

from tensorbench.core.timing import compare, measure
from tensorbench.pde_operators.barron.descent import descend, descend_sparse
from tensorbench.pde_operators.datasets.barron import elliptic_problem, torus_problem
from tensorbench.pde_operators.experiments.barron_speed import by_dictionary, newton_differences
from tensorbench.pde_operators.trig import TrigFunction

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    problem = elliptic_problem(seed=0, preset="semilinear").problem
    values = problem.grid.values(problem.source)[1::2, 1::2].ravel()
    seconds = compare(
        {
            "flow": lambda: descend(problem, 0.5, 40, measure=False),
            "newton": lambda: newton_differences(values, 63, 0.5, 0.25),
        },
        repeats=3,
    )
    logger.info("63 x 63, 40 steps of the flow: %.3f s (goal 0.1), Newton with sparse LU %.3f s", *seconds.values())

    rng = np.random.default_rng(0)
    f, g = (TrigFunction(rng.integers(-9, 10, (300, 6)), rng.standard_normal(300) + 0j, 1.0) for _ in range(2))
    seconds = compare({"join": lambda: f * g, "loop": lambda: by_dictionary(f, g)}, repeats=3)
    logger.info("300 x 300 terms in six dimensions: %.3f s, a loop over a dictionary %.3f s", *seconds.values())

    for d in (4, 7, 10):
        with measure() as cost:
            flow = descend_sparse(
                torus_problem(d, "unit", cubic=0.1, drop=1e-6), 0.5, 40, relative=1e-5, most=20_000, tolerance=1e-3
            )
        logger.info("the flow in %d dimensions: %d terms, %.2f s", d, flow.terms[-1], cost.seconds)


if __name__ == "__main__":
    main()
