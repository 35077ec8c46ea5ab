"""Every optimizer on one small problem: digits by a perceptron 64-128-128-10, same trials, batches and schedules.

What is measured is said in :mod:`tensorbench.optimizers.experiments.comparison`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core.run import Run
from tensorbench.optimizers.experiments.comparison import compare
from tensorbench.optimizers.experiments.comparison_figures import all_figures
from tensorbench.optimizers.methods import METHODS as METHODS
from tensorbench.optimizers.tasks import Task, images


def run(run: Run) -> None:
    """Train with one optimizer, tuned, at equal steps and at equal time."""
    options = dict(run.method.params)
    batch = options.pop("batch")
    data = images.prepare(run.dataset.load(run.seed))

    def make(generator: torch.Generator) -> Task:
        return images.task(images.perceptron(generator), data, generator, batch)

    compare(run, make, **options)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Curves, sensitivity, and cost against what it buys."""
    yield from all_figures(
        records, "valid_loss", "validation loss (nats)", ("sensitivity_loss", "validation loss (nats)")
    )
