"""Moment and cumulant tensors of samples, accumulated by matrix products of Khatri-Rao powers.

The m-th raw moment of samples y_1, ..., y_N in R^d is (1/N) sum_j y_j^(tensor power m); it is built as one product of
the (d^ceil(m/2) x N) and (N x d^floor(m/2)) power matrices, chunk by chunk so that no more than `max_entries` entries
of a power are held. Cumulants of order 2 to 4 and 6 come from the central moments (McCullagh, "Tensor methods in
statistics", 1987, section 2.3); they vanish for Gaussian data from order 3 on, so additive Gaussian noise leaves them
alone.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.cp.symmetric import khatri_rao_power, symmetrize


def moment(
    samples: Float[np.ndarray, "n d"], order: int, *, center: bool = False, max_entries: int = 4_000_000
) -> Float[np.ndarray, ...]:
    """Raw (or central) moment tensor of order >= 1; rows of `samples` are observations."""
    data = np.asarray(samples, dtype=np.float64)
    if data.ndim != 2 or data.shape[0] == 0:
        raise ValueError(
            f"samples have shape {data.shape}; expected (observations, variables), at least one observation"
        )
    if order < 1:
        raise ValueError(f"moment order {order} must be at least 1")
    if not np.isfinite(data).all():
        raise ValueError("samples contain NaN or infinite values; drop or impute them first")
    if center:
        data = data - data.mean(axis=0)
    n, d = data.shape
    half = (order + 1) // 2
    chunk = max(1, max_entries // d**half)
    total = np.zeros((d**half, d ** (order - half)))
    for start in range(0, n, chunk):
        block = data[start : start + chunk].T
        total += khatri_rao_power(block, half) @ khatri_rao_power(block, order - half).T
    return (total / n).reshape((d,) * order)


def pairings_of_identity(dim: int, order: int) -> Float[np.ndarray, ...]:
    """E z^(tensor power order) of a standard Gaussian z: the sum over all pairings of products of identities."""
    if order % 2:
        return np.zeros((dim,) * order)
    result, count = np.ones(()), 1
    for k in range(2, order + 1, 2):
        result, count = np.multiply.outer(result, np.eye(dim)), count * (k - 1)
    return count * symmetrize(result)


def _partitions(sizes: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
    """All ways to split range(sum(sizes)) into unordered blocks of the given sizes."""

    def split(rest: tuple[int, ...], remaining: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
        if not remaining:
            return [[]]
        out, seen = [], set()
        for size in remaining:
            if size in seen:
                continue
            seen.add(size)
            left = list(remaining)
            left.remove(size)
            for others in combinations(rest[1:], size - 1):  # the block that holds the smallest index left
                block = (rest[0], *others)
                tail = tuple(i for i in rest if i not in block)
                out += [[block, *more] for more in split(tail, tuple(left))]
        return out

    return split(tuple(range(sum(sizes))), sizes)


def _products(tensors: dict[int, np.ndarray], sizes: tuple[int, ...]) -> np.ndarray:
    """Sum over partitions into blocks of `sizes` of the products of `tensors[size]` on the blocks."""
    outer = np.ones(())
    for size in sizes:
        outer = np.multiply.outer(outer, tensors[size])
    ways = _partitions(sizes)
    return len(ways) * symmetrize(outer)


def cumulant(samples: Float[np.ndarray, "n d"], order: int) -> Float[np.ndarray, ...]:
    """Sample cumulant tensor of order 2, 3, 4 or 6 (plug-in estimate from central moments, biased by O(1/n))."""
    if order not in (2, 3, 4, 6):
        raise ValueError(f"cumulants of order {order} are not offered; use 2, 3, 4 or 6")
    central = {k: moment(samples, k, center=True) for k in range(2, order + 1)}
    if order <= 3:
        return central[order]
    if order == 4:
        return central[4] - _products(central, (2, 2))
    return central[6] - _products(central, (4, 2)) - _products(central, (3, 3)) + 2 * _products(central, (2, 2, 2))


def debias(moments: dict[int, Float[np.ndarray, ...]], sigma: float) -> dict[int, Float[np.ndarray, ...]]:
    """Even raw moments of x from those of y = x + sigma z, z standard Gaussian independent of x:
    M_2k(x) = M_2k(y) - sum_{j>=1} C(2k, 2j) sigma^(2j) sym( E z^(2j) (x) M_{2k-2j}(x) )."""
    orders = sorted(moments)
    if orders != list(range(2, 2 * len(orders) + 1, 2)):
        raise ValueError(f"moments of orders {orders} given; expected all even orders 2, 4, ... up to the largest")
    dim = moments[2].shape[0]
    clean: dict[int, np.ndarray] = {0: np.ones(())}
    for order in orders:
        value = np.array(moments[order])
        for j in range(2, order + 1, 2):
            noise = sigma**j * pairings_of_identity(dim, j)
            value -= comb(order, j) * symmetrize(np.multiply.outer(noise, clean[order - j]))
        clean[order] = value
    del clean[0]
    return clean
