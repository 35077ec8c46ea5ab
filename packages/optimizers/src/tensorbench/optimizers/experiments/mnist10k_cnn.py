"""Every optimizer on a residual network with batch norm: MNIST-10k at 14 × 14, same trials, batches and schedules.

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
    norm, train, measured = options.pop("norm", "batch"), options.pop("train", None), options.pop("measured", None)
    source = run.dataset.load(run.seed)
    data = images.prepare(
        source,
        halve=source.train_images.shape[1] == 28,
        train=None if train is None else min(train, len(source.train_images)),
    )

    def make(generator: torch.Generator) -> Task:
        return images.task(images.resnet8(generator, norm=norm), data, generator, batch, measured)

    compare(run, make, **options)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Curves, sensitivity, and cost against what it buys."""
    yield from all_figures(records, "test_error", "test error", ("sensitivity_error", "test error"))
