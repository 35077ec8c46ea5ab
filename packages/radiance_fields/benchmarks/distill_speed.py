"""The hash grid and the fields by themselves: milliseconds forward and backward, on one thread.

    OMP_NUM_THREADS=1 python packages/radiance_fields/benchmarks/distill_speed.py

What a step of distillation costs beside a training step is an experiment (``radiance_fields/distill_speed``).
"""

from __future__ import annotations

import logging

import torch

from tensorbench.core.timing import compare
from tensorbench.radiance_fields.distill.kinds import KINDS, make
from tensorbench.radiance_fields.encodings import HashGrid

logger = logging.getLogger("benchmark")
BOX = torch.tensor([[-1.5, -1.5, -1.5], [1.5, 1.5, 1.5]])


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(100_000, 3, generator=generator)
    small = HashGrid(3, 8, base=8, finest=128, log2_table=14, generator=generator)
    large = HashGrid(3, 14, generator=generator)
    with torch.no_grad():
        seconds = compare({"small": lambda: small(points), "large": lambda: large(points)}, repeats=3)
    logger.info("hash grid, 10⁵ points forward: %.3f s with 8 levels of 2¹⁴ rows (goal 0.2), %.3f s with 14 of 2¹⁹",
                seconds["small"], seconds["large"])  # fmt: skip
    inside = BOX[0] + (BOX[1] - BOX[0]) * points[:10_000]
    directions = torch.nn.functional.normalize(inside, dim=-1)

    def step(field: torch.nn.Module) -> None:
        sigma, rgb = field(inside, directions)
        (sigma.mean() + rgb.mean()).backward()

    fields = {kind: make(kind, BOX, generator) for kind in KINDS}
    seconds = compare({kind: lambda field=field: step(field) for kind, field in fields.items()}, repeats=3)
    for kind, field in fields.items():
        weights = sum(p.numel() for p in field.parameters())
        logger.info("%s, %d weights, 10⁴ points forward and backward: %.1f ms", kind, weights, 1e3 * seconds[kind])


if __name__ == "__main__":
    main()
