"""Seconds of the interpreter and of the coordinate check, the latter beside microsoft/mup's, in one process."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare, measure
from tensorbench.optimizers import widths as scaling
from tensorbench.optimizers.experiments.operator_limit import problem_of
from tensorbench.optimizers.tasks.images import prepare
from tensorbench.optimizers.tensor_programs import limits as lim
from tensorbench.optimizers.tensor_programs import updates


def interpreter(
    run: Run,
    *,
    samples: tuple[int, ...] = (12_500, 25_000, 100_000),
    images: tuple[int, ...] = (8, 16, 32),
    image_samples: int = 12_500,
    copies: int = 500,
    widths: tuple[int, ...] = (128, 256, 512, 1024),
    nets: int = 3,
    repeats: int = 3,
) -> None:
    """Growth of the interpreter's time with samples and inputs; a coordinate check."""
    data = run.dataset.load(run.seed)

    def seconds(count: int, inputs: int) -> float:
        problem = problem_of(data, inputs, 0)
        with measure() as cost:
            lim.limit_mup_adam(
                lim.Arch(problem.x.shape[1], 2, 1), problem, updates.Sign(), lr=0.01, steps=3, samples=count,
                copies=copies, generator=run.generator,
            )  # fmt: skip
        return cost.seconds

    seconds(min(samples), min(images))  # the first call of a process is slower
    once = functools.cache(seconds)  # the two curves may share a point
    for inputs in images:
        run.log(step=inputs, inputs_seconds=once(image_samples, inputs))
    for count in samples:
        run.log(step=count, limit_seconds=once(count, max(images)))
    run.log(limit_100k_seconds=once(max(samples), max(images)))

    x, y = (part[:64] for part in prepare(data).train)
    x = x.flatten(1)

    def network(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10))

    def ours() -> None:
        scaling.coordinate_check(
            lambda width, generator: network(width), widths,
            scaling.steps_of(
                lambda model: torch.optim.Adam(model.parameters(), lr=0.001),
                lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), (x, y),
            ),
            scaling.layer_outputs(x), steps=3, seeds=nets,
        )  # fmt: skip

    def library() -> None:
        from mup.coord_check import get_coord_data

        models = {width: lambda width=width: network(width) for width in widths}
        get_coord_data(
            models, [(x, y)], optimizer="adam", lr=0.001, mup=False, nsteps=3, nseeds=nets, cuda=False,
            show_progress=False,
        )  # fmt: skip

    timed = compare({"ours": ours, "library": library}, repeats=repeats)
    run.log(
        check_seconds=timed["ours"],
        library_seconds=timed["library"],
        speedup=timed.speedup("ours", "library").value,
    )


METHODS = {"interpreter": interpreter}


def run(run: Run) -> None:
    """Both times."""
    METHODS[run.method.uses](run, **run.method.params)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Time against samples and against images."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.0)
    for ax, name, words in zip(axes, ("limit_seconds", "inputs_seconds"), ("samples", "images"), strict=True):
        frame = rec.history(records, name) if len(records) else pd.DataFrame()
        if frame.empty:
            plotting.empty(ax)
            continue
        at = np.unique(frame["step"].to_numpy(dtype=float))
        plotting.log_axis(ax, "y")
        plotting.log_axis(ax, "x", ticks=at.tolist())
        plotting.series(ax, frame, "step", "value")
        start = float(frame.loc[frame["step"] == at[0], "value"].mean())
        ax.plot(at, start * at / at[0], color="#666666", linewidth=0.8, linestyle=":", label="slope 1")
        ax.set(xlabel=words, ylabel="time (s)" if words == "samples" else "")
    plotting.legend(fig)
    yield "time", fig
