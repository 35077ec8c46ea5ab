"""Gaps of accelerated tensor methods with exact derivatives. The step is the iteration T.

``gap_over_certificate`` is the largest ratio of f(x_T) - f* to the certificate over all T, and ``certificate_holds``
says whether it is at most 1; ``iterations_to_1e2`` and ``iterations_to_1e4`` are the first T with a gap of at most 10⁻²
and 10⁻⁴ times the dimension (where one has); ``gap_late`` is the gap from T = 10 to 60.
``krylov_rule`` runs twice, with exact and with Krylov steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.optimizers.inexact_tensor.ascn import ASCN
from tensorbench.optimizers.inexact_tensor.baselines import CubicNewton
from tensorbench.optimizers.inexact_tensor.bounds import simple_certificate
from tensorbench.optimizers.inexact_tensor.cubic import dynamic_rule
from tensorbench.optimizers.inexact_tensor.oracles import ExactOracle
from tensorbench.optimizers.inexact_tensor.sartem import SARTEM
from tensorbench.optimizers.landscapes.convex import Landscape

METHODS = {"ascn": ASCN, "cubic_newton": CubicNewton, "s_artem": SARTEM, "krylov_rule": ASCN}
LATE = (10, 60)


def run(run: Run) -> None:
    """One function, one method, every iteration."""
    f: Landscape = run.dataset.load(run.seed)
    options = dict(run.method.params)
    p = 3 if run.method.uses == "s_artem" else 2
    if "times_lipschitz" in options:
        options["M"] = options.pop("times_lipschitz") * f.lipschitz[p]
    if run.method.uses == "krylov_rule":
        return _inexact(run, f, **options)
    method = METHODS[run.method.uses](ExactOracle(f), **options)
    gaps: list[float] = []
    with run.time("fit"):
        method.run(f.start, record=lambda state: gaps.append(f.gap(state.x)))
    for T, gap in enumerate(gaps, 1):
        run.log(step=T, gap=gap, **({"gap_late": gap} if LATE[0] <= T <= LATE[1] else {}))
    for name, share in (("iterations_to_1e2", 1e-2), ("iterations_to_1e4", 1e-4)):
        reached = [T for T, gap in enumerate(gaps, 1) if gap <= share * len(f.start)]
        if reached:
            run.log(**{name: reached[0]})
    if run.method.uses != "cubic_newton":
        bounds = [simple_certificate(T, options["M"], f.radius, p=p) for T in range(1, len(gaps) + 1)]
        worst = float((np.array(gaps) / np.array(bounds)).max())
        run.log(gap_over_certificate=worst, certificate_holds=worst <= 1)
    run.log(M=options["M"], radius=f.radius)


def _inexact(run: Run, f: Landscape, *, M: float, T: int, c: float) -> None:
    """The same iterations with exact steps and with steps under the dynamic rule."""
    final = {}
    for solver, tau in (("exact", None), ("krylov", dynamic_rule(c))):
        method = ASCN(ExactOracle(f), M, f.radius, T, solver=solver, tau=tau)
        state = method.start(f.start)
        with run.time(solver):
            for t in range(T):
                state = method.step(state)
                products = state.last.products if state.last else 0
                run.log(step=t + 1, **{f"{solver}_gap": f.gap(state.x), f"{solver}_products": products})
        final[solver] = (f.gap(state.x), state.flops)
    run.log(
        gap=final["krylov"][0],
        krylov_gap_ratio=final["krylov"][0] / final["exact"][0],
        flops_ratio=final["krylov"][1] / final["exact"][1],
    )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Gaps on three functions; Krylov steps beside exact ones."""
    fig, axes = plotting.figure(columns=2, cols=3, height=6.6)
    history = rec.history(records, "gap")
    shown: list[tuple[str, str, int, Any]] = [
        ("chain_20", "ascn_16", 2, "cubic chain, k = 20"),
        ("log_sum_exp", "ascn", 2, "log-sum-exp"),
        ("quartic_chain", "s_artem", 3, "quartic chain, k = 10"),
    ]
    for ax, (dataset, certified, p, title) in zip(axes, shown, strict=True):
        part = history[history["dataset"] == dataset]
        ax.set_title(title)
        if part.empty:
            plotting.empty(ax)
            continue
        part = part[part["value"] > 1e-10]
        plotting.series(ax, part, "step", "value", log="xy")
        row = records[(records["dataset"] == dataset) & (records["method"] == certified)]
        if len(row):
            T = np.unique(np.geomspace(1, part["step"].max(), 40).astype(int))
            bound = [simple_certificate(int(t), float(row["M"].iloc[0]), float(row["radius"].iloc[0]), p=p) for t in T]
            ax.plot(T, bound, color="#444444", linewidth=0.9, linestyle=":", label="certificate")
        ax.set(xlabel="iterations T", ylabel="f(x) − f*" if ax is axes[0] else "")
    plotting.legend(fig)
    yield "gaps", fig

    fig, axes = plotting.figure(columns=2, cols=2, height=6.0)
    found = {
        name: rec.history(records, name)
        for name in ("exact_gap", "krylov_gap", "krylov_products")
        if len(records) and any(name in points for points in records["_history"])
    }
    if len(found) < 3:
        plotting.empty(axes[0])
        plotting.empty(axes[1])
    else:
        exact, krylov, products = (found[name] for name in ("exact_gap", "krylov_gap", "krylov_products"))
        looks = plotting.styles(["exact steps", "Krylov steps"])
        plotting.log_axis(axes[0], "y")
        plain = {"color": looks["exact steps"]["color"], "linewidth": 4, "alpha": 0.35, "label": "exact steps"}
        axes[0].plot(exact["step"], exact["value"], **plain)
        axes[0].plot(krylov["step"], krylov["value"], markevery=6, **(looks["Krylov steps"] | {"linestyle": "none"}))
        axes[1].plot(products["step"], products["value"], **(looks["Krylov steps"] | {"marker": ""}))
        axes[1].set_ylim(0, None)
        axes[0].set(xlabel="iterations T", ylabel="f(x) − f*")
        axes[1].set(xlabel="iterations T", ylabel="Hessian-vector products a step")
    plotting.legend(fig)
    yield "krylov", fig
