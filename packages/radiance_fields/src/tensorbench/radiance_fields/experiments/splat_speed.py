"""Time and memory of splatting with gradients on one core, against a splatter of gsplat's and nerfacc's torch code.

The work: project Gaussians, blend them into a picture, and differentiate its mean square in their centres, quaternions,
scales, colours and opacities. ``dense`` is what the two libraries offer without a GPU: gsplat's projection in torch
(``_fully_fused_projection``) and nerfacc's ``render_weight_from_alpha`` on all pairs of pixel and Gaussian. The steps
of the history are numbers of Gaussians. Blend skinning of many points is timed beside it.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare, measure
from tensorbench.radiance_fields.datasets.gaussian_clouds import Cloud
from tensorbench.radiance_fields.gaussians.covariance import covariance
from tensorbench.radiance_fields.gaussians.projection import intrinsics, world_to_camera
from tensorbench.radiance_fields.gaussians.skeleton import COUNT, skin
from tensorbench.radiance_fields.gaussians.splatter import CEILING, CUTOFF, render

log = logging.getLogger(__name__)
METHODS = {"tiles": render}
NAMES = {"tiles": "ours (tiles)", "one_tile": "ours, one tile", "dense": "gsplat + nerfacc, torch"}


def dense(cloud: Cloud, given: list[torch.Tensor]) -> torch.Tensor:
    """The picture by gsplat's torch projection and nerfacc's blending of all pairs."""
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci
    from nerfacc import render_weight_from_alpha

    means, turns, scales, colors, opacity = given
    camera = cloud.camera
    sigma, _ = _quat_scale_to_covar_preci(turns, scales, compute_preci=False)
    _, mean, depth, conic, _ = _fully_fused_projection(
        means, sigma, world_to_camera(cloud.c2w)[None], intrinsics(camera, means)[None], camera.width, camera.height
    )
    order = depth[0].argsort()
    y, x = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    pixels = torch.stack([x.flatten(), y.flatten()], dim=-1)
    d = pixels[:, None] - mean[0, order]
    a, b, c = conic[0, order].unbind(-1)
    power = 0.5 * (a * d[..., 0] ** 2 + c * d[..., 1] ** 2) + b * d[..., 0] * d[..., 1]
    alpha = (opacity[order] * torch.exp(-power)).clamp(max=CEILING)
    alpha = torch.where(alpha > CUTOFF, alpha, torch.zeros_like(alpha))
    weights, _ = render_weight_from_alpha(alpha)
    return (weights @ colors[order]).view(camera.height, camera.width, 3)


def ours(cloud: Cloud, given: list[torch.Tensor], **options: Any) -> torch.Tensor:
    """The picture by this package."""
    means, turns, scales, colors, opacity = given
    return render(means, covariance(turns, scales), colors, opacity, cloud.camera, cloud.c2w, **options).image


def work(picture: Callable[..., torch.Tensor], cloud: Cloud, **options: Any) -> Callable[[], list[torch.Tensor]]:
    """A call that gives the picture and the gradients of its mean square."""
    parts = (cloud.means, cloud.quaternions, cloud.scales, cloud.colors, cloud.opacity)

    def call() -> list[torch.Tensor]:
        given = [part.clone().requires_grad_() for part in parts]
        image = picture(cloud, given, **options)
        return [image.detach(), *torch.autograd.grad(image.square().mean(), given)]

    return call


def run(run: Run) -> None:
    """Every number of Gaussians; then blend skinning."""
    options = run.method.params
    libraries = all(importlib.util.find_spec(name) for name in ("gsplat", "nerfacc"))
    if not libraries:
        log.warning("gsplat or nerfacc is not installed (the package's extra `bench`): they do not take part")
    for count in sorted(options["gaussians"], key=lambda n: (n == options["claimed"], n)):
        cloud = run.dataset.load(run.seed, gaussians=count)
        jobs = {"tiles": work(ours, cloud), "one_tile": work(ours, cloud, tile=cloud.camera.width)}
        if libraries and count <= options["claimed"]:  # beyond, all pairs take most of the time of a run
            jobs["dense"] = work(dense, cloud)
        results = {}
        for name, job in jobs.items():
            job()  # what a first call loads and allocates is not the work's
            with measure() as cost:
                results[name] = job()
            run.log(step=count, **{f"{name}_mib": cost.peak_mib})
        times = compare(jobs, repeats=options["repeats"], warmup=0, min_seconds=0)
        run.log(step=count, **{f"{name}_seconds": times[name] for name in jobs})
        if "dense" in jobs:
            run.log(step=count, over_dense=times.speedup("tiles", "dense").value,
                    agreement=_difference(results["tiles"], results["dense"]))  # fmt: skip
    points, g = options["points"], run.generator
    rest, weights = torch.randn(points, 3, generator=g), torch.rand(points, COUNT, generator=g)
    weights /= weights.sum(1, keepdim=True)
    moves = torch.eye(4).expand(COUNT, 4, 4) + 0.1 * torch.randn(COUNT, 4, 4, generator=g)
    times = compare({"skin": lambda: skin(rest, weights, moves), "loop": lambda: _skin_by_joint(rest, weights, moves)},
                    repeats=options["repeats"])  # fmt: skip
    run.log(skin_seconds=times["skin"], skin_over_loop=times.speedup("skin", "loop").value)


def _skin_by_joint(rest: torch.Tensor, weights: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """Blend skinning as it is written down: every joint moves every point."""
    total = torch.zeros_like(rest)
    for joint, move in enumerate(moves):
        total += weights[:, joint : joint + 1] * (rest @ move[:3, :3].T + move[:3, 3])
    return total


def _difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Largest difference of pictures and gradients, each relative to its largest entry."""
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(a, b, strict=True))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Time and memory by the number of Gaussians, log-log."""
    fig, axes = plotting.figure(columns=2, cols=2, height=7)
    for ax, kind, text in zip(
        axes, ("seconds", "mib"), ("picture and gradients (s)", "peak memory (MiB)"), strict=True
    ):
        found = [
            history.assign(rival=NAMES[name])
            for name in NAMES
            if len(records) and not (history := rec.history(records, f"{name}_{kind}")).empty
        ]
        plotting.log_axis(ax, "xy")
        if not found:
            plotting.empty(ax)
            continue
        plotting.series(ax, pd.concat(found), "step", "value", by="rival")
        ax.set(xlabel="Gaussians", ylabel=text)
        plotting.log_axis(ax, "x", ticks=sorted(found[0]["step"].unique()))
    plotting.legend(fig)
    yield "cost", fig
