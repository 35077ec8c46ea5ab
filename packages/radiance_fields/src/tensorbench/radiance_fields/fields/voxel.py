"""A radiance field on a dense voxel grid: Plenoxels (Fridovich-Keil et al. 2021, arXiv 2112.05131), no networks.

In the form of PVD (Fang et al. 2022, arXiv 2211.15977): a node holds the log density per unit length and, for each of
three colours, the coefficients of spherical harmonics of the direction; the sum passes through a sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.radiance_fields.encodings import corners, dense_index, gather, spherical_harmonics
from tensorbench.radiance_fields.fields.staged import DISTANCE_SCALE, StagedField


class PlenoxelField(StagedField):
    """``resolution`` nodes a side (one number, or three), trilinear between them; harmonics up to order ``degree``.

    ``grid`` has the shape (x, y, z, 1 + 3 (degree + 1)²): 28 numbers a node for degree 2, which PVD calls 3. It starts
    normal with standard deviation ``scale``.
    """

    matches_features = False

    def __init__(
        self,
        box: Float[Tensor, "2 3"],
        *,
        resolution: int | Sequence[int] = 128,
        degree: int = 2,
        scale: float = 0.02,
        generator: torch.Generator | None = None,
        distance_scale: float = DISTANCE_SCALE,
    ) -> None:
        super().__init__(box, distance_scale=distance_scale)
        shape = (resolution,) * 3 if isinstance(resolution, int) else tuple(resolution)
        if len(shape) != 3 or min(shape) < 2:
            raise ValueError(f"resolution {resolution}: two nodes or more along each of three axes")
        if not 0 <= degree <= 4:
            raise ValueError(f"degree {degree} must be between 0 and 4")
        self.degree = degree
        channels = 1 + 3 * (degree + 1) ** 2
        self.grid = nn.Parameter(scale * torch.randn(*shape, channels, generator=generator))

    @property
    def resolution(self) -> tuple[int, ...]:
        """Nodes along x, y and z."""
        return tuple(self.grid.shape[:3])

    def features(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m f"]:
        cells = tuple(n - 1 for n in self.resolution)
        nodes, weights = corners(self.unit(points), cells)
        return gather(self.grid.flatten(0, 2), dense_index(nodes, cells), weights)

    def rgb(self, features: Float[Tensor, "m f"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        basis = spherical_harmonics(directions, self.degree)
        return torch.einsum("mcb,mb->mc", features[:, 1:].unflatten(-1, (3, -1)), basis).sigmoid()

    def grids(self) -> list[nn.Parameter]:
        return [self.grid]

    def regularizers(self) -> dict[str, Tensor]:
        """``tv_density``: the mean square of differences of the log density between neighbours."""
        log_density = self.grid[..., 0]
        return {"tv_density": torch.stack([log_density.diff(dim=k).square().mean() for k in range(3)]).sum()}


def build(data: Any, *, generator: torch.Generator | None = None, **params: Any) -> PlenoxelField:
    """A field for a scene's box (``data.box``), untrained."""
    return PlenoxelField(data.box, generator=generator, **params)
