"""A cloud of tri-vectors: seconds to find neighbours and to gather features, with gradients, on one thread.

    OMP_NUM_THREADS=1 python packages/radiance_fields/benchmarks/strivec_cloud.py

The cloud covers a sphere of radius 1 at the paper's spacings. Peers: a brute-force search, and plain torch indexing
with automatic differentiation in place of the package's own gather. The step of a whole field beside TensoRF-VM's is an
experiment (``radiance_fields/strivec_speed``).
"""

from __future__ import annotations

import logging

import torch

from tensorbench.core.timing import compare
from tensorbench.radiance_fields.strivec import Scale, TensorCloud
from tensorbench.radiance_fields.strivec.interpolation import line_product, nodes

logger = logging.getLogger("benchmark")
SAMPLES, RANK = 50_000, 16


def plain(lines: torch.Tensor, ids: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    """The line product by indexing, differentiated by torch."""
    below, share = nodes(local, lines.shape[2] - 1)
    parts = [
        torch.lerp(lines[axis, ids, below[axis]], lines[axis, ids, below[axis] + 1], share[axis, :, None])
        for axis in range(3)
    ]
    return parts[0] * parts[1] * parts[2]


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(20_000, 3, generator=generator), dim=1)
    scales = [Scale(s, 0.75 * s, d, RANK, RANK) for s, d in ((0.4, 29), (0.2, 15), (0.1, 7))]
    cloud = TensorCloud.at_points(directions, scales, generator=generator)
    radius = 1 + 0.05 * torch.randn(2 * SAMPLES, 1, generator=generator)
    points = directions[torch.randint(len(directions), (2 * SAMPLES,), generator=generator)] * radius
    points = points[cloud.filter_uncovered(points)][:SAMPLES]
    found = cloud.gather(points)
    logger.info("%s; %d samples, pairs %s", cloud.counts(), len(points), [len(pairs) for pairs in found.pairs])

    def brute() -> None:
        for scale in cloud.scales:
            offset = points[:2000, None] - scale.centers
            far = 1e9 * (offset.abs().amax(-1) > scale.half_range)
            (offset.square().sum(-1) + far).topk(4, dim=1, largest=False)

    with torch.no_grad():
        seconds = compare({"search": lambda: cloud.gather(points), "brute": brute}, repeats=3)
        times = seconds["brute"] * SAMPLES / 2000 / seconds["search"]
        logger.info("search %.3f s; brute force %.1f times as long", seconds["search"], times)
        jobs = {"density": lambda: cloud.sigma(points), "appearance": lambda: cloud.color(points)}
        seconds = compare(jobs, repeats=3)
        logger.info("with search: density %.3f s, appearance %.3f s (goal 0.15)", *seconds.values())

    pairs, lines = found.pairs[2], cloud.scales[2].color_lines
    upstream = torch.randn(len(pairs), RANK, generator=generator)
    seconds = compare(
        {
            "ours": lambda: torch.autograd.grad((line_product(lines, pairs.ids, pairs.local) * upstream).sum(), lines),
            "plain": lambda: torch.autograd.grad((plain(lines, pairs.ids, pairs.local) * upstream).sum(), lines),
        },
        repeats=3,
    )
    logger.info("line product and gradient, %d pairs: %.3f s, plain torch %.3f s", len(pairs), *seconds.values())


if __name__ == "__main__":
    main()
