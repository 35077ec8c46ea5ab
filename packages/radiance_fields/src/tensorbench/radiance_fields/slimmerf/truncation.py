"""Other ways to make a trained TensoRF smaller: order its components before the cut, cut at random, or use fewer bits.

Baselines for SlimmeRF (Yuan & Zhao 2024, arXiv 2312.10034). Along each axis the density is ``Σ_r P_r ⊗ L_r``, a
matrix (vertices of the plane × vertices of the line) of rank R, whose best approximation of rank r in the Frobenius
norm is its singular value decomposition cut at r (Eckart & Young 1936). Appearance components pass through a linear map
and keep their factors; they are sorted by the energy that they add to the features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tensorbench.radiance_fields.slimmerf.field import COLOR_PER_RANK, SlimVM, check_cut, select
from tensorbench.radiance_fields.tensorf.vm import TensorVM


def full_rank(field: TensorVM) -> TensorVM:
    """A copy with every component in use, masks removed."""
    copy = field.clone()
    if isinstance(copy, SlimVM):
        copy.set_rank(copy.maximum)
    return copy


def cut_randomly(field: TensorVM, rank: int, generator: torch.Generator) -> TensorVM:
    """``rank`` density and ``3 rank`` appearance components of each axis, drawn without replacement."""
    check_cut(rank, min(field.ranks("sigma")))
    draw = [
        [torch.randperm(count, generator=generator)[:keep] for count in field.ranks(kind)]
        for kind, keep in (("sigma", rank), ("color", COLOR_PER_RANK * rank))
    ]
    return select(field, draw[0], draw[1])


@torch.no_grad()
def energies(field: TensorVM, kind: str) -> list[Tensor]:
    """Squared Frobenius norm of each component's grid, for each axis (appearance: of what it adds to the features)."""
    found = [
        plane[0].square().sum((1, 2)) * line[0].square().sum((1, 2)) for plane, line in full_rank(field).factors(kind)
    ]
    if kind == "color":
        columns = field.basis.weight.square().sum(0).split(list(field.ranks("color")))
        found = [energy * share for energy, share in zip(found, columns, strict=True)]
    return found


def sort_components(field: TensorVM) -> TensorVM:
    """The same field with its components in order of falling energy."""
    order = [[energy.argsort(descending=True) for energy in energies(field, kind)] for kind in ("sigma", "color")]
    return select(field, order[0], order[1])


@torch.no_grad()
def svd_components(field: TensorVM) -> TensorVM:
    """The same field with the density's components of each axis replaced by singular ones, appearance sorted."""
    sorted_ = sort_components(full_rank(field))
    for plane, line in zip(sorted_.planes["sigma"], sorted_.lines["sigma"], strict=True):  # type: ignore[call-overload]
        rank = plane.shape[1]
        left, right = plane[0].reshape(rank, -1), line[0, :, :, 0]
        ql, rl = torch.linalg.qr(left.T)  # the matrix is leftᵀ right = ql (rl rrᵀ) qrᵀ
        qr, rr = torch.linalg.qr(right.T)
        u, s, vh = torch.linalg.svd(rl @ rr.T)
        root = s.sqrt()
        plane.copy_(((ql @ u) * root).T.reshape(plane.shape))
        line.copy_(((qr @ vh.T) * root).T.reshape(line.shape))
    return sorted_


@torch.no_grad()
def quantise(field: TensorVM, bits: int) -> TensorVM:
    """Grids rounded to ``2^bits`` evenly spaced values between the extremes of each factor; networks to 16-bit floats.

    Raises:
        ValueError: bits outside 1..16.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"bits {bits} must be from 1 to 16")
    copy = field.clone()
    for grid in copy.grids():
        low, high = grid.min(), grid.max()
        step = ((high - low) / (2**bits - 1)).clamp(min=1e-12)
        grid.copy_(low + step * ((grid - low) / step).round())
    for parameter in [*copy.basis.parameters(), *copy.net.parameters()]:
        parameter.copy_(parameter.half().float())
    return copy


def quantised_bytes(field: TensorVM, bits: int) -> int:
    """Bytes of :func:`quantise`'s weights: grids of so many bits with two floats each, networks of 16."""
    grids = field.grids()
    rest = [*field.basis.parameters(), *field.net.parameters()]
    return sum(-(-g.numel() * bits // 8) + 8 for g in grids) + 2 * sum(p.numel() for p in rest)
