"""Exponents of change against width on a grid of parametrisations; the distance of linear networks from their limit.

The steps of ``feature_exponent`` and ``output_exponent`` number the grid's cells, row (a) by row; those of ``gap`` are
widths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import growth
from tensorbench.optimizers.datasets.teacher import TeacherPairs
from tensorbench.optimizers.infinite_width.abc import ABC, classify, uniform_sweep
from tensorbench.optimizers.infinite_width.abc_mlp import ABCMLP
from tensorbench.optimizers.infinite_width.limit_gap import limit_gap

STILL, FROZEN = -0.1, -0.3  # exponents of a change: above the first it stays of order 1, below the second it vanishes
GROWS = 0.1  # above this a change grows with the width
FAR = 0.35  # r of a cell that is away from the boundary r = 0
MARGIN = 0.2  # a cell whose predicted exponents are nearer to 0 without being 0 is not judged by kind
KINDS = ("unstable", "trivial", "kernel", "feature_learning")


def changes(abc: ABC, n: int, data: TeacherPairs, eta: float, steps: int, seed: int) -> tuple[float, float]:
    """Root mean square change of last hidden layer and outputs after ``steps`` of SGD; infinite if diverged."""
    x, y = torch.from_numpy(data.x).float(), torch.from_numpy(data.y).float()
    widths = (x.shape[1], *[n] * abc.hidden, y.shape[1])
    gain = (x.shape[1] ** -0.5, *[1.0] * abc.hidden)
    net = ABCMLP(widths, abc, generator=torch.Generator().manual_seed(seed), gain=gain)
    optimizer = torch.optim.SGD(net.parameters(), lr=net.learning_rate(eta))
    with torch.no_grad():
        features, outputs = net.features(x)[-1], net(x)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (net(x) - y).square().sum(1).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        found = [(net.features(x)[-1] - features), net(x) - outputs]
    values = [float(change.double().square().mean().sqrt()) for change in found]
    return tuple(v if np.isfinite(v) else np.inf for v in values)  # type: ignore[return-value]


def exponent(widths: Sequence[int], values: np.ndarray) -> float:
    """Growth of a change with the width; infinite where one diverged."""
    if not np.isfinite(values).all():
        return float("inf")
    return growth([float(n) for n in widths], np.maximum(values, 1e-30).tolist()).exponent


def kind(feature: float, output: float) -> str:
    """The kind that measured exponents say."""
    if feature > GROWS or output > GROWS:
        return "unstable"
    if output < STILL:
        return "trivial"
    return "feature_learning" if feature > STILL else "kernel"


def run_grid(run: Run, data: TeacherPairs, hidden: int, widths: list[int], a_out: list[float], c: list[float],
             eta: float, steps: int, draws: int) -> None:  # fmt: skip
    """Measure every cell; ``agreement`` is the sheet's criterion on stable cells, ``kind_agreement`` that of kinds."""
    sweep = uniform_sweep(a_out, c, hidden)
    agree, agree_kind = [], []
    for cell in run.progress(range(sweep.r.size), desc="cell"):
        row, column = divmod(cell, len(c))
        abc = sweep.at(row, column, hidden)
        measured = np.array([
            np.mean([changes(abc, n, data, eta, steps, 1009 * run.seed + draw) for draw in range(draws)], axis=0)
            for n in widths
        ])  # fmt: skip
        feature, output = (exponent(widths, measured[:, k]) for k in (0, 1))
        run.log(step=cell, feature_exponent=np.nan_to_num(feature, posinf=99.0),
                output_exponent=np.nan_to_num(output, posinf=99.0))  # fmt: skip
        r, predicted = abc.r, classify(abc)
        if predicted.stable and (abs(r) < 1e-9 or r >= FAR):
            agree.append(feature > STILL if abs(r) < 1e-9 else feature < FROZEN)
        moves = 1 - min(2 * abc.a[-1] + abc.c, abc.a[-1] + abc.b[-1] + r)  # predicted exponent of the output's change
        if all(abs(e) < 1e-9 or abs(e) >= MARGIN for e in (r, moves)):
            agree_kind.append(kind(feature, output) == predicted.kind)
    run.log(agreement=np.mean(agree), stable_cells=len(agree))
    run.log(kind_agreement=np.mean(agree_kind), kind_cells=len(agree_kind))


def run_gap(run: Run, data: TeacherPairs, widths: list[int], eta: float, steps: int, draws: int) -> None:
    """The gap of each width."""
    x, y, test = (torch.from_numpy(part) for part in (data.x, data.y, data.test))
    found = limit_gap(widths, x, y, test, steps=steps, lr=eta, draws=draws, seed=run.seed)
    for n, gap in zip(found.widths, found.gaps, strict=True):
        run.log(step=n, gap=gap)


METHODS: dict[str, Any] = {"phase_grid": run_grid, "limit_gap": run_gap}


def run(run: Run) -> None:
    """Load, measure."""
    METHODS[run.method.uses](run, run.dataset.load(run.seed), **run.method.params)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """The phase diagram beside what was measured, and the gap."""
    yield "phases", _phases(records)
    fig, ax = plotting.figure()
    gap = rec.history(records, "gap") if len(records) else pd.DataFrame()
    if gap.empty:
        plotting.empty(ax)
    else:
        plotting.log_axis(ax, "x", ticks=sorted(gap["step"].unique())[::2])
        plotting.log_axis(ax, "y")
        plotting.series(ax, gap, "step", "value")
        first = gap[gap["step"] == gap["step"].min()]
        plotting.guide(ax, -0.5, through=(float(first["step"].iloc[0]), float(first["value"].mean())))
        ax.set(xlabel="width n", ylabel="mean |f$_n$ − f$_∞$|")
        plotting.legend(ax)
    yield "gap", fig


def _phases(records: pd.DataFrame) -> Figure:
    grid = records[records["method"] == "phase_grid"] if len(records) else records
    fig, axes = plotting.figure(columns=2, cols=3, height=6.6, sharey=True)
    if not len(grid):
        for ax in axes:
            plotting.empty(ax)
        return fig
    a, c = (np.asarray(_listed(grid[f"method.{name}"].iloc[0]), dtype=float) for name in ("a_out", "c"))
    hidden = int(grid["method.hidden"].iloc[0])
    stable = np.array([[classify(uniform_sweep([x], [y], hidden).at(0, 0, hidden)).stable for x in a] for y in c])
    _kinds(axes[0], a, c, hidden)
    for ax, metric, title in (
        (axes[1], "feature_exponent", "features' change"),
        (axes[2], "output_exponent", "output's change"),
    ):
        history = rec.history(grid, metric)
        mean = history.groupby("step")["value"].mean().reindex(range(a.size * c.size)).to_numpy(dtype=float)
        shown = mean.reshape(a.size, c.size).T  # rows c, columns a
        image = ax.pcolormesh(a, c, np.clip(shown, -1, 1), cmap="RdBu_r", vmin=-1, vmax=1, shading="nearest")
        rows, columns = np.nonzero(stable)
        ax.plot(a[columns], c[rows], ".", color="black", markersize=3)
        ax.set_title(title)
    fig.colorbar(image, ax=axes[1:], label="exponent in the width", shrink=0.9)
    for ax in axes:
        ax.set_xlabel("last layer's a")
        ax.grid(False)
    axes[0].set_ylabel("learning rate's c")
    return fig


def _kinds(ax: Any, a: np.ndarray, c: np.ndarray, hidden: int) -> None:
    edges = [(grid[0] - (grid[1] - grid[0]) / 2, grid[-1] + (grid[1] - grid[0]) / 2) for grid in (a, c)]
    fine_a, fine_c = (np.linspace(*edge, 161) for edge in edges)
    kinds = uniform_sweep(fine_a + 1e-6, fine_c + 1e-6, hidden).kinds
    ax.pcolormesh(fine_a, fine_c, (kinds != "unstable").T, cmap=ListedColormap(["#F0D9D0", "#DDE6EE"]),
                  shading="nearest", rasterized=True)  # fmt: skip
    line = np.linspace(max(0.0, a[0]), 0.5, 2)
    ax.plot(line, 1 - 2 * line, color="#0072B2", linewidth=2.5, solid_capstyle="butt")
    ax.plot([0.5], [0], "o", color="#D55E00", markersize=6)
    words: dict[str, Any] = {"fontsize": 8, "ha": "center", "va": "center"}
    ax.text(0.22, -0.22, "unstable", **words)
    ax.text(0.68, 1.0, "trivial", **words)
    ax.annotate("kernel", (0.2, 0.6), xytext=(8, 4), textcoords="offset points", fontsize=8, color="#0072B2")
    ax.annotate("feature learning\n(muP)", (0.5, 0), xytext=(8, 3), textcoords="offset points", fontsize=8,
                color="#D55E00", va="bottom")  # fmt: skip
    ax.set_title("predicted kind")
    ax.set(xlim=edges[0], ylim=edges[1])


def _listed(value: Any) -> list[float]:
    import json

    return json.loads(value) if isinstance(value, str) else list(value)
