"""Training with the learning rate and momentum that the spectrum asks for, against a grid of learning rates.

``slq`` starts from a look at the spectrum and takes another every ``every`` steps; the curvature is that of a batch of
its own, batch norm in training mode. ``sgd`` is one learning rate of the grid and is tuned like any method.
``sgd_split`` spends the cost of the ``slq`` run on all rates of the grid together and keeps the best by validation.
Cost is counted in gradients of one batch: a Hessian product with the graph kept is two, building the graph and checking
that the loss is deterministic three. The steps of the histories are gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.training import History, fit
from tensorbench.optimizers import curvature
from tensorbench.optimizers.autodiff import objective
from tensorbench.optimizers.flat import trainable
from tensorbench.optimizers.slq_tuner import SLQTuner
from tensorbench.optimizers.tasks import images

BATCH = 128
A_GRAPH, A_PRODUCT = 3, 2  # gradients
EVERY = 10  # steps whose losses are averaged


def _prepare(run: Run) -> tuple[images.Images, Callable[[], nn.Module]]:
    data = run.dataset.load(run.seed)
    if run.dataset.uses == "mnist10k":
        return images.prepare(data, halve=True), lambda: images.resnet8(run.generator)
    return images.prepare(data), lambda: images.perceptron(run.generator)


def _look_cost(run: Run) -> int:
    return A_GRAPH + A_PRODUCT * run.method.params["lanczos"]


def _train(
    run: Run,
    model: nn.Module,
    data: images.Images,
    optimizer: torch.optim.Optimizer,
    steps: int,
    callback: Callable[[int, float], None] | None = None,
) -> History:
    stream = images.batches(data.train, run.generator, BATCH)
    return fit(model, stream, images.loss, optimizer, steps=steps, callback=callback)


def _finish(run: Run, model: nn.Module, data: images.Images) -> None:
    for name in ("train", "valid", "test"):
        nats, share = images.measure(model, getattr(data, name))
        run.log(**{f"{name}_loss": nats, f"{name}_error": share})
    run.log(test_accuracy=1 - run.metrics["test_error"])


def _curve(run: Run, history: History, looks: int = 0, every: int = 0) -> None:
    losses = np.array(history.losses)
    cost = np.arange(1, len(losses) + 1, dtype=float)
    if looks:
        cost += _look_cost(run) * (1 + (cost - 1) // every)
    for k in range(0, len(losses) // EVERY * EVERY, EVERY):
        run.log(step=float(cost[k + EVERY - 1]), batch_loss=float(losses[k : k + EVERY].mean()))


def tuner(run: Run) -> None:
    """Learning rate and momentum from the spectrum."""
    options = run.method.params
    data, make = _prepare(run)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.0)
    generator = torch.Generator().manual_seed(run.seed + 1000)
    apart = images.batches(data.train, generator, options["curvature_batch"])

    def operator():
        return curvature.hessian_operator(objective(model, images.loss, next(apart)), trainable(model))

    with run.time("fit"):
        tuned = SLQTuner(optimizer, operator, generator, every=options["every"], steps=options["lanczos"])
        tuned.look(0)
        history = _train(run, model, data, optimizer, options["steps"], _but_last(tuned, options["steps"]))
    for setting in tuned.settings:
        run.log(step=setting.step, ritz_largest=setting.largest, ritz_lowest=setting.lowest)
        run.log(step=setting.step, set_lr=setting.lr, set_momentum=setting.momentum)
    _curve(run, history, len(tuned.settings), options["every"])
    _finish(run, model, data)
    last = tuned.settings[-1]
    gradients = options["steps"] + len(tuned.settings) * _look_cost(run)
    run.log(final_lr=last.lr, final_momentum=last.momentum, gradients=gradients, diverged=history.diverged)


def _but_last(tuned: SLQTuner, steps: int) -> Callable[[int, float], None]:
    """No look after the last step, where it would change nothing."""
    return lambda step, loss: tuned(step) if step < steps else None


def fixed(run: Run) -> None:
    """One learning rate, one momentum."""
    options = run.method.params
    data, make = _prepare(run)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=options["lr"], momentum=options["momentum"])
    with run.time("fit"):
        history = _train(run, model, data, optimizer, options["steps"])
    _curve(run, history)
    _finish(run, model, data)
    run.log(final_lr=options["lr"], final_momentum=options["momentum"], gradients=options["steps"])
    run.log(diverged=history.diverged)


def split(run: Run) -> None:
    """All rates of the grid within the cost of the tuner's run."""
    options = run.method.params
    data, make = _prepare(run)
    looks = len(range(0, options["steps"], options["every"]))
    total = options["steps"] + looks * _look_cost(run)
    steps = total // len(options["rates"])
    best: tuple[float, float, nn.Module] | None = None
    with run.time("fit"):
        for rate in options["rates"]:
            model = make()
            optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=options["momentum"])
            history = _train(run, model, data, optimizer, steps)
            error = 1.0 if history.diverged else images.measure(model, data.valid)[1]
            if best is None or error < best[0]:
                best = error, rate, model
    assert best is not None
    _finish(run, best[2], data)
    run.log(final_lr=best[1], final_momentum=options["momentum"], gradients=steps * len(options["rates"]))


METHODS = {"tuner": tuner, "fixed": fixed, "split": split}


def run(run: Run) -> None:
    """Train and measure."""
    METHODS[run.method.uses](run)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Loss over cost, and what was set when."""
    records = records[records["trial"].isna()] if "trial" in records else records
    datasets = list(pd.unique(records["dataset"])) if len(records) else [""]
    fig, axes = plotting.figure(columns=2, cols=2, height=6.6)
    for ax, name in zip(axes, [*datasets, ""][:2], strict=True):
        part = records[records["dataset"].eq(name) & records["method"].isin(["slq", "sgd"])] if name else records[:0]
        if part.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "y")
        plotting.series(ax, rec.history(part, "batch_loss"), "step", "value")
        ax.set(xlabel="cost (gradients)", ylabel="training loss (nats)", title=plotting.label(name))
    plotting.legend(fig)
    yield "training", fig
    yield "settings", _settings(records)


def _settings(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=3, height=5.6)
    part = records[records["method"] == "slq"] if len(records) else records
    if "mnist10k" in set(part["dataset"]) if len(part) else False:
        part = part[part["dataset"] == "mnist10k"]
    panels = {
        "Ritz values": ("ritz_largest", "ritz_lowest"),
        "learning rate": ("set_lr",),
        "momentum": ("set_momentum",),
    }
    texts = {"ritz_largest": "largest", "ritz_lowest": "lowest"}
    for ax, (title, metrics) in zip(axes, panels.items(), strict=True):
        if part.empty:
            plotting.empty(ax)
            continue
        for metric, look in zip(metrics, plotting.styles(metrics).values(), strict=True):
            first = True
            for _, one in rec.history(part, metric).groupby("seed"):
                ax.plot(one["step"], one["value"], color=look["color"], marker=look["marker"],
                        label=texts.get(metric) if first else None)  # fmt: skip
                first = False
        ax.set(xlabel="step", ylabel=title)
        if len(metrics) > 1:
            plotting.legend(ax)
    return fig
