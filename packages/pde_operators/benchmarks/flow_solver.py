"""The Navier-Stokes solver: seconds for the data of one experiment, and what batching saves, on one thread.

OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/pde_operators/benchmarks/flow_solver.py
"""

from __future__ import annotations

import logging
from math import pi

import numpy as np

from tensorbench.core.timing import compare, measure
from tensorbench.pde_operators.grids import grf, periodic_field_std
from tensorbench.pde_operators.solvers import navier_stokes2d

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sigma = 0.5 / periodic_field_std((64, 64), 4.0, 3.0, length=2 * pi)
    forcing = grf((64, 64), 240, 4.0, 3.0, sigma, generator=0, length=2 * pi)

    def solve(forcing: np.ndarray, time: float) -> np.ndarray:
        return navier_stokes2d.solve(np.zeros_like(forcing), time, viscosity=0.002, forcing=forcing, dt=0.02)

    with measure() as cost:
        solve(forcing, 5.0)
    logger.info("240 flows on 64² to T = 5: %.1f s (goal 25), %.1f s of CPU", cost.seconds, cost.cpu_seconds)

    few = forcing[:16]
    times = compare(
        {"batch": lambda: solve(few, 0.2), "singly": lambda: [solve(one, 0.2) for one in few]}, repeats=3
    )  # fmt: skip
    logger.info("16 flows together: %.1f times faster than one by one", times.ratio("singly", "batch").value)


if __name__ == "__main__":
    main()
