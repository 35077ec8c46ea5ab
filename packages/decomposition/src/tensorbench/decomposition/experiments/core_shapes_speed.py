"""How long it takes to choose a core shape: packing singular values against fitting every candidate, in one process.

The steps of the history are budgets. The peer, ``rre_greedy``, fits a Tucker decomposition for every shape that it
considers. Which shapes these are is found first, with cheap fits; then a systematic sample of ``sample`` of them (start
by the seed) is fitted and timed as the paper's code does it (``tensorly``, 20 sweeps from a random start), and the time
of all is the sample's mean times their number. ``sample: null`` times every one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.decomposition.experiments.core_shapes import budget_grid
from tensorbench.decomposition.structure.core_shapes import (
    HOSV,
    bang_for_buck,
    exact,
    greedy,
    hosv,
    packing_ip,
    relative_error,
    rotate,
    rre_greedy,
)

METHODS = {"packing_ip": packing_ip}
SWEEPS = 20  # of HOOI per fit, in the paper's code


def fitted_shapes(X: np.ndarray, s: HOSV, budgets: list[int]) -> dict[int, list[tuple[int, ...]]]:
    """The shapes that ``rre_greedy`` fits for each budget: two sweeps on a tensor cut to what decides between them."""
    least = exact(s, budgets[-1]).surrogate_loss / len(s.shape) / s.norm2
    small = rotate(X, least)
    errors: dict[tuple[int, ...], float] = {}
    seen: list[tuple[int, ...]] = []

    def error(shape: tuple[int, ...]) -> float:
        seen.append(shape)
        if shape not in errors:
            errors[shape] = relative_error(small, shape, n_iter=2)
        return errors[shape]

    shapes = {}
    for budget in budgets:
        seen.clear()
        rre_greedy(X, budget, error)
        shapes[budget] = list(seen)
    return shapes


def sampled_seconds(
    X: np.ndarray, shapes: list[tuple[int, ...]], sample: int | None, rng: np.random.Generator
) -> dict[tuple[int, ...], float]:
    """Seconds of the fit for every k-th shape, or for all."""
    stride = 1 if sample is None else max(1, len(shapes) // sample)
    relative_error(X, shapes[0], 1)  # warm
    seconds = {}
    for shape in shapes[int(rng.integers(stride)) :: stride]:
        started = time.perf_counter()
        relative_error(X, shape, SWEEPS)
        seconds[shape] = time.perf_counter() - started
    return seconds


def run(run: Run) -> None:
    """Time all solvers over all budgets, the singular values, and the peer."""
    X = run.dataset.load(run.seed)
    options = run.method.params
    budgets = budget_grid(X.shape, *options["budgets"])
    if (at := options["at"]) not in budgets:
        raise ValueError(f"at: {at} is none of the budgets {budgets}")
    s = hosv(X)
    singular_values = compare({"gram": lambda: hosv(X), "again": lambda: hosv(X)}, repeats=options["repeats"])["gram"]
    run.log(singular_values_seconds=singular_values)

    packing = {}
    for budget in run.progress(budgets, desc="budgets"):
        seconds = compare(
            {
                "packing_ip": lambda b=budget: packing_ip(s, b, options["eps"]),
                "exact": lambda b=budget: exact(s, b),
                "greedy": lambda b=budget: greedy(s, b),
                "bang_for_buck": lambda b=budget: bang_for_buck(s, b),
            },
            repeats=options["repeats"],
        )
        packing[budget] = seconds
        run.log(step=budget, **{f"{name}_seconds": value for name, value in seconds.items()})

    shapes = fitted_shapes(X, s, budgets)
    every = list(dict.fromkeys(shape for fitted in shapes.values() for shape in fitted))
    fits = sampled_seconds(X, every, options["sample"], run.rng)
    peer = {}
    for budget in budgets:
        timed = [fits[shape] for shape in shapes[budget] if shape in fits]
        if len(timed) >= 2:
            peer[budget] = float(np.mean(timed)) * len(shapes[budget])
            run.log(step=budget, rre_greedy_seconds=peer[budget])
    all_fits = float(np.mean(list(fits.values()))) * len(every)
    run.log(fits=len(every), fits_timed=len(fits))

    run.log(
        speedup=peer[at] / (singular_values + packing[at]["packing_ip"]),
        speedup_exact=peer[at] / (singular_values + packing[at]["exact"]),
        speedup_shared=all_fits / (singular_values + sum(seconds["packing_ip"] for seconds in packing.values())),
        speedup_shared_exact=all_fits / (singular_values + sum(seconds["exact"] for seconds in packing.values())),
    )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Seconds to choose a shape against the budget."""
    names = ["rre_greedy", "packing_ip", "exact", "bang_for_buck", "greedy"]
    long = [
        history.assign(method=name) for name in names if not (history := rec.history(records, f"{name}_seconds")).empty
    ]
    datasets = list(dict.fromkeys(records["dataset"])) if long else []
    fig, axes = plotting.figure(columns=1, cols=max(1, len(datasets)), squeeze=False)
    for ax, dataset in zip(axes.flat, datasets, strict=True):
        frame = pd.concat(long)
        ax.set_xscale("log")
        ax.set_yscale("log")
        plotting.series(ax, frame[frame["dataset"] == dataset], "step", "value")
        values = records.loc[records["dataset"] == dataset, "singular_values_seconds"]
        plotting.reference(ax, y=float(values.median()), text="singular values, once")
        ax.set(xlabel="budget (parameters)", ylabel="time to choose a shape (s)", title=plotting.label(dataset))
    if datasets:
        plotting.legend(fig)
    else:
        plotting.canvas.empty(axes.flat[0])
    yield "time", fig
