"""What a stacked network of the published size costs: time, memory, growth with the trains, beside a dense layer.

The peer is one dense layer of the same 2048 inputs and 16,384 outputs, as torch has it; both are timed in one process.
Assembling the solver's operator is timed too, since a prediction competes with a solution. The steps of
``stack_seconds`` are the numbers of trains.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare, measure
from tensorbench.pde_operators.datasets.kinetic import Solutions
from tensorbench.pde_operators.solvers.kinetic import Annulus, KineticSolver
from tensorbench.pde_operators.stnn import StackedTNN, count, predict

METHODS = {"stnn": StackedTNN}
OUT_MODES, IN_MODES, RANKS = [4] * 7, [2] * 7, [1, 7, 16, 16, 16, 16, 7, 1]  # trial 1


def run(run: Run) -> None:
    """Predictions for a batch and for one sample, more and fewer trains, and the operator's assembly."""
    options = run.method.params
    samples: Solutions = run.dataset.load(run.seed)
    params, inflow = torch.from_numpy(samples.params), torch.from_numpy(samples.inflow)
    params = params.clamp(0, 1)
    models = {
        K: StackedTNN(K, 1, (256, 64, 32), OUT_MODES, IN_MODES, RANKS, generator=run.generator).eval()
        for K in options["stack"]
    }
    model, piece, repeats = models[options["K"]], options["piece"], options["repeats"]
    with torch.no_grad():
        predict(model, params[:piece], inflow[:piece], piece)
        with measure() as cost:
            predict(model, params, inflow, piece)
        run.log(batch_mib=cost.peak_mib)
        dense = torch.nn.Linear(inflow[0].numel(), 256 * 64, bias=False)
        jobs = {"batch": lambda: predict(model, params, inflow, piece), "dense_batch": lambda: dense(inflow.flatten(1))}
        many = compare(jobs, repeats=repeats, min_seconds=0)
        one = compare(
            {"single": lambda: model(params[:1], inflow[:1]), "dense": lambda: dense(inflow[:1].flatten(1))},
            repeats=repeats, min_seconds=0.05,
        )  # fmt: skip
        run.log(
            batch_seconds=many["batch"], dense_batch_seconds=many["dense_batch"],
            single_milliseconds=1000 * one["single"], dense_milliseconds=1000 * one["dense"],
            single_ratio=one.ratio("single", "dense").value, batch_ratio=many.ratio("batch", "dense_batch").value,
            weight_ratio=dense.weight.numel() / count(model),
        )  # fmt: skip
        few = slice(0, piece)
        grown = compare(
            {str(K): (lambda m=m: m(params[few], inflow[few])) for K, m in models.items()}, repeats=repeats
        )  # fmt: skip
    for K in models:
        run.log(step=K, stack_seconds=grown[str(K)])
    n_1, n_2, n_w = options["assembly"]
    seconds = []
    for _ in range(repeats):
        system = KineticSolver((n_1, n_2, n_w), 1.0, Annulus(0.5, 5.0))
        with measure() as cost:
            unknowns = system.operator.shape[0]
        seconds.append(cost.seconds)
    run.log(assembly_seconds=float(np.median(seconds)), unknowns=unknowns)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Time against the number of trains."""
    fig, ax = plotting.figure()
    history = rec.history(records, "stack_seconds") if len(records) else pd.DataFrame()
    if history.empty:
        plotting.empty(ax)
    else:
        history = history.assign(value=1000 * history["value"])
        ticks = sorted(history["step"].unique())
        plotting.series(ax, history, "step", "value", log="xy")
        plotting.log_axis(ax, "x", ticks=ticks)
        plotting.guide(ax, 1.0, through=(ticks[0], float(history.loc[history["step"] == ticks[0], "value"].mean())))
        ax.set(xlabel="stacked trains K", ylabel="time of a batch (ms)")
        plotting.legend(ax)
    yield "growth", fig
