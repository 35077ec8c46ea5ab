"""From 3-D Gaussians to ellipses in the picture (EWA splatting).

After Zwicker, Pfister, van Baar, Gross, "EWA splatting" (2002), in the form of Kerbl et al. (2023, arXiv 2308.04079),
eq. 5: with the rotation W of the camera and the Jacobian J of the perspective division at the centre,

    Σ' = J W Σ Wᵀ Jᵀ + 0.3 I   (pixels²),

where 0.3 stands for the extent of a pixel. Cameras follow ``radiance_fields.cameras`` (OpenGL: x right, y up, looking
along -z); pictures have their origin at the upper left corner and pixel centres at half numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tensorbench.radiance_fields.cameras import Camera

DILATION = 0.3  # pixels²
MARGIN = 0.3  # share of half the picture beyond which the Jacobian is that of the margin


@dataclass(frozen=True)
class Projected:
    """Gaussians in a picture. ``conic`` is (a, b, c) of the inverse covariance [[a, b], [b, c]] in pixels⁻²;
    ``spread`` the standard deviations along x and y; ``depth`` the distance along the axis of the camera."""

    mean: Float[Tensor, "*batch n 2"]
    conic: Float[Tensor, "*batch n 3"]
    spread: Float[Tensor, "*batch n 2"]
    depth: Float[Tensor, "*batch n"]
    visible: Bool[Tensor, "*batch n"]


def world_to_camera(c2w: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """The inverse pose with y down and z ahead, as gsplat and OpenCV want it. (An inverse and no transpose: a principal
    point that is not in the middle of the picture may be kept as a shear of the pose.)"""
    flip = torch.tensor([1.0, -1.0, -1.0], dtype=c2w.dtype, device=c2w.device)
    rotation = flip[:, None] * torch.linalg.inv(c2w[..., :3, :3])
    shift = -(rotation @ c2w[..., :3, 3:])
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=c2w.dtype, device=c2w.device).expand(*c2w.shape[:-2], 1, 4)
    return torch.cat([torch.cat([rotation, shift], dim=-1), last], dim=-2)


def intrinsics(camera: Camera, like: Tensor) -> Float[Tensor, "3 3"]:
    """K, with the principal point at the centre of the picture."""
    f, cx, cy = float(camera.focal), camera.width / 2, camera.height / 2
    return torch.tensor([[f, 0.0, cx], [0.0, f, cy], [0.0, 0.0, 1.0]], dtype=like.dtype, device=like.device)


def project(
    means: Float[Tensor, "*batch n 3"],
    covariances: Float[Tensor, "*batch n 3 3"],
    camera: Camera,
    c2w: Float[Tensor, "*batch 4 4"],
    *,
    dilation: float = DILATION,
    near: float = 0.01,
) -> Projected:
    """Project Gaussians, one pose of the camera for each batch element.

    Those nearer than ``near`` (or behind the camera) are not visible; their other numbers are finite and mean nothing.

    Raises:
        ValueError: shapes that do not fit. (A focal length that is not positive is refused by the camera.)
    """
    if covariances.shape != (*means.shape, 3):
        raise ValueError(f"covariances {tuple(covariances.shape)} do not fit means {tuple(means.shape)}")
    view = world_to_camera(c2w)
    rotation = view[..., None, :3, :3]
    local = (rotation @ means[..., None])[..., 0] + view[..., None, :3, 3]
    depth = local[..., 2]
    visible = depth > near
    z = torch.where(visible, depth, torch.ones_like(depth))
    f, half_x, half_y = float(camera.focal), camera.width / 2, camera.height / 2
    x, y = local[..., 0], local[..., 1]
    # Far outside of the picture the linearisation is meaningless; there it is that of a point near the border.
    limit_x, limit_y = (1 + MARGIN) * half_x / f, (1 + MARGIN) * half_y / f
    tx, ty = (x / z).clamp(-limit_x, limit_x), (y / z).clamp(-limit_y, limit_y)
    zero = torch.zeros_like(z)
    rows = [torch.stack([f / z, zero, -f * tx / z], dim=-1), torch.stack([zero, f / z, -f * ty / z], dim=-1)]
    jacobian = torch.stack(rows, dim=-2) @ rotation
    flat = jacobian @ covariances @ jacobian.mT
    xx, yy, xy = flat[..., 0, 0] + dilation, flat[..., 1, 1] + dilation, flat[..., 0, 1]
    determinant = (xx * yy - xy * xy).clamp(min=1e-10)
    return Projected(
        mean=torch.stack([f * x / z + half_x, f * y / z + half_y], dim=-1),
        conic=torch.stack([yy / determinant, -xy / determinant, xx / determinant], dim=-1),
        spread=torch.stack([xx, yy], dim=-1).detach().sqrt(),
        depth=depth,
        visible=visible,
    )
