"""A radiance field on a hash grid: instant-ngp (Müller et al. 2022, arXiv 2201.05989) with the two small networks of
torch-ngp, as PVD (Fang et al. 2022, arXiv 2211.15977) trains and converts it.

Grid → 64 → 16 features: the log density and 15 for colour; 15 and the direction's harmonics → 64 → 64 → colour.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.radiance_fields.encodings import HashGrid
from tensorbench.radiance_fields.fields.staged import ColorNet, StagedField, perceptron


class HashField(StagedField):
    """``levels``, ``features``, ``base``, ``finest`` and ``log2_table`` are those of
    :class:`~tensorbench.radiance_fields.encodings.HashGrid` over the box; the defaults are the paper's (at desk scale,
    8 levels to 256 with 2¹⁴ rows do)."""

    def __init__(
        self,
        box: Float[Tensor, "2 3"],
        *,
        levels: int = 14,
        features: int = 2,
        base: int = 16,
        finest: int = 2048,
        log2_table: int = 19,
        hidden: int = 64,
        color_features: int = 15,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(box)
        self.grid = HashGrid(3, levels, features, base, finest, log2_table, generator)
        self.density_net = perceptron([self.grid.width, hidden, 1 + color_features], generator)
        self.color_net = ColorNet(color_features, hidden, generator)

    def features(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m f"]:
        return self.density_net(self.grid(self.unit(points)))

    def rgb(self, features: Float[Tensor, "m f"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return self.color_net(features[:, 1:], directions)

    def grids(self) -> list[nn.Parameter]:
        return list(self.grid.tables)


def build(data: Any, *, generator: torch.Generator | None = None, **params: Any) -> HashField:
    """A field for a scene's box (``data.box``), untrained."""
    return HashField(torch.as_tensor(data.box), generator=generator, **params)
