"""Shifted power method in a linear space of partially symmetric tensors, many starts at once.

Given an orthonormal basis V of a space of tensors, find unit vectors x_1, ..., x_l maximising

    f(x) = | V^T (x_1^(u_1) (x) ... (x) x_l^(u_l)) |^2,

the squared length of the projection of a rank-one tensor onto the space; f = 1 exactly where the rank-one tensor lies
in it. One block (u = n) is the subspace power method (Kileel, Pereira, arXiv 1912.04007, algorithm 1); several blocks
give the partially symmetric singular vector tuples of the multi-subspace power method (arXiv 2510.18627). A block with
u > 1 moves along y + c x, y = V V^T applied to all but one copy, with the adaptive shift of lemma 4.7 of 1912.04007

    c = sqrt(1 - 1/u) * ( sqrt(2 f (1 - f))  if f > 2/3,  else  1 - f/2 ),

which makes f rise at every step; a block with u = 1 needs no shift.

Starts are columns: the two products with V are matrix-matrix products, and columns leave the batch as they converge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb, prod

import numpy as np
from jaxtyping import Bool, Float, Int

from tensorbench.decomposition.cp.symmetric import contract, monomials

_ROUNDING_FLOOR = 1e-13  # steps this small that no longer shrink are rounding, not progress
_PATIENCE = 5


@dataclass(frozen=True)
class Side:
    """One side of a flattening: the groups of modes on it, their dimensions and how many copies of each."""

    groups: tuple[int, ...]
    dims: tuple[int, ...]
    copies: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(comb(d + u - 1, u) for d, u in zip(self.dims, self.copies, strict=True))

    @property
    def size(self) -> int:
        return prod(self.sizes)

    def rank_one(self, xs: Sequence[Float[np.ndarray, "_ batch"]]) -> Float[np.ndarray, "size batch"]:
        """Compressed coordinates of x_1^(u_1) (x) ... (x) x_l^(u_l), one column per start."""
        result = monomials(xs[0], self.copies[0])
        for x, u in zip(xs[1:], self.copies[1:], strict=True):
            power = monomials(x, u)
            result = (result[:, None, :] * power[None, :, :]).reshape(-1, result.shape[1])
        return result

    def partial(
        self, v: Float[np.ndarray, "size batch"], xs: Sequence[Float[np.ndarray, "_ batch"]], block: int
    ) -> Float[np.ndarray, "d batch"]:
        """Contract into v all vectors but one copy of x_block: the gradient of <v, rank_one(xs)> / u_block."""
        before, after = prod(self.sizes[:block]), prod(self.sizes[block + 1 :])
        cube = v.reshape(before, self.sizes[block], after, v.shape[1])
        if block > 0:
            left = Side(self.groups[:block], self.dims[:block], self.copies[:block]).rank_one(xs[:block])
            cube = np.einsum("anbs,as->nbs", cube, left)[None]
        if block + 1 < len(self.dims):
            rest = slice(block + 1, None)
            right = Side(self.groups[rest], self.dims[rest], self.copies[rest]).rank_one(xs[rest])
            cube = np.einsum("anbs,bs->ans", cube, right)[:, :, None]
        return contract(cube[0, :, 0], xs[block], self.copies[block])


@dataclass
class PowerResult:
    """Where each start ended. `objective` is f at the returned point; `history` (if asked for) f before every update
    of a block, then the final f."""

    vectors: list[Float[np.ndarray, "_ batch"]]
    objective: Float[np.ndarray, " batch"]
    iterations: Int[np.ndarray, " batch"]
    converged: Bool[np.ndarray, " batch"]
    redraws: int = 0
    history: list[np.ndarray] = field(default_factory=list)


def adaptive_shift(f: Float[np.ndarray, ...], copies: int) -> Float[np.ndarray, ...]:
    """The smallest known shift that keeps f rising, see the module docstring; 0 for a block with one copy."""
    f = np.clip(f, 0.0, 1.0)  # rounding can push f above 1
    return np.sqrt(1 - 1 / copies) * np.where(f > 2 / 3, np.sqrt(2 * f * (1 - f)), 1 - f / 2)


def random_unit(dim: int, batch: int, generator: np.random.Generator) -> Float[np.ndarray, "d batch"]:
    """Columns uniform on the unit sphere."""
    x = generator.standard_normal((dim, batch))
    return x / np.linalg.norm(x, axis=0)


def objective(V: Float[np.ndarray, "size k"], side: Side, xs: Sequence[np.ndarray]) -> Float[np.ndarray, " batch"]:
    """f for every column of xs (unit columns)."""
    return np.sum((V.T @ side.rank_one(xs)) ** 2, axis=0)


def subspace_power(
    V: Float[np.ndarray, "size k"],
    side: Side,
    starts: Sequence[Float[np.ndarray, "_ batch"]],
    *,
    maxiter: int = 5000,
    gradtol: float = 1e-14,
    restol: float = 0.0,
    adaptive: bool = True,
    generator: np.random.Generator | None = None,
    frozen: Sequence[int] = (),
    leave: float = 0.0,
    history: bool = False,
) -> PowerResult:
    """Run the shifted block power method from all starts until every column moves less than `gradtol`.

    `restol`: a column whose f is below it is drawn anew (it is nearly orthogonal to the space; needs `generator`).
    `frozen`: blocks that stay as they are. `leave`: stop once no more than this share of the starts is still moving
    (those come back with converged = False). `adaptive=False` uses the fixed shift sqrt(1 - 1/u).
    """
    xs = [np.array(x, dtype=np.float64) for x in starts]
    batch = xs[0].shape[1]
    blocks = [i for i in range(len(xs)) if i not in frozen]
    final = [x.copy() for x in xs]
    iterations, converged = np.zeros(batch, dtype=np.int64), np.zeros(batch, dtype=bool)
    active, redraws, records = np.arange(batch), 0, []
    best_step, idle = np.full(batch, np.inf), np.zeros(batch, dtype=np.int64)
    for _ in range(maxiter):
        moved = np.zeros(len(active))
        weak = np.zeros(len(active), dtype=bool)
        for i in blocks:
            coordinates = V.T @ side.rank_one(xs)
            f = np.einsum("ks,ks->s", coordinates, coordinates)
            if history:
                records.append(f.copy())
            y = side.partial(V @ coordinates, xs, i)
            if side.copies[i] > 1:
                y += (adaptive_shift(f, side.copies[i]) if adaptive else np.sqrt(1 - 1 / side.copies[i])) * xs[i]
            norm = np.linalg.norm(y, axis=0)
            weak |= (f < restol) | (norm == 0)
            y /= np.where(norm > 0, norm, 1.0)
            moved += np.einsum("ds,ds->s", y - xs[i], y - xs[i])
            xs[i] = y
        iterations[active] += 1
        if weak.any() and generator is not None:
            for i in blocks:
                xs[i][:, weak] = random_unit(side.dims[i], int(weak.sum()), generator)
            redraws += int(weak.sum())
            moved[weak] = np.inf
        step = np.sqrt(moved)
        shrinks = step < best_step[active]
        best_step[active] = np.minimum(best_step[active], step)
        idle[active] = np.where(shrinks, 0, idle[active] + 1)
        done = (step < gradtol) | ((step < _ROUNDING_FLOOR) & (idle[active] >= _PATIENCE))
        if done.any():
            for x, out in zip(xs, final, strict=True):
                out[:, active[done]] = x[:, done]
            converged[active[done]] = True
            keep = ~done
            xs, active = [x[:, keep] for x in xs], active[keep]
        if len(active) <= leave * batch:
            break
    for x, out in zip(xs, final, strict=True):
        out[:, active] = x
    f = objective(V, side, final)
    if history:
        records.append(f)
    return PowerResult(final, f, iterations, converged, redraws, records)
