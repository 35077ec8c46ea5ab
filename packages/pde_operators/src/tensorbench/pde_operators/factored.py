"""Complex spectral weights in CP, Tucker and tensor-train form: their ranks, slices, and contractions with a field.

Kossaifi, Kovachki, Azizzadenesheli, Anandkumar, "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution
PDEs", TMLR 2024, arXiv 2310.00120. (Details follow the reference library; of the paper the abstract was at hand.)

A Fourier layer multiplies the coefficient of every mode by a matrix from input to output channels: y[b,o,m] =
Σᵢ x[b,i,m] W[i,o,m]. W is a tensor of modes (in, out, m₁, …, m_d) and is kept as

* CP:     W = Σᵣ λᵣ A[i,r] B[o,r] F₁[m₁,r] … F_d[m_d,r],
* Tucker: W = G ×₀ A ×₁ B ×₂ F₁ …,
* TT:     W = A[i,r₁] B[r₁,o,r₂] F₁[r₂,m₁,r₃] … F_d[r_{d+1},m_d].

``contract`` goes factor by factor: the field's channels first, then the modes, then the output channels; W itself is
never built. ``row`` fixes the first index using nothing but the factors, which is how a layer is taken out of a tensor
that all layers share.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor, nn

from tensorbench.core.errors import unknown

FORMATS = ("cp", "tucker", "tt")
Rank = int | float | Sequence[int]


# --- ranks ---------------------------------------------------------------------------------------------------------


def rank_from_ratio(
    shape: Sequence[int], factorization: str, ratio: float, fixed_modes: Sequence[int] = ()
) -> int | tuple[int, ...]:
    """The rank whose factors hold about ``ratio`` of the full tensor's entries, by tensorly's rules.

    CP: one number. Tucker: one number a mode, proportional to its size (``fixed_modes`` keep their size). TT: d + 1
    numbers, proportional to the mean of the neighbouring sizes.

    Raises:
        ValueError: an unknown format, a ratio outside (0, 1], or Tucker modes that are all fixed.
    """
    if factorization not in FORMATS:
        raise ValueError(unknown("factorization", factorization, FORMATS))
    if not 0 < ratio <= 1:
        raise ValueError(f"rank {ratio} is a share of the full weights and must be in (0, 1]; give whole ranks as int")
    size = math.prod(shape)
    if factorization == "cp":
        return max(int(np.round(size * ratio / sum(shape))), 1)
    if factorization == "tt":
        return _tt_rank(shape, size * ratio)
    free = [s for k, s in enumerate(shape) if k not in fixed_modes]
    if not free:
        raise ValueError(f"every mode of {tuple(shape)} is fixed; leave one whose rank a ratio can set")
    slope = sum(s * s for s in free) + sum(shape[k] ** 2 for k in fixed_modes)

    def excess(share: float) -> float:
        return size * share ** len(free) + slope * share - ratio * size

    from scipy.optimize import brentq

    share = float(brentq(excess, 0.0, 1.0))
    return tuple(s if k in fixed_modes else max(int(np.round(s * share)), 1) for k, s in enumerate(shape))


def _tt_rank(shape: Sequence[int], entries: float) -> tuple[int, ...]:
    """Ranks c (s_k + s_{k+1}) / 2 with c the positive root of a c² + b c = entries."""
    mean = [(p + q) / 2 for p, q in itertools.pairwise(shape)]
    inner = sum(mean[k - 1] * shape[k] * mean[k] for k in range(1, len(shape) - 1))
    inner = inner or mean[0] ** 2 * shape[0]  # a matrix
    outer = shape[0] * mean[0] + shape[-1] * mean[-1]
    share = (-outer + math.sqrt(outer**2 + 4 * inner * entries)) / (2 * inner)
    return (1, *(max(int(np.round(m * share)), 1) for m in mean), 1)


def _whole_ranks(shape: Sequence[int], factorization: str, rank: Rank, fixed: Sequence[int]) -> int | tuple[int, ...]:
    if isinstance(rank, float):
        return rank_from_ratio(shape, factorization, rank, fixed)
    d = len(shape)
    if factorization == "cp":
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"rank {rank!r} of a CP form must be one whole number of at least 1, or a share in (0, 1]")
        return rank
    if isinstance(rank, int):
        whole = (rank,) * d if factorization == "tucker" else (1, *(rank,) * (d - 1), 1)
        whole = tuple(shape[k] if factorization == "tucker" and k in fixed else r for k, r in enumerate(whole))
    else:
        whole = tuple(int(r) for r in rank)
    expected = d if factorization == "tucker" else d + 1
    if len(whole) != expected or min(whole) < 1 or (factorization == "tt" and (whole[0], whole[-1]) != (1, 1)):
        raise ValueError(
            f"rank {whole} does not fit a {factorization} form of shape {tuple(shape)}: "
            f"{expected} numbers of at least 1" + (", the first and last 1" if factorization == "tt" else "")
        )
    return whole


# --- the forms -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dense:
    """The whole tensor (in, out, *modes)."""

    tensor: Complex[Tensor, "..."]

    def full(self) -> Tensor:
        return self.tensor

    def row(self, index: int) -> Dense:
        return Dense(self.tensor[index])

    def keep(self, slices: Sequence[slice], first: int) -> Dense:
        return Dense(self.tensor[(slice(None),) * first + tuple(slices)])

    def contract(self, x: Complex[Tensor, "batch cin *modes"]) -> Complex[Tensor, "batch cout *modes"]:
        return _mix(x, self.tensor)

    def map(self, change: Callable[[Tensor], Tensor]) -> Dense:
        """``change`` applied to every part."""
        return Dense(change(self.tensor))


@dataclass(frozen=True)
class CP:
    """λ (rank) and one factor (size, rank) a mode."""

    weights: Tensor
    factors: tuple[Tensor, ...]

    def full(self) -> Tensor:
        half = (len(self.factors) + 1) // 2
        left, right = self.weights * khatri_rao(self.factors[:half]), khatri_rao(self.factors[half:])
        return (left @ right.T).reshape(*(f.shape[0] for f in self.factors))

    def row(self, index: int) -> CP:
        return CP(self.weights * self.factors[0][index], self.factors[1:])

    def keep(self, slices: Sequence[slice], first: int) -> CP:
        kept = tuple(f[s] for f, s in zip(self.factors[first:], slices, strict=True))
        return CP(self.weights, self.factors[:first] + kept)

    def contract(self, x: Complex[Tensor, "batch cin *modes"]) -> Complex[Tensor, "batch cout *modes"]:
        cin, cout, *modes = self.factors
        table = (self.weights * khatri_rao(modes)).T
        batch, _, *sizes = x.shape
        z = torch.matmul(cin.T, x.flatten(2)) * table
        return torch.matmul(cout, z).reshape(batch, cout.shape[0], *sizes)

    def map(self, change: Callable[[Tensor], Tensor]) -> CP:
        return CP(change(self.weights), tuple(map(change, self.factors)))


@dataclass(frozen=True)
class Tucker:
    """A core and one factor (size, rank) a mode."""

    core: Tensor
    factors: tuple[Tensor, ...]

    def full(self) -> Tensor:
        return _mode_products(self.core, self.factors, 0)

    def row(self, index: int) -> Tucker:
        return Tucker(torch.tensordot(self.factors[0][index], self.core, dims=1), self.factors[1:])

    def keep(self, slices: Sequence[slice], first: int) -> Tucker:
        kept = tuple(f[s] for f, s in zip(self.factors[first:], slices, strict=True))
        return Tucker(self.core, self.factors[:first] + kept)

    def contract(self, x: Complex[Tensor, "batch cin *modes"]) -> Complex[Tensor, "batch cout *modes"]:
        cin, cout, *modes = self.factors
        batch, _, *sizes = x.shape
        z = torch.matmul(cin.T, x.flatten(2)).reshape(batch, cin.shape[1], *sizes)
        z = _mix(z, _mode_products(self.core, modes, 2))  # (rank in, rank out, *modes): small where ranks are
        return torch.matmul(cout, z.flatten(2)).reshape(batch, cout.shape[0], *sizes)

    def map(self, change: Callable[[Tensor], Tensor]) -> Tucker:
        return Tucker(change(self.core), tuple(map(change, self.factors)))


@dataclass(frozen=True)
class TT:
    """Cores (rank, size, next rank), the first and last rank 1."""

    cores: tuple[Tensor, ...]

    def full(self) -> Tensor:
        table = self.cores[0]
        for core in self.cores[1:]:
            table = torch.tensordot(table, core, dims=1)
        return table.squeeze(0).squeeze(-1)

    def row(self, index: int) -> TT:
        head, following, *rest = self.cores
        return TT((torch.tensordot(head[:, index], following, dims=1), *rest))

    def keep(self, slices: Sequence[slice], first: int) -> TT:
        kept = tuple(c[:, s] for c, s in zip(self.cores[first:], slices, strict=True))
        return TT(self.cores[:first] + kept)

    def contract(self, x: Complex[Tensor, "batch cin *modes"]) -> Complex[Tensor, "batch cout *modes"]:
        cin, cout, *modes = self.cores
        batch, _, *sizes = x.shape
        z = torch.matmul(cin[0].T, x.flatten(2)).reshape(batch, cin.shape[2], *sizes)
        table = modes[0]
        for core in modes[1:]:
            table = torch.tensordot(table, core, dims=1)
        return _mix(z, torch.tensordot(cout, table.squeeze(-1), dims=1))

    def map(self, change: Callable[[Tensor], Tensor]) -> TT:
        return TT(tuple(map(change, self.cores)))


Form = Dense | CP | Tucker | TT


def khatri_rao(factors: Sequence[Tensor]) -> Tensor:
    """Row (i, j, …) of the result is the entrywise product of row i of the first factor, row j of the second, …"""
    table = factors[0]
    for factor in factors[1:]:
        table = (table.unsqueeze(1) * factor).flatten(0, 1)
    return table


def _mode_products(core: Tensor, factors: Sequence[Tensor], first: int) -> Tensor:
    """core ×_first F₀ ×_{first+1} F₁ …; every product moves its axis to the end, so that they come out in order."""
    for factor in factors:
        core = torch.tensordot(core, factor, dims=([first], [1]))
    return core


def _mix(x: Tensor, table: Tensor) -> Tensor:
    """Σᵢ x[b,i,m] table[i,o,m]: one small matrix product a mode, in real numbers, which run faster in batches.

    (xʳ, xⁱ) times the blocks [[Wʳ, Wⁱ], [-Wⁱ, Wʳ]], of which the second row of blocks is i W.
    """
    sizes, (batch, cin), cout = x.shape[2:], x.shape[:2], table.shape[1]
    left = torch.view_as_real(x.flatten(2)).permute(2, 0, 1, 3).reshape(-1, batch, 2 * cin)
    flat = table.flatten(2)
    blocks = torch.view_as_real(torch.stack([flat, 1j * flat], dim=1))  # in, part, out, mode, part
    right = blocks.permute(3, 0, 1, 2, 4).reshape(-1, 2 * cin, 2 * cout)
    y = torch.view_as_complex(torch.bmm(left, right).reshape(-1, batch, cout, 2))
    return y.permute(1, 2, 0).reshape(batch, cout, *sizes)


# --- parameters ----------------------------------------------------------------------------------------------------


class SpectralWeights(nn.Module):
    """Trainable complex weights of a shape, dense or factored, as real parameters (…, 2) that any optimizer takes.

    Args:
        shape: (in, out, *modes), or with a first mode for all layers.
        factorization: None, ``cp``, ``tucker`` or ``tt``.
        rank: a share of the full entries (float), or whole ranks (int, or one number a mode).
        fixed_modes: of a Tucker form, modes that keep their size.
        std: standard deviation of the full tensor's entries at the start, E|W|² = std², whatever the form.
            (tensorly-torch starts tensor trains smaller, by the root of the product of the ranks.)
    """

    def __init__(
        self,
        shape: Sequence[int],
        factorization: str | None = None,
        rank: Rank = 0.1,
        *,
        std: float = 1.0,
        fixed_modes: Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if factorization is not None and factorization not in FORMATS:
            raise ValueError(unknown("factorization", factorization, FORMATS))
        self.shape, self.factorization = tuple(shape), factorization
        self.rank = None if factorization is None else _whole_ranks(shape, factorization, rank, fixed_modes)
        shapes, scale = _parts(self.shape, factorization, self.rank, std)
        parts = [torch.randn(*s, 2, generator=generator) * (scale / math.sqrt(2)) for s in shapes]
        if factorization == "cp":
            parts[0] = torch.stack([torch.ones(shapes[0]), torch.zeros(shapes[0])], dim=-1)
        self.parts = nn.ParameterList(parts)

    @property
    def form(self) -> Form:
        """The complex tensors behind the parameters."""
        parts = tuple(torch.view_as_complex(p) for p in self.parts)
        if self.factorization is None:
            return Dense(parts[0])
        if self.factorization == "cp":
            return CP(parts[0], parts[1:])
        return Tucker(parts[0], parts[1:]) if self.factorization == "tucker" else TT(parts)

    def full(self) -> Complex[Tensor, "..."]:
        """The tensor that the factors stand for."""
        return self.form.full()

    @torch.no_grad()
    def assign(self, form: Form) -> None:
        """Take over the values of a form of the same ranks."""
        values = {Dense: lambda f: (f.tensor,), CP: lambda f: (f.weights, *f.factors), TT: lambda f: f.cores,
                  Tucker: lambda f: (f.core, *f.factors)}[type(form)](form)  # fmt: skip
        for parameter, value in zip(self.parts, values, strict=True):
            real = torch.view_as_real(value.resolve_conj().contiguous())
            if real.shape != parameter.shape:
                raise ValueError(f"a part of shape {tuple(real.shape)} where {tuple(parameter.shape)} is kept")
            parameter.copy_(real)


def _parts(
    shape: tuple[int, ...], factorization: str | None, rank: int | tuple[int, ...] | None, std: float
) -> tuple[list[tuple[int, ...]], float]:
    """Shapes of the parts, and the standard deviation of each entry that gives the whole the deviation ``std``."""
    if factorization is None:
        return [shape], std
    d = len(shape)
    if factorization == "cp":
        assert isinstance(rank, int)
        return [(rank,), *((s, rank) for s in shape)], (std / math.sqrt(rank)) ** (1 / d)
    assert isinstance(rank, tuple)
    spread = std / math.sqrt(math.prod(rank))
    if factorization == "tucker":
        return [rank, *zip(shape, rank, strict=True)], spread ** (1 / (d + 1))
    return [(rank[k], s, rank[k + 1]) for k, s in enumerate(shape)], spread ** (1 / d)
