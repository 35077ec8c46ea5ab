"""Decide claims: from records to verdicts, and from verdicts to the ledger.

What is measured. A *value per seed* is formed first, then the mean over seeds with its 95 % interval:

- ``value``: the metric, averaged over the claim's datasets;
- ``ratio``: the metric of ``of`` divided by that of ``over``, the geometric mean over the datasets; the interval is
  that of the log-ratios, paired by seed. Several methods in ``over``: on each dataset (and at each step) the best of
  them by the metric's direction, judged by its mean over the seeds, so that the baseline is never the weaker of two;
- ``difference``: likewise with differences and arithmetic means;
- ``slope``: the exponent fitted to the seed's points; a single seed shows the regression's own interval, which speaks
  of the fit and not of other seeds, and so decides nothing;
- ``custom``: what the function returns for each seed, or the one value that it returns if the claim is deterministic;
- ``holds``: the fraction of runs in which the metric is true; no interval.

``where: {step: x}`` takes the history at that step instead of the final value. ``steps: true`` takes all steps, each
a pair of its own, and reduces them within a seed by ``statistic`` (default ``mean``; of a ratio the geometric one).

The verdict. *Reproduced*: the whole interval satisfies the bound (ends included). *Not reproduced*: no point of it
does. *Inconclusive*: it straddles the bound, or there is a single seed of something random. *Not measured*: anything
that the claim needs is missing, NaN or unpaired; the note says what. A deterministic claim is decided by its one
value; if its seeds differ (by more than 1e-9, relative), it is not deterministic and not measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from tensorbench.core.claims import gather
from tensorbench.core.claims.gather import NotMeasured, Runs
from tensorbench.core.claims.models import Claim, Custom, Difference, Holds, Ratio, Slope, Value, Verdict, VerdictName
from tensorbench.core.claims.statistics import Interval, equal, exponent, mean_interval

COLUMNS = [
    "claim", "paper", "package", "experiment", "says", "form", "bound", "measured", "low", "high", "seeds", "verdict",
    "note", "paper_value", "trials",
]  # fmt: skip
_NOTHING = {
    "measured": None,
    "low": None,
    "high": None,
    "paper_value": None,
    "seeds": 0,
    "verdict": "not implemented yet",
}
_STATISTICS: dict[str, Callable[..., Any]] = {"mean": np.mean, "median": np.median, "max": np.max, "min": np.min}


def decide(
    claim: Claim,
    records: pd.DataFrame,
    metrics: Mapping[str, str],
    *,
    missing: Mapping[str, str] | None = None,
    module: ModuleType | None = None,
) -> Verdict:
    """The verdict on ``claim``.

    ``records`` has one row per run (see ``core.records``), ``metrics`` says ``minimize`` or ``maximize`` for each
    metric, ``missing`` gives the reason for runs that are not there (by ``dataset/method``, dataset or method),
    ``module`` holds the functions of ``custom`` claims. Never raises because of what the records hold: that is a
    verdict.
    """
    verdict = Verdict(
        claim=claim.id, paper=claim.paper, says=claim.says, form=claim.form, bound=claim.bound, verdict="not measured",
        note=claim.note, paper_value=claim.paper_value,
    )  # fmt: skip
    try:
        found = gather.runs(claim, records, missing or {})
        if isinstance(claim.spec, Holds):
            return _decide_holds(verdict, found, claim.spec)
        values, remark = _per_seed(claim, found, metrics, module)
        interval, why = _interval(claim, found, values)
    except NotMeasured as reason:
        return dataclasses.replace(verdict, note=_notes(str(reason), claim.note))
    return dataclasses.replace(
        verdict, measured=interval.mean, low=interval.low, high=interval.high, seeds=len(values),
        verdict=_verdict(interval, claim), note=_notes(why, remark, claim.note),
    )  # fmt: skip


def _per_seed(
    claim: Claim, found: Runs, metrics: Mapping[str, str], module: ModuleType | None
) -> tuple[np.ndarray, str]:
    """One value per seed (of a ratio: its logarithm), and a remark for the note."""
    spec = claim.spec
    if isinstance(spec, Value):
        numbers = gather.points(found, spec.metric, spec)
        reduced = {key: _STATISTICS[spec.statistic or "mean"](values) for key, (_, values) in numbers.items()}
        return np.array([np.mean([reduced[d, spec.of, s] for d in found.datasets]) for s in found.seeds]), ""
    if isinstance(spec, Ratio | Difference):
        return _compare(spec, found, metrics)
    if isinstance(spec, Slope):
        try:
            curves = gather.growth(found, spec)
            return np.array([exponent(*curves[seed]).mean for seed in found.seeds]), ""
        except ValueError as error:
            raise NotMeasured(str(error)) from error
    return _custom(claim, found, module), ""


def _compare(spec: Ratio | Difference, found: Runs, metrics: Mapping[str, str]) -> tuple[np.ndarray, str]:
    numbers = gather.points(found, spec.metric, spec)
    if isinstance(spec, Ratio):
        gather.positive(spec.metric, numbers)
    best_of = np.argmax if metrics.get(spec.metric) == "maximize" else np.argmin
    per_dataset, chosen = [], {}
    for dataset in found.datasets:
        arrays = gather.paired(numbers, dataset, found.methods, found.seeds)
        baselines = np.stack([arrays[method] for method in spec.over])  # method × seed × step
        best = best_of(baselines.mean(axis=1), axis=0)
        baseline = np.take_along_axis(baselines, best[None, None, :], axis=0)[0]
        ours = arrays[spec.of]
        gap = np.log(ours) - np.log(baseline) if isinstance(spec, Ratio) else ours - baseline
        per_dataset.append(_STATISTICS[spec.statistic or "mean"](gap, axis=1))
        chosen[dataset] = " or ".join(dict.fromkeys(spec.over[index] for index in best))
    remark = ""
    if len(spec.over) > 1:
        names = dict.fromkeys(chosen.values())
        each = next(iter(names)) if len(names) == 1 else ", ".join(f"{name} on {d}" for d, name in chosen.items())
        remark = f"best of the baselines: {each}"
    return np.mean(per_dataset, axis=0), remark


def _custom(claim: Claim, found: Runs, module: ModuleType | None) -> np.ndarray:
    spec = claim.spec
    assert isinstance(spec, Custom)
    function = getattr(module, spec.function, None)
    if not callable(function):
        raise NotMeasured(f"the experiment module has no function {spec.function}(records)")
    said = f"{spec.function}(records)"
    try:
        values = np.atleast_1d(np.asarray(function(found.frame), dtype=float))
    except Exception as error:
        raise NotMeasured(f"{said} raised {type(error).__name__}: {error}") from error
    if values.ndim != 1 or not values.size:
        raise NotMeasured(f"{said} must return one value per seed; it returned an array of shape {values.shape}")
    if not np.isfinite(values).all():
        raise NotMeasured(f"{said} returned {', '.join(f'{value:g}' for value in values[~np.isfinite(values)])}")
    if values.size != len(found.seeds) and not (values.size == 1 and claim.deterministic):
        one = " (one value for all needs `deterministic: true`)" if values.size == 1 else ""
        raise NotMeasured(
            f"{said} must return one value per seed{one}; it returned {_count(values.size, 'value')} "
            f"for {_count(len(found.seeds), 'seed')}"
        )
    return values


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _exponential(log_ratio: float) -> float:
    """exp, infinite where it overflows."""
    with np.errstate(over="ignore"):
        return float(np.exp(log_ratio))


def _interval(claim: Claim, found: Runs, values: np.ndarray) -> tuple[Interval, str]:
    """The measured value with its interval on the scale of the bound, and a remark for the note."""
    back = _exponential if isinstance(claim.spec, Ratio) else float
    if claim.deterministic:
        measured = np.array([back(value) for value in values])
        if not equal(measured):
            raise NotMeasured(
                f"the claim says deterministic, but its seeds give {measured.min():g} … {measured.max():g}; "
                "give it seeds and an interval instead"
            )
        return Interval(float(measured[0]), None, None, values.size), ""
    interval = mean_interval(values)
    why = "one seed of a random quantity decides nothing" if values.size == 1 else ""
    if values.size == 1 and isinstance(claim.spec, Slope):
        interval = exponent(*gather.growth(found, claim.spec)[found.seeds[0]])
        why += "" if interval.low is None else "; the interval is the fit's own"
    if interval.low is None or interval.high is None:
        return Interval(back(interval.mean), None, None, values.size), why
    return Interval(back(interval.mean), back(interval.low), back(interval.high), values.size), why


def _verdict(interval: Interval, claim: Claim) -> VerdictName:
    assert not isinstance(claim.spec, Holds)
    lowest, highest = claim.spec.bounds
    if interval.n == 1 and not claim.deterministic:
        return "inconclusive"
    low, high = interval.low, interval.high
    if low is None or high is None:  # deterministic
        low = high = interval.mean
    if lowest <= low and high <= highest:
        return "reproduced"
    return "not reproduced" if high < lowest or low > highest else "inconclusive"


def _decide_holds(verdict: Verdict, found: Runs, spec: Holds) -> Verdict:
    truth = gather.booleans(found, spec)
    false = [f"{d}/{m} seed {s}" for (d, m, s), value in truth.items() if not value]
    why = ""
    if false:
        why = f"false in {len(false)} of {len(truth)} runs: {', '.join(false[:3])}{', …' if len(false) > 3 else ''}"
    return dataclasses.replace(
        verdict, measured=1 - len(false) / len(truth), seeds=len(found.seeds), note=_notes(why, verdict.note),
        verdict="not reproduced" if false else "reproduced",
    )  # fmt: skip


def _notes(*texts: str) -> str:
    return "; ".join(text.strip() for text in texts if text and text.strip())


def ledger(verdicts: Iterable[Verdict], papers: Mapping[str, Any]) -> pd.DataFrame:
    """One row per claim, in the order of ``papers``, and for each paper without claims one row ``not implemented yet``.

    ``papers`` maps the key of each paper to something with ``package`` and ``title`` (attributes or keys).
    """
    by_paper: dict[str, list[Verdict]] = {key: [] for key in papers}
    for verdict in verdicts:
        by_paper.setdefault(verdict.paper, []).append(verdict)
    rows = []
    for key, own in by_paper.items():
        for verdict in own:
            row = dataclasses.asdict(verdict)
            row["package"] = row["package"] or _field(papers.get(key), "package")
            rows.append(row)
        if not own:
            paper = {"paper": key, "package": _field(papers[key], "package"), "says": _field(papers[key], "title")}
            rows.append(dict.fromkeys(COLUMNS, "") | _NOTHING | paper)
    numbers = dict.fromkeys(["measured", "low", "high", "paper_value"], float)
    return pd.DataFrame(rows, columns=COLUMNS).astype({**numbers, "seeds": int})


def _field(paper: Any, name: str) -> str:
    if isinstance(paper, Mapping):
        return str(paper.get(name, ""))
    return str(getattr(paper, name, ""))
