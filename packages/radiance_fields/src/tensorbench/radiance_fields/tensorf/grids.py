"""Interpolation on grids whose corner values sit at the corners of the box (``align_corners``), and their sizes.

A plane interpolated bilinearly times a line interpolated linearly is the trilinear interpolation of the products at the
grid's vertices: ``Σ_ab w_ab P_ab · Σ_c w_c L_c = Σ_abc (w_ab w_c) (P_ab L_c)``. A density that is a sum of such
products can hence be multiplied out once for all vertices and then be looked up at each point with eight reads
(:func:`trilinear`), which pays as soon as there are about as many points as vertices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

Resolution = tuple[int, int, int]


def check_resolution(resolution: Sequence[int]) -> Resolution:
    """Three whole numbers of at least 2."""
    sizes = [int(n) for n in resolution]
    if len(sizes) != 3 or min(sizes) < 2 or any(n != m for n, m in zip(sizes, resolution, strict=True)):
        raise ValueError(f"resolution {tuple(resolution)}: three whole numbers of at least 2 are needed, for x, y, z")
    return sizes[0], sizes[1], sizes[2]


def resolution_of(voxels: int, box: Float[Tensor, "2 3"]) -> Resolution:
    """The grid of about so many cubic voxels in the box (TensoRF's rule: sizes rounded down)."""
    edges = (box[1] - box[0]).double()
    edge = float(edges.prod() / voxels) ** (1 / 3)
    return check_resolution([max(2, math.floor(float(e) / edge + 1e-6)) for e in edges])


def sample_plane(plane: Float[Tensor, "1 r b a"], coords: Float[Tensor, "m 2"]) -> Float[Tensor, "r m"]:
    """Values of r planes at coordinates (a, b) in [-1, 1]."""
    return F.grid_sample(plane, coords[None, :, None], align_corners=True)[0, :, :, 0]


def sample_line(line: Float[Tensor, "1 r n 1"], coords: Float[Tensor, "m"]) -> Float[Tensor, "r m"]:
    """Values of r lines at coordinates in [-1, 1]."""
    grid = torch.stack([torch.zeros_like(coords), coords], -1)
    return F.grid_sample(line, grid[None, :, None], align_corners=True)[0, :, :, 0]


def trilinear(volume: Float[Tensor, "x y z"], coords: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
    """A volume of scalars at coordinates (x, y, z) in [-1, 1]; outside, the value at the edge."""
    return _Trilinear.apply(volume, coords)


def _corners(volume: Tensor, coords: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """Flat indices (8, m) of the corners around each point, the fractions along each axis, and the axes' sizes − 1."""
    nx, ny, nz = volume.shape
    last = coords.new_tensor([nx - 1, ny - 1, nz - 1])
    place = ((coords + 1) * (0.5 * last)).clamp_(min=0)
    place = torch.minimum(place, last)
    cell = torch.minimum(place.floor(), last - 1)
    fractions = place - cell
    strides = torch.tensor([ny * nz, nz, 1], device=coords.device)
    base = (cell.long() * strides).sum(-1)
    offsets = torch.tensor([i * ny * nz + j * nz + k for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    return base + offsets.to(coords.device)[:, None], list(fractions.unbind(-1)), last


def _weights(fractions: list[Tensor]) -> Tensor:
    """(8, m): the share of each corner."""
    x, y, z = (torch.stack([1 - f, f]) for f in fractions)
    xy = (x[:, None] * y[None]).reshape(4, 1, -1)
    return (xy * z[None]).reshape(8, -1)


class _Trilinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, volume: Tensor, coords: Tensor) -> Tensor:  # type: ignore[override]
        index, fractions, last = _corners(volume, coords)
        weights = _weights(fractions)
        values = volume.reshape(-1).take(index)
        moving = coords.requires_grad
        ctx.save_for_backward(index, weights, last, *([values, *fractions] if moving else []))  # type: ignore[attr-defined]
        ctx.shape = volume.shape  # type: ignore[attr-defined]
        return torch.einsum("km,km->m", weights, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        index, weights, last, *rest = ctx.saved_tensors  # type: ignore[attr-defined]
        of_volume = of_coords = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            flat = grad.new_zeros(math.prod(ctx.shape))  # type: ignore[attr-defined]
            flat.index_add_(0, index.reshape(-1), (weights * grad).reshape(-1))
            of_volume = flat.reshape(ctx.shape)  # type: ignore[attr-defined]
        if ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            values, x, y, z = rest
            v = values.reshape(2, 2, 2, -1)
            dx, dy, dz = v[1] - v[0], v[:, 1] - v[:, 0], v[:, :, 1] - v[:, :, 0]
            slope = torch.stack([_mix(dx, y, z), _mix(dy, x, z), _mix(dz, x, y)], -1)
            of_coords = grad[:, None] * slope * (0.5 * last)
        return of_volume, of_coords


def _mix(values: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Bilinear mixture of (2, 2, m)."""
    rows = values[0] + first * (values[1] - values[0])
    return rows[0] + second * (rows[1] - rows[0])


def resample_plane(plane: Float[Tensor, "1 r b a"], size: tuple[int, int]) -> Float[Tensor, "1 r b2 a2"]:
    """The same planes on another grid of the same box."""
    return F.interpolate(plane, size=size, mode="bilinear", align_corners=True)


def grid_points(resolution: Resolution, box: Float[Tensor, "2 3"]) -> Float[Tensor, "x y z 3"]:
    """The vertices of a grid over the box."""
    axes = [torch.linspace(float(box[0, k]), float(box[1, k]), n) for k, n in enumerate(resolution)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).to(box.device)
