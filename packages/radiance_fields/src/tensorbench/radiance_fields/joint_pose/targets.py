"""What the renderings are compared with: smoothed images, and weights that favour edges on every other step.

Joint-TensoRF (Cheng, Chiu and Liu 2024, arXiv 2402.13252; the options of the authors' code): the training images are
smoothed too, refreshed now and then and kept for each share of the pool; pixels whose Sobel magnitude is above 1.25
times the image's mean have the weight 1.5, the others 0.5, on even steps before a last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from tensorbench.radiance_fields.joint_pose.kernels import blur_images, make_kernel
from tensorbench.radiance_fields.joint_pose.schedules import pixel_sigma

_SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))
_LEAST = 0.01  # pixels; a narrower kernel leaves the images as they are (the reference's)


def sobel(images: Float[Tensor, "n h w c"]) -> Float[Tensor, "n h w"]:
    """Magnitude of the Sobel gradient, summed over colours, the border repeated."""
    grey = images.sum(-1)[:, None]
    across = torch.tensor(_SOBEL, dtype=images.dtype, device=images.device)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    gx = F.conv2d(padded, across[None, None])
    gy = F.conv2d(padded, across.mT[None, None].contiguous())
    return torch.sqrt(gx**2 + gy**2)[:, 0]


@dataclass(frozen=True)
class EdgeMask:
    """Which pixels are edges, what they weigh, and until which step."""

    threshold: float = 1.25
    edge: float = 1.5
    rest: float = 0.5
    until: float = 0.2  # share of the steps; the reference's 8000 of 40,000

    def edges(self, images: Float[Tensor, "n h w c"]) -> Bool[Tensor, "n h w"]:
        """True where the gradient is above ``threshold`` times the image's mean gradient."""
        size = sobel(images)
        return size > self.threshold * size.mean((1, 2), keepdim=True)

    def weights(self, images: Float[Tensor, "n h w c"]) -> Float[Tensor, "n h w"]:
        """The weight of every pixel."""
        return torch.where(self.edges(images), self.edge, self.rest).to(images.dtype)

    def active(self, step: int, steps: int) -> bool:
        """Even steps (from 0) before the last masked one."""
        return step % 2 == 0 and step < self.until * steps


class BlurredTargets:
    """Images smoothed by each share of a pool of the scheduled width, refreshed every few steps; edge weights along.

    ``mask_scale``: the share whose smoothed images the edges are found in (the reference's: 1).
    """

    def __init__(
        self, images: Float[Tensor, "n h w c"], pool: Sequence[float], *, kind: str = "gaussian", every: int = 500,
        mask: EdgeMask | None = None, taps: int | None = None, mask_scale: float = 1.0,
    ) -> None:  # fmt: skip
        if every < 1:
            raise ValueError(f"every {every} must be at least 1 step")
        self._images, self._pool, self._kind, self._every, self._taps = images, tuple(pool), kind, every, taps
        self._mask, self._mask_scale = mask, mask_scale
        self._kept: dict[float, Tensor] = {}
        self.weights: Tensor | None = None

    def _smoothed(self, width: float) -> Tensor:
        h, w = self._images.shape[1:3]
        sigma = pixel_sigma(width, h, w)
        return self._images if sigma < _LEAST else blur_images(self._images, make_kernel(self._kind, sigma, self._taps))

    def refresh(self, step: int, width: float) -> None:
        """Call in every step with the scheduled width (shares of the mean side); works now and then."""
        if self._kept and step % self._every:
            return
        self._kept = {share: self._smoothed(width * share) for share in self._pool}
        if self._mask is not None:
            share = self._mask_scale
            smooth = self._kept[share] if share in self._kept else self._smoothed(width * share)
            self.weights = self._mask.weights(smooth)

    def at(self, share: float) -> Float[Tensor, "n h w c"]:
        """The images smoothed by a share of the pool."""
        if share not in self._kept:
            raise ValueError(f"share {share} is not in the pool {self._pool}, or refresh() was not called")
        return self._kept[share]
