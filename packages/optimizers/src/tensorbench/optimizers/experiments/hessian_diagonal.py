"""How well random probes find the Hessian's diagonal, alone and averaged over kernels; descents in the plane.

Networks are trained for a few steps with Adam first, so that the Hessian is not that of a random start. ``spread`` is
the standard deviation over single probes of the 3 × 3 means of |Hz|, averaged over convolutions' kernels, over that of
single entries; ``bias`` compares the kernels' mean with that of the exact |diagonal| (the small network alone).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.training import fit
from tensorbench.optimizers.adahessian import AdaHessian, exact_diag, hutchinson_diag, spatial_average
from tensorbench.optimizers.autodiff import grad, objective
from tensorbench.optimizers.flat import flatten
from tensorbench.optimizers.landscapes.planar import PLANES, plane, trajectory
from tensorbench.optimizers.probes import source
from tensorbench.optimizers.tasks import images


def _small(generator: torch.Generator) -> nn.Sequential:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 4)
    )
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(0, p[0].numel() ** -0.5, generator=generator) if p.ndim > 1 else p.zero_()
    return network


def estimate(run: Run) -> None:
    """Errors and spreads of Hutchinson's estimate on a network that has been trained a little."""
    options = run.method.params
    data = run.dataset.load(run.seed)
    small = data.classes == 4
    prepared = images.prepare(data, halve=data.train_images.shape[1] == 28, dtype=torch.float64)
    g = torch.Generator().manual_seed(run.seed)
    network = (_small(g) if small else images.resnet8(g)).double()
    steps = images.batches(prepared.train, g, 64)
    fit(network, steps, images.loss, torch.optim.Adam(network.parameters(), 3e-3), steps=options["train_steps"])
    batch = tuple(t[: options["batch"]] for t in prepared.train)
    params = list(network.parameters())
    kernels = [k for k, p in enumerate(params) if p.ndim == 4 and p.shape[-1] == 3]
    closure = objective(network, images.loss, batch)
    gradients = grad(closure(), params, create_graph=True)
    draw = source("rademacher", torch.Generator().manual_seed(1000 + run.seed))
    singles = [hutchinson_diag(gradients, params, 1, draw).values for _ in range(options["probes"])]
    entries, means = [], []
    for k in kernels:
        sizes = torch.stack([s[k].abs() for s in singles])
        entries.append(sizes.std(0).mean())
        means.append(sizes.mean((3, 4)).std(0).mean())
    run.log(spread=float(sum(means) / sum(entries)))
    if not small:
        return
    exact = exact_diag(closure, params)
    scale = flatten(exact).norm()
    blocks = {1: None, 3: 3, 9: 9}
    for count in options["counts"]:
        groups = [singles[k : k + count] for k in range(0, len(singles) - count + 1, count)]
        errors = []
        for group in groups:
            mean = [torch.stack(list(parts)).mean(0) for parts in zip(*group, strict=True)]
            errors.append(float((flatten(mean) - flatten(exact)).norm() / scale))
        run.log(step=count, error=float(np.mean(errors)))
    for size, block in blocks.items():
        target = torch.cat([spatial_average(exact[k].abs(), block).reshape(-1) for k in kernels])
        found = [torch.cat([spatial_average(s[k].abs(), block).reshape(-1) for k in kernels]) for s in singles]
        run.log(step=size, block_error=float(np.mean([(f - target).norm() / target.norm() for f in found])))
    ratio = torch.stack(found).mean() / target.mean()
    run.log(bias=float(ratio))


_MAKERS: dict[str, Callable] = {
    "adahessian": lambda params, lr, seed: AdaHessian(params, lr, seed=seed),
    "adam": lambda params, lr, seed: torch.optim.Adam(params, lr),
    "sgd": lambda params, lr, seed: torch.optim.SGD(params, lr, momentum=0.9),
}


def _made(name: str, lr: float, seed: int, params: Any) -> torch.optim.Optimizer:
    return _MAKERS[name](params, lr, seed)


def descend(run: Run, name: str) -> None:
    """The lowest last value over a grid of learning rates on each plane, and the way there."""
    options = run.method.params
    kept = {}
    for land in run.dataset.load(run.seed):
        best = None
        for lr in options["rates"]:
            points, values = trajectory(land, partial(_made, name, lr, run.seed), options["steps"])
            whole = len(values) == options["steps"] + 1
            if whole and (best is None or values[-1] < best[1][-1]):
                best = points, values, lr
        if best is None:
            continue
        run.log(**{land.name: max(float(best[1][-1]), 1e-300), f"{land.name}_rate": best[2]})
        kept[land.name] = best[0].numpy()
    np.savez(run.artifact("ways.npz"), **kept)  # type: ignore[arg-type]


METHODS: dict[str, Callable[[Run], None]] = {
    "hutchinson": estimate, **{name: partial(descend, name=name) for name in _MAKERS}
}  # fmt: skip


def run(run: Run) -> None:
    """An estimate on a network or a descent on the planes."""
    METHODS[run.method.uses](run)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Errors against probes and block size; ways in the plane."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.5)
    own = records[records["method"] == "hutchinson"] if len(records) else records
    own = own[own["dataset"] == "gratings"] if len(own) else own
    for ax, metric, words in zip(axes, ("error", "block_error"), ("probes", "entries in a block"), strict=True):
        if not len(own):
            plotting.empty(ax)
            continue
        frame = rec.history(own, metric)
        plotting.log_axis(ax, "x", ticks=sorted(frame["step"].unique()))
        plotting.log_axis(ax, "y")
        plotting.series(ax, frame, "step", "value")
        if metric == "error":
            plotting.guide(ax, -0.5, through=(1.0, float(frame.loc[frame["step"] == 1, "value"].mean())))
            plotting.legend(ax)
        ax.set(xlabel=words, ylabel="relative error" if metric == "error" else "relative error of |D|")
    yield "errors", fig
    fig, axes = plotting.figure(columns=2, cols=4, height=5.0)
    found = records[records["dataset"] == "planes"] if len(records) else records
    ways = rec.artifacts(found, "ways.npz") if len(found) else found
    for ax, name in zip(axes, PLANES, strict=True):
        ax.set_title(name.replace("_", "-"), fontsize=8)
        if not len(ways):
            plotting.empty(ax)
            continue
        land = plane(name)
        a, b, c, d = land.window
        x, y = np.meshgrid(np.linspace(a, b, 60), np.linspace(c, d, 60))
        z = np.array([float(land.value(torch.tensor(p))) for p in np.stack([x.ravel(), y.ravel()], 1)])
        ax.contour(x, y, np.log10(z.reshape(x.shape) + 1e-3), levels=10, colors="#cccccc", linewidths=0.5)
        for row in ways[ways["seed"] == ways["seed"].min()].itertuples():
            with np.load(row.path) as stored:
                if name in stored:
                    look = plotting.style(row.method)
                    ax.plot(*stored[name].T, color=look["color"], label=look["label"], linewidth=0.9, marker="")
        ax.plot(*land.minimiser, marker="*", color="black", markersize=5, linestyle="")
        ax.set(xlim=(a, b), ylim=(c, d), xlabel="x₁")
        ax.grid(False)
    axes[0].set_ylabel("x₂")
    plotting.legend(fig)
    yield "planes", fig
