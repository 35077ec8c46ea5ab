"""What importance costs: an epoch with it against the number of cells, and training with it against without."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.decomposition.completion.dain import base_fit
from tensorbench.decomposition.completion.influence import entity_importance
from tensorbench.decomposition.completion.neural import EmbeddingMLP
from tensorbench.decomposition.completion.sparse import Split

METHODS = {"dain": base_fit}


def run(run: Run) -> None:
    """A sweep over the numbers of cells, smallest first; then the comparison at ``compare_at`` cells."""
    params = dict(run.method.params)
    sizes, at, epochs, repeats = (params.pop(key) for key in ("cells", "compare_at", "epochs", "repeats"))
    factory = partial(EmbeddingMLP, layers=params.pop("layers"))
    train = partial(METHODS[run.method.uses], model_factory=factory, seed=run.seed, **params)

    def importance(split: Split) -> None:
        """Steps 1 to 3 with a single epoch."""
        entity_importance(train(split, epochs=1).importance, split.train.idx, split.train.dims)

    importance(run.dataset.load(run.seed, cells=sizes[0]))
    for count in run.progress(sizes, desc="cells"):
        split = run.dataset.load(run.seed, cells=count)
        began, cpu = time.perf_counter(), time.process_time()
        importance(split)
        run.log(step=count, epoch_seconds=time.perf_counter() - began, epoch_cpu_seconds=time.process_time() - cpu)

    split = run.dataset.load(run.seed, cells=at)
    tracked = train(split, epochs=epochs)
    seconds = compare(
        {
            "tracked": lambda: train(split, epochs=epochs, patience=epochs),
            "plain": lambda: train(split, epochs=epochs, patience=epochs, track_influence=False),
            "entities": lambda: entity_importance(tracked.importance, split.train.idx, split.train.dims),
        },
        repeats=repeats,
    )
    share = seconds.ratio("tracked", "plain").value - 1 + seconds["entities"] / seconds["plain"]
    run.log(importance_share=share, train_seconds=seconds["plain"], tracked_seconds=seconds["tracked"])


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Seconds against cells."""
    history = rec.history(records, "epoch_seconds").rename(columns={"step": "cells", "value": "epoch_seconds"})
    fig, ax = plotting.figure(columns=1, height=6.0)
    plotting.series(ax, history, "cells", "epoch_seconds", log="xy")
    if len(history):
        first = history[history["cells"] == history["cells"].min()]
        plotting.guide(ax, 1.0, through=(first["cells"].iloc[0], 0.6 * first["epoch_seconds"].mean()))
    ax.set_xlabel("observed cells")
    ax.set_ylabel("one epoch and importance (s)")
    plotting.legend(ax)
    yield "cost", fig
