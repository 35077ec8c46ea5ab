"""GP-HM on the paper's equations: errors, frequencies found, components kept, against plain kernels and grid methods.

A dataset is a list of problems; the metrics ``error_<problem>`` are relative L2 errors on the test grid, the steps of
``error`` are the problems in order. ``only`` limits a method to some problems; ``differs`` holds what it does
differently on a dataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core.run import Run
from tensorbench.pde_operators.datasets.high_frequency import HighFrequencyProblem
from tensorbench.pde_operators.experiments import high_freq_figures as draw
from tensorbench.pde_operators.experiments.high_freq_fits import METHODS as METHODS
from tensorbench.pde_operators.experiments.high_freq_fits import Fit, relative_error, testing_axes

KEPT = 0.01  # share of the weight above which a component counts as kept
DRAWN = {"sin100", "multiscale", "sin6cos100"}  # problems whose solution and spectrum are kept for figures


def run(run: Run) -> None:
    """Solve every problem, log its error and what the spectrum says."""
    options = dict(run.method.params)
    only = options.pop("only", None)
    options |= options.pop("differs", {}).get(run.dataset.name, {})
    total = 0.0
    for step, item in enumerate(run.dataset.load(run.seed), start=1):
        if only is not None and item.name not in only:
            continue
        fit = METHODS[run.method.uses](item, run.seed, **options)
        total += fit.seconds
        error = relative_error(item, fit.predict(testing_axes(item)))
        run.log(step=step, error=error)
        run.log(**{f"error_{item.name}": error, f"seconds_{item.name}": fit.seconds})
        for seconds, value in fit.curve:
            run.log(step=seconds, **{f"curve_{item.name}": value})
        if fit.solver is not None and fit.solver.before == [] and options.get("mixture", True):
            _log_spectrum(run, item, fit)
        if item.name in DRAWN:
            _keep(run, item, fit)
    run.log(solve_seconds=total)


def _log_spectrum(run: Run, item: HighFrequencyProblem, fit: Fit) -> None:
    """How far the heaviest component is from a true frequency (share of it), and how many components are left."""
    assert fit.solver is not None
    heaviest = fit.solver.spectrum()[0].frequency
    off = min(abs(heaviest - f) / f for f in item.frequencies)
    run.log(**{f"frequency_error_{item.name}": off, f"kept_{item.name}": len(fit.solver.pruned(KEPT))})


def _keep(run: Run, item: HighFrequencyProblem, fit: Fit) -> None:
    """The solution along a line and the learned spectrum, for the figures."""
    x = np.linspace(0, item.length, 1001)
    arrays: dict[str, Any] = {
        "x": x,
        "predicted": fit.predict([x]),
        "truth": item.problem.solution(x),
        "true": item.frequencies,
    }
    if fit.solver is not None:
        found = fit.solver.spectrum()
        arrays |= {"share": [c.share for c in found], "frequency": [c.frequency for c in found]}
    np.savez_compressed(run.artifact(f"{item.name}.npz"), **arrays)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Errors of all, solutions, spectra."""
    yield "errors", draw.errors(records)
    yield "solutions", draw.solutions(records, "multiscale")
    yield "spectra", draw.spectra(records, ["sin100", "sin6cos100", "multiscale"])
