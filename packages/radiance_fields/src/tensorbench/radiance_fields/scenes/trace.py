"""Exact views of analytic scenes by sphere tracing: colour, opacity, depth and normals.

From a point at signed distance d nothing is nearer than d, so a ray may go on by d (Hart 1996: Sphere tracing, The
Visual Computer 12). Pixels are averaged over a regular grid of subpixels; opacity is the share of subpixels that meet a
surface, or what soft density holds back (``smoke.py``). Depth and normals are those of the ray through the pixel's
centre.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tensorbench.radiance_fields.cameras import Camera, camera_rays
from tensorbench.radiance_fields.scenes.materials import Light, Material, blinn_phong
from tensorbench.radiance_fields.scenes.smoke import Blobs
from tensorbench.radiance_fields.scenes.solids import Shape
from tensorbench.radiance_fields.views import Views

Rays = Float[np.ndarray, "m 3"]
BOX = ((-1.5, -1.5, -1.5), (1.5, 1.5, 1.5))
TOUCH = 2e-4  # a ray has met a surface that is this near, in scene units


@dataclass(frozen=True)
class Solid:
    """A shape and what it is made of."""

    shape: Shape
    material: Material


@dataclass(frozen=True)
class Scene:
    """Solids and soft blobs in a box, under one light."""

    solids: tuple[Solid, ...]
    light: Light = field(default_factory=Light)
    blobs: Blobs | None = None
    box: tuple[tuple[float, float, float], tuple[float, float, float]] = BOX

    def distance(self, points: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, " m"]:
        """Signed distance to the nearest solid."""
        return np.minimum.reduce([solid.shape(points) for solid in self.solids])

    def nearest(self, points: Float[np.ndarray, "m 3"]) -> Int[np.ndarray, " m"]:
        """Which solid is nearest."""
        return np.argmin(np.stack([solid.shape(points) for solid in self.solids]), axis=0)

    def normals(self, points: Float[np.ndarray, "m 3"], step: float = 1e-3) -> Float[np.ndarray, "m 3"]:
        """Unit gradients of the distance, by differences to four points around (a tetrahedron)."""
        corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], dtype=points.dtype)
        gradient = sum(corner * self.distance(points + points.dtype.type(step) * corner)[:, None] for corner in corners)
        length = np.linalg.norm(gradient, axis=1, keepdims=True)
        return gradient / np.maximum(length, 1e-12)


@dataclass(frozen=True)
class Hits:
    """Where rays met a surface: ``hit``, and distances (infinite where there is none)."""

    hit: Bool[np.ndarray, " m"]
    t: Float[np.ndarray, " m"]


def through_box(scene: Scene, origins: Rays, directions: Rays) -> tuple[np.ndarray, np.ndarray]:
    """Distances at which rays enter and leave the box (leave < enter where they miss it)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        planes = (np.asarray(scene.box, origins.dtype)[:, None] - origins) / directions
    enter = np.nanmax(planes.min(axis=0), axis=1)
    leave = np.nanmin(planes.max(axis=0), axis=1)
    return np.maximum(enter, 0), leave


def intersect(scene: Scene, origins: Rays, directions: Rays, *, steps: int = 400) -> Hits:
    """First surface along rays with unit directions, within the box.

    A ray that is still on its way after ``steps`` grazes a surface; it counts as a hit where it is within a few times
    the tolerance of one.

    Raises:
        ValueError: a ray that starts inside a solid.
    """
    if len(origins) and float(scene.distance(origins[:: max(1, len(origins) // 64)]).min()) < -TOUCH:
        raise ValueError("rays start inside a solid: a camera is in an object; move it out")
    enter, leave = through_box(scene, origins, directions)
    t = np.where(leave > enter, enter, np.inf).astype(origins.dtype)
    hit = np.zeros(len(t), dtype=bool)
    active = np.flatnonzero(np.isfinite(t))
    for _ in range(steps):
        if not len(active):
            break
        at = origins[active] + t[active, None] * directions[active]
        distance = scene.distance(at)
        touching = distance < TOUCH
        hit[active[touching]] = True
        t[active] += distance
        gone = t[active] > leave[active]
        active = active[~touching & ~gone]
    if len(active):
        hit[active] = scene.distance(origins[active] + t[active, None] * directions[active]) < 4 * TOUCH
    return Hits(hit, np.where(hit, t, np.inf).astype(origins.dtype))


def lit(scene: Scene, points: Rays, normals: Rays) -> Float[np.ndarray, " m"]:
    """Share of the light that reaches points on surfaces: 0 behind a solid, less than 1 behind blobs."""
    towards = np.broadcast_to(scene.light.unit.astype(points.dtype), points.shape)
    result = np.zeros(len(points), dtype=points.dtype)
    facing = np.flatnonzero(np.einsum("ij,ij->i", normals, towards) > 0)
    if not len(facing):
        return result
    start = points[facing] + points.dtype.type(10 * TOUCH) * normals[facing]
    free = ~intersect_from_surface(scene, start, towards[facing])
    result[facing[free]] = 1
    if scene.blobs is not None and free.any():
        _, leave = through_box(scene, start[free], towards[facing[free]])
        depth = scene.blobs.optical_depth(start[free], towards[facing[free]], np.zeros(len(leave)), leave)
        result[facing[free]] = np.exp(-depth)
    return result


def intersect_from_surface(
    scene: Scene, origins: Rays, directions: Rays, *, steps: int = 500
) -> Bool[np.ndarray, " m"]:
    """Whether anything is in the way to the light; short steps at first, since the ray starts next to a surface."""
    _, leave = through_box(scene, origins, directions)
    t = np.zeros(len(origins), dtype=origins.dtype)
    blocked = np.zeros(len(origins), dtype=bool)
    active = np.arange(len(origins))
    for _ in range(steps):
        if not len(active):
            break
        distance = scene.distance(origins[active] + t[active, None] * directions[active])
        touching = distance < TOUCH
        blocked[active[touching]] = True
        t[active] += np.maximum(distance, TOUCH)
        active = active[~touching & (t[active] <= leave[active])]
    return blocked


def shade(scene: Scene, points: Rays, normals: Rays, directions: Rays) -> Float[np.ndarray, "m 3"]:
    """Colours of surface points seen along ``directions``, shadows included."""
    light = lit(scene, points, normals)
    which = scene.nearest(points)
    colours = np.zeros_like(points)
    for index, solid in enumerate(scene.solids):
        rows = which == index
        if rows.any():
            colours[rows] = blinn_phong(
                solid.material, scene.light, points[rows], normals[rows], directions[rows], light[rows]
            )
    return colours


def trace(
    scene: Scene, origins: Rays, directions: Rays
) -> tuple[Float[np.ndarray, "m 3"], Float[np.ndarray, " m"], Float[np.ndarray, " m"], Float[np.ndarray, "m 3"]]:
    """What rays see: colour times opacity, opacity, distance and normal (infinite and 0 where nothing is met).

    Where soft density is in the way, the distance is the mean of where the light that arrives comes from.
    """
    found = intersect(scene, origins, directions) if scene.solids else Hits(*_nothing(origins))
    colours, normals = np.zeros_like(origins), np.zeros_like(origins)
    if found.hit.any():
        seen = found.hit
        points = origins[seen] + found.t[seen, None] * directions[seen]
        normals[seen] = scene.normals(points)
        colours[seen] = shade(scene, points, normals[seen], directions[seen])
    alpha, depth = found.hit.astype(origins.dtype), found.t
    if scene.blobs is None:
        return colours, alpha, depth, normals
    enter, leave = through_box(scene, origins, directions)
    end = np.minimum(found.t, np.maximum(leave, enter))
    glow, passing, moment = scene.blobs.emit(origins, directions, enter, end)
    alpha = 1 - passing * (1 - alpha)
    reach = moment + np.where(found.hit, passing * np.where(found.hit, found.t, 0), 0)
    depth = np.where(alpha > 1e-3, reach / np.maximum(alpha, 1e-3), np.inf)
    kind = origins.dtype
    return (glow + passing[:, None] * colours).astype(kind), alpha.astype(kind), depth.astype(kind), normals


def _nothing(origins: Rays) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(len(origins), dtype=bool), np.full(len(origins), np.inf, dtype=origins.dtype)


def render(
    scene: Scene, camera: Camera, c2w: Float[np.ndarray, "n 4 4"], *, supersample: int = 2, background: float = 1.0
) -> Views:
    """Views from poses: ``supersample``² rays a pixel for colour and opacity, one through its centre for the rest.

    Raises:
        ValueError: a camera inside a solid, or subpixels that make no sense.
    """
    if supersample < 1:
        raise ValueError(f"supersample {supersample} must be at least 1 ray a side of a pixel")
    if not 0 <= background <= 1:
        raise ValueError(f"background {background} is a grey value in [0, 1]")
    height, width = camera.height, camera.width
    fine = camera.scaled(supersample)
    images, alphas, depths, normals = [], [], [], []
    for number, pose in enumerate(c2w):
        if scene.solids and float(scene.distance(pose[None, :3, 3].astype(np.float64))[0]) <= 0:
            raise ValueError(f"camera {number} at {pose[:3, 3].tolist()} is inside an object; move it out")
        colour, alpha, t, normal = trace(scene, *_rays(fine, pose))
        blocks = (height, supersample, width, supersample)
        opacity = alpha.reshape(blocks).mean(axis=(1, 3))
        premultiplied = colour.reshape(*blocks, 3).mean(axis=(1, 3))
        images.append(premultiplied + (1 - opacity)[..., None] * background)
        alphas.append(opacity)
        if supersample % 2:  # the middle subpixel is the pixel's centre
            middle = supersample // 2
            t = t.reshape(blocks)[:, middle, :, middle]
            normal = normal.reshape(*blocks, 3)[:, middle, :, middle]
        else:
            t, normal = _surfaces(scene, *_rays(camera, pose))
        depths.append(t.reshape(height, width))
        normals.append(normal.reshape(height, width, 3))
    parts = [np.stack(part).astype(np.float32) for part in (images, alphas, depths, normals)]
    return Views(np.clip(parts[0], 0, 1), np.clip(parts[1], 0, 1), c2w.astype(np.float32), camera, parts[2], parts[3])


def _surfaces(scene: Scene, origins: Rays, directions: Rays) -> tuple[np.ndarray, np.ndarray]:
    """Distances and normals alone: no colours, no shadows."""
    if scene.blobs is not None:
        _, _, t, normals = trace(scene, origins, directions)
        return t, normals
    found = intersect(scene, origins, directions)
    normals = np.zeros_like(origins)
    points = origins[found.hit] + found.t[found.hit, None] * directions[found.hit]
    normals[found.hit] = scene.normals(points)
    return found.t, normals


def _rays(camera: Camera, pose: Float[np.ndarray, "4 4"]) -> tuple[np.ndarray, np.ndarray]:
    origins, directions = camera_rays(camera, torch.from_numpy(np.ascontiguousarray(pose, dtype=np.float32)))
    return origins.numpy(), directions.numpy()


def occupancy(scene: Scene, n: int, *, cover: bool = False, threshold: float = 0.1) -> Bool[np.ndarray, "n n n"]:
    """Which of n³ cells of the box are full, indexed [x, y, z]: centre in a solid, or soft density above ``threshold``.

    ``cover``: every cell that a solid may touch counts (its centre within half a diagonal), for skipping safely.
    """
    if n < 1:
        raise ValueError(f"n {n} must be at least 1 cell a side")
    low, high = np.asarray(scene.box)
    axes = [low[k] + (high[k] - low[k]) * (np.arange(n) + 0.5) / n for k in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    full = np.zeros(len(points), dtype=bool)
    if scene.solids:
        reach = 0.5 * float(np.linalg.norm((high - low) / n)) if cover else 0.0
        full |= scene.distance(points) <= reach
    if scene.blobs is not None:
        full |= scene.blobs.density(points) > threshold
    return full.reshape(n, n, n)
