"""The rays of a distillation: from random cameras, and as an option from where the student errs most.

Progressive volume distillation looks at no photograph: a teacher can be rendered from anywhere (Fang et al. 2022, arXiv
2211.15977). Revisiting the hardest rays is the ray level of its successor's active learning (PVD-AL, Fang
et al. 2023, arXiv 2304.04012); its levels of poses and points are not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.radiance_fields.cameras import Camera, camera_rays, sphere_poses
from tensorbench.radiance_fields.training import background_of


@dataclass(frozen=True)
class View:
    """How a scene is looked at: what a distillation needs to know of a data set, and it holds no picture."""

    camera: Camera
    near: float
    far: float
    background: Float[Tensor, "3"]

    @staticmethod
    def of(data: Any) -> View:
        """Of a scene's training camera (``data.train.camera``), distances and background."""
        return View(data.train.camera, float(data.near), float(data.far), background_of(data).clone())


def random_poses(
    n: int, *, radius: float = 4.0, upper: bool = True, generator: torch.Generator | None = None
) -> Float[Tensor, "n 4 4"]:
    """Cameras on a sphere (its upper half) that look at the origin."""
    if radius <= 0:
        raise ValueError(f"radius {radius} must be positive")
    return sphere_poses(n, radius=radius, generator=generator, upper=upper)


class RandomRays:
    """Rays through random pixels of random cameras, new ones each time.

    With ``hard`` > 0 that share of each batch is drawn from the ``pool`` rays with the largest errors of those that
    :meth:`learn` was told of.
    """

    def __init__(
        self,
        camera: Camera,
        *,
        radius: float = 4.0,
        upper: bool = True,
        poses_a_batch: int = 8,
        hard: float = 0.0,
        pool: int = 1024,
        generator: torch.Generator | None = None,
    ) -> None:
        if not 0 <= hard < 1:
            raise ValueError(f"hard {hard} is a share of the batch and must be in [0, 1)")
        if poses_a_batch < 1:
            raise ValueError(f"poses_a_batch {poses_a_batch} must be at least 1")
        self.camera, self.radius, self.upper, self.poses_a_batch = camera, radius, upper, poses_a_batch
        self.hard, self.pool, self.generator = hard, pool, generator
        self._hardest: tuple[Tensor, Tensor, Tensor] | None = None

    def draw(self, n: int) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Origins and unit directions."""
        again = 0 if self._hardest is None else min(round(self.hard * n), len(self._hardest[0]))
        origins, directions = self._fresh(n - again)
        if again and self._hardest is not None:
            which = torch.randperm(len(self._hardest[0]), generator=self.generator)[:again]
            origins = torch.cat((origins, self._hardest[0][which]))
            directions = torch.cat((directions, self._hardest[1][which]))
        return origins, directions

    def _fresh(self, n: int) -> tuple[Tensor, Tensor]:
        count = min(self.poses_a_batch, n)
        poses = random_poses(count, radius=self.radius, upper=self.upper, generator=self.generator)
        each = -(-n // count)
        size = torch.tensor([self.camera.height, self.camera.width])
        pixels = (torch.rand(count, each, 2, generator=self.generator) * size).long()
        origins, directions = camera_rays(self.camera, poses, pixels)
        return origins.reshape(-1, 3)[:n], directions.reshape(-1, 3)[:n]

    def learn(
        self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], errors: Float[Tensor, "n"]
    ) -> None:
        """Remember the rays of a batch that the student got most wrong."""
        if not self.hard:
            return
        rays = (origins.detach().cpu(), directions.detach().cpu(), errors.detach().cpu())  # where new rays are drawn
        if self._hardest is not None:
            rays = tuple(torch.cat(pair) for pair in zip(self._hardest, rays, strict=True))  # type: ignore[assignment]
        best = rays[2].topk(min(self.pool, len(rays[2]))).indices
        # What is remembered fades, so that a ray that has been learnt since leaves the pool.
        self._hardest = (rays[0][best], rays[1][best], rays[2][best] * 0.9)
