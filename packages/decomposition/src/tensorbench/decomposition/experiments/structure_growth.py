"""Growing a tensor network bond by bond against classical formats with growing ranks: loss over parameters.

A dataset is a family of tensors (cases). The steps of the history are budgets of parameters, the same for all methods;
``<case>_error`` is the lowest relative error |X - X̂| / |X| with at most so many. Final values are that error at the
budget ``at``, the parameters and seconds to reach losses of 1e-1, 1e-2 and 1e-6 (``<case>_params_to_2``, with the
exponent; nan if not reached), and whether the planted structure itself was found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.baselines.incremental import Attempt, incremental, truncated
from tensorbench.decomposition.datasets.growth import BONDS, GrowthTarget, planted_ranks
from tensorbench.decomposition.network.drawing import draw
from tensorbench.decomposition.structure.greedy_tn import greedy_tn, random_walk
from tensorbench.decomposition.structure.growth import Growth, Limits, Step

FLOOR = 1e-8  # of a relative error: below it normal equations see rounding only
LEVELS = (1, 2, 6)  # losses of 10^-level
EXACT = 1e-6
TITLES = {
    "triangle": "triangle",
    "tt": "tensor train",
    "tr": "tensor ring",
    "tucker": "Tucker",
    "camera": "camera, modes of 4",
    "astronaut": r"astronaut, modes of 4, 3 colours",
}


def grow(target: GrowthTarget, run: Run, search, *, max_params: int, steps: int, at: int, **options) -> Growth:
    return search(target.tensor, generator=run.rng, limits=Limits(steps=steps, max_params=max_params), **options)


def raise_rank(target: GrowthTarget, run: Run, kind: str, *, max_params: int, **options) -> list[Attempt]:
    return incremental(target.tensor, kind, max_params, seed=run.seed, **options)


def truncate(target: GrowthTarget, run: Run, kind: str, *, max_params: int, at: int) -> list[Attempt]:
    return truncated(target.tensor, kind, max_params, seed=run.seed)


METHODS = {
    "greedy_tn": lambda *a, **o: grow(*a, greedy_tn, **o),
    "random_walk": lambda *a, **o: grow(*a, random_walk, **o),
    "cp": lambda *a, **o: raise_rank(*a, "cp", **o),
    "tt": lambda *a, **o: raise_rank(*a, "tt", **o),
    "tucker": lambda *a, **o: raise_rank(*a, "tucker", **o),
    "tt_truncated": lambda *a, **o: truncate(*a, "tt", **o),
    "tucker_truncated": lambda *a, **o: truncate(*a, "tucker", **o),
}


def lowest(path: Sequence[Step | Attempt], budget: int) -> float:
    """The lowest loss with at most ``budget`` parameters; nan if no fit is that small."""
    return min((max(p.loss, FLOOR) for p in path if p.params <= budget), default=math.nan)


def planted_found(growth: Growth, target: GrowthTarget) -> float:
    """Whether a network of the planted structure, and no other parameter, explains the tensor."""
    if target.ranks is None:
        return math.nan
    exact = [step for step in growth.steps if step.loss <= EXACT]
    return float(any(np.array_equal(step.adjacency, target.ranks) for step in exact))


def run(run: Run) -> None:
    """One method on every tensor of the family."""
    options = dict(run.method.params)
    at, most = options["at"], options["max_params"]
    total = 0.0
    for case, target in run.progress(list(run.dataset.load(run.seed).items()), desc="tensors"):
        found = METHODS[run.method.uses](target, run, **options)
        path = found.steps if isinstance(found, Growth) else found
        total += path[-1].seconds
        smallest = sum(target.tensor.shape)
        for budget in np.unique(np.geomspace(smallest, most, 16).round().astype(int)):
            run.log(step=int(budget), **{f"{case}_error": lowest(path, budget)})
        run.log(**{f"{case}_error_at": lowest(path, at)})
        for level in LEVELS:
            first = next((p for p in path if p.loss <= 10.0**-level), None)
            if first is not None:
                run.log(**{f"{case}_params_to_{level}": first.params, f"{case}_seconds_to_{level}": first.seconds})
        if isinstance(found, Growth) and target.ranks is not None:
            exact = [p.params for p in path if p.loss <= EXACT]
            run.log(**{
                f"{case}_found": planted_found(found, target),
                f"{case}_small": float(bool(exact) and min(exact) <= target.params),
            })  # fmt: skip
            if run.seed == 0 and run.method.uses == "greedy_tn":
                np.savez(run.artifact(f"graph_{case}.npz"), found=path[-1].adjacency, planted=target.ranks)
    run.log(total_seconds=total)


# ---- figures


def _curves(records: pd.DataFrame, cases: Sequence[str]) -> Figure:
    """One panel per tensor: error against the budget."""
    histories = {case: rec.history(records, f"{case}_error") for case in cases}
    shown = [case for case in cases if not histories[case].empty]
    if not shown:
        return plotting.nothing()
    rows = -(-len(shown) // 2)
    fig, axes = plotting.figure(columns=2, rows=rows, cols=min(2, len(shown)), height=5.2 * rows + 1.2, squeeze=False)
    for ax, case in zip(axes.flat, shown, strict=False):
        plotting.series(ax, histories[case], "step", "value", reducer="median", log="xy")
        plotting.log_axis(ax, "x", ticks=[50, 100, 200, 400, 1000, 3000])
        ax.set(title=TITLES[case], xlabel="parameters", ylabel="relative error")
        if case in BONDS:
            low, high = ax.get_xlim()
            if low < (params := _params(planted_ranks(case))) < high:
                plotting.reference(ax, x=params, text="planted")
    for ax in axes.flat[len(shown) :]:
        ax.set_visible(False)
    plotting.legend(fig)
    return fig


def _graphs(records: pd.DataFrame) -> Figure:
    """Planted structures above, what greedy growth ended with below (first seed)."""
    rows = []
    for case in BONDS:
        found = rec.artifacts(records, f"graph_{case}.npz")
        if found.empty:
            continue
        for method in ("greedy_tn", "greedy_tn_internal"):
            for path in found.loc[found["method"] == method, "path"].head(1):
                with np.load(path) as stored:
                    rows.append((case, method, stored["found"], stored["planted"]))
    cases = list(dict.fromkeys(row[0] for row in rows))
    if not rows:
        return plotting.nothing()
    methods = list(dict.fromkeys(row[1] for row in rows))
    height = 4.0 * (1 + len(methods))
    fig, axes = plotting.figure(columns=2, rows=1 + len(methods), cols=len(cases), height=height, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for case, method, found, planted in rows:
        column = cases.index(case)
        draw(planted, axes[0, column], title=f"{TITLES[case]} ({_params(planted)})")
        draw(found, axes[1 + methods.index(method), column], title=f"{plotting.label(method)} ({_params(found)})")
    return fig


def _params(structure: np.ndarray) -> int:
    return int(structure.prod(axis=1).sum())


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Error over parameters on planted tensors and on pictures; planted and found graphs."""
    yield "targets", _curves(records, list(BONDS))
    yield "graphs", _graphs(records)
    yield "pictures", _curves(records, ["camera", "astronaut"])
