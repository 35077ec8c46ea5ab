"""Blocks of the network with weights that make them steps of partial differential equations.

``step_error`` is the largest difference between one block and the same step in numpy (float64, periodic),
``sum_change`` the relative change of the sum after all steps, and ``error`` the largest difference from the exact
solution at the final time; the steps are points along a side, and Δt is in proportion to the spacing's square. For
the translation ``centre_error`` is the largest deviation of the centre of mass from one pixel a layer, in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.pde_operators import stencils
from tensorbench.pde_operators.datasets.fields import wave
from tensorbench.pde_operators.pde_resnet import PDEBlock

Field = Float[np.ndarray, "rows columns"]
SPEED, DIFFUSIVITY = (1.0, 0.5), 0.05
KEPT = 4  # fields of a figure


def burgers(X: Field, Y: Field, t: float) -> Field:
    """The exact solution before a shock: u = u₀(x - u t, y), by Newton's method along characteristics."""
    u = wave(X, Y)
    for _ in range(50):
        at = X - t * u
        u = u - (u - wave(at, Y)) / (1 + t * 0.5 * np.cos(at) * np.cos(Y))
    return u


def advection(X: Field, Y: Field, t: float) -> Field:
    """The initial field, moved."""
    return wave(X - SPEED[0] * t, Y - SPEED[1] * t)


def heat(X: Field, Y: Field, t: float) -> Field:
    """The wave decays with rate 2κ."""
    return 1.5 + math.exp(-2 * DIFFUSIVITY * t) * (wave(X, Y) - 1.5)


def _slope(u: Field, h: float, axis: int) -> Field:
    return (np.roll(u, -1, axis) - np.roll(u, 1, axis)) / (2 * h)


def _numpy_step(name: str, u: Field, dt: float, h: float) -> Field:
    if name == "burgers":
        return u - dt * _slope(u**2, h, 1) / 2
    if name == "advection":
        return u - dt * (SPEED[0] * _slope(u, h, 1) + SPEED[1] * _slope(u, h, 0))
    around = sum(np.roll(u, shift, axis) for shift in (1, -1) for axis in (0, 1))
    return u + DIFFUSIVITY * dt * (around - 4 * u) / h**2


BLOCKS: dict[str, Callable[[float, float], PDEBlock]] = {
    "burgers": stencils.burgers_block,
    "advection": lambda dt, h: stencils.advection_block(SPEED, dt, h),
    "heat": lambda dt, h: stencils.heat_block(DIFFUSIVITY, dt, h),
}
EXACT = {"burgers": burgers, "advection": advection, "heat": heat}
METHODS = {**BLOCKS, "translation": stencils.translate}


def run(run: Run) -> None:
    """Steps of an equation on finer and finer grids, or the translation of an image."""
    work = _translation if run.method.uses == "translation" else _equation
    work(run, **run.method.params)


@torch.no_grad()
def _equation(run: Run, sizes: list[int], time: float, ratio: float) -> None:
    name = run.method.uses
    for points in sizes:
        field = run.dataset.load(run.seed, points=points)
        h = field.spacing
        steps = (KEPT - 1) * math.ceil(time / (ratio * h**2) / (KEPT - 1))
        dt = time / steps
        block, u, fields = BLOCKS[name](dt, h), torch.from_numpy(field.u)[None, None], [field.u]
        step_error = float(np.abs(block(u)[0, 0].numpy() - _numpy_step(name, field.u, dt, h)).max())
        for step in range(1, steps + 1):
            u = block(u)
            if step % (steps // (KEPT - 1)) == 0:
                fields.append(u[0, 0].numpy())
        run.log(
            step=points,
            error=float(np.abs(fields[-1] - EXACT[name](field.X, field.Y, time)).max()),
            step_error=step_error,
            sum_change=abs(float(u.sum()) - field.u.sum()) / abs(field.u.sum()),
        )
    np.savez_compressed(run.artifact("fields.npz"), fields=np.stack(fields), at=np.linspace(0, time, KEPT))


def _translation(run: Run, layers: int) -> None:
    image = torch.from_numpy(run.dataset.load(run.seed).u)
    path = stencils.translate(image, layers)
    x0, y0 = stencils.centre_of_mass(image)
    worst = 0.0
    for layer, u in enumerate(path):
        x, y = stencils.centre_of_mass(u)
        worst = max(worst, abs(x - x0 - layer), abs(y - y0))
        run.log(step=layer, centre=x - x0, peak=float(u.max()))
    run.log(centre_error=worst)
    kept = np.linspace(0, layers, KEPT).round().astype(int)
    np.savez_compressed(run.artifact("fields.npz"), fields=path[torch.from_numpy(kept)].numpy(), at=kept)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Fields after some steps, and errors on finer grids."""
    yield "fields", _fields(records)
    yield "orders", _orders(records)


def _fields(records: pd.DataFrame) -> Figure:
    kept = rec.artifacts(records, "fields.npz") if len(records) else pd.DataFrame(columns=["method", "path"])
    rows = [name for name in ("burgers", "translation") if (kept["method"] == name).any()]
    fig, axes = plotting.figure(columns=2, rows=max(len(rows), 1), cols=KEPT, height=4.3 * max(len(rows), 1),
                                squeeze=False)  # fmt: skip
    if not rows:
        for ax in axes.flat:
            plotting.empty(ax)
        return fig
    for row, name in zip(axes, rows, strict=True):
        with np.load(kept[kept["method"] == name]["path"].iloc[0]) as stored:
            fields, at = stored["fields"], stored["at"]
        for ax, u, when in zip(row, fields, at, strict=True):
            image = ax.imshow(u, origin="lower", cmap="viridis", vmin=fields.min(), vmax=fields.max())
            ax.set(xticks=[], yticks=[], title=f"t = {when:.2g}" if name == "burgers" else f"{when} layers")
            ax.grid(False)
        row[0].set_ylabel("Burgers' equation" if name == "burgers" else "u − Sobel u")
        fig.colorbar(image, ax=list(row), shrink=0.85, pad=0.01)
    return fig


def _orders(records: pd.DataFrame) -> Figure:
    fig, ax = plotting.figure(height=6.4)
    history = rec.history(records[records["method"] != "translation"], "error") if len(records) else pd.DataFrame()
    if history.empty:
        plotting.empty(ax)
        return fig
    plotting.log_axis(ax, "x", ticks=sorted(history["step"].unique()))
    plotting.log_axis(ax, "y")
    plotting.series(ax, history, "step", "value")
    first = history.sort_values("step").iloc[0]
    plotting.guide(ax, -2, through=(float(first["step"]), float(first["value"])))
    ax.set(xlabel="points along a side", ylabel="largest error at the end")
    plotting.legend(fig)
    return fig
