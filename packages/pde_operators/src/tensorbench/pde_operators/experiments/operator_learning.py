"""The same operators for every method: errors, weights, cost, and other resolutions than that of training.

Networks are trained alike: Adam with a cosine schedule, the relative L² error as loss, and as many epochs for each
(fewer in tuning trials). The dataset is one and the same for all seeds, which draw the initial weights and the order of
the samples. ``test_l2`` and ``test_h1`` are mean relative errors of test samples on the training grid;
``resolution_l2`` and ``resolution_h1`` those on every test grid (the step is its points a direction), ``zero_shot_l2``
the one on the finest and ``transfer_ratio`` that over ``test_l2``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensorbench.core.run import Run
from tensorbench.core.training import fit
from tensorbench.pde_operators.datasets.operators import OperatorData
from tensorbench.pde_operators.experiments import operator_figures
from tensorbench.pde_operators.experiments.operator_methods import METHODS, build, count, predict
from tensorbench.pde_operators.grids import radial_spectrum
from tensorbench.pde_operators.losses import H1Loss, LpLoss

__all__ = ["METHODS", "figures", "largest_share", "run", "worst_transfer"]

DATA_SEED = 0


def run(run: Run) -> None:
    """Build, train, and score on every test grid."""
    data: OperatorData = run.dataset.load(DATA_SEED)
    options = {key: _of(value, run.dataset.name) for key, value in run.method.params.items()}
    training = {key: options.pop(key) for key in ("epochs", "tune_epochs", "batch", "lr") if key in options}
    with run.time("fit"):
        model = build(run.method.uses, data, run.seed, **options).to(run.device)
        steps = _train(run, model, data, **training) if "lr" in training else 0
    if steps:
        run.log(step_milliseconds=1000 * run.metrics["fit_cpu_seconds"] / steps)
    run.log(weights=count(model), valid_l2=_error(run, model, data.valid_x, data.valid_y))
    _score(run, model, data)


def _of(value: Any, dataset: str) -> Any:
    """A parameter that depends on the dataset is a mapping from its name."""
    return value.get(dataset, value.get("else")) if isinstance(value, dict) else value


def _train(
    run: Run, model: torch.nn.Module, data: OperatorData, *, epochs: int, tune_epochs: int, batch: int, lr: float
) -> int:
    x, y = (torch.as_tensor(part).to(run.device) for part in (data.train_x, data.train_y))
    order = torch.Generator().manual_seed(run.seed + 1)
    loss = LpLoss()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.randperm(len(x), generator=order).split(batch):
            yield x[chosen], y[chosen]

    total = (epochs if run.trial is None else tune_epochs) * math.ceil(len(x) / batch)
    history = fit(
        model,
        batches,
        lambda net, pair: loss(net(pair[0]), pair[1]),
        torch.optim.Adam(model.parameters(), lr=lr),
        steps=total,
        schedule="cosine",
        log=run.log,
        log_every=max(1, total // 20),
        progress=run.progress,
    )
    if history.diverged:
        raise RuntimeError(f"training diverged at step {history.steps}")
    return history.steps


def _error(run: Run, model: torch.nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    return float(LpLoss()(predict(model, x, run.device), torch.as_tensor(y)))


def _score(run: Run, model: torch.nn.Module, data: OperatorData) -> None:
    l2, h1 = LpLoss(), H1Loss(periodic=data.periodic, lengths=data.length)
    errors: dict[int, float] = {}
    kept: dict[str, Any] = {}
    for n in sorted(data.test):
        x, y = data.test[n]
        found = predict(model, x, run.device)
        truth = torch.as_tensor(y)
        errors[n] = float(l2(found, truth))
        smooth = float(h1(found, truth))
        run.log(step=n, resolution_l2=errors[n], resolution_h1=smooth)
        if n == data.resolution:
            run.log(test_l2=errors[n], test_h1=smooth)
        kept |= {f"x_{n}": x[0, 0], f"y_{n}": y[0, 0], f"p_{n}": found[0, 0].numpy()}
        if data.periodic:
            kept |= {f"true_{n}": radial_spectrum(y[:, 0]), f"found_{n}": radial_spectrum(found[:, 0].numpy())}
    finest = max(errors)
    if finest > data.resolution:
        run.log(zero_shot_l2=errors[finest], transfer_ratio=errors[finest] / errors[data.resolution])
    if run.seed == 0 and run.trial is None:
        np.savez_compressed(run.artifact("fields.npz"), **kept)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Error against weights and against resolution, fields, spectra."""
    yield "weights", operator_figures.weights(records)
    yield "resolution", operator_figures.resolution(records)
    yield "fields", operator_figures.fields(records)
    yield "spectra", operator_figures.spectra(records)


def largest_share(records: pd.DataFrame) -> float:
    """Weights of the largest factored network over those of the dense one (as tuned; the same for all seeds)."""
    weights = records.groupby("method")["weights"].max()
    return float(weights.drop("fno").max() / weights["fno"])


def worst_transfer(records: pd.DataFrame) -> list[float]:
    """The largest transfer ratio among the methods, seed by seed."""
    return list(records.pivot_table(index="seed", columns="method", values="transfer_ratio").max(axis=1))
