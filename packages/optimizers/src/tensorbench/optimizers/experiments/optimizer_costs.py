"""What a step of each optimizer costs beside AdamW's and SGD's, in one process, and what it keeps in memory.

Two tasks on digits: the perceptron 64-128-128-10 in batches of 128 (arithmetic of the optimizer dominates) and the
residual network in batches of 64 (gradients dominate). Rounds of a few steps of the three optimizers alternate, so
that a change of the machine's speed meets all of them; ratios are medians over rounds of the ratio of a round's
seconds. Steps of all kinds are in a round, those that refresh a curvature estimate too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.core.training import fit
from tensorbench.optimizers.experiments.comparison import state_bytes
from tensorbench.optimizers.methods import METHODS as METHODS
from tensorbench.optimizers.methods import create
from tensorbench.optimizers.tasks import Task, images

_RATE = 1e-4  # no training is judged here, and none may diverge


def _stepper(
    make: Callable[[torch.Generator], Task], name: str, seed: int, options: dict
) -> tuple[Callable, object, Task]:
    task = make(torch.Generator().manual_seed(seed))
    optimizer = create(name, task.model, _RATE, **options)

    def advance(steps: int) -> float:
        began = time.perf_counter()
        fit(task.model, task.batches, task.loss, optimizer, steps=steps)
        return (time.perf_counter() - began) / steps

    return advance, optimizer, task


def run(run: Run) -> None:
    """Alternate rounds of SGD, AdamW and the method on both tasks."""
    options = dict(run.method.params)
    rounds, steps = options.pop("rounds"), options.pop("steps")
    kinds = options.pop("kinds", ("perceptron", "network"))
    data = images.prepare(run.dataset.load(run.seed))
    makers = {
        "perceptron": lambda g: images.task(images.perceptron(g), data, g, 128),
        "network": lambda g: images.task(images.resnet8(g), data, g, 64),
    }
    for kind in kinds:
        make = makers[kind]
        own, optimizer, task = _stepper(make, run.method.uses, run.seed, options)
        sgd, adamw = (_stepper(make, name, run.seed, {})[0] for name in ("sgd", "adamw"))
        for advance in (sgd, adamw, own):
            advance(2)
        times = np.array([[advance(steps) for advance in (sgd, adamw, own)] for _ in range(rounds)])
        size = sum(p.numel() * p.element_size() for p in task.model.parameters())
        run.log(
            **{
                f"{kind}_over_sgd": float(np.median(times[:, 2] / times[:, 0])),
                f"{kind}_over_adamw": float(np.median(times[:, 2] / times[:, 1])),
                f"{kind}_milliseconds": 1e3 * float(np.median(times[:, 2])),
                f"{kind}_state": state_bytes(optimizer) / size,
            }
        )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Step time over AdamW's against memory, for both tasks."""
    fig, axes = plotting.figure(columns=2, cols=2, height=8.0)
    for ax, (kind, title) in zip(axes, [("perceptron", "perceptron"), ("network", "residual network")], strict=True):
        ax.set_title(title, fontsize=8)
        if len(records) == 0:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "xy")
        for method, rows in records.dropna(subset=[f"{kind}_over_adamw"]).groupby("method", sort=False):
            look = {k: v for k, v in plotting.style(str(method)).items() if k in ("color", "marker", "label")}
            memory = max(float(rows[f"{kind}_state"].mean()), 0.1)  # plain descent keeps nothing
            ax.plot(memory, float(rows[f"{kind}_over_adamw"].median()), linestyle="", **look)
        plotting.reference(ax, y=1.0, text="AdamW")
        ax.set(xlabel="kept, in sizes of the parameters", ylabel="step over AdamW's")
    plotting.legend(fig)
    yield "costs", fig
