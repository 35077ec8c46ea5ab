"""What a dynamic rank costs while training and saves while rendering, in one process on one thread.

``mask_overhead`` and ``volume_over_factors`` are of training steps of the same rays; ``features_quarter`` is of the
density and appearance features of points, ``render_quarter`` of a picture, each of a field cut to a quarter of its rank
over the uncut one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.radiance_fields.rendering import render_image, render_rays
from tensorbench.radiance_fields.slimmerf.field import SlimVM, slim
from tensorbench.radiance_fields.slimmerf.ranks import AllAtOnce
from tensorbench.radiance_fields.slimmerf.trainer import train_slim
from tensorbench.radiance_fields.tensorf.vm import TensorVM
from tensorbench.radiance_fields.training import RaySet, background_of

METHODS: dict[str, Any] = {"steps": SlimVM, "cuts": slim}


def run(run: Run) -> None:
    """Time what the method is about."""
    data = run.dataset.load(run.seed)
    (_steps if run.method.uses == "steps" else _cuts)(run, data)


def _field(run: Run, data: Any) -> SlimVM:
    options = run.method.params
    return SlimVM(
        data.box, [options["voxels"]] * 3, options["rank"], width=options["width"], generator=run.generator
    ).to(run.device)  # fmt: skip


def _trained(run: Run, data: Any) -> SlimVM:
    """A field after some steps, so that there is something to see."""
    options, field = run.method.params, _field(run, data)
    train_slim(
        field, data, AllAtOnce(field.maximum), generator=run.generator, steps=options["steps"], rays=256, samples=48
    )
    return field


def _steps(run: Run, data: Any) -> None:
    """A training step with half the ranks masked, with none, and with the density from its factors."""
    options, masked = run.method.params, _trained(run, data)
    plain = TensorVM(data.box, masked.resolution, masked.maximum, 3 * masked.maximum, width=options["width"])
    factors = TensorVM(
        data.box, masked.resolution, masked.maximum, 3 * masked.maximum, width=options["width"], evaluate="factors"
    )
    weights = {name: value for name, value in masked.state_dict().items() if name != "_extra_state"}
    for field in (plain, factors):
        field.load_state_dict(weights)
    masked.set_rank(max(1, masked.maximum - 1))  # the dearest mask: nearly everything is in use
    rays = RaySet.of(data.train, background_of(data)).meeting(masked.box)
    batch = rays[torch.randperm(len(rays), generator=run.generator)[: options["rays"]]]

    def step(field: TensorVM) -> Callable[[], None]:
        optimizer = torch.optim.Adam(field.parameter_groups(1e-6, 1e-6), fused=True)

        def one() -> None:
            optimizer.zero_grad()
            seen = render_rays(
                field, batch.origins, batch.directions, data.near, data.far, options["samples"], torch.ones(3)
            )  # fmt: skip
            (seen.rgb - batch.on(torch.ones(3))).square().mean().backward()
            optimizer.step()

        return one

    fields = {"masked": masked, "plain": plain, "factors": factors}
    found = compare(
        {name: step(field) for name, field in fields.items()}, repeats=options["repeats"], min_seconds=0
    )  # fmt: skip
    run.log(
        mask_overhead=found.ratio("masked", "plain").value,
        volume_over_factors=found.ratio("plain", "factors").value,
        **{f"{name}_step_milliseconds": 1000 * found[name] for name in found},
    )


def _cuts(run: Run, data: Any) -> None:
    """Features and pictures of the field at every rank."""
    options, field = run.method.params, _trained(run, data)
    ranks = [field.maximum // 4, field.maximum // 2, field.maximum]
    fields = {str(rank): slim(field, rank) for rank in ranks}
    generator = run.generator
    points = field.box[0] + (field.box[1] - field.box[0]) * torch.rand(options["points"], 3, generator=generator)
    background, pose = background_of(data), torch.as_tensor(data.test.c2w[0], dtype=torch.float32)

    def features(small: TensorVM) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with torch.no_grad():
                coords = small.normalized(points)
                return small.density_features(coords) + small.color_products(coords).sum(0)

        return call

    def picture(small: TensorVM) -> Callable[[], Any]:
        return lambda: render_image(small, data.test.camera, pose, data.near, data.far, options["samples"], background)

    full = str(field.maximum)
    for name, work in (("features", features), ("render", picture)):
        found = compare(
            {rank: work(small) for rank, small in fields.items()}, repeats=options["repeats"], min_seconds=0
        )  # fmt: skip
        run.log(**{f"{name}_quarter": found.ratio(str(ranks[0]), full).value})
        for rank in ranks:
            run.log(step=rank, **{f"{name}_milliseconds": 1000 * found[str(rank)]})


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Milliseconds by rank."""
    if records.empty:
        yield "time", plotting.nothing()
        return
    fig, axes = plotting.figure(columns=2, cols=2, height=5.8)
    for ax, name, text in (
        (axes[0], "features", "features of points (ms)"),
        (axes[1], "render", "picture of 64 × 64 (ms)"),
    ):
        history = rec.history(records, f"{name}_milliseconds")
        plotting.series(ax, history, "step", "value")
        ax.set(xlabel="rank kept", ylabel=text)
        ax.set_ylim(bottom=0)
    yield "time", fig
