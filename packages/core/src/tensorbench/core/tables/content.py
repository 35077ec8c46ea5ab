"""What stands in a table: an experiment's methods and metrics, the ledger, or any data frame."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from tensorbench.core.claims.statistics import mean_interval
from tensorbench.core.plotting.labels import label
from tensorbench.core.tables.numbers import interval, number, span

_WIDE = 6  # columns of numbers that fit the paper's width beside each other
_PAIR = 2  # values too few for an interval: shown themselves
_ARROWS = {"minimize": " ↓", "maximize": " ↑"}


@dataclass(frozen=True)
class Cell:
    """A cell for people (``text``, ``bold``) with the numbers behind it."""

    text: str
    bold: bool = False
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass
class Table:
    """A table ready to be written.

    ``columns`` are complete headings. Where ``groups`` is not empty, they can be set in two levels: ``groups`` is a
    list of (heading, number of columns) over ``short``. ``align`` has ``l`` or ``r`` for each column (``p`` for long
    text), ``blocks`` the rows that begin a new block, ``raw`` the plain numbers for the CSV file.
    """

    columns: list[str]
    rows: list[list[Cell]]
    raw: pd.DataFrame
    align: str
    short: list[str] = field(default_factory=list)
    groups: list[tuple[str, int]] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)


def experiment_table(
    records: pd.DataFrame,
    *,
    datasets: Sequence[str],
    methods: Sequence[str],
    metrics: Mapping[str, str],
    trials: Mapping[str, int] | None = None,
    jobs: Collection[tuple[str, str]] | None = None,
) -> Table:
    """Mean ± half the 95 % interval over seeds for every method, dataset and metric; of two seeds both values.

    With two values Student's interval is 12.7 times their half distance wide on each side: it would say nothing, and
    the mean's digits would be rounded away with it.

    ``metrics`` says ``minimize`` or ``maximize`` for each metric; the best mean of each dataset and metric is bold
    (all of those that read the same, none if all do). Boolean metrics count the runs in which they are true. A run
    without the metric leaves a dash; NaN in some or all seeds says so and competes for nothing. ``trials`` adds a
    column with each method's tuning trials, if any has some. Few columns stand as methods × (metric, dataset), many
    as one block per dataset, without rows for what is no job (``jobs``: the pairs of dataset and method that are).
    """
    if "trial" in records:
        records = records[records["trial"].isna()]
    raw = _summary(records, datasets, methods, metrics)
    cells = _cells(raw, metrics)
    tuned = trials if trials and any(trials.values()) else None
    if tuned:
        raw["trials"] = raw["method"].map(tuned)
    pairs = [
        (metric, dataset)
        for metric in metrics
        for dataset in datasets
        # A metric that is not defined on a dataset is no column; a dataset without any run is.
        if any((dataset, m, metric) in cells for m in methods) or not any(key[0] == dataset for key in cells)
    ]
    if len(pairs) <= max(_WIDE, len(metrics)):
        return _wide(raw, cells, datasets, methods, metrics, tuned, pairs)
    takes = {d: [m for m in methods if jobs is None or (d, m) in jobs] for d in datasets}
    return _long(raw, cells, takes, metrics, tuned)


def _wide(raw, cells, datasets, methods, metrics, tuned, pairs) -> Table:
    one = len({dataset for _, dataset in pairs}) <= 1
    titles = {metric: label(metric) + _ARROWS.get(metrics[metric], "") for metric in metrics}
    columns = ["method"] + [titles[m] if one else f"{titles[m]} · {label(d)}" for m, d in pairs]
    short = ["method"] + [titles[m] if one else label(d) for m, d in pairs]
    counts = {metric: sum(m == metric for m, _ in pairs) for metric in metrics}
    groups = [] if one else [("", 1), *((titles[metric], count) for metric, count in counts.items() if count)]
    rows = [[Cell(label(m)), *(cells.get((d, m, metric), Cell("–")) for metric, d in pairs)] for m in methods]
    table = Table(columns, rows, raw, "l" + "r" * len(pairs), short, groups)
    return _with_trials(table, list(methods), tuned)


def _long(raw, cells, takes: Mapping[str, Sequence[str]], metrics, tuned) -> Table:
    columns = ["dataset", "method", *(label(metric) + _ARROWS.get(way, "") for metric, way in metrics.items())]
    rows: list[list[Cell]] = []
    blocks: list[int] = []
    of: list[str] = []
    for dataset, methods in takes.items():
        if methods:
            blocks.append(len(rows))
        for k, method in enumerate(methods):
            numbers = [cells.get((dataset, method, metric), Cell("–")) for metric in metrics]
            rows.append([Cell("" if k else label(dataset)), Cell(label(method)), *numbers])
            of.append(method)
    return _with_trials(Table(columns, rows, raw, "ll" + "r" * len(metrics), columns, [], blocks[1:]), of, tuned)


def _with_trials(table: Table, methods: list[str], tuned: Mapping[str, int] | None) -> Table:
    if tuned:
        table.columns, table.short = [*table.columns, "trials"], [*table.short, "trials"]
        table.groups += [("", 1)] if table.groups else []
        table.align += "r"
        for row, method in zip(table.rows, methods, strict=True):
            count = tuned.get(method, 0)
            row.append(Cell(str(count) if count else "default", value=count))
    return table


def _summary(
    records: pd.DataFrame, datasets: Sequence[str], methods: Sequence[str], metrics: Mapping[str, str]
) -> pd.DataFrame:
    """One row per dataset, method and metric; ``nan`` counts the runs without a finite number.

    ``low`` and ``high`` are the ends of the interval, of two seeds the two values.
    """
    columns = ["dataset", "method", "metric", "mean", "low", "high", "seeds", "nan", "boolean", "best"]
    groups = dict(list(records.groupby(["dataset", "method"], sort=False))) if len(records) else {}
    rows = []
    for dataset in datasets:
        for method in methods:
            runs = groups.get((dataset, method))
            for metric in metrics:
                if runs is None or metric not in runs or not _was_logged(runs, metric):
                    continue
                numbers = runs[metric].dropna()
                boolean = len(numbers) > 0 and all(isinstance(value, bool | np.bool_) for value in numbers)
                values = pd.to_numeric(runs[metric], errors="coerce").to_numpy(dtype=float)
                finite = values[np.isfinite(values)]
                lost = values.size - finite.size
                if lost or boolean:
                    mean, low, high = (float(finite.mean()) if boolean and not lost else None), None, None
                else:
                    mean, low, high, count = mean_interval(finite)
                    if count == _PAIR:
                        low, high = float(finite.min()), float(finite.max())
                rows.append((dataset, method, metric, mean, low, high, values.size, lost, boolean, False))
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"mean": float, "low": float, "high": float, "best": bool})


def _was_logged(runs: pd.DataFrame, metric: str) -> bool:
    """Whether any run logged the metric, be it NaN; a frame that does not say (``_logged``) needs a number for that."""
    return bool(runs[metric].notna().any()) or any(metric in names for names in runs.get("_logged", []))


def _cells(raw: pd.DataFrame, metrics: Mapping[str, str]) -> dict[tuple[str, str, str], Cell]:
    cells = {}
    for (_, metric), group in raw.groupby(["dataset", "metric"], sort=False):
        texts = {index: _text(row) for index, row in group.iterrows()}
        best: set = set()
        if group["mean"].notna().any() and metric in metrics:
            extreme = group["mean"].idxmax() if metrics[str(metric)] == "maximize" else group["mean"].idxmin()
            best = {index for index in group.index if texts[index] == texts[extreme] and group.loc[index, "nan"] == 0}
            if len(best) == len(group):
                best = set()
        raw.loc[list(best), "best"] = True
        for index, row in group.iterrows():
            numbers = (None if math.isnan(row[key]) else float(row[key]) for key in ("mean", "low", "high"))
            cells[row["dataset"], row["method"], row["metric"]] = Cell(texts[index], index in best, *numbers)
    return cells


def _text(row: pd.Series) -> str:
    if row["nan"]:
        return f"NaN in {row['nan']}/{row['seeds']}"
    if row["boolean"]:
        return f"{round(row['mean'] * row['seeds'])}/{row['seeds']}"
    if row["seeds"] == _PAIR:
        return span(row["low"], row["high"])
    return number(row["mean"], (row["high"] - row["low"]) / 2)


def ledger_table(ledger: pd.DataFrame) -> Table:
    """The ledger for people: what is claimed, the bound, what was measured with its interval, the verdict."""
    columns = ["paper", "claim", "bound", "measured", "interval", "seeds", "verdict", "note"]
    rows = []
    for row in ledger.to_dict("records"):
        rows.append(
            [Cell(row["paper"]), Cell(row["says"]), Cell(row["bound"] or "–"),
             Cell(number(row["measured"]), value=None if pd.isna(row["measured"]) else row["measured"]),
             Cell(interval(row["low"], row["high"]) or "–"), Cell(str(row["seeds"]) if row["seeds"] else "–"),
             Cell(row["verdict"], bold=row["verdict"] == "reproduced"), Cell(row["note"] or "")]
        )  # fmt: skip
    return Table(columns, rows, ledger, "lplrrrlp", columns)


def plain_table(frame: pd.DataFrame) -> Table:
    """Any data frame: numbers to four significant digits, text as it is."""
    columns = [str(name) for name in frame.columns]
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame.columns]
    rows = [[_plain(value) for value in row] for row in frame.itertuples(index=False)]
    return Table(columns, rows, frame, "".join("r" if is_number else "l" for is_number in numeric), columns)


def _plain(value: Any) -> Cell:
    if isinstance(value, bool | np.bool_):
        return Cell("yes" if value else "no")
    if isinstance(value, int | float | np.number):
        return Cell(number(float(value), digits=4), value=float(value) if math.isfinite(value) else None)
    return Cell("–" if value is None or pd.isna(value) else str(value))
