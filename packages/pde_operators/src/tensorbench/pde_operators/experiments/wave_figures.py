"""Figures of the wave experiments: error against weights, rollouts, maps of fields, gaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec

_IN_MAPS = ("dense", "oneway_2", "fno")
UNTRAINED = ("uniform_medium", "persistence")
_IN_ROLLOUTS = ("dense", "oneway_1", "oneway_2", "oneway_4", "depthwise", "fno", "tfno", *UNTRAINED)


def weights(records: pd.DataFrame) -> Figure:
    """One-step error over weights, both logarithmic."""
    fig, ax = plotting.figure(columns=2, height=8)
    ax.set(xlabel="weights", ylabel="one-step relative L2 error")
    if records.empty:
        plotting.empty(ax)
        return fig
    plotting.log_axis(ax, "y")
    plotting.log_axis(ax, "x", ticks=(5000, 10000, 20000, 50000))
    for method, part in records.groupby("method", sort=False):
        if method == "posthoc_cp":
            continue
        if method in UNTRAINED:  # no place on an axis of weights
            look = plotting.style(str(method)) | {"marker": ""}
            ax.axhline(part["one_step_error"].mean(), **look)
            continue
        look = plotting.style(str(method)) | {"linestyle": ""}
        ax.plot(part["parameters"], part["one_step_error"], **look)
    own = records[records["method"] == "posthoc_cp"]
    look = plotting.style("posthoc_cp")
    sizes = _by_step(own, "posthoc_parameters")
    for metric, fill, words in (
        ("posthoc_error", "none", "CP after training"), ("tuned_error", look["color"], "CP, fine-tuned"),
    ):  # fmt: skip
        errors = rec.history(own, metric) if len(own) else pd.DataFrame()
        if errors.empty:
            continue
        ax.plot(
            errors["step"].map(sizes), errors["value"], linestyle="", marker=look["marker"], color=look["color"],
            markerfacecolor=fill, label=words,
        )  # fmt: skip
    plotting.legend(fig)
    return fig


def _by_step(records: pd.DataFrame, metric: str) -> dict[float, float]:
    history = rec.history(records, metric) if len(records) else pd.DataFrame()
    if history.empty:
        return {}
    return {float(step): float(part["value"].mean()) for step, part in history.groupby("step")}  # type: ignore[arg-type]


def rollouts(records: pd.DataFrame) -> Figure:
    """Error of rollouts over steps."""
    fig, ax = plotting.figure(columns=2, height=7.5)
    ax.set(xlabel="steps of its own", ylabel="relative L2 error")
    history = rec.history(records[records["method"].isin(_IN_ROLLOUTS)], "rollout_error") if len(records) else None
    if history is None or history.empty:
        plotting.empty(ax)
        return fig
    plotting.log_axis(ax, "y")
    plotting.series(
        ax,
        history,
        "step",
        "value",
        reducer="median",
        order=[m for m in _IN_ROLLOUTS if (history["method"] == m).any()],
    )
    plotting.reference(ax, y=1.0, text="as large as the field")
    plotting.legend(fig)
    return fig


def fields(records: pd.DataFrame) -> Figure:
    """Truth, predictions and errors on one colour scale; rows are fields, columns are times."""
    kept = rec.artifacts(records[records["method"].isin(_IN_MAPS)], "fields.npz") if len(records) else pd.DataFrame()
    if kept.empty:
        fig, ax = plotting.figure(columns=2, height=4)
        plotting.empty(ax)
        return fig
    places = kept.drop_duplicates("method").set_index("method")["path"]
    maps: dict[str, dict[str, Any]] = {m: dict(np.load(places[m])) for m in _IN_MAPS if m in places.index}
    first = next(iter(maps.values()))
    steps = first["steps"].tolist()
    # Left the truth and below it the predictions, right the errors of the latter; times are columns.
    fig, axes = plotting.figure(
        columns=2, rows=1 + len(maps), cols=2 * len(steps), height=1.0 + 2.65 * (1 + len(maps)), squeeze=False
    )
    limit = float(np.abs(first["true"]).max())
    for k, step in enumerate(steps):
        image = _map(axes[0, k], first["true"][k], limit)
        axes[0, k].set_title(f"{step} step" + "s" * (step > 1))
        axes[0, len(steps) + k].set_axis_off()
        for line, m in enumerate(maps.values(), start=1):
            _map(axes[line, k], m["predicted"][k], limit)
            right = axes[line, len(steps) + k]
            _map(right, m["predicted"][k] - m["true"][k], limit)
            right.set_title(f"error {m['error'][step - 1]:.0%}".replace("%", " %"))
    axes[0, 0].set_ylabel("finite elements")
    for line, name in enumerate(maps, start=1):
        axes[line, 0].set_ylabel(plotting.label(name))
    fig.colorbar(image, ax=axes.ravel().tolist(), label="u", shrink=0.7, aspect=30, pad=0.01)
    return fig


def _map(ax: Any, values: np.ndarray, limit: float) -> Any:
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(True)
    return ax.imshow(values.T, origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")


def gaps(records: pd.DataFrame) -> Figure:
    """Gap between training and test error, and both errors, over the number of training runs."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.5)
    for ax, metric, words in (
        (axes[0], "gap_at", "(test − training) / training error"), (axes[1], "test_error_at", "one-step test error")
    ):  # fmt: skip
        ax.set(xlabel="training runs", ylabel=words)
        history = rec.history(records, metric) if len(records) else pd.DataFrame()
        if history.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "x", ticks=sorted(history["step"].unique()))
        if metric == "test_error_at":
            plotting.log_axis(ax, "y")
        plotting.series(ax, history, "step", "value", reducer="median")
    plotting.legend(fig)
    return fig
