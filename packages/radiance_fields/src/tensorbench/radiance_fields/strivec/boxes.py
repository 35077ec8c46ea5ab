"""Outlines of the tensors' boxes, in space and in a picture."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor


def box_edges(centers: Float[Tensor, "n 3"], half_range: float) -> Float[Tensor, "n 12 2 3"]:
    """The twelve edges of each box, as pairs of corners."""
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=centers.dtype, device=centers.device)
    ends = [(i, i | bit) for bit in (1, 2, 4) for i in range(8) if not i & bit]
    return centers[:, None, None] + half_range * corners[torch.tensor(ends, device=centers.device)]


def project(
    points: Float[Tensor, "*k 3"], c2w: Float[Tensor, "4 4"], width: int, height: int, focal: float
) -> Float[Tensor, "*k 2"]:
    """Pixel coordinates (column, row) of points in a pinhole picture (OpenGL camera: x right, y up, looks along −z).

    Pixel centres are at half-integers. Points behind the camera get NaN.
    """
    local = (points - c2w[:3, 3]) @ c2w[:3, :3]
    depth = torch.where(local[..., 2] < 0, -local[..., 2], torch.nan)
    column = width / 2 + focal * local[..., 0] / depth
    row = height / 2 - focal * local[..., 1] / depth
    return torch.stack([column, row], -1)
