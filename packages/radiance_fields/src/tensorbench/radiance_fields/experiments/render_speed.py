"""The time of looking up grids, of compositing, of training steps and of pictures: against torch and nerfacc, and with
and without what the renderer skips.

A field is trained for a few steps; all rivals then do the same work in one process. Ratios are ours over the rival's.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.core.timing import compare

log = logging.getLogger(__name__)
METHODS = {"renderer": "tensorf_vm"}
FRAMES = {
    "all": "all samples",
    "masked": "alpha mask",
    "terminated": "early end",
    "both": "both",
}


def run(run: Run) -> None:
    """Train briefly, then compare lookups, compositing, steps and pictures."""
    from tensorbench.radiance_fields.tensorf.schedule import Schedule
    from tensorbench.radiance_fields.tensorf.vm import TensorVM
    from tensorbench.radiance_fields.training import train

    options, data, generator = run.method.params, run.dataset.load(run.seed), run.generator
    size = options["resolution"]
    field = TensorVM(
        torch.as_tensor(data.box), (size,) * 3, options["rank_sigma"], options["rank_color"], width=options["width"],
        generator=generator,
    ).to(run.device)  # fmt: skip
    plan = Schedule(mask=(options["steps"] * 2 // 3, options["steps"]), shrink=False, filter_rays=False)
    trained = train(
        field, data, generator=generator, steps=options["steps"], rays=options["rays"], samples=options["samples"],
        schedule=plan,
    )  # fmt: skip
    mask = trained.alpha_mask
    run.log(occupied=1.0 if mask is None else mask.occupied_share)
    repeats = options["repeats"]
    lookups(run, size, options["points"], repeats)
    compositing(run, options["rays"], options["samples"], repeats)
    steps(run, field, data, mask, options)
    frames(run, field, data, mask, options)


def lookups(run: Run, size: int, points: int, repeats: int) -> None:
    """A volume of scalars at points, gradient of the volume included: ours against torch's grid_sample."""
    from torch.nn.functional import grid_sample

    from tensorbench.radiance_fields.tensorf.grids import trilinear

    volume = torch.randn(size, size, size, generator=run.generator).to(run.device).requires_grad_()
    coords = (2 * torch.rand(points, 3, generator=run.generator) - 1).to(run.device)

    def ours() -> torch.Tensor:
        return trilinear(volume, coords)

    def theirs() -> torch.Tensor:
        grid = coords.flip(-1)[None, None, None]
        return grid_sample(volume[None, None], grid, align_corners=True).reshape(-1)

    def step(look: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def call() -> None:
            volume.grad = None
            look().square().sum().backward()

        return call

    difference = float((ours() - theirs()).detach().abs().max())
    times = compare({"ours": step(ours), "grid_sample": step(theirs)}, repeats=repeats)
    with torch.no_grad():
        forward = compare({"ours": ours, "grid_sample": theirs}, repeats=repeats)
    run.log(
        lookup_over_grid_sample=times.ratio("ours", "grid_sample").value,
        lookup_forward_over_grid_sample=forward.ratio("ours", "grid_sample").value,
        lookup_difference=difference, lookup_ms=1000 * times["ours"], grid_sample_ms=1000 * times["grid_sample"],
    )  # fmt: skip


def compositing(run: Run, rays: int, samples: int, repeats: int) -> None:
    """Weights of all samples from densities, gradient included: ours against nerfacc, where it is installed."""
    from tensorbench.radiance_fields.rendering import nerfacc_weights, render_weights

    if importlib.util.find_spec("nerfacc") is None:
        log.warning("nerfacc is not installed (the package's extra `bench`): it does not take part")
        return
    generator = run.generator
    sigma = (torch.rand(rays, samples, generator=generator) * 0.4).to(run.device).requires_grad_()
    delta = torch.full((rays, samples), 3.0 / samples, device=run.device)
    t = 2 + delta.cumsum(-1) - delta / 2

    def ours() -> torch.Tensor:
        return render_weights(sigma, delta)[0]

    def theirs() -> torch.Tensor:
        return nerfacc_weights(sigma, t, delta)

    def step(weigh: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def call() -> None:
            sigma.grad = None
            weigh().square().sum().backward()

        return call

    run.log(compositing_difference=float((ours() - theirs()).detach().abs().max()))
    times = compare({"ours": step(ours), "nerfacc": step(theirs)}, repeats=repeats)
    run.log(
        compositing_over_nerfacc=times.ratio("ours", "nerfacc").value,
        compositing_ms=1000 * times["ours"], nerfacc_ms=1000 * times["nerfacc"],
    )  # fmt: skip


def steps(run: Run, field: Any, data: Any, mask: Any, options: Mapping[str, Any]) -> None:
    """A training step (loss and gradient) with all samples and with those the mask leaves."""
    from tensorbench.radiance_fields.rendering import render_rays

    origins, directions, colours = (x.to(run.device) for x in data.train.rays())
    rows = torch.randperm(len(origins), generator=run.generator)[: options["rays"]].to(run.device)
    o, d, c = origins[rows], directions[rows], colours[rows]
    background = torch.full((3,), float(data.background), device=run.device)

    def step(occupied: Any) -> Callable[[], None]:
        def call() -> None:
            field.zero_grad()
            seen = render_rays(
                field, o, d, data.near, data.far, options["samples"], background, alpha_mask=occupied,
                generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
            (seen.rgb - c).square().mean().backward()

        return call

    times = compare({"all": step(None), "masked": step(mask)}, repeats=options["repeats"])
    run.log(
        step_masked_over_all=times.ratio("masked", "all").value, step_ms_all=1000 * times["all"],
        step_ms_masked=1000 * times["masked"],
    )  # fmt: skip


def frames(run: Run, field: Any, data: Any, mask: Any, options: Mapping[str, Any]) -> None:
    """A picture with each of the renderer's two ways of skipping, and how far it is from the picture without."""
    from tensorbench.radiance_fields.rendering import Rendered, render_image
    from tensorbench.radiance_fields.training import background_of

    pose, background = torch.as_tensor(data.test.c2w[0], dtype=torch.float32), background_of(data)

    def frame(occupied: Any, terminate: float) -> Callable[[], Rendered]:
        return lambda: render_image(
            field, data.test.camera, pose, data.near, data.far, options["samples"], background, alpha_mask=occupied,
            terminate=terminate,
        )  # fmt: skip

    rivals = {
        "all": frame(None, 0.0), "masked": frame(mask, 0.0), "terminated": frame(None, 1e-4), "both": frame(mask, 1e-4),
    }  # fmt: skip
    seen = {name: call() for name, call in rivals.items()}
    run.log(frame_difference=float((seen["both"].rgb - seen["all"].rgb).abs().max()))
    times = compare(rivals, repeats=options["repeats"], warmup=0, min_seconds=0)
    for name in rivals:
        run.log(**{f"frame_ms_{name}": 1000 * times[name], f"samples_{name}": seen[name].density_points})
        if name != "all":
            run.log(**{f"frame_{name}_over_all": times.ratio(name, "all").value})


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Time of a picture and of a step by what is skipped; time against torch and nerfacc."""
    fig, axes = plotting.figure(columns=2, cols=3, height=6.5, gridspec_kw={"width_ratios": [4, 2, 4]})
    looks = list(plotting.styles(["a", "b", "c", "d"]).values())
    panels: list[tuple[Any, dict[str, str], str, str]] = [
        (axes[0], {f"frame_ms_{name}": text for name, text in FRAMES.items()}, "ms a picture, 64 × 64", "picture"),
        (axes[1], {"step_ms_all": "all samples", "step_ms_masked": "alpha mask"}, "ms a step", "training step"),
        (
            axes[2],
            {
                "lookup_ms": "lookup",
                "grid_sample_ms": "grid_sample",
                "compositing_ms": "weights",
                "nerfacc_ms": "nerfacc",
            },
            "ms, gradient included",
            "parts",
        ),
    ]  # fmt: skip
    for ax, columns, ylabel, title in panels:
        ax.set(ylabel=ylabel, title=title)
        there = [name for name in columns if name in records]
        if not there:
            plotting.empty(ax)
            continue
        for place, name in enumerate(there):
            values = pd.to_numeric(records[name]).to_numpy()
            ours = not name.startswith(("grid_sample", "nerfacc"))
            ax.bar(place, values.mean(), color=looks[0 if ours else 1]["color"], width=0.65)
            ax.plot(np.full(len(values), place), values, ".", color="#222222", markersize=3)
        ax.set_xticks(range(len(there)), [columns[name] for name in there], rotation=30, ha="right", fontsize=7.5)
        ax.grid(False, axis="x")
    yield "time", fig
