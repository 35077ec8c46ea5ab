"""Completing scattered data: functional Tucker and CP against discretised decompositions and generic regressors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.baselines.completion import (
    Baseline,
    GradientBoosting,
    LastIndexMean,
    MaskedCP,
    MaskedTucker,
    SparseGP,
)
from tensorbench.decomposition.datasets.completion import Scattered
from tensorbench.decomposition.functional.funbat import FunBaT
from tensorbench.decomposition.functional.funbat_cp import FunBaTCP
from tensorbench.decomposition.functional.imtd import IMTD
from tensorbench.decomposition.functional.scaling import IndexScaler

SHOWN = ("simulation_r1", "us_temperature", "beijing_pm25")  # whose latent functions are drawn, where there are records
GRID = 60  # points per mode of the curves and surfaces that figures show


class Scaled:
    """A functional model on indices scaled to [0, 1] and values of unit variance (and mean zero with ``center``)."""

    def __init__(self, model: FunBaT, center: bool):
        self.model, self.center, self.scaler = model, center, IndexScaler(1.0)

    def fit(self, idx: np.ndarray, y: np.ndarray, callback=None) -> Scaled:
        self.offset = float(y.mean()) if self.center else 0.0
        self.spread = float(y.std())
        heard = callback and (lambda epoch, rmse: callback(epoch, self.spread * rmse))
        self.model.fit(self.scaler.fit_transform(idx), (y - self.offset) / self.spread, callback=heard)
        return self

    def predict(self, idx: np.ndarray, return_std: bool = False):
        mean, std = self.model.predict(self.scaler.transform(idx), return_std=True)
        mean, std = self.offset + self.spread * mean, self.spread * std
        return (mean, std) if return_std else mean

    @property
    def parameters(self) -> int:
        return self.model.parameters


def funbat(data: Scattered, run: Run, center: bool = True, **params) -> Scaled:
    return Scaled(FunBaT(seed=run.seed, **params), center)


def funbat_cp(data: Scattered, run: Run, center: bool = True, **params) -> Scaled:
    return Scaled(FunBaTCP(seed=run.seed, **params), center)


def funbat_paper(data: Scattered, run: Run, settings: dict[str, dict]) -> FunBaTCP:
    """The CP form as the paper's code configures it for each dataset: raw indices and values, nothing tuned."""
    return FunBaTCP(seed=run.seed, **settings.get(run.dataset.uses, settings["otherwise"]))


def cp_als(data: Scattered, run: Run, **params) -> MaskedCP:
    return MaskedCP(shape=data.shape, extent=data.extent.tolist(), seed=run.seed, **params)


def tucker(data: Scattered, run: Run, **params) -> MaskedTucker:
    return MaskedTucker(shape=data.shape, extent=data.extent.tolist(), seed=run.seed, **params)


def gp(data: Scattered, run: Run, **params) -> SparseGP:
    return SparseGP(seed=run.seed, **params)


def gbm(data: Scattered, run: Run, **params) -> GradientBoosting:
    return GradientBoosting(seed=run.seed, **params)


def last_index_mean(data: Scattered, run: Run) -> LastIndexMean:
    return LastIndexMean()


class ImplicitMultiple(Baseline):
    """Implicit Multiple decomposition of the raw indices; its deviation is its error on points it held out itself."""

    has_variance = True  # one number for all points, but not the training error

    def __init__(self, rank: int, extent: np.ndarray, **options):
        self.extent, self.options, self.rank = extent, options, rank

    def _fit(self, idx: np.ndarray, y: np.ndarray) -> None:
        low, high = np.minimum(self.extent[:, 0], idx.min(0)), np.maximum(self.extent[:, 1], idx.max(0))
        self.model = IMTD((self.rank,) * idx.shape[1], **self.options)
        self.model.fit_points(idx, y, domain=list(zip(low, high, strict=True)))

    def _mean(self, idx: np.ndarray) -> np.ndarray:
        return self.model.predict(idx, extrapolate=True)

    def _std(self, idx: np.ndarray) -> np.ndarray:
        return np.full(len(idx), self.model.held_error)

    @property
    def parameters(self) -> int:
        return self.model.num_params()


def imtd(data: Scattered, run: Run, rank: int, **params) -> ImplicitMultiple:
    return ImplicitMultiple(rank, data.extent, seed=run.seed, **params)


METHODS = {
    "imtd": imtd,
    "funbat": funbat,
    "funbat_cp": funbat_cp,
    "funbat_paper": funbat_paper,
    "cp_als": cp_als,
    "tucker": tucker,
    "gp": gp,
    "gbm": gbm,
    "last_index_mean": last_index_mean,
}


def run(run: Run) -> None:
    """Fit on the training entries, score the test entries; a tuning trial sees a split of the training entries only."""
    data = run.dataset.load(run.seed)
    if run.trial is not None:
        data = data.validation(run.seed)
    model = METHODS[run.method.uses](data, run, **run.method.params)
    heard: list[float] = []
    functional = isinstance(model, FunBaT | Scaled)
    with run.time("fit"):
        if functional:
            model.fit(data.train_idx, data.train_y, callback=lambda epoch, rmse: heard.append(rmse))
        else:
            model.fit(data.train_idx, data.train_y)
    for epoch, rmse in enumerate(heard):
        run.log(step=epoch + 1, train_rmse=rmse)
    if run.trial is not None:
        run.log(valid_rmse=_rmse(model.predict(data.test_idx), data.test_y))
        return
    if isinstance(model, Baseline) and not model.has_variance:
        model.std = _held_out_rmse(run, data)
    mean, std = model.predict(data.test_idx, return_std=True)
    error = mean - data.test_y
    run.log(
        test_rmse=_rmse(mean, data.test_y),
        test_mae=np.mean(np.abs(error)),
        test_nll=np.mean(0.5 * (error / std) ** 2 + np.log(std) + 0.5 * np.log(2 * np.pi)),
        coverage95=np.mean(np.abs(error) < 1.96 * std),
        parameters=model.parameters,
    )
    if functional:
        _log_latent(run, model, data)


def _rmse(predicted: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - y) ** 2)))


def _held_out_rmse(run: Run, data: Scattered) -> float:
    """The standard deviation to state for a method that has none: its error on training entries it did not see."""
    part = data.validation(run.seed)
    twin = METHODS[run.method.uses](part, run, **run.method.params).fit(part.train_idx, part.train_y)
    return max(_rmse(twin.predict(part.test_idx), part.test_y), 1e-12)


def _log_latent(run: Run, model: FunBaT | Scaled, data: Scattered) -> None:
    """Noise precision, agreement with the true functions, and what the figures of functions and surfaces need."""
    inner = model.model if isinstance(model, Scaled) else model
    run.log(noise_precision=inner.noise_precision)
    rank_one = data.functions is not None and inner.ranks == [1] * len(inner.ranks)
    raw = not isinstance(model, Scaled)
    if rank_one and raw:
        agreement = []
        for k, truth in enumerate(data.functions):
            t = np.unique(data.train_idx[:, k])
            agreement.append(abs(np.corrcoef(inner.latent(k, t)[0][:, 0], truth(t))[0, 1]))
        run.log(latent_correlation=min(agreement))
    if run.seed > 0 or not raw:
        return
    arrays = {}
    for k, (low, high) in enumerate(data.extent):
        grid = np.linspace(low, high, 4 * GRID)
        mean, std = inner.latent(k, grid)
        arrays |= {f"grid{k}": grid, f"mean{k}": mean, f"std{k}": std}
        if rank_one:
            arrays[f"truth{k}"] = data.functions[k](grid)
    if rank_one:
        axes = [np.linspace(low, high, GRID) for low, high in data.extent]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        arrays["predicted"] = model.predict(points.reshape(-1, len(axes))).reshape(points.shape[:-1])
        arrays["true"] = np.multiply.outer(*(f(x) for f, x in zip(data.functions, axes, strict=True)))
        arrays["train_idx"] = data.train_idx
    np.savez_compressed(run.artifact("latent.npz"), **arrays)


# ------------------------------------------------------------------ figures


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "accuracy", accuracy(records)
    yield "epochs", epochs(records)
    yield "functions", functions(records)
    yield "surface", surface(records)


def accuracy(records: pd.DataFrame) -> Figure:
    """Test RMSE of every method, a panel per dataset, because the units differ."""
    names = list(pd.unique(records["dataset"])) or ["none"]
    methods = list(pd.unique(records["method"]))
    fig, axes = plotting.figure(columns=2, cols=len(names), height=6.2)
    for ax, name in zip(np.atleast_1d(axes), names, strict=True):
        part = records[records["dataset"] == name]
        plotting.bars(ax, part, "test_rmse", group="dataset", by="method", log=True, order=methods)
        ax.set_xticks([])
        ax.set_title(plotting.label(name), fontsize=7)
        if ax is not np.atleast_1d(axes)[0]:
            ax.set_ylabel("")
    plotting.legend(fig)
    return fig


def epochs(records: pd.DataFrame) -> Figure:
    """Train RMSE over epochs of the functional methods, a panel per dataset."""
    history = rec.history(records, "train_rmse")
    names = list(pd.unique(history["dataset"])) or ["none"]
    fig, axes = plotting.figure(columns=2, cols=len(names), height=5.8)
    for ax, name in zip(np.atleast_1d(axes), names, strict=True):
        part = history[history["dataset"] == name].rename(columns={"value": "train_rmse", "step": "epoch"})
        plotting.series(ax, part, "epoch", "train_rmse", log="y")
        ax.set_title(plotting.label(name), fontsize=7)
        if ax is not np.atleast_1d(axes)[0]:
            ax.set_ylabel("")
    plotting.legend(fig)
    return fig


def _latents(records: pd.DataFrame) -> dict[str, dict[str, np.ndarray]]:
    files = rec.artifacts(records, "latent.npz")
    return {row.dataset: dict(np.load(row.path)) for row in files.itertuples() if row.method == "funbat_paper"}


def functions(records: pd.DataFrame) -> Figure:
    """Latent functions with bands of three standard deviations, a row per dataset and a panel per mode."""
    found = _latents(records)
    measured = {name: arrays for name, arrays in found.items() if name in SHOWN}
    found = measured or found
    rows = [(name, sum(key.startswith("mean") for key in arrays)) for name, arrays in found.items()] or [("none", 1)]
    cols = max(modes for _, modes in rows)
    fig, axes = plotting.figure(columns=2, rows=len(rows), cols=cols, height=3.6 * len(rows) + 0.8, squeeze=False)
    for line, (name, modes) in zip(axes, rows, strict=True):
        for k, ax in enumerate(line):
            if k >= modes:
                ax.set_axis_off()
                continue
            if name not in found:
                plotting.empty(ax)
                continue
            _function_panel(ax, found[name], k)
            ax.set_title(f"{plotting.label(name)}, mode {k + 1}", fontsize=7)
    plotting.legend(fig)
    return fig


def _function_panel(ax, arrays: dict[str, np.ndarray], k: int) -> None:
    grid, mean, std = arrays[f"grid{k}"], arrays[f"mean{k}"], arrays[f"std{k}"]
    looks = list(plotting.styles([f"function {r + 1}" for r in range(mean.shape[1])]).values())
    for r, look in enumerate(looks):
        ax.plot(grid, mean[:, r], color=look["color"], linewidth=0.8, label=look["label"])
        ax.fill_between(
            grid, mean[:, r] - 3 * std[:, r], mean[:, r] + 3 * std[:, r], color=look["color"], alpha=0.2, lw=0
        )
    if f"truth{k}" in arrays:
        truth = arrays[f"truth{k}"]
        # Scale and sign of a factor are free: the truth is drawn at the scale that fits best.
        scaled = truth * (mean[:, 0] @ truth) / (truth @ truth)
        ax.plot(grid, scaled, color="#222222", linestyle="--", linewidth=0.8, label="truth (rescaled)")
    ax.set_xlabel(f"index $i_{k + 1}$")


def surface(records: pd.DataFrame) -> Figure:
    """True and predicted surface and their difference."""
    found = {name: arrays for name, arrays in _latents(records).items() if "predicted" in arrays}
    names = list(found) or ["none"]
    fig, axes = plotting.figure(columns=2, rows=len(names), cols=3, height=4.4 * len(names), squeeze=False)
    for line, name in zip(axes, names, strict=True):
        if name not in found:
            for ax in line:
                plotting.empty(ax)
            continue
        arrays = found[name]
        true, predicted = arrays["true"], arrays["predicted"]
        extent = (arrays["grid0"][0], arrays["grid0"][-1], arrays["grid1"][0], arrays["grid1"][-1])
        top = np.abs(true).max()
        difference = predicted - true
        panels = (
            ("true", true, top),
            ("predicted", predicted, top),
            ("difference", difference, np.abs(difference).max()),
        )
        for ax, (title, values, limit) in zip(line, panels, strict=True):
            image = ax.imshow(
                values.T, origin="lower", extent=extent, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit
            )
            ax.set_title(f"{plotting.label(name)}: {title}", fontsize=7)
            ax.set_xlabel("index $i_1$")
            ax.grid(False)
            fig.colorbar(image, ax=ax)
            if title == "predicted":
                ax.plot(*arrays["train_idx"].T, linestyle="", marker=".", markersize=1, color="#222222")
        line[0].set_ylabel("index $i_2$")
    return fig
