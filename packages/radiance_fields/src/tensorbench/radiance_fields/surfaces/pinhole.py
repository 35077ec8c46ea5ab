"""A calibrated pinhole camera in the convention of the tracking data sets: x right, y down, looking along +z.

(The scenes of this package use OpenGL's axes; these data come as a 3 × 3 matrix K and, at times, a pose.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass(frozen=True)
class Pinhole:
    """Focal lengths and centre in pixels; ``rotation`` and ``translation`` take the points' frame to the camera's.

    Raises:
        ValueError: a focal length or size that is not positive, a rotation that is none.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    rotation: Float[np.ndarray, "3 3"] = field(default_factory=lambda: np.eye(3))
    translation: Float[np.ndarray, "3"] = field(default_factory=lambda: np.zeros(3))

    def __post_init__(self) -> None:
        if not (self.fx > 0 and self.fy > 0 and self.width > 0 and self.height > 0):
            raise ValueError(
                f"focal lengths {self.fx}, {self.fy} and size {self.width} × {self.height} must be positive"
            )
        if not np.allclose(self.rotation @ self.rotation.T, np.eye(3), atol=1e-5):
            raise ValueError("rotation is not orthogonal: its rows must be the camera's axes")
        if np.linalg.det(self.rotation) < 0:
            raise ValueError("rotation is a mirror image (its determinant is -1): one of the camera's axes points back")

    @classmethod
    def centred(cls, focal: float, width: int, height: int) -> Pinhole:
        """One focal length, the principal point in the middle of the picture."""
        return cls(focal, focal, width / 2, height / 2, width, height)

    @property
    def matrix(self) -> Float[np.ndarray, "3 3"]:
        """K."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    @property
    def still(self) -> bool:
        """Whether the points' frame is the camera's."""
        return bool(np.array_equal(self.rotation, np.eye(3)) and not self.translation.any())

    def in_frame(self, points: Array) -> Array:
        """Points in the camera's own coordinates."""
        if self.still:
            return points
        if isinstance(points, Tensor):
            rotation, translation = (torch.from_numpy(part).to(points) for part in (self.rotation, self.translation))
            return points @ rotation.T + translation
        return points @ self.rotation.T + self.translation

    def project(self, points: Array, nearest: float | None = None) -> Array:
        """Pixels of points (n, 3); with ``nearest`` depths are raised to it, for use within an optimisation.

        Raises:
            ValueError: points at or behind the camera (without ``nearest``).
        """
        local = self.in_frame(points)
        depth = local[..., 2:]
        if nearest is None:
            if bool((depth <= 0).any()):
                raise ValueError(f"{int((depth <= 0).sum())} points are at or behind the camera (depth <= 0)")
        elif isinstance(depth, Tensor):
            depth = depth.clamp_min(nearest)
        else:
            depth = np.maximum(depth, nearest)
        if isinstance(local, Tensor):
            scale, centre = (torch.tensor(p, dtype=local.dtype, device=local.device) for p in self._numbers())
            return local[..., :2] / depth * scale + centre
        scale, centre = map(np.asarray, self._numbers())
        return local[..., :2] / depth * scale + centre

    def _numbers(self) -> tuple[list[float], list[float]]:
        return [self.fx, self.fy], [self.cx, self.cy]

    def rays(self, pixels: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        """Directions with z = 1 through pixels, in the camera's coordinates."""
        flat = (pixels - [self.cx, self.cy]) / [self.fx, self.fy]
        return np.concatenate([flat, np.ones((len(flat), 1))], 1)
