"""Every optimizer on a small transformer that predicts the next character: same trials, batches and schedules.

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
from tensorbench.optimizers.tasks import Task, characters


def run(run: Run) -> None:
    """Train with one optimizer, tuned, at equal steps and at equal time."""
    options = dict(run.method.params)
    batch = options.pop("batch")
    width, windows = options.pop("width"), options.pop("windows")
    plain = options.pop("plain_attention", False)
    text = run.dataset.load(run.seed)

    def make(generator: torch.Generator) -> Task:
        return characters.task(text, generator, width=width, batch=batch, windows=windows, plain_attention=plain)

    compare(run, make, **options)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Curves, sensitivity, and cost against what it buys."""
    yield from all_figures(records, "valid_loss", "validation loss (nats)")
