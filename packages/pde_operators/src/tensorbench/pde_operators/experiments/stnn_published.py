"""The published stacked networks on the published solutions, in our layers: inference only, nothing is trained.

``trial_1``, ``trial_2`` and ``trial_5`` are the paper's (K, W) = (10, 1), (20, 1), (20, 2). ``random_weights`` is a
small network that needs no files. ``solver`` (at full scale) solves the published sample of index 2 with our solver.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.pde_operators.datasets.kinetic import KineticSamples, Published, scale_params
from tensorbench.pde_operators.experiments import kinetic_figures
from tensorbench.pde_operators.solvers.kinetic import Annulus, KineticSolver
from tensorbench.pde_operators.stnn import StackedTNN, count, predict
from tensorbench.pde_operators.tt_layers import tt_apply, tt_dense

RANGES: Any = {"a2": (2.0, 20.0), "ell": (0.01, 100.0)}  # of the published trainings
PAPER_MEAN = 0.0124  # trial 1 on these samples
SAMPLE = 2


def published(run: Run, *, trial: int) -> None:
    """Errors of a published model, and what identifies its predictions."""
    data: Published = run.dataset.load(0)
    with run.time("load"):
        model = data.model(trial)
    samples = data.samples
    params = torch.from_numpy(scale_params(samples.params, **RANGES))
    inflow = torch.from_numpy(samples.inflow)
    with run.time("predict"):
        rho = predict(model, params, inflow).numpy()
    error = np.linalg.norm((rho - samples.rho).reshape(len(rho), -1), axis=1)
    error /= np.linalg.norm(samples.rho.reshape(len(rho), -1), axis=1)
    run.log(mean_error=error.mean(), worst_error=error.max(), weights=count(model), prediction_sum=float(rho.sum()))
    run.log(first=rho[0, 0, 0], second=rho[0, 0, 1], third=rho[0, 0, 2])
    _exactness(run, model, params, inflow)
    shown = [int(np.argsort(error)[len(error) // 2]), int(np.argmax(error))]
    np.savez_compressed(
        run.artifact("published.npz"), params=samples.params, errors=error, shown=np.array(shown),
        truth=samples.rho[shown], guess=rho[shown],
    )  # fmt: skip


def untrained(run: Run, *, K: int) -> None:
    """A network of random weights on generated inflows: the identities hold without any file."""
    data: KineticSamples = run.dataset.load(0)
    part = data.part("test")
    n_1, n_2 = part.rho.shape[1:]
    generator = torch.Generator().manual_seed(run.seed)
    model = StackedTNN(
        K, 1, (n_1, n_2, 2 * part.inflow.shape[3]), [8, 4, 4], [4, 2, 2], [1, 6, 6, 1], generator=generator
    )
    params = torch.from_numpy(scale_params(part.params, (2, 8), (0.1, 10), log_ell=True))
    _exactness(run, model.eval(), params, torch.from_numpy(part.inflow))
    run.log(weights=count(model))


@torch.no_grad()
def _exactness(run: Run, model: StackedTNN, params: torch.Tensor, inflow: torch.Tensor) -> None:
    """Linearity in the inflow, weights of branches that sum to 1, trains that are their matrices (first branch)."""
    other = inflow.roll(1, dims=0)
    both = predict(model, params, 2 * inflow - other)
    gap = both - 2 * predict(model, params, inflow) + predict(model, params, other)
    cores = [core[:1].double() for core in model.trains.cores]
    x = model.boundary(inflow)[:3, :1].double()
    dense = x[:, 0] @ tt_dense(cores)[0]
    run.log(
        linearity_error=float(gap.norm() / both.norm()),
        softmax_error=float((model.expert_weights(params).double().sum(dim=1) - 1).abs().max()),
        train_error=float((tt_apply(cores, x, want="forward")[:, 0] - dense).norm() / dense.norm()),
    )


def solver(run: Run, *, tolerance: float) -> None:
    """Our solver on the published sample of index 2, on the published grid."""
    data: Published = run.dataset.load(0)
    samples = data.samples
    a2, ell, flat = (float(v) for v in samples.params[SAMPLE])
    n_1, n_2 = samples.rho.shape[1:]
    system = KineticSolver((n_1, n_2, 2 * samples.inflow.shape[3]), ell, Annulus(1 - flat, a2))
    with run.time("solve"):
        rho = system.density(system.solve(samples.inflow[SAMPLE].astype(np.float64), "gmres", tolerance))
    truth = samples.rho[SAMPLE]
    run.log(solution_error=np.linalg.norm(rho - truth) / np.linalg.norm(truth))


METHODS = {"published": published, "untrained": untrained, "solver": solver}


def run(run: Run) -> None:
    """One of the three."""
    METHODS[run.method.uses](run, **run.method.params)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Two samples of the first trial on their annuli, and all errors."""
    kept = rec.artifacts(records, "published.npz") if len(records) else pd.DataFrame(columns=["method"])
    kept = kept[kept["method"] == "trial_1"]
    shown = []
    if len(kept):
        arrays = np.load(kept["path"].iloc[0])
        shown = [
            {"params": arrays["params"][k], "truth": arrays["truth"][i], "guess": arrays["guess"][i]}
            for i, k in enumerate(arrays["shown"])
        ]
    yield "densities", kinetic_figures.fields(shown)
    yield "samples", kinetic_figures.per_sample(records, PAPER_MEAN)
