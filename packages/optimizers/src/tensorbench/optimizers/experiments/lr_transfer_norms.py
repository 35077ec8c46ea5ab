"""Does the best learning rate of a small perceptron serve a wide one? Training loss by learning rate and width.

The steps of ``loss_<width>`` are log2 of the learning rate: loss on the whole training part after training (nats).
``shift`` is how far the best one moves from the smallest to the largest width, in octaves, each best one refined by the
parabola through it and its neighbours; ``signed_shift`` keeps the direction. ``kept`` is the loss at the largest width
with the learning rate that is best at the smallest, over that with its own best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.training import fit
from tensorbench.optimizers import methods
from tensorbench.optimizers.norm_descent import SignDescent, modular
from tensorbench.optimizers.tasks import images
from tensorbench.optimizers.widths import best_lr, lr_shift

Make = Callable[[nn.Module, float], torch.optim.Optimizer]
METHODS: dict[str, Make] = {
    "sgd": lambda model, lr: methods.create("sgd", model, lr),
    "sign": lambda model, lr: SignDescent(model.parameters(), lr, momentum=0.9),
    "adam": lambda model, lr: methods.create("adam", model, lr),
    "muon": lambda model, lr: methods.create("muon", model, lr),
    "modular": lambda model, lr: modular(model, lr, momentum=0.9),
}


def run(run: Run) -> None:
    """Every width with every learning rate, from the same start and in the same batches for a width."""
    options = run.method.params
    data = images.prepare(run.dataset.load(run.seed))
    features, rows = math.prod(data.train[0].shape[1:]), []
    for width in run.progress(options["widths"], desc="widths"):
        for octave in options["octaves"]:
            generator = run.generator
            model = images.perceptron(generator, (features, width, width, data.classes))
            optimizer = METHODS[run.method.uses](model, 2.0**octave)
            batches = images.batches(data.train, generator, options["batch"])
            history = fit(model, batches, images.loss, optimizer, steps=options["steps"], schedule="linear")
            loss = math.nan if history.diverged else images.measure(model, data.train)[0]
            rows.append({"width": width, "lr": 2.0**octave, "loss": loss, "seed": run.seed})
            if math.isfinite(loss):
                run.log(step=octave, **{f"loss_{width}": loss})
    sweep = pd.DataFrame(rows)
    shift = lr_shift(sweep, refine=True)
    best = {int(w): math.log2(lr) for w, lr in zip(shift.best["width"], shift.best["lr"], strict=True)}
    small, large = min(best), max(best)
    wide = sweep[sweep["width"] == large].set_index("lr")["loss"]
    narrow = sweep[sweep["width"] == small]
    run.log(
        shift=shift.octaves.mean,
        signed_shift=best[large] - best[small],
        inside=not _at_edge(sweep),
        kept=float(wide[best_lr(narrow["lr"].to_numpy(), narrow["loss"].to_numpy())] / wide.min()),
        best_loss=float(wide.min()),
        **{f"best_{width}": octave for width, octave in best.items()},
    )


def _at_edge(sweep: pd.DataFrame) -> bool:
    ends = (sweep["lr"].min(), sweep["lr"].max())
    return any(best_lr(part["lr"].to_numpy(), part["loss"].to_numpy()) in ends for _, part in sweep.groupby("width"))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """A panel for each optimizer, and the best learning rates against the width."""
    names = [name for name in METHODS if len(records) and (records["method"] == name).any()]
    fig, axes = plotting.figure(columns=2, rows=2, cols=3, height=10.5)
    for ax, name in zip(axes.flat, names, strict=False):
        rows = records[records["method"] == name]
        widths = sorted(
            int(c.removeprefix("best_")) for c in rows.columns if c.startswith("best_") and c != "best_loss"
        )
        long = pd.concat(
            rec.history(rows, f"loss_{w}").assign(width=str(w), lr=lambda f: 2.0 ** f["step"]) for w in widths
        )
        plotting.series(ax, long, "lr", "value", by="width", reducer="median", log="xy", order=[str(w) for w in widths])
        ax.set_title(plotting.label(name))
        ax.set(xlabel="learning rate", ylabel="training loss (nats)")
    last = axes.flat[len(names)] if len(names) < 6 else None
    for ax in list(axes.flat)[len(names) + (last is not None) :]:
        ax.set_visible(False)
    if last is not None and names:
        for name in names:
            rows = records[records["method"] == name]
            widths = sorted(
                int(c.removeprefix("best_")) for c in rows.columns if c.startswith("best_") and c != "best_loss"
            )
            moved = [float((rows[f"best_{w}"] - rows[f"best_{widths[0]}"]).mean()) for w in widths]
            last.plot(widths, moved, **plotting.style(name))
        plotting.log_axis(last, "x", ticks=widths)
        last.axhspan(-1, 1, color="#888888", alpha=0.12, linewidth=0)
        last.set(xlabel="width", ylabel="best rate moves (octaves)", title="Best learning rate")
        last.yaxis.set_major_locator(_whole())
        handles, texts = axes.flat[0].get_legend_handles_labels()
        fig.legend(handles, [f"width {t}" for t in texts], loc="outside lower left", ncols=2)
        handles, texts = last.get_legend_handles_labels()
        fig.legend(handles, texts, loc="outside lower right", ncols=3)
    elif not names:
        plotting.empty(axes.flat[0])
    yield "transfer", fig


def _whole():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True, nbins=5)
