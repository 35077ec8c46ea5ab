"""Grid lookups, compositing and analytic views by size, on one thread.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/radiance_fields/benchmarks/render_speed.py

Peers: torch's grid_sample and nerfacc (extra ``bench``) on the same points and rays. What skipping saves in pictures
and steps is an experiment (``radiance_fields/render_speed``).
"""

from __future__ import annotations

import logging

import torch
from torch.nn.functional import grid_sample

from tensorbench.core.timing import compare, measure
from tensorbench.radiance_fields.cameras import Camera, orbit
from tensorbench.radiance_fields.rendering import nerfacc_weights, render_weights
from tensorbench.radiance_fields.scenes import SCENES, render, scene
from tensorbench.radiance_fields.tensorf.grids import trilinear

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for size, points in ((48, 50_000), (128, 50_000), (128, 500_000)):
        volume = torch.randn(size, size, size, generator=generator)
        coords = 2 * torch.rand(points, 3, generator=generator) - 1
        seconds = compare(
            {
                "ours": lambda v=volume, c=coords: trilinear(v, c),
                "torch": lambda v=volume, c=coords: grid_sample(
                    v[None, None], c.flip(-1)[None, None, None], align_corners=True
                ),
            },
            repeats=3,
        )
        logger.info(
            "%d points of a %d³ volume: ours %.1f ms, grid_sample %.1f ms",
            points, size, 1e3 * seconds["ours"], 1e3 * seconds["torch"],
        )  # fmt: skip
    for rays, samples in ((512, 96), (4096, 256)):
        sigma = torch.rand(rays, samples, generator=generator)
        delta = torch.full((rays, samples), 3.0 / samples)
        t = 2 + delta.cumsum(-1)
        seconds = compare(
            {
                "ours": lambda s=sigma, d=delta: render_weights(s, d),
                "nerfacc": lambda s=sigma, d=delta, t=t: nerfacc_weights(s, t, d),
            },
            repeats=3,
        )
        logger.info(
            "weights of %d × %d samples: ours %.2f ms, nerfacc %.2f ms",
            rays, samples, 1e3 * seconds["ours"], 1e3 * seconds["nerfacc"],
        )  # fmt: skip
    for name in SCENES:
        with measure() as cost:
            render(scene(name), Camera.from_angle(64, 64), orbit(2).numpy())
        logger.info("%s: %.2f s a view of 64 × 64 with 2 × 2 subpixels", name, cost.seconds / 2)


if __name__ == "__main__":
    main()
