"""The flow on the unit square: energy gap and Barron norm against their bounds, step by step; rates and drift.

The steps are those of the flow, u_0 = 0; of ``kappa_sweep`` they are κ. ``descent`` has the step size that λ, Λ and the
Poincaré constant give (for the semilinear problem from the range that is visited, Λ = max(1, c + 3 max u²)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.pde_operators.barron import rates
from tensorbench.pde_operators.barron.descent import Descent, descend
from tensorbench.pde_operators.barron.energy import SineProblem, minimal_surface
from tensorbench.pde_operators.datasets.barron import Manufactured
from tensorbench.pde_operators.solvers import elliptic_sine

SLACK = 1e-12  # of the energy, for rounding
EPS = 1e-3  # of T(ε)


def _promise(data: Manufactured) -> tuple[rates.Rates, float, float, float]:
    grid = data.problem.grid
    largest = float(np.abs(grid.values(data.solution)).max())
    lower, upper = data.problem.energy.bounds(largest)
    poincare = rates.poincare_constant("cube", grid.d)
    return rates.rates(lower, upper, poincare), lower, upper, poincare


def descent(run: Run, data: Manufactured, *, steps: int, eta: float | None = None) -> None:
    """The flow beside what is promised of it."""
    promise, lower, upper, poincare = _promise(data)
    with run.time("fit"):
        flow = descend(data.problem, eta or promise.eta, steps, truth=data.solution)
    gaps = np.array(flow.energy) - data.problem.value(data.solution)
    _log_gaps(run, flow, gaps)
    _log_norms(run, data, flow, eta or promise.eta)
    run.log(
        lower=lower, upper=upper, poincare=poincare, eta=eta or promise.eta, factor=promise.factor,
        steps_promised=promise.steps(EPS, float(gaps[0])), steps_needed=_first(gaps <= lower * EPS / 2),
        certificate=flow.certificate[-1],
    )  # fmt: skip
    if eta is None:
        bounds = promise.factor ** np.arange(len(gaps)) * gaps[0]
        for t, bound in enumerate(bounds):
            run.log(step=t, gap_bound=bound)
        slack = SLACK * max(1.0, abs(data.problem.value(data.solution)))
        run.log(gap_holds=bool((gaps <= bounds + slack).all()), worst_excess=float((gaps - bounds).max()))


def _first(hit: np.ndarray) -> float:
    return float(np.argmax(hit)) if hit.any() else math.nan


def _log_gaps(run: Run, flow: Descent, gaps: np.ndarray) -> None:
    errors = np.array(flow.error_h1)
    for t, (gap, error) in enumerate(zip(gaps, errors, strict=True)):
        run.log(step=t, gap=gap, error_h1=error)
    run.log(
        contraction=float((errors[-1] / errors[0]) ** (1 / flow.steps)), fall=float(math.log10(errors[0] / errors[-1]))
    )


def _log_norms(run: Run, data: Manufactured, flow: Descent, eta: float) -> None:
    """Barron norms beside the step-wise bound, the one by rules alone, and the closed form (logarithms)."""
    grid, energy = data.problem.grid, data.problem.energy
    source = grid.barron_norm(data.problem.source)
    allowed = [rates.step_bound(b, o, source, eta) for b, o in zip(flow.barron, flow.operator_barron, strict=True)]
    holds = all(b <= a * (1 + 1e-12) for b, a in zip(flow.barron[1:], allowed, strict=False))
    run.log(step=0, barron=flow.barron[0])
    for t in range(flow.steps):
        run.log(step=t + 1, barron=flow.barron[t + 1], barron_bound=allowed[t])
    run.log(recursion_holds=bool(holds), source_barron=source)
    if energy.kappa:
        return  # no polynomial: the rules of the algebra say nothing
    upper = float(np.linalg.eigvalsh(energy.matrix(grid.d))[-1])
    by_rules = [
        rates.rules_bound(b, w, grid.d, eta, source, upper=upper, reaction=energy.reaction, powers=energy.powers)
        for b, w in zip(flow.barron, flow.band, strict=True)
    ]
    degree = max([m - 1 for m, _ in energy.powers], default=1)
    coefficients = [upper, energy.reaction, *(m * a for m, a in energy.powers)]
    B = rates.polynomial_bound(degree, [c for c in coefficients if c], grid.d)
    # From u_1 on: the closed form starts at a norm of at least 1, which u_0 = 0 has not.
    start = 1
    closed = rates.log10_closed_bounds(
        flow.steps - start,
        math.log10(max(flow.barron[start], 1e-300)),
        flow.band[start],
        grid.d,
        eta,
        B,
        degree,
        degree,
    )
    for t in range(flow.steps):
        run.log(step=t + 1, log10_rules_bound=math.log10(by_rules[t]), log10_closed_bound=closed[t])
    run.log(
        polynomial_constant=B,
        closed_form_applies=bool(min(flow.barron[start:]) >= 1),
        closed_form_holds=bool(all(math.log10(b) <= c for b, c in zip(flow.barron[start:], closed, strict=True))),
        log10_closed_total=rates.log10_closed_total(
            flow.steps, math.log10(flow.barron[start]), flow.band[start], grid.d, eta, B, degree, degree
        ),
        log10_headline=rates.log10_headline(EPS, grid.d, B, degree),
    )


def plain(run: Run, data: Manufactured, *, steps: int) -> None:
    """Gradient descent without a preconditioner, at the largest step that is stable: 1/(Λ μ_max)."""
    grid = data.problem.grid
    _, _, upper, _ = _promise(data)
    eta = 1 / (upper * float(grid.eigenvalues.max()))
    with run.time("fit"):
        flow = descend(data.problem, eta, steps, truth=data.solution, preconditioner="none")
    _log_gaps(run, flow, np.array(flow.energy) - data.problem.value(data.solution))
    run.log(eta=eta)


def newton(run: Run, data: Manufactured) -> None:
    """Newton's method on the same collocation points: the truth that the flow is compared with."""
    grid, energy = data.problem.grid, data.problem.energy
    if energy.kappa or not energy.powers:
        raise ValueError(f"the semilinear solver has no {energy.name}; leave this dataset out")
    values = grid.values(data.problem.source)[grid.pad - 1 :: grid.pad, grid.pad - 1 :: grid.pad]
    ((_, a),) = energy.powers
    with run.time("fit"):
        u, updates = elliptic_sine.semilinear(
            values, lambda u: energy.reaction * u + 4 * a * u**3, lambda u: energy.reaction + 12 * a * u**2
        )
    truth = grid.values(data.solution)[grid.pad - 1 :: grid.pad, grid.pad - 1 :: grid.pad]
    run.log(newton_steps=len(updates), difference=float(np.abs(u - truth).max()))


def kappa_sweep(run: Run, data: Manufactured, *, kappas: list[float], steps: int) -> None:
    """The factor per step of the energy gap, promised and measured (geometric mean until rounding shows)."""
    grid = data.problem.grid
    holds = True
    for kappa in kappas:
        energy = minimal_surface(kappa)
        problem = SineProblem.manufactured(energy, grid, data.solution)
        promise = rates.rates(*energy.bounds(), rates.poincare_constant("cube", grid.d))
        flow = descend(problem, promise.eta, steps)
        gaps = np.array(flow.energy) - problem.value(data.solution)
        visible = gaps > 1e-9 * gaps[0]
        last = int(np.argmin(visible)) - 1 if not visible.all() else len(gaps) - 1
        measured = float((gaps[last] / gaps[0]) ** (1 / last)) if last else float(max(gaps[1], 0) / gaps[0])
        holds &= measured <= promise.factor
        run.log(step=kappa, factor_promised=promise.factor, factor_measured=measured, eta_of_kappa=promise.eta)
    run.log(rate_holds=holds)


def drift(run: Run, data: Manufactured, *, eps: list[float], steps: int, shown: float) -> None:
    """Flows of κ and of κ + ε_L, |DL - DL'| ≤ ε_L |p|, from the same start with the same steps."""
    grid, base = data.problem.grid, data.problem
    promise, _, upper, _ = _promise(data)
    flow = descend(base, promise.eta, steps, keep=True, measure=False)
    printed = summed = True
    worst = 0.0
    for size in eps:
        other = SineProblem(minimal_surface(base.energy.kappa + size), grid, base.source)
        moved = descend(other, promise.eta, steps, keep=True, measure=False)
        radius = max(grid.h1_seminorm(u) for u in [*flow.iterates, *moved.iterates])
        for t, (u, v) in enumerate(zip(flow.iterates, moved.iterates, strict=True)):
            deviation = math.hypot(grid.h1_seminorm(u - v), grid.l2_norm(u - v))
            as_printed = rates.drift_bound(t, size, upper, promise.eta, radius)
            by_sum = rates.drift_bound_summed(t, size, upper, promise.eta, radius)
            printed &= deviation <= as_printed + SLACK
            summed &= deviation <= by_sum + SLACK
            if t:
                worst = max(worst, deviation / as_printed)
            if size == shown and t:
                run.log(step=t, deviation=deviation, drift_printed=as_printed, drift_summed=by_sum)
    run.log(drift_holds=printed, drift_sum_holds=summed, worst_drift=worst)


METHODS: dict[str, Callable[..., None]] = {
    "descent": descent,
    "plain": plain,
    "newton": newton,
    "kappa_sweep": kappa_sweep,
    "drift": drift,
}


def run(run: Run) -> None:
    """One method on one problem."""
    METHODS[run.method.uses](run, run.dataset.load(run.seed), **run.method.params)


# --- figures --------------------------------------------------------------------------------------------------------

PROBLEMS = ("linear", "minimal_surface", "power", "semilinear")


def _curve(records: pd.DataFrame, dataset: str, method: str, metric: str) -> tuple[Any, Any]:
    rows = records[(records["dataset"] == dataset) & (records["method"] == method)] if len(records) else records
    if rows.empty:
        return np.array([]), np.array([])
    history = rec.history(rows, metric).sort_values("step")
    return history["step"].to_numpy(dtype=float), history["value"].to_numpy(dtype=float)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Energy gaps, Barron norms, rates against κ, drift."""
    yield "energy", _energy(records)
    yield "norms", _norms(records)
    yield "rates", _rates(records)


def _energy(records: pd.DataFrame) -> Figure:
    there = [name for name in PROBLEMS if len(records) and (records["dataset"] == name).any()]
    fig, axes = plotting.figure(columns=2, rows=1, cols=max(len(there), 1), height=6.4, sharey=True, squeeze=False)
    for ax, name in zip(axes[0], there, strict=False):
        plotting.log_axis(ax, "y")
        ax.set_title(plotting.label(name))
        for method, metric, look in (
            ("descent", "gap", plotting.style("descent")),
            ("descent_half", "gap", plotting.style("descent_half")),
            ("plain", "gap", plotting.style("plain")),
            ("descent", "gap_bound", {"color": "#222222", "linestyle": ":", "label": "bound"}),
        ):
            t, y = _curve(records, name, method, metric)
            keep = y > 1e-14
            if keep.any():
                ax.plot(t[keep], y[keep], **(look | ({"markevery": 0.2} if "marker" in look else {})))
        ax.set_xlabel("step t")
    if there:
        axes[0, 0].set_ylabel("energy above its minimum")
        plotting.legend(fig)
    else:
        plotting.empty(axes[0, 0])
    return fig


def _norms(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=6.8)
    looks = plotting.styles(PROBLEMS)
    flows = {name: "descent_half" if name == "semilinear" else "descent" for name in PROBLEMS}
    for ax in axes:
        plotting.log_axis(ax, "y")
        ax.set_xlabel("step t")
    for name, method in flows.items():
        t, y = _curve(records, name, method, "barron")
        axes[0].plot(t[1:], y[1:], **(looks[name] | {"markevery": 0.15}))
        t, y = _curve(records, name, method, "barron_bound")
        axes[0].plot(t, y, color=looks[name]["color"], linestyle=":", linewidth=1.0)
        for metric, line in (("log10_rules_bound", "--"), ("log10_closed_bound", "-.")):
            t, y = _curve(records, name, method, metric)
            axes[1].plot(t[y > 0], y[y > 0], color=looks[name]["color"], linestyle=line)
    for ax, line, text in (
        (axes[0], ":", "bound of each step"),
        (axes[1], "--", "rules applied to the last iterate"),
        (axes[1], "-.", "closed form"),
    ):
        ax.plot([], [], color="#555555", linestyle=line, label=text)
    axes[0].set(ylabel="Barron norm", title="measured, and bounded step by step")
    axes[1].set(ylabel=r"$\log_{10}$ of the bound", title="bounds from norms alone", ylim=(1, None))
    plotting.legend(fig)
    return fig


def _rates(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=6.2)
    ax = axes[0]
    for metric, text, look in (
        ("factor_promised", r"promised, $1-\lambda^5/((1+C_p)\Lambda^4)$", {"color": "#222222", "linestyle": ":"}),
        ("factor_measured", "measured", {"color": plotting.style("descent")["color"], "marker": "o"}),
    ):
        kappa, y = _curve(records, "minimal_surface", "kappa_sweep", metric)
        ax.plot(kappa, y, label=text, **look)
    ax.set(xlabel="κ of the minimal surface", ylabel="factor of the energy gap per step", ylim=(0, 1.02))
    plotting.legend(ax, loc="lower right")
    ax = axes[1]
    plotting.log_axis(ax, "y")
    for metric, text, look in (
        ("deviation", "measured", {"color": plotting.style("drift")["color"]}),
        ("drift_printed", "bound as printed", {"color": "#222222", "linestyle": ":"}),
        ("drift_summed", "sum of the recursion", {"color": "#222222", "linestyle": "--"}),
    ):
        t, y = _curve(records, "minimal_surface", "drift", metric)
        keep = y > 0
        ax.plot(t[keep], y[keep], label=text, **look)
    ax.set(xlabel="step t", ylabel="distance of the two flows in H¹")
    plotting.legend(ax, loc="upper left")
    return fig
