"""All conversions between four architectures at points alone: densities and colours are matched, nothing is rendered.

A method is a teacher's architecture; each run makes four students of it, one of the teacher's own kind. Errors are
against the teacher, at new points of the occupied space; PSNR is on test views of the scene.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.data import load
from tensorbench.core.run import Run
from tensorbench.core.timing import work_seconds
from tensorbench.radiance_fields.distill.kinds import KINDS, from_arrays, make
from tensorbench.radiance_fields.distill.losses import log_sigma_clip
from tensorbench.radiance_fields.distill.pair import rates
from tensorbench.radiance_fields.distill.points import distill_points, random_points
from tensorbench.radiance_fields.distill.stages import Stages
from tensorbench.radiance_fields.experiments.convert import mean_psnr, pictures
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.fields.staged import query
from tensorbench.radiance_fields.tensorf.alpha_mask import AlphaMask
from tensorbench.radiance_fields.training import settled

METHODS = dict.fromkeys(KINDS)
ALLOWED_DB = {"mlp": -6.0}  # below the teacher; −3 for the others
VIEWS = 2


def run(run: Run) -> None:
    """The row of the matrix that belongs to one teacher."""
    options = dict(run.method.params)
    arrays = run.dataset.load(0)
    p = run.dataset.params
    data = load("analytic_scene", seed=0, scene=p.get("scene", "spheres"), size=p.get("size", 64),
                train=p.get("views", 40))  # fmt: skip
    kind = run.method.uses
    teacher = make(kind, torch.from_numpy(data.box))
    mask = from_arrays(teacher, {k.split("/", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{kind}/")})
    if mask is None:
        raise ValueError("the family came without an occupancy grid")
    teacher, mask = teacher.to(run.device), mask.to(run.device)
    taught = mean_psnr(pictures(teacher, data, data.test, VIEWS, options["samples"], mask), data.test)
    run.log(teacher_psnr_db=taught)
    within = True
    for student_kind in run.progress(options["students"], desc="student"):
        generator = run.generator
        student = make(student_kind, torch.from_numpy(data.box), generator).to(run.device)
        before = errors(teacher, student, mask)
        history: list[tuple[int, float]] = []
        started = work_seconds()
        used = 0.0

        def note(step: int, _: float, student: Field = student, history: Any = history) -> None:
            if step % options["every"] == 0:
                history.append((step, errors(teacher, student, mask)[0]))

        found = distill_points(
            teacher, student, steps=options["steps"], points=options["points"], occupied=mask,
            stages=Stages(round(options["steps"] / 15), options["steps"] + 1), inherited=True,
            groups=rates(student, options["lr"][student_kind], options["lr_net"]), generator=generator, callback=note,
        )  # fmt: skip
        used = work_seconds() - started
        settled(found.history)
        density, color = errors(teacher, student, mask)
        psnr = mean_psnr(pictures(student, data, data.test, VIEWS, options["samples"], mask), data.test)
        run.log(**{f"density_error_{student_kind}": density, f"color_error_{student_kind}": color,
                   f"psnr_{student_kind}_db": psnr, f"gap_{student_kind}_db": psnr - taught,
                   f"{student_kind}_cpu_seconds": used, f"untrained_{student_kind}": before[0]})  # fmt: skip
        for step, value in history:
            run.log(step=step, **{f"density_error_at_{student_kind}": value})
        within &= student_kind == kind or psnr - taught >= ALLOWED_DB.get(student_kind, -3.0)
    run.log(all_within=within)


@torch.no_grad()
def errors(teacher: Field, student: Field, mask: AlphaMask, points: int = 8192) -> tuple[float, float]:
    """Root mean squares of the differences in clipped log density, and in colour where the teacher is not empty."""
    low, high = student.box
    where, directions = random_points(points, low, high, mask, torch.Generator().manual_seed(99))
    ours, theirs = query(student, where, directions), query(teacher, where, directions)
    density = (log_sigma_clip(ours.log_sigma) - log_sigma_clip(theirs.log_sigma)).square().mean().sqrt()
    solid = theirs.log_sigma > 0
    color = (ours.rgb - theirs.rgb)[solid].square().mean().sqrt()
    return float(density), float(color)


# --- figures ---------------------------------------------------------------------------------------------------------

ORDER = ("vm", "hash", "mlp", "voxel")


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """The matrix of conversions, and the error over the steps."""
    yield "matrix", _matrix(records)
    yield "steps", _steps(records)


def _table(records: pd.DataFrame, pattern: str) -> np.ndarray:
    table = np.full((4, 4), np.nan)
    for i, teacher in enumerate(ORDER):
        rows = records[records["method"] == teacher]
        for j, student in enumerate(ORDER):
            name = pattern.format(student)
            if len(rows) and name in rows:
                table[i, j] = rows[name].mean()
    return table


def _matrix(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=3, height=6.2)
    panels = (("gap_{}_db", "student − teacher (dB)", "{:.1f}", "viridis"),
              ("density_error_{}", "error in log density", "{:.2f}", "viridis_r"),
              ("{}_cpu_seconds", "CPU time (s)", "{:.1f}", "viridis_r"))  # fmt: skip
    names = [plotting.label(name) for name in ORDER]
    for k, (ax, (pattern, title, text, colours)) in enumerate(zip(axes, panels, strict=True)):
        table = _table(records, pattern)
        ax.set_title(title)
        ax.grid(False)
        if np.isnan(table).all():
            plotting.empty(ax)
            continue
        image = ax.imshow(table, cmap=colours, interpolation="nearest")
        middle = (np.nanmin(table) + np.nanmax(table)) / 2
        for (i, j), value in np.ndenumerate(table):
            if np.isfinite(value):
                dark = (value < middle) == (colours == "viridis")
                ax.text(
                    j, i, text.format(value), ha="center", va="center", fontsize=7, color="white" if dark else "black"
                )
        ax.set(xticks=range(4), yticks=range(4), xlabel="student", ylabel="teacher" if k == 0 else "")
        ax.set_xticklabels(names)
        ax.set_yticklabels(names if k == 0 else [])
        fig.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    return fig


def _steps(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=4, height=5.6, sharey=True)
    for ax, student in zip(axes, ORDER, strict=True):
        history = rec.history(records, f"density_error_at_{student}")
        ax.set_title(f"{plotting.label(student)} student")
        plotting.log_axis(ax, "y")
        if history.empty:
            plotting.empty(ax)
            continue
        frame = history.assign(teacher=[f"from {plotting.label(m)}" for m in history["method"]])
        plotting.series(ax, frame, "step", "value", by="teacher", order=[f"from {plotting.label(m)}" for m in ORDER])
        ax.set(xlabel="step", ylabel="error in log density" if ax is axes[0] else "")
    plotting.legend(fig)
    return fig
