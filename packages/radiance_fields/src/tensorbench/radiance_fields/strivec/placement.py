"""Where tensors stand: points near surfaces from a quick coarse reconstruction, and the voxels that hold them.

The coarse reconstruction is a dense grid of density and of one colour a node (the first stage of DVGO, which the
reference code uses): almost transparent at the start, trained for a few hundred steps by the same renderer as the
field. Nodes whose opacity over one voxel passes a threshold are the points.

Sources: Gao et al., Strivec (2023, arXiv 2307.13226); Sun, Sun, Chen, DVGO (2022, arXiv 2111.11215).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.rendering import DISTANCE_SCALE

PLACES = ("voxel", "mean")


class CoarseReconstruction(Field):
    """σ = softplus(raw + shift) and colour = sigmoid(raw) on a dense grid of nodes, interpolated linearly.

    ``opacity`` is what one voxel has at the start; ``shift`` follows from it (the renderer's distance scale is 25).
    """

    def __init__(self, box: Float[Tensor, "2 3"], resolution: int = 48, *, opacity: float = 1e-3) -> None:
        super().__init__(box)
        if resolution < 2:
            raise ValueError(f"resolution {resolution} is the number of nodes of the longest side; use 2 or more")
        sides = box[1] - box[0]
        if not (sides > 0).all():
            raise ValueError(f"box {box.tolist()} has no volume: its second corner must exceed the first")
        if not 0 < opacity < 1:
            raise ValueError(f"opacity {opacity} of a voxel must lie between 0 and 1")
        self.voxel = float(sides.max()) / (resolution - 1)
        shape = [max(2, round(float(side) / self.voxel) + 1) for side in sides]
        sigma = -math.log1p(-opacity) / (DISTANCE_SCALE * self.voxel)
        self.shift = math.log(math.expm1(sigma))
        self.raw_sigma = nn.Parameter(torch.zeros(1, 1, *reversed(shape), device=box.device))
        self.raw_color = nn.Parameter(torch.zeros(1, 3, *reversed(shape), device=box.device))

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        return F.softplus(self._sample(self.raw_sigma, points)[:, 0] + self.shift)

    def color(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return torch.sigmoid(self._sample(self.raw_color, points))

    def _sample(self, grid: Float[Tensor, "1 c z y x"], points: Float[Tensor, "m 3"]) -> Float[Tensor, "m c"]:
        at = 2 * (points - self.box[0]) / (self.box[1] - self.box[0]) - 1
        return F.grid_sample(grid, at[None, None, None], align_corners=True)[0, :, 0, 0].T

    def parameter_groups(self, lr_grid: float = 0.3, lr_net: float = 1e-3) -> list[dict]:
        """Both grids at ``lr_grid``; there is no network."""
        return [{"params": [self.raw_sigma, self.raw_color], "lr": lr_grid}]

    @torch.no_grad()
    def opacity(self) -> Float[Tensor, "x y z"]:
        """1 − exp(−25 σ voxel) at the nodes."""
        sigma = F.softplus(self.raw_sigma[0, 0] + self.shift)
        return -torch.expm1(-DISTANCE_SCALE * self.voxel * sigma).permute(2, 1, 0)

    def occupied(self, threshold: float = 0.1) -> Float[Tensor, "m 3"]:
        """The nodes whose opacity passes ``threshold``."""
        return occupied_points(self.opacity(), self.box, threshold)


def occupied_points(
    opacity: Float[Tensor, "x y z"], box: Float[Tensor, "2 3"], threshold: float
) -> Float[Tensor, "m 3"]:
    """Positions of the nodes of a grid over ``box`` (corners on corners) whose ``opacity`` passes ``threshold``.

    Raises ValueError where there is none, with the largest opacity, and for a grid of fewer than 2 nodes an axis.
    """
    if opacity.ndim != 3 or min(opacity.shape) < 2:
        raise ValueError(f"opacity must be a grid of at least 2 x 2 x 2 nodes, got shape {tuple(opacity.shape)}")
    index = (opacity > threshold).nonzero()
    if not len(index):
        raise ValueError(
            f"no node of the coarse grid has an opacity above {threshold} (the largest is {float(opacity.max()):.3g}); "
            "lower the threshold or train the coarse reconstruction for longer"
        )
    last = torch.tensor(opacity.shape, device=box.device) - 1
    return box[0] + (box[1] - box[0]) * index.to(box.device) / last


def voxel_centers(points: Float[Tensor, "m 3"], spacing: float, *, place: str = "voxel") -> Float[Tensor, "n 3"]:
    """One position for each voxel of side ``spacing`` that holds a point: its centre, or the mean of its points.

    Voxels are laid from the points' lowest coordinates, as in the reference code; their order is that of the voxels.
    """
    if place not in PLACES:
        raise ValueError(unknown("place", place, PLACES))
    if not spacing > 0:
        raise ValueError(f"spacing {spacing} must be positive")
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"points must be (m, 3) with m >= 1, got {tuple(points.shape)}; lower the occupancy threshold")
    low = points.amin(0)
    voxel = ((points - low) / spacing).floor().long()
    voxels, which, counts = torch.unique(voxel, dim=0, return_inverse=True, return_counts=True)
    if place == "voxel":
        return low + (voxels + 0.5) * spacing
    return torch.zeros_like(voxels, dtype=points.dtype).index_add_(0, which, points) / counts[:, None]


def full_cover(box: Float[Tensor, "2 3"], spacing: float) -> int:
    """How many tensors at ``spacing`` it takes to fill ``box``."""
    counts = ((box[1] - box[0]) / spacing - 1e-6).ceil().clamp(min=1)
    return int(counts.prod())
