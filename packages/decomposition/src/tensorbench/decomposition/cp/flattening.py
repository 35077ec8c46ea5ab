"""Symmetry types, flattenings and the ranks they can reach, for tensors of any partial symmetry.

Modes are grouped by symmetry: group i has dimension d_i and multiplicity n_i (a tensor in Sym^2(R^d) (x) R^e has
dims (d, e) and multiplicities (2, 1)). A flattening puts u_i of the n_i copies on the left. Its left range can be
searched for rank-one tensors, and its rank read off, up to

    min( prod C(d_i + u_i - 1, u_i) - sum_{u_i > 0} d_i ,  prod C(d_i + n_i - u_i - 1, n_i - u_i) )

(multi-subspace power method, arXiv 2510.18627). A flattening that splits a group ("symmetry breaking") knows on the
right something that the left already found, and is enough alone; otherwise a second, different flattening supplies the
vectors that stand on the right only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, product
from math import comb, prod
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh

from tensorbench.decomposition.cp.power import Side
from tensorbench.decomposition.cp.symmetric import symmetric_indices

Groups = tuple[tuple[int, ...], ...]


def parse_symmetries(symmetries: Sequence[Any] | None, order: int) -> Groups:
    """Groups of modes from any of three spellings.

    Lists of modes `[[0, 1], [2]]`; one label per mode, counted from 0, `[0, 0, 1]`; or multiplicities of consecutive
    modes `(2, 1)`. `None` means no symmetry. A list without a 0 is read as multiplicities.
    """
    if symmetries is None:
        return tuple((mode,) for mode in range(order))
    if len(symmetries) and all(isinstance(item, Sequence | np.ndarray) for item in symmetries):
        groups = tuple(tuple(int(mode) for mode in group) for group in symmetries)
    elif 0 in symmetries:
        labels = [int(label) for label in symmetries]
        groups = tuple(
            tuple(mode for mode, other in enumerate(labels) if other == label) for label in range(max(labels) + 1)
        )
    else:
        stops = np.cumsum([0, *symmetries])
        groups = tuple(tuple(range(int(start), int(stop))) for start, stop in pairwise(stops))
    if sorted(mode for group in groups for mode in group) != list(range(order)) or not all(groups):
        raise ValueError(
            f"symmetries {list(symmetries)!r} do not name every mode of an order-{order} tensor once; use lists of "
            f"modes such as [[0, 1], [2]], labels such as [0, 0, 1], or multiplicities such as (2, 1)"
        )
    return groups


def sv_dimension(dims: Sequence[int], mult: Sequence[int]) -> int:
    """Dimension of Sym^{m_1}(R^{d_1}) (x) ... : prod C(d_i + m_i - 1, m_i)."""
    return prod(comb(d + m - 1, m) for d, m in zip(dims, mult, strict=True))


def flattening_rank(dims: Sequence[int], mult: Sequence[int], left: Sequence[int]) -> int:
    """The bound of the module docstring for the flattening with `left[i]` copies of group i on the left."""
    right = [n - u for n, u in zip(mult, left, strict=True)]
    searched = sum(d for d, u in zip(dims, left, strict=True) if u > 0)
    return min(sv_dimension(dims, left) - searched, sv_dimension(dims, right))


def splits(mult: Sequence[int], left: Sequence[int]) -> bool:
    """Does the flattening break a symmetry, that is, has some group copies on both sides?"""
    return any(0 < u < n for n, u in zip(mult, left, strict=True))


def all_flattenings(mult: Sequence[int]) -> list[tuple[int, ...]]:
    """Every choice of left copies with something on both sides."""
    choices = product(*(range(n + 1) for n in mult))
    return [u for u in choices if 0 < sum(u) < sum(mult)]


def best_flattenings(dims: Sequence[int], mult: Sequence[int], k: int | None = None) -> list[tuple[int, ...]]:
    """One symmetry-breaking flattening, or two that complement each other, whichever reaches the larger rank.

    `k` restricts the choice to that number of flattenings (1 or 2). At equal rank the single one is taken, then the one
    that leaves the fewest groups to be found on the right, then the smaller left side (cheaper products).
    """
    if k not in (None, 1, 2):
        raise ValueError(f"k = {k!r} flattenings cannot be chosen; use 1, 2 or None")

    def preference(left: tuple[int, ...]) -> tuple[int, int, int]:
        return (-flattening_rank(dims, mult, left), sum(u == 0 for u in left), sv_dimension(dims, left))

    ordered = sorted(all_flattenings(mult), key=preference)
    single = next((u for u in ordered if splits(mult, u)), None)
    first = ordered[0]
    opposite = tuple(n - u for n, u in zip(mult, first, strict=True))
    second = next((u for u in ordered if u not in (first, opposite)), None)
    pair = [first, second] if second is not None else None
    if k == 1 or pair is None:
        if single is None:
            raise ValueError(f"no single flattening of multiplicities {tuple(mult)} breaks a symmetry; use k=2")
        return [single]
    if k == 2 or single is None:
        return pair
    reach = min(flattening_rank(dims, mult, u) for u in pair)
    return [single] if flattening_rank(dims, mult, single) >= reach else pair


def check_flattenings(mult: Sequence[int], flattenings: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Flattenings given by hand: valid copies, and either one that breaks a symmetry or two that differ."""
    chosen = [tuple(int(u) for u in left) for left in flattenings]
    for left in chosen:
        if len(left) != len(mult) or left not in all_flattenings(mult):
            raise ValueError(
                f"flattening {left} is not a choice of left copies for multiplicities {tuple(mult)}; "
                f"valid: {all_flattenings(mult)}"
            )
    if len(chosen) == 1 and splits(mult, chosen[0]):
        return chosen
    if len(chosen) == 2:
        opposite = tuple(n - u for n, u in zip(mult, chosen[0], strict=True))
        if chosen[1] not in (chosen[0], opposite):
            return chosen
    raise ValueError(
        f"flattenings {chosen} of multiplicities {tuple(mult)} neither break a symmetry nor complement each other; "
        "give one with copies of a group on both sides, or two that are neither equal nor each other's complement"
    )


def max_rank(dims: Sequence[int], mult: Sequence[int], flattenings: Sequence[Sequence[int]] | None = None) -> int:
    """Largest rank that the given (default: best) flattenings can find for generic factors."""
    chosen = best_flattenings(dims, mult) if flattenings is None else flattenings
    return max(0, min(flattening_rank(dims, mult, left) for left in chosen))


def sides(dims: Sequence[int], mult: Sequence[int], left: Sequence[int]) -> tuple[Side, Side]:
    """The left and right side of a flattening."""

    def build(copies: Sequence[int]) -> Side:
        present = [i for i, u in enumerate(copies) if u > 0]
        return Side(tuple(present), tuple(dims[i] for i in present), tuple(copies[i] for i in present))

    return build(left), build([n - u for n, u in zip(mult, left, strict=True)])


def flatten(tensor: Float[np.ndarray, ...], groups: Groups, left: Sequence[int]) -> Float[np.ndarray, "rows cols"]:
    """The flattening in compressed coordinates: one row (column) per distinct entry of a left (right) multi-index,
    scaled by the square root of its multiplicity, so that singular values equal those of the full flattening."""
    dims = [tensor.shape[group[0]] for group in groups]
    copies = [left, [len(group) - u for group, u in zip(groups, left, strict=True)]]
    modes = [[m for g, u in zip(groups, left, strict=True) for m in g[:u]]]
    modes.append([m for g, u in zip(groups, left, strict=True) for m in g[u:]])
    if max(max(side) for side in copies) <= 1:  # nothing to compress: a view where the layout allows one
        rows = prod(tensor.shape[m] for m in modes[0])
        return tensor.transpose(modes[0] + modes[1]).reshape(rows, -1)
    index: list[np.ndarray] = [np.empty(0)] * tensor.ndim
    scale = []
    for axis, (side_modes, side_copies) in enumerate(zip(modes, copies, strict=True)):
        maps = [symmetric_indices(d, u) for d, u in zip(dims, side_copies, strict=True)]
        grid = np.indices([m.size for m in maps]).reshape(len(maps), -1)
        columns = [column for m, g in zip(maps, grid, strict=True) for column in m.representatives[g].T]
        for mode, column in zip(side_modes, columns, strict=True):
            index[mode] = column[:, None] if axis == 0 else column[None, :]
        multiplicity = np.prod([m.multiplicity[g] for m, g in zip(maps, grid, strict=True)], axis=0)
        scale.append(np.sqrt(multiplicity))
    return scale[0][:, None] * tensor[tuple(index)] * scale[1][None, :]


def select_rank(
    sv: Float[np.ndarray, " s"], rule: float | str | Callable[[np.ndarray], int] = 1e-4
) -> int | Float[np.ndarray, " s"]:
    """Rank from singular values (or absolute eigenvalues), largest first.

    A number `tol` counts values above tol * sum(s^2) / sum(s), a typical size that ignores how many are zero; a
    callable maps the values to a rank; "return_sv" hands the values back for the caller to look at.
    """
    if isinstance(rule, str):
        if rule != "return_sv":
            raise ValueError(f'rank rule {rule!r} is unknown; use a tolerance, a callable or "return_sv"')
        return sv
    if callable(rule):
        return int(rule(sv))
    total = float(np.sum(sv))
    return int(np.sum(sv > rule * float(np.sum(sv**2)) / total)) if total > 0 else 0


def leading_svd(
    matrix: Float[np.ndarray, "rows cols"], rank: int
) -> tuple[Float[np.ndarray, "rows r"], Float[np.ndarray, " r"], Float[np.ndarray, "cols r"]]:
    """The `rank` leading singular triples.

    For a rank below a quarter of the short side: leading eigenvectors of the Gram matrix of that side, then one
    product with M and an SVD of the small matrix that is left, which undoes the squaring of the condition number.
    """
    rows, cols = matrix.shape
    if rows < cols:
        v, s, u = leading_svd(matrix.T, rank)
        return u, s, v
    if 4 * rank >= cols:
        u, s, v = thin_svd(matrix)
        return u[:, :rank], s[:rank], v[:, :rank]
    _, v = eigh(matrix.T @ matrix, subset_by_index=[cols - rank, cols - 1])
    q = np.linalg.qr(matrix @ v)[0]
    u, s, vt = np.linalg.svd(q.T @ matrix, full_matrices=False)
    return q @ u, s, vt.T


def thin_svd(
    matrix: Float[np.ndarray, "rows cols"],
) -> tuple[Float[np.ndarray, "rows s"], Float[np.ndarray, " s"], Float[np.ndarray, "cols s"]]:
    """M = U diag(s) V^T, by QR of the long side first where one side is less than a quarter of the other.

    (The Gram matrix would be cheaper still, but squares the condition number and loses the components whose weights
    are below 1e-8 of the largest; the QR costs about the same on sizes that fit in memory.)
    """
    rows, cols = matrix.shape
    if rows < cols:
        v, s, u = thin_svd(matrix.T)
        return u, s, v
    if rows > 4 * cols:
        q, triangle = np.linalg.qr(matrix)
        u, s, vt = np.linalg.svd(triangle)
        return q @ u, s, vt.T
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return u, s, vt.T
