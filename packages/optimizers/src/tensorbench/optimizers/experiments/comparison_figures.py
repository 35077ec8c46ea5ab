"""Figures that every comparison has: loss against steps and against time, and what the learning rate is worth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec

_TOGETHER = 10  # lines that can still be told apart in one panel


def curves(records: pd.DataFrame, metric: str = "valid_loss", label: str = "validation loss (nats)") -> Figure:
    """A row of panels for each dataset: the metric against steps, and against time in steps of AdamW.

    Many methods are split in two rows, those of papers and the others, AdamW standing in both.
    """
    rows = _rows(records) if len(records) else [("no records", records)]
    fig, axes = plotting.figure(columns=2, rows=len(rows), cols=2, height=5.0 * len(rows) + 2.5)
    for row, (title, part) in zip(np.atleast_2d(axes), rows, strict=True):
        history = rec.history(part, metric) if len(part) else pd.DataFrame()
        _curve(row[0], history, "step", "steps", label)
        if len(history):
            ratios = part.groupby("method")["step_ratio"].median()
            history = history.assign(time=history["step"] * history["method"].map(ratios))
        _curve(row[1], history, "time", "time (steps of AdamW)", label)
        for ax in row:
            ax.set_title(title, fontsize=8)
    plotting.legend(fig)
    return fig


def _rows(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    rows = []
    for name in pd.unique(records["dataset"]):
        part = records[records["dataset"] == name]
        title = plotting.label(str(name))
        if part["method"].nunique() <= _TOGETHER:
            rows.append((title, part))
            continue
        ours = part["paper"].notna() & (part["paper"] != "")
        rows.append((f"{title}, rules of the ten papers", part[ours | (part["method"] == "adamw")]))
        rows.append((f"{title}, other rules", part[~ours]))
    return rows


def _curve(ax: Axes, part: pd.DataFrame, x: str, x_label: str, y_label: str) -> None:
    """Medians over seeds with quartiles: one training that diverged must not hide the others."""
    if len(part) == 0:
        plotting.empty(ax)
        return
    ax.set(xlabel=x_label, ylabel=y_label)
    plotting.series(ax, part, x, "value", reducer="median", log="xy")
    values = part["value"][np.isfinite(part["value"]) & (part["value"] > 0)]
    if len(values):
        ax.set_ylim(0.8 * values.quantile(0.005), 1.25 * values.quantile(0.97))


def sensitivity(
    records: pd.DataFrame, metric: str = "sensitivity_loss", label: str = "validation loss (nats)"
) -> Figure:
    """One panel for each dataset: the metric when the tuned learning rate is multiplied by a factor."""
    names = list(pd.unique(records["dataset"])) if len(records) else ["no records"]
    fig, axes = plotting.figure(columns=2, cols=len(names), height=7.0)
    history = rec.history(records, metric) if len(records) and metric in records else pd.DataFrame()
    if len(history):  # rules that were trained at the tuned rate alone have nothing to show
        rates = history.groupby("method")["step"].nunique()
        history = history[history["method"].map(rates) > 1]
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
        plotting.log_axis(ax, "xy")
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
