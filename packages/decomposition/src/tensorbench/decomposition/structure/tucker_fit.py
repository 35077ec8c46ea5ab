"""The true error of a Tucker decomposition with a given core shape, by higher-order orthogonal iteration (HOOI).

Dense tensors go to ``tensorly.decomposition.tucker``. Errors are relative and squared, ‖X - X̂‖² / ‖X‖², as in
Ghadiri et al. (2023). When many shapes of one tensor are tried, :func:`rotate` first turns it into the coordinates of
its leading singular vectors and drops what no decomposition of interest can use; fits then work on the small array
that is left.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from jaxtyping import Float
from tensorly.decomposition import tucker
from tensorly.tucker_tensor import TuckerTensor

from tensorbench.decomposition.linalg import COO, as_tensor, leading_vectors, multiply, rank_for_tail, squared_norm
from tensorbench.decomposition.structure.hosv import check_core

_BLOCK = 4_000_000  # numbers held at once while a sparse tensor is projected


@dataclass(frozen=True)
class RotatedTensor:
    """X ≈ core ×₁ vectors[0] ×₂ vectors[1] ...: the leading block of X in the bases of its singular vectors.

    ``dropped`` bounds the energy outside the block, relative to ‖X‖². The squared relative error of any Tucker
    decomposition found here is exact for X, and above the best possible one by at most ``dropped``.
    """

    core: Float[np.ndarray, "*_"]
    vectors: tuple[Float[np.ndarray, "_ _"], ...]
    norm2: float
    dropped: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the modes of the original tensor."""
        return tuple(len(basis) for basis in self.vectors)

    @property
    def ndim(self) -> int:
        """Number of modes."""
        return len(self.vectors)


def rotate(X: Float[np.ndarray, "*_"], tolerance: float = 0.0) -> RotatedTensor:
    """``X`` in the bases of its leading singular vectors, dropping at most ``tolerance`` of its energy ‖X‖².

    ``tolerance=0`` drops rounding noise alone: the same tensor in other coordinates.
    """
    X = as_tensor(X)
    if isinstance(X, COO):
        raise ValueError("rotate needs a dense array; sparse tensors are projected directly by relative_error")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance {tolerance} must lie in [0, 1): the part of the energy that may be dropped")
    norm2 = squared_norm(X)
    vectors, dropped = [], 0.0
    for mode in range(X.ndim):
        basis, values = leading_vectors(X, mode)
        kept = max(1, rank_for_tail(values, tolerance * norm2 / X.ndim))
        dropped += float(values[kept:].sum()) / max(norm2, np.finfo(np.float64).tiny)
        vectors.append(np.ascontiguousarray(basis[:, :kept]))
    return RotatedTensor(multiply(X, [basis.T for basis in vectors]), tuple(vectors), norm2, dropped)


def fit_tucker(
    X: Float[np.ndarray, "*_"] | RotatedTensor,
    core: Sequence[int],
    n_iter: int = 20,
    init: str = "random",
    seed: int = 0,
    tol: float = 1e-20,
) -> TuckerTensor:
    """A ``tensorly`` Tucker tensor (core, factors) with the core shape ``core``, by at most ``n_iter`` sweeps of HOOI.

    ``init``: ``"random"`` (with ``seed``) or ``"svd"``; sweeps stop early once the relative error (not squared)
    changes by less than ``tol``. The defaults are those of the paper's code. A rotated tensor starts from its
    singular vectors whatever ``init`` says: there they are the unit vectors.
    """
    if n_iter < 1:
        raise ValueError(f"n_iter {n_iter} must be at least 1")
    if init not in ("random", "svd"):
        raise ValueError(f"unknown init {init!r} for a Tucker fit (valid: random, svd)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorly warns when it stops at n_iter, which is what is asked for here
        if not isinstance(X, RotatedTensor):
            shape = check_core(X.shape, core)
            return tucker(X, rank=list(shape), n_iter_max=n_iter, init=init, tol=tol, random_state=seed)
        shape = check_core(X.shape, core)
        small = tuple(min(rank, kept) for rank, kept in zip(shape, X.core.shape, strict=True))
        corner = X.core[tuple(slice(rank) for rank in small)]
        unit = [np.eye(kept, rank) for rank, kept in zip(small, X.core.shape, strict=True)]
        start = TuckerTensor((corner.copy(), unit))
        inner, factors = tucker(X.core, rank=list(small), n_iter_max=n_iter, init=start, tol=tol)
    return TuckerTensor((inner, [basis @ factor for basis, factor in zip(X.vectors, factors, strict=True)]))


def relative_error(
    X: Float[np.ndarray, "*_"] | COO | RotatedTensor,
    core: Sequence[int],
    n_iter: int = 20,
    init: str = "random",
    seed: int = 0,
    tol: float = 1e-20,
) -> float:
    """‖X - X̂‖² / ‖X‖² of a Tucker decomposition with the core shape ``core``; 0 for the zero tensor.

    Dense and rotated tensors: :func:`fit_tucker`. Sparse tensors: projection on the leading singular vectors of every
    mode, followed by ``n_iter`` sweeps of HOOI that never form a dense tensor (``n_iter=0``: the projection alone).
    """
    if isinstance(X, COO):
        return _sparse_error(X, check_core(X.shape, core), n_iter)
    if not isinstance(X, RotatedTensor):
        X = as_tensor(X)
        norm2 = squared_norm(X)
    else:
        norm2 = X.norm2
    if norm2 == 0.0:
        return 0.0
    inner, factors = fit_tucker(X, core, n_iter, init, seed, tol)
    error = 1.0 - float(np.vdot(inner, inner)) / norm2  # the factors are orthonormal
    if error < 1e-9 and not isinstance(X, RotatedTensor):  # the difference of two equal numbers: measure instead
        error = squared_norm(X - multiply(inner, factors)) / norm2
    return max(error, 0.0)


def _sparse_project(X: COO, bases: Sequence[Float[np.ndarray, "_ _"]], skip: int | None) -> np.ndarray:
    """X ×ₙ U_nᵀ over all modes but ``skip``: mode ``skip`` (or one row) × the product of the other ranks."""
    modes = [mode for mode in range(X.ndim) if mode != skip]
    width = int(np.prod([bases[mode].shape[1] for mode in modes]))
    rows = X.shape[skip] if skip is not None else 1
    out = np.zeros((rows, width))
    step = max(1, _BLOCK // width)
    for first in range(0, X.values.size, step):
        part = slice(first, first + step)
        block = X.values[part, None]
        for mode in modes:  # row by row the Kronecker product of the factor rows that the entry meets
            block = np.einsum("kp,kr->kpr", block, bases[mode][X.coords[mode, part]]).reshape(len(block), -1)
        if skip is None:
            out += block.sum(axis=0)
        else:
            entries = np.arange(len(block))
            gather = scipy.sparse.csr_array((np.ones(len(block)), (X.coords[skip, part], entries)), (rows, len(block)))
            out += gather @ block
    return out


def _sparse_error(X: COO, core: tuple[int, ...], n_iter: int) -> float:
    """Squared relative error of HOSVD truncation followed by ``n_iter`` sweeps of HOOI, from the non-zeros alone."""
    if X.norm2 == 0.0:
        return 0.0
    bases = [leading_vectors(X, mode, rank)[0] for mode, rank in enumerate(core)]
    for _ in range(n_iter):
        for mode, rank in enumerate(core):
            left, _, _ = np.linalg.svd(_sparse_project(X, bases, mode), full_matrices=False)
            bases[mode] = np.pad(left[:, :rank], ((0, 0), (0, max(0, rank - left.shape[1]))))
    projected = _sparse_project(X, bases, None)
    return max(0.0, 1.0 - float(np.vdot(projected, projected)) / X.norm2)
