"""Seconds of Hessian products and Lanczos runs, in one process on one thread, on the whole training part of digits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.optimizers import autodiff, curvature, linops, probes
from tensorbench.optimizers.flat import flatten, trainable
from tensorbench.optimizers.tasks import images

PRODUCTS = {
    "gradient": "gradient",
    "product": "double backward",
    "reused": "double backward, graph kept",
    "forward": "forward over reverse",
    "difference": "finite difference",
    "gauss_newton": "Gauss-Newton",
}


@contextmanager
def _torch_eig() -> Iterator[None]:
    """PyHessian 0.1 calls ``torch.eig``, which torch 1.13 took out; the matrix that it is called on is symmetric."""

    def eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    before = getattr(torch, "eig", None)
    setattr(torch, "eig", eig)  # noqa: B010
    try:
        yield
    finally:
        setattr(torch, "eig", before)  # noqa: B010


def pyhessian_density(model: nn.Module, batch: Any, steps: int) -> tuple[list, list]:
    """PyHessian's density of one run: Ritz values and weights. The gradients that it leaves behind are taken away."""
    from pyhessian import hessian

    with _torch_eig():
        found = hessian(model, nn.CrossEntropyLoss(), data=batch, cuda=False).density(iter=steps, n_v=1)
    model.zero_grad(set_to_none=True)
    return found


def time_products(run: Run, model: nn.Module, batch: Any, v: Sequence[Tensor], repeats: int) -> None:
    """One product each way against the gradient."""
    params, closure = trainable(model), autodiff.objective(model, images.loss, batch)
    op, flat = curvature.hessian_operator(closure, params), flatten(v)
    moved = copy.deepcopy(model)  # differences move the parameters, which a graph that is kept does not survive
    elsewhere = autodiff.objective(moved, images.loss, batch)
    rivals: dict[str, Callable[[], object]] = {
        "gradient": lambda: autodiff.grad(closure(), params),
        "product": lambda: autodiff.hvp(closure, params, v),
        "reused": lambda: op @ flat,
        "forward": lambda: autodiff.hvp(closure, params, v, "forward_over_reverse"),
        "difference": lambda: autodiff.hvp(elsewhere, trainable(moved), v, "finite_difference"),
        "gauss_newton": lambda: autodiff.ggnvp(model, images.loss, batch, v),
    }
    seconds = compare(rivals, repeats=2 * repeats, min_seconds=0.05)
    run.log(**{f"{name}_milliseconds": 1000 * seconds[name] for name in rivals})
    run.log(
        product_over_gradient=seconds.ratio("product", "gradient").value,
        reused_over_gradient=seconds.ratio("reused", "gradient").value,
    )


METHODS = {"lanczos": time_products}


def run(run: Run) -> None:
    """Products, then Lanczos against as many products, then densities."""
    options = run.method.params
    batch = images.prepare(run.dataset.load(run.seed)).train
    model = images.perceptron(run.generator, options["widths"], "tanh")
    params, steps = trainable(model), options["steps"]
    v = probes.gaussian(params, run.generator)
    METHODS[run.method.uses](run, model, batch, v, options["repeats"])
    closure, start = autodiff.objective(model, images.loss, batch), flatten(v)
    op = curvature.hessian_operator(closure, params)

    def products() -> None:
        for _ in range(steps):
            op @ start

    def density() -> linops.Density:
        return linops.slq_density(curvature.hessian_operator(closure, params), steps, 1, run.generator, "rademacher")

    pair = compare({"lanczos": lambda: linops.lanczos(op, steps, start), "products": products},
                   repeats=options["repeats"], min_seconds=0)  # fmt: skip
    peer = compare({"ours": density, "pyhessian": lambda: pyhessian_density(model, batch, steps)},
                   repeats=options["repeats"], min_seconds=0)  # fmt: skip
    theirs = float(np.max(pyhessian_density(model, batch, steps)[0]))
    run.log(
        lanczos_over_products=pair.ratio("lanczos", "products").value,
        density_over_pyhessian=peer.ratio("ours", "pyhessian").value,
        density_seconds=peer["ours"],
        pyhessian_seconds=peer["pyhessian"],
        values_agree=abs(float(density().values.max()) - theirs) <= 0.02 * abs(theirs),
    )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """One bar a way."""
    fig, ax = plotting.figure(height=6)
    if not len(records):
        plotting.empty(ax)
    else:
        names = list(PRODUCTS)
        times = records[[f"{name}_milliseconds" for name in names]]
        look = plotting.style("lanczos")
        at = np.arange(len(names))[::-1]
        ax.barh(at, times.mean(), color=look["color"], height=0.7, alpha=0.9)
        if len(times) > 1:
            half = 1.96 * times.std(ddof=1) / np.sqrt(len(times))
            ax.errorbar(times.mean(), at, xerr=half, linestyle="none", color="#222222", elinewidth=0.8, capsize=2)
        ax.set_yticks(at, [PRODUCTS[name] for name in names])
        ax.grid(False, axis="y")
        plotting.reference(ax, x=3 * float(times["gradient_milliseconds"].mean()))
        ax.set_xlabel("time of one product (ms)")
    yield "products", fig
