"""How long deciding takes: 10,000 records as 100 experiments with a claim of every form, and as one big experiment.

Run as ``python packages/core/benchmarks/decide.py``. The budget is 10 s for collecting and deciding 10,000 records.
"""

from __future__ import annotations

import logging
import sys
import time
import types

import numpy as np
import pandas as pd

from tensorbench.core.claims import Claim
from tensorbench.core.claims.decide import decide, ledger

METRICS = {"rmse": "minimize", "exact": "maximize"}
BUDGET = 10.0


def records(datasets: int, methods: int, seeds: int, points: int, rng: np.random.Generator) -> pd.DataFrame:
    steps = list(range(1, points + 1))
    return pd.DataFrame(
        {
            "dataset": f"d{d}", "method": f"m{m}", "seed": s, "trial": None, "dataset.points": 10 * 2**d,
            "rmse": float(rng.lognormal()), "exact": True,
            "_history": {"rmse": (steps, rng.lognormal(size=points).tolist())},
        }
        for d in range(datasets) for m in range(methods) for s in range(seeds)
    )  # fmt: skip


def claims() -> list[Claim]:
    pair = {"metric": "rmse", "of": "m0", "over": ["m1", "m2"], "at_most": 1}
    forms: list[dict] = [
        {"value": {"metric": "rmse", "of": "m0", "at_most": 1}},
        {"ratio": pair},
        {"ratio": pair | {"steps": True, "statistic": "median"}},
        {"difference": pair | {"where": {"step": 3}}},
        {"slope": {"metric": "rmse", "of": "m0", "against": "points", "at_most": 1}},
        {"slope": {"metric": "rmse", "of": "m0", "against": "step", "at_most": 1}},
        {"holds": {"metric": "exact"}},
        {"custom": {"function": "mean", "at_most": 1}},
    ]
    return [Claim.model_validate({"id": f"p.{i}", "paper": "p", "says": "…", **form}) for i, form in enumerate(forms)]


def measure(experiments: int, datasets: int, methods: int, seeds: int) -> float:
    rng = np.random.default_rng(0)
    frames = [records(datasets, methods, seeds, 50, rng) for _ in range(experiments)]
    module = types.ModuleType("experiment")
    module.mean = lambda frame: frame.groupby("seed")["rmse"].mean()  # type: ignore[attr-defined]
    start = time.perf_counter()
    verdicts = [decide(claim, frame, METRICS, module=module) for frame in frames for claim in claims()]
    table = ledger(verdicts, {})
    seconds = time.perf_counter() - start
    measured = (table["verdict"] != "not measured").sum()
    logging.info("%5d records, %3d experiments, %2d seeds: %4d verdicts (%d measured) in %.2f s",
                 sum(map(len, frames)), experiments, seeds, len(table), measured, seconds)  # fmt: skip
    return seconds


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    worst = max(measure(100, 4, 5, 5), measure(50, 4, 5, 10), measure(1, 10, 100, 10))
    sys.exit(f"{worst:.1f} s exceeds the budget of {BUDGET:g} s" if worst > BUDGET else 0)
