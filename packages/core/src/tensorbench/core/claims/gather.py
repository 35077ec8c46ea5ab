"""The numbers that a claim is about, taken from the records, or the reason why they are not there.

No verdict is drawn from missing data: whatever a claim needs and the records do not hold (a run, a metric, a step, a
number instead of NaN) raises :class:`NotMeasured` with a sentence for the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tensorbench.core.claims.models import Claim, Holds, Slope, Stepped
from tensorbench.core.errors import unknown

_SHOWN = 3  # examples in a message
# A run's points of one metric: the steps, and the value at each. A final value is one point without a step.
Points = tuple[np.ndarray, np.ndarray]


class NotMeasured(Exception):
    """Why a claim cannot be decided on these records, as a sentence for the ledger's note."""


@dataclass(frozen=True)
class Runs:
    """The runs that a claim needs, all there: rows of the records, with every dataset × method × seed once."""

    frame: pd.DataFrame
    datasets: list[str]
    methods: list[str]
    seeds: list[int]


def runs(claim: Claim, records: pd.DataFrame, missing: Mapping[str, str]) -> Runs:
    """The rows that ``claim`` needs. ``missing``: reason by ``dataset/method``, dataset or method."""
    if "trial" in records:
        records = records[records["trial"].isna()]  # tuning runs choose parameters; they are evidence of nothing
    absent = [key.split("/", 1) for key in missing if "/" in key]
    if records.empty and not absent:
        raise NotMeasured("no records at this scale" + _because(list(dict.fromkeys(missing.values()))))
    there = {column: list(pd.unique(records[column])) if len(records) else [] for column in ("dataset", "method")}
    spec = claim.spec
    named = _named_methods(claim)
    datasets = spec.dataset_names() or list(dict.fromkeys([*there["dataset"], *(dataset for dataset, _ in absent)]))
    methods = named or list(dict.fromkeys([*there["method"], *(method for _, method in absent)]))
    frame = records[records["dataset"].isin(datasets) & records["method"].isin(methods)] if len(records) else records
    seeds: dict[tuple[str, str], list[int]] = {(d, m): [] for d in datasets for m in methods}
    for dataset, method, seed in zip(
        frame.get("dataset", []), frame.get("method", []), frame.get("seed", []), strict=True
    ):
        seeds[dataset, method].append(seed)
    holes = {f"{d}/{m}": missing.get(f"{d}/{m}") or missing.get(d) or missing.get(m) or "no record at this scale"
             for (d, m), found in seeds.items() if not found}  # fmt: skip
    if holes:
        raise NotMeasured(_holes(holes))
    for (dataset, method), found in seeds.items():
        if len(set(found)) < len(found):
            twice = next(seed for seed in found if found.count(seed) > 1)
            raise NotMeasured(f"{dataset}/{method} has several records of seed {twice}; delete them and run again")
    sets = {job: tuple(sorted(found)) for job, found in seeds.items()}
    if len(set(sets.values())) > 1:
        examples = [next(job for job in sets if sets[job] == kind) for kind in dict.fromkeys(sets.values())][:2]
        listed = ", ".join(f"{'/'.join(job)} has {_list(sets[job])}" for job in examples)
        raise NotMeasured(f"the seeds do not pair: {listed}")
    return Runs(frame, datasets, methods, list(next(iter(sets.values()))))


def _named_methods(claim: Claim) -> list[str]:
    spec: Any = claim.spec
    of = [spec.of] if isinstance(spec.of, str) else list(spec.of or [])
    return [*of, *getattr(spec, "over", [])]


def finals(found: Runs, metric: str) -> dict[tuple[str, str, int], float]:
    """The final value of ``metric`` in each run, by (dataset, method, seed); all finite."""
    if metric not in found.frame or metric.startswith("_"):
        logged = [name for name in _metrics(found.frame) if name != metric]
        raise NotMeasured(f"no run logs it: {unknown('metric', metric, logged)}")
    values = {}
    for key, value in _by_run(found, found.frame[metric]):
        if not isinstance(value, bool | np.bool_ | int | float | np.number) and not pd.isna(value):
            raise NotMeasured(f"{metric} is not a number in {_run(key)}: {value!r}")
        values[key] = float(value)
    _all_finite(metric, {key: np.array([value]) for key, value in values.items()})
    return values


def points(found: Runs, metric: str, part: Stepped | None = None) -> dict[tuple[str, str, int], Points]:
    """The points of ``metric`` in each run: the final value, one step, or all steps (``part=None``: all steps)."""
    if part is not None and part.where is None and not part.steps:
        return {key: (np.array([np.nan]), np.array([value])) for key, value in finals(found, metric).items()}
    if "_history" not in found.frame:
        raise NotMeasured("the records hold no histories")
    result = {}
    for key, history in _by_run(found, found.frame["_history"]):
        if metric not in history:
            raise NotMeasured(f"no history in {_run(key)}: {unknown('history', metric, history)}")
        latest = dict(zip(*history[metric], strict=True))  # a step logged twice: the later value counts
        steps = np.array(sorted(latest), dtype=float)
        values = np.array([latest[step] for step in sorted(latest)], dtype=float)
        if part is not None and part.where is not None:
            at = np.isclose(steps, part.where.step, rtol=1e-9, atol=0)
            if not at.any():
                raise NotMeasured(f"{metric} has no step {part.where.step:g} in {_run(key)}; its steps: {_list(steps)}")
            steps, values = steps[at], values[at]
        result[key] = (steps, values)
    _all_finite(metric, {key: values for key, (_, values) in result.items()})
    return result


def growth(found: Runs, spec: Slope) -> dict[int, tuple[np.ndarray, np.ndarray, list[str]]]:
    """For each seed the points (x, y) of the slope and the curve that each belongs to.

    A curve is what the parameter is swept along: against ``step`` one per dataset and method; against a parameter of
    the datasets one per method, across the datasets; against one of the methods one per dataset, across the methods.
    """
    if spec.against == "step":
        along = {key: (*xy, f"{key[0]}/{key[1]}") for key, xy in points(found, spec.metric).items()}
    else:
        column = _parameter(found.frame, spec.against)
        value = finals(found, spec.metric)
        along = {}
        for key, x in _by_run(found, found.frame[column]):
            number = float(x) if isinstance(x, int | float | np.number) else np.nan
            if not np.isfinite(number):
                raise NotMeasured(f"{column} is not a number in {_run(key)}: {x!r}")
            curve = key[1] if column.startswith("dataset.") else key[0]
            along[key] = (np.array([number]), np.array([value[key]]), curve)
    curves: dict[int, tuple[np.ndarray, np.ndarray, list[str]]] = {}
    for seed in found.seeds:
        own = [entry for (_, _, other), entry in along.items() if other == seed]
        names = [curve for x, _, curve in own for _ in x]
        curves[seed] = (np.concatenate([x for x, _, _ in own]), np.concatenate([y for _, y, _ in own]), names)
    return curves


def booleans(found: Runs, spec: Holds) -> dict[tuple[str, str, int], bool]:
    """The boolean metric of each run."""
    values = finals(found, spec.metric)
    other = {key: value for key, value in values.items() if value not in (0.0, 1.0)}
    if other:
        key, value = next(iter(other.items()))
        raise NotMeasured(f"{spec.metric} is not a boolean: it is {value:g} in {_run(key)}")
    return {key: bool(value) for key, value in values.items()}


def paired(numbers: Mapping[tuple[str, str, int], Points], dataset: str, methods: list[str], seeds: list[int]) -> dict:
    """The points of one dataset as arrays seeds × steps, one per method; all must have the same steps."""
    steps = numbers[dataset, methods[0], seeds[0]][0]
    for method in methods:
        for seed in seeds:
            other = numbers[dataset, method, seed][0]
            if other.shape != steps.shape or not np.array_equal(other, steps, equal_nan=True):
                raise NotMeasured(
                    f"the steps do not pair: {_run((dataset, methods[0], seeds[0]))} has {_list(steps)}, "
                    f"{_run((dataset, method, seed))} has {_list(other)}"
                )
    return {method: np.stack([numbers[dataset, method, seed][1] for seed in seeds]) for method in methods}


def positive(metric: str, numbers: Mapping[tuple[str, str, int], Points]) -> None:
    """Refuse values that have no logarithm."""
    for key, (_, values) in numbers.items():
        if (values <= 0).any():
            raise NotMeasured(f"a ratio needs positive values; {metric} is {values.min():g} in {_run(key)}")


def _by_run(found: Runs, column: pd.Series):
    frame = found.frame
    keys = zip(frame["dataset"], frame["method"], frame["seed"], strict=True)
    return zip(keys, column, strict=True)


def _metrics(frame: pd.DataFrame) -> list[str]:
    known = {"dataset", "method", "paper", "seed", "trial", "scale", "seconds", "record"}
    return [
        name
        for name in map(str, frame.columns)
        if name not in known and not name.startswith(("_", "dataset.", "method."))
    ]


def _parameter(frame: pd.DataFrame, name: str) -> str:
    parameters = [column for column in map(str, frame.columns) if column.startswith(("dataset.", "method."))]
    matches = [column for column in parameters if name in (column, column.split(".", 1)[1])]
    # A parameter that none of these runs has is a column of other methods' or datasets'.
    matches = [column for column in matches if frame[column].notna().any()]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise NotMeasured(f"{name!r} is a parameter of both datasets and methods; write {' or '.join(sorted(matches))}")
    raise NotMeasured(unknown("parameter", name, ["step", *parameters]))


def _all_finite(metric: str, values: Mapping[tuple[str, str, int], np.ndarray]) -> None:
    bad = {key: array[~np.isfinite(array)][0] for key, array in values.items() if not np.isfinite(array).all()}
    if not bad:
        return
    if len(bad) == len(values) and all(np.isnan(value) for value in bad.values()):
        raise NotMeasured(f"{metric} is NaN or not logged in any of the {len(bad)} runs")
    kinds = "NaN or not logged" if all(np.isnan(value) for value in bad.values()) else "not finite"
    raise NotMeasured(f"{metric} is {kinds} in {_some([_run(key) for key in bad])}")


def _run(key: tuple[str, str, int]) -> str:
    return f"{key[0]}/{key[1]} seed {key[2]}"


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def _list(values: Any) -> str:
    texts = [f"{value:g}" for value in values]
    return ", ".join(texts) if len(texts) <= 6 else f"{', '.join(texts[:3])}, …, {texts[-1]}"


def _holes(holes: Mapping[str, str]) -> str:
    """The jobs without a record, those with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for job, reason in holes.items():
        by_reason.setdefault(reason, []).append(job)
    return "; ".join(f"{_some(jobs)}: {reason}" for reason, jobs in by_reason.items())


def _because(reasons: list[str]) -> str:
    return f": {_some(reasons)}" if reasons else ""
