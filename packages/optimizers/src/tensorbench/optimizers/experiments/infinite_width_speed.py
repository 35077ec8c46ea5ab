"""Time of an outer step at infinite width, and of a kernel learner by the samples it has stored (the steps)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.optimizers.infinite_width.few_shot_tasks import FewShotTasks
from tensorbench.optimizers.infinite_width.kernel_learners import InfNTK1LP
from tensorbench.optimizers.infinite_width.linear_limit import InfLinear1LP
from tensorbench.optimizers.infinite_width.maml import MAML, fast_gradient, naive_gradient


def time_fast_path(run: Run, source: FewShotTasks, tasks: int, repeats: int) -> None:
    """The same gradient by both ways, and a whole step."""
    net = InfLinear1LP(source.pool.shape[1], source.ways, 1.0, 2.0**-5, bias_alpha=1.0)
    batch, draws = source.sample(tasks, run.generator), run.generator
    learner = MAML(net)
    for _ in range(10):  # leave the start, where half of the entries are zero
        learner.step(source.sample(tasks, draws), 0.1)
    seconds = compare(
        {
            "fast": lambda: fast_gradient(net, batch, 0.4),
            "naive": lambda: naive_gradient(net, batch, 0.4),
            "step": lambda: learner.step(source.sample(tasks, draws), 1e-6),
        },
        repeats=repeats,
        min_seconds=0.05,
    )
    run.log(speedup=seconds.speedup("fast", "naive").value)
    run.log(**{f"{name}_ms": 1000 * seconds[name] for name in ("fast", "naive", "step")})


def time_ntk_growth(run: Run, source: FewShotTasks, stored: list[int], batch: int, repeats: int) -> None:
    """Forward passes of learners that hold so many samples of the pool, with repeats."""
    x = source.pool[torch.randint(len(source.pool), (batch,), generator=run.generator)]
    learners: dict[str, Any] = {}
    for m in stored:
        learner = InfNTK1LP(source.pool.shape[1], source.ways, 1.0, 1.0, 1.0)
        index = torch.randint(len(source.pool), (m,), generator=run.generator)
        learner.step(learner.backward(source.pool[index], torch.randn(m, source.ways, generator=run.generator)), 1e-3)
        learners[str(m)] = lambda learner=learner: learner(x)
    seconds = compare(learners, repeats=repeats, min_seconds=0.05)
    for m in stored:
        run.log(step=m, forward_ms=1000 * seconds[str(m)])


METHODS: dict[str, Any] = {"fast_path": time_fast_path, "ntk_growth": time_ntk_growth}


def run(run: Run) -> None:
    """Tasks of five classes, one shot."""
    data = run.dataset.load(run.seed)
    METHODS[run.method.uses](run, FewShotTasks(torch.from_numpy(data.train)), **run.method.params)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Time against stored samples."""
    fig, ax = plotting.figure()
    history = rec.history(records, "forward_ms") if len(records) else pd.DataFrame()
    if history.empty:
        plotting.empty(ax)
    else:
        sizes = np.unique(history["step"].to_numpy(dtype=float))
        plotting.log_axis(ax, "x", ticks=list(sizes))
        plotting.log_axis(ax, "y")
        plotting.series(ax, history, "step", "value")
        first = float(history.loc[history["step"] == sizes[0], "value"].mean())
        plotting.guide(ax, 1, through=(float(sizes[0]), first))
        ax.set(xlabel="stored samples", ylabel="forward pass (ms)")
        plotting.legend(ax)
    yield "growth", fig
