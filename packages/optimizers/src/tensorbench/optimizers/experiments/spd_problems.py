"""Riemannian momentum against other ways to stay positive definite, on problems whose least value is known.

All but conjugate gradients (line searches, no step size) are tuned on a grid of six step sizes by the iterations to
the target. An iteration is a gradient; the clock counts the method and its gradients, not the values that are recorded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.optimizers.structured_ngd import RGDMomentum
from tensorbench.optimizers.structured_ngd.problems import Problem

Visit = Callable[[Tensor], bool]  # records a point; true stops


class _Trace:
    """Gap after each iteration, with the clock stopped while it is computed."""

    def __init__(self, problem: Problem, target: float, iterations: int) -> None:
        self.problem, self.target, self.iterations = problem, target, iterations
        self.gaps: list[float] = []
        self.seconds: list[float] = []
        self._spent, self._since = 0.0, time.perf_counter()

    def __call__(self, tau: Tensor) -> bool:
        self._spent += time.perf_counter() - self._since
        try:
            gap = self.problem.gap(tau)
        except torch.linalg.LinAlgError:
            gap = math.nan
        self.gaps.append(gap)
        self.seconds.append(self._spent)
        self._since = time.perf_counter()
        return not gap <= 1e6 or gap <= 1e-3 * self.target or len(self.gaps) >= self.iterations

    def reached(self) -> int | None:
        return next((k for k, gap in enumerate(self.gaps, 1) if gap <= self.target), None)

    def score(self) -> float:
        """Iterations to the target; beyond the budget, by how many tenth powers of ten it was missed."""
        if (k := self.reached()) is not None:
            return float(k)
        last = self.gaps[-1]
        if not math.isfinite(last) or last > 1e6:
            return 1e6
        return self.iterations + 10 * math.log10(max(last, self.target) / self.target)


def gnc(problem: Problem, visit: Visit, lr: float, beta: float, order: Any) -> None:
    rgd = RGDMomentum(problem.start, lr, beta, order)
    while True:
        try:
            rgd.step(problem.egrad(rgd.tau))
        except (ValueError, torch.linalg.LinAlgError):  # left the numbers that float64 has
            visit(torch.full_like(rgd.tau, math.nan))
            return
        if visit(rgd.tau):
            return


def cholesky_adam(problem: Problem, visit: Visit, lr: float) -> None:
    L = torch.linalg.cholesky(problem.start).requires_grad_()
    adam = torch.optim.Adam([L], lr=lr)
    done = False
    while not done:
        with torch.no_grad():
            tau = L @ L.mT
            try:
                L.grad = (2 * problem.egrad(tau) @ L).tril()
            except torch.linalg.LinAlgError:
                visit(torch.full_like(tau, math.nan))
                return
        adam.step()
        with torch.no_grad():
            done = visit(L @ L.mT)


def geoopt_adam(problem: Problem, visit: Visit, lr: float) -> None:
    import geoopt

    tau = geoopt.ManifoldParameter(problem.start.clone(), manifold=geoopt.SymmetricPositiveDefinite())
    adam = geoopt.optim.RiemannianAdam([tau], lr=lr)
    done = False
    while not done:
        try:
            tau.grad = problem.egrad(tau.detach())
            adam.step()
        except torch.linalg.LinAlgError:
            visit(torch.full_like(problem.start, math.nan))
            return
        done = visit(tau.detach())


def pymanopt_cg(problem: Problem, visit: Visit) -> None:
    import numpy as np
    import pymanopt
    from pymanopt.manifolds import SymmetricPositiveDefinite
    from pymanopt.optimizers import ConjugateGradient

    batch = problem.start.ndim == 3
    manifold = SymmetricPositiveDefinite(problem.start.shape[-1], k=len(problem.start) if batch else 1)

    class Stop(Exception):
        pass

    @pymanopt.function.numpy(manifold)
    def cost(x: Any) -> float:
        return float(problem.value(torch.from_numpy(np.ascontiguousarray(x))))

    first = [True]

    @pymanopt.function.numpy(manifold)
    def gradient(x: Any) -> Any:
        tau = torch.from_numpy(np.ascontiguousarray(x))
        if not first[0] and visit(tau):
            raise Stop
        first[0] = False
        return problem.egrad(tau).numpy()

    search = ConjugateGradient(verbosity=0, min_gradient_norm=1e-12, min_step_size=1e-16)
    try:
        found = search.run(
            pymanopt.Problem(manifold, cost, euclidean_gradient=gradient), initial_point=problem.start.numpy()
        )
        visit(torch.from_numpy(np.ascontiguousarray(found.point)))
    except Stop:
        pass


METHODS: dict[str, Callable[..., None]] = {
    "gnc": gnc,
    "cholesky_adam": cholesky_adam,
    "geoopt_adam": geoopt_adam,
    "pymanopt_cg": pymanopt_cg,
}


def run(run: Run) -> None:
    """Descend until a thousandth of the target or the budget of iterations."""
    options = dict(run.method.params)
    target, iterations = options.pop("target"), options.pop("iterations")
    trace = _Trace(run.dataset.load(run.seed), target, iterations)
    METHODS[run.method.uses](trace.problem, trace, **options)
    run.log(score=trace.score())
    if run.trial is not None:
        return
    for k, (gap, seconds) in enumerate(zip(trace.gaps, trace.seconds, strict=True), 1):
        if math.isfinite(gap):
            run.log(step=k, gap=max(gap, 1e-16), elapsed=seconds)
    reached = trace.reached()
    run.log(reached=reached is not None, microseconds=1e6 * trace.seconds[-1] / len(trace.seconds))
    if reached is not None:
        run.log(iterations_to_target=reached, seconds_to_target=trace.seconds[reached - 1])


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Gap against iterations, and against seconds."""
    names = list(pd.unique(records["dataset"])) if len(records) else []
    fig, axes = plotting.figure(columns=2, rows=2, cols=max(1, len(names)), height=9.5, squeeze=False, sharey=True)
    gaps = rec.history(records, "gap") if names else None
    if gaps is None or gaps.empty:
        for ax in axes.flat:
            plotting.empty(ax)
    else:
        clock = rec.history(records, "elapsed").rename(columns={"value": "seconds"})
        joined = gaps.merge(clock, on=["dataset", "method", "seed", "step"])
        for column, name in enumerate(names):
            part = joined[joined["dataset"] == name]
            for row, (x, words) in enumerate((("step", "iterations"), ("seconds", "time (s)"))):
                ax = axes[row, column]
                plotting.log_axis(ax, "y")
                if row:
                    plotting.log_axis(ax, "x")
                for method, lines in part.groupby("method", sort=False):
                    look = plotting.style(method)
                    for number, (_, line) in enumerate(lines.groupby("seed")):
                        text = look["label"] if number == 0 else "_"
                        ax.plot(line[x], line["value"], **look | {"marker": "", "linewidth": 1.0, "label": text})
                ax.axhline(1e-6, color="#666666", linewidth=0.8, linestyle=(0, (4, 2)))
                ax.set_ylim(1e-10, None)
                ax.set(xlabel=words, ylabel="f − f*" if column == 0 else "")
                if not row:
                    ax.set_title(plotting.label(name))
        plotting.legend(fig)
    yield "gaps", fig
