"""Points near the surfaces of a scene, from one coarse reconstruction that methods share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from tensorbench.core import data
from tensorbench.core.data import dataset


@dataset(
    title="Points near a scene's surfaces",
    source="generated here: a dense grid of densities, trained on the scene's pictures for a moment",
    licence="Apache-2.0",
    generated=True,
    cache=True,
)
def surface_points(
    *,
    seed: int,
    scene: str = "spheres",
    size: int = 64,
    train: int = 40,
    valid: int = 5,
    test: int = 5,
    steps: int = 150,
    resolution: int = 48,
    rays: int = 512,
    samples: int = 96,
    threshold: float = 0.1,
) -> Float[np.ndarray, "m 3"]:
    """Opaque nodes of the coarse grid, for the scene that ``analytic_scene`` makes of the same parameters."""
    import torch

    from tensorbench.radiance_fields import strivec

    views = data.load("analytic_scene", seed=seed, scene=scene, size=size, train=train, valid=valid, test=test)
    points = strivec.surface_points(
        views, generator=torch.Generator().manual_seed(seed), steps=steps, resolution=resolution, rays=rays,
        samples=samples, threshold=threshold,
    )  # fmt: skip
    return points.numpy()
