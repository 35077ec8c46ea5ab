"""Seconds of a Strivec field's parts and of a training step beside TensoRF-VM's, in one process on one thread.

``gather``: appearance components of samples that every scale covers (three scales, K = 4), neighbour search included;
``density``: the same for densities; ``neighbours``: the search alone, beside a brute-force search; ``step``: rendering
a batch, its gradient and Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import data, plotting
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.radiance_fields.experiments.strivec_ablations import SCENE
from tensorbench.radiance_fields.rendering import Rendered, render_rays
from tensorbench.radiance_fields.strivec import Scale, TensorCloud, build
from tensorbench.radiance_fields.strivec.cloud import Gathered
from tensorbench.radiance_fields.tensorf.schedule import Schedule
from tensorbench.radiance_fields.tensorf.vm import TensorVM
from tensorbench.radiance_fields.training import RaySet, train

METHODS = {"strivec": build}


def run(run: Run) -> None:
    """Both comparisons, on the scene of seed 0; the run's seed draws weights and samples."""
    options = dict(run.method.params)
    views = data.load("analytic_scene", seed=0, **{k: run.dataset.params[k] for k in SCENE})
    points = torch.from_numpy(run.dataset.load(0))
    time_gathers(run, points, options)
    time_steps(run, views, points, options)


def time_gathers(run: Run, points: torch.Tensor, options: dict[str, Any]) -> None:
    """Features of covered samples."""
    generator, rank, wanted = run.generator, options["rank"], options["samples"]
    scales = [Scale(s, h, int(d), rank, rank) for s, h, d, *_ in options["scales"]]
    cloud = TensorCloud.at_points(points, scales, generator=generator, neighbours=4)
    which = torch.randint(len(points), (4 * wanted,), generator=generator)
    near = points[which] + 0.1 * torch.randn(len(which), 3, generator=generator)
    near = near[cloud.filter_uncovered(near)][:wanted]
    if len(near) < wanted:
        raise RuntimeError(f"only {len(near)} of {wanted} samples are covered by every scale")

    def brute() -> list[torch.Tensor]:
        found = []
        for scale in cloud.scales:
            offset = near[:brute_samples, None] - scale.centers
            far = (offset.abs().amax(-1) > scale.half_range) * 1e9
            found.append((offset.square().sum(-1) + far).topk(4, dim=1, largest=False).indices)
        return found

    brute_samples = min(options["brute"], wanted)
    gathered = cloud.gather(near)
    shuffled = _ordered_by_tensor(gathered)
    with torch.no_grad():
        jobs: dict[str, Callable[[], object]] = {
            "gather": lambda: cloud.color(near),
            "density": lambda: cloud.sigma(near),
            "neighbours": lambda: cloud.gather(near),
            "sorted": lambda: cloud.color(shuffled),
            "unsorted": lambda: cloud.color(gathered),
            "brute": brute,
        }
        times = compare(jobs, repeats=options["repeats"])
    run.log(**{f"{name}_seconds": times[name] for name in jobs}, gathered_pairs=sum(map(len, gathered.pairs)))
    run.log(over_brute=times["brute"] * wanted / brute_samples / times["neighbours"])
    run.log(sorted_over_unsorted=times.ratio("sorted", "unsorted").value)


def _ordered_by_tensor(found: Gathered) -> Gathered:
    """The same pairs, those of one tensor side by side."""
    orders = [torch.argsort(pairs.ids, stable=True) for pairs in found.pairs]
    pairs = [pairs.where(order) for pairs, order in zip(found.pairs, orders, strict=True)]
    weights = [weights[order] for weights, order in zip(found.weights, orders, strict=True)]
    return Gathered(found.points, found.rows, pairs, weights)


def time_steps(run: Run, views: Any, points: torch.Tensor, options: dict[str, Any]) -> None:
    """A step of training each, once both fields have something to show: colours are evaluated only where that is so."""
    scales = [Scale(s, h, int(d), int(a), int(b)) for s, h, d, a, b in options["scales"]]
    fields = {
        "strivec": build(views, generator=run.generator, points=points, scales=scales, rate=1),
        "tensorf_vm": TensorVM(
            torch.as_tensor(views.box), (options["voxels"],) * 3, rank_sigma=options["vm_sigma"],
            rank_color=options["vm_color"], width=64, generator=run.generator,
        ),
    }  # fmt: skip
    steps = {}
    for name, field in fields.items():
        train(
            field, views, generator=run.generator, steps=options["warm_steps"], rays=options["rays"],
            samples=options["ray_samples"], schedule=Schedule(lr_grid=options["warm_rate"], decay=1.0),
        )  # fmt: skip
        steps[name] = _step(field, views, run.generator, options)
        seen = steps[name]()
        colored = seen.color_points / seen.density_points
        run.log(**{f"{name}_weights": sum(p.numel() for p in field.parameters()), f"{name}_colored": colored})
    times = compare(steps, repeats=options["repeats"])
    run.log(strivec_step_seconds=times["strivec"], tensorf_step_seconds=times["tensorf_vm"])
    run.log(step_over_tensorf=times.ratio("strivec", "tensorf_vm").value)


def _step(field: Any, views: Any, generator: torch.Generator, options: dict[str, Any]) -> Callable[[], Rendered]:
    background = torch.full((3,), float(views.background))
    rays = RaySet.of(views.train, background).meeting(field.box)
    rays = rays[torch.randperm(len(rays), generator=generator)[: options["rays"]]]
    target = rays.on(background)
    optimizer = torch.optim.Adam(field.parameter_groups(0.02, 1e-3), betas=(0.9, 0.99), fused=True)

    def step() -> Rendered:
        seen = render_rays(
            field, rays.origins, rays.directions, views.near, views.far, options["ray_samples"], background,
            generator=generator,
        )  # fmt: skip
        optimizer.zero_grad()
        (seen.rgb - target).square().mean().backward()
        optimizer.step()
        return seen

    return step


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Seconds of the parts, and of a step."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.0)
    parts = {"neighbours": "search", "density": "density", "gather": "appearance"}
    rows = [
        {"part": text, "seed": row["seed"], "seconds": row.get(f"{name}_seconds"), "method": "strivec"}
        for _, row in records.iterrows()
        for name, text in parts.items()
    ]
    frame = pd.DataFrame(rows, columns=["part", "seed", "seconds", "method"])
    plotting.bars(axes[0], frame, "seconds", group="part")
    plotting.reference(axes[0], y=0.15, text="0.15 s")
    axes[0].set(ylabel="seconds for 50 000 samples")
    names = {"strivec_step_seconds": "Strivec", "tensorf_step_seconds": "TensoRF-VM"}
    rows = [
        {"scene": row["dataset"], "seed": row["seed"], "ms": 1000 * row.get(name, float("nan")), "field": text}
        for _, row in records.iterrows()
        for name, text in names.items()
    ]
    plotting.bars(
        axes[1], pd.DataFrame(rows, columns=["scene", "seed", "ms", "field"]), "ms", group="scene", by="field"
    )
    axes[1].set(ylabel="milliseconds a training step")
    plotting.legend(axes[1])
    yield "speed", fig
