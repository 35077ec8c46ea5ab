"""How exact the subspace power methods are, and where they stop working: noise, rank, spurious limits, starts.

Each dataset asks one question (a protocol of this module); the steps of its history are what it sweeps.

- ``symmetric_table``, ``general_exact``, ``general_noisy`` (step case): errors on families of larger tensors, at the
  true rank as in the papers' tables, and whether that rank would have been found.
- ``noise`` (step sigma): error to the clean tensor; noise of Frobenius norm sigma.
- ``frontier`` (step rank): share of tensors decomposed to a relative error below 1e-6, beyond the bound too.
- ``census`` (step rank): where single starts of the power method end.
- ``starts``: 200 random starts on one exact tensor with a rank of at most half the bound.
- ``rank_found``: share of random noiseless tensors whose rank is found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.cp.flattening import (
    best_flattenings,
    flatten,
    max_rank,
    parse_symmetries,
    select_rank,
    sides,
    thin_svd,
)
from tensorbench.decomposition.cp.mspm import mspm, psvt_residual
from tensorbench.decomposition.cp.power import Side, random_unit, subspace_power
from tensorbench.decomposition.cp.refine import cp_refine
from tensorbench.decomposition.cp.spm import rank_bound, spm
from tensorbench.decomposition.cp.symmetric import lowrank_symmetric, monomials
from tensorbench.decomposition.datasets.symmetric import Planted
from tensorbench.decomposition.formats import CP
from tensorbench.decomposition.selection import factor_match_score

SUCCESS = 1e-6  # relative error of a decomposition that found the components
CLASSES = ("component", "spurious", "other_one", "unconverged")


def fit_spm(data: Planted, rank: int | None, seed: int) -> CP:
    """SPM, above its rank bound too."""
    return spm(data.tensor, rank, strict_bound=False, generator=seed).to_cp()


def fit_mspm(data: Planted, rank: int | None, seed: int) -> CP:
    """MSPM with the symmetry declared."""
    result = mspm(data.tensor, rank, symmetries=data.symvec, generator=seed)
    assert not isinstance(result, np.ndarray)
    return result.to_cp()


METHODS = {"spm": fit_spm, "mspm": fit_mspm}


def run(run: Run) -> None:
    """The protocol of the dataset, where it is meant for the method."""
    meant = run.dataset.name in run.method.params["protocols"]
    run.log(applies=meant)
    if meant:
        PROTOCOLS[run.dataset.name](run, METHODS[run.method.uses])


def table(run: Run, fit: Callable) -> None:
    """Every case of a family (the steps), decomposed at its rank; without noise it is also seen whether the default
    rule finds that rank. Final values are means or worst."""
    rows = []
    for step, data in enumerate(run.progress(list(run.dataset.load(run.seed).values()), desc="cases")):
        start = time.perf_counter()
        model = fit(data, data.rank, run.seed)
        row = {
            "solve_seconds": time.perf_counter() - start,
            "relative_error": _distance(model.full().numpy(), data.tensor),
            "score": factor_match_score([data.factors[g] for g in data.symvec], [f.numpy() for f in model.factors]),
        }
        if data.tensor is data.clean:
            row["rank_correct"] = float(select_rank(_values(data)) == data.rank)
        rows.append(row)
        run.log(step=step, **row)
    run.log(
        worst_error=max(row["relative_error"] for row in rows),
        worst_score=min(row["score"] for row in rows),
        **{name: float(np.mean([row[name] for row in rows])) for name in rows[0]},
    )


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def noise(run: Run, fit: Callable) -> None:
    """sigma = 1e-4, ..., 1 on one planted tensor per seed; also after five Gauss-Newton steps (`refined_error`)."""
    levels = []
    for sigma in (1e-4, 1e-3, 1e-2, 1e-1, 10**-0.5, 1.0):
        data = run.dataset.load(run.seed, noise=sigma)
        model = fit(data, data.rank, run.seed)
        error = float(np.linalg.norm(model.full().numpy() - data.clean))
        polished = cp_refine(data.tensor, model.weights.numpy(), [model.factors[0].numpy()], data.symvec, steps=5)
        refined = lowrank_symmetric(polished.factors[0], polished.weights, data.tensor.ndim)
        run.log(step=sigma, clean_error=error, refined_error=float(np.linalg.norm(refined - data.clean)))
        levels.append(error / sigma)
    run.log(error_per_sigma=max(levels[:4]))


def frontier(run: Run, fit: Callable) -> None:
    """Five tensors per rank and seed."""
    ranks = {"smoke": (20, 38), "full": range(20, 51, 2)}.get(run.scale, (20, 30, 38, 42, 45, 46))
    for rank in run.progress(ranks, desc="ranks"):
        hits = []
        for attempt in range(5 if run.scale != "smoke" else 1):
            data = run.dataset.load(1000 * run.seed + attempt, rank=rank)
            full = fit(data, rank, attempt).full().numpy()
            hits.append(np.linalg.norm(full - data.clean) < SUCCESS * np.linalg.norm(data.clean))
        run.log(step=rank, success=float(np.mean(hits)))


def census(run: Run, fit: Callable) -> None:
    """Single starts with the fixed shift of the paper's experiment, d = 20 and n = 2."""
    ranks = range(120, 201, 20) if run.scale != "smoke" else (120,)
    starts, maxiter = (40, 3000) if run.scale != "smoke" else (10, 300)
    for rank in run.progress(ranks, desc="ranks"):
        data = run.dataset.load(run.seed, rank=rank)
        A = data.factors[0]
        rng = np.random.default_rng([run.seed, rank])
        V = np.linalg.qr(monomials(A, 2))[0]
        side = Side((0,), (len(A),), (2,))
        start = random_unit(len(A), starts, rng)
        out = subspace_power(V, side, [start], maxiter=maxiter, gradtol=1e-13, adaptive=False)
        gap = 2 * (1 - np.abs(A.T @ out.vectors[0]).max(axis=0))
        kind = np.where(~out.converged, 3, np.where(gap < 1e-10, 0, np.where(out.objective < 1 - 1e-10, 1, 2)))
        run.log(step=rank, **{name: float(np.mean(kind == k)) for k, name in enumerate(CLASSES)})


def starts(run: Run, fit: Callable) -> None:
    """Does every start converge, and to a component?"""
    data = run.dataset.load(run.seed)
    groups = parse_symmetries(data.symvec, data.tensor.ndim)
    dims, mult = [f.shape[0] for f in data.factors], [len(group) for group in groups]
    if 2 * data.rank > max_rank(dims, mult):
        raise ValueError(f"rank {data.rank} is above half the bound {max_rank(dims, mult)}")
    left = best_flattenings(dims, mult)[0]
    side, _ = sides(dims, mult, left)
    V = np.ascontiguousarray(thin_svd(flatten(data.tensor, groups, left))[0][:, : data.rank])
    rng = np.random.default_rng([run.seed, 200])
    out = subspace_power(V, side, [random_unit(d, 200, rng) for d in side.dims], gradtol=1e-15)
    residual = psvt_residual(V, side.dims, side.copies, out.vectors)
    near = np.prod([np.abs(data.factors[g].T @ x) for g, x in zip(side.groups, out.vectors, strict=True)], axis=0).max(
        axis=0
    )
    hit = (out.objective > 1 - 1e-8) & (near > 1 - 1e-8)
    run.log(
        converged=float(np.mean(residual < 1e-12)), hits=float(np.mean(hit)), iterations=float(out.iterations.mean())
    )


def rank_found(run: Run, fit: Callable) -> None:
    """40 random sizes per seed, orders 3 to 6 (symmetric) or four partial symmetries, ranks up to the bound."""
    rng = np.random.default_rng([run.seed, 95])
    correct = []
    for _ in range(40 if run.scale != "smoke" else 4):
        seed = int(rng.integers(2**31))
        if fit is fit_spm:
            order = int(rng.integers(3, 7))
            d = int(rng.integers(4, {3: 30, 4: 14, 5: 8, 6: 6}[order]))
            rank = int(rng.integers(1, rank_bound(d, order) + 1))
            data = run.dataset.load(seed, dims=[d], mult=[order], rank=rank, weights="normal")
        else:
            mult = [(2, 1), (1, 1, 1), (4, 1), (2, 2)][int(rng.integers(4))]
            dims = [int(rng.integers(4, 9 if sum(mult) > 3 else 20)) for _ in mult]
            rank = int(rng.integers(1, max_rank(dims, mult) + 1))
            data = run.dataset.load(seed, dims=dims, mult=list(mult), rank=rank)
        correct.append(select_rank(_values(data)) == rank)
    run.log(rank_correct=float(np.mean(correct)))


def _values(data: Planted) -> np.ndarray:
    """Singular values of the flattening that the method would use."""
    groups = parse_symmetries(data.symvec, data.tensor.ndim)
    dims, mult = [f.shape[0] for f in data.factors], [len(group) for group in groups]
    left = ((mult[0] + 1) // 2,) if len(mult) == 1 else best_flattenings(dims, mult)[0]
    return thin_svd(flatten(data.tensor, groups, left))[1]


PROTOCOLS = {
    "symmetric_table": table,
    "general_exact": table,
    "general_noisy": table,
    "noise": noise,
    "frontier": frontier,
    "census": census,
    "starts_21": starts,
    "rank_found": rank_found,
}


def _levels(records: pd.DataFrame) -> pd.DataFrame:
    history = _history(records, "clean_error", "noise")
    return history[(history["method"] == "spm") & (history["step"] < 0.2)] if len(history) else history


def worst_noise_level(records: pd.DataFrame) -> list[float]:
    """Per seed, the largest error / sigma over sigma in {1e-4, 1e-3, 1e-2, 1e-1}."""
    return [float((rows["value"] / rows["step"]).max()) for _, rows in _by_seed(_levels(records))]


def noise_slope(records: pd.DataFrame) -> list[float]:
    """Per seed, the log-log slope of the error against sigma over the same four."""
    rows = [rows for _, rows in _by_seed(_levels(records))]
    return [float(np.polyfit(np.log(r["step"].astype(float)), np.log(r["value"].astype(float)), 1)[0]) for r in rows]


def _by_seed(history: pd.DataFrame) -> list:
    return list(history.groupby("seed")) if len(history) else []


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Noise, frontier and census."""
    fig, ax = plotting.figure(height=6.5)
    history = _history(records, "clean_error", "noise")
    if history.empty:
        plotting.empty(ax)
    else:
        refined = _history(records, "refined_error", "noise")
        both = pd.concat([history, refined.assign(method=refined["method"] + "_refined")])
        plotting.series(ax, both.assign(value=both["value"] / both["step"]), "step", "value")
        plotting.reference(ax, y=0.6, text="claimed bound")
        # 30 components of 15 entries against the 3060 entries of a symmetric tensor: what least squares keeps.
        plotting.reference(ax, y=float(np.sqrt(450 / 3060)), text="least squares")
        ax.set(xlabel="noise norm σ", ylabel="error to the clean tensor / σ")
        plotting.log_axis(ax, "x")
        ax.set_ylim(0.3, None)
        plotting.legend(ax)
    yield "noise", fig

    fig, ax = plotting.figure(height=6.5)
    history = _history(records, "success", "frontier")
    if history.empty:
        plotting.empty(ax)
    else:
        plotting.series(ax, history, "step", "value")
        plotting.reference(ax, x=35, text="d(d−3)/2")
        plotting.reference(ax, x=45, text="d(d−1)/2")
        ax.set(xlabel="rank", ylabel="share decomposed", ylim=(-0.05, 1.05))
        plotting.legend(ax, loc="lower left")
    yield "frontier", fig

    fig, ax = plotting.figure(height=6.5)
    shares = [_history(records, name, "census") for name in CLASSES]
    if any(s.empty for s in shares):
        plotting.empty(ax)
    else:
        colours = ("#0072B2", "#D55E00", "#CC79A7", "#BBBBBB")
        labels = ("component", "spurious maximum", "other point with f = 1", "not converged")
        bottom: pd.Series | float = 0.0
        for s, colour, text in zip(shares, colours, labels, strict=True):
            mean = s.groupby("step")["value"].mean()
            ax.bar(mean.index, mean, width=14, bottom=bottom, color=colour, label=text)
            bottom = bottom + mean
        ax.set(xlabel="rank", ylabel="share of starts", ylim=(0, 1))
        plotting.legend(fig, ncols=2)
    yield "census", fig


def _history(records: pd.DataFrame, metric: str, dataset: str) -> pd.DataFrame:
    history = rec.history(records, metric)
    return history[history["dataset"] == dataset] if len(history) else history
