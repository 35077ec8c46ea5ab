"""What makes GP-HM work: weights in the log domain, priors, the number of components and of collocation points.

Every run solves its problem once for each value of its ``sweep``. The steps of ``error``, ``kept`` (components with
more than 1 % of the weight) and ``solve_seconds`` are those values; without a sweep there is one step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core.run import Run
from tensorbench.pde_operators.experiments import high_freq_figures as draw
from tensorbench.pde_operators.experiments.high_freq_fits import fit_gp, relative_error, testing_axes

METHODS = {"gp": fit_gp}
KEPT = 0.01


def run(run: Run) -> None:
    """All values of the sweep."""
    (item,) = run.dataset.load(run.seed)
    options = dict(run.method.params)
    sweep: dict[str, list[int]] = options.pop("sweep", {"components": [options.get("components", 30)]})
    ((name, values),) = sweep.items()
    for value in values:
        fit = fit_gp(item, run.seed, **{**options, name: value})
        assert fit.solver is not None
        found = fit.solver.spectrum()
        run.log(
            step=value,
            error=relative_error(item, fit.predict(testing_axes(item))),
            kept=len(fit.solver.pruned(KEPT)),
            heaviest_share=found[0].share,
            frequency_error=min(abs(found[0].frequency - f) / f for f in item.frequencies),
            solve_seconds=fit.seconds,
        )
    np.savez_compressed(run.artifact("weights.npz"), share=np.array([c.share for c in found]))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Weights that are left, and the sweeps."""
    yield "weights", draw.weights(records)
    yield "sweeps", draw.sweeps(records)
