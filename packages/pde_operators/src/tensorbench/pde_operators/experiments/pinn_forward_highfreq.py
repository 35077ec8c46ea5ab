"""High-frequency Poisson problems: Gaussian processes against physics-informed networks, with seeds and equal tuning.

One problem a dataset. ``error`` is the relative L2 error on the test grid at the end; ``error_over_time`` has the
seconds of fitting as steps; ``seconds_to_target`` is missing where an error of 1e-3 was never seen. Settings are chosen
by ``valid_residual``, which knows nothing of the solution. Trials have ``trial_share`` of the steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core.run import Run
from tensorbench.pde_operators.experiments import high_freq_figures as draw
from tensorbench.pde_operators.experiments.high_freq_fits import METHODS as METHODS
from tensorbench.pde_operators.experiments.high_freq_fits import relative_error, testing_axes

TARGET = 1e-3


def run(run: Run) -> None:
    """Solve the dataset's problem."""
    (item,) = run.dataset.load(run.seed)
    options = dict(run.method.params)
    share = options.pop("trial_share", 1.0)
    if run.trial is not None:
        for name in ("steps", "plane_steps"):
            if name in options:
                options[name] = max(1, round(share * options[name]))
    fit = METHODS[run.method.uses](item, run.seed, **options)
    predicted = fit.predict(testing_axes(item))
    run.log(
        error=relative_error(item, predicted), valid_residual=fit.valid_residual, solve_seconds=fit.seconds,
        steps_taken=fit.steps,
    )  # fmt: skip
    if fit.solver is not None:
        off = min(abs(fit.solver.spectrum()[0].frequency - f) / f for f in item.frequencies)
        run.log(frequency_error=off)
    reached = [seconds for seconds, error in fit.curve if error <= TARGET]
    if reached:
        run.log(seconds_to_target=reached[0])
    for seconds, error in fit.curve:
        run.log(step=seconds, error_over_time=error)
    if item.dimension == 1 and run.seed == 0 and run.trial is None:
        x = np.linspace(0, item.length, 601)
        np.savez_compressed(run.artifact("line.npz"), x=x, predicted=fit.predict([x]), truth=item.problem.solution(x))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Error against time, and solutions on a line."""
    yield "time", draw.error_over_time(records)
    yield "overlay", draw.overlay(records)
