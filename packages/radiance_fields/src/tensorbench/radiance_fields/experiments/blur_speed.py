"""What it costs to blur a low-rank field by its factors, against not blurring and against blurring the grid.

Everything in one process. ``forward``: density and colour of points from the field, blurred and not; ``step``: a whole
step of joint training (rendering, its gradient in the field and the poses); ``grid``: one density grid of 64³ by a 3-D
convolution, by SciPy's separable filter, and by the factors alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare, measure
from tensorbench.radiance_fields.joint_pose.fields import BlurredVM
from tensorbench.radiance_fields.joint_pose.kernels import blur_grid, blur_vm, make_kernel
from tensorbench.radiance_fields.joint_pose.trainer import rays_through
from tensorbench.radiance_fields.poses import PoseEmbedding
from tensorbench.radiance_fields.rendering import render_rays

METHODS = {"factors": BlurredVM}
NAMES = {"factors": "by factors", "scipy": "SciPy, axis by axis on the grid", "grid": "3-D convolution of the grid"}


def run(run: Run) -> None:
    """All comparisons."""
    work = run.dataset.load(run.seed)
    options = dict(run.method.params)
    generator = run.generator
    n, width = options["size"], options["width"]
    field = BlurredVM(work.box, (n, n, n), options["rank_sigma"], options["rank_color"], width=64, generator=generator)
    field.to(run.device)
    box = work.box
    m = options["points"]
    points = (box[0] + torch.rand(m, 3, generator=generator) * (box[1] - box[0])).to(run.device)
    directions = torch.nn.functional.normalize(torch.randn(m, 3, generator=generator), dim=-1).to(run.device)

    def forward(blur: float) -> Callable[[], Any]:
        def call() -> None:
            with torch.no_grad(), field.blurred(blur):
                field(points, directions)

        return call

    def step(blur: float) -> Callable[[], Any]:
        embedding = PoseEmbedding(len(work.c2w)).to(run.device)
        view = torch.randint(len(work.c2w), (options["rays"],), generator=generator).to(run.device)
        pixel = torch.randint(len(work.local), (options["rays"],), generator=generator).to(run.device)
        c2w, local = work.c2w.to(run.device), work.local.to(run.device)
        background = torch.ones(3, device=run.device)

        def call() -> None:
            origins, to = rays_through(embedding.refine(c2w), local, view, pixel)
            with field.blurred(blur):
                seen = render_rays(field, origins, to, 2.0, 6.0, options["samples"], background, generator=generator)
            field.zero_grad()
            embedding.zero_grad()
            seen.rgb.square().mean().backward()

        return call

    repeats = options["repeats"]
    times = compare({"blurred": forward(width), "plain": forward(0.0)}, repeats=repeats, min_seconds=0.02)
    run.log(forward_overhead=times.ratio("blurred", "plain").value, forward_seconds=times["plain"])
    times = compare({"blurred": step(width), "plain": step(0.0)}, repeats=repeats, min_seconds=0.02)
    run.log(step_overhead=times.ratio("blurred", "plain").value, step_seconds=times["plain"])
    run.log(**_grids(options, generator, run))


def _grids(options: dict[str, Any], generator: torch.Generator, run: Run) -> dict[str, float]:
    """Seconds by size of the grid (logged), and the ratios at the largest."""
    from scipy.ndimage import gaussian_filter

    out: dict[str, float] = {}
    for n in options["grids"]:
        planes = [torch.randn(1, options["rank_sigma"], n, n, generator=generator) for _ in range(3)]
        lines = [torch.randn(1, options["rank_sigma"], n, 1, generator=generator) for _ in range(3)]
        grid = torch.einsum("rxy,rz->xyz", planes[0][0], lines[0][0, :, :, 0])
        kernel = make_kernel("gaussian", options["sigma"], options["taps"])
        jobs: dict[str, Callable[[], Any]] = {
            "factors": functools.partial(blur_vm, planes, lines, kernel),
            "scipy": functools.partial(gaussian_filter, grid.numpy(), options["sigma"], mode="nearest",
                                       radius=options["taps"] // 2),
        }  # fmt: skip
        times = compare(jobs, repeats=options["repeats"], min_seconds=0.01)
        with measure() as cost:
            whole = blur_grid(grid, kernel)
        seconds = {"factors": times["factors"], "scipy": times["scipy"], "grid": cost.seconds}
        run.log(step=n, **{f"{name}_seconds": value for name, value in seconds.items()})
        smooth_planes, smooth_lines = blur_vm(planes, lines, kernel)
        ours = torch.einsum("rxy,rz->xyz", smooth_planes[0][0], smooth_lines[0][0, :, :, 0])
        out |= {
            "over_grid": seconds["grid"] / seconds["factors"], "over_scipy": seconds["scipy"] / seconds["factors"],
            "agreement": float((ours - whole).abs().max() / whole.abs().max()),
        }  # fmt: skip
    return out


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Seconds by size, log-log."""
    fig, ax = plotting.figure(columns=1, height=7)
    found = [
        history.assign(way=text)
        for name, text in NAMES.items()
        if len(records) and not (history := rec.history(records, f"{name}_seconds")).empty
    ]
    plotting.log_axis(ax, "y")
    if found:
        frame = pd.concat(found)
        plotting.log_axis(ax, "x", ticks=sorted(frame["step"].unique()))
        plotting.series(ax, frame, "step", "value", by="way")
    else:
        plotting.empty(ax)
    ax.set(xlabel="grid points along each axis", ylabel="seconds")
    plotting.legend(fig, ncols=1)
    yield "cost", fig
