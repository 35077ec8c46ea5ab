"""Logistic regression by first- and second-order methods from x = 0, at equal numbers of derivatives asked for.

The step of ``gap`` is the number of gradients and Hessians asked for so far, each counted as one; ``gap_by_time`` has
the CPU seconds of the method instead. f* is SciPy's trust-exact's, polished by Newton steps. Where derivatives are
noisy, ``ascn`` declares σ₁ = 0.32/√(gradient rows) and δ₂ = 0.25/√(Hessian rows): gradients of single rows have a
standard deviation of about 0.32 on a9a.t, Hessians of single rows a norm of at most 1/4. The method ``ascn_free`` has
its σ₁ searched for instead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.optimizers.datasets.logistic import TwoClasses
from tensorbench.optimizers.inexact_tensor import baselines
from tensorbench.optimizers.inexact_tensor.ascn import ASCN
from tensorbench.optimizers.inexact_tensor.oracles import MiniBatchOracle
from tensorbench.optimizers.landscapes.convex import LogisticLoss

ROW_DEVIATION, ROW_CURVATURE = 0.32, 0.25
ASKS = {"ascn": 3, "extra_newton": 3, "cubic_newton": 2, "sgd": 1, "adamw": 1, "optami": 2}  # derivatives an iteration


class Problem:
    """The loss of a dataset, its minimum, and the oracle that its batch sizes make."""

    def __init__(self, data: TwoClasses) -> None:
        self.data, self.loss = data, LogisticLoss(data.l2)
        self.rows = (torch.from_numpy(data.features), torch.from_numpy(data.labels))
        self.start = torch.zeros(data.features.shape[1], dtype=torch.float64)

    def oracle(self, hessian_rows: int | None = None) -> MiniBatchOracle:
        """With what it may declare of its errors."""
        bg, bh = self.data.gradient_rows, hessian_rows or self.data.hessian_rows
        sigma1 = ROW_DEVIATION / math.sqrt(bg) if bg else 0.0
        delta2 = ROW_CURVATURE / math.sqrt(bh) if bh else 0.0
        return MiniBatchOracle(self.loss, self.rows, bg, bh, sigma1=sigma1, delta2=delta2)

    def minimum(self) -> float:
        """f*, to about 1e-15."""
        whole = MiniBatchOracle(self.loss, self.rows)
        x = baselines.trust_exact(whole, self.start, tolerance=1e-9)
        for _ in range(3):
            H = whole.hess(x) + 1e-14 * torch.eye(len(x), dtype=x.dtype)
            x = x - torch.linalg.solve(H, whole.grad(x))
        return float(whole.value(x))


@lru_cache(maxsize=2)
def _problem(name: str, params: tuple[tuple[str, Any], ...]) -> tuple[Problem, float]:
    """The same for all seeds and trials of a job."""
    from tensorbench.core import data

    problem = Problem(data.load(name, **dict(params)))
    return problem, problem.minimum()


def _sgd(oracle: MiniBatchOracle, T: int, *, lr: float) -> baselines.GradientDescent:
    return baselines.GradientDescent(oracle, lr, T)


def _adamw(oracle: MiniBatchOracle, T: int, *, lr: float) -> baselines.TorchMethod:
    return baselines.TorchMethod(oracle, partial(torch.optim.AdamW, lr=lr, weight_decay=0.0), T)


def _optami(problem: Problem, T: int, record: Callable[[int, Tensor], None], *, M: float) -> None:
    baselines.optami_nesterov(lambda x: problem.loss(x, *problem.rows), problem.start, M, T, record)


METHODS: dict[str, Any] = {
    "ascn": lambda oracle, T, *, M, R, **declared: ASCN(oracle, M, R, T, **declared),
    "extra_newton": lambda oracle, T, *, beta: baselines.ExtraNewton(oracle, beta, T),
    "cubic_newton": lambda oracle, T, *, M: baselines.CubicNewton(oracle, M, T),
    "sgd": _sgd,
    "adamw": _adamw,
    "optami": _optami,
}


def run(run: Run) -> None:
    """One method until its derivatives are used up. In tuning, one that breaks down gets the gap of the start."""
    problem, best = _problem(run.dataset.uses, tuple(sorted(run.dataset.params.items())))
    options = dict(run.method.params)
    each = ASKS[run.method.uses]
    T = options.pop("asks") // each
    oracle = problem.oracle(options.pop("hessian_rows", None))
    clock = {"spent": 0.0, "since": 0.0}
    first = float(problem.loss(problem.start, *problem.rows)) - best
    run.log(step=0, gap=first)
    goals = {"asks_to_1e2": 1e-2, "asks_to_1e4": 1e-4}
    every = max(1, 6 // each)  # iterations between evaluations: six derivatives or one iteration

    def record(t: int, x: Tensor) -> None:
        clock["spent"] += time.process_time() - clock["since"]
        if t % every == 0 or t == T:
            gap = float(problem.loss(x, *problem.rows)) - best
            gap = max(gap, 1e-16) if math.isfinite(gap) else first
            run.log(step=t * each, gap=gap)
            run.log(step=clock["spent"], gap_by_time=gap)
            for name in [name for name, goal in goals.items() if gap <= goal]:
                run.log(**{name: t * each})
                del goals[name]
        clock["since"] = time.process_time()

    clock["since"] = time.process_time()
    try:
        if run.method.uses == "optami":
            _optami(problem, T, record, **options)
        else:
            method = METHODS[run.method.uses](oracle, T, **options)
            method.run(problem.start, run.generator, lambda state: record(state.t, state.x))
    except (ValueError, TypeError, RuntimeError):
        if run.trial is None:
            raise
        run.log(gap=first)  # a setting that breaks down loses the tuning
    run.log(process_seconds=clock["spent"])


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Gaps by derivatives asked for and by time; sizes of Hessian batches."""
    tuned = ["ascn", "ascn_free", "extra_newton", "cubic_newton", "sgd", "adamw", "optami"]
    shown = ["a9a", "a9a_equal", "breast_cancer", "breast_cancer_equal"]
    for name, metric, text in (
        ("by_asks", "gap", "gradients and Hessians asked for"),
        ("by_seconds", "gap_by_time", "CPU time (s)"),
    ):
        fig, axes = plotting.figure(columns=2, rows=2, cols=2, height=10.5)
        history = rec.history(records, metric)
        for ax, dataset in zip(axes.flat, shown, strict=True):
            part = history[(history["dataset"] == dataset) & history["method"].isin(tuned)]
            ax.set_title(plotting.label(dataset))
            if part.empty:
                plotting.empty(ax)
                continue
            part = part[part["value"] > 1e-15]
            if metric == "gap":
                plotting.series(
                    ax, part, "step", "value", log="y", order=[m for m in tuned if m in set(part["method"])]
                )
            else:
                _by_time(ax, part, tuned)
            # Intervals of three seeds can reach beyond all reason on a logarithmic axis.
            ax.set_ylim(max(float(part["value"].min()) / 3, 1e-13), 2.0)
            ax.set(xlabel=text if dataset.startswith("breast") else "", ylabel="f(x) − f*")
        plotting.legend(fig)
        yield name, fig

    fig, axes = plotting.figure(columns=2, cols=2, height=6.2)
    history = rec.history(records, "gap")
    for ax, dataset in zip(axes, ["a9a", "a9a_plain"], strict=True):
        part = history[(history["dataset"] == dataset) & history["method"].isin(["ascn_150", "ascn_10000"])]
        ax.set_title("$l_2 = 10^{-4}$" if dataset == "a9a" else "not regularised")
        if part.empty:
            plotting.empty(ax)
            continue
        plotting.series(ax, part, "step", "value", log="y")
        ax.set(xlabel="gradients and Hessians asked for", ylabel="f(x) − f*")
    plotting.legend(fig)
    yield "hessian_rows", fig


def _by_time(ax: Any, history: pd.DataFrame, order: list[str]) -> None:
    """Median gap over seeds against the median time at which it was reached: times differ from seed to seed."""
    plotting.log_axis(ax, "xy")
    for name in order:
        rows = history[history["method"] == name]
        if rows.empty:
            continue
        rows = rows.sort_values(["seed", "step"]).assign(turn=rows.groupby("seed").cumcount())
        middle = rows.groupby("turn")[["step", "value"]].median()
        middle = middle[np.isfinite(middle["value"]) & (middle["step"] > 0)]
        ax.plot(middle["step"], middle["value"], markevery=0.12, **plotting.style(name))
