"""Figures that every comparison has: loss against steps and against time, and what the learning rate is worth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec


def curves(records: pd.DataFrame, metric: str = "valid_loss", label: str = "validation loss (nats)") -> Figure:
    """A row of panels for each dataset: the metric against steps, and against time in steps of AdamW."""
    names = list(pd.unique(records["dataset"])) if len(records) else ["no records"]
    fig, axes = plotting.figure(columns=2, rows=len(names), cols=2, height=5.5 * len(names) + 2.0)
    grid = np.atleast_2d(axes)
    history = rec.history(records, metric) if len(records) else pd.DataFrame()
    for row, name in zip(grid, names, strict=True):
        part = history[history["dataset"] == name] if len(history) else history
        _curve(row[0], part, "step", "steps", label)
        if len(part):
            ratios = records[records["dataset"] == name].groupby("method")["step_ratio"].median()
            part = part.assign(time=part["step"] * part["method"].map(ratios))
        _curve(row[1], part, "time", "time (steps of AdamW)", label)
        for ax in row:
            ax.set_title(plotting.label(name), fontsize=8)
    plotting.legend(fig)
    return fig


def _curve(ax: Axes, part: pd.DataFrame, x: str, x_label: str, y_label: str) -> None:
    if len(part) == 0:
        plotting.empty(ax)
        return
    ax.set(xlabel=x_label, ylabel=y_label)
    plotting.series(ax, part, x, "value", log="xy")


def sensitivity(
    records: pd.DataFrame, metric: str = "sensitivity_loss", label: str = "validation loss (nats)"
) -> Figure:
    """One panel for each dataset: the metric when the tuned learning rate is multiplied by a factor."""
    names = list(pd.unique(records["dataset"])) if len(records) else ["no records"]
    fig, axes = plotting.figure(columns=2, cols=len(names), height=7.0)
    history = rec.history(records, metric) if len(records) and metric in records else pd.DataFrame()
    for ax, name in zip(np.atleast_1d(axes).ravel(), names, strict=True):
        part = history[history["dataset"] == name] if len(history) else history
        _curve(ax, part, "step", "learning rate over the tuned one", label)
        ax.set_title(plotting.label(name), fontsize=8)
    plotting.legend(fig)
    return fig


def costs(records: pd.DataFrame, metric: str, label: str) -> Figure:
    """What a step costs against what the training reaches in steps (filled) and in equal time (open), by method."""
    names = list(pd.unique(records["dataset"])) if len(records) else ["no records"]
    fig, axes = plotting.figure(columns=2, cols=len(names), height=7.5)
    for ax, name in zip(np.atleast_1d(axes).ravel(), names, strict=True):
        part = records[records["dataset"] == name] if len(records) else records
        ax.set_title(plotting.label(name), fontsize=8)
        if len(part) == 0:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "x")
        for method, rows in part.groupby("method", sort=False):
            look = {k: v for k, v in plotting.style(str(method)).items() if k in ("color", "marker", "label")}
            x = float(rows["step_ratio"].median())
            ax.plot(x, rows[metric].mean(), linestyle="", **look)
            hollow = look | {"label": None, "markerfacecolor": "none"}
            ax.plot(x, rows[f"equal_time_{metric}"].mean(), linestyle="", **hollow)
        ax.set(xlabel="time of a step over AdamW's", ylabel=label)
    plotting.legend(fig)
    return fig


def all_figures(
    records: pd.DataFrame, metric: str, label: str, swept: tuple[str, str] | None = None
) -> Iterator[tuple[str, Figure]]:
    """``curves``, ``sensitivity`` (of the ``sensitivity_…`` metric, where it is given), ``costs``."""
    yield "curves", curves(records)
    if swept is not None:
        yield "sensitivity", sensitivity(records, *swept)
    yield "costs", costs(records, metric, label)
