"""Seconds per epoch against the number of distinct indices: state-space smoothing against exact GP regression.

Wall seconds of one thread with nothing beside it on the machine decide the claims; CPU seconds are logged with them, so
that a disturbed measurement shows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.datasets.completion import Scattered
from tensorbench.decomposition.functional.funbat_cp import FunBaTCP


def clocks() -> tuple[float, float]:
    """Wall and CPU seconds now."""
    return time.perf_counter(), time.process_time()


def funbat_cp(data: Scattered, epochs: int, **params) -> np.ndarray:
    """Wall and CPU seconds of every epoch but the first of a fit of the CP form, a row each."""
    ticks: list[tuple[float, float]] = []
    model = FunBaTCP(max_epochs=epochs + 1, max_restarts=0, **params)
    model.fit(data.train_idx, data.train_y, callback=lambda epoch, rmse: ticks.append(clocks()))
    return np.diff(ticks, axis=0)


def exact_gp(data: Scattered, epochs: int, lengthscale: float, **_) -> np.ndarray:
    """Wall and CPU seconds of the same smoothing by dense regression (scikit-learn).

    Mean and standard deviation of one function per mode at all its indices, given a pseudo-observation at each.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern

    seconds = []
    for _ in range(epochs):
        start = clocks()
        for k in range(2):
            t, group = np.unique(data.train_idx[:, k], return_inverse=True)
            pseudo = np.bincount(group, weights=data.train_y) / np.bincount(group)
            noise = 1.0 / np.bincount(group)
            model = GaussianProcessRegressor(Matern(lengthscale, nu=1.5), alpha=noise, optimizer=None)
            model.fit(t[:, None], pseudo).predict(t[:, None], return_std=True)
        seconds.append(np.subtract(clocks(), start))
    return np.array(seconds)


METHODS = {"funbat_cp": funbat_cp, "exact_gp": exact_gp}


def run(run: Run) -> None:
    """One sweep over the numbers of states, smallest first, after a warm-up at the smallest."""
    params = dict(run.method.params)
    states = params.pop("states")
    epochs, slow_from = params.pop("epochs"), params.pop("once_from", None)
    METHODS[run.method.uses](run.dataset.load(run.seed, states=states[0]), 2, **params)
    for count in run.progress(states, desc="states"):
        data = run.dataset.load(run.seed, states=count)
        repeats = 1 if slow_from is not None and count >= slow_from else epochs
        wall, cpu = np.median(METHODS[run.method.uses](data, repeats, **params), axis=0)
        run.log(step=count, epoch_seconds=wall, epoch_cpu_seconds=cpu)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    history = rec.history(records, "epoch_seconds").rename(columns={"step": "states", "value": "epoch_seconds"})
    fig, ax = plotting.figure(columns=1, height=6.0)
    plotting.series(ax, history, "states", "epoch_seconds", log="xy")
    if len(history):
        plotting.log_axis(ax, "x", ticks=sorted(history["states"].unique()))
        ours = history[history["method"] == "funbat_cp"]
        if len(ours):
            first = ours[ours["states"] == ours["states"].min()]["epoch_seconds"].mean()
            plotting.guide(ax, 1.0, through=(ours["states"].min(), 0.6 * first))
    ax.set_xlabel("distinct indices per mode")
    ax.set_ylabel("seconds per epoch")
    plotting.legend(ax)
    yield "cost", fig
