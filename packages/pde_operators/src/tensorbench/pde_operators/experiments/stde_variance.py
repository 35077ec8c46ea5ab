"""Whether estimates of a network's Laplacian have the mean and variance that theory gives, by the size of the batch.

``draws`` estimates are taken at each point for each batch (the steps). ``worst_z`` is the largest distance of their
mean from the exact Laplacian in standard errors; ``variance_ratio`` the measured over the theoretical variance,
averaged over points and batches. ``bias_ratio`` is the bias of the squared residual over the theoretical variance,
``product_z`` the distance of the mean product of two independent residuals from the true square, in its standard
errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.pde_operators.stde import OnBall, TanhNet, dense_stde, dense_variance, sparse_stde, sparse_variance

METHODS: dict[str, Any] = {"sparse": sparse_stde, "dense": dense_stde}


@torch.no_grad()
def run(run: Run) -> None:
    """One network at random, all batches."""
    options = dict(run.method.params)
    batches, draws = options.pop("batches"), options.pop("draws")
    x = run.dataset.load(run.seed).double()
    d, generator = x.shape[1], run.generator
    net = TanhNet(d, width=32, generator=generator, dtype=torch.float64)
    f = OnBall(net)
    for layer in net.layers[1:]:
        layer.weight.mul_(3)  # bends enough for the diagonal of the Hessian to vary
    H = torch.func.vmap(torch.func.hessian(lambda z: f(z[None])[0]))(x)
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    exact = diagonal.sum(-1)
    # A residual of about the size of the estimator's noise.
    offset = exact - diagonal.std(-1) * d**0.5
    worst, product_z, ratio, bias = 0.0, 0.0, [], []
    for batch in run.progress(batches, desc="batch"):
        if run.method.uses == "sparse":
            theory = sparse_variance(diagonal, batch, replace=options.get("replace", False))
        else:
            theory = dense_variance(H, batch, options.get("distribution", "rademacher"))
        estimate = partial(METHODS[run.method.uses], f, x, batch, generator, draws=draws, **options)
        first, second = estimate(), estimate()
        worst = max(worst, float(((first.mean(0) - exact).abs() / (theory / draws).sqrt()).max()))
        ratio.append(float(first.var(0).mean() / theory.mean()))
        r, other, true = first - offset, second - offset, exact - offset
        squares = (r.square().mean(0) + other.square().mean(0)) / 2
        bias.append(float((squares - true.square()).mean() / theory.mean()))
        products = (r * other).mean(1)
        product_z = max(
            product_z, float((products.mean() - true.square().mean()).abs() / (products.std() / draws**0.5))
        )
        run.log(step=batch, variance=float(first.var(0).mean()), theory=float(theory.mean()))
    run.log(
        worst_z=worst,
        product_z=product_z,
        variance_ratio=sum(ratio) / len(ratio),
        bias_ratio=sum(bias) / len(bias),
        unbiased=worst <= 4,
        product_unbiased=product_z <= 4,
    )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Variance by batch: markers measured, lines in theory."""
    fig, ax = plotting.figure(height=7)
    measured = rec.history(records, "variance") if len(records) else pd.DataFrame()
    if measured.empty:
        plotting.empty(ax)
    else:
        theory = rec.history(records, "theory")
        plotting.log_axis(ax, "x", ticks=sorted(measured["step"].unique()))
        plotting.log_axis(ax, "y")
        for name in theory["method"].unique():
            group = theory[theory["method"] == name]
            line = group.groupby("step")["value"].mean()
            ax.plot(line.index, line, color=plotting.style(name)["color"], linewidth=0.9)
        for name in measured["method"].unique():
            group = measured[measured["method"] == name]
            points = group.groupby("step")["value"].mean()
            look = plotting.style(name)
            ax.plot(points.index, points, linestyle="", marker=look.get("marker", "o"), color=look["color"],
                    label=plotting.label(name))  # fmt: skip
        ax.set(xlabel="dimensions or probes a draw", ylabel="variance of the Laplacian")
        plotting.legend(fig)
    yield "variance", fig
