"""Seconds of the emulation, in one process on one thread.

``linear``: forward and backward of an FP4 layer over those of ``nn.Linear`` on the same input; a pass of
``quantiser_passes`` is one multiplication of the tensor by a number into a new tensor. ``hadamard``: the steps are
the lengths n. ``grid``: the simulator on the digits task, 16 recipes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from tensorbench.core import data, plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.quantization.blocks import NVFP4 as NVFP4_BLOCKS
from tensorbench.quantization.blocks import fake_quantize
from tensorbench.quantization.fp4.hadamard import hadamard_matrix, hadamard_transform
from tensorbench.quantization.fp4.recipes import COMBINED, NVFP4, Recipe
from tensorbench.quantization.fp4.simulator import diffusion_task, simulate
from tensorbench.quantization.layers import QuantLinear

DENSE = 4096  # largest length whose dense matrix is multiplied
GRID = [
    Recipe(scale=scale, tensor_scale=tensor, stochastic=stochastic, hadamard=hadamard)
    for scale in ("e4m3", "ue5m3")
    for tensor in (None, "absmax")
    for stochastic in (False, True)
    for hadamard in (None, 16)
]


def linear(run: Run, *, repeats: int) -> None:
    """Steps of the layers, and the quantiser alone."""
    x, dy = (torch.from_numpy(array) for array in run.dataset.load(run.seed))
    x.requires_grad_()
    layer = nn.Linear(x.shape[1], dy.shape[1], bias=False)
    fp4 = QuantLinear.of(layer, NVFP4.build(), run.generator)
    combined = QuantLinear.of(layer, COMBINED.build(), run.generator)

    def step(module: nn.Module) -> Callable[[], object]:
        return lambda: torch.autograd.grad(module(x), (x, layer.weight), dy)

    seconds = compare({"linear": step(layer), "fp4": step(fp4), "combined": step(combined)}, repeats=repeats)
    run.log(
        linear_seconds=seconds["linear"],
        fp4_seconds=seconds["fp4"],
        linear_ratio=seconds.ratio("fp4", "linear").value,
        combined_ratio=seconds.ratio("combined", "linear").value,
    )
    bare = x.detach()
    seconds = compare(
        {"pass": lambda: bare * 1.5, "quantiser": lambda: fake_quantize(bare, NVFP4_BLOCKS)}, repeats=repeats
    )
    run.log(quantiser_passes=seconds.ratio("quantiser", "pass").value)


def hadamard(run: Run, *, sizes: list[int], repeats: int) -> None:
    """Transforms of 8 vectors of each length."""
    generator = run.generator
    for n in sizes:
        x = torch.randn(8, n, generator=generator)
        jobs: dict[str, Callable[[], object]] = {
            "fast": lambda x=x: hadamard_transform(x),
            "copy": lambda x=x: x.clone(),
        }
        if n <= DENSE:
            h = hadamard_matrix(n).to(torch.float32)
            jobs["dense"] = lambda x=x, h=h: x @ h
        seconds = compare(jobs, repeats=repeats, min_seconds=0.01)
        run.log(
            step=n, hadamard_seconds=seconds["fast"], **({"matrix_seconds": seconds["dense"]} if n <= DENSE else {})
        )


def grid(run: Run, *, steps: int) -> None:
    """Sixteen recipes on the digits."""
    digits = data.load("digits", seed=run.seed)
    start = time.perf_counter()
    for recipe in run.progress(GRID, desc="recipes"):
        simulate(diffusion_task(digits.train_images, digits.valid_images, run.seed), recipe, steps=steps, seed=run.seed)
    run.log(grid_seconds=time.perf_counter() - start)


METHODS = {"linear": linear, "hadamard": hadamard, "grid": grid}


def run(run: Run) -> None:
    """What the method times."""
    METHODS[run.method.uses](run, **run.method.params)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Time of the transform against its length."""
    fig, ax = plotting.figure(height=6.5)
    fast = rec.history(records, "hadamard_seconds") if len(records) else pd.DataFrame()
    if fast.empty:
        plotting.empty(ax)
    else:
        dense = rec.history(records, "matrix_seconds")
        both = pd.concat([fast.assign(method="butterflies"), dense.assign(method="dense matrix")])
        plotting.series(ax, both, "step", "value", log="xy")
        n = np.unique(fast["step"].to_numpy(dtype=float))
        start = float(fast.loc[fast["step"] == n[0], "value"].mean())
        ax.plot(n, start * n * np.log(n) / (n[0] * np.log(n[0])), color="#444444", linewidth=0.9, linestyle=":",
                label="n log n")  # fmt: skip
        plotting.log_axis(ax, "x", ticks=tuple(n))
        ax.set(xlabel="length n", ylabel="time for 8 vectors (s)")
        plotting.legend(fig)
    yield "hadamard", fig
