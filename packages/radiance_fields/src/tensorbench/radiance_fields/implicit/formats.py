"""Tensor formats as contractions: what the factors of each axis look like, and how they make a grid or points.

A factor of axis i at n coordinates is an array (n, copies, left, right): ``copies`` is the number of channels where
each has factors of its own, else 1. With C channels, R or rᵢ ranks, the formats are (F-INR, arXiv 2503.21507; the
formats are the classical ones, the tensor ring is of Zhao et al. 2016, arXiv 1606.05535):

* CP: f(x)_c = Σ_r Π_i φᵢ(xᵢ)_r,c; with shared factors Σ_r W_rc Π_i φᵢ(xᵢ)_r.
* TT: f(x)_c = φ₁(x₁) φ₂(x₂) … φ_d(x_d), a row of r₁, matrices rᵢ₋₁ × rᵢ, and r_d₋₁ × C (shared) or a column.
* Tucker: f(x)_c = Σ G_r₁…r_d,c Π_i φᵢ(xᵢ)_rᵢ with a learnt core G.
* ring: f(x)_c = trace(φ₁(x₁) … φ_d(x_d)), matrices rᵢ₋₁ × rᵢ around a ring, the last one for each channel.

On a grid of n₁ × … × n_d points the factors hold O(d n R) numbers, and a contraction goes from the left, so that no
array is larger than the output times the rank of a bond (for CP: than the output without the last axis, times R).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

FORMATS = ("cp", "tt", "tucker", "ring")
Factor = Float[Tensor, "_ _ _ _"]


def check_ranks(format: str, rank: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """The ranks as a tuple: 1 for CP, ``axes`` − 1 bonds for TT, ``axes`` for Tucker and the ring (the bond *before*
    each axis). One number stands for all.

    Raises ValueError for an unknown format, a list of another length, a rank below 1.
    """
    if format not in FORMATS:
        raise ValueError(unknown("format", format, FORMATS))
    wanted = {"cp": 1, "tt": axes - 1, "tucker": axes, "ring": axes}[format]
    ranks = (rank,) * wanted if isinstance(rank, int) else tuple(rank)
    if len(ranks) != wanted:
        raise ValueError(f"{format} over {axes} axes has {wanted} ranks, got {list(ranks)}")
    if any(isinstance(r, bool) or not isinstance(r, int) or r < 1 for r in ranks):
        raise ValueError(f"ranks must be whole numbers of at least 1, got {rank}")
    return ranks


def factor_shapes(
    format: str, ranks: tuple[int, ...], axes: int, channels: int, shared: bool
) -> list[tuple[int, int, int]]:
    """(copies, left, right) of each axis's factor."""
    copies = 1 if shared else channels
    end = channels if shared else 1
    if format == "cp":
        return [(copies, 1, ranks[0])] * axes
    if format == "tucker":
        return [(copies, 1, r) for r in ranks]
    bonds = [1, *ranks, end] if format == "tt" else [*ranks, ranks[0] * end]
    return [(copies, left, right) for left, right in itertools.pairwise(bonds)]


def paths(format: str, ranks: tuple[int, ...]) -> int:
    """How many products of one number from each factor are summed up in one value."""
    return math.prod(ranks)


def grid(
    format: str, factors: Sequence[Factor], mixing: Tensor | None, channels: int
) -> Float[Tensor, "*sizes channels"]:
    """Values on the grid that the factors' coordinates span. ``mixing`` is Tucker's core (copies, r₁, …, r_d, C or 1)
    or the shared CP's W (R, C)."""
    sizes = [len(factor) for factor in factors]
    if format == "cp":
        return _cp_grid([factor[:, :, 0] for factor in factors], mixing).reshape(*sizes, channels)
    if format == "tucker":
        assert mixing is not None
        return _tucker_grid([factor[:, :, 0] for factor in factors], mixing).reshape(*sizes, channels)
    if format == "ring":
        return _ring_grid(factors, channels).reshape(*sizes, channels)
    carried = factors[0].permute(1, 2, 0, 3).flatten(1, 2)  # copies, points so far, right
    for factor in factors[1:]:
        copies, left, right = factor.shape[1:]
        nodes = factor.permute(1, 2, 0, 3).reshape(copies, left, -1)
        carried = (carried @ nodes).reshape(copies, -1, right)
    return carried.permute(1, 0, 2).reshape(*sizes, channels)


def _cp_grid(factors: Sequence[Float[Tensor, "_ _ _"]], mixing: Tensor | None) -> Tensor:
    """Khatri-Rao product of all axes but the last, times the last: (points, channels)."""
    *first, last = [factor.transpose(0, 1) for factor in factors]  # copies, n, r
    if mixing is not None:  # the last axis takes the channels: (1, n C, r)
        last = (last[:, :, None, :] * mixing.T).flatten(1, 2)
    if not first:
        return last.sum(-1).T if mixing is None else last.sum(-1).reshape(-1, mixing.shape[1])
    product = first[0]
    for factor in first[1:]:
        product = (product[:, :, None, :] * factor[:, None, :, :]).flatten(1, 2)
    values = product @ last.transpose(1, 2)  # copies, points, n (C)
    return values.permute(1, 2, 0) if mixing is None else values.reshape(-1, mixing.shape[1])


def _tucker_grid(factors: Sequence[Float[Tensor, "_ _ _"]], core: Tensor) -> Tensor:
    carried = core.flatten(1)[:, None]  # copies, points so far, ranks to go
    for factor in factors:
        copies, points, _ = carried.shape
        rank = factor.shape[-1]
        rows = carried.reshape(copies, points, rank, -1).transpose(2, 3).reshape(copies, -1, rank)
        carried = rows @ factor.permute(1, 2, 0)  # one product of matrices: (points × to go, r) by (r, n)
        carried = (
            carried.reshape(copies, points, -1, len(factor)).transpose(2, 3).reshape(copies, points * len(factor), -1)
        )
    return carried.permute(1, 0, 2)


def _ring_grid(factors: Sequence[Factor], channels: int) -> Tensor:
    first = factors[0].permute(1, 0, 2, 3)  # copies, n, bond of the ring, right
    copies, _, bond, right = first.shape
    if len(factors) == 1:
        per = first.reshape(copies, -1, bond, bond, right // bond)
        return torch.einsum("knppc->nkc", per)
    carried = first
    for factor in factors[1:-1]:
        left, right = factor.shape[2:]
        nodes = factor.permute(1, 2, 0, 3).reshape(copies, left, -1)
        carried = (carried.flatten(1, 2) @ nodes).reshape(copies, -1, bond, len(factor), right)
        carried = carried.transpose(2, 3).flatten(1, 2)
    last = factors[-1]
    left = last.shape[2]
    ends = last.reshape(len(last), copies, left, bond, -1).permute(1, 3, 2, 0, 4)  # copies, bond, left, n, c
    values = carried.flatten(2) @ ends.reshape(copies, bond * left, -1)
    return values.permute(1, 2, 0) if copies > 1 else values


def points(
    format: str, factors: Sequence[Factor], mixing: Tensor | None, channels: int
) -> Float[Tensor, "points channels"]:
    """Values at points, all factors being those of the same points."""
    if format == "cp":
        product = factors[0]
        for factor in factors[1:]:
            product = product * factor
        product = product[:, :, 0]
        return product.sum(-1) if mixing is None else product[:, 0] @ mixing
    if format == "tucker":
        assert mixing is not None
        count = len(factors[0])
        copies = mixing.shape[0]
        carried = factors[0][:, :, 0].transpose(0, 1) @ mixing.flatten(2)  # copies, points, ranks to go
        carried = carried.transpose(0, 1)
        for factor in factors[1:]:
            carried = (factor @ carried.reshape(count, copies, factor.shape[-1], -1))[:, :, 0]
        return carried.reshape(count, channels)
    carried = factors[0]
    if format == "tt":
        for factor in factors[1:]:
            carried = carried @ factor
        return carried.reshape(-1, channels)
    count, copies, bond, _ = carried.shape
    for factor in factors[1:-1]:
        carried = carried @ factor
    if len(factors) == 1:
        return torch.einsum("nkppc->nkc", carried.reshape(count, copies, bond, bond, -1)).reshape(count, channels)
    last = factors[-1]
    ends = last.reshape(count, copies, last.shape[2], bond, -1)
    return torch.einsum("nkpr,nkrpc->nkc", carried, ends).reshape(count, channels)
