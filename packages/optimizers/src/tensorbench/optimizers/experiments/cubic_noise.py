"""Gaps of ASCN with noise added to exact derivatives. The step is the iteration T.

``excess`` is f(x_T) minus that of the run with exact derivatives and the same M; ``gap_over_bound`` the largest ratio
of the gap to :func:`rate_bound` over all T. Slopes are fitted to the mean excess of all seeds at ``AT``. A slope of a
mean is not a mean of slopes, so that the seeds' values are the jackknife's pseudo-values with its mean and spread.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.optimizers.inexact_tensor.ascn import ASCN
from tensorbench.optimizers.inexact_tensor.bounds import rate_bound
from tensorbench.optimizers.inexact_tensor.oracles import AdditiveNoiseOracle, ExactOracle
from tensorbench.optimizers.landscapes.convex import Landscape

METHODS = {"noisy_ascn": ASCN}
AT = (25, 50, 100, 200, 400)


@lru_cache(maxsize=4)
def _exact(dataset: str, k: int, M: float, T: int) -> tuple[float, ...]:
    """Gaps with exact derivatives, the same for all seeds of a job."""
    from tensorbench.core import data

    f: Landscape = data.load(dataset, k=k)
    gaps: list[float] = []
    ASCN(ExactOracle(f), M, T=T).run(f.start, record=lambda state: gaps.append(f.gap(state.x)))
    return tuple(gaps)


@lru_cache(maxsize=4)
def _bounds(T: int, M: float, R: float, s1: float, s2: float) -> np.ndarray:
    """The bound at about forty T, as (T, bound)."""
    at = np.unique(np.geomspace(1, T, 40).astype(int))
    return np.array([(t, rate_bound(int(t), M, R, s1, s2)) for t in at])


def run(run: Run) -> None:
    """One noise, one seed, every iteration."""
    f: Landscape = run.dataset.load(run.seed)
    options = {"s1": 0.0, "s2": 0.0, **run.method.params}
    M, T, s1, s2 = options["M"], options["T"], options["s1"], options["s2"]
    exact = _exact(run.dataset.uses, len(f.start), M, T)
    gaps: list[float] = []
    oracle = AdditiveNoiseOracle(ExactOracle(f), s1, s2)
    ASCN(oracle, M, f.radius, T).run(f.start, run.generator, lambda state: gaps.append(f.gap(state.x)))
    bounds = _bounds(T, M, f.radius, s1, s2)
    at, bound = bounds[:, 0].astype(int), bounds[:, 1]
    run.log(gap_over_bound=float((np.array(gaps)[at - 1] / bound).max()))
    for t in sorted({*at.tolist(), *(t for t in AT if t <= T)}):
        run.log(step=t, gap=gaps[t - 1], excess=gaps[t - 1] - exact[t - 1])


def excess_slope(records: pd.DataFrame) -> list[float]:
    """Jackknife pseudo-values of the slope of the mean excess, one a seed."""
    history = rec.history(records, "excess")
    table = history[history["step"].isin(AT)].pivot(index="seed", columns="step", values="value")
    x = np.log(table.columns.to_numpy(dtype=float))

    def slope(rows: pd.DataFrame) -> float:
        mean = rows.mean().to_numpy()
        return float(np.polyfit(x, np.log(mean), 1)[0]) if (mean > 0).all() else np.nan

    n, whole = len(table), slope(table)
    if n < 2:
        return [whole]
    return [n * whole - (n - 1) * slope(table.drop(index=seed)) for seed in table.index]


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Excess against iterations for three sizes of either noise."""
    fig, axes = plotting.figure(columns=2, cols=2, height=7.0, sharex=True)
    history = rec.history(records, "excess")
    for ax, kind, slope in ((axes[0], "gradient_noise", -0.5), (axes[1], "hessian_noise", -2.0)):
        part = history[history["method"].str.startswith(kind) & (history["step"] >= 5)] if len(history) else history
        if part.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "xy")
        # The arithmetic mean over seeds: single excesses may be negative.
        for name, rows in part.groupby("method", sort=False):
            mean = rows.groupby("step")["value"].agg(["mean", "sem"])
            look = plotting.style(str(name))
            ax.plot(mean.index, mean["mean"].where(mean["mean"] > 0), markevery=4, **look)
            low = (mean["mean"] - 2.09 * mean["sem"]).clip(lower=1e-12)
            ax.fill_between(mean.index, low, mean["mean"] + 2.09 * mean["sem"], color=look["color"], alpha=0.18, lw=0)
        middle = part[part["method"] == kind].groupby("step")["value"].mean()
        middle = middle[middle > 0]
        if len(middle):
            ax.set_ylim(max(middle.min() / 30, 1e-8), None)
            plotting.guide(ax, slope, through=(float(middle.index[-1]), float(middle.iloc[-1])))
        ax.set(xlabel="iterations T", ylabel="mean excess gap" if ax is axes[0] else "")
        ax.set_title("noise in gradients" if kind == "gradient_noise" else "noise in Hessians")
    plotting.legend(fig)
    yield "excess", fig
