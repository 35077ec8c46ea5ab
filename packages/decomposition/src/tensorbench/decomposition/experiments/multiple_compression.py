"""Error against parameters of the Multiple format, Tucker, CP and trains, and the convergence of proximal ALS.

The steps of the history are budgets of parameters. Every format takes, of the rank vectors that ``choices`` lists
within the budget, the one with the lowest error: there is nothing to overfit in compression.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from math import prod

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.baselines.incremental import truncated_ranks
from tensorbench.decomposition.baselines.networks import largest_rank
from tensorbench.decomposition.functional.multiple import num_params, select_ranks
from tensorbench.decomposition.functional.pals import PALS, multiple_als

SCREEN = 15  # sweeps by which ranks and starts are compared
MASKED = 0.3  # share of cells of the additional masked fit
MASKED_BUDGET = 5049  # the largest budget with one: a masked sweep costs the square of a factor's width for each cell


def choices(shape: tuple[int, ...], budget: int) -> list[tuple[int, ...]]:
    """Short sizes (r, .., r, c), r the largest within the budget, for c = 1..5."""
    found = []
    for last in range(1, 6):
        if num_params(shape, (1,) * (len(shape) - 1) + (last,)) > budget:
            break

        def params(r: int, last: int = last) -> int:
            return num_params(shape, (r,) * (len(shape) - 1) + (last,))

        found.append((largest_rank(params, budget, top=max(shape)),) * (len(shape) - 1) + (last,))
    return list(dict.fromkeys(found))


def multiple(X: np.ndarray, budget: int, run: Run, rho: float, sweeps: int) -> tuple[float, int]:
    """The best of the choices and of the heuristic's short sizes after a few sweeps from both starts, then fitted on.

    The proximal convergence of every one of these fits is checked, and of one to a part of the cells.
    """
    ranks = dict.fromkeys([*choices(X.shape, budget), select_ranks(X, budget, largest=12)])
    options = {"rho": rho, "tol": 0.0, "seed": run.seed}
    fits = [multiple_als(X, r, init=init, max_iter=SCREEN, **options) for r in ranks for init in ("random", "svd")]
    first = min(fits, key=lambda fit: fit.relative_error)
    best = multiple_als(X, first.tensor.ranks, init=first.tensor, max_iter=sweeps, **options)
    every = [*fits, best]
    if budget <= MASKED_BUDGET:
        mask = np.random.default_rng(run.seed).random(X.shape) < MASKED
        every.append(multiple_als(X, best.tensor.ranks, mask, max_iter=SCREEN, **options))
    run.log(
        step=budget,
        descends=all(fit.block_descent for fit in every),
        bound_kept=all(fit.bound_used <= 1 for fit in every),
        bound_used=max(fit.bound_used for fit in every),
    )
    run.log(  # the final values are those of all budgets together
        descends=bool(min(v for m, _, v in run.history if m == "descends")),
        bound_kept=bool(min(v for m, _, v in run.history if m == "bound_kept")),
    )
    if run.seed == 0 and budget <= MASKED_BUDGET:
        _keep(run, budget, best, every[-1])
    return best.relative_error, best.tensor.num_params()


def _keep(run: Run, budget: int, whole: PALS, masked: PALS) -> None:
    arrays = {}
    for name, fit in (("whole", whole), ("masked", masked)):
        arrays |= {f"{name}_objective": fit.objective, f"{name}_steps": fit.steps}
    np.savez_compressed(run.artifact(f"pals_{budget}.npz"), rho=whole.rho, ranks=np.array(whole.tensor.ranks), **arrays)


def triple(X: np.ndarray, budget: int, run: Run, rho: float, sweeps: int) -> tuple[float, int]:
    rank = largest_rank(lambda r: num_params(X.shape, (r,) * X.ndim), budget)
    options = {"rho": rho, "max_iter": sweeps, "tol": 0.0, "seed": run.seed}
    fits = [multiple_als(X, (rank,) * X.ndim, init=init, **options) for init in ("random", "svd")]
    best = min(fits, key=lambda fit: fit.relative_error)
    return best.relative_error, best.tensor.num_params()


def tucker(X: np.ndarray, budget: int, run: Run, iterations: int) -> tuple[float, int]:
    """TensorLy's HOOI at core shapes (R, .., R, c), R the largest within the budget, for c up to the last size or 8,
    and at the shape that packs the most energy (``structure.core_shapes``)."""
    import tensorly as tl
    from tensorly.decomposition import tucker as hooi

    from tensorbench.decomposition.structure.core_shapes import select_core_shape

    def params(core: tuple[int, ...]) -> int:
        return prod(core) + sum(r * n for r, n in zip(core, X.shape, strict=True))

    cores = [select_core_shape(X, budget).shape]
    for last in range(1, min(X.shape[-1], 8) + 1):

        def core(r: int, last: int = last) -> tuple[int, ...]:
            return (*(min(r, n) for n in X.shape[:-1]), last)

        if params(core(1)) <= budget:
            cores.append(core(largest_rank(lambda r: params(core(r)), budget, top=max(X.shape))))
    found = []
    for shape in dict.fromkeys(tuple(int(r) for r in c) for c in cores):
        fitted = hooi(X, list(shape), n_iter_max=iterations, tol=1e-8, init="svd", random_state=run.seed)
        found.append((_relative(X, tl.tucker_to_tensor(fitted)), params(shape)))
    return min(found)


def cp_als(X: np.ndarray, budget: int, run: Run, iterations: int) -> tuple[float, int]:
    """TensorLy's ALS at the largest rank, the better of a random and a spectral start (the other formats have both)."""
    from tensorbench.decomposition.baselines.networks import cp

    fits = [cp(X, X.shape, budget, seed=run.seed, iterations=iterations, init=init) for init in ("random", "svd")]
    return min((_relative(X, approximation), params) for approximation, params in fits)


def _train_ranks(X: np.ndarray, budget: int) -> list[tuple[int, ...]]:
    """Ranks of trains within the budget: of order 3 the largest first for each second, of others by truncation."""
    if X.ndim != 3:
        return truncated_ranks(X, "tt", budget)[-1:]
    a, b, c = X.shape
    found = []
    for second in range(1, min(c, a * b) + 1):
        first = min((budget - second * c) // (a + b * second), a, b * second)
        if first >= 1:
            found.append((first, second))
        if first < second / b or len(found) > 60:
            break
    return found


def tt_svd(X: np.ndarray, budget: int, run: Run) -> tuple[float, int]:
    """TensorLy's TT-SVD, the best order of modes: all ranks of a third-order tensor, otherwise those of the lowest
    tolerance that the budget allows."""
    import tensorly as tl
    from tensorly.decomposition import tensor_train

    found = []
    for order in itertools.permutations(range(X.ndim)):
        turned = X.transpose(order)
        if order[0] > order[-1]:  # a mirrored order is the same train
            continue
        for ranks in _train_ranks(turned, budget):
            cores = tensor_train(turned, [1, *ranks, 1])
            found.append((_relative(turned, tl.tt_to_tensor(cores)), sum(core.size for core in cores)))
    return min(found)


METHODS = {"multiple": multiple, "triple": triple, "tucker": tucker, "cp_als": cp_als, "tt_svd": tt_svd}


def _relative(X: np.ndarray, approximation: np.ndarray) -> float:
    return float(np.linalg.norm(X - approximation) / np.linalg.norm(X))


def run(run: Run) -> None:
    """One format over all budgets."""
    X = run.dataset.load(run.seed)
    options = dict(run.method.params)
    with run.time("fit"):
        for budget in options.pop("budgets"):
            started = time.perf_counter()
            error, params = METHODS[run.method.uses](X, budget, run, **options)
            run.log(step=budget, relative_error=error, parameters=params, solve_seconds=time.perf_counter() - started)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "error", error(records)
    yield "convergence", convergence(records)


def error(records: pd.DataFrame) -> Figure:
    """Relative error against the budget, a panel per tensor."""
    history = rec.history(records, "relative_error")
    names = list(pd.unique(history["dataset"])) or ["none"]
    fig, axes = plotting.figure(columns=2, cols=len(names), height=6.5, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        part = history[history["dataset"] == name]
        plotting.series(ax, part, "step", "value", log="xy")
        if len(part):
            plotting.log_axis(ax, "x", ticks=sorted(part["step"].unique()))
        ax.set(title=plotting.label(name), xlabel="budget (parameters)", ylabel="relative error")
    plotting.legend(fig)
    return fig


def convergence(records: pd.DataFrame) -> Figure:
    """Objective above its end, and the running sum of squared steps over its bound."""
    fig, (left, right) = plotting.figure(columns=2, cols=2, height=6.0)
    files = pd.concat([rec.artifacts(records, f"pals_{budget}.npz") for budget in (5049, 200)], ignore_index=True)
    files = files[files["dataset"] == "astronaut_96"] if len(files) else files
    if files.empty:
        plotting.empty(left)
        plotting.empty(right)
        return fig
    arrays = dict(np.load(files.iloc[0]["path"]))
    looks = plotting.styles(["whole tensor", "30 % of its cells"])
    for name, look in zip(("whole", "masked"), looks.values(), strict=True):
        objective, steps = arrays[f"{name}_objective"], arrays[f"{name}_steps"]
        used = np.cumsum(steps) * float(arrays["rho"]) / (2 * (objective[0] - objective[1:]))
        look = look | {"marker": ""}
        left.plot(np.arange(len(objective) - 1), objective[:-1] - objective[-1], **look)
        right.plot(np.arange(1, len(objective)), used, **look)
    plotting.log_axis(left, "y")
    plotting.log_axis(right, "y")
    plotting.reference(right, y=1.0, text="bound")
    left.set(xlabel="sweep", ylabel="objective above its end")
    right.set(xlabel="sweep", ylabel="Σ |Δ|² / bound")
    plotting.legend(fig)
    return fig
