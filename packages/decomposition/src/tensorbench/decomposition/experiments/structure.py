"""Error against parameters: structures found by search against fixed formats, on measured tensors and pictures.

The steps of the history are budgets of parameters; per budget ``relative_error`` (|X - X̂|² / |X|²), ``params``
(used) and ``search_seconds`` (choice of the structure and all fits). Large tensors are first turned into the bases of
their leading singular vectors, the same block for every method; what the block leaves out counts as error, and
parameters are counted with the original mode sizes.
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
from tensorbench.decomposition.baselines import networks as fixed
from tensorbench.decomposition.structure.core_shapes import select_core_shape
from tensorbench.decomposition.structure.greedy_rank import Greedy
from tensorbench.decomposition.structure.greedy_tn import greedy_tn
from tensorbench.decomposition.structure.growth import Limits
from tensorbench.decomposition.structure.hosv import hosv
from tensorbench.decomposition.structure.objective import StructureObjective, WithinParameters
from tensorbench.decomposition.structure.space import PermutationSpace
from tensorbench.decomposition.structure.tnale import TnALE
from tensorbench.decomposition.structure.tnls import TNLS
from tensorbench.decomposition.structure.topology import ring
from tensorbench.decomposition.structure.tucker_fit import rotate

FIXED = {"cp": fixed.cp, "tucker": fixed.uniform_tucker, "tt": fixed.uniform_train, "tr": fixed.uniform_ring}


def search_ring(core: np.ndarray, dims: tuple[int, ...], budget: int, run: Run, search, **options) -> tuple[float, int]:
    """The best ring within the budget (ranks and order of modes), from the uniform ring that still fits."""
    evaluations, sweeps, refit, max_rank = (
        options.pop(name) for name in ("evaluations", "sweeps", "refit", "max_rank")
    )
    space = PermutationSpace(dims, ring(len(dims)), max_rank)
    uniform = min(fixed.largest_rank(lambda r: r * r * sum(dims), budget), max_rank)
    greedy = search is Greedy
    objective = StructureObjective(core, repeats=1, max_iter=sweeps, seed=run.seed, dims=dims, transfer=greedy)
    start = None if greedy else space.structure([uniform] * space.variables)
    found = search(**options)(WithinParameters(objective, budget), space, evaluations, run.rng, start=start)
    # the winner is fitted to the end, as the fixed formats are
    final = StructureObjective(core, repeats=2, max_iter=refit, seed=run.seed, dims=dims)
    return min(found.error, final.errors([found.best])[0]), found.best.params


def pack_tucker(core: np.ndarray, dims: tuple[int, ...], budget: int, run: Run) -> tuple[float, int]:
    """Tucker with the core shape that packs the most squared singular values (see the experiment core_shapes)."""
    # parameters are counted with the original modes: what the original factors cost more is taken off the budget
    allowed = budget
    for _ in range(20):
        chosen = select_core_shape(core, allowed)
        params = int(np.prod(chosen.shape)) + sum(r * d for r, d in zip(chosen.shape, dims, strict=True))
        if params <= budget or allowed <= 1 + sum(core.shape):
            break
        allowed = max(1 + sum(core.shape), int(allowed * min(0.9, budget / params)))
    return chosen.relative_error, params


def fit_fixed(
    core: np.ndarray, dims: tuple[int, ...], budget: int, run: Run, kind: str, **options
) -> tuple[float, int]:
    approximation, params = FIXED[kind](core, dims, budget, seed=run.seed, **options)
    return float(np.sum((core - approximation) ** 2) / np.sum(core**2)), params


def grow_network(core: np.ndarray, dims: tuple[int, ...], budget: int, run: Run, **options) -> tuple[float, int]:
    """A network on any pairs of modes that grows within the budget."""
    steps = options.pop("steps")
    limits = Limits(steps=steps, max_params=budget, dims=dims, stop_loss=1e-6)
    step = greedy_tn(core, generator=run.rng, limits=limits, **options).within(budget)
    return step.loss**2, step.params


METHODS = {
    "greedy_tn": grow_network,
    "tnale_ring": lambda *a, **o: search_ring(*a, TnALE, **o),
    "tnls_ring": lambda *a, **o: search_ring(*a, TNLS, **o),
    "greedy_ring": lambda *a, **o: search_ring(*a, Greedy, **o),
    "tucker_packing": pack_tucker,
    "cp_als": lambda *a, **o: fit_fixed(*a, "cp", **o),
    "tucker_uniform": lambda *a, **o: fit_fixed(*a, "tucker", **o),
    "tt_svd": lambda *a, **o: fit_fixed(*a, "tt", **o),
    "tr_als": lambda *a, **o: fit_fixed(*a, "tr", **o),
}


def compressed(tensor: np.ndarray, cells: int) -> tuple[np.ndarray, float]:
    """The tensor in the bases of its leading singular vectors, at most ``cells`` entries, and the energy left out.

    The energy that each mode may lose grows by a fifth until the block is small enough.
    """
    if tensor.size <= cells:
        return tensor, 0.0
    turned = rotate(tensor)
    s = hosv(turned.core)
    tolerance, kept = 1e-9, turned.core.shape
    while np.prod(kept) > cells:
        tolerance *= 1.2
        tails = (s.suffixes[mode] for mode in range(tensor.ndim))
        kept = tuple(max(1, int(np.argmax(tail <= tolerance * turned.norm2))) for tail in tails)
    block = turned.core[tuple(slice(size) for size in kept)]
    return np.ascontiguousarray(block), 1.0 - float(np.sum(block**2) / turned.norm2)


def run(run: Run) -> None:
    """One method over all budgets of one tensor."""
    data = run.dataset.load(run.seed)
    tensor = np.asarray(getattr(data, "tensor", data), dtype=np.float64)
    options = dict(run.method.params)
    budgets, cells = options.pop("budgets"), options.pop("cells")
    core, lost = compressed(tensor, cells)
    method = METHODS[run.method.uses]
    total = 0.0
    for budget in run.progress(budgets, desc="budgets"):
        started = time.perf_counter()
        error, params = method(core, tensor.shape, budget, run, **options)
        seconds = time.perf_counter() - started
        total += seconds
        run.log(step=budget, relative_error=lost + (1.0 - lost) * error, params=params, search_seconds=seconds)
    run.log(total_seconds=total)


def _panels(frame: pd.DataFrame, x: str, xlabel: str) -> Figure:
    """One panel per tensor: the error against ``x``, a line per method."""
    names = list(dict.fromkeys(frame["dataset"]))
    if not names:
        return plotting.nothing()
    cols = min(2, len(names))
    rows = -(-len(names) // cols)
    fig, axes = plotting.figure(columns=2, rows=rows, cols=cols, height=5.4 * rows + 1.4, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        part = frame[frame["dataset"] == name]
        plotting.series(ax, part, x, "value", log="xy")
        ax.set(title=plotting.label(name), xlabel=xlabel, ylabel="relative squared error")
        if x == "step":
            plotting.log_axis(ax, "x", ticks=sorted(part["step"].unique()))
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    plotting.legend(fig)
    return fig


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Error against the budget, one panel per tensor, and against the seconds spent."""
    history = rec.history(records, "relative_error")
    yield "error", _panels(history, "step", "budget (parameters)")
    spent = rec.history(records, "search_seconds").rename(columns={"value": "seconds"})
    both = history.merge(spent, on=["dataset", "method", "seed", "step"])
    both = both.groupby(["dataset", "method", "step"], as_index=False, sort=False)[["seconds", "value"]].mean()
    yield "seconds", _panels(both, "seconds", "time (s)")
