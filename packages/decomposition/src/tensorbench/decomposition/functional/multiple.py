"""The Multiple format of a tensor: container, embeddings of other formats, and ranks. Fitting it is :mod:`.pals`.

"Implicit Multiple Tensor Decomposition" (arXiv 2511.09916). A tensor of order N is written with N factors of order N;
factor n is long in mode n and short elsewhere, with one short size r_m per mode m:

    X[i_1..i_N] = Σ_{p_1..p_N} Π_n A_n[p_1 .. p_{n-1}, i_n, p_{n+1} .. p_N],    p_m = 1..r_m

Index p_m is shared by all factors but the m-th. With N = 3 and equal r this is the triple decomposition; for N = 3 it
is also a tensor ring with bonds (p_2, p_3, p_1), see :meth:`MultipleTensor.to_ring`. From order 4 on every index joins
more than two factors and it is a format of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
import opt_einsum
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tensorbench.decomposition.formats import CP, TR, Tucker, _Format, as_tensor
from tensorbench.decomposition.linalg import squared_singular_values, tails


@functools.lru_cache(maxsize=256)
def contraction(shapes: tuple[tuple[int, ...], ...], out: str) -> Callable[..., Any]:
    """A compiled contraction of Multiple factors, cheapest order.

    ``out``: ``full`` (the tensor), ``points`` (every factor with a leading axis of points, one value per point), or
    ``without k``: the environment of factor k, its short axes first and then the other modes.
    """
    order = len(shapes)
    short = [opt_einsum.get_symbol(k) for k in range(order)]
    long = [opt_einsum.get_symbol(order + k) for k in range(order)]
    terms = ["".join(long[n] if m == n else short[m] for m in range(order)) for n in range(order)]
    if out == "points":
        point = opt_einsum.get_symbol(2 * order)
        terms = [point + term.replace(long[n], "") for n, term in enumerate(terms)]
        result = point
    elif out == "full":
        result = "".join(long)
    else:
        skip = int(out.split()[1])
        terms = [term for n, term in enumerate(terms) if n != skip]
        shapes = tuple(shape for n, shape in enumerate(shapes) if n != skip)
        result = "".join(axes[m] for axes in (short, long) for m in range(order) if m != skip)
    return opt_einsum.contract_expression(",".join(terms) + "->" + result, *shapes, optimize="auto")


def factor_shapes(shape: Sequence[int], ranks: Sequence[int]) -> list[tuple[int, ...]]:
    """(r_1..r_{n-1}, I_n, r_{n+1}..r_N) for every n."""
    return [tuple(size if m == n else int(r) for m, r in enumerate(ranks)) for n, size in enumerate(shape)]


def check_ranks(ranks: Sequence[int], order: int) -> tuple[int, ...]:
    """Short sizes as integers. Raises ValueError where their number is not the order or one is below 1."""
    found = tuple(ranks)
    if len(found) != order:
        raise ValueError(f"ranks {list(found)} must be one short size per mode: {order} of them")
    if any(isinstance(r, bool) or int(r) != r or r < 1 for r in found):
        raise ValueError(f"ranks {list(found)} must be whole numbers of at least 1")
    return tuple(int(r) for r in found)


@dataclass(frozen=True, eq=False)
class MultipleTensor(_Format):
    """N factors of order N; factor n has shape (r_1..r_{n-1}, I_n, r_{n+1}..r_N)."""

    factors: tuple[Float[Tensor, "..."], ...]
    kind: ClassVar[str] = "multiple"

    def __post_init__(self) -> None:
        factors = tuple(as_tensor(f) for f in self.factors)
        order = len(factors)
        if order < 2:
            raise ValueError(f"a Multiple tensor needs at least 2 factors, got {order}")
        for n, factor in enumerate(factors):
            if factor.ndim != order:
                raise ValueError(f"factor {n} has {factor.ndim} axes; {order} factors need {order} axes each")
        for m in range(order):
            sizes = {n: factor.shape[m] for n, factor in enumerate(factors) if n != m}
            if len(set(sizes.values())) > 1:
                raise ValueError(f"factors disagree about the short size of mode {m}: {sizes} (factor: size)")
        object.__setattr__(self, "factors", factors)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(f.shape[n]) for n, f in enumerate(self.factors))

    @property
    def ranks(self) -> tuple[int, ...]:
        """The short sizes r."""
        return tuple(int(self.factors[1 if m == 0 else 0].shape[m]) for m in range(len(self.factors)))

    def full(self) -> Tensor:
        return contraction(tuple(tuple(f.shape) for f in self.factors), "full")(*self.factors)

    def entry(self, idx: Int[np.ndarray, "n order"]) -> Float[Tensor, " n"]:
        """The entries at rows of indices, without the full tensor."""
        idx = np.atleast_2d(np.asarray(idx))
        if idx.shape[1] != len(self.factors):
            raise ValueError(f"idx has {idx.shape[1]} columns; expected one per mode ({len(self.factors)})")
        slices = [f.movedim(n, 0)[torch.as_tensor(idx[:, n])] for n, f in enumerate(self.factors)]
        return contraction(tuple(tuple(s.shape) for s in slices), "points")(*slices)

    def arrays(self) -> list[Tensor]:
        return list(self.factors)

    @classmethod
    def from_arrays(cls, arrays: Sequence[Any]) -> MultipleTensor:
        return cls(tuple(arrays))

    @classmethod
    def random(cls, shape: Sequence[int], ranks: Sequence[int], seed: int = 0) -> MultipleTensor:
        """Gaussian factors, scaled so that entries have unit variance."""
        ranks, rng = check_ranks(ranks, len(shape)), np.random.default_rng(seed)
        scale = prod(ranks) ** (-1 / (2 * len(shape)))
        return cls(tuple(scale * rng.standard_normal(s) for s in factor_shapes(shape, ranks)))

    @classmethod
    def from_tucker(cls, tucker: Tucker) -> MultipleTensor:
        """The same tensor: factor 1 absorbs the core, mode m > 1 keeps its rank in the short index of the next mode."""
        order, ranks = len(tucker.factors), tucker.ranks
        following = {m: m + 1 if m + 1 < order else 1 for m in range(1, order)}  # which short index carries mode m
        if order == 2:
            raise ValueError(
                "a matrix has no short index for its second mode beside its own; use an order of at least 3"
            )
        short = [1] * order
        for m, at in following.items():
            short[at] = ranks[m]
        first = torch.tensordot(tucker.factors[0], tucker.core, dims=1)  # (I_1, ranks of modes 2..N in order)
        axes = sorted(following, key=lambda m: following[m])  # factor 1 wants them by the short index that carries them
        factors = [first.permute(0, *axes).contiguous()]
        for m in range(1, order):
            factors.append(_spread(tucker.factors[m], m, (following[m],), short))
        return cls(tuple(factors))

    @classmethod
    def from_cp(cls, cp: CP) -> MultipleTensor:
        """The same tensor with short sizes (R, R, 1, .., 1), factor 3 holding the diagonal (order at least 3)."""
        order, rank = len(cp.factors), cp.rank
        if order < 3:
            raise ValueError("a matrix has too few short indices to hold a diagonal; use an order of at least 3")
        short = [rank, rank] + [1] * (order - 2)
        diagonal = torch.diag_embed(cp.factors[2])  # (I_3, R, R)
        factors = [_spread(cp.factors[0] * cp.weights, 0, (1,), short), _spread(cp.factors[1], 1, (0,), short)]
        factors.append(_spread(diagonal.reshape(cp.shape[2], -1), 2, (0, 1), short))
        factors += [_spread(cp.factors[m], m, (0,), short) for m in range(3, order)]
        return cls(tuple(factors))

    @classmethod
    def from_tt(cls, train: TR) -> MultipleTensor:
        """The same tensor for a train or ring of order at least 3: bond (k, k+1) lives in the short index k + 2."""
        order = len(train.cores)
        if order < 3:
            raise ValueError("a train of two cores has no short index beside those of its modes; use order 3 or more")
        short = [train.cores[(m - 1) % order].shape[0] for m in range(order)]  # index m carries the bond (m - 2, m - 1)
        factors = []
        for n, core in enumerate(train.cores):
            left, right = (n + 1) % order, (n + 2) % order
            matrix = core.permute(1, 0, 2) if left < right else core.permute(1, 2, 0)
            factors.append(_spread(matrix.reshape(core.shape[1], -1), n, tuple(sorted((left, right))), short))
        return cls(tuple(factors))

    def to_tensorly(self) -> Any:
        """At order 3 the ring that it is, as a `tensorly.tr_tensor.TRTensor`.

        Raises:
            ValueError: another order, for which TensorLy has no such format.
        """
        if len(self.factors) != 3:
            raise ValueError(
                f"TensorLy has no Multiple format, and only at order 3 is it a ring; this tensor has order "
                f"{len(self.factors)}: to_tucker().to_tensorly() holds the same tensor"
            )
        return self.to_ring().to_tensorly()

    @classmethod
    def from_tensorly(cls, tensor: Any) -> MultipleTensor:
        """The same tensor from a tensorly CP, Tucker, TT or TR tensor of order at least 3."""
        from tensorly.cp_tensor import CPTensor
        from tensorly.tucker_tensor import TuckerTensor

        if isinstance(tensor, CPTensor):
            return cls.from_cp(CP.from_tensorly(tensor))
        if isinstance(tensor, TuckerTensor):
            return cls.from_tucker(Tucker.from_tensorly(tensor))
        return cls.from_tt(TR.from_tensorly(tensor))

    def to_ring(self) -> TR:
        """The tensor ring that a Multiple tensor of order 3 is."""
        if len(self.factors) != 3:
            raise ValueError(f"only order 3 is a ring; this tensor has order {len(self.factors)}")
        a, b, c = self.factors
        return TR((a.permute(1, 0, 2), b.permute(2, 1, 0), c.permute(0, 2, 1)))

    def to_tucker(self) -> Tucker:
        """The same tensor as Tucker with ranks at most min(I_n, Π_{m≠n} r_m): each factor by a QR decomposition."""
        bases, small = [], []
        for n, factor in enumerate(self.factors):
            moved = factor.movedim(n, 0)
            q, r = torch.linalg.qr(moved.reshape(moved.shape[0], -1))
            bases.append(q)
            small.append(r.reshape(-1, *moved.shape[1:]).movedim(0, n))
        return Tucker(MultipleTensor(tuple(small)).full(), tuple(bases))


def _spread(matrix: Tensor, mode: int, used: Sequence[int], short: Sequence[int]) -> Tensor:
    """A factor from a matrix (I_n, the used short indices flattened), constant along the short indices not used."""
    size = [matrix.shape[0], *(short[m] for m in used)]
    at = [mode, *used]
    moved = matrix.reshape(size).permute(*np.argsort(at).tolist())
    shape = [matrix.shape[0] if m == mode else short[m] if m in used else 1 for m in range(len(short))]
    target = [matrix.shape[0] if m == mode else short[m] for m in range(len(short))]
    return moved.reshape(shape).expand(target).contiguous()


# ------------------------------------------------------------------ ranks


def num_params(shape: Sequence[int], ranks: Sequence[int]) -> int:
    """Σ_n I_n Π_{m≠n} r_m."""
    return sum(prod(s) for s in factor_shapes(shape, ranks))


def rank_bounds(X: Float[np.ndarray, "..."], tol: float = 1e-10) -> tuple[int, ...]:
    """rank(X_(n)) for each n: any r with X exactly of Multiple form has Π_{m≠n} r_m ≥ rank(X_(n))."""
    found = []
    for n in range(X.ndim):
        values = squared_singular_values(X, n, method="svd")
        found.append(int((values > (tol**2) * values[0]).sum()))
    return tuple(found)


def select_ranks(X: Float[np.ndarray, "..."], budget: int, largest: int = 40) -> tuple[int, ...]:
    """Short sizes within ``budget`` parameters by a heuristic: least energy outside the ranks that they allow.

    A Multiple tensor has multilinear rank at most (Π_{m≠n} r_m)_n, so Σ_n (tail energy of X_(n) beyond it) bounds the
    error of what can be reached from below (up to N). Among equals: smallest sum of r, then the first in order.

    Raises:
        ValueError: even (1, .., 1) exceeds the budget.
    """
    if budget < sum(X.shape):
        raise ValueError(f"budget {budget} is below the {sum(X.shape)} parameters of r = (1, .., 1)")
    left = [tails(squared_singular_values(X, n)) for n in range(X.ndim)]
    best, chosen = None, (1,) * X.ndim

    def candidates(prefix: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(prefix) == X.ndim:
            yield prefix
            return
        for r in range(1, largest + 1):
            if num_params(X.shape, (*prefix, r, *[1] * (X.ndim - len(prefix) - 1))) > budget:
                break
            yield from candidates((*prefix, r))

    for ranks in candidates(()):
        lost = sum(tail[min(X.shape[n], prod(ranks) // ranks[n])] for n, tail in enumerate(left))
        key = (round(lost / left[0][0], 12), sum(ranks), ranks)
        if best is None or key < best:
            best, chosen = key, ranks
    return chosen
