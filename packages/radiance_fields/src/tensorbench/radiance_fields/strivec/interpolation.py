"""Values of many small factored grids at points: the inner loop of a cloud of local tensors.

A grid of ``dim`` intervals along an axis has ``dim + 1`` nodes, the first and last on the faces of its box (aligned
corners). ``line_product`` gives, for pairs (tensor, position in it), the product over the three axes of linearly
interpolated lines: one value for each component of a CP decomposition. ``plane_line_product`` gives the products of a
bilinearly interpolated plane and a line, for each of the three ways to choose the line's axis (the vector-matrix
decomposition of TensoRF). Rows of components are contiguous, so that a node is one read.

Where only the sum over components is asked for (density), a tensor may be multiplied out at its nodes and interpolated
trilinearly, which is the same number: the product of linear interpolations is the interpolation of the product.
``trilinear`` does so with eight reads for each pair, whatever the rank.

Sources: Gao et al., Strivec (2023, arXiv 2307.13226); Chen et al., TensoRF (2022, arXiv 2203.09517).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

AXES = (0, 1, 2)
PLANES = ((1, 2), (0, 2), (0, 1))  # the axes of the plane that goes with the line of axis 0, 1, 2


def nodes(local: Float[Tensor, "p 3"], dim: int) -> tuple[Int[Tensor, "3 p"], Float[Tensor, "3 p"]]:
    """The node below each position of [-1, 1]³ along each axis, and how far (0 to 1) it is to the next one."""
    at = ((local.T + 1) * (0.5 * dim)).clamp(0, dim)
    below = at.long().clamp_(max=dim - 1)
    return below, at - below


def line_product(
    lines: Float[Tensor, "3 n nodes rank"], ids: Int[Tensor, "p"], local: Float[Tensor, "p 3"]
) -> Float[Tensor, "p rank"]:
    """∏ over axes of the lines of tensor ``ids`` at ``local`` in [-1, 1]³. Positions carry no gradient.

    Positions outside are moved to the nearest face; whoever calls sees to it that there are none.
    """
    _, n, count, _ = lines.shape
    below, share = nodes(local, count - 1)
    offset = torch.arange(3, device=ids.device)[:, None] * n
    return _LineProduct.apply(lines, (offset + ids) * count + below, share)


class _LineProduct(torch.autograd.Function):
    """Two neighbouring nodes are one row of an overlapping view of the table: one gather and one scatter an axis."""

    @staticmethod
    def forward(
        ctx: Any, lines: Float[Tensor, "3 n nodes rank"], rows: Int[Tensor, "3 p"], share: Float[Tensor, "3 p"]
    ) -> Float[Tensor, "p rank"]:
        rank = lines.shape[-1]
        table = lines.detach().contiguous().view(-1, rank)
        values = []
        for axis in AXES:
            low = table.index_select(0, rows[axis])
            high = table.index_select(0, rows[axis] + 1)
            values.append(torch.lerp(low, high, share[axis, :, None]))
        ctx.save_for_backward(rows, share, *values)
        ctx.shape = lines.shape
        return values[0] * values[1] * values[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        (g,) = gradients
        rows, share, *values = ctx.saved_tensors
        table = g.new_zeros(ctx.shape).view(-1, ctx.shape[-1])
        for axis in AXES:
            first, second = (values[other] for other in AXES if other != axis)
            slope = g * first * second
            high = slope * share[axis, :, None]
            table.index_add_(0, rows[axis] + 1, high)
            table.index_add_(0, rows[axis], slope.sub_(high))
        return table.view(ctx.shape), None, None


def plane_line_product(
    planes: Float[Tensor, "3 n nodes nodes rank"],
    lines: Float[Tensor, "3 n nodes rank"],
    ids: Int[Tensor, "p"],
    local: Float[Tensor, "p 3"],
) -> Float[Tensor, "p three_rank"]:
    """Plane times line for each axis of the line, of tensor ``ids`` at ``local`` in [-1, 1]³; components side by side.

    Positions carry no gradient.
    """
    _, n, count, rank = lines.shape
    below, share = nodes(local, count - 1)
    table, flat = lines.reshape(-1, rank), planes.reshape(-1, rank)
    products = []
    for axis, (a, b) in enumerate(PLANES):
        start = axis * n + ids
        row = start * count + below[axis]
        line = torch.lerp(table.index_select(0, row), table.index_select(0, row + 1), share[axis, :, None])
        corner = (start * count + below[a]) * count + below[b]
        u, v = share[a, :, None], share[b, :, None]
        low = torch.lerp(flat.index_select(0, corner), flat.index_select(0, corner + 1), v)
        high = torch.lerp(flat.index_select(0, corner + count), flat.index_select(0, corner + count + 1), v)
        products.append(torch.lerp(low, high, u) * line)
    return torch.cat(products, dim=1)


def trilinear(
    volume: Float[Tensor, "n nodes nodes nodes"], ids: Int[Tensor, "p"], local: Float[Tensor, "p 3"]
) -> Float[Tensor, "p"]:
    """Tensor ``ids`` of node values at ``local`` in [-1, 1]³. Positions carry no gradient."""
    _n, count = volume.shape[:2]
    below, share = nodes(local, count - 1)
    first = ((ids * count + below[0]) * count + below[1]) * count + below[2]
    return _Trilinear.apply(volume, first, share)


class _Trilinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, volume: Float[Tensor, "n nodes nodes nodes"], first: Int[Tensor, "p"], share: Float[Tensor, "3 p"]
    ) -> Float[Tensor, "p"]:
        flat = volume.detach().reshape(-1)
        ctx.save_for_backward(first, share)
        ctx.shape = volume.shape
        value = torch.zeros_like(share[0])
        for step, weight in _corners(share, volume.shape[1]):
            value.addcmul_(flat.index_select(0, first + step), weight)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        (g,) = gradients
        first, share = ctx.saved_tensors
        flat = g.new_zeros(ctx.shape).view(-1)
        for step, weight in _corners(share, ctx.shape[1]):
            flat.index_add_(0, first + step, g * weight)
        return flat.view(ctx.shape), None, None


def _corners(share: Float[Tensor, "3 p"], count: int) -> Iterator[tuple[int, Float[Tensor, "p"]]]:
    """The eight nodes around a position, as steps in a flat array, and their weights."""
    rest = 1 - share
    for i, x in enumerate((rest[0], share[0])):
        for j, y in enumerate((rest[1], share[1])):
            xy = x * y
            for k, z in enumerate((rest[2], share[2])):
                yield (i * count + j) * count + k, xy * z
