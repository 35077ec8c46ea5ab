"""What every radiance field is: a density and a colour at each point of a box.

A field answers two questions, ``density(points)`` and ``color(points, directions)``; the renderer
(:mod:`~tensorbench.radiance_fields.rendering`) asks for colours only where the density says that they will be seen, and
the trainer (:mod:`~tensorbench.radiance_fields.training`) needs nothing else. Points are in world coordinates; the
opacity of a segment of length δ is ``1 − exp(−σ δ distance_scale)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

Box = Float[Tensor, "2 3"] | Float[np.ndarray, "2 3"]


class Field(nn.Module):
    """Base of all radiance fields.

    Args:
        box: lower and upper corner of the region outside of which the density is zero.

    Raises:
        ValueError: a box that is not two corners, the first below the second.
    """

    box: Tensor

    def __init__(self, box: Box) -> None:
        super().__init__()
        self.register_buffer("box", check_box(box))

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        """Density σ >= 0 at points of the box."""
        raise NotImplementedError(f"{type(self).__name__} must define density(points)")

    def color(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """Colour in [0, 1] at points of the box, seen along unit directions (from the camera on)."""
        raise NotImplementedError(f"{type(self).__name__} must define color(points, directions)")

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]
    ) -> tuple[Float[Tensor, "m"], Float[Tensor, "m 3"]]:
        """Density and colour."""
        return self.density(points), self.color(points, directions)

    def regularizers(self) -> Mapping[str, Tensor]:
        """Penalties by name, each a scalar that the trainer weighs; none unless a field has some."""
        return {}

    def parameter_groups(self, lr_grid: float = 0.02, lr_net: float = 1e-3) -> list[dict[str, Any]]:
        """Groups for the optimizer; a field with grids gives these ``lr_grid`` and its networks ``lr_net``."""
        return [{"params": list(self.parameters()), "lr": lr_net}]

    def normalized(self, points: Float[Tensor, "*m 3"]) -> Float[Tensor, "*m 3"]:
        """Coordinates in [-1, 1] within the box."""
        low, high = self.box
        return (points - low) * (2 / (high - low)) - 1


def check_box(box: Tensor | np.ndarray) -> Float[Tensor, "2 3"]:
    """The box as float32, or an error that says what is wrong with it."""
    box = torch.as_tensor(box)
    if box.shape != (2, 3):
        raise ValueError(f"a box is its lower and upper corner, shape (2, 3); got {tuple(box.shape)}")
    if not bool((box[1] > box[0]).all()):
        raise ValueError(f"the upper corner {box[1].tolist()} of the box must be above the lower {box[0].tolist()}")
    return box.detach().clone().to(torch.float32)
