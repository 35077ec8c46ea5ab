"""Avatars on the CPU: seconds of a picture, of blend skinning and of a training step, on one thread.

    OMP_NUM_THREADS=1 python packages/radiance_fields/benchmarks/avatar_step.py

The comparison of the splatter with torch code of gsplat and nerfacc is an experiment (``radiance_fields/splat_speed``).
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from tensorbench.core import data
from tensorbench.core.timing import compare, measure
from tensorbench.radiance_fields.gaussians.covariance import covariance
from tensorbench.radiance_fields.gaussians.skeleton import skin
from tensorbench.radiance_fields.gaussians.splatter import render
from tensorbench.radiance_fields.migs.avatar import Avatar
from tensorbench.radiance_fields.migs.tensors import FullTensor, GaussianTensorCP, starting_table
from tensorbench.radiance_fields.migs.training import Recipe, subjects, train

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cloud = data.load("gaussian_cloud", seed=0)

    def picture(tile: int) -> torch.Tensor:
        means = cloud.means.clone().requires_grad_()
        sigma = covariance(cloud.quaternions, cloud.scales)
        splat = render(means, sigma, cloud.colors, cloud.opacity, cloud.camera, cloud.c2w, tile=tile)
        return torch.autograd.grad(splat.image.square().mean(), means)[0]

    seconds = compare({f"{tile}": lambda tile=tile: picture(tile) for tile in (4, 8, 16, 64)}, repeats=3)
    logger.info("1000 Gaussians, 64², picture and gradient (goal 0.15 s): %s",
                ", ".join(f"tiles of {name}: {1000 * value:.0f} ms" for name, value in seconds.items()))  # fmt: skip
    with measure() as cost:
        picture(8)
    logger.info("memory (goal 1024 MiB): %.0f MiB", cost.peak_mib)

    weights = torch.rand(50_000, 24)
    points, moves = torch.randn(50_000, 3), torch.eye(4).expand(24, 4, 4).contiguous()
    skin(points, weights, moves)
    with measure() as cost:
        skin(points, weights, moves)
    logger.info("blend skinning of 50 000 points (goal 50 ms): %.1f ms", 1000 * cost.seconds)

    people = data.load("humanoids", seed=0)
    for name, tensor in (("CP, rank 40", GaussianTensorCP(4, 800, rank=40)), ("full", FullTensor(4, 800))):
        g = torch.Generator().manual_seed(0)
        tensor.fit_init(starting_table(people.people[0].points[:800], g))
        avatar = Avatar(tensor, generator=g, skinning=(64, 3), deformation=(48, 2), color=(48, 2), features=8,
                        levels=6, log2_table=11, finest=64)  # fmt: skip
        recipe = Recipe(steps=5, late=0.0, prior_points=256)
        train(avatar, subjects(people.people), people.camera, recipe, g)
        history = train(avatar, subjects(people.people), people.camera, replace(recipe, steps=20), g)
        logger.info("a step of four people at 48² (%s): %.0f ms", name, 1000 / history.steps_per_second)


if __name__ == "__main__":
    main()
