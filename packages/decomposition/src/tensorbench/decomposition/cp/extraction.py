"""Taking rank-one components out of a flattening one by one: find, weigh, deflate. Shared by `spm` and `mspm`.

The flattening is M = U C^{-T} V^T with orthonormal U, V (C = diag(1 / s) at first). For a component with left part l
and right part r, alpha = U^T l, beta = V^T r:

    weight      lambda = 1 / (alpha^T C beta)             (times |alpha| |beta| for noisy data; both are 1 if exact)
    deflation   drop the direction C beta from the columns of U and C^T alpha from those of V by Householder
                reflections Q_l, Q_r: U <- U Q_l, V <- V Q_r, C <- Q_l^T C Q_r, each without its last column (row).

Then U C^{-T} V^T = M - lambda l r^T (Wedderburn), see arXiv 1912.04007 section 4.4 and 2510.18627. Several components
come out of one batch of starts; their reflections are collected and applied to U and V as one product.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.cp.power import Side, random_unit, subspace_power

_EXACT = 1e-6  # a batch with candidates closer to f = 1 than this is of an exact tensor: others must be as close
_LEAVE = 0.34  # share of a batch that may still be moving when it is judged; those go on in the next batch
_SAME = 1e-6  # two candidates whose rank-one tensors agree to this are the same component


@dataclass
class Stats:
    """Where the time went (seconds), average power iterations per component, starts that were thrown away."""

    extract_seconds: float = 0.0
    power_seconds: float = 0.0
    deflate_seconds: float = 0.0
    average_iterations: float = 0.0
    restarts: int = 0
    starts: int = 0

    @property
    def total_seconds(self) -> float:
        return self.extract_seconds + self.power_seconds + self.deflate_seconds


@dataclass(frozen=True)
class Options:
    """Tolerances of the search for one component; see `spm` and `mspm`."""

    maxiter: int
    ntries: int
    gradtol: float
    ftol: float
    restol: float = 0.0
    adaptive: bool = True
    batch: int = 128

    def check(self) -> None:
        for name, minimum in (("maxiter", 1), ("ntries", 1), ("batch", 1)):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} = {getattr(self, name)} is too small; use {name} >= {minimum}")
        for name in ("gradtol", "ftol"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be positive")


def householder(direction: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """h with I - h h^T mapping `direction` to a multiple of the last axis (|h|^2 = 2)."""
    y = direction / (np.copysign(np.linalg.norm(direction), direction[-1]))
    h = y.copy()
    h[-1] = 1.0 + y[-1]
    return h / np.sqrt(1.0 + y[-1])


def deflate(
    U: Float[np.ndarray, "rows k"],
    V: Float[np.ndarray, "cols k"],
    C: Float[np.ndarray, "k k"],
    alpha: Float[np.ndarray, " k"],
    beta: Float[np.ndarray, " k"],
) -> tuple[Float[np.ndarray, "rows k-1"], Float[np.ndarray, "cols k-1"], Float[np.ndarray, "k-1 k-1"]]:
    """Remove the component with coordinates alpha = U^T l, beta = V^T r from M = U C^{-T} V^T."""
    left, right = householder(C @ beta), householder(C.T @ alpha)
    C = C - np.outer(left, left @ C)
    C = C - np.outer(C @ right, right)
    return (U - np.outer(U @ left, left))[:, :-1], (V - np.outer(V @ right, right))[:, :-1], C[:-1, :-1]


def robust_weight(C: np.ndarray, alpha: np.ndarray, beta: np.ndarray, exact: bool) -> float:
    """1 / (alpha^T C beta), times |alpha| |beta| unless `exact`; 0 where the component is not in the tensor at all."""
    denominator = float(alpha @ C @ beta)
    scale = 1.0 if exact else float(np.linalg.norm(alpha) * np.linalg.norm(beta))
    return scale / denominator if abs(denominator) > np.finfo(float).tiny else 0.0


Complete = Callable[[dict[int, np.ndarray], np.ndarray, np.ndarray], dict[int, np.ndarray]]


def extract(
    left: Side,
    U: Float[np.ndarray, "rows k"],
    right: Side,
    V: Float[np.ndarray, "cols k"] | None,
    C: Float[np.ndarray, "k k"],
    options: Options,
    generator: np.random.Generator,
    stats: Stats,
    complete: Complete | None = None,
    exact_weights: bool = False,
) -> tuple[Float[np.ndarray, " r"], dict[int, Float[np.ndarray, "_ r"]]]:
    """All components of U C^{-T} V^T (V None: V is U, the flattening is symmetric): weights and one (d_i, r) array of
    unit columns per group, in the order found. `complete` adds the groups that are not on the left."""
    weights: list[float] = []
    found: dict[int, list[np.ndarray]] = {}
    carried: list[np.ndarray] | None = None
    iterations, lonely, exact, misses = 0, False, False, 0
    while U.shape[1] > 0:
        clock = time.perf_counter()
        width = options.ntries if lonely else max(options.ntries, min(U.shape[1], options.batch))
        starts = [random_unit(d, width, generator) for d in left.dims]
        if carried is not None and not lonely:  # starts that were still on their way when the last batch ended
            keep = min(width, carried[0].shape[1])
            starts = [np.concatenate([c[:, :keep], s[:, keep:]], axis=1) for c, s in zip(carried, starts, strict=True)]
        result = subspace_power(
            U,
            left,
            starts,
            maxiter=options.maxiter,
            gradtol=options.gradtol,
            restol=options.restol,
            adaptive=options.adaptive,
            generator=generator,
            leave=_LEAVE,
        )
        iterations += int(result.iterations.sum())
        stats.starts += width
        carried = [x[:, ~result.converged] for x in result.vectors] if not result.converged.all() else None
        order = np.argsort(-result.objective, kind="stable")
        good = _acceptable(result.objective[order], result.converged[order], options.ftol)
        # Once the tensor has shown itself to be exact, a batch without exact candidates is tried again.
        exact |= bool(good.any() and result.objective[order[good]].max() > 1 - _EXACT)
        inexact = not (result.objective > 1 - (_EXACT if exact else options.ftol)).any()
        misses = misses + 1 if inexact else 0
        if inexact and misses * width < options.ntries * (options.ntries if exact else 1):
            stats.restarts += width
            stats.power_seconds += time.perf_counter() - clock
            continue
        misses = 0
        forced = not good.any()
        picked = _distinct(left, [x[:, order[:1] if forced else order[good]] for x in result.vectors])
        vectors = dict(zip(left.groups, picked, strict=True))
        if complete is not None:
            vectors = complete(vectors, U, U if V is None else V)
        stats.power_seconds += time.perf_counter() - clock

        clock = time.perf_counter()
        taken, new_weights, U, V, C = _remove(
            left, U, right, V, C, vectors, 1.0 if forced else options.ftol, exact_weights
        )
        if not taken and not forced:  # the best candidate met the tolerance that picked it only up to rounding
            taken, new_weights, U, V, C = _remove(left, U, right, V, C, _columns(vectors, [0]), 1.0, exact_weights)
        for group, x in vectors.items():
            found.setdefault(group, []).extend(x[:, taken].T)
        weights += new_weights
        stats.restarts += width - len(taken) + result.redraws
        lonely = forced
        stats.deflate_seconds += time.perf_counter() - clock
    stats.average_iterations = iterations / max(1, len(weights))
    return np.array(weights), {group: np.array(x).T for group, x in found.items()}


def _acceptable(f: np.ndarray, converged: np.ndarray, ftol: float) -> np.ndarray:
    """Which candidates to take: those with 1 - f < ftol; converged ones alone if there are any; and if the best is
    exact, only exact ones (near the largest rank there are spurious maxima with f close to 1)."""
    good = f > 1 - ftol
    if (good & converged).any():
        good &= converged
    if (f[good] > 1 - _EXACT).any():
        good &= f > 1 - _EXACT
    return good


def _columns(vectors: dict[int, np.ndarray], columns: list[int]) -> dict[int, np.ndarray]:
    return {group: x[:, columns] for group, x in vectors.items()}


def _distinct(side: Side, xs: list[np.ndarray]) -> list[np.ndarray]:
    """The first of every set of columns whose rank-one tensors agree up to sign."""
    cosine = np.ones((xs[0].shape[1],) * 2)
    for x, u in zip(xs, side.copies, strict=True):
        cosine = cosine * np.abs(x.T @ x) ** u
    same = np.triu(cosine > 1 - _SAME, k=1)
    keep: list[int] = []
    for j in range(len(same)):
        if not same[keep, j].any():
            keep.append(j)
    return [x[:, keep] for x in xs]


def _remove(
    left: Side,
    U: np.ndarray,
    right: Side,
    V: np.ndarray | None,
    C: np.ndarray,
    vectors: dict[int, np.ndarray],
    ftol: float,
    exact_weights: bool,
) -> tuple[list[int], list[float], np.ndarray, np.ndarray | None, np.ndarray]:
    """Deflate the candidates in turn; one is skipped if it no longer lies in the space that is left (1 - f >= ftol)."""
    A = U.T @ left.rank_one([vectors[g] for g in left.groups])
    B = A if V is None else V.T @ right.rank_one([vectors[g] for g in right.groups])
    k = U.shape[1]
    reflect_left, reflect_right = np.eye(k), np.eye(k)
    taken, weights = [], []
    for j in range(A.shape[1]):
        alpha, beta = A[:, j], B[:, j]
        if not alpha.size:
            break
        if alpha @ alpha <= 1 - ftol or not alpha.any() or not beta.any():
            continue
        weights.append(robust_weight(C, alpha, beta, exact_weights))
        taken.append(j)
        h = householder(C @ beta)
        g = h if V is None else householder(C.T @ alpha)
        C = C - np.outer(h, h @ C)
        C = (C - np.outer(C @ g, g))[:-1, :-1]
        A = (A - np.outer(h, h @ A))[:-1]
        B = A if V is None else (B - np.outer(g, g @ B))[:-1]
        reflect_left = (reflect_left - np.outer(reflect_left @ h, h))[:, :-1]
        if V is not None:
            reflect_right = (reflect_right - np.outer(reflect_right @ g, g))[:, :-1]
    return taken, weights, U @ reflect_left, (None if V is None else V @ reflect_right), C
