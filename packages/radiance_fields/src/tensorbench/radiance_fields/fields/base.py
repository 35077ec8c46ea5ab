"""What every radiance field offers: density and colour at points of a box."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Field(nn.Module):
    """A radiance field on the axis-aligned ``box`` (two opposite corners, as rows)."""

    box: Tensor

    def __init__(self, box: Float[Tensor, "2 3"]) -> None:
        super().__init__()
        box = torch.as_tensor(box, dtype=torch.float32)
        if box.shape != (2, 3) or not bool((box[0] < box[1]).all()):
            raise ValueError(f"a box is its lower and upper corner, of shape (2, 3), got {box.tolist()}")
        self.register_buffer("box", box.clone())

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        """Density, at least 0, in units of 1 / (distance scale × length)."""
        raise NotImplementedError

    def color(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """Colour in [0, 1] seen along unit ``directions``."""
        raise NotImplementedError

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]
    ) -> tuple[Float[Tensor, "m"], Float[Tensor, "m 3"]]:
        """Density and colour."""
        return self.density(points), self.color(points, directions)

    def regularizers(self) -> dict[str, Tensor]:
        """Terms that a trainer may add to its loss, by name."""
        return {}

    def parameter_groups(self, lr_grid: float, lr_net: float) -> list[dict[str, Any]]:
        """Parameters for an optimiser, with one rate for grids and one for networks."""
        return [{"params": list(self.parameters()), "lr": lr_net}]
