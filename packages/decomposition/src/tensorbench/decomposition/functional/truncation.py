"""Tucker truncation to a tolerance: HOSVD of a full tensor, reduced HOSVD of a CP tensor, and HOOI after either.

The rules are those of the reference code of Benner et al. (arXiv:2503.01696): the HOSVD keeps, in each of d modes, the
fewest singular vectors whose tail is at most tol ‖A‖_F / √d, so that the error is at most tol ‖A‖_F; the reduced HOSVD
(Khoromskij and Khoromskaia 2009) truncates every CP factor matrix on its own, its tail at most tol / d, absolutely,
which is why the columns should be normalised first.

Singular values come from a QR factorisation of the transposed unfolding and not from its Gram matrix: at tol = 1e-7 the
squared tail is 1e-14 of ‖A‖², below the rounding noise of squared values.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import scipy.linalg
from jaxtyping import Float

from tensorbench.decomposition.linalg import khatri_rao, multiply, rank_for_tail, unfold

_TERMS = 2**22  # numbers of a Khatri-Rao product held at once
Truncated = tuple[np.ndarray, tuple[np.ndarray, ...]]  # core and one orthonormal basis per mode


def left_singular(matrix: Float[np.ndarray, "rows columns"]) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors and singular values; of a wide matrix by those of its triangular factor."""
    if matrix.shape[1] > matrix.shape[0]:
        matrix = scipy.linalg.qr(matrix.T, mode="r", check_finite=False)[0][: matrix.shape[0]].T
    U, s, _ = scipy.linalg.svd(matrix, full_matrices=False, check_finite=False)
    return U, s


def hosvd_tol(A: Float[np.ndarray, "*_"], tol: float, ranks: Sequence[int] | None = None) -> Truncated:
    """Core and orthonormal factors of ``A`` with ‖A - core ×_k U_k‖_F ≤ tol ‖A‖_F, or with the given ``ranks``.

    Raises ValueError for tol <= 0 and ranks above the sizes.
    """
    A = np.asarray(A, dtype=np.float64)
    fixed = check_truncation(tol, ranks, A.shape)
    limit = (tol * np.linalg.norm(A)) ** 2 / A.ndim
    factors = []
    for k in range(A.ndim):
        U, s = left_singular(unfold(A, k))
        factors.append(U[:, : _kept(s, limit, fixed, k)])
    return multiply(A, [U.T for U in factors]), tuple(factors)


def rhosvd_tol(
    weights: Float[np.ndarray, " r"],
    factors: Sequence[Float[np.ndarray, "_ r"]],
    tol: float,
    ranks: Sequence[int] | None = None,
) -> Truncated:
    """Core and orthonormal factors of the CP tensor Σ_r w_r ⊗_k factors[k][:, r], which is never formed.

    The core is Σ_r w_r ⊗_k Z_k[:, r] with Z_k = U_kᵀ factors[k]: a CP tensor of the size of the ranks. The error is at
    most (tol / d) Σ_k ‖w‖ for unit columns. Ranks never fall below the numerical column ranks at a given tol, however
    the components cancel; :meth:`ChebTucker.round` sees the core and can go lower.
    """
    factors = [np.asarray(F, dtype=np.float64) for F in factors]
    fixed = check_truncation(tol, ranks, tuple(len(F) for F in factors))
    limit = (tol / len(factors)) ** 2
    bases, small = [], []
    for k, F in enumerate(factors):
        U, s = left_singular(F)
        U = U[:, : _kept(s, limit, fixed, k)]
        bases.append(U)
        small.append(U.T @ F)
    return cp_full(weights, small), tuple(bases)


def tucker_als(A: Float[np.ndarray, "*_"], ranks: Sequence[int], sweeps: int = 10) -> Truncated:
    """Core and orthonormal factors by higher-order orthogonal iteration from the HOSVD: :func:`fit_tucker` does it."""
    from tensorbench.decomposition.structure.tucker_fit import fit_tucker

    core, factors = fit_tucker(np.asarray(A, dtype=np.float64), ranks, n_iter=sweeps, init="svd")
    return core, tuple(factors)


def cp_full(weights: Float[np.ndarray, " r"], factors: Sequence[Float[np.ndarray, "_ r"]]) -> Float[np.ndarray, "*_"]:
    """The tensor Σ_r w_r ⊗_k factors[k][:, r]: a matrix product of two groups of modes, some terms at a time."""
    half = max(1, len(factors) // 2)
    left, right = [weights * factors[0], *factors[1:half]], list(factors[half:]) or [np.ones((1, len(weights)))]
    shape = [len(F) for F in factors]
    step = max(1, _TERMS // max(prod(shape[:half]), prod(shape[half:])))
    full = np.zeros((prod(shape[:half]), prod(shape[half:])))
    for start in range(0, len(weights), step):
        part = slice(start, start + step)
        full += khatri_rao([F[:, part] for F in left]) @ khatri_rao([F[:, part] for F in right]).T
    return full.reshape(shape)


def check_truncation(tol: float, ranks: Sequence[int] | None, sizes: Sequence[int]) -> list[int] | None:
    """The given ranks as a list, or None; ValueError for tol <= 0, and for ranks that are not from 1 to the sizes."""
    if not (np.isfinite(tol) and tol > 0):
        raise ValueError(f"tol {tol} must be a positive number; nothing can be approximated to an error of zero")
    if ranks is None:
        return None
    fixed = [int(r) for r in ranks]
    if len(fixed) != len(sizes):
        raise ValueError(f"ranks {fixed} need one value for each of the {len(sizes)} modes")
    for k, (rank, size) in enumerate(zip(fixed, sizes, strict=True)):
        if not 1 <= rank <= size:
            raise ValueError(f"rank {rank} of mode {k} must lie between 1 and its size {size}")
    return fixed


def _kept(s: np.ndarray, limit: float, fixed: list[int] | None, k: int) -> int:
    return min(fixed[k], len(s)) if fixed is not None else max(1, rank_for_tail(s**2, limit))
