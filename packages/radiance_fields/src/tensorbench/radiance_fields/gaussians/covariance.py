"""Rotations and covariances of 3-D Gaussians: quaternions (w, x, y, z), Σ = R S Sᵀ Rᵀ.

After Kerbl, Kopanas, Leimkühler, Drettakis, "3D Gaussian Splatting for Real-Time Radiance Field Rendering" (2023,
arXiv 2308.04079), section 4: a covariance is kept as a scale s (standard deviations along three axes) and a unit
quaternion q, so that every step of an optimizer leaves it positive definite.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TINY = 1e-12  # a quaternion shorter than this has no direction


def unit_quaternion(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """q / |q|, and the identity (1, 0, 0, 0) where q is zero (there it has no direction, and no gradient)."""
    length = q.norm(dim=-1, keepdim=True)
    none = length < TINY
    one = torch.zeros_like(q)
    one[..., 0] = 1
    return torch.where(none, one, q / torch.where(none, torch.ones_like(length), length))


def rotation_matrix(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation of a quaternion of any length but zero, which counts as the identity."""
    w, x, y, z = unit_quaternion(q).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def quaternion_product(p: Float[Tensor, "*batch 4"], q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Hamilton's product p q: first the rotation q, then p."""
    pw, px, py, pz = p.unbind(-1)
    qw, qx, qy, qz = q.unbind(-1)
    parts = [
        pw * qw - px * qx - py * qy - pz * qz,
        pw * qx + px * qw + py * qz - pz * qy,
        pw * qy - px * qz + py * qw + pz * qx,
        pw * qz + px * qy - py * qx + pz * qw,
    ]
    return torch.stack(parts, dim=-1)


def axis_angle_matrix(v: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rodrigues' formula: by |v| radians about v. Differentiable at 0."""
    square = (v * v).sum(-1)[..., None, None]
    small = square < 1e-8
    safe = torch.where(small, torch.ones_like(square), square)
    angle = safe.sqrt()
    a = torch.where(small, 1 - square / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - square / 24, (1 - angle.cos()) / safe)
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    return torch.eye(3, dtype=v.dtype, device=v.device) + a * cross + b * (cross @ cross)


def covariance(q: Float[Tensor, "*batch 4"], scale: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Σ = R S Sᵀ Rᵀ with the rotation of ``q`` and standard deviations ``scale``."""
    half = rotation_matrix(q) * scale[..., None, :]
    return half @ half.mT


def frame_quaternion(normal: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4"]:
    """The shortest rotation that takes the z axis to ``normal`` (unit vectors): Gaussians that lie flat on a surface.

    Where the normal is -z a half turn about x is taken.
    """
    x, y, z = normal.unbind(-1)
    zero = torch.zeros_like(x)
    q = torch.stack([1 + z, -y, x, zero], dim=-1)
    half_turn = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=q.dtype, device=q.device)
    return unit_quaternion(torch.where((1 + z < 1e-6)[..., None], half_turn, q))
