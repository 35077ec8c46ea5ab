"""Adam, Shampoo and Prodigy without averages against steepest descent, and the orthogonal factor as the nearest.

``gap`` is the largest difference of weights over all steps: absolute for Adam and Prodigy, over the largest step for
Shampoo. The steps of ``gap_at`` are the averages' β, by which the gap closes as β goes to 0; those of ``error_after_…``
and of the singular values are iterations of a polynomial. ``margin`` is the least of |O − G| − |U Vᵀ − G| over |G|.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.optimizers.equivalence import PAIRS, equivalence_report
from tensorbench.optimizers.matrix_functions import orthogonalize
from tensorbench.optimizers.norm_descent import SignDescent, SpectralDescent
from tensorbench.optimizers.shampoo import Shampoo

POLYNOMIALS = ("cubic", "quintic", "polar_express")


def with_averages(name: str, beta: float):
    """The pair of ``name`` with averages of weight ``beta`` in the optimizer."""
    if name == "adam":
        return (
            lambda params: torch.optim.Adam(params, lr=0.01, betas=(beta, beta), eps=0.0),
            lambda params: SignDescent(params, lr=0.01),
        )
    return (
        lambda params: Shampoo(params, lr=0.01, beta=beta, eps=0.0),
        lambda params: SpectralDescent(params, lr=0.01),
    )


def pairs(run: Run, name: str, betas: list[float]) -> None:
    """The gap without averages, and with a little of them."""
    gradients = run.dataset.load(run.seed).of_steps
    gap = equivalence_report(gradients, run.seed, {name: PAIRS[name]})[name]
    run.log(gap=gap.relative if name.startswith("shampoo") else gap.absolute, relative_gap=gap.relative)
    for beta in betas:
        found = equivalence_report(gradients, run.seed, {name: with_averages(name, beta)})[name]
        run.log(step=beta, gap_at=found.relative)


def nearest(run: Run, samples: int, iterations: list[int]) -> None:
    """Semi-orthogonal matrices, far and near, against U Vᵀ; and how near polynomials come to it."""
    G = run.dataset.load(run.seed).of_steps[0]
    out, into = G.shape
    tall = G if out >= into else G.T
    polar = orthogonalize(tall)
    generator = torch.Generator().manual_seed(run.seed + 1)
    noise = torch.randn(2 * samples, *tall.shape, generator=generator, dtype=G.dtype)
    size = torch.logspace(-4, 0, samples, dtype=G.dtype)[:, None, None]
    others = orthogonalize(torch.cat([noise[:samples], polar + size * noise[samples:]]))
    distance = torch.linalg.matrix_norm(others - tall)
    best = torch.linalg.matrix_norm(polar - tall)
    run.log(
        nearest=bool((best <= distance).all()), margin=float((distance.min() - best) / tall.norm()),
        random_distance=float(distance[:samples].mean() / best),
    )  # fmt: skip
    for count in iterations:
        for name in POLYNOMIALS:
            X = orthogonalize(tall, name, count)  # type: ignore[arg-type]
            S = torch.linalg.svdvals(X)
            run.log(step=count, **{f"error_{name}": float((X - polar).abs().max()), f"least_{name}": float(S.min())})


def run(run: Run) -> None:
    """One pair of optimizers, or the nearest matrix."""
    if run.method.uses == "nearest":
        nearest(run, **run.method.params)
    else:
        pairs(run, run.method.uses, **run.method.params)


METHODS = {name: pairs for name in PAIRS} | {"nearest": nearest}


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """How the gaps close as averages go, and how polynomials converge."""
    fig, (left, right) = plotting.figure(columns=2, cols=2)
    gaps = (
        rec.history(records, "gap_at") if len(records) and records["method"].isin(["adam", "shampoo"]).any() else None
    )
    if gaps is None or gaps.empty:
        plotting.empty(left)
    else:
        plotting.series(left, gaps[gaps["dataset"] == "moderate"], "step", "value", log="xy")
        left.set(xlabel="weight β of the averages", ylabel="difference of weights over a step")
        plotting.legend(left, loc="upper left")
    rows = records[records["method"] == "nearest"] if len(records) else records
    if rows.empty:
        plotting.empty(right)
    else:
        long = pd.concat(
            rec.history(rows, f"error_{name}").assign(polynomial=name.replace("_", " ")) for name in POLYNOMIALS
        )
        hard = long[long["dataset"] == "hard"]
        plotting.series(right, hard if len(hard) else long, "step", "value", by="polynomial", log="y")
        right.set(xlabel="iterations", ylabel=r"largest error of $U V^{\top}$", ylim=(1e-15, 2))
        right.set_yticks(10.0 ** np.arange(-15, 1, 3))
        handles, texts = right.get_legend_handles_labels()
        fig.legend(handles, texts, loc="outside lower right", ncols=3)
    yield "gaps", fig
