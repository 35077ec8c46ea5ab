"""Linear algebra that the methods share: unfoldings, their singular values, sparse tensors, Khatri-Rao products.

One convention for the whole package, that of numpy and tensorly: indices count from zero, the last index of a dense
tensor runs fastest, and the mode-n unfolding has mode n as its rows and the other modes, in their order, as its
columns.

Singular values of unfoldings come from the Gram matrix X₍ₙ₎ X₍ₙ₎ᵀ, which costs one product of the tensor with itself
and an I_n × I_n eigenproblem. Squaring limits the accuracy: squared singular values below about √I_n · 2e-15 of the
largest are rounding noise; :func:`squared_singular_values` sets them to zero and says so through logging.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int, Shaped

logger = logging.getLogger(__name__)

GRAM_LIMIT = 4000  # modes longer than this use the smaller side of the unfolding, or an SVD


@dataclass(frozen=True)
class COO:
    """A sparse tensor: entry ``values[k]`` stands at ``coords[:, k]``, all others are zero.

    Raises ValueError on coordinates outside ``shape``, on coordinates given twice (sum them first: which of two values
    is meant cannot be guessed) and on values that are not finite.
    """

    coords: Int[np.ndarray, "order nnz"]
    values: Float[np.ndarray, " nnz"]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        coords = np.asarray(self.coords)
        values = np.asarray(self.values, dtype=np.float64)
        shape = tuple(int(size) for size in self.shape)
        if coords.ndim != 2 or coords.shape[0] != len(shape) or values.shape != coords.shape[1:]:
            raise ValueError(
                f"coords {coords.shape} and values {values.shape} do not describe a tensor of shape {shape}; "
                f"coords needs one row per mode ({len(shape)}) and one column per value"
            )
        if not np.issubdtype(coords.dtype, np.integer):
            raise ValueError(f"coords must be whole numbers, not {coords.dtype}; use coords.astype(int)")
        coords = coords.astype(np.int64)
        if coords.shape[1] and ((coords < 0).any() or (coords >= np.array(shape)[:, None]).any()):
            raise ValueError(f"coords lie outside the shape {shape}; indices count from 0 to size - 1")
        if not np.isfinite(values).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(values))} of {values.size} values are not finite")
        if (repeated := coords.shape[1] - np.unique(coords, axis=1).shape[1]) > 0:
            raise ValueError(f"{repeated} coordinates are given more than once; add their values up first")
        object.__setattr__(self, "coords", coords)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "shape", shape)

    @property
    def ndim(self) -> int:
        """Number of modes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of cells, zeros included."""
        return prod(self.shape)

    @cached_property
    def norm2(self) -> float:
        """Squared Frobenius norm."""
        return float(self.values @ self.values)

    def unfolding(self, mode: int) -> scipy.sparse.csr_array:
        """The mode unfolding without its empty columns (which change neither Gram matrix nor singular values)."""
        others = np.delete(self.coords, mode, axis=0)
        _, column = np.unique(others, axis=1, return_inverse=True)
        column = column.ravel()
        width = int(column.max()) + 1 if column.size else 1
        return scipy.sparse.csr_array((self.values, (self.coords[mode], column)), shape=(self.shape[mode], width))

    def permute(self, modes: Sequence[int]) -> COO:
        """The tensor with its modes in another order."""
        order = list(modes)
        return COO(self.coords[order], self.values, tuple(self.shape[mode] for mode in order))

    def full(self) -> Float[np.ndarray, "*_"]:
        """The dense array; refuses above 100 million cells."""
        if self.size > 100_000_000:
            raise ValueError(f"a dense array of shape {self.shape} has {self.size} cells; work with the sparse tensor")
        dense = np.zeros(self.shape)
        dense[tuple(self.coords)] = self.values
        return dense


def as_tensor(X: Shaped[np.ndarray, "*_"] | COO) -> Float[np.ndarray, "*_"] | COO:
    """``X`` as a float64 array (or the sparse tensor itself), checked: at least two modes, none empty, all finite."""
    if isinstance(X, COO):
        if X.ndim < 2 or X.size == 0:
            raise ValueError(
                f"a sparse tensor of shape {X.shape} cannot be decomposed; use at least two non-empty modes"
            )
        return X
    array = np.asarray(X, dtype=np.float64)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"an array of shape {array.shape} cannot be decomposed; use at least two non-empty modes")
    if not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise ValueError(f"{bad} of {array.size} entries are not finite; fill in or mask missing cells first")
    return array


def squared_norm(X: Float[np.ndarray, "*_"] | COO) -> float:
    """Squared Frobenius norm."""
    return X.norm2 if isinstance(X, COO) else float(np.vdot(X, X))


def unfold(X: Shaped[np.ndarray, "*_"], mode: int | Sequence[int]) -> Shaped[np.ndarray, "rows columns"]:
    """Matrix whose rows are ``mode`` (one mode or several, in the order given), whose columns are the other modes."""
    rows = [mode] if isinstance(mode, int | np.integer) else list(mode)
    columns = [axis for axis in range(X.ndim) if axis not in rows]
    return X.transpose(rows + columns).reshape(prod(X.shape[axis] for axis in rows), -1)


def multiply(
    X: Float[np.ndarray, "*_"], matrices: Sequence[np.ndarray | None], skip: int | None = None
) -> Float[np.ndarray, "*_"]:
    """X ×₁ M₁ ×₂ M₂ ...: each mode times its matrix (new size × size); ``None`` and mode ``skip`` are left out."""
    for mode, matrix in enumerate(matrices):
        if matrix is not None and mode != skip:
            X = np.moveaxis(np.tensordot(matrix, X, axes=(1, mode)), 0, mode)
    return X


def gram(X: Float[np.ndarray, "*_"] | COO, mode: int | Sequence[int]) -> Float[np.ndarray, "rows rows"]:
    """X₍ₙ₎ X₍ₙ₎ᵀ, for a sparse tensor without making it dense."""
    if isinstance(X, COO):
        if not isinstance(mode, int | np.integer):
            raise ValueError("the Gram matrix of several modes at once needs a dense tensor; use X.full()")
        matrix = X.unfolding(int(mode))
        return np.asarray((matrix @ matrix.T).todense())
    matrix = unfold(X, mode)
    return matrix @ matrix.T


def streaming_gram(slabs: Iterable[Float[np.ndarray, "*_"]], mode: int) -> Float[np.ndarray, "rows rows"]:
    """Gram matrix of a tensor that arrives in slabs cut along any mode but ``mode``; one slab in memory at a time."""
    total: np.ndarray | None = None
    for slab in slabs:
        part = gram(np.asarray(slab, dtype=np.float64), mode)
        if total is not None and part.shape != total.shape:
            raise ValueError(f"a slab has size {len(part)} in mode {mode}, earlier ones {len(total)}; cut another mode")
        total = part if total is None else total + part
    if total is None:
        raise ValueError("no slab was given; pass at least one")
    return total


def gram_floor(size: int) -> float:
    """Below this part of the largest, squared singular values from a Gram matrix of ``size`` rows are noise."""
    return 10.0 * float(np.sqrt(size) * np.finfo(np.float64).eps)


def _clean(values: np.ndarray, floor: float, mode: int | Sequence[int]) -> np.ndarray:
    """Descending squared singular values with the noise below ``floor`` (relative to the largest) set to zero."""
    values = np.clip(values, 0.0, None)
    largest = values[0] if values.size else 0.0
    noise = (values > 0.0) & (values <= floor * largest)
    if noise.any():
        logger.info(
            "mode %s: %d squared singular values below %.1e of the largest are rounding noise, taken as zero",
            mode, int(noise.sum()), floor,
        )  # fmt: skip
    return np.where(values > floor * largest, values, 0.0)


def squared_singular_values(
    X: Float[np.ndarray, "*_"] | COO,
    mode: int | Sequence[int],
    method: str = "gram",
    rank: int | None = None,
    seed: int = 0,
) -> Float[np.ndarray, " rows"]:
    """σ²(X₍ₙ₎), descending, one per row of the unfolding (zeros where it has fewer columns than rows).

    ``method``: ``"gram"`` (default), ``"svd"`` (slower, accurate to 1e-32 of the largest) or ``"rsvd"`` (randomised,
    the leading ``rank`` values only, zeros after them; Halko, Martinsson and Tropp 2011, from scikit-learn).
    """
    sparse = isinstance(X, COO)
    rows = prod(X.shape[axis] for axis in ([mode] if isinstance(mode, int | np.integer) else mode))
    if method == "rsvd":
        from sklearn.utils.extmath import randomized_svd

        matrix = X.unfolding(int(mode)) if sparse else unfold(X, mode)  # type: ignore[arg-type]
        count = min(rank or 50, *matrix.shape)
        if count == min(matrix.shape):  # nothing to save
            return squared_singular_values(X, mode, "gram")
        _, sigma, _ = randomized_svd(matrix, n_components=count, n_iter=4, random_state=seed)
        return np.pad(sigma**2, (0, rows - count))
    if method == "svd":
        matrix = X.unfolding(int(mode)).todense() if sparse else unfold(X, mode)  # type: ignore[arg-type]
        values = np.linalg.svd(np.asarray(matrix), compute_uv=False) ** 2
        floor = (max(matrix.shape) * float(np.finfo(np.float64).eps)) ** 2
    elif method == "gram":
        if rows <= GRAM_LIMIT or sparse:
            square = gram(X, mode)
        else:  # a long mode: the Gram matrix of the other side has the same non-zero eigenvalues
            matrix = unfold(X, mode)
            square = matrix.T @ matrix if matrix.shape[1] < matrix.shape[0] else matrix @ matrix.T
        values = np.linalg.eigvalsh(square)[::-1]
        floor = gram_floor(len(square))
    else:
        raise ValueError(f"unknown method {method!r} for singular values (valid: gram, rsvd, svd)")
    return np.pad(_clean(values, floor, mode), (0, max(0, rows - len(values))))[:rows]


def leading_vectors(
    X: Float[np.ndarray, "*_"] | COO, mode: int, rank: int | None = None
) -> tuple[Float[np.ndarray, "rows rank"], Float[np.ndarray, " rows"]]:
    """Leading left singular vectors of an unfolding from its Gram matrix, and all its squared singular values."""
    values, vectors = np.linalg.eigh(gram(X, mode))
    return vectors[:, ::-1][:, :rank], _clean(values[::-1], gram_floor(len(values)), mode)


def tails(values: Float[np.ndarray, " size"]) -> Float[np.ndarray, " size_plus_1"]:
    """``tails(a)[r]`` = Σ_{i>r} a_i, the energy lost by keeping ``r`` values; summed from the small end."""
    return np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]])


def rank_for_tail(values: Float[np.ndarray, " size"], tail: float) -> int:
    """Fewest leading values such that the rest sums to at most ``tail`` (the truncation rule)."""
    return int(np.argmax(tails(values) <= max(tail, 0.0)))


def khatri_rao(matrices: Sequence[Float[np.ndarray, "_ rank"]]) -> Float[np.ndarray, "rows rank"]:
    """Column-wise Kronecker product, the last matrix running fastest (matches :func:`unfold`)."""
    out = matrices[0]
    for matrix in matrices[1:]:
        out = np.einsum("ir,jr->ijr", out, matrix).reshape(-1, out.shape[1])
    return out
