"""Sketched regression on a design A1 (x) A2 whose rows are never formed. The steps are the rows m."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.sketch.measures import Reference, random_direction
from tensorbench.decomposition.sketch.regression import kron_regression, kron_solve
from tensorbench.decomposition.sketch.structured import TensorSketch, TensorSRHT

METHODS = {"tensor_srht": TensorSRHT, "tensor_sketch": TensorSketch}
RATIOS = (2, 4, 16, 8)  # rows per column; what is logged last is what the table and the claims take


def run(run: Run) -> None:
    """Error constants at m = 2 d, ..., 16 d for d = d1 d2 columns, and the spread of the error at m = 8 d."""
    kind, trials = METHODS[run.method.uses], run.method.params["trials"]
    A1, A2, b = run.dataset.load(run.seed)
    sigma = [np.linalg.svd(A, compute_uv=False)[-1] for A in (A1, A2)]
    x, d = kron_solve(A1, A2, b), A1.shape[1] * A2.shape[1]
    fitted = A1 @ x.reshape(A1.shape[1], -1) @ A2.T
    exact = Reference(x, float(np.linalg.norm(fitted.ravel() - b)), 1 / float(sigma[0] * sigma[1]), np.eye(d))
    with run.time("sketching"):
        for ratio in RATIOS:
            draws = [np.random.default_rng([run.seed, ratio, t]) for t in range(trials)]
            found = [kron_regression(A1, A2, b, ratio * d, rng, kind=kind) for rng in draws]
            linf, l2 = np.median([exact.constants(z) for z in found], axis=0)
            run.log(step=ratio * d, kronecker_linf=linf, kronecker_l2=l2)
    run.log(kronecker_spread=np.median([exact.spread(z)[0] for z in found]) / random_direction(d))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Error constant against rows."""
    fig, ax = plotting.figure(height=6.5)
    history = rec.history(records, "kronecker_linf")
    if history.empty:
        plotting.empty(ax)
    else:
        ticks = sorted(history["step"].unique())
        plotting.log_axis(ax, "x", ticks=ticks)
        plotting.log_axis(ax, "y", ticks=(0.5, 1, 2, 4, 8))
        plotting.series(ax, history, "step", "value")
        ax.set(xlabel="rows m", ylabel="constant, median")
        plotting.guide(ax, -0.5, through=(ticks[0], 1.1 * float(history["value"].max())))
        plotting.legend(ax)
    yield "kronecker", fig
