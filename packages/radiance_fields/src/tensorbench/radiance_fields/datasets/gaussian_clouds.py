"""Clouds of random Gaussians, to time a splatter on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float

from tensorbench.core.data import dataset

if TYPE_CHECKING:
    from torch import Tensor

    from tensorbench.radiance_fields.cameras import Camera


@dataclass(frozen=True)
class Cloud:
    """Gaussians with quaternions, standard deviations, colours and opacities, and a camera that sees them all."""

    means: Float[Tensor, "n 3"]
    quaternions: Float[Tensor, "n 4"]
    scales: Float[Tensor, "n 3"]
    colors: Float[Tensor, "n 3"]
    opacity: Float[Tensor, "n"]
    camera: Camera
    c2w: Float[Tensor, "4 4"]


@dataset(title="Random Gaussians", source="generated here", licence="Apache-2.0", generated=True)
def gaussian_cloud(*, seed: int, gaussians: int = 1000, size: int = 64, spread: float = 0.4) -> Cloud:
    """Centres normal around the origin, standard deviations 0.02 to 0.06 of a body of about two metres."""
    import torch

    from tensorbench.radiance_fields.cameras import Camera, look_at

    g = torch.Generator().manual_seed(seed)
    return Cloud(
        means=torch.randn(gaussians, 3, generator=g) * spread,
        quaternions=torch.randn(gaussians, 4, generator=g),
        scales=torch.rand(gaussians, 3, generator=g) * 0.04 + 0.02,
        colors=torch.rand(gaussians, 3, generator=g),
        opacity=torch.rand(gaussians, generator=g) * 0.9 + 0.05,
        camera=Camera(size, size, 1.5 * size),
        c2w=look_at(torch.tensor([0.5, 0.4, 3.0]), up=(0.0, 1.0, 0.0)),
    )
