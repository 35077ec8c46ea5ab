"""Inverse-free natural gradients: seconds of a factor refresh by layer size, beside KFAC's two ways, on one thread.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/optimizers/benchmarks/structured_ngd.py

The ratios that are claims are an experiment (``optimizers/structured_ngd_speed``).
"""

from __future__ import annotations

import logging

from tensorbench.core.timing import compare
from tensorbench.optimizers.experiments.structured_ngd_speed import refreshes

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for n in (64, 256, 512, 1024):
        seconds = compare(refreshes(n, 0), repeats=3, min_seconds=0.02)
        times = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
        logger.info("p = d = %d: %s", n, times)


if __name__ == "__main__":
    main()
