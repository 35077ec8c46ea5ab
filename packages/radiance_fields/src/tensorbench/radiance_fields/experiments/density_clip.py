"""What clipping the log density does: the gradient of the density term with and without it.

A student follows its teacher's log density at random points of the whole box, empty space included; the norm of the
gradient is looked at in every step, and the largest one counts. Both students start alike and see the same points. In
empty space a teacher's log density is whatever its training left there, far below the clip's lower end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.data import load
from tensorbench.core.run import Run
from tensorbench.radiance_fields.distill.kinds import make
from tensorbench.radiance_fields.distill.losses import LOG_SIGMA, Weights
from tensorbench.radiance_fields.distill.pair import rates
from tensorbench.radiance_fields.distill.points import distill_points, random_points
from tensorbench.radiance_fields.experiments.convert import scenery, teacher_of
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.fields.staged import query

METHODS: dict[str, str] = {"norm": "norm_l2", "squared": "squared"}


def run(run: Run) -> None:
    """Both students under one of the losses."""
    options = run.method.params
    data = load("analytic_scene", seed=0, **scenery(run))
    teacher, _ = teacher_of(run, data)
    student = make(options["student"], torch.from_numpy(data.box), run.generator).to(run.device)
    norms = {
        name: gradients(teacher, copy.deepcopy(student), options, METHODS[run.method.uses], clip, run.generator)
        for name, clip in (("clipped", LOG_SIGMA), ("unclipped", None))
    }
    for step in range(options["steps"]):
        for name, values in norms.items():
            if step < len(values):
                run.log(step=step + 1, **{f"{name}_gradient": values[step]})
    finished = all(len(values) == options["steps"] for values in norms.values())
    largest = {name: max(values) for name, values in norms.items()}
    ratio = largest["unclipped"] / largest["clipped"] if finished else float("inf")
    low, high = student.box
    where, directions = random_points(20_000, low, high, None, run.generator)
    with torch.no_grad():
        log_sigma = query(teacher, where, directions).log_sigma
    run.log(gradient_ratio=ratio, teacher_lowest=float(log_sigma.min()), teacher_highest=float(log_sigma.max()),
            share_clipped=float(((log_sigma < LOG_SIGMA[0]) | (log_sigma > LOG_SIGMA[1])).float().mean()))  # fmt: skip


def gradients(
    teacher: Field, student: Field, options: Any, loss: str, clip: tuple[float, float] | None,
    generator: torch.Generator,
) -> list[float]:  # fmt: skip
    """The norm of the density term's gradient in each step; fewer of them where training diverges."""
    norms: list[float] = []

    def note(step: int, _: float) -> None:
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in student.parameters() if p.grad is not None])))

    distill_points(
        teacher, student, steps=options["steps"], points=options["points"], loss=loss, clip=clip,
        weights=Weights(features=0.0, color=0.0), groups=rates(student, options["lr"]), generator=generator,
        callback=note,
    )  # fmt: skip
    return norms


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Norms of gradients over the steps, by loss and teacher."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.0)
    for ax, method in zip(axes, METHODS, strict=True):
        frames = [
            rec.history(records[records["method"] == method], f"{name}_gradient").assign(clip=text)
            for name, text in (("clipped", "clip to [−2, 7]"), ("unclipped", "no clip"))
        ]
        frame = pd.concat(frames)
        plotting.log_axis(ax, "y")
        ax.set_title(plotting.label(method))
        if frame.empty:
            plotting.empty(ax)
            continue
        frame["which"] = [f"{plotting.label(d)}, {c}" for d, c in zip(frame["dataset"], frame["clip"], strict=True)]
        plotting.series(ax, frame, "step", "value", by="which")
        ax.set(xlabel="step", ylabel="norm of the gradient")
    plotting.legend(fig)
    yield "gradients", fig
