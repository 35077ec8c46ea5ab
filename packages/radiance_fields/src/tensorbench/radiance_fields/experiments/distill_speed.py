"""What a step of distillation costs beside an ordinary training step of the same field, and how fast the hash grid is.

Both steps take the same rays, samples and occupancy grid, in one process on one thread; the distillation's is one of
the last stage, which is the dearest (teacher and student are asked and rendered).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.data import load
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.radiance_fields.distill import RandomRays, Stages, View, distill
from tensorbench.radiance_fields.distill.kinds import make
from tensorbench.radiance_fields.encodings import HashGrid
from tensorbench.radiance_fields.experiments.convert import scenery, teacher_of
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.rendering import render_rays
from tensorbench.radiance_fields.tensorf.alpha_mask import AlphaMask

METHODS = {"step": None}


def run(run: Run) -> None:
    """Ratios for each architecture, and seconds of the hash grid."""
    options = run.method.params
    data = load("analytic_scene", seed=0, **scenery(run))
    teacher, mask = teacher_of(run, data)
    for kind in options["students"]:
        jobs = {
            "distill": _distill_steps(teacher, kind, data, mask, options, run.generator),
            "train": _training_steps(kind, data, mask, options, run.generator),
        }
        seconds = compare(jobs, repeats=options["repeats"], warmup=1, min_seconds=0)
        run.log(**{f"ratio_{kind}": seconds.ratio("distill", "train").value,
                   f"distill_{kind}_ms": 1e3 * seconds["distill"] / options["calls"],
                   f"train_{kind}_ms": 1e3 * seconds["train"] / options["calls"]})  # fmt: skip
    _hash(run, options)


def _distill_steps(
    teacher: Field, kind: str, data: Any, mask: AlphaMask, options: Any, generator: torch.Generator
) -> Callable[[], object]:
    student = make(kind, torch.from_numpy(data.box), generator)
    source = RandomRays(data.train.camera, generator=generator)
    return lambda: distill(
        teacher, student, View.of(data), steps=options["calls"], rays=options["rays"], samples=options["samples"],
        stages=Stages(0, 0), occupied=mask, source=source, inherited=False, generator=generator,
    )  # fmt: skip


def _training_steps(
    kind: str, data: Any, mask: AlphaMask, options: Any, generator: torch.Generator
) -> Callable[[], object]:
    """The same number of steps on colours that are there already, which favours training: its rays are free."""
    field = make(kind, torch.from_numpy(data.box), generator)
    rays = RandomRays(data.train.camera, generator=generator).draw(options["rays"])
    colors = torch.rand(options["rays"], 3, generator=generator)
    optimizer = torch.optim.AdamW(field.parameter_groups(), eps=1e-15)
    background = View.of(data).background

    def steps() -> None:
        for _ in range(options["calls"]):
            seen = render_rays(
                field, *rays, data.near, data.far, options["samples"], background, alpha_mask=mask, generator=generator
            )
            loss = (seen.rgb - colors).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return steps


def _hash(run: Run, options: Any) -> None:
    """Forward of the desk-size and of the paper-size grid at many points."""
    points = torch.rand(options["points"], 3, generator=run.generator)
    desk = HashGrid(3, levels=8, base=8, finest=128, log2_table=14, generator=run.generator)
    large = HashGrid(3, levels=14, log2_table=options["log2_table"], generator=run.generator)
    with torch.no_grad():
        seconds = compare({"desk": lambda: desk(points), "paper": lambda: large(points)}, repeats=options["repeats"])
    run.log(hash_forward_seconds=seconds["desk"], paper_hash_forward_seconds=seconds["paper"])


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Milliseconds of both kinds of step."""
    fig, ax = plotting.figure(columns=1)
    rows = [
        {"field": plotting.label(kind), "step": name, "seed": row["seed"], "milliseconds": row[f"{part}_{kind}_ms"]}
        for _, row in records.iterrows()
        for kind in ("vm", "hash", "mlp", "voxel")
        for name, part in (("training", "train"), ("distillation", "distill"))
        if f"{part}_{kind}_ms" in row
    ]
    if not rows:
        plotting.empty(ax)
    else:
        plotting.bars(ax, pd.DataFrame(rows), "milliseconds", group="field", by="step")
        ax.set(ylabel="time of a step (ms)", xlabel="")
        plotting.legend(ax)
    yield "steps", fig
