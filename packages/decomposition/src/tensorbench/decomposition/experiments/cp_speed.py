"""Seconds and error of the subspace power methods against tensorly's ALS, in one process; how their time grows.

``versus_als``: our method is timed three times and the median taken, each ALS once, after both have been warmed on a
small tensor. ``speedup`` is over the faster ALS, ``error_ratio`` over the more accurate one. ``growth``: sizes are
swept (the steps) and the exponents of the time fitted. The tensors are parameters of the method.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import growth
from tensorbench.decomposition.baselines.cp import tensorly_als
from tensorbench.decomposition.cp.mspm import mspm
from tensorbench.decomposition.cp.spm import spm
from tensorbench.decomposition.datasets.symmetric import Planted, planted_cp
from tensorbench.decomposition.selection import factor_match_score

log = logging.getLogger(__name__)
REPEATS = 3


def fit_spm(data: Planted, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Reconstruction and factors of all modes by SPM; the rank is found where there is no noise."""
    result = spm(data.tensor, None if data.tensor is data.clean else data.rank, generator=seed)
    return result.full(), [result.factors] * data.tensor.ndim


def fit_mspm(data: Planted, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The same by MSPM."""
    rank = None if data.tensor is data.clean else data.rank
    result = mspm(data.tensor, rank, symmetries=data.symvec, generator=seed)
    assert not isinstance(result, np.ndarray)
    return result.full(), [result.factors[g] for g in data.symvec]


METHODS = {"spm": fit_spm, "mspm": fit_mspm}


def run(run: Run) -> None:
    """The method's own tensor against ALS, or its own sweeps; each method brings the tensors of its paper."""
    fit, options = METHODS[run.method.uses], dict(run.method.params)
    if run.dataset.name == "versus_als":
        _against_als(run, fit, options["tensor"], options["rivals"])
        return
    for name, sweep in options["sweeps"].items():
        _curve(run, fit, name, **sweep)


def _against_als(run: Run, fit: Callable, tensor: dict, rivals: dict[str, dict]) -> None:
    data = run.dataset.load(run.seed, **tensor)
    small = planted_cp(
        seed=0, dims=[5] * len(data.factors), rank=3, mult=[data.symvec.count(g) for g in range(len(data.factors))]
    )
    fit(small, 0)
    tensorly_als(small.tensor, 3, iterations=5)
    times, (full, factors) = [], (np.empty(0), [])
    for _ in range(REPEATS):
        seconds, (full, factors) = _timed(lambda: fit(data, run.seed))
        times.append(seconds)
    ours = statistics.median(times)
    error = _distance(full, data.tensor)
    reference = [data.factors[g] for g in data.symvec]
    run.log(solve_seconds=ours, relative_error=error, score=factor_match_score(reference, factors))
    als = {}
    for name, options in rivals.items():
        seconds, model = _timed(lambda options=options: tensorly_als(data.tensor, data.rank, seed=run.seed, **options))
        als[name] = (seconds, _distance(model.full().numpy(), data.tensor))
        score = factor_match_score(reference, [f.numpy() for f in model.factors])
        run.log(**{f"{name}_seconds": seconds, f"{name}_error": als[name][1], f"{name}_score": score})
    run.log(
        als_seconds=min(t for t, _ in als.values()),
        als_error=min(e for _, e in als.values()),
        speedup=min(t for t, _ in als.values()) / ours,
        error_ratio=error / min(e for _, e in als.values()),
    )


def _curve(run: Run, fit: Callable, name: str, sizes: list, rank: str, tensor: dict) -> None:
    """`sizes` are dimensions d with `rank` "d" or "d2/3" (floor(d^2 / 3)), or ranks if `rank` is "size"."""
    seconds = []
    for size in run.progress(sizes, desc="sizes"):
        changes = (
            {"rank": size} if rank == "size" else {"dims": [size], "rank": size if rank == "d" else size * size // 3}
        )
        data = run.dataset.load(run.seed, **{**tensor, **changes})
        if not seconds:
            fit(data, run.seed)
        best = min(_timed(lambda data=data: fit(data, run.seed))[0] for _ in range(2))
        seconds.append(best)
        run.log(step=size, **{f"{name}_seconds": best})
    run.log(**{f"{name}_exponent": growth(sizes, seconds).exponent})


def _timed(function: Callable) -> tuple[float, object]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Runtime against error with ALS, and time against size."""
    yield "rivals", _rivals(records)
    yield "growth", _growth(records)


def _rivals(records: pd.DataFrame) -> Figure:
    shown = records[records["als_seconds"].notna()] if "als_seconds" in records else records.iloc[:0]
    if shown.empty:
        return plotting.nothing()
    methods = list(dict.fromkeys(shown["method"]))
    fig, axes = plotting.figure(columns=2, cols=len(methods), height=6.8, squeeze=False)
    for ax, method in zip(axes.flat, methods, strict=True):
        rows = shown[shown["method"] == method]
        points = {method: ("solve_seconds", "relative_error")}
        points |= {name: (f"{name}_seconds", f"{name}_error") for name in ("als_svd", "als_random")}
        for name, (x, y) in points.items():
            if x not in rows or rows[x].isna().all():
                continue
            look = plotting.style(name) | {"linestyle": "none"}
            ax.plot(rows[x], np.maximum(rows[y].astype(float), 1e-16), markersize=5, alpha=0.8, **look)
        plotting.log_axis(ax, "y")
        plotting.log_axis(ax, "x", ticks=[0.001, 0.01, 0.1, 1, 10, 100])
        ax.margins(0.15)
        ax.set_xlim(0.03, 30)
        title = "exact symmetric tensor" if method == "spm" else "partially symmetric tensor, 1 % noise"
        ax.set(title=title, xlabel="time to fit (s)", ylabel="relative error")
    plotting.legend(fig)
    return fig


def _growth(records: pd.DataFrame) -> Figure:
    histories = {name: rec.history(records, f"{name}_seconds") for name in TITLES}
    histories = {name: history for name, history in histories.items() if len(history)}
    if not histories:
        fig, ax = plotting.figure()
        plotting.empty(ax, "no sweep at this scale")
        return fig
    fig, axes = plotting.figure(columns=2, cols=len(histories), height=6.5, squeeze=False)
    for ax, (name, history) in zip(axes.flat, histories.items(), strict=True):
        plotting.series(ax, history, "step", "value", reducer="median", log="xy")
        plotting.log_axis(ax, "xy")
        plotting.log_axis(ax, "x", ticks=sorted(history["step"].unique()))
        exponents = pd.to_numeric(records[f"{name}_exponent"], errors="coerce").dropna()
        ax.set(title=TITLES[name], xlabel="rank" if name == "rank" else "dimension d", ylabel="time (s)")
        ax.text(0.95, 0.06, f"exponent {exponents.mean():.1f}", transform=ax.transAxes, fontsize=7.5, ha="right")
    plotting.legend(fig)
    return fig


TITLES = {"order3": "order 3, r = d", "order4": "order 4, r = ⌊d²/3⌋", "rank": "partially symmetric, order 3"}
