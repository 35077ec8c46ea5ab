"""Occupancies of simple solids on a grid: what low-rank formats are asked to hold in the study of rotations.

Values are the share of a voxel that lies inside, from the signed distance d of its centre in voxels: clip(1/2 − d,
0, 1). The grid is the cube [-1, 1]³ (or the square [-1, 1]²), voxel centres at (i + 1/2) · 2/n − 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def coordinates(n: int, axes: int = 3) -> Float[Tensor, "*grid axes"]:
    """Centres of the voxels of the cube (or square)."""
    if n < 2:
        raise ValueError(f"n {n} is the number of voxels along an axis; use 2 or more")
    line = (torch.arange(n, dtype=torch.float64) + 0.5) * (2 / n) - 1
    return torch.stack(torch.meshgrid(*[line] * axes, indexing="ij"), -1)


def rotation(axis: Sequence[float], degrees: float) -> Float[Tensor, "3 3"]:
    """Rotation about ``axis`` (Rodrigues' formula)."""
    x, y, z = (torch.tensor(axis, dtype=torch.float64) / math.hypot(*axis)).tolist()
    k = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    angle = math.radians(degrees)
    return torch.eye(3, dtype=torch.float64) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k


def occupancy(distance: Float[Tensor, "*grid"], n: int) -> Float[Tensor, "*grid"]:
    """Share of each voxel that is inside, from signed distances."""
    return (0.5 - distance * (n / 2)).clamp(0, 1)


def box_distance(at: Float[Tensor, "*grid axes"], half: Sequence[float]) -> Float[Tensor, "*grid"]:
    """Signed distance to a box around the origin with half sides ``half``."""
    over = at.abs() - torch.tensor(half, dtype=at.dtype)
    return over.clamp(min=0).norm(dim=-1) + over.amax(-1).clamp(max=0)


def turned_box(
    n: int, degrees: float, axis: Sequence[float] = (0, 0, 1), half: Sequence[float] = (0.55, 0.3, 0.4)
) -> Float[Tensor, "n n n"]:
    """A box turned about ``axis``."""
    return occupancy(box_distance(coordinates(n) @ rotation(axis, degrees), half), n)


def turned_rectangle(n: int, degrees: float, half: Sequence[float] = (0.55, 0.3)) -> Float[Tensor, "n n"]:
    """A rectangle turned in the plane."""
    return occupancy(box_distance(coordinates(n, 2) @ rotation((0, 0, 1), degrees)[:2, :2], half), n)


def capsule_distance(
    at: Float[Tensor, "*grid 3"], start: Float[Tensor, "3"], end: Float[Tensor, "3"], radius: float
) -> Float[Tensor, "*grid"]:
    """Signed distance to a rod with round ends."""
    along = end - start
    share = (((at - start) @ along) / (along @ along)).clamp(0, 1)
    return (at - start - share[..., None] * along).norm(dim=-1) - radius


def rods(
    n: int, count: int, generator: torch.Generator, radius: float = 0.05, length: tuple[float, float] = (0.5, 1.2)
) -> Float[Tensor, "n n n"]:
    """``count`` thin rods of random direction, place and length in the cube [-0.9, 0.9]³."""
    at, nearest = coordinates(n), torch.full((n, n, n), torch.inf, dtype=torch.float64)
    for _ in range(count):
        direction = torch.randn(3, generator=generator, dtype=torch.float64)
        size = length[0] + (length[1] - length[0]) * torch.rand(1, generator=generator, dtype=torch.float64)
        half = 0.5 * size * direction / direction.norm()
        room = 0.9 - half.abs()
        middle = room * (2 * torch.rand(3, generator=generator, dtype=torch.float64) - 1)
        nearest = torch.minimum(nearest, capsule_distance(at, middle - half, middle + half, radius))
    return occupancy(nearest, n)


def clutter(
    n: int, count: int, generator: torch.Generator, size: tuple[float, float] = (0.06, 0.16)
) -> Float[Tensor, "n n n"]:
    """``count`` small boxes and balls, turned at random, in the cube [-0.9, 0.9]³."""
    at, nearest = coordinates(n), torch.full((n, n, n), torch.inf, dtype=torch.float64)
    for number in range(count):
        half = size[0] + (size[1] - size[0]) * torch.rand(3, generator=generator, dtype=torch.float64)
        middle = (0.9 - half.max()) * (2 * torch.rand(3, generator=generator, dtype=torch.float64) - 1)
        if number % 2:
            distance = (at - middle).norm(dim=-1) - float(half.mean())
        else:
            axis = torch.randn(3, generator=generator, dtype=torch.float64).tolist()
            turn = rotation(axis, 360 * float(torch.rand(1, generator=generator)))
            distance = box_distance((at - middle) @ turn, half.tolist())
        nearest = torch.minimum(nearest, distance)
    return occupancy(nearest, n)
