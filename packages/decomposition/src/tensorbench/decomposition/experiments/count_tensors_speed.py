"""Seconds of a Gibbs sweep of BPTD, compositional allocation against naive allocation, and how they grow.

Both are compiled, run in one process with one thread, on the same counts from the same state, which a few sweeps have
brought to typical values. Steps are events (``sweep_seconds``) and communities (``sweep_seconds_by_communities``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import chi2_contingency

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare, growth
from tensorbench.decomposition.counts.bptd import start
from tensorbench.decomposition.counts.conditionals import Counts, Prior, sweep
from tensorbench.decomposition.counts.inputs import check_counts
from tensorbench.decomposition.counts.sampling import compositional_allocate, naive_allocate
from tensorbench.decomposition.counts.state import State

METHODS = {"bptd": sweep}
WARMUP = 10  # sweeps before the clock runs
ALLOCATIONS = {"compositional": compositional_allocate, "naive": naive_allocate}


def run(run: Run) -> None:
    """Speed at the default size, then the growth with events and with communities, then equality in distribution."""
    options = run.method.params
    ranks = (options["communities"], options["topics"], options["regimes"])
    repeats = options["repeats"]
    counts = run.dataset.load(run.seed).counts
    data, state = _prepared(counts, ranks, run.seed)
    rivals = {
        name: partial(sweep, state.copy(), data, Prior(), np.random.default_rng(run.seed), allocate=allocate)
        for name, allocate in ALLOCATIONS.items()
    }
    whole = compare(rivals, repeats=repeats)
    alone = compare(
        {
            name: partial(allocate, data.coords, data.values, state, np.random.default_rng(run.seed))
            for name, allocate in ALLOCATIONS.items()
        },
        repeats=repeats,
    )
    run.log(
        speedup=whole.speedup("compositional", "naive").value,
        allocation_speedup=alone.speedup("compositional", "naive").value,
        **{f"{name}_milliseconds": 1000 * whole[name] for name in ALLOCATIONS},
    )
    sizes = {}
    for months in options["months"]:
        longer, there = _prepared(run.dataset.load(run.seed, months=months).counts, ranks, run.seed)
        sizes[int(longer.values.sum())] = (longer, there)
    _growth(run, "sweep_seconds", sizes, repeats)
    offered = {C: _prepared(counts, (C, *ranks[1:]), run.seed) for C in options["grid"]}
    _growth(run, "sweep_seconds_by_communities", offered, repeats)
    run.log(same_distribution=_same_distribution(state, run.rng))


def _prepared(counts: np.ndarray, ranks: tuple[int, int, int], seed: int) -> tuple[Counts, State]:
    data, rng = check_counts(counts), np.random.default_rng([seed, *ranks])
    V, _, A, T = data.shape
    state = start((V, A, T, *ranks), Prior(), data, rng)
    for _ in range(WARMUP):
        sweep(state, data, Prior(), rng)
    return data, state


def _growth(run: Run, metric: str, sizes: dict[int, tuple[Counts, State]], repeats: int) -> None:
    seconds = compare(
        {
            str(size): partial(sweep, state.copy(), data, Prior(), np.random.default_rng(run.seed))
            for size, (data, state) in sizes.items()
        },
        repeats=repeats,
    )
    for size in sizes:
        run.log(step=size, **{metric: seconds[str(size)]})


def _same_distribution(state: State, rng: np.random.Generator, tokens: int = 20_000) -> bool:
    """A chi-square test on the classes of the tokens of one cell, rare classes (fewer than 20 in all) together."""
    cell, value = np.array([[0, 1, 0, 0]]), np.array([tokens])
    table = np.stack([allocate(cell, value, state, rng).blocks.ravel() for allocate in ALLOCATIONS.values()])
    common = table.sum(axis=0) >= 20
    rest = table[:, ~common].sum(axis=1, keepdims=True)
    table = np.concatenate([table[:, common], rest], axis=1)
    table = table[:, table.sum(axis=0) > 0]
    return bool(table.shape[1] < 2 or chi2_contingency(table).pvalue > 0.001)


def _slopes(records: pd.DataFrame, metric: str) -> list[float]:
    history = rec.history(records, metric)
    return [growth(rows["step"], rows["value"]).exponent for _, rows in history.groupby("seed")] if len(history) else []


def slope_in_events(records: pd.DataFrame) -> list[float]:
    """Per seed, the log-log slope of a sweep's seconds against the number of events."""
    return _slopes(records, "sweep_seconds")


def slope_in_communities(records: pd.DataFrame) -> list[float]:
    """Per seed, the log-log slope of a sweep's seconds against the number of communities."""
    return _slopes(records, "sweep_seconds_by_communities")


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Seconds against events and against communities."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.5)
    panels = (("sweep_seconds", "events", 1.0), ("sweep_seconds_by_communities", "communities C", 2.0))
    for ax, (metric, xlabel, exponent) in zip(axes, panels, strict=True):
        shown = records[records["dataset"] == records["dataset"].iloc[0]] if len(records) else records
        history = rec.history(shown, metric) if len(shown) else pd.DataFrame()
        if history.empty:
            plotting.empty(ax)
            continue
        history["value"] *= 1000
        sizes = sorted(history["step"].unique())
        low, high = history["value"].min(), history["value"].max()
        plotting.log_axis(ax, "x", ticks=sizes if metric != "sweep_seconds" else None)
        plotting.log_axis(ax, "y", ticks=[t for t in (1, 2, 5, 10, 20, 50, 100, 200) if low / 2 <= t <= 2 * high])
        plotting.series(ax, history, "step", "value")
        ax.set_ylim(low / 1.3, 1.6 * high)
        smallest = history.loc[history["step"] == sizes[0], "value"].mean()
        plotting.guide(ax, exponent, through=(float(sizes[0]), float(smallest)))
        ax.set(xlabel=xlabel, ylabel="time of a sweep (ms)")
        plotting.legend(ax, loc="lower right")
    yield "time", fig
