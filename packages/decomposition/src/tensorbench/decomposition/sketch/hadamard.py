"""Fast Walsh-Hadamard transform along one axis, batched over the others, in place.

H_1 = [1], H_2n = [[H_n, H_n], [H_n, -H_n]] (Sylvester's order, as ``scipy.linalg.hadamard``), not normalised, so that
H H = n I. A transform of length n costs n log2(n) additions per column.

Two implementations, equal to rounding. NumPy's uses H_(ab) = H_a (x) H_b and multiplies by factors of at most 16 x 16,
which turns log2(n) passes over the memory into log2(n) / 4. Numba's (optional) does plain additions, two levels in one
pass, and finishes blocks that fit the cache before it goes on; compiling takes a second once.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import hadamard

RADIX = 16
BLOCK_BYTES = 2**18  # of one block of rows in the compiled version: about half of a core's second cache
SCRATCH_BYTES = 2**20  # of the buffer that the NumPy version multiplies into


def next_power_of_two(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << max(0, int(n - 1).bit_length())


def fwht(X: np.ndarray, axis: int = 0, *, implementation: str = "numpy") -> np.ndarray:
    """H X along ``axis``, in place; returns X. Any float dtype; the length must be a power of two.

    ``implementation`` is "numpy" or "numba".

    Raises:
        ValueError: the length is no power of two, the dtype is no float (an integer array cannot hold the result of a
            normalised transform, and silently copying would not be in place), or the implementation is unknown.
    """
    if not isinstance(X, np.ndarray) or X.ndim < 1 or not np.issubdtype(X.dtype, np.floating):
        raise ValueError(f"fwht works in place on a float array; got {getattr(X, 'dtype', type(X).__name__)}")
    n = X.shape[axis]
    if n < 1 or n & (n - 1):
        raise ValueError(f"length {n} along axis {axis} is no power of two; pad to {next_power_of_two(n)} with zeros")
    if implementation not in ("numpy", "numba"):
        raise ValueError(f"implementation {implementation!r} must be 'numpy' or 'numba'")
    if n == 1 or X.size == 0:
        return X
    moved = np.moveaxis(X, axis, 0)
    work = np.ascontiguousarray(moved)
    flat = work.reshape(n, -1)
    if implementation == "numba":
        rows = max(2, next_power_of_two(BLOCK_BYTES // (flat.shape[1] * flat.itemsize) + 1) // 2)
        _compiled()(flat, min(n, rows))
    else:
        _by_matrices(flat)
    if not np.shares_memory(work, X):
        moved[...] = work
    return X


@cache
def _matrix(order: int, dtype: np.dtype) -> np.ndarray:
    return hadamard(order).astype(dtype)


def _by_matrices(X: np.ndarray) -> None:
    """H = H_r1 (x) H_r2 (x) ...: one multiplication per factor, over chunks that fit the cache."""
    n, k = X.shape
    inner = 1  # rows already transformed with each other
    while inner < n:
        order = min(RADIX, n // inner)
        H, blocks, width = _matrix(order, X.dtype), n // (inner * order), inner * k
        view = X.reshape(blocks, order, width)
        columns = max(1, SCRATCH_BYTES // (order * X.itemsize))
        if width >= columns:
            for block in view:
                for at in range(0, width, columns):
                    part = block[:, at : at + columns]
                    part[...] = H @ part
        else:
            many = max(1, columns // width)
            for at in range(0, blocks, many):
                part = view[at : at + many]
                part[...] = H @ part
        inner *= order


@cache
def _compiled() -> Any:
    from numba import njit

    @njit(cache=True, fastmath=False)
    def levels(X: Any, first: int, last: int, start: int, stop: int) -> None:
        """Butterflies of the distances start, 2 start, ... < stop among the rows first..last, two levels a pass."""
        k = X.shape[1]
        h = start
        while h < stop:
            if 2 * h < stop:
                for base in range(first, last, 4 * h):
                    for i in range(base, base + h):
                        for c in range(k):
                            a, b, p, q = X[i, c], X[i + h, c], X[i + 2 * h, c], X[i + 3 * h, c]
                            s, t, u, v = a + b, a - b, p + q, p - q
                            X[i, c], X[i + h, c] = s + u, t + v
                            X[i + 2 * h, c], X[i + 3 * h, c] = s - u, t - v
                h *= 4
            else:
                for base in range(first, last, 2 * h):
                    for i in range(base, base + h):
                        for c in range(k):
                            a, b = X[i, c], X[i + h, c]
                            X[i, c], X[i + h, c] = a + b, a - b
                h *= 2

    @njit(cache=True)
    def transform(X: Any, rows: int) -> None:
        n = X.shape[0]
        for first in range(0, n, rows):
            levels(X, first, first + rows, 1, rows)
        levels(X, 0, n, rows, n)

    return transform
