"""Adam's learning rate against the loss of a small transformer at several widths, and how far the best one moves.

The steps of the histories ``loss_<width>`` are learning rates. ``shift`` (octaves, from the smallest to the largest
width) is between the lowest points of parabolas through the best and its neighbours, ``shift_grid`` between points of
the grid. ``loss_carried`` is the largest width's loss at the smallest one's best learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.tasks import char_lm
from tensorbench.core.training import fit
from tensorbench.optimizers import widths as scaling
from tensorbench.optimizers.tensor_programs import abcd as ab
from tensorbench.optimizers.tensor_programs.models import AbcdTransformer, abcd_param_groups
from tensorbench.optimizers.tensor_programs.mup_library import mup_transformer

LRS = tuple(2.0**k for k in range(-9, -2))
Built = tuple[nn.Module, Callable[[float], torch.optim.Optimizer]]


def build_abcd(
    vocabulary: int, width: int, seed: int, *, preset: str, attention: str, c: float | None = None, **shape: int
) -> Built:
    """Our transformer with torch's Adam."""
    scheme = ab.preset(preset, 3, **({} if c is None else {"c": c}))
    model = AbcdTransformer(
        vocabulary, width, scheme, torch.Generator().manual_seed(seed), attention=attention, **shape
    )
    return model, lambda lr: torch.optim.Adam(abcd_param_groups(model, lr, eps=1e-8))


METHODS: dict[str, Callable[..., Built]] = {"abcd": build_abcd, "library": mup_transformer}


def run(run: Run) -> None:
    """Every learning rate at every width."""
    options = dict(run.method.params)
    options |= options.pop("differs", {}).get(run.dataset.name, {})
    sizes = options.pop("widths", [32, 128, 256])
    lrs, steps = options.pop("lrs", LRS), options.pop("steps", 22)
    batch, windows, context = options.pop("batch", 4), options.pop("windows", 64), options.pop("context", 32)
    text = run.dataset.load(run.seed)
    build = METHODS[run.method.uses]

    def train(width: int, lr: float, seed: int) -> float:
        model, optimizer = build(len(text.vocabulary), width, seed, context=context, **options)
        model.to(run.device)
        stream = char_lm.batches(text.train, torch.Generator().manual_seed(seed), batch=batch, context=context)
        done = fit(
            model, ((x.to(run.device), y.to(run.device)) for x, y in stream), char_lm.loss, optimizer(lr), steps=steps,
            schedule="linear",
        )  # fmt: skip
        if done.diverged:
            return math.nan
        return char_lm.evaluate(model.cpu(), text.valid, windows=windows, context=context)

    with run.time("sweep"):
        sweep = scaling.transfer_sweep(train, sizes, lrs, [run.seed])
    for width, lr, loss in zip(sweep["width"], sweep["lr"], sweep["loss"], strict=True):
        run.log(step=float(lr), **{f"loss_{width}": float(loss)})
    found = scaling.lr_shift(sweep, refine=True)
    small, large = (sweep[sweep["width"] == width].set_index("lr")["loss"] for width in (min(sizes), max(sizes)))
    carried, best = float(large[small.idxmin()]), float(large.min())
    run.log(
        shift=found.octaves.mean,
        shift_grid=scaling.lr_shift(sweep).octaves.mean,
        at_edge=scaling.lr_shift(sweep).at_edge,
        loss_carried=carried,
        loss_best=best,
        regret=carried - best,
    )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Loss against the learning rate, a curve for each width."""
    methods = [name for name in ("mup", "mup_library", "standard") if len(records) and name in set(records["method"])]
    fig, axes = plotting.figure(columns=2, cols=max(len(methods), 1), height=6.6, sharey=True, squeeze=False)
    for ax, name in zip(axes[0], methods, strict=False):
        part = records[records["method"] == name]
        shown = "tinyshakespeare" if "tinyshakespeare" in set(part["dataset"]) else part["dataset"].iloc[0]
        part = part[part["dataset"] == shown]
        names = [column for column in part.columns if column.startswith("loss_") and column[5:].isdigit()]
        names = sorted((n for n in names if part[n].notna().any()), key=lambda n: int(n[5:]))
        frames = [rec.history(part, n).assign(width=f"width {n[5:]}") for n in names]
        ax.set_xscale("log", base=2)
        plotting.series(ax, pd.concat(frames), "step", "value", by="width")
        small = frames[0].groupby("step")["value"].mean()
        ax.axvline(float(np.asarray(small.index)[int(np.argmin(small))]), color="#555555", linestyle=":", linewidth=0.9)
        ax.set(xlabel="learning rate", title=plotting.label(name))
        ax.set_ylabel("validation loss (nats)" if ax is axes[0][0] else "")
    if methods:
        losses = records[[n for n in records.columns if n.startswith("loss_")]].to_numpy(dtype=float)
        least = float(np.nanmin(losses))
        axes[0][0].set_ylim(least - 0.15, least + 1.6)
        plotting.legend(fig)
    else:
        plotting.empty(axes[0][0])
    yield "transfer", fig
