"""How long it takes to find a structure: greedy growth against local sampling (TNLS), one process, one thread.

Both sides fit with the same alternating least squares. Greedy growth runs until its relative error is 0.1. TNLS runs
by its own rule with its paper's settings; ``tnls_seconds`` is all of it, ``tnls_matched_seconds`` ends where it first
holds a structure with a relative error of at most 0.1 and no more parameters than greedy growth used (if it never does,
the whole search, a lower bound, and ``tnls_matched`` is 0).
TnALE is timed beside them for its parameters. The history has the lowest error within greedy's parameters against the
seconds (step) of each search.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.datasets.networks import SearchProblem
from tensorbench.decomposition.structure.greedy_tn import greedy_tn
from tensorbench.decomposition.structure.growth import Limits
from tensorbench.decomposition.structure.objective import StructureObjective
from tensorbench.decomposition.structure.space import PermutationSpace, Structure
from tensorbench.decomposition.structure.tnale import TnALE
from tensorbench.decomposition.structure.tnls import TNLS
from tensorbench.decomposition.structure.topology import by_name

METHODS = {"greedy_tn": greedy_tn}


class Clocked:
    """An objective that notes (seconds, parameters, relative error) of every structure as it is fitted."""

    def __init__(self, objective: StructureObjective):
        self.objective = objective
        self.dims = objective.dims
        self.started = time.perf_counter()
        self.seen: list[tuple[float, int, float]] = []

    @property
    def evaluations(self) -> int:
        return self.objective.evaluations

    def errors(self, structures: Sequence[Structure], start: Structure | None = None) -> list[float]:
        """Squared relative errors, fitted one at a time."""
        out = []
        for structure in structures:
            out += self.objective.errors([structure], start)
            self.seen.append((time.perf_counter() - self.started, structure.params, math.sqrt(out[-1])))
        return out

    def combine(self, structure: Structure, error: float) -> float:
        return self.objective.combine(structure, error)


def search(problem: SearchProblem, method: TNLS | TnALE, run: Run) -> tuple[Clocked, int, float]:
    """The clocked objective after the search, and the parameters and relative error of its result."""
    objective = Clocked(
        StructureObjective(problem.tensor, lam=problem.lam, max_iter=problem.sweeps, tol=1e-7, seed=run.seed)
    )
    space = PermutationSpace(problem.dims, by_name(problem.topology, len(problem.dims)), problem.max_rank)
    found = method(objective, space, None, run.rng)
    return objective, found.best.params, math.sqrt(found.error)


def run(run: Run) -> None:
    """Greedy growth (median of ``repeats``), TNLS and TnALE on one tensor."""
    problem: SearchProblem = run.dataset.load(run.seed)
    options = dict(run.method.params)
    loss, repeats, tnls, tnale = (options.pop(name) for name in ("loss", "repeats", "tnls", "tnale"))
    limits = Limits(stop_loss=loss, max_params=problem.tensor.size)

    def grow():
        return METHODS[run.method.uses](problem.tensor, generator=run.seed, limits=limits, **options)

    grow()  # plans and libraries are warm for both
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        grown = grow()
        seconds.append(time.perf_counter() - started)
    greedy_seconds, params = float(np.median(seconds)), grown.steps[-1].params
    for step in grown.steps:
        run.log(step=step.seconds, greedy_error=step.loss)
    run.log(greedy_seconds=greedy_seconds, greedy_params=params, greedy_error_end=grown.steps[-1].loss)

    for name, method in (("tnls", TNLS(**tnls)), ("tnale", TnALE(**tnale))):
        started = time.perf_counter()
        clocked, found_params, error = search(problem, method, run)
        spent = time.perf_counter() - started
        small = [(at, e) for at, p, e in clocked.seen if p <= params]
        best = np.minimum.accumulate([e for _, e in small]) if small else []
        for (at, _), lowest in zip(small, best, strict=True):
            run.log(step=at, **{f"{name}_error": float(lowest)})
        matched = next((at for at, e in small if e <= loss), None)
        run.log(**{
            f"{name}_seconds": spent,
            f"{name}_matched_seconds": spent if matched is None else matched,
            f"{name}_matched": float(matched is not None),
            f"{name}_params": found_params,
            f"{name}_error_end": error,
            f"{name}_fits": clocked.evaluations,
        })  # fmt: skip
        if name == "tnls":
            run.log(
                speedup=spent / greedy_seconds, speedup_matched=(spent if matched is None else matched) / greedy_seconds
            )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Lowest error with at most greedy's parameters against the seconds, first seed."""
    fig, ax = plotting.figure(height=6.5)
    drawn, looks = False, plotting.styles(["greedy", "tnls", "tnale"])
    for name in looks:
        history = rec.history(records, f"{name}_error")
        if history.empty:
            continue
        drawn = True
        for seed, part in history.groupby("seed"):
            part = part.sort_values("step")
            text = {"greedy": "greedy growth", "tnls": "TNLS", "tnale": "TnALE"}[name] if seed == 0 else None
            ax.step(part["step"], part["value"].clip(lower=1e-5), where="post", color=looks[name]["color"], label=text)
    if drawn:
        plotting.log_axis(ax, "xy")
        plotting.reference(ax, y=0.1, text="0.1")
        ax.set(xlabel="time (s)", ylabel="lowest relative error")
        plotting.legend(fig)
    else:
        plotting.empty(ax)
    yield "time", fig
