"""Vectors at the door of an index: checked, cut to a prefix, scaled to length one; and the few nearest of many.

AdANNS (Rege, Kusupati et al., 2023, arXiv 2305.19435) compares prefixes of Matryoshka embeddings by L2 distance after
scaling each prefix to length one anew: a prefix of a unit vector is shorter than one, and by how much differs from
vector to vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_GROUP = 32  # columns that share a minimum in :func:`nearest`


@dataclass(frozen=True)
class Found:
    """What a search returns, nearest first.

    ``distances`` are squared L2 distances between vectors of length one (of what the index keeps: a compressed vector's
    is to its reconstruction) and ``ids`` positions in the database; where there are fewer than k candidates, infinity
    and -1. ``macs`` are the multiply-adds that each query took, ``evaluations`` how many vectors or centroids it was
    compared with.
    """

    distances: Float[np.ndarray, "queries k"]
    ids: Int[np.ndarray, "queries k"]
    macs: Float[np.ndarray, " queries"]
    evaluations: Float[np.ndarray, " queries"]


def check_vectors(x: np.ndarray, name: str = "vectors", dims: int | None = None) -> Float[np.ndarray, "n d"]:
    """The vectors as contiguous float32.

    Raises:
        ValueError: not a matrix, empty, another number of dimensions than ``dims``, or values that are not finite.
    """
    x = np.asarray(x)
    if x.ndim != 2:
        raise ValueError(f"{name} must be a matrix, a vector a row; got shape {x.shape}")
    if 0 in x.shape:
        raise ValueError(f"{name} are empty: shape {x.shape}")
    if dims is not None and x.shape[1] != dims:
        raise ValueError(f"{name} have {x.shape[1]} dimensions, the index was trained on {dims}")
    x = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise ValueError(f"{name}: row {row} holds NaN or infinity; clean the embeddings before indexing them")
    return x


def prefix(x: Float[np.ndarray, "n D"], d: int) -> Float[np.ndarray, "n d"]:
    """The first ``d`` coordinates, scaled to length one (of that length already, or all zeros, they stay as they are).

    Raises:
        ValueError: ``d`` is not between 1 and D.
    """
    if not 1 <= d <= x.shape[1]:
        raise ValueError(f"a prefix of {d} dimensions cannot be cut from vectors of {x.shape[1]}")
    part = np.array(x[:, :d], dtype=np.float32, order="C")
    lengths = np.sqrt(np.einsum("nd,nd->n", part, part))
    part /= np.where((lengths > 0) & (np.abs(lengths - 1) > 1e-6), lengths, 1.0)[:, None]
    return part


def squared_norms(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """|x|² of each row."""
    return np.einsum("nd,nd->n", x, x)


def squared_distances(q: Float[np.ndarray, "m d"], x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "m n"]:
    """|q - x|² of all pairs as |q|² - 2 q·x + |x|² (float32; never below zero)."""
    out = q @ x.T
    out *= -2.0
    out += squared_norms(x)
    out += squared_norms(q)[:, None]
    return np.maximum(out, 0.0, out=out)


def nearest(distances: Float[np.ndarray, "m n"], k: int) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
    """The k smallest values of each row, ascending, and their columns; padded with infinity and -1 where n < k.

    The columns are split into groups; the k smallest values lie in the k groups of the smallest minima, so that only
    those need sorting.
    """
    if k < 1:
        raise ValueError(f"k = {k} neighbours make no sense; ask for at least 1")
    m, n = distances.shape
    if k == 1 and n:
        columns = distances.argmin(axis=1)[:, None]
        return np.take_along_axis(distances, columns, axis=1), columns.astype(np.int64)
    groups = n // _GROUP
    if groups > 4 * k:
        whole = groups * _GROUP
        minima = distances[:, :whole].reshape(m, _GROUP, groups).min(axis=1)
        best = np.argpartition(minima, k - 1, axis=1)[:, :k]
        columns = (best[:, :, None] + groups * np.arange(_GROUP)).reshape(m, -1)
        rest = np.broadcast_to(np.arange(whole, n), (m, n - whole))
        columns = np.concatenate([columns, rest], axis=1)
        values = np.take_along_axis(distances, columns, axis=1)
    else:
        values, columns = distances, np.broadcast_to(np.arange(n), (m, n))
    if values.shape[1] > 2 * k:
        part = np.argpartition(values, k - 1, axis=1)[:, :k]
        values, columns = np.take_along_axis(values, part, axis=1), np.take_along_axis(columns, part, axis=1)
    order = np.argsort(values, axis=1, kind="stable")[:, :k]
    values, columns = np.take_along_axis(values, order, axis=1), np.take_along_axis(columns, order, axis=1)
    return pad(values, columns.astype(np.int64), k)


def pad(
    values: Float[np.ndarray, "m c"], ids: Int[np.ndarray, "m c"], k: int
) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
    """Columns of infinity and -1 behind, up to ``k``; -1 wherever a value is infinite."""
    short = k - values.shape[1]
    if short > 0:
        values = np.pad(values, ((0, 0), (0, short)), constant_values=np.inf)
        ids = np.pad(ids, ((0, 0), (0, short)), constant_values=-1)
    return values, np.where(np.isinf(values), -1, ids)
