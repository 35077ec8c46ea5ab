"""Subspace power method: CP decomposition of real symmetric tensors, one component at a time.

J. Kileel, J. M. Pereira, "Subspace power method for symmetric tensor decomposition", arXiv 1912.04007 (v5),
Numerical Algorithms 2025. For T = sum_i lambda_i a_i^(tensor power m) and n = ceil(m/2), the column space A of the
flattening mat(T) (d^n x d^(m-n)) is spanned by the powers a_i^(n). They are the global maxima, with value 1, of

    f(x) = | P_A( x^(tensor power n) ) |^2    on the unit sphere       (`spm_objective`)

and are reached from random starts by a shifted power iteration (algorithm 1); each is weighed and removed by a
Householder deflation (section 4.4). Ranks up to `rank_bound(d, m)`, about d^floor(m/2) / floor(m/2)!.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.cp.extraction import Options, Stats, extract
from tensorbench.decomposition.cp.flattening import flatten, select_rank, thin_svd
from tensorbench.decomposition.cp.inputs import as_generator, check_tensor
from tensorbench.decomposition.cp.power import Side
from tensorbench.decomposition.cp.symmetric import (
    asymmetry,
    expand,
    khatri_rao_power,
    lowrank_symmetric,
    rank_bound,
    symmetrize,
)
from tensorbench.decomposition.formats import CP

__all__ = ["SPMResult", "rank_bound", "spm", "spm_gradient", "spm_hessian", "spm_objective", "symmetric_subspace"]


@dataclass(frozen=True)
class SPMResult:
    """weights (r,), unit factor columns (d, r), order m, and where the time went. Largest |weight| first."""

    weights: Float[np.ndarray, " r"]
    factors: Float[np.ndarray, "d r"]
    order: int
    stats: Stats

    @property
    def rank(self) -> int:
        return len(self.weights)

    def full(self) -> Float[np.ndarray, ...]:
        return lowrank_symmetric(self.factors, self.weights, self.order)

    def to_cp(self) -> CP:
        return CP(self.weights, (self.factors,) * self.order)


def spm(
    tensor: Float[Any, ...],
    rank: int | None = None,
    *,
    maxiter: int = 5000,
    ntries: int = 3,
    gradtol: float = 1e-14,
    ranksel: float | Callable[[np.ndarray], int] = 1e-4,
    ftol: float = 1e-2,
    restol: float | None = None,
    adaptive: bool = True,
    symmetrize_input: bool = False,
    symmetry_tol: float = 1e-6,
    strict_bound: bool = True,
    batch: int = 128,
    generator: np.random.Generator | int | None = None,
) -> SPMResult:
    """Decompose a real symmetric tensor of order >= 3.

    `rank` None: counted from the eigenvalues of the flattening by `ranksel` (see `select_rank`). A component counts as
    found when 1 - f < `ftol`; if no start of a batch gets there, the best of at least `ntries` is taken. Starts with
    f < `restol` (default 0.01 / sqrt(d)) are redrawn. Up to `batch` starts run side by side. `strict_bound=False`
    allows ranks above `rank_bound`, where the theory gives no promise. Even order: weights keep
    their signs and each column's largest entry is positive; odd order: weights are positive.

    ValueError: order < 3, d = 1, modes of different size, complex or non-finite entries, relative asymmetry above
    `symmetry_tol` (unless `symmetrize_input`), rank above `rank_bound(d, m)`, or no eigenvalue above the tolerance.
    """
    generator = as_generator(generator)
    clock = time.perf_counter()
    array = check_tensor(tensor)
    order, dim = array.ndim, array.shape[0]
    if len(set(array.shape)) != 1:
        raise ValueError(f"a symmetric tensor has equal modes, got shape {array.shape}; use mspm for other symmetries")
    if symmetrize_input:
        array = symmetrize(array)
    elif (error := asymmetry(array)) > symmetry_tol:
        raise ValueError(
            f"tensor is not symmetric: relative asymmetry {error:.1e} > {symmetry_tol:.0e}; pass symmetrize_input=True "
            "to average over permutations, or use mspm for partial symmetry"
        )
    bound = rank_bound(dim, order)
    half = (order + 1) // 2
    left, right = Side((0,), (dim,), (half,)), Side((0,), (dim,), (order - half,))
    if not strict_bound:
        bound = min(left.size, right.size)
    if rank is not None and not 1 <= rank <= bound:
        raise ValueError(f"rank {rank} is outside 1..{bound}, what order {order} and dimension {dim} allow")
    options = Options(
        maxiter, ntries, gradtol, ftol, 1e-2 / np.sqrt(dim) if restol is None else restol, adaptive, batch
    )
    options.check()
    stats = Stats()

    matrix = flatten(array, (tuple(range(order)),), (half,))
    if order % 2 == 0:
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        by_size = np.argsort(-np.abs(values), kind="stable")
        values, U, V = values[by_size], vectors[:, by_size], None
    else:
        U, values, V = thin_svd(matrix)
    if rank is None:
        rank = int(select_rank(np.abs(values), ranksel))
        if rank == 0:
            raise ValueError("no eigenvalue of the flattening is above the tolerance (rank 0): the tensor is zero")
        if rank > bound:
            raise ValueError(
                f"rank {rank} found exceeds {bound}, what order {order} and dimension {dim} allow; the tensor is of "
                "full rank or noisy: give `rank`, or a larger `ranksel`"
            )
    if np.abs(values[rank - 1]) == 0.0:
        raise ValueError(f"rank {rank} was asked for but the flattening has rank {int(np.sum(values != 0))}")
    C = np.diag(1.0 / values[:rank])
    stats.extract_seconds = time.perf_counter() - clock

    weights, found = extract(
        left,
        np.ascontiguousarray(U[:, :rank]),
        right,
        None if V is None else np.ascontiguousarray(V[:, :rank]),
        C,
        options,
        generator,
        stats,
        exact_weights=True,
    )
    factors = found[0]
    if order % 2:
        factors, weights = factors * np.where(weights < 0, -1.0, 1.0), np.abs(weights)
    else:
        peak = np.take_along_axis(factors, np.argmax(np.abs(factors), axis=0)[None], axis=0)
        factors = factors * np.where(peak < 0, -1.0, 1.0)
    by_size = np.argsort(-np.abs(weights), kind="stable")
    return SPMResult(weights[by_size], factors[:, by_size], order, stats)


def symmetric_subspace(
    tensor: Float[np.ndarray, ...], rank: int | None = None, ranksel: float = 1e-4
) -> Float[np.ndarray, "full r"]:
    """Orthonormal basis (d^n, r) of the column space of mat(T), n = ceil(m/2): the V of `spm_objective`."""
    order, dim = tensor.ndim, tensor.shape[0]
    half = (order + 1) // 2
    U, values, _ = thin_svd(flatten(tensor, (tuple(range(order)),), (half,)))
    return expand(U[:, : int(select_rank(values, ranksel)) if rank is None else rank], dim, half)


def _order_of(V: np.ndarray, x: np.ndarray) -> int:
    order = round(np.log(V.shape[0]) / np.log(len(x))) if len(x) > 1 else 0
    if order < 1 or len(x) ** order != V.shape[0]:
        raise ValueError(f"V has {V.shape[0]} rows, which is no power of len(x) = {len(x)}")
    return order


def _contraction(V: np.ndarray, x: np.ndarray, free: int) -> np.ndarray:
    """V with all but `free` copies of x contracted: shape (d,) * free + (k,)."""
    order = _order_of(V, x)
    power = khatri_rao_power(x[:, None], order - free)[:, 0]
    return np.tensordot(power, V.reshape(-1, *(len(x),) * free, V.shape[1]), axes=(0, 0))


def spm_objective(V: Float[np.ndarray, "full r"], x: Float[np.ndarray, " d"]) -> float:
    """f(x) = |V^T x^(tensor power n)|^2 for a basis V (d^n, r) of symmetric tensors."""
    return float(np.sum(_contraction(V, x, 0) ** 2))


def spm_gradient(
    V: Float[np.ndarray, "full r"], x: Float[np.ndarray, " d"], riemannian: bool = False
) -> Float[np.ndarray, " d"]:
    """Gradient 2 n V(x^(n-1)) V^T x^n of f; `riemannian` projects it to the tangent space of the sphere at unit x."""
    gradient = 2 * _order_of(V, x) * _contraction(V, x, 1) @ _contraction(V, x, 0)
    return gradient - x * (x @ gradient) if riemannian else gradient


def spm_hessian(V: Float[np.ndarray, "full r"], x: Float[np.ndarray, " d"]) -> Float[np.ndarray, "d d"]:
    """Riemannian Hessian P (Hess f - (x . grad f) I) P on the sphere at unit x, as a d x d matrix (x in its kernel)."""
    n = _order_of(V, x)
    if n < 2:
        hessian = 2 * V @ V.T
    else:
        one, two, zero = _contraction(V, x, 1), _contraction(V, x, 2), _contraction(V, x, 0)
        hessian = 2 * n * (n * one @ one.T + (n - 1) * two @ zero)
    tangent = np.eye(len(x)) - np.outer(x, x)
    return tangent @ (hessian - (x @ spm_gradient(V, x)) * np.eye(len(x))) @ tangent
