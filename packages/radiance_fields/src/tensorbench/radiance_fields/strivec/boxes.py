"""Outlines of the tensors' boxes, in space and in a picture."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.radiance_fields.cameras import Camera, project


def box_edges(centers: Float[Tensor, "n 3"], half_range: float) -> Float[Tensor, "n 12 2 3"]:
    """The twelve edges of each box, as pairs of corners."""
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=centers.dtype, device=centers.device)
    ends = [(i, i | bit) for bit in (1, 2, 4) for i in range(8) if not i & bit]
    return centers[:, None, None] + half_range * corners[torch.tensor(ends, device=centers.device)]


def in_picture(points: Float[Tensor, "*k 3"], camera: Camera, c2w: Float[Tensor, "4 4"]) -> Float[Tensor, "*k 2"]:
    """Where points are in a picture (column, row), as :func:`~tensorbench.radiance_fields.cameras.project` has it; NaN
    for those behind the camera."""
    found, depth = project(camera, c2w, points.reshape(-1, 3))
    return torch.where(depth[:, None] > 0, found, torch.nan).reshape(*points.shape[:-1], 2)
