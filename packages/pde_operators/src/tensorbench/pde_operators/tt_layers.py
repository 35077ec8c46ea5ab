"""A linear layer whose matrix is a tensor train, for one matrix or for a stack of them.

The matrix W with M = m_1 ... m_d rows (inputs) and N = n_1 ... n_d columns (outputs) is

    W[(i_1 ... i_d), (j_1 ... j_d)] = G_1[:, i_1, j_1, :] G_2[:, i_2, j_2, :] ... G_d[:, i_d, j_d, :],

with cores G_t of shape (r_{t-1}, m_t, n_t, r_t), r_0 = r_d = 1, and row-major indices (Novikov, Podoprikhin, Osokin,
Vetrov 2015, arXiv 1509.06569; used by Wagner 2023, arXiv 2312.14979). A product x W can be taken core by core, or with
the cores first multiplied to a left and a right half; which is cheaper depends on the batch, and :func:`plan` counts
the multiplications of each. The full matrix is formed only where that is cheapest and the matrix is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

Kind = Literal["forward", "backward", "halves", "dense"]
DENSE_LIMIT = 2**20  # entries (4 MiB in float32) up to which the full matrices may be formed
_CHOICES = ("auto", "forward", "backward", "halves", "dense")
Initializer = Callable[[tuple[int, ...], torch.Generator | None], Tensor]


@dataclass(frozen=True)
class Plan:
    """An order of contraction: core by core (``forward``, ``backward``), in ``halves`` cut before core ``cut`` with the
    right or the left half applied first, or ``dense``; ``macs`` multiplications for the batch that it was made for."""

    kind: Kind
    macs: int
    cut: int = 0
    right_first: bool = True


def check_modes(in_modes: Sequence[int], out_modes: Sequence[int], ranks: Sequence[int]) -> None:
    """ValueError unless there is one output mode for each input mode and ranks 1, r_1, ..., 1, all at least 1."""
    if len(in_modes) != len(out_modes) or not in_modes:
        raise ValueError(
            f"in_modes {list(in_modes)} and out_modes {list(out_modes)} must have the same length, at least 1"
        )
    if len(ranks) != len(in_modes) + 1:
        raise ValueError(f"ranks {list(ranks)} must have {len(in_modes) + 1} entries for {len(in_modes)} cores")
    if ranks[0] != 1 or ranks[-1] != 1:
        raise ValueError(f"ranks {list(ranks)} must start and end with 1")
    for name, numbers in (("in_modes", in_modes), ("out_modes", out_modes), ("ranks", ranks)):
        if any(n != int(n) or n < 1 for n in numbers):
            raise ValueError(f"{name} {list(numbers)} must be whole numbers of at least 1")


def factor_modes(size: int, parts: int) -> tuple[int, ...]:
    """``size`` as a product of ``parts`` nearly equal factors, largest first: 512 in 5 gives (4, 4, 4, 4, 2)."""
    if size < 1 or parts < 1:
        raise ValueError(f"size {size} and parts {parts} must be at least 1")
    primes, rest, p = [], size, 2
    while rest > 1:
        while rest % p == 0:
            primes.append(p)
            rest //= p
        p += 1
    modes = [1] * parts
    for prime in sorted(primes, reverse=True):
        smallest = min(range(parts), key=lambda k: modes[k])
        modes[smallest] *= prime
    return tuple(sorted(modes, reverse=True))


def bounded_ranks(in_modes: Sequence[int], out_modes: Sequence[int], rank: int) -> tuple[int, ...]:
    """The ranks 1, ..., 1 of which none exceeds ``rank`` or what the matrix can have at that place."""
    both = [m * n for m, n in zip(in_modes, out_modes, strict=True)]
    return tuple(min(rank, math.prod(both[:t]), math.prod(both[t:])) for t in range(len(both) + 1))


def tt_parameters(in_modes: Sequence[int], out_modes: Sequence[int], ranks: Sequence[int]) -> int:
    """Numbers in the cores of one matrix."""
    check_modes(in_modes, out_modes, ranks)
    return sum(a * m * n * b for a, m, n, b in zip(ranks, in_modes, out_modes, ranks[1:], strict=False))


def _block_macs(in_modes: Sequence[int], out_modes: Sequence[int], ranks: Sequence[int]) -> int:
    """Multiplications that merge neighbouring cores into one, from the left."""
    size, total = ranks[0] * in_modes[0] * out_modes[0], 0
    for t in range(1, len(in_modes)):
        size *= in_modes[t] * out_modes[t]
        total += size * ranks[t] * ranks[t + 1]
    return total


@lru_cache(maxsize=1024)
def plan(
    in_modes: tuple[int, ...], out_modes: tuple[int, ...], ranks: tuple[int, ...], batch: int, want: str = "auto"
) -> Plan:
    """The cheapest order of contraction for one matrix and a batch; ``want`` restricts the search to one kind.

    ``auto`` leaves ``dense`` out where the matrix has more than ``DENSE_LIMIT`` entries.
    """
    if want not in _CHOICES:
        raise ValueError(unknown("plan", want, _CHOICES))
    check_modes(in_modes, out_modes, ranks)
    d, M, N = len(in_modes), math.prod(in_modes), math.prod(out_modes)
    plans = []
    forward = backward = 0
    for t in range(d):
        core = ranks[t] * in_modes[t] * out_modes[t] * ranks[t + 1]
        forward += batch * math.prod(out_modes[:t]) * math.prod(in_modes[t + 1 :]) * core
        backward += batch * math.prod(in_modes[:t]) * math.prod(out_modes[t + 1 :]) * core
    plans += [Plan("forward", forward), Plan("backward", backward)]
    for cut in range(1, d):
        merging = _block_macs(in_modes[:cut], out_modes[:cut], ranks[: cut + 1])
        merging += _block_macs(in_modes[cut:], out_modes[cut:], ranks[cut:])
        m1, n1, r = math.prod(in_modes[:cut]), math.prod(out_modes[:cut]), ranks[cut]
        m2, n2 = M // m1, N // n1
        right = batch * (m1 * m2 * r * n2 + m1 * r * n1 * n2)
        left = batch * (m1 * m2 * n1 * r + n1 * r * m2 * n2)
        plans += [Plan("halves", merging + right, cut, True), Plan("halves", merging + left, cut, False)]
        if want == "dense" or M * N <= DENSE_LIMIT:
            plans.append(Plan("dense", merging + M * N * r + batch * M * N, cut))
    if d == 1:
        plans.append(Plan("dense", batch * M * N, 0))
    allowed = [p for p in plans if want in ("auto", p.kind)]
    if not allowed:
        raise ValueError(f"plan {want!r} needs at least two cores")
    return min(allowed, key=lambda p: p.macs)


def _merge(cores: Sequence[Float[Tensor, "k _ _ _ _"]]) -> Float[Tensor, "k _ _ _ _"]:
    """The cores from one to the next multiplied to one."""
    merged = cores[0]
    for core in cores[1:]:
        merged = torch.einsum("kamnb,kbpqc->kampnqc", merged, core).flatten(2, 3).flatten(3, 4)
    return merged


def tt_dense(cores: Sequence[Float[Tensor, "k _ _ _ _"]]) -> Float[Tensor, "k M N"]:
    """The full matrices of a stack of trains."""
    return _merge(cores)[:, 0, :, :, 0]


def tt_apply(
    cores: Sequence[Float[Tensor, "k _ _ _ _"]], x: Float[Tensor, "b k M"], *, total: bool = False, want: str = "auto"
) -> Float[Tensor, "b *kn"]:
    """x W for each of the k matrices, (b, k, N), or with ``total`` their sum over k, (b, N).

    ``want`` is ``auto`` or a kind of :class:`Plan`. The sum is part of the last multiplication in halves.
    """
    in_modes, out_modes = tuple(c.shape[2] for c in cores), tuple(c.shape[3] for c in cores)
    ranks = (*(c.shape[1] for c in cores), cores[-1].shape[4])
    (b, k, M), N = x.shape, math.prod(out_modes)
    order = plan(in_modes, out_modes, ranks, b, want)
    if order.kind == "dense":
        matrices = tt_dense(cores)
        return x.flatten(1) @ matrices.flatten(0, 1) if total else torch.einsum("bkm,kmn->bkn", x, matrices)
    if order.kind == "halves":
        left, right = _merge(cores[: order.cut])[:, 0], _merge(cores[order.cut :])[..., 0]
        state = x.reshape(b, k, left.shape[1], right.shape[2])
        out = "bnq" if total else "bknq"
        if order.right_first:
            state = torch.einsum("bkmp,krpq->bkmrq", state, right)
            return torch.einsum(f"bkmrq,kmnr->{out}", state, left).flatten(-2)
        state = torch.einsum("bkmp,kmnr->bknrp", state, left)
        return torch.einsum(f"bknrp,krpq->{out}", state, right).flatten(-2)
    if order.kind == "forward":
        state = x.reshape(b, k, 1, 1, M)  # batch, matrix, outputs so far, rank, inputs to come
        for core in cores:
            state = state.reshape(b, k, state.shape[2], core.shape[1], core.shape[2], -1)
            state = torch.einsum("bkormi,krmns->bkonsi", state, core).flatten(2, 3)
    else:
        state = x.reshape(b, k, M, 1, 1)  # inputs to come, rank, outputs so far
        for core in reversed(cores):
            state = state.reshape(b, k, -1, core.shape[2], core.shape[4], state.shape[4])
            state = torch.einsum("bkimso,krmns->bkirno", state, core).flatten(4, 5)
    state = state.reshape(b, k, N)
    return state.sum(dim=1) if total else state


def glorot(in_modes: Sequence[int], out_modes: Sequence[int], ranks: Sequence[int]) -> Initializer:
    """Gaussian cores such that the entries of the matrix have the variance 2 / (M + N) of Glorot and Bengio (2010)."""
    d = len(in_modes)
    variance = 2.0 / (math.prod(in_modes) + math.prod(out_modes))
    scale = (variance / math.prod(ranks)) ** (1 / (2 * d))  # an entry sums prod(ranks) products of d numbers

    def draw(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    return draw


class TTMatrixLayer(nn.Module):
    """y = x W (+ bias) with W a tensor train, or with ``copies=K`` y_k = x_k W_k for a stack of K.

    Args:
        in_modes, out_modes: m_t and n_t; their products are the numbers of inputs and outputs.
        ranks: d + 1 of them, 1 at both ends.
        copies: None for one matrix (input (..., M), output (..., N)); K for a stack ((..., K, M) and (..., K, N)).
        initializer: ``draw(shape, generator)`` for each core; default :func:`glorot`.
        generator: of the initial cores.
        order: ``auto`` or a kind of :class:`Plan`; the result is the same, the cost is not.

    Raises:
        ValueError: modes or ranks that do not fit together (see :func:`check_modes`).
    """

    def __init__(
        self,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        ranks: Sequence[int],
        *,
        copies: int | None = None,
        initializer: Initializer | None = None,
        bias: bool = False,
        generator: torch.Generator | None = None,
        order: str = "auto",
    ) -> None:
        super().__init__()
        check_modes(in_modes, out_modes, ranks)
        if order not in _CHOICES:
            raise ValueError(unknown("order", order, _CHOICES))
        if copies is not None and copies < 1:
            raise ValueError(f"copies {copies} must be at least 1, or None for one matrix")
        self.in_modes, self.out_modes, self.ranks = tuple(in_modes), tuple(out_modes), tuple(ranks)
        self.inputs, self.outputs = math.prod(in_modes), math.prod(out_modes)
        self.copies, self.order = copies, order
        draw = initializer or glorot(in_modes, out_modes, ranks)
        self.cores = nn.ParameterList(
            nn.Parameter(draw((copies or 1, a, m, n, b), generator))
            for a, m, n, b in zip(self.ranks, self.in_modes, self.out_modes, self.ranks[1:], strict=False)
        )
        self.bias = nn.Parameter(torch.zeros(self.outputs)) if bias else None

    def forward(self, x: Float[Tensor, "... M"], total: bool = False) -> Float[Tensor, "... N"]:
        """With ``total`` the sum over the copies: the input is (..., K, M) and the output (..., N)."""
        if x.shape[-1] != self.inputs:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: the last axis must be {self.inputs} = product of {self.in_modes}"
            )
        if total and self.copies is None:
            raise ValueError("total=True sums over copies, and this layer has one matrix")
        if self.copies is not None and (x.ndim < 2 or x.shape[-2] != self.copies):
            raise ValueError(
                f"input of shape {tuple(x.shape)}: the axis before the last must be the {self.copies} copies"
            )
        lead = x.shape[:-1] if self.copies is None else x.shape[:-2]
        y = tt_apply(list(self.cores), x.reshape(-1, self.copies or 1, self.inputs), total=total, want=self.order)
        y = y.reshape(*lead, *(() if total or self.copies is None else (self.copies,)), self.outputs)
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def to_dense(self) -> Float[Tensor, "*k M N"]:
        """The matrix, or the stack of them, for tests and inspection."""
        dense = tt_dense(list(self.cores))
        return dense[0] if self.copies is None else dense

    @classmethod
    def from_dense(
        cls, W: Float[Tensor, "M N"], in_modes: Sequence[int], out_modes: Sequence[int], ranks: Sequence[int]
    ) -> TTMatrixLayer:
        """TT-SVD of a matrix (Oseledets 2011): exact where the ranks allow it; ranks above the possible are lowered."""
        check_modes(in_modes, out_modes, ranks)
        if tuple(W.shape) != (math.prod(in_modes), math.prod(out_modes)):
            raise ValueError(
                f"W of shape {tuple(W.shape)} is not {math.prod(in_modes)} x {math.prod(out_modes)}, the products of "
                f"{list(in_modes)} and {list(out_modes)}"
            )
        d = len(in_modes)
        pairs = [axis for t in range(d) for axis in (t, d + t)]
        rest = W.detach().reshape(*in_modes, *out_modes).permute(pairs).reshape(1, -1)
        cores, found = [], [1]
        for t in range(d - 1):
            U, s, Vh = torch.linalg.svd(rest.reshape(found[-1] * in_modes[t] * out_modes[t], -1), full_matrices=False)
            r = min(ranks[t + 1], len(s))
            cores.append(U[:, :r].reshape(found[-1], in_modes[t], out_modes[t], r))
            found.append(r)
            rest = s[:r, None] * Vh[:r]
        cores.append(rest.reshape(found[-1], in_modes[-1], out_modes[-1], 1))
        layer = cls(in_modes, out_modes, [*found, 1]).to(W)
        with torch.no_grad():
            for parameter, core in zip(layer.cores, cores, strict=True):
                parameter.copy_(core[None])
        return layer

    def macs(self, batch: int = 1) -> int:
        """Multiplications of a forward pass on a batch."""
        return (self.copies or 1) * plan(self.in_modes, self.out_modes, self.ranks, batch, self.order).macs
