"""PSGD with Hessian products against L-BFGS-B on functions whose minima are known.

The step of the histories is the work: gradients evaluated, a Hessian product counting as two. ``gap`` is the lowest
f - f* so far over that at the start, ``work_to_1e6`` the work until it is at most 1e-6 (infinite where it never is),
and ``relative_error`` of a decomposition ‖T - T̂‖ / ‖T‖.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.optimizers.landscapes.convex import LogisticLoss
from tensorbench.optimizers.landscapes.tensor import RankDecomposition, relative_error
from tensorbench.optimizers.psgd import PSGD

REACHED = 1e-6
POINTS = 60
PRODUCT = 2  # gradients that a Hessian product costs


@dataclass(frozen=True)
class Problem:
    """A function of a list of tensors, where to start, and its minimal value."""

    loss: Callable[[list[Tensor]], Tensor]
    start: list[Tensor]
    minimum: float


def rosenbrock(x: list[Tensor]) -> Tensor:
    """Σ 100 (x₂ᵢ - x₂ᵢ₋₁²)² + (1 - x₂ᵢ₋₁)²."""
    odd, even = x[0][0::2], x[0][1::2]
    return (100 * (even - odd.square()).square() + (1 - odd).square()).sum()


def logistic(A: Tensor, b: Tensor, l2: float) -> Problem:
    """Two-class logistic regression from zero; the minimum by Newton's method."""
    loss = LogisticLoss(l2)
    x = torch.zeros(A.shape[1], dtype=A.dtype)
    for _ in range(30):
        step = torch.linalg.solve(loss.hess(x, A, b), loss.grad(x, A, b))
        x = x - step
        if float(step.norm()) < 1e-12 * max(1.0, float(x.norm())):
            break
    return Problem(lambda p: loss(p[0], A, b), [torch.zeros_like(x)], float(loss(x, A, b)))


def problem(data: object) -> Problem:
    """The dataset as a function."""
    if isinstance(data, RankDecomposition):
        return Problem(data, list(data.start), data.minimum)
    if isinstance(data, Tensor):
        return Problem(rosenbrock, [data], 0.0)
    A, b = (torch.from_numpy(np.ascontiguousarray(part)) for part in (data.features, data.labels))  # type: ignore[attr-defined]
    return logistic(A, b, data.l2)  # type: ignore[attr-defined]


Record = Callable[[int, float], None]


def psgd(task: Problem, seed: int, record: Record, *, budget: int, kind: str, **options: float) -> None:
    """Preconditioned steps of a fixed size; no line search."""
    parameters = [torch.nn.Parameter(x.clone()) for x in task.start]
    optimizer = PSGD(parameters, kind=kind, whiten=False, seed=seed, **options)  # type: ignore[arg-type]
    for step in range(budget // (1 + PRODUCT)):
        loss = optimizer.step(lambda: task.loss(parameters))  # type: ignore[arg-type, return-value]
        record(step * (1 + PRODUCT), float(loss))  # type: ignore[arg-type]
    record((step + 1) * (1 + PRODUCT), float(task.loss(parameters).detach()))  # type: ignore[arg-type]


def lbfgsb(task: Problem, seed: int, record: Record, *, budget: int, memory: int = 10) -> None:
    """scipy's, its own tolerances off; stops at the budget, or where its line search finds no lower value."""
    from scipy.optimize import minimize

    sizes = [x.numel() for x in task.start]
    calls = 0

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal calls
        parts = torch.from_numpy(flat.copy()).split(sizes)
        x = [part.view(start.shape).requires_grad_() for part, start in zip(parts, task.start, strict=True)]
        loss = task.loss(x)
        gradient = torch.autograd.grad(loss, x)
        record(calls, float(loss.detach()))
        calls += 1
        return float(loss.detach()), torch.cat([g.reshape(-1) for g in gradient]).numpy()

    start = torch.cat([x.reshape(-1) for x in task.start]).numpy()
    options = {"maxcor": memory, "maxfun": budget, "maxiter": budget, "ftol": 0.0, "gtol": 0.0}
    minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)


METHODS: dict[str, Callable] = {"psgd": psgd, "lbfgsb": lbfgsb}


def run(run: Run) -> None:
    """Descend within the budget of work."""
    data = run.dataset.load(run.seed)
    options = dict(run.method.params)
    options |= options.pop("differs", {}).get(run.dataset.name, {})
    task = problem(data)
    first = float(task.loss(task.start))
    best, reached = math.inf, math.inf
    marks = set(np.unique(np.geomspace(1, options["budget"], POINTS).round().astype(int)).tolist()) | {0}
    shown = -1
    gaps: list[tuple[int, float]] = []

    def record(work: int, loss: float) -> None:
        nonlocal best, reached, shown
        best = min(best, loss if loss == loss else math.inf)
        gap = max(best - task.minimum, 0.0) / (first - task.minimum)
        if gap <= REACHED:
            reached = min(reached, work)
        if any(shown < mark <= work for mark in marks):
            gaps.append((work, gap))
            shown = work

    with run.time("fit"):
        METHODS[run.method.uses](task, run.seed, record, **options)
    for work, gap in gaps:
        run.log(step=work, gap=gap)
    final = max(best - task.minimum, 0.0)
    run.log(gap=final / (first - task.minimum), excess=final, work_to_1e6=reached)
    if isinstance(data, RankDecomposition):
        run.log(relative_error=relative_error(data, final))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """The gap against the work, a panel for each function."""
    names = list(pd.unique(records["dataset"])) if len(records) else []
    fig, axes = plotting.figure(columns=2, rows=2, cols=2, height=11)
    for ax, name in zip(axes.flat, [*names, None, None, None, None], strict=False):
        part = records[records["dataset"] == name] if name else records[:0]
        history = rec.history(part, "gap") if len(part) else pd.DataFrame()
        if history.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "xy")
        plotting.series(ax, _filled(history), "step", "value", reducer="median")
        plotting.reference(ax, y=REACHED)
        ax.set(title=plotting.label(str(name)), xlabel="work (gradients)", ylabel="relative gap")
    plotting.legend(fig)
    yield "gap", fig


def _filled(history: pd.DataFrame) -> pd.DataFrame:
    """All seeds at all steps of their method: the lowest gap so far stays, also after a method has stopped."""
    history = history[history["step"] > 0]
    parts = []
    for _, part in history.groupby("method", sort=False):
        wide = part.pivot_table(index="step", columns="seed", values="value").ffill().clip(lower=1e-16)
        long = wide.melt(ignore_index=False, var_name="seed").dropna().reset_index()
        parts.append(long.assign(method=part["method"].iloc[0]))
    return pd.concat(parts, ignore_index=True)
