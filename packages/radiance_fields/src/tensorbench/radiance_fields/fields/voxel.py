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

from tensorbench.radiance_fields.encodings import corners, dense_index, gather, spherical_harmonics, trunc_exp
from tensorbench.radiance_fields.fields.staged import LOG_SCALE, StagedField


class PlenoxelField(StagedField):
    """``resolution`` nodes a side (one number, or three), trilinear between them; harmonics up to order ``degree``.

    ``log_density`` has the shape (x, y, z), ``harmonics`` (x, y, z, 3 (degree + 1)²): 28 numbers a node for degree 2,
    which PVD calls 3. They start normal with standard deviation ``scale``.
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
    ) -> None:
        super().__init__(box)
        shape = (resolution,) * 3 if isinstance(resolution, int) else tuple(resolution)
        if len(shape) != 3 or min(shape) < 2:
            raise ValueError(f"resolution {resolution}: two nodes or more along each of three axes")
        if not 0 <= degree <= 4:
            raise ValueError(f"degree {degree} must be between 0 and 4")
        self.degree = degree
        self.log_density = nn.Parameter(scale * torch.randn(*shape, generator=generator))
        self.harmonics = nn.Parameter(scale * torch.randn(*shape, 3 * (degree + 1) ** 2, generator=generator))

    @property
    def resolution(self) -> tuple[int, ...]:
        """Nodes along x, y and z."""
        return tuple(self.log_density.shape)

    def _corners(self, points: Tensor) -> tuple[Tensor, Tensor]:
        cells = tuple(n - 1 for n in self.resolution)
        nodes, weights = corners(self.unit(points), cells)
        return dense_index(nodes, cells), weights

    def features(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m f"]:
        index, weights = self._corners(points)
        parts = [
            gather(grid, index, weights) for grid in (self.log_density.reshape(-1, 1), self.harmonics.flatten(0, 2))
        ]
        return torch.cat(parts, dim=-1)

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        log_sigma = gather(self.log_density.reshape(-1, 1), *self._corners(points))[:, 0]
        return trunc_exp(log_sigma - LOG_SCALE)

    def rgb(self, features: Float[Tensor, "m f"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        basis = spherical_harmonics(directions, self.degree)
        return torch.einsum("mcb,mb->mc", features[:, 1:].unflatten(-1, (3, -1)), basis).sigmoid()

    def grids(self) -> list[nn.Parameter]:
        return [self.log_density, self.harmonics]

    def regularizers(self) -> dict[str, Tensor]:
        """``tv_density``: the mean square of differences of the log density between neighbours."""
        squares = [self.log_density.diff(dim=k).square().mean() for k in range(3)]
        return {"tv_density": torch.stack(squares).sum()}


def build(data: Any, *, generator: torch.Generator | None = None, **params: Any) -> PlenoxelField:
    """A field for a scene's box (``data.box``), untrained."""
    return PlenoxelField(torch.as_tensor(data.box), generator=generator, **params)
