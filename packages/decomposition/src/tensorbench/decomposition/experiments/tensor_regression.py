"""Predicting a number from a multi-channel image: tensor Gaussian processes against tensor and pixel-wise regression.

On the simulation ``gpst`` also logs, per penalty (the steps of ``zeros_by_lam`` and ``blocks_by_lam``), how sparse the
maps of a fit of ``SWEEP_ITERATIONS`` are and which share of them lies in the true blocks. All contracted models log the
objective and the change of the parameters by iteration.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.baselines import regression as baselines
from tensorbench.decomposition.datasets.regression import ImageRegression
from tensorbench.decomposition.regression.metrics import true_skill
from tensorbench.decomposition.regression.tensor_gp import TensorGP, TensorGPST

log = logging.getLogger(__name__)
SWEEP_ITERATIONS = 300
CLAIMED_LAM = 10.0  # larger penalties may take the maps to zero, which would prove nothing about sparsity
BLUE = "#0072B2"


def gpst(data: ImageRegression, run: Run, folds: dict[str, int] | None = None, **params) -> TensorGPST:
    """``folds``: their number for datasets where it is another."""
    cv = (folds or {}).get(run.dataset.name, params.pop("cv", 5))
    return TensorGPST(cv=cv, seed=run.seed, **params)


def gpst_hard(data: ImageRegression, run: Run, **params) -> TensorGPST:
    """The true places of A's and B's non-zero entries are known."""
    return TensorGPST(init="hard", masks=(data.A != 0, data.B != 0), seed=run.seed, **params)


def tensor_gp(data: ImageRegression, run: Run, **params) -> TensorGP:
    return TensorGP(seed=run.seed, **params)


def cp(data: ImageRegression, run: Run, **params) -> baselines.CPRegression:
    return baselines.CPRegression(seed=run.seed, **params)


def tucker(data: ImageRegression, run: Run, **params) -> baselines.TuckerRegression:
    return baselines.TuckerRegression(seed=run.seed, **params)


def ridge(data: ImageRegression, run: Run, **params) -> baselines.Ridge:
    return baselines.Ridge(**params)


def gp_rbf(data: ImageRegression, run: Run, **params) -> baselines.GPRBF:
    return baselines.GPRBF(**params)


def gp_gpytorch(data: ImageRegression, run: Run, **params) -> baselines.GPyTorchGP:
    return baselines.GPyTorchGP(**params)


METHODS = {
    "gpst": gpst,
    "gpst_hard": gpst_hard,
    "tensor_gp": tensor_gp,
    "cp": cp,
    "tucker": tucker,
    "ridge": ridge,
    "gp_rbf": gp_rbf,
    "gp_gpytorch": gp_gpytorch,
}


def run(run: Run) -> None:
    """Fit on the training images, score the test images; a tuning trial sees a split of the training part only."""
    data = run.dataset.load(run.seed)
    if run.trial is not None:
        data = data.validation(run.seed)
    model: Any = METHODS[run.method.uses](data, run, **run.method.params)
    with run.time("fit"):
        model.fit(data.train_X, data.train_y)
    predicted = model.predict(data.test_X)
    error = predicted - data.test_y
    if run.trial is not None:
        run.log(valid_mse=np.mean(error**2))
        return
    run.log(
        test_mse=np.mean(error**2),
        train_mse=np.mean((model.predict(data.train_X) - data.train_y) ** 2),
        test_r2=1.0 - np.mean(error**2) / np.var(data.test_y),
        true_skill=true_skill(data.test_y, predicted),
    )
    arrays = {"y": data.test_y, "predicted": predicted}
    if isinstance(model, TensorGPST | TensorGP) or model.has_variance:
        std = model.predict(data.test_X, return_std=True)[1]
        run.log(
            coverage95=np.mean(np.abs(error) < 1.96 * std),
            test_nll=np.mean(0.5 * (error / std) ** 2 + np.log(std) + 0.5 * np.log(2 * np.pi)),
        )
        arrays["std"] = std
    if isinstance(model, TensorGPST | TensorGP):
        run.log(sigma=model.sigma, chosen_iterations=model.n_iter_)
    if isinstance(model, TensorGPST):
        run.log(chosen_lam=model.lam_, zeros=_zeros(model), collapsed=model.collapsed_)
        for step, (value, change) in enumerate(zip(*model.history.values(), strict=True), start=1):
            if step % 5 == 0:
                run.log(step=step, objective=value, change=change)
        arrays |= {"A": model.A, "B": model.B}
        if data.A is not None:
            run.log(mass_in_blocks=_mass_in_blocks(model, data))
            arrays |= {"A_true": data.A, "B_true": data.B}
            if run.method.name == "gpst":
                arrays |= _sweep(run, model, data)
    if run.seed == 0:
        np.savez_compressed(run.artifact("test.npz"), **arrays)


def _zeros(model: TensorGPST) -> float:
    """Share of entries of A and B that are exactly zero."""
    return float(np.mean(np.concatenate([model.A.ravel(), model.B.ravel()]) == 0))


def _summed(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The sum of |a_s b_t^T| over all maps: how much each pixel can matter."""
    return np.multiply.outer(np.abs(A).sum(0), np.abs(B).sum(0))


def _mass_in_blocks(model: TensorGPST, data: ImageRegression) -> float:
    """Share of the maps' absolute mass in the nine true blocks, which are 36 % of the pixels."""
    mass = _summed(model.A, model.B)
    total = mass.sum()
    return float(mass[_summed(data.A, data.B) > 0].sum() / total) if total > 0 else 0.0


def _sweep(run: Run, model: TensorGPST, data: ImageRegression) -> dict[str, np.ndarray]:
    """Sparsity by penalty, at one number of iterations for all."""
    settings = model.get_params() | {"lam_path": None, "max_iter": min(SWEEP_ITERATIONS, model.max_iter)}
    maps = {}
    for lam in model.lam_path:
        fitted = TensorGPST(**(settings | {"lam": lam})).fit(data.train_X, data.train_y)
        run.log(step=lam, zeros_by_lam=_zeros(fitted), blocks_by_lam=_mass_in_blocks(fitted, data))
        maps[f"map_{lam:g}"] = _summed(fitted.A, fitted.B)
    return maps


# ------------------------------------------------------------------ claims


def zeros_rise(records: pd.DataFrame) -> list[float]:
    """Per seed, the share of zeros at the largest penalty up to ``CLAIMED_LAM`` minus that at the smallest."""
    history = rec.history(records, "zeros_by_lam")
    if history.empty:
        return []
    history = history[history["step"] <= CLAIMED_LAM]
    rows = history.sort_values("step").groupby("seed")["value"]
    return (rows.last() - rows.first()).tolist()


# ------------------------------------------------------------------ figures


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "accuracy", accuracy(records)
    yield "maps", maps(records)
    yield "convergence", convergence(records)
    yield "predictions", predictions(records)


def accuracy(records: pd.DataFrame) -> Figure:
    """Test error of every method, a panel per dataset with several, because the units differ."""
    counts = records.groupby("dataset")["method"].nunique() if len(records) else {}
    names = [name for name in pd.unique(records["dataset"]) if counts[name] > 1] or ["none"]
    methods = list(pd.unique(records["method"]))
    fig, axes = plotting.figure(columns=2, cols=len(names), height=6.8, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        plotting.bars(ax, records[records["dataset"] == name], "test_mse", log=True, order=methods)
        ax.set_xticks([])
        ax.set_title(plotting.label(name))
        if name.startswith("simulation"):
            plotting.reference(ax, y=0.25)  # the noise variance; a text would lie on the points
        if ax is not axes[0, 0]:
            ax.set_ylabel("")
    plotting.legend(fig)
    return fig


def _arrays(records: pd.DataFrame) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    files = rec.artifacts(records, "test.npz")
    return {(row.dataset, row.method): dict(np.load(row.path)) for row in files.itertuples()}


def maps(records: pd.DataFrame) -> Figure:
    """The summed maps by penalty beside the true blocks."""
    found = next((a for (_, method), a in _arrays(records).items() if method == "gpst" and "A_true" in a), None)
    if found is None:
        fig, ax = plotting.figure(columns=2, height=4.2)
        plotting.empty(ax)
        return fig
    panels = {"true": _summed(found["A_true"], found["B_true"])}
    panels |= {f"λ = {key[4:]}": found[key] for key in found if key.startswith("map_")}
    panels["chosen"] = _summed(found["A"], found["B"])
    fig, axes = plotting.figure(columns=2, cols=len(panels), height=3.8)
    for ax, (title, mass) in zip(axes, panels.items(), strict=True):
        ax.imshow(mass / max(mass.max(), 1e-300), cmap="Blues", vmin=0, vmax=1)
        ax.contour(panels["true"] > 0, levels=[0.5], colors="#D55E00", linewidths=0.6)
        ax.set(title=title, xticks=[], yticks=[])
        ax.grid(False)
        for side in ax.spines.values():
            side.set_visible(True)
    return fig


def convergence(records: pd.DataFrame) -> Figure:
    """Objective and change of the parameters of single fits, a line per seed."""
    fig, axes = plotting.figure(columns=2, cols=2, height=5.6)
    for ax, metric in zip(axes, ("objective", "change"), strict=True):
        history = rec.history(records, metric)
        history = history[history["method"] == "gpst_single"] if len(history) else history
        if history.empty:
            plotting.empty(ax)
            continue
        for _, rows in history.groupby("seed"):
            ax.plot(rows["step"], rows["value"], color=BLUE, linewidth=0.8)
        ax.set_xlabel("iteration")
    axes[0].set_ylabel("negative log-likelihood + penalty")
    axes[1].set_ylabel("change of all parameters")
    if axes[1].lines:
        plotting.log_axis(axes[1], "y")
    return fig


def predictions(records: pd.DataFrame) -> Figure:
    """Predictions of the contracted Gaussian process with 95 % intervals against the truth, first seed."""
    found = {key: a for key, a in _arrays(records).items() if key[1] in ("gpst", "gpst_single") and "std" in a}
    fig, axes = plotting.figure(columns=2, cols=max(1, len(found)), height=5.6, squeeze=False)
    if not found:
        plotting.empty(axes[0, 0])
    for ax, ((name, _), a) in zip(axes[0], found.items(), strict=False):
        ax.errorbar(
            a["y"], a["predicted"], yerr=1.96 * a["std"], linestyle="none", marker="o", markersize=2, color=BLUE,
            elinewidth=0.5, alpha=0.7,
        )  # fmt: skip
        ends = [min(a["y"].min(), a["predicted"].min()), max(a["y"].max(), a["predicted"].max())]
        ax.plot(ends, ends, color="#666666", linewidth=0.8, linestyle="--")
        ax.set(xlabel="target", title=plotting.label(name))
    axes[0, 0].set_ylabel("prediction")
    return fig
