"""The same pictures by gsplat's rasteriser, for GPUs: nerfstudio-project/gsplat (Apache-2.0), extra ``bench``."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.radiance_fields.cameras import Camera
from tensorbench.radiance_fields.gaussians.projection import DILATION, intrinsics, world_to_camera
from tensorbench.radiance_fields.gaussians.splatter import Splat


def render_gsplat(
    means: Float[Tensor, "n 3"],
    covariances: Float[Tensor, "n 3 3"],
    colors: Float[Tensor, "n c"],
    opacity: Float[Tensor, "n"],
    camera: Camera,
    c2w: Float[Tensor, "v 4 4"],
    *,
    background: Float[Tensor, "c"] | None = None,
    dilation: float = DILATION,
) -> Splat:
    """One cloud of Gaussians in v views. Its cap of α is 0.999 where ours is 0.99; all else is the same formula.

    Raises:
        ImportError: gsplat is not installed.
        RuntimeError: tensors that are not on a CUDA device: gsplat has no kernels for others.
    """
    from gsplat import rasterization  # heavy, and compiled on its first use

    if means.device.type != "cuda":
        raise RuntimeError(f"gsplat rasterises on CUDA devices only, the means are on {means.device}; use render()")
    views = len(c2w)
    image, alpha, _ = rasterization(
        means, None, None, opacity, colors,
        viewmats=world_to_camera(c2w), Ks=intrinsics(camera, means).expand(views, 3, 3),
        width=camera.width, height=camera.height, eps2d=dilation, covars=covariances, near_plane=0.01,
        backgrounds=None if background is None else background.to(means).expand(views, -1), packed=False,
    )  # fmt: skip
    return Splat(image, torch.squeeze(alpha, -1))
