"""A picture to be learnt on a hash grid: the baseline without a way to be blurred."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.radiance_fields.encodings import HashGrid


class HashImage(nn.Module):
    """Features of a hash grid over [−1, 1]² through a small network (Müller et al. 2022, arXiv 2201.05989)."""

    def __init__(
        self, generator: torch.Generator, *, levels: int = 6, features: int = 2, base: int = 8, finest: int = 128,
        log2_table: int = 14, width: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.grid = HashGrid(2, levels, features, base, finest, log2_table, generator, scale=1e-2)
        self.layers = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, a, b) for a, b in ((self.grid.width, width), (width, 3))
        )
        with torch.no_grad():
            for layer, inputs in zip(self.layers, (self.grid.width, width), strict=True):
                bound = 1 / math.sqrt(inputs)
                for p in layer.parameters():
                    p.uniform_(-bound, bound, generator=generator)

    def forward(
        self, points: Float[Tensor, "n 2"], width: float = 0.0, kind: str = "gaussian", progress: float = 1.0
    ) -> Float[Tensor, "n 3"]:
        """Colours in (0, 1)."""
        return torch.sigmoid(self.layers[1](F.relu(self.layers[0](self.grid((points + 1) / 2)))))
