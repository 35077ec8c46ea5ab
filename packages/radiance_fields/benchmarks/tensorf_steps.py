"""TensoRF: milliseconds of a density, a training step and a picture by how the density is evaluated, on one thread.

    OMP_NUM_THREADS=1 python packages/radiance_fields/benchmarks/tensorf_steps.py

The peer is the reference implementation's way (planes and lines sampled at every point), with the same weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from tensorbench.core.timing import compare
from tensorbench.radiance_fields.tensorf.vm import TensorVM

logger = logging.getLogger("benchmark")
BOX = torch.tensor([[-1.5] * 3, [1.5] * 3])


def density_step(field: TensorVM, points: torch.Tensor) -> Callable[[], None]:
    """A density and its gradient."""

    def call() -> None:
        field.zero_grad()
        field.density(points).sum().backward()

    return call


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for size, rank, count in ((48, 8, 49152), (48, 8, 10000), (96, 16, 49152)):
        generator = torch.Generator().manual_seed(0)
        points = BOX[0] + (BOX[1] - BOX[0]) * torch.rand(count, 3, generator=generator)
        volume, factors = (
            TensorVM(BOX, (size,) * 3, rank, 3 * rank, generator=torch.Generator().manual_seed(1), evaluate=how)
            for how in ("volume", "factors")
        )
        found = compare({"volume": density_step(volume, points), "factors": density_step(factors, points)}, repeats=3)
        logger.info(
            "%d³ vertices, rank %d, %d points: multiplied out %.1f ms, from the factors %.1f ms, ratio %.2f",
            size, rank, count, 1000 * found["volume"], 1000 * found["factors"], found.ratio("volume", "factors").value,
        )  # fmt: skip


if __name__ == "__main__":
    main()
