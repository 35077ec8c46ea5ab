"""Which format for my tensor, at what rank, at what cost? Every decomposition on the same held-out cells.

Each method tries settings of growing size on the training cells, chooses by the validation cells, is fitted once more
to both and scored on the test cells. The steps of the history are numbers of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.baselines.completion import GradientBoosting
from tensorbench.decomposition.datasets.held_out import HeldOut
from tensorbench.decomposition.decompose import FORMATS, decompose, params_of, read_rank
from tensorbench.decomposition.functional.funbat import FunBaT
from tensorbench.decomposition.functional.imtd import IMTD
from tensorbench.decomposition.functional.scaling import IndexScaler
from tensorbench.decomposition.structure.greedy_tn import complete


class Fitted(NamedTuple):
    """A prediction for every cell, its parameters, and the largest rank where there is one."""

    full: np.ndarray
    parameters: int
    rank: int = 0


Fit = Callable[..., Fitted]


def ranks_of(shape: tuple[int, ...], rank: int, capped: bool) -> int | list[int]:
    """One rank for all, or at most the size of each mode (a choice for the short sizes of Multiple, not a bound)."""
    return [min(rank, size) for size in shape] if capped else rank


def discrete(kind: str) -> Fit:
    def fit(X: np.ndarray, mask: np.ndarray, seed: int, rank: int, capped: bool = False, **options: Any) -> Fitted:
        found = decompose(X, kind, ranks_of(X.shape, rank, capped), mask=mask, seed=seed, **options)
        return Fitted(found.full(), found.num_params(), max(found.rank))

    return fit


def grown(X: np.ndarray, mask: np.ndarray, seed: int, **settings: Any) -> Fitted:
    """A network grown bond by bond, which chooses bonds and size on a tenth of the cells that it is given."""
    network = complete(np.where(mask, X, 0.0), mask, generator=seed, **settings).network
    return Fitted(
        np.asarray(network.full()), network.num_params(), max((rank for *_, rank in network.edges()), default=1)
    )


def all_cells(shape: tuple[int, ...]) -> np.ndarray:
    """The indices of every cell, (cells, modes), in row-major order."""
    return np.indices(shape).reshape(len(shape), -1).T


def functional(X: np.ndarray, mask: np.ndarray, seed: int, **settings: Any) -> Fitted:
    """Functional Bayesian Tucker: the index along each mode, scaled to [0, 1], is a time; values of unit variance."""
    cells = np.argwhere(mask).astype(float)
    scaler = IndexScaler(1.0)
    offset, spread = X[mask].mean(), X[mask].std()
    model = FunBaT(seed=seed, **settings).fit(scaler.fit_transform(cells), (X[mask] - offset) / spread)
    everywhere = all_cells(X.shape).astype(float)
    return Fitted(
        offset + spread * model.predict(scaler.transform(everywhere)).reshape(X.shape),
        model.parameters,
        max(model.ranks),
    )


def implicit(X: np.ndarray, mask: np.ndarray, seed: int, rank: int, capped: bool = False, **settings: Any) -> Fitted:
    """Implicit Multiple decomposition: factors by networks of sines."""
    ranks = ranks_of(X.shape, rank, True) if capped else [rank] * X.ndim
    model = IMTD(ranks, seed=seed, **settings).fit(np.where(mask, X, 0.0), mask)
    return Fitted(np.asarray(model.full()), model.num_params(), rank)


def additive(X: np.ndarray, mask: np.ndarray, seed: int, alpha: float) -> Fitted:
    """A level for every slice of every mode, added up (scikit-learn's ridge): what is there without interactions."""
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import OneHotEncoder

    encoder = OneHotEncoder(categories=[np.arange(size) for size in X.shape])
    model = Ridge(alpha=alpha).fit(encoder.fit_transform(np.argwhere(mask)), X[mask])
    return Fitted(model.predict(encoder.transform(all_cells(X.shape))).reshape(X.shape), sum(X.shape) + 1)


def gbm(X: np.ndarray, mask: np.ndarray, seed: int, **settings: Any) -> Fitted:
    """Gradient boosting on the indices (scikit-learn)."""
    model = GradientBoosting(seed=seed, **settings)
    model.fit(np.argwhere(mask).astype(float), X[mask])
    return Fitted(model.predict(all_cells(X.shape).astype(float)).reshape(X.shape), model.parameters)


METHODS = {
    "cp": discrete("cp"),
    "tucker": discrete("tucker"),
    "tt": discrete("tt"),
    "ring": discrete("ring"),
    "multiple": discrete("multiple"),
    "greedy_tn": grown,
    "funbat": functional,
    "imtd": implicit,
    "additive": additive,
    "gbm": gbm,
}


def candidates(method: str, settings: Sequence[Mapping[str, Any]], data: HeldOut) -> list[dict[str, Any]]:
    """The settings worth trying: for discrete formats those with at most one parameter for every two cells."""
    kept, seen = [], set()
    for setting in map(dict, settings):
        if method in FORMATS:
            shape = data.tensor.shape
            rank = ranks_of(shape, setting["rank"], setting.get("capped", False))
            numbers = read_rank(shape, method, rank)
            if params_of(shape, method, rank) > data.train.sum() / 2 or numbers in seen:
                continue
            seen.add(numbers)
        kept.append(setting)
    if not kept:
        raise ValueError(f"{method}: every setting has more parameters than half of the {int(data.train.sum())} cells")
    return kept


def run(run: Run) -> None:
    """Climb the settings, choose by validation cells, score on test cells."""
    data = run.dataset.load(run.seed)
    params = dict(run.method.params)
    settings, patience = params.pop("settings"), params.pop("patience", 100)
    fit = METHODS[run.method.uses]
    tried: list[tuple[float, dict[str, Any]]] = []
    with run.time("choose"):
        for setting in run.progress(candidates(run.method.uses, settings, data), desc="settings"):
            found = fit(data.tensor, data.train, run.seed, **params, **setting)
            error = data.rmse(found.full, data.valid)
            tried.append((error if np.isfinite(error) else np.inf, setting))
            run.log(step=found.parameters, rung_error=data.rmse(found.full, data.test))
            best = min(range(len(tried)), key=lambda k: tried[k][0])
            if len(tried) - 1 - best >= patience:
                break
    valid, setting = tried[best]
    with run.time("fit"):
        found = fit(data.tensor, data.known, run.seed, **params, **setting)
    run.log(
        test_error=data.rmse(found.full, data.test),
        valid_error=valid,
        train_error=data.rmse(found.full, data.known),
        parameters=found.parameters,
        settings_tried=len(tried),
        compression=data.tensor.size / found.parameters,
    )
    if found.rank:
        run.log(rank=found.rank)


# ------------------------------------------------------------------ figures


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "error", error(records)
    yield "cost", cost(records)


def _panels(records: pd.DataFrame, height: float) -> tuple[Figure, list, list[str]]:
    names = list(pd.unique(records["dataset"])) or ["none"]
    cols = min(len(names), 2)
    fig, axes = plotting.figure(columns=2, cols=cols, rows=-(-len(names) // cols), height=height, squeeze=False)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    return fig, list(axes.flat), names


def error(records: pd.DataFrame) -> Figure:
    """Test error of every setting against its parameters; the chosen ones as large markers."""
    history = rec.history(records, "rung_error")
    fig, axes, names = _panels(records, 13.0)
    for ax, name in zip(axes, names, strict=False):
        for method, part in history[history["dataset"] == name].groupby("method", sort=False):
            look = plotting.style(method)
            middle = part.groupby("step")["value"].median()
            chosen = records[(records["dataset"] == name) & (records["method"] == method)]
            ax.plot(middle.index, middle, color=look["color"], linestyle=look["linestyle"], lw=1)
            ax.plot(chosen["parameters"].median(), chosen["test_error"].median(), ms=6, **{**look, "linestyle": "none"})
        ax.axhline(1.0, color="0.6", lw=0.6, ls=":")
        ax.set(xscale="log", yscale="log", title=plotting.label(name))
        ax.set(xlabel="parameters", ylabel="test RMSE / standard deviation")
    plotting.legend(fig)
    return fig


def cost(records: pd.DataFrame) -> Figure:
    """Test error of what was chosen against the seconds that choosing and fitting took."""
    fig, axes, names = _panels(records, 12.0)
    for ax, name in zip(axes, names, strict=False):
        for method, part in records[records["dataset"] == name].groupby("method", sort=False):
            look = {**plotting.style(method), "linestyle": "none"}
            ax.plot((part["choose_seconds"] + part["fit_seconds"]).mean(), part["test_error"].mean(), ms=6, **look)
        ax.set(xscale="log", yscale="log", title=plotting.label(name))
        ax.set(xlabel="seconds to choose and fit", ylabel="test RMSE / standard deviation")
    plotting.legend(fig)
    return fig
