"""The gap between training and test error of dense and one-way wave simulators, for few and many training runs.

One network for each number of runs (the steps of the histories), trained in equal steps; the runs are drawn from all
training runs with the seed, smaller sets within larger ones. ``gap_at`` is (test − training) / training of the one-step
relative L2 error.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core.run import Run
from tensorbench.pde_operators.experiments import wave_figures
from tensorbench.pde_operators.experiments.wave_surrogate import EVERY, fields_of, make_network
from tensorbench.pde_operators.oneway_conv import OneWayConv2d
from tensorbench.pde_operators.wave_unet import WaveSimulator, one_step_error, train

METHODS = {"dense": None, "oneway": OneWayConv2d}


def run(run: Run) -> None:
    """Train on each number of runs; a trial on one of them."""
    data = run.dataset.load(0)
    options = dict(run.method.params)
    protocol = {key: options.pop(key) for key in ("lr", "batch")}
    steps, trial_steps = options.pop("steps"), options.pop("trial_steps")
    numbers, tune_runs = options.pop("runs"), options.pop("tune_runs")
    parts = {name: fields_of(data, name, run.device) for name in ("train", "valid", "test")}
    u, c = parts["train"]
    if max(numbers) > len(u):
        raise ValueError(f"runs {numbers}: there are {len(u)} to train on")
    order = torch.randperm(len(u), generator=run.generator)
    for number in [tune_runs] if run.trial is not None else numbers:
        some = order[:number].to(u.device)
        generator = run.generator
        network = make_network(run.method.uses, generator, **options).to(run.device)
        # The constants are those of all runs, so that only what is learnt depends on how many there are.
        model = WaveSimulator.of(network, u, c, base="none").to(run.device)
        budget = steps if run.trial is None else trial_steps
        history = train(model, u[some], c[some], steps=budget, generator=generator, **protocol)
        if history.diverged:
            raise RuntimeError(f"training on {number} runs diverged after {history.steps} steps; lower lr")
        if number == tune_runs:
            run.log(valid_error=one_step_error(model, *parts["valid"], EVERY))
        if run.trial is not None:
            return
        train_error = one_step_error(model, u[some[:20]], c[some[:20]], EVERY)
        test_error = one_step_error(model, *parts["test"], EVERY)
        gap = (test_error - train_error) / train_error
        run.log(step=number, gap_at=gap, test_error_at=test_error, train_error_at=train_error)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Gap and test error over the number of runs."""
    yield "gaps", wave_figures.gaps(records)
