"""u(0, 0) of semilinear parabolic equations: a network with a sampled Laplacian, and references that use none.

``origin_error`` is the distance to the published value over that value. For the network its history is by step.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.training import fit
from tensorbench.pde_operators.stde import TanhNet
from tensorbench.pde_operators.stde.parabolic import Parabolic, multilevel_picard, parabolic_loss, radial_reference


def train(run: Run, problem: Parabolic, d: int, published: float) -> float:
    """Sparse STDE on points of √2 W, the released code's loss and weights."""
    options = run.method.params
    generator = run.generator
    net = TanhNet(d, width=options["width"], extra=1, generator=generator)
    origin = torch.zeros(1, d + 1)

    def loss(model: torch.nn.Module, _: object) -> torch.Tensor:
        return parabolic_loss(problem, model, options["points"], d, generator, batch=options["batch"])

    fit(
        net,
        iter(range(options["steps"] + 1)),
        loss,
        torch.optim.Adam(net.parameters(), lr=1e-3),
        steps=options["steps"],
        schedule=lambda used: options["decay"] ** (used * options["steps"]),
        evaluate=lambda model: {"origin_error": abs(float(model(origin)) / published - 1)},
        evaluate_every=max(1, options["steps"] // 20),
        log=run.log,
        log_every=max(1, options["steps"] // 20),
        progress=run.progress,
    )
    with torch.no_grad():
        return float(net(origin))


def picard(run: Run, problem: Parabolic, d: int, published: float) -> float:
    """Mean of independent runs."""
    options = run.method.params
    runs = [multilevel_picard(problem, d, options["level"], run.generator) for _ in range(options["runs"])]
    return sum(runs) / len(runs)


def radial(run: Run, problem: Parabolic, d: int, published: float) -> float:
    """Finite differences in |x|."""
    return radial_reference(problem, d)


METHODS = {"stde": train, "picard": picard, "radial": radial}


def run(run: Run) -> None:
    """The value at the origin."""
    problem, d, published = run.dataset.load(run.seed)
    with run.time("fit"):
        value = METHODS[run.method.uses](run, problem, d, published)
    run.log(origin=value, origin_error=abs(value / published - 1))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Error by step of training."""
    fig, ax = plotting.figure(height=6.5)
    history = rec.history(records[records["method"] == "stde"], "origin_error") if len(records) else pd.DataFrame()
    if history.empty:
        plotting.empty(ax)
    else:
        named = history.assign(
            problem=history["dataset"].map({n: plotting.label(n) for n in history["dataset"].unique()})
        )
        plotting.series(ax, named, "step", "value", by="problem", reducer="median", log="y")
        ax.set(xlabel="step", ylabel="relative error of u(0, 0)")
        plotting.legend(fig)
    yield "origin", fig
