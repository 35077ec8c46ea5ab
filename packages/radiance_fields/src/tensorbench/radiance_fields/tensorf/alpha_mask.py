"""Where a field may hold something: a boolean grid that lets the renderer skip empty space.

As in TensoRF (Chen et al. 2022, arXiv 2203.09517): the opacity of a half-voxel segment at every vertex, the
maximum over a neighbourhood, a threshold. A point counts as occupied where trilinear interpolation of the vertices
would be above zero, that is, where any corner of its cell is occupied; cells are therefore what is looked up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.radiance_fields.fields.base import Field, check_box
from tensorbench.radiance_fields.tensorf.grids import check_resolution, grid_points

_CHUNK = 2**20


class AlphaMask(nn.Module):
    """Occupied vertices of a grid over a box; call it with points to ask whether they may hold something."""

    box: Tensor
    vertices: Tensor
    cells: Tensor

    def __init__(self, vertices: Bool[Tensor, "x y z"], box: Float[Tensor, "2 3"]) -> None:
        super().__init__()
        check_resolution(vertices.shape)
        self.register_buffer("box", check_box(box))
        self.register_buffer("vertices", vertices)
        any_corner = F.max_pool3d(vertices[None].float(), 2, stride=1)[0] > 0
        self.register_buffer("cells", any_corner.contiguous())

    def forward(self, points: Float[Tensor, "m 3"]) -> Bool[Tensor, "m"]:
        """Whether points are in occupied cells; none outside the box is."""
        sizes = self.box.new_tensor(self.cells.shape)
        place = (points - self.box[0]) * (sizes / (self.box[1] - self.box[0]))
        inside = ((place >= 0) & (place <= sizes)).all(-1)
        cell = torch.minimum(place.clamp_(min=0), sizes - 1).long()
        _, ny, nz = self.cells.shape
        flat = (cell * cell.new_tensor([ny * nz, nz, 1])).sum(-1)
        return self.cells.reshape(-1).take(flat) & inside

    @property
    def occupied_share(self) -> float:
        """Share of cells that may hold something."""
        return float(self.cells.float().mean())

    def occupied_box(self) -> Float[Tensor, "2 3"]:
        """The smallest box around the occupied vertices; the whole box where none is."""
        corners = []
        for axis in range(3):
            others = [k for k in range(3) if k != axis]
            found = self.vertices.any(dim=others[1]).any(dim=others[0]).nonzero()[:, 0]
            size = self.vertices.shape[axis] - 1
            corners.append((int(found[0]), int(found[-1])) if len(found) else (0, size))
        places = self.box.new_tensor(corners).T / (self.box.new_tensor(self.vertices.shape) - 1)
        return self.box[0] + places * (self.box[1] - self.box[0])


@torch.no_grad()
def build_alpha_mask(
    field: Field,
    resolution: Sequence[int] | None = None,
    *,
    threshold: float = 1e-4,
    dilate: int = 3,
    length: float | None = None,
) -> AlphaMask:
    """The mask of a field as it is now.

    Args:
        resolution: vertices along each axis; the field's own where it has a grid, else 64.
        threshold: least opacity of a segment that counts.
        dilate: edge of the cube of vertices over which the maximum is taken; odd.
        length: of the segment; half a voxel (TensoRF's step) unless given.

    Raises:
        ValueError: an even ``dilate``, or a threshold outside (0, 1).
    """
    if dilate < 1 or dilate % 2 == 0:
        raise ValueError(f"dilate {dilate} is the edge of a cube around a vertex and must be odd")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold {threshold} is an opacity and must be in (0, 1)")
    sizes = check_resolution(resolution if resolution is not None else getattr(field, "resolution", (64, 64, 64)))
    points = grid_points(sizes, field.box)
    edges = (field.box[1] - field.box[0]) / (field.box.new_tensor(sizes) - 1)
    step = 0.5 * float(edges.mean()) if length is None else length
    sigma = torch.cat([field.density(part) for part in points.reshape(-1, 3).split(_CHUNK)])
    opaque = (1 - torch.exp(-sigma * step)).reshape(1, *sizes)
    widened = F.max_pool3d(opaque, dilate, stride=1, padding=dilate // 2)[0]
    return AlphaMask(widened >= threshold, field.box)
