"""Symmetric tensors in compressed coordinates: index maps, multiplicities, symmetrisation, powers of vectors.

A symmetric tensor of order n on R^d has N = C(d+n-1, n) distinct entries. Multiplying the entry with the sorted index
alpha by sqrt(multiplicity of alpha) makes the compressed vector of length N isometric to the full tensor, so that inner
products, eigenvalues and singular values of flattenings are unchanged while a flattening shrinks from d^n to N rows
(Kileel and Pereira, "Subspace power method for symmetric tensor decomposition", arXiv 1912.04007, section 5).

All arrays are NumPy float64; flattenings are row-major.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import comb

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class SymmetricIndices:
    """The index maps of symmetric tensors of order `order` on R^`dim`; the arrays are read-only."""

    dim: int
    order: int
    representatives: Int[np.ndarray, "entries order"]  # sorted multi-indices in lexicographic order
    position: Int[np.ndarray, " full"]  # flat index of the full tensor -> row of `representatives`
    multiplicity: Int[np.ndarray, " entries"]  # how many multi-indices share a representative

    @property
    def size(self) -> int:
        return len(self.multiplicity)


@lru_cache(maxsize=128)
def symmetric_indices(dim: int, order: int) -> SymmetricIndices:
    """Index maps for order >= 0 on R^dim (order 0 has one entry, the scalar)."""
    if dim < 1 or order < 0:
        raise ValueError(f"symmetric tensors need dim >= 1 and order >= 0, got dim {dim} and order {order}")
    index = np.indices((dim,) * order).reshape(order, dim**order)
    representative = np.flatnonzero(np.all(np.diff(index, axis=0) >= 0, axis=0))
    place_values = dim ** np.arange(order - 1, -1, -1, dtype=np.int64)
    position = np.searchsorted(representative, place_values @ np.sort(index, axis=0))
    multiplicity = np.bincount(position, minlength=len(representative))
    representatives = np.ascontiguousarray(index[:, representative].T)
    for array in (representatives, position, multiplicity):
        array.setflags(write=False)
    return SymmetricIndices(dim, order, representatives, position, multiplicity)


@lru_cache(maxsize=128)
def _contraction_table(dim: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """For every j and every representative beta of order - 1: the entry of {j} + beta, and the weight that goes with it
    when both sides are in compressed coordinates."""
    upper, lower = symmetric_indices(dim, order), symmetric_indices(dim, order - 1)
    place_values = dim ** np.arange(order - 2, -1, -1, dtype=np.int64)
    flat = lower.representatives @ place_values  # flat index of beta
    table = upper.position.reshape(dim, -1)[:, flat]
    weight = np.sqrt(lower.multiplicity)[None, :] / np.sqrt(upper.multiplicity[table])
    table.setflags(write=False)
    weight.setflags(write=False)
    return table, weight


def monomials(x: Float[np.ndarray, "d batch"], order: int) -> Float[np.ndarray, "entries batch"]:
    """Columns x^(tensor power `order`) in compressed coordinates; unit columns stay unit."""
    indices = symmetric_indices(x.shape[0], order)
    if order == 0:
        return np.ones((1, x.shape[1]))
    if order == 1:
        return x
    result = x[indices.representatives[:, 0]]
    for k in range(1, order):
        result *= x[indices.representatives[:, k]]
    result *= np.sqrt(indices.multiplicity)[:, None]
    return result


def contract(
    v: Float[np.ndarray, "entries batch"], x: Float[np.ndarray, "d batch"], order: int
) -> Float[np.ndarray, "d batch"]:
    """Contract `order - 1` copies of x into the symmetric tensor whose compressed coordinates are `v`, per column."""
    if order == 1:
        return v
    table, weight = _contraction_table(x.shape[0], order)
    gathered = v[table.reshape(-1)].reshape(*table.shape, v.shape[1])
    return np.einsum("jb,jbs,bs->js", weight, gathered, monomials(x, order - 1))


def compress(full: Float[np.ndarray, "full cols"], dim: int, order: int) -> Float[np.ndarray, "entries cols"]:
    """Columns that are flattened symmetric tensors -> isometric compressed coordinates (representatives are read)."""
    indices = symmetric_indices(dim, order)
    place_values = dim ** np.arange(order - 1, -1, -1, dtype=np.int64)
    return np.sqrt(indices.multiplicity)[:, None] * full[indices.representatives @ place_values]


def expand(compressed: Float[np.ndarray, "entries cols"], dim: int, order: int) -> Float[np.ndarray, "full cols"]:
    """The inverse of `compress` on symmetric columns."""
    indices = symmetric_indices(dim, order)
    return (compressed / np.sqrt(indices.multiplicity)[:, None])[indices.position]


def symmetrize(tensor: Float[np.ndarray, ...], groups: Sequence[Sequence[int]] | None = None) -> Float[np.ndarray, ...]:
    """Average over all permutations within each group of modes (default: all modes together).

    The average over S_j is the average over S_{j-1} followed by the j coset representatives, so m modes cost about
    m^2/2 passes instead of m!.
    """
    result = np.array(tensor, dtype=np.float64)
    for group in groups if groups is not None else [list(range(result.ndim))]:
        for j in range(1, len(group)):
            total = result.copy()
            for i in range(j):
                total += np.swapaxes(result, group[i], group[j])
            total /= j + 1
            result = total
    return result


def asymmetry(tensor: Float[np.ndarray, ...], groups: Sequence[Sequence[int]] | None = None) -> float:
    """Largest |T - T with two neighbouring modes of a group swapped|, relative to max |T| (0 for the zero tensor)."""
    worst = 0.0
    for group in groups if groups is not None else [list(range(tensor.ndim))]:
        for i, j in pairwise(group):
            worst = max(worst, float(np.max(np.abs(tensor - np.swapaxes(tensor, i, j)), initial=0.0)))
    scale = float(np.max(np.abs(tensor), initial=0.0))
    return worst / scale if scale > 0 else 0.0


def khatri_rao_power(factors: Float[np.ndarray, "d r"], order: int) -> Float[np.ndarray, "full r"]:
    """Columns a_i (x) ... (x) a_i, `order` times, row-major; order 0 gives a row of ones."""
    result = np.ones((1, factors.shape[1]))
    for _ in range(order):
        result = (result[:, None, :] * factors[None, :, :]).reshape(-1, factors.shape[1])
    return result


def lowrank_symmetric(
    factors: Float[np.ndarray, "d r"], weights: Float[np.ndarray, " r"], order: int
) -> Float[np.ndarray, ...]:
    """sum_i weights_i a_i^(tensor power order), built as one matrix product of two Khatri-Rao powers."""
    factors = np.asarray(factors, dtype=np.float64)
    half = order // 2
    left = khatri_rao_power(factors, half) * np.asarray(weights, dtype=np.float64)
    return (left @ khatri_rao_power(factors, order - half).T).reshape((factors.shape[0],) * order)


def rank_bound(dim: int, order: int) -> int:
    """Largest rank for which the theory of the subspace power method holds for generic factors.

    With n = ceil(order / 2): even order C(d+n-1, n) - d (arXiv 1912.04007, proposition 3.2); odd order the smaller of
    this and the narrow side C(d+n-2, n-1) of the flattening.
    """
    half = (order + 1) // 2
    wide = comb(dim + half - 1, half) - dim
    return wide if order % 2 == 0 else min(wide, comb(dim + half - 2, half - 1))
