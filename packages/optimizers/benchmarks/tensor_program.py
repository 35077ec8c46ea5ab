"""The interpreter of tensor programs: seconds and memory by samples and rule.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/optimizers/benchmarks/tensor_program.py

Growth with the samples, and the coordinate check beside the mup library, are an experiment
(``optimizers/tensor_program_speed``).
"""

from __future__ import annotations

import logging

import torch

from tensorbench.core.timing import measure
from tensorbench.optimizers.tensor_programs import updates
from tensorbench.optimizers.tensor_programs.limits import Arch, Problem, limit_mup_adam

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 64, generator=generator)
    problem = Problem(x, x[:, :1].sign(), x[:0])
    for name in ("sign", "adam", "lion"):
        for samples in (12_500, 50_000):
            with measure() as cost:
                limit_mup_adam(
                    Arch(64, 2, 1), problem, updates.update(name), lr=0.01, steps=3, samples=samples, copies=500,
                    generator=generator,
                )  # fmt: skip
            logger.info("%-5s %6d samples: %.2f s, %.0f MiB", name, samples, cost.seconds, cost.peak_mib)


if __name__ == "__main__":
    main()
