"""Which CP solver finds the components of exact and noisy low-rank tensors, and how exactly?

The cases of a planted family are the steps of the history. Each gives ``relative_error`` (to the tensor at hand),
``clean_error`` (to its noiseless part), ``score`` (factor match score), ``rank_correct`` where the solver was left to
find the rank, and ``solve_seconds``; the final values are means. On measured tensors every solver is asked for ranks
2 to 5, the steps. ``applies`` is the share of the cases that a solver takes (order, symmetry, size).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.baselines import cp as baselines
from tensorbench.decomposition.cp.mspm import mspm
from tensorbench.decomposition.cp.refine import cp_refine
from tensorbench.decomposition.cp.spm import spm
from tensorbench.decomposition.datasets.symmetric import Planted
from tensorbench.decomposition.formats import CP
from tensorbench.decomposition.selection import factor_match_score

log = logging.getLogger(__name__)
REAL_RANKS = (2, 3, 4, 5)
MAX_JACOBIAN = 700_000  # entries; a few seconds for 60 evaluations


class NotApplicable(Exception):
    """The solver does not take such a tensor."""


def fit_spm(tensor: np.ndarray, rank: int | None, symvec: Sequence[int], seed: int) -> CP:
    """Symmetric tensors only."""
    if len(set(symvec)) != 1:
        raise NotApplicable("not symmetric in all modes")
    return spm(tensor, rank, generator=seed).to_cp()


def fit_mspm(tensor: np.ndarray, rank: int | None, symvec: Sequence[int], seed: int, refine: int = 0) -> CP:
    """Any symmetry; `refine` Gauss-Newton steps afterwards."""
    result = mspm(tensor, rank, symmetries=symvec, generator=seed)
    assert not isinstance(result, np.ndarray)
    if not refine:
        return result.to_cp()
    polished = cp_refine(tensor, result.weights, result.factors, symvec, steps=refine)
    return CP(polished.weights, tuple(polished.factors[g] for g in symvec))


def fit_als(tensor: np.ndarray, rank: int, symvec: Sequence[int], seed: int, **options: object) -> CP:
    """tensorly's ALS does not know symmetry: the fit is averaged over each group if that does not raise the error."""
    model = baselines.tensorly_als(tensor, rank, seed=seed, **options)  # type: ignore[arg-type]
    return _better(tensor, model, symvec)


def fit_pyttb(tensor: np.ndarray, rank: int, symvec: Sequence[int], seed: int, **options: object) -> CP:
    """pyttb's ALS, treated like tensorly's."""
    return _better(tensor, baselines.pyttb_als(tensor, rank, seed=seed, **options), symvec)  # type: ignore[arg-type]


def fit_jennrich(tensor: np.ndarray, rank: int, symvec: Sequence[int], seed: int) -> CP:
    """Order 3, rank up to the second largest mode."""
    if tensor.ndim != 3 or rank > sorted(tensor.shape)[-2]:
        raise NotApplicable("order or rank")
    return _better(tensor, baselines.jennrich(tensor, rank, seed=seed), symvec)


def fit_nls(tensor: np.ndarray, rank: int, symvec: Sequence[int], seed: int, **options: object) -> CP:
    """scipy's least squares with the symmetry built in; its Jacobian is dense and factorised at every step."""
    variables = rank * (1 + sum(tensor.shape[symvec.index(g)] for g in set(symvec)))
    if tensor.size * variables > MAX_JACOBIAN:
        raise NotApplicable("size")
    return baselines.nonlinear_least_squares(tensor, rank, seed=seed, symvec=symvec, **options)  # type: ignore[arg-type]


def fit_power_iteration(tensor: np.ndarray, rank: int, symvec: Sequence[int], seed: int, **options: object) -> CP:
    """Symmetric tensors only; made for orthogonal components."""
    if len(set(symvec)) != 1:
        raise NotApplicable("not symmetric in all modes")
    return baselines.tensorly_symmetric_power(tensor, rank, seed=seed, **options)  # type: ignore[arg-type]


METHODS = {
    "spm": fit_spm,
    "mspm": fit_mspm,
    "als": fit_als,
    "pyttb_als": fit_pyttb,
    "jennrich": fit_jennrich,
    "nls": fit_nls,
    "power_iteration": fit_power_iteration,
}
FINDS_RANK = ("spm", "mspm")


def run(run: Run) -> None:
    """One solver on every case of a planted family, or on the measured tensors at ranks 2 to 5."""
    data = run.dataset.load(run.seed)
    fit, options = METHODS[run.method.uses], dict(run.method.params)
    if isinstance(next(iter(data.values())), Planted):
        _planted(run, data, fit, options)
    else:
        _measured(run, data, fit, options)


def _planted(run: Run, cases: dict[str, Planted], fit: Callable, options: dict) -> None:
    """Step k is the k-th case; the final values are means over the cases that the solver takes."""
    rows: list[dict[str, float]] = []
    for step, data in enumerate(run.progress(list(cases.values()), desc="cases")):
        # The rank is told wherever there is noise, and to solvers that cannot find it.
        rank = None if data.tensor is data.clean and run.method.uses in FINDS_RANK else data.rank
        try:
            start = time.perf_counter()
            model = fit(data.tensor, rank, data.symvec, run.seed, **options)
            seconds = time.perf_counter() - start
        except NotApplicable as reason:
            log.info("%s: case %d does not apply (%s)", run.title, step, reason)
            continue
        full = model.full().numpy()
        row = {
            "relative_error": _distance(full, data.tensor),
            "clean_error": _distance(full, data.clean),
            "score": factor_match_score([data.factors[g] for g in data.symvec], [f.numpy() for f in model.factors]),
            "solve_seconds": seconds,
        }
        if rank is None:
            row["rank_correct"] = float(model.rank == data.rank)
        rows.append(row)
        run.log(step=step, **row)
    run.log(applies=len(rows) / len(cases))
    if rows:
        run.log(worst_error=max(row["relative_error"] for row in rows))
        run.log(**{name: float(np.mean([row[name] for row in rows])) for name in rows[0]})


def _measured(run: Run, tensors: dict[str, np.ndarray], fit: Callable, options: dict) -> None:
    applies = []
    for name, tensor in tensors.items():
        for rank in REAL_RANKS:
            try:
                start = time.perf_counter()
                model = fit(tensor, rank, tuple(range(tensor.ndim)), run.seed, **options)
                seconds = time.perf_counter() - start
            except NotApplicable as reason:
                log.info("%s: %s does not apply (%s)", run.title, name, reason)
                applies.append(False)
                continue
            applies.append(True)
            error = _distance(model.full().numpy(), tensor)
            run.log(step=rank, **{f"{name}_error": error, f"{name}_seconds": seconds})
    run.log(applies=float(np.mean(applies)))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _better(tensor: np.ndarray, model: CP, symvec: Sequence[int]) -> CP:
    if len(set(symvec)) == len(symvec):
        return model
    averaged = baselines.symmetric_average(model, symvec)
    both = [_distance(m.full().numpy(), tensor) for m in (model, averaged)]
    return averaged if both[1] < both[0] else model


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Runtime against error per solver, and errors on measured tensors."""
    yield "tradeoff", _tradeoff(records)
    yield "measured", _measured_figure(records)


def _tradeoff(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=8.6)
    error, seconds = rec.history(records, "relative_error"), rec.history(records, "solve_seconds")
    keys = ["dataset", "method", "seed", "step"]
    both = error.merge(seconds, on=keys, suffixes=("", "_seconds")) if len(error) and len(seconds) else error.iloc[:0]
    for ax, noisy in zip(axes, (False, True), strict=True):
        shown = both[both["dataset"] == ("planted_noisy" if noisy else "planted_exact")] if len(both) else both
        ax.set_title("1 % noise" if noisy else "exact")
        if shown.empty:
            plotting.empty(ax)
            continue
        for method, rows in shown.groupby("method", sort=False):
            look = plotting.style(method)
            # An error of 0 sits at the rounding level.
            ax.plot(
                rows["value_seconds"],
                np.maximum(rows["value"], 1e-16),
                linestyle="none",
                marker=look["marker"],
                color=look["color"],
                label=look["label"],
                markersize=3.5,
                alpha=0.75,
            )
        plotting.log_axis(ax, "xy")
        ax.set(xlabel="time to fit (s)", ylabel="relative error")
        if noisy:
            plotting.reference(ax, y=0.01, text="noise")
    plotting.legend(fig)
    return fig


def _measured_figure(records: pd.DataFrame) -> Figure:
    histories = {name: rec.history(records, f"{name}_error") for name in ("kinetic", "il2")}
    fig, axes = plotting.figure(columns=2, cols=2, height=7.4)
    for ax, (name, history) in zip(axes, histories.items(), strict=True):
        if history.empty:
            plotting.empty(ax, "no measured tensors at this scale")
            continue
        plotting.series(ax, history, "step", "value")
        ax.set(title=TITLES[name], xlabel="rank", ylabel="relative error")
        ax.set_xticks(REAL_RANKS)
        ax.set_ylim(bottom=0)
    plotting.legend(fig)
    return fig


TITLES = {"kinetic": "Kinetic, 63 × 12 × 10 × 60", "il2": "IL2, 13 × 4 × 12 × 8"}
