"""Where training starts to diverge, by bisection in the learning rate. The steps are the batch sizes.

A run diverges when the loss of a batch is NaN or above four times the loss of all training data at the start. The seed
gives the initial weights and the order of the samples, the same for all learning rates and for both methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import growth
from tensorbench.optimizers import curvature
from tensorbench.optimizers.autodiff import objective
from tensorbench.optimizers.flat import trainable
from tensorbench.optimizers.hessian_noise import hessian_noise
from tensorbench.optimizers.linops import extreme_eigenvalues
from tensorbench.optimizers.lr_batch_size import critical_batch, diverged, find_max_lr, max_lr
from tensorbench.optimizers.tasks import images

LANCZOS_STEPS = 30
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def threshold(run: Run) -> None:
    """Bisect at every batch size; measure the curvature at the start for the theory's line."""
    options = run.method.params
    data = images.prepare(run.dataset.load(run.seed))
    low, high = options["octaves"]
    grid = [
        2.0 ** (k / options["per_octave"]) for k in range(low * options["per_octave"], high * options["per_octave"])
    ]
    model = images.perceptron(run.generator, options["widths"])
    with torch.no_grad():
        start = float(images.loss(model, data.train))
    op = curvature.hessian_operator(objective(model, images.loss, data.train), trainable(model))
    largest = extreme_eigenvalues(op, LANCZOS_STEPS, run.generator)[1]
    noise = hessian_noise(model, images.loss, data.train, options["probes"], run.generator).value
    found = []
    with run.time("fit"):
        for b in run.progress(options["batches"], desc="batch sizes"):
            stable = find_max_lr(partial(_is_stable, run, data, b, start), grid)
            found.append(stable.stable)
            run.log(step=b, max_lr=stable.stable, theory_lr=max_lr(options["kind"], largest, noise, b))
    batches = options["batches"]
    run.log(
        slope_small=growth(batches[:4], found[:4]).exponent,
        slope_large=growth(batches[-3:], found[-3:]).exponent,
        max_lr_smallest=found[0],
        max_lr_largest=found[-1],
        full_max=largest,
        P_sigma2=noise,
        critical_batch=critical_batch(largest, noise),
    )


def _is_stable(run: Run, data: images.Images, b: int, start: float, lr: float) -> bool:
    return not diverged(_losses(run, data, b, lr), start)


def _losses(run: Run, data: images.Images, b: int, lr: float) -> Iterator[float]:
    """The losses of a training run, step by step."""
    options, g = run.method.params, run.generator
    model = images.perceptron(g, options["widths"])
    optimizer = OPTIMIZERS[options["kind"]](model.parameters(), lr=lr)
    stream = images.batches(data.train, g, b)
    for _ in range(options["steps"]):
        optimizer.zero_grad()
        loss = images.loss(model, next(stream))
        loss.backward()
        optimizer.step()
        yield float(loss.detach())


METHODS = {"threshold": threshold}


def run(run: Run) -> None:
    """Find the thresholds."""
    METHODS[run.method.uses](run)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Thresholds of both methods."""
    fig, axes = plotting.figure(columns=2, cols=2, height=7)
    for ax, method, power in zip(axes, ("sgd", "adam"), (1.0, 0.5), strict=True):
        part = records[records["method"] == method] if len(records) else records
        if part.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "x", ticks=(8, 32, 128, 512))
        plotting.log_axis(ax, "y")
        points = rec.history(part, "max_lr")
        plotting.series(ax, points, "step", "value")
        small = points[points["step"] <= points["step"].min() * 8].assign(log=lambda f: np.log(f["value"]))
        middle = float(np.exp(np.log(small["step"]).mean())), float(np.exp(small["log"].mean()))
        if method == "sgd":
            theory = rec.history(part, "theory_lr").groupby("step")["value"].mean()
            ax.plot(theory.index, theory, color="#888888", linewidth=1.1, label=r"$2/\lambda_1'(b)$ at the start")
        plotting.guide(ax, power, through=middle, text=f"slope {power:g}")
        slopes = part[["slope_small", "slope_large"]].mean()
        ax.set_title(f"{plotting.label(method)}: slope {slopes.iloc[0]:.2f} (b ≤ 64), {slopes.iloc[1]:.2f} (b ≥ 128)")
        ax.set(xlabel="batch size b", ylabel="largest stable learning rate")
        plotting.legend(ax, loc="lower right")
    yield "thresholds", fig
