"""Which core shape should a Tucker decomposition have? Solvers of the packing problem against fitting every candidate.

The steps of the history are budgets, in parameters. Per budget: ``relative_error`` (‖X - X̂‖² / ‖X‖² of a HOOI fit with
the shape chosen), ``value_ratio`` (packing value over the optimum), ``loss_ratio`` (surrogate loss over the least) and
``params``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.linalg import COO
from tensorbench.decomposition.structure.core_shapes import (
    HOSV,
    CoreShapeResult,
    bang_for_buck,
    exact,
    greedy,
    hosv,
    packing_ip,
    packing_value,
    relative_error,
    rotate,
    rre_greedy,
    surrogate_loss,
)
from tensorbench.decomposition.structure.packing import EXACT_MODES

log = logging.getLogger(__name__)
METHODS = {
    "packing_ip": packing_ip,
    "exact": exact,
    "greedy": greedy,
    "bang_for_buck": bang_for_buck,
    "rre_greedy": rre_greedy,
}
THROUGH = (8_000, 20_000)  # budgets that claims speak of


def budget_grid(shape: Sequence[int], first: float, last: float, count: int) -> list[int]:
    """``count`` log-spaced budgets from ``first`` (or what the tensor needs at least, and a quarter more) to ``last``.

    The points nearest to 8 000 and 20 000 are moved there, if the range contains them.
    """
    start = max(first, 1.25 * (1 + sum(shape)))
    if start >= last:
        raise ValueError(
            f"budgets from {start:g} to {last:g} are empty for a tensor {tuple(shape)}; raise the last one"
        )
    grid = np.geomspace(start, last, count)
    for point in THROUGH:
        if start <= point <= last:
            grid[np.argmin(np.abs(np.log(grid / point)))] = point
    return [round(float(budget)) for budget in grid]


def error_of(
    X: np.ndarray | COO, s: HOSV, last: float, sweeps: int, tolerance: float, accuracy: float
) -> Callable[[Sequence[int]], float]:
    """The relative error of a shape, each shape fitted once.

    Dense tensors are first rotated to their singular vectors. Energy may be dropped there as long as no shape within
    the budget ``last`` can notice: at most ``accuracy`` of the least error that any of them can have.
    """
    known: dict[tuple[int, ...], float] = {}
    if isinstance(X, COO):
        fit = partial(relative_error, X, n_iter=0)
    else:
        least = exact(s, last).surrogate_loss / len(s.shape) / s.norm2
        fit = partial(relative_error, rotate(X, accuracy * least), n_iter=sweeps, tol=tolerance)

    def error(shape: Sequence[int]) -> float:
        key = tuple(shape)
        if key not in known:
            known[key] = fit(key)
        return known[key]

    return error


def run(run: Run) -> None:
    """One solver over all budgets of one tensor; the higher-order singular values are computed once."""
    X = run.dataset.load(run.seed)
    options = dict(run.method.params)
    first, last, count = options.pop("budgets")
    sweeps, tolerance, accuracy = options.pop("sweeps"), options.pop("tolerance"), options.pop("accuracy")
    stop = options.pop("stop_at", {}).get(run.dataset.name, inf)
    budgets = [budget for budget in budget_grid(X.shape, first, last, count) if budget <= stop]
    run.log(budgets_solved=len(budgets))
    if not budgets:
        log.warning("%s: left out, the config stops this method at a budget of %s", run.title, stop)
        return
    with run.time("hosv"):
        s = hosv(X)
    error = error_of(X, s, last, sweeps, tolerance, accuracy)
    solve = METHODS[run.method.uses]
    memo: dict = {}
    kept = True
    for budget in run.progress(budgets, desc="budgets"):
        result: CoreShapeResult
        result = rre_greedy(X, budget, error, memo) if solve is rre_greedy else solve(s, budget, **options)
        run.log(
            step=budget,
            relative_error=error(result.shape),
            params=result.params,
            packing_value=packing_value(s, result.shape) / (len(s.shape) * s.norm2),
            evaluations=result.evaluations,
        )
        if len(s.shape) <= EXACT_MODES:
            best = exact(s, budget)
            ratio = packing_value(s, result.shape) / best.value
            kept &= ratio >= (result.certificate or 0.0) * (1 - 1e-12)
            run.log(step=budget, value_ratio=ratio)
            if best.surrogate_loss > 0:
                run.log(step=budget, loss_ratio=surrogate_loss(s, result.shape) / best.surrogate_loss)
    if len(s.shape) <= EXACT_MODES:
        run.log(guarantee_kept=bool(kept))


def worst_error_ratio(records: pd.DataFrame) -> list[float]:
    """Largest error of ``packing_ip`` over that of ``rre_greedy``, over all datasets and budgets that both solved."""
    errors = rec.history(records, "relative_error").pivot_table(
        index=["dataset", "step"], columns="method", values="value"
    )
    pairs = errors[["packing_ip", "rre_greedy"]].dropna()
    return [float((pairs["packing_ip"] / pairs["rre_greedy"]).max())]


def _panels(history: pd.DataFrame, ylabel: str, logarithmic: bool = True) -> tuple[Figure, dict[str, Axes]]:
    """One panel per dataset: a value against the budget, one line per method. Returns the panels by dataset."""
    names = list(dict.fromkeys(history["dataset"]))
    if not names:
        fig, ax = plotting.figure()
        plotting.canvas.empty(ax)
        return fig, {}
    cols = min(3 if len(names) in (3, 5, 6, 9) else 4, len(names))
    rows = -(-len(names) // cols)
    fig, axes = plotting.figure(columns=2, rows=rows, cols=cols, height=3.9 * rows + 1.2, squeeze=False)
    panels = dict(zip(names, axes.flat, strict=False))
    for place, (name, ax) in enumerate(panels.items()):
        plotting.series(ax, history[history["dataset"] == name], "step", "value")
        ax.set(title=plotting.label(name), xlabel="budget (parameters)", ylabel="" if place % cols else ylabel)
        plotting.canvas.log_axis(ax, "x", ticks=[1_000, 10_000, 100_000])
        if logarithmic:
            ax.set_yscale("log")
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    plotting.legend(fig)
    return fig, panels


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Error, error against the peer's, and surrogate loss, against the budget."""
    errors = rec.history(records, "relative_error")
    yield "error", _panels(errors, "squared relative error")[0]

    peer = errors[errors["method"] == "rre_greedy"].rename(columns={"value": "peer"}).drop(columns="method")
    both = errors[errors["method"] != "rre_greedy"].merge(peer, on=["dataset", "seed", "step"])
    fig, panels = _panels(both.assign(value=both["value"] / both["peer"]), "error / error of rre_greedy", False)
    for ax in panels.values():
        plotting.reference(ax, y=1.0)
    yield "against_fitting", fig

    fig, panels = _panels(rec.history(records, "loss_ratio"), "surrogate loss / least", False)
    for ax in panels.values():
        plotting.reference(ax, y=1.0)
    yield "surrogate", fig
