"""CBOW of several widths and of infinite width on the same draws. Steps of ``excess``, ``agreement`` are widths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.data.shared import TokenText
from tensorbench.core.run import Run
from tensorbench.optimizers.infinite_width.cbow import CBOW, Corpus, corpus

ASKED, NEAREST = 300, 10


def words_of(text: TokenText) -> list[str]:
    """Lower-case words of a text of characters; where all that it has is letters of no language, they are the words."""
    characters = [text.vocabulary[k] for k in text.train]
    if " " not in text.vocabulary:
        return characters
    return re.findall(r"[a-z']+", "".join(characters).lower())


def fit_cbow(run: Run, text: Corpus, widths: list[int], epochs: int, **options: Any) -> None:
    """Train every width and the limit; log the last epoch's loss and common neighbours."""
    asked = np.arange(min(ASKED, len(text.words)))
    nearest = min(NEAREST, len(text.words) - 1)
    loss, found = {}, {}
    for dim in (*widths, "inf"):
        net = CBOW(text, dim, seed=run.seed, **options)  # type: ignore[arg-type]
        loss[dim], found[dim] = net.train(epochs)[-1], net.neighbours(asked, nearest)
        run.log(**{f"loss_{dim}": loss[dim]})
    share = {n: np.mean([np.isin(a, b).mean() for a, b in zip(found[n], found["inf"], strict=True)]) for n in widths}
    for n in widths:
        run.log(step=n, excess=loss[n] - loss["inf"], agreement=share[n])
        run.log(**{f"agreement_{n}": share[n]})
    for narrow, wide in zip(widths, [*widths[1:], "inf"], strict=True):
        run.log(**{f"loss_{narrow}_over_{wide}": loss[narrow] / loss[wide]})
    run.log(agreement_gain=share[widths[-1]] - share[widths[0]], words=len(text.words))


METHODS = {"cbow": fit_cbow}


def run(run: Run) -> None:
    """Words, vectors, losses."""
    options = dict(run.method.params)
    text = corpus(words_of(run.dataset.load(run.seed)), options.pop("min_count", 5))
    with run.time("fit"):
        METHODS[run.method.uses](run, text, **options)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Loss above the limit's and common neighbours, by width."""
    fig, (left, right) = plotting.figure(columns=2, cols=2)
    for ax, metric, name in (
        (left, "excess", "loss above the limit's (nats)"),
        (right, "agreement", "neighbours shared with the limit"),
    ):
        history = rec.history(records, metric) if len(records) else pd.DataFrame()
        if history.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "x", ticks=sorted(history["step"].unique()))
        plotting.series(ax, history, "step", "value", by="dataset")
        ax.set(xlabel="width", ylabel=name)
    left.axhline(0, color="#666666", linewidth=0.8, linestyle=(0, (4, 2)))
    right.set_ylim(0, None)
    plotting.legend(left)
    yield "width", fig
