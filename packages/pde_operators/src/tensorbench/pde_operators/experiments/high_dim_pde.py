"""Solving equations in up to 100,000 dimensions, the operator estimated from a few dimensions a step.

``test_error`` is the relative L2 error at test points; its history is by step of training, step 0 before any.
``over_constant`` is the same over the error of the best single number times the boundary factor 1 - |x|^2, which needs
no network: in many dimensions a solution is nearly that. Every
method gets the network, optimizer, steps and points of the paper (width 128, four layers, Adam from 1e-3 linearly to
0, 100 points), and nothing is tuned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.training import fit
from tensorbench.pde_operators.datasets.high_dim import HighDimensional
from tensorbench.pde_operators.stde import OnBall, StochasticPinn, TanhNet, ball

METHODS = {"stde": StochasticPinn}
CHUNK = 20_000_000  # numbers of test points at once


def run(run: Run) -> None:
    """Train, and measure the error along the way."""
    data: HighDimensional = run.dataset.load(run.seed)
    options = dict(run.method.params)
    network = {name: options.pop(name) for name in ("width", "depth", "block") if name in options}
    rate = options.pop("rate", 1e-3)
    if data.source is None:
        options |= {"solution": data.solution}
    if options.get("gpinn"):
        options |= {"reaction": data.reaction}
    scheme = METHODS[run.method.uses](data.operator, data.source, batch=min(data.batch, data.d), **options)
    device, generator = run.device, run.generator
    net = OnBall(TanhNet(data.d, generator=generator, **network)).to(device)
    start = relative_error(net, data, device)
    run.log(step=0, test_error=start)

    def batches() -> Iterator[torch.Tensor]:
        while True:
            yield ball(data.points, data.d, generator).to(device)

    with run.time("fit"):
        history = fit(
            net,
            batches(),
            lambda model, x: scheme.loss(model, x, generator),
            torch.optim.Adam(net.parameters(), lr=rate, foreach=False),
            steps=data.steps,
            schedule="linear",
            evaluate=lambda model: {"test_error": relative_error(model, data, device)},
            evaluate_every=max(1, data.steps // 10),
            log=run.log,
            log_every=max(1, data.steps // 100),
            progress=run.progress,
            divergence_factor=1e8,  # single unbiased losses may be negative or large
        )
    run.log(
        steps_per_second=history.steps_per_second,
        parameters=sum(p.numel() for p in net.parameters()),
        error_left=run.metrics["test_error"] / start,
        over_constant=run.metrics["test_error"] / constant_error(data),
        trains=bool(not history.diverged and run.metrics["test_error"] < start),
    )


@torch.no_grad()
def relative_error(model: torch.nn.Module, data: HighDimensional, device: Any) -> float:
    """|u - u*| / |u*| over the test points."""
    rows = max(1, CHUNK // data.d)
    found = torch.cat([model(part.to(device)).cpu() for part in data.test_x.split(rows)])
    return float((found - data.test_u).norm() / data.test_u.norm())


def constant_error(data: HighDimensional) -> float:
    """The relative error of a (1 - |x|^2) with the a that is best at the test points themselves."""
    factor = 1 - data.test_x.square().sum(-1)
    best = (factor @ data.test_u) / (factor @ factor)
    return float((best * factor - data.test_u).norm() / data.test_u.norm())


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Error by step: kinds of estimates on one problem, and one estimator over dimensions."""
    fig, axes = plotting.figure(columns=2, cols=2, height=7.5, sharey=True)
    histories = rec.history(records, "test_error") if len(records) else pd.DataFrame(columns=["dataset"])
    small = histories[histories["dataset"] == "allen_cahn_20"] if len(histories) else histories
    for ax in axes:
        plotting.log_axis(ax, "y")
    if small.empty:
        plotting.empty(axes[0])
    else:
        plotting.series(axes[0], small, "step", "value", reducer="median")
        axes[0].set(xlabel="step", ylabel="relative L2 error", title="Allen–Cahn, d = 20, two-body")
        plotting.legend(axes[0], loc="upper right")
    sweep = histories[histories["method"] == "stde"] if len(histories) else histories
    if sweep.empty:
        plotting.empty(axes[1])
    else:
        names = {name: plotting.label(name) for name in sweep["dataset"].unique()}
        plotting.series(
            axes[1], sweep.assign(problem=sweep["dataset"].map(names)), "step", "value", by="problem", reducer="median"
        )
        axes[1].set(xlabel="step", ylabel="", title="sparse STDE, unbiased loss")
        axes[1].set_xscale("symlog", linthresh=10)
        axes[1].set_xticks([0, 10, 100, 1000], ["0", "10", "100", "1000"])
        plotting.legend(axes[1], fontsize=6.5, loc="lower left")
    yield "training", fig
