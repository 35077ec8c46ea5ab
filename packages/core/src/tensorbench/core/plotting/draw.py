"""Drawing records: lines with bands and bars with error bars, both 95 % intervals over seeds.

Where the axis is logarithmic, the mean and its interval are those of the logarithms (a geometric mean), which is what
the ledger's ratios use too and which cannot run below zero.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from tensorbench.core.claims.statistics import mean_interval
from tensorbench.core.errors import unknown
from tensorbench.core.plotting.canvas import empty, log_axis
from tensorbench.core.plotting.labels import label
from tensorbench.core.plotting.looks import style, styles

_MANY = 25  # points of a line; beyond, markers stand at even distances instead


def series(
    ax: Axes,
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str | None = "method",
    reducer: str = "mean",
    *,
    log: str = "",
    order: Iterable[str] | None = None,
) -> None:
    """One line per ``by`` of ``y`` over ``x``, with a band over seeds.

    ``frame`` is long: records (one row per run) or a history (``x="step", y="value"``). Several rows of one seed at
    one x (several datasets, say) are averaged first. ``reducer="mean"`` draws the mean with its 95 % interval,
    ``"median"`` the median with the band between the quartiles. ``log`` is ``"x"``, ``"y"`` or ``"xy"``. Values that
    are missing, not finite or (on a logarithmic axis) not positive are left out. Labels the axes, unless they have
    labels.
    """
    if reducer not in ("mean", "median"):
        raise ValueError(unknown("reducer", reducer, ["mean", "median"]))
    if log:
        log_axis(ax, log)
    _need(frame, [x, y, *([by] if by else [])])
    frame = _clean(
        frame, [x, y], [name for name, scale in ((x, ax.get_xscale()), (y, ax.get_yscale())) if scale == "log"]
    )
    _axis_labels(ax, x, y)
    if frame.empty:
        return empty(ax)
    logarithmic = ax.get_yscale() == "log"
    names = _ordered(frame[by], order) if by else [None]
    looks = {name: style(name) for name in names if name} if by == "method" else styles(map(str, names))
    for name in names:
        part = frame if name is None else frame[frame[by] == name]
        if part.empty:
            continue
        keys = [x, "seed"] if "seed" in part else [x]
        values = _centres(part, keys, y, logarithmic)
        table = [(at, *_reduce(group.to_numpy(), reducer, logarithmic)) for at, group in values.groupby(level=0)]
        at, middle, low, high = (np.asarray(column, dtype=float) for column in zip(*table, strict=True))
        look = dict(looks[str(name)] if name is not None else styles([y])[y] | {"label": None})
        ax.plot(at, middle, markevery=0.09 if len(at) > _MANY else None, **look)
        if np.isfinite(low).any():
            ax.fill_between(at, low, high, color=look["color"], alpha=0.18, linewidth=0)


def bars(
    ax: Axes,
    records: pd.DataFrame,
    metric: str,
    group: str = "dataset",
    by: str = "method",
    *,
    log: bool = False,
    order: Iterable[str] | None = None,
    groups: Iterable[str] | None = None,
) -> None:
    """Bars of ``metric`` side by side for each ``by`` within each ``group``, with 95 % intervals over seeds.

    With ``log=True`` the values are points with error bars instead: on a logarithmic axis the length of a bar depends
    on where the axis happens to start. Missing or not finite values leave a gap. ``order`` and ``groups`` set (and
    restrict) what is shown; the default is the order of the records.
    """
    if log:
        log_axis(ax, "y")
    _need(records, [metric, group, by])
    records = _clean(records, [metric], [metric] if log else [])
    _axis_labels(ax, None, metric)
    if records.empty:
        return empty(ax)
    places = _ordered(records[group], groups)
    names = [name for name in _ordered(records[by], order) if (records[by] == name).any()]
    looks = {name: style(name) for name in names} if by == "method" else styles(map(str, names))
    # One lone group would make bars as wide as a house.
    width = 0.8 / max(len(names), 2)
    for k, name in enumerate(names):
        at, middle, low, high = [], [], [], []
        for place, value in enumerate(places):
            part = records[(records[group] == value) & (records[by] == name)]
            if part.empty:
                continue
            per_seed = _centres(part, ["seed"], metric, log) if "seed" in part else part[metric]
            centre, below, above = _reduce(per_seed.to_numpy(), "mean", log)
            at.append(place + (k - (len(names) - 1) / 2) * width)
            middle.append(centre)
            low.append(centre - below if np.isfinite(below) else 0.0)
            high.append(above - centre if np.isfinite(above) else 0.0)
        if not at:
            continue
        look = looks[str(name)]
        spread = [low, high] if np.any(low) or np.any(high) else None
        if log:
            ax.errorbar(at, middle, yerr=spread, color=look["color"], marker=look["marker"], label=look["label"],
                        linestyle="none", markersize=5, elinewidth=1, capsize=2)  # fmt: skip
        else:
            ax.bar(at, middle, 0.92 * width, color=look["color"], label=look["label"], edgecolor="none", alpha=0.9)
            if spread:
                ax.errorbar(at, middle, yerr=spread, color="#222222", linestyle="none", elinewidth=0.8, capsize=2)
    texts = [label(str(place)) for place in places]
    fig = ax.get_figure(root=True)
    slot = (2.54 * (fig.get_figwidth() if fig else 3.15) / _columns(ax) - 1.4) / len(places)
    crowded = max(map(len, texts)) * 0.15 > slot  # cm; a letter of 8 pt is about 1.5 mm wide
    ax.set_xticks(range(len(places)), texts, rotation=25 if crowded else 0, ha="right" if crowded else "center",
                  rotation_mode="anchor" if crowded else "default")  # fmt: skip
    ax.set_xlim(-0.6, len(places) - 0.4)
    ax.grid(False, axis="x")
    ax.tick_params(axis="x", length=0)


def _columns(ax: Axes) -> int:
    spec = ax.get_subplotspec()
    return spec.get_gridspec().ncols if spec else 1


def _need(frame: pd.DataFrame, columns: list[str]) -> None:
    for name in columns:
        if name not in frame.columns and len(frame.columns):
            raise ValueError(unknown("column", name, [c for c in map(str, frame.columns) if not c.startswith("_")]))


def _clean(frame: pd.DataFrame, numbers: list[str], positive: list[str]) -> pd.DataFrame:
    if frame.empty:
        return frame
    frame = frame.assign(**{name: pd.to_numeric(frame[name], errors="coerce").astype(float) for name in numbers})
    keep = np.isfinite(frame[numbers].to_numpy()).all(axis=1) & (frame[positive].to_numpy() > 0).all(axis=1)
    return frame[keep]


def _ordered(values: pd.Series, order: Iterable[str] | None) -> list:
    return list(order) if order is not None else list(pd.unique(values))


def _centres(frame: pd.DataFrame, keys: list[str], column: str, logarithmic: bool) -> pd.Series:
    """Mean of a column in each group, geometric where its axis is logarithmic."""
    if not logarithmic:
        return frame.groupby(keys, sort=True)[column].mean()
    return np.exp(np.log(frame[column]).groupby([frame[key] for key in keys], sort=True).mean())


def _reduce(values: np.ndarray, reducer: str, logarithmic: bool) -> tuple[float, float, float]:
    """Centre, lower and upper end; the ends are NaN for a single value."""
    if reducer == "median":
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        return (middle, low, high) if values.size > 1 else (middle, np.nan, np.nan)
    interval = mean_interval(np.log(values) if logarithmic else values)
    ends = np.array([interval.mean, interval.low, interval.high], dtype=float)  # None becomes NaN
    middle, low, high = (np.exp(ends) if logarithmic else ends).tolist()
    return middle, low, high


def _axis_labels(ax: Axes, x: str | None, y: str) -> None:
    if x is not None and not ax.get_xlabel():
        ax.set_xlabel(label(x))
    if y != "value" and not ax.get_ylabel():
        ax.set_ylabel(label(y))
