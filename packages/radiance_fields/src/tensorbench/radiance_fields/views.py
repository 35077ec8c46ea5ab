"""Posed images and what a scene gives to train and test on; arrays, so that they can be cached."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:  # lists of datasets read this module, and torch takes seconds
    import torch
    from torch import Tensor

    from tensorbench.radiance_fields.cameras import Camera


@dataclass(frozen=True)
class Views:
    """Images in [0, 1] composited on the background, opacity, camera-to-world poses; distances along the rays.

    ``depth`` is the distance from the camera to the first surface in scene units, infinite where there is none;
    ``normals`` are unit vectors in world coordinates, 0 where there is none.
    """

    images: Float[np.ndarray, "n height width 3"]
    alpha: Float[np.ndarray, "n height width"]
    c2w: Float[np.ndarray, "n 4 4"]
    camera: Camera
    depth: Float[np.ndarray, "n height width"] | None = None
    normals: Float[np.ndarray, "n height width 3"] | None = None

    def __post_init__(self) -> None:
        import torch

        from tensorbench.radiance_fields.cameras import check_poses

        n, height, width = self.images.shape[:3]
        if not n:
            raise ValueError("no views")
        if (height, width) != (self.camera.height, self.camera.width) or self.images.shape[3:] != (3,):
            raise ValueError(
                f"images of {height} × {width} × {self.images.shape[3:]} do not fit a camera of "
                f"{self.camera.height} × {self.camera.width} pixels and three channels"
            )
        if self.alpha.shape != (n, height, width) or self.c2w.shape != (n, 4, 4):
            raise ValueError(f"{n} images, but opacity {self.alpha.shape} and poses {self.c2w.shape}")
        for name, part in (("an image", self.images), ("the opacity", self.alpha)):
            if not np.isfinite(part).all():
                raise ValueError(f"{name} holds NaN or infinity")
        check_poses(torch.from_numpy(self.c2w))

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: np.ndarray | list[int] | slice) -> Views:
        """Some of the views."""
        depth, normals = (None if part is None else part[rows] for part in (self.depth, self.normals))
        return replace(
            self, images=self.images[rows], alpha=self.alpha[rows], c2w=self.c2w[rows], depth=depth, normals=normals
        )

    def rays(
        self, device: torch.device | str = "cpu", *, half_pixel: bool = True
    ) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 3"], Float[Tensor, "rays 3"]]:
        """Origins, unit directions and colours of every pixel of every view, view by view and row by row."""
        import torch

        from tensorbench.radiance_fields.cameras import camera_rays

        poses = torch.as_tensor(self.c2w, dtype=torch.float32, device=device)
        origins, directions = camera_rays(self.camera, poses, half_pixel=half_pixel)
        colours = torch.as_tensor(self.images, dtype=torch.float32, device=device)
        return origins.reshape(-1, 3), directions.reshape(-1, 3), colours.reshape(-1, 3)


@dataclass(frozen=True)
class SceneData:
    """Views to train, validate and test on, the box (lowest, highest corner) that holds the scene, and the ray's range.

    ``background`` is the grey value that ``images`` are composited on (1 is white).
    """

    train: Views
    valid: Views
    test: Views
    box: Float[np.ndarray, "2 3"]
    near: float
    far: float
    background: float = 1.0

    def __post_init__(self) -> None:
        if self.box.shape != (2, 3) or not (self.box[0] < self.box[1]).all():
            raise ValueError(f"the box needs a lowest and a highest corner, got {self.box.tolist()}")
        if not 0 <= self.near < self.far:
            raise ValueError(f"near {self.near} and far {self.far} must be 0 <= near < far")

    def with_train(self, rows: np.ndarray | list[int] | slice) -> SceneData:
        """The same scene with some of the training views."""
        return replace(self, train=self.train.select(rows))
