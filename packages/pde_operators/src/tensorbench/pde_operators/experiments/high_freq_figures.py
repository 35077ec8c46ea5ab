"""Figures of the experiments on high-frequency equations. Each copes with records that are not there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec

TARGET = 1e-3
SWEEPS = {"sweep_points": "collocation points N", "sweep_components": "components Q"}


def errors(records: pd.DataFrame) -> Figure:
    """A marker for each problem and method."""
    names = [c for c in records.columns if c.startswith("error_")] if len(records) else []
    fig, ax = plotting.figure(columns=2, height=8.5)
    if not names:
        plotting.empty(ax)
        return fig
    long = (
        records[["method", "seed", *names]]
        .melt(["method", "seed"], names, var_name="problem", value_name="error")
        .dropna()
    )
    plotting.bars(ax, long, "error", group="problem", log=True)
    plotting.reference(ax, y=TARGET, text="0.001")
    ax.set_ylabel("relative L2 error")
    plotting.legend(fig)
    return fig


def solutions(records: pd.DataFrame, problem: str) -> Figure:
    """Solution of one problem and the error of every method along it."""
    kept = rec.artifacts(records, f"{problem}.npz") if len(records) else pd.DataFrame()
    fig, axes = plotting.figure(columns=2, rows=2, height=10, sharex=True)
    if kept.empty:
        for ax in axes:
            plotting.empty(ax)
        return fig
    truth = None
    for row in kept.itertuples():
        with np.load(str(row.path)) as data:
            x, truth, predicted = data["x"], data["truth"], data["predicted"]
        look = plotting.style(str(row.method)) | {"marker": "", "linewidth": 1.0}
        scale = np.abs(truth).max()
        if np.abs(predicted).max() < 3 * scale:
            axes[0].plot(x, predicted, **look)
        axes[1].plot(x, np.maximum(np.abs(predicted - truth), 1e-12 * scale), **look)
    assert truth is not None
    axes[0].plot(x, truth, color="black", linewidth=0.7, linestyle=":", label="solution")
    plotting.log_axis(axes[1], "y")
    axes[0].set_ylabel("u")
    axes[1].set(xlabel="x", ylabel="absolute error")
    plotting.legend(fig)
    return fig


def spectra(records: pd.DataFrame, problems: Sequence[str]) -> Figure:
    """Learned shares of the weight as stems, true frequencies as lines."""
    fig, axes = plotting.figure(columns=2, cols=len(problems), height=6.5, sharey=True)
    for ax, problem in zip(np.atleast_1d(axes), problems, strict=True):
        kept = rec.artifacts(records, f"{problem}.npz") if len(records) else pd.DataFrame()
        ax.set_title(plotting.label(f"error_{problem}"))
        shown = [row for row in kept.itertuples() if str(row.method) in ("gp_student", "gp_gaussian")]
        if not shown:
            plotting.empty(ax)
            continue
        for shift, row in enumerate(shown):
            with np.load(str(row.path)) as data:
                frequency, share, true = data["frequency"], data["share"], data["true"]
            look = plotting.style(str(row.method))
            at = frequency + 0.25 * (shift - 0.5)
            ax.vlines(at, 1e-6, np.maximum(share, 1e-6), color=look["color"], linewidth=1)
            ax.plot(at, share, linestyle="none", color=look["color"], marker=look["marker"], label=look["label"])
        for f in true:
            ax.axvline(f, color="black", linewidth=0.7, linestyle=":", label="true frequency")
        plotting.log_axis(ax, "y")
        ax.set_ylim(1e-6, 2)
        ax.set_xlabel("frequency (cycles per unit)")
    np.atleast_1d(axes)[0].set_ylabel("share of the weight")
    plotting.legend(fig)
    return fig


def _panels(
    records: pd.DataFrame, shown: pd.DataFrame, height: float, ylabel: str
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel for each dataset of the records, and the rows of ``shown`` for those panels that have any."""
    datasets = list(dict.fromkeys(records["dataset"])) if len(records) else []
    fig, axes = plotting.figure(columns=2, cols=max(1, len(datasets)), height=height, sharey=True)
    axes = np.atleast_1d(axes)
    axes[0].set_ylabel(ylabel)
    panels = []
    for ax, dataset in zip(axes, datasets or [None], strict=True):
        part = shown[shown["dataset"] == dataset] if len(shown) else shown
        if dataset is None or part.empty:
            plotting.empty(ax)
            continue
        ax.set_title(plotting.label(str(dataset)))
        panels.append((ax, part))
    return fig, panels


def error_over_time(records: pd.DataFrame) -> Figure:
    """A line for each method and seed, a panel for each problem."""
    curves = rec.history(records, "error_over_time") if len(records) else pd.DataFrame()
    fig, panels = _panels(records, curves, 7, "relative L2 error")
    for ax, part in panels:
        plotting.log_axis(ax, "xy")
        for (method, _), line in part.groupby(["method", "seed"], sort=False):
            line = line[line["step"] > 0].sort_values("step")
            ax.plot(line["step"], line["value"], **(plotting.style(str(method)) | {"linewidth": 0.9, "markersize": 3}))
        plotting.reference(ax, y=TARGET, text="0.001")
        ax.set_xlabel("time of fitting (s)")
    plotting.legend(fig)
    return fig


def overlay(records: pd.DataFrame) -> Figure:
    """What every method makes of the one-dimensional problem, a panel each, first seed."""
    kept = rec.artifacts(records, "line.npz") if len(records) else pd.DataFrame(columns=["method", "path"])
    rows = list(kept.itertuples())
    count = max(1, len(rows))
    fig, axes = plotting.figure(columns=2, rows=-(-count // 2), cols=2, height=2.3 * -(-count // 2) + 1, sharex=True,
                                sharey=True, squeeze=False)  # fmt: skip
    for ax in axes.flat[len(rows) :]:
        ax.set_axis_off()
    for ax, row in zip(axes.flat, rows, strict=False):
        with np.load(str(row.path)) as data:
            x, truth, predicted = data["x"], data["truth"], data["predicted"]
        look = plotting.style(str(row.method))
        ax.plot(x, truth, color="black", linewidth=0.6, label="solution")
        ax.plot(x, predicted, color=look["color"], linewidth=1.0)
        ax.set_title(look["label"], color=look["color"])
        ax.set_ylim(-1.6 * np.abs(truth).max(), 1.6 * np.abs(truth).max())
    if not rows:
        plotting.empty(axes.flat[0])
    for ax in axes[-1]:
        ax.set_xlabel("x")
    for ax in axes[:, 0]:
        ax.set_ylabel("u")
    plotting.legend(fig)
    return fig


def weights(records: pd.DataFrame) -> Figure:
    """Shares of the weight by rank, for each prior."""
    kept = rec.artifacts(records, "weights.npz") if len(records) else pd.DataFrame()
    shown = kept[~kept["method"].isin(SWEEPS)] if len(kept) else kept
    fig, panels = _panels(records, shown, 6.5, "share of the weight")
    for ax, part in panels:
        for row in part.itertuples():
            share = _array(row.path, "share")
            ax.plot(np.arange(1, len(share) + 1), np.maximum(share, 1e-12), **plotting.style(str(row.method)))
        plotting.log_axis(ax, "y")
        plotting.reference(ax, y=0.01, text="1 %")
        ax.set_xlabel("component, heaviest first")
    plotting.legend(fig)
    return fig


def sweeps(records: pd.DataFrame) -> Figure:
    """Error against collocation points and against components."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.5, sharey=True)
    points = rec.history(records, "error") if len(records) else pd.DataFrame(columns=["method"])
    for ax, (method, text) in zip(axes, SWEEPS.items(), strict=True):
        part = points[points["method"] == method]
        if part.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "x", ticks=sorted(set(part["step"])))
        plotting.series(ax, part, "step", "value", by="dataset", log="y")
        plotting.reference(ax, y=TARGET, text="0.001")
        ax.set_xlabel(text)
    axes[0].set_ylabel("relative L2 error")
    plotting.legend(fig)
    return fig


def growth(records: pd.DataFrame) -> Figure:
    """Seconds and MiB of an objective with its gradient against points in each coordinate."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.5)
    for ax, metric, text in zip(axes, ("step_seconds", "step_mib"), ("time (s)", "peak memory (MiB)"), strict=True):
        part = rec.history(records, metric) if len(records) else pd.DataFrame()
        part = part[part["value"] > 0] if len(part) else part
        if part.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "x", ticks=sorted(set(part["step"])))
        plotting.series(ax, part, "step", "value", log="y")
        last = part[part["step"] == part["step"].max()]["value"].mean()
        _slope(ax, 3 if metric == "step_seconds" else 2, (float(part["step"].max()), float(last)))
        ax.set(xlabel="points in each of two coordinates", ylabel=text)
    plotting.legend(fig)
    return fig


def _slope(ax: Axes, exponent: float, through: tuple[float, float]) -> None:
    plotting.guide(ax, exponent, through=through)


def _array(path: object, name: str) -> np.ndarray:
    with np.load(str(path)) as data:
        return np.asarray(data[name])
