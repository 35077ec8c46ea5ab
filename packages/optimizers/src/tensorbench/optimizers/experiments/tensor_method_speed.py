"""Seconds of a cubic Newton step and of its parts, in one process on one thread. The steps are dimensions.

``step_over_parts`` compares an iteration of ASCN with what it cannot do without: two gradients, a Hessian, ``eigh``.
``memory_over_basis`` is the peak memory of a Krylov step over that of its k vectors of length d.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare, measure
from tensorbench.optimizers.datasets.logistic import TwoClasses
from tensorbench.optimizers.inexact_tensor.ascn import ASCN
from tensorbench.optimizers.inexact_tensor.cubic import cubic_subproblem
from tensorbench.optimizers.inexact_tensor.oracles import MiniBatchOracle
from tensorbench.optimizers.landscapes.convex import LogisticLoss

METHODS = {"ascn": ASCN}


def _hessian(d: int, generator: torch.Generator) -> torch.Tensor:
    """Symmetric with eigenvalues from 1e-3 to 1: a diagonal between two reflections, cheap to draw at any size."""
    H = torch.diag(torch.logspace(-3, 0, d, dtype=torch.float64))
    for _ in range(2):
        u = torch.randn(d, dtype=torch.float64, generator=generator)
        u /= u.norm()
        H = H - 2 * torch.outer(u, u @ H)
        H = H - 2 * torch.outer(H @ u, u)
    return (H + H.T) / 2


def run(run: Run) -> None:
    """A step and its parts, growth with d, Krylov spaces at a large d, memory at a larger one."""
    options = run.method.params
    repeats, generator = options["repeats"], run.generator
    _step(run, run.dataset.load(run.seed), repeats)
    for d in options["sizes"]:
        H, g = _hessian(d, generator), torch.randn(d, dtype=torch.float64, generator=generator)
        tau = 1e-6 * float(g.norm())
        seconds = compare(
            {
                "exact": partial(cubic_subproblem, g, H, 1.0),
                "krylov": partial(cubic_subproblem, g, H, 1.0, method="krylov", tau=tau),
            },
            repeats=min(repeats, 3) if d < 1000 else 1,
        )
        run.log(step=d, exact_seconds=seconds["exact"], krylov_seconds=seconds["krylov"])
    _large(run, options["large"], generator)
    _memory(run, options["wide"], generator)


def _step(run: Run, data: TwoClasses, repeats: int) -> None:
    loss = LogisticLoss(data.l2)
    oracle = MiniBatchOracle(loss, (torch.from_numpy(data.features), torch.from_numpy(data.labels)))
    method = ASCN(oracle, 0.4)
    state = method.start(torch.zeros(data.features.shape[1], dtype=torch.float64))
    for _ in range(3):
        state = method.step(state)
    x = state.x
    g, H = oracle.grad(x), oracle.hess(x)

    def parts() -> None:
        oracle.grad(x)
        oracle.grad(x)
        torch.linalg.eigh(oracle.hess(x))

    rivals = {
        "step": lambda: method.step(state),
        "parts": parts,
        "ours": lambda: cubic_subproblem(g, H, 0.4),
    }
    try:
        from OPTAMI.utils.subproblem_solver import cubic_exact
    except ImportError:
        pass
    else:
        weights = torch.nn.Parameter(x.clone())
        rivals["optami"] = lambda: cubic_exact([weights], g, H, 0.4)
    seconds = compare(rivals, repeats=repeats, min_seconds=0.05)
    run.log(step_seconds=seconds["step"], step_over_parts=seconds.ratio("step", "parts").value)
    if "optami" in rivals:
        run.log(optami_over_ours=seconds.ratio("optami", "ours").value)


def _large(run: Run, d: int, generator: torch.Generator) -> None:
    H, g = _hessian(d, generator), torch.randn(d, dtype=torch.float64, generator=generator)
    tau = 1e-6 * float(g.norm())
    seconds = compare(
        {
            "krylov": lambda: cubic_subproblem(g, H, 1.0, method="krylov", tau=tau),
            "eigh": lambda: torch.linalg.eigh(H),
        },
        repeats=1,
        warmup=0,
        min_seconds=0,
    )
    step = cubic_subproblem(g, H, 1.0, method="krylov", tau=tau)
    run.log(
        krylov_over_eigh=seconds.ratio("krylov", "eigh").value,
        large_products=step.products,
        large_accepted=step.accepted,
    )


def _memory(run: Run, d: int, generator: torch.Generator) -> None:
    diagonal = torch.logspace(-3, 0, d, dtype=torch.float64)
    g = torch.randn(d, dtype=torch.float64, generator=generator)
    with measure() as cost:
        step = cubic_subproblem(g, lambda v: diagonal * v, 1.0, method="krylov", tau=1e-6 * float(g.norm()))
    run.log(memory_over_basis=cost.peak_mib * 2**20 / (8 * d * step.products), wide_products=step.products)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Seconds against the dimension."""
    fig, ax = plotting.figure(height=6.4)
    parts = [
        history.assign(solver=text)
        for metric, text in (("exact_seconds", "eigendecomposition"), ("krylov_seconds", "Krylov spaces"))
        if len(records) and not (history := rec.history(records, metric)).empty
    ]
    if not parts:
        plotting.empty(ax)
    else:
        sizes = np.unique(parts[0]["step"].to_numpy(dtype=float))
        plotting.log_axis(ax, "x", ticks=sizes.tolist())
        plotting.log_axis(ax, "y")
        plotting.series(ax, pd.concat(parts), "step", "value", by="solver")
        first = parts[0][parts[0]["step"] == sizes[-1]]["value"].mean()
        plotting.guide(ax, 3, through=(sizes[-1], float(first)))
        ax.set(xlabel="dimension d", ylabel="time of a step (s)")
        plotting.legend(fig)
    yield "time", fig
