"""Pinhole cameras, their rays, and poses to look from.

The convention is OpenGL's, as in NeRF's Blender files: a pose is a camera-to-world matrix (4 × 4) whose columns are
right (x), up (y), backwards (z) and the position; the camera looks along -z, and row 0 of an image is its top. Pixel
(i, j) is a square whose centre is at (j + 0.5, i + 0.5); the code of the NeRF paper (Mildenhall et al. 2020,
arXiv 2003.08934) leaves the half out, which is an option here. Lengths are in the units of the scene.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLENDER_RADIUS = 4.0311  # distance of NeRF-synthetic's cameras from the origin
BLENDER_ANGLE_X = 0.6911112070083618  # their horizontal field of view in radians


@dataclass(frozen=True)
class Camera:
    """Image size and focal length in pixels; square pixels, principal point in the middle."""

    width: int
    height: int
    focal: float

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"an image of {self.width} × {self.height} pixels has none; both must be at least 1")
        if not (math.isfinite(self.focal) and self.focal > 0):
            raise ValueError(f"focal length {self.focal} must be positive, in pixels")

    @classmethod
    def from_angle(cls, width: int, height: int, angle_x: float = BLENDER_ANGLE_X) -> Camera:
        """From the horizontal field of view in radians (``camera_angle_x`` of the Blender files)."""
        if not 0 < angle_x < math.pi:
            raise ValueError(f"field of view {angle_x} must be between 0 and pi radians")
        return cls(width, height, 0.5 * width / math.tan(0.5 * angle_x))

    def scaled(self, factor: float) -> Camera:
        """The same view with ``factor`` times as many pixels a side (whole numbers must come out)."""
        width, height = self.width * factor, self.height * factor
        if abs(width - round(width)) > 1e-6 or abs(height - round(height)) > 1e-6:
            raise ValueError(f"{self.width} × {self.height} pixels times {factor} are no whole numbers")
        return Camera(round(width), round(height), self.focal * factor)


def check_poses(c2w: Float[Tensor, "*batch 4 4"], tolerance: float = 1e-3) -> None:
    """ValueError unless every pose is finite, has a rotation and the last row 0 0 0 1."""
    if c2w.shape[-2:] != (4, 4):
        raise ValueError(f"poses are 4 × 4 camera-to-world matrices, got shape {tuple(c2w.shape)}")
    if not bool(torch.isfinite(c2w).all()):
        raise ValueError("a camera pose holds NaN or infinity")
    rotation = c2w[..., :3, :3]
    off = (rotation.transpose(-1, -2) @ rotation - torch.eye(3, dtype=c2w.dtype, device=c2w.device)).abs().amax()
    if float(off) > tolerance or float(torch.linalg.det(rotation).min()) < 0:
        raise ValueError(
            f"a camera pose is no rotation and translation (R'R is off by {float(off):.2g}, or a mirror image)"
        )
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=c2w.dtype, device=c2w.device)
    if float((c2w[..., 3, :] - last).abs().amax()) > tolerance:
        raise ValueError("the last row of a pose must be 0 0 0 1")


def camera_rays(
    camera: Camera,
    c2w: Float[Tensor, "*batch 4 4"],
    pixels: Int[Tensor, "*batch rays 2"] | None = None,
    *,
    half_pixel: bool = True,
) -> tuple[Float[Tensor, "*batch rays 3"], Float[Tensor, "*batch rays 3"]]:
    """Origins and unit directions of the rays through ``pixels`` (row, column), or through all of them row by row.

    Differentiable in ``c2w``. Pixels may have no batch axes: then they are the same for every pose.

    Raises:
        ValueError: pixels outside the image.
    """
    if pixels is None:
        rows, columns = torch.meshgrid(
            torch.arange(camera.height, device=c2w.device), torch.arange(camera.width, device=c2w.device), indexing="ij"
        )
        pixels = torch.stack([rows, columns], dim=-1).reshape(-1, 2)
    elif pixels.numel() and (
        int(pixels.min()) < 0 or int(pixels[..., 0].max()) >= camera.height or int(pixels[..., 1].max()) >= camera.width
    ):
        raise ValueError(f"pixels (row, column) outside an image of {camera.height} rows, {camera.width} columns")
    at = pixels.to(c2w.dtype) + (0.5 if half_pixel else 0.0)
    x = (at[..., 1] - 0.5 * camera.width) / camera.focal
    y = (0.5 * camera.height - at[..., 0]) / camera.focal
    local = torch.stack([x, y, -torch.ones_like(x)], dim=-1)
    directions = local @ c2w[..., :3, :3].transpose(-1, -2)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    return c2w[..., None, :3, 3].expand_as(directions), directions


def project(
    camera: Camera, c2w: Float[Tensor, "4 4"], points: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Image coordinates (column, row), pixel centres at halves, and depth along the viewing axis (positive ahead)."""
    local = (points - c2w[:3, 3]) @ c2w[:3, :3]
    depth = -local[:, 2]
    column = camera.focal * local[:, 0] / depth + 0.5 * camera.width
    row = 0.5 * camera.height - camera.focal * local[:, 1] / depth
    return torch.stack([column, row], dim=-1), depth


def ndc_rays(
    camera: Camera, near: float, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Rays of forward-facing scenes in normalised device coordinates (NeRF, appendix C): depth near..∞ becomes 0..1.

    Directions are not of unit length afterwards: t runs from 0 at the near plane to 1 at infinity.
    """
    if near <= 0:
        raise ValueError(f"near {near} must be positive")
    t = -(near + origins[:, 2]) / directions[:, 2]
    o = origins + t[:, None] * directions
    scale_x, scale_y = 2 * camera.focal / camera.width, 2 * camera.focal / camera.height
    start = torch.stack([-scale_x * o[:, 0] / o[:, 2], -scale_y * o[:, 1] / o[:, 2], 1 + 2 * near / o[:, 2]], dim=-1)
    ratio = directions / directions[:, 2:]
    step = torch.stack(
        [
            -scale_x * (ratio[:, 0] - o[:, 0] / o[:, 2]),
            -scale_y * (ratio[:, 1] - o[:, 1] / o[:, 2]),
            -2 * near / o[:, 2],
        ],
        dim=-1,
    )
    return start, step


def look_at(
    eye: Float[Tensor, "*batch 3"],
    target: Float[Tensor, "*batch 3"] | None = None,
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> Float[Tensor, "*batch 4 4"]:
    """The pose at ``eye`` that looks at ``target`` (the origin), with ``up`` upwards in the image.

    Raises:
        ValueError: the eye is at the target, or looks along ``up``.
    """
    target = torch.zeros_like(eye) if target is None else target
    back = eye - target
    upwards = torch.tensor(up, dtype=eye.dtype, device=eye.device).expand_as(eye)
    right = torch.linalg.cross(upwards, back)
    if float(back.norm(dim=-1).min()) < 1e-9 or float(right.norm(dim=-1).min()) < 1e-9:
        raise ValueError(
            "a camera at its target or looking along `up` has no orientation; move it or choose another up"
        )
    back = back / back.norm(dim=-1, keepdim=True)
    right = right / right.norm(dim=-1, keepdim=True)
    pose = torch.zeros(*eye.shape[:-1], 4, 4, dtype=eye.dtype, device=eye.device)
    pose[..., :3, :] = torch.stack([right, torch.linalg.cross(back, right), back, eye], dim=-1)
    pose[..., 3, 3] = 1.0
    return pose


def sphere_poses(
    n: int, radius: float = BLENDER_RADIUS, generator: torch.Generator | None = None, *, upper: bool = True
) -> Float[Tensor, "n 4 4"]:
    """Cameras at random on a sphere (its upper half), uniform in area, that look at the origin.

    Directions within about 8 degrees of the poles are not drawn: there an image has no upright.
    """
    if n < 1 or radius <= 0:
        raise ValueError(f"n {n} must be at least 1 and radius {radius} positive")
    u = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    z = (0.02 + 0.97 * u[:, 0]) if upper else (1.98 * u[:, 0] - 0.99)
    angle = 2 * math.pi * u[:, 1]
    flat = (1 - z.square()).sqrt()
    eye = radius * torch.stack([flat * angle.cos(), flat * angle.sin(), z], dim=-1)
    return look_at(eye.float())


def orbit(n: int, radius: float = BLENDER_RADIUS, elevation: float = 30.0) -> Float[Tensor, "n 4 4"]:
    """Cameras on a circle around the z axis, ``elevation`` degrees above the plane, that look at the origin."""
    if not -89 < elevation < 89:
        raise ValueError(f"elevation {elevation} must be between -89 and 89 degrees")
    angle = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    height = math.radians(elevation)
    eye = radius * torch.stack(
        [math.cos(height) * angle.cos(), math.cos(height) * angle.sin(), torch.full_like(angle, math.sin(height))],
        dim=-1,
    )
    return look_at(eye.float())
