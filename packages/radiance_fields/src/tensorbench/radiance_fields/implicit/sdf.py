"""Signed distances on grids: solids by boolean operations, meshes, losses, and how well a surface came out.

Distances are negative inside. The truncated loss looks at clamp(f, ±τ), as DeepSDF does (Park et al. 2019, arXiv
1901.05103, equation 4); the eikonal term asks for |∇f| = 1 (Gropp et al. 2020, arXiv 2002.10099), here on a grid where
a functional tensor (F-INR, arXiv 2503.21507) has its gradient for three more contractions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.implicit.functional import FunctionalTensor

Distance = Callable[[np.ndarray], np.ndarray]


def sphere(x: Float[np.ndarray, "*points 3"], radius: float = 0.6) -> Float[np.ndarray, "*points"]:
    """Exact distance to a sphere about the origin."""
    return np.linalg.norm(x, axis=-1) - radius


def box(x: Float[np.ndarray, "*points 3"], half: tuple[float, float, float]) -> Float[np.ndarray, "*points"]:
    """Exact distance to a box of half sides ``half``."""
    q = np.abs(x) - np.asarray(half)
    return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(axis=-1), 0)


def cylinder(x: Float[np.ndarray, "*points 3"], radius: float, axis: int) -> Float[np.ndarray, "*points"]:
    """Exact distance to an endless cylinder along a coordinate axis."""
    return np.linalg.norm(np.delete(x, axis, axis=-1), axis=-1) - radius


def csg(x: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points"]:
    """A rounded box with three bores, and a ball in its middle. Near the surface this is the distance but at the
    edges of the bores, elsewhere a lower bound of it."""
    body = np.maximum(box(x, (0.6, 0.6, 0.6)), sphere(x, 0.8))
    bores = np.min([cylinder(x, 0.36, axis) for axis in range(3)], axis=0)
    return np.minimum(np.maximum(body, -bores), sphere(x, 0.3))


SOLIDS: dict[str, Distance] = {"sphere": sphere, "csg": csg}


def on_grid(solid: str, n: int) -> Float[np.ndarray, "n n n"]:
    """Distances of a solid at the cell centres of [−1, 1]³. ValueError for an unknown solid."""
    if solid not in SOLIDS:
        raise ValueError(unknown("solid", solid, SOLIDS))
    axis = (2 * np.arange(n) + 1) / n - 1
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    return SOLIDS[solid](points).astype(np.float32)


def fitted_to_box(mesh: Any, half: float = 0.85) -> Any:
    """A trimesh moved and scaled so that its longest side runs from −``half`` to ``half``."""
    mesh = mesh.copy()
    low, high = mesh.bounds
    mesh.apply_translation(-(low + high) / 2)
    mesh.apply_scale(2 * half / float((high - low).max()))
    return mesh


def mesh_distance(
    mesh: Any, n: int, *, samples: int = 60_000, neighbours: int = 4, seed: int = 0
) -> Float[np.ndarray, "n n n"]:
    """Signed distance (n, n, n) of a closed trimesh at the cell centres of [−1, 1]³.

    The distance is the exact one to the triangles of the nearest of ``samples`` points of the surface; the sign counts
    crossings along one ray for each row of cells.
    """
    import trimesh
    from scipy.spatial import cKDTree

    axis = (2 * np.arange(n) + 1) / n - 1
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    surface, faces = trimesh.sample.sample_surface(mesh, samples, seed=seed)
    _, nearest = cKDTree(surface).query(points, k=neighbours)
    distance = np.full(len(points), np.inf)
    for column in np.asarray(nearest).reshape(len(points), -1).T:
        closest = trimesh.triangles.closest_point(mesh.triangles[faces[column]], points)
        distance = np.minimum(distance, np.linalg.norm(points - closest, axis=-1))
    inside = _crossings(mesh, axis)
    return np.where(inside, -1.0, 1.0) * distance.reshape(n, n, n)


def _crossings(mesh: Any, axis: np.ndarray) -> Bool[np.ndarray, "n n n"]:
    """Which cell centres have an odd number of crossings between themselves and x = −∞."""
    n = len(axis)
    y, z = (part.ravel() for part in np.meshgrid(axis, axis, indexing="ij"))
    jitter = 1e-5  # lest rays run along edges
    origins = np.stack((np.full(n * n, -3.0), y + jitter, z + 1.7 * jitter), axis=-1)
    hits, rays, _ = mesh.ray.intersects_location(origins, np.tile([1.0, 0.0, 0.0], (n * n, 1)), multiple_hits=True)
    counts = np.zeros((n * n, n + 1), dtype=int)
    np.add.at(counts, (rays, np.searchsorted(axis, hits[:, 0])), 1)
    odd = np.cumsum(counts[:, :n], axis=1) % 2 == 1
    return odd.reshape(n, n, n).transpose(2, 0, 1)


def truncated_loss(
    predicted: Float[Tensor, "*shape"], distance: Float[Tensor, "*shape"], truncation: float
) -> Float[Tensor, ""]:
    """Mean squared difference of the distances cut off at ± ``truncation``, in units of it."""
    cut = (-truncation, truncation)
    return ((predicted.clamp(*cut) - distance.clamp(*cut)) / truncation).square().mean()


def grid_loss(
    model: FunctionalTensor,
    coordinates: list[Tensor],
    distance: Float[Tensor, "a b c 1"],
    truncation: float,
    eikonal: float,
) -> Float[Tensor, ""]:
    """Truncated loss on a grid plus ``eikonal`` times the mean of (|∇f| − 1)² within the band |d| < ``truncation``."""
    if not eikonal:
        return truncated_loss(model.forward_grid(coordinates), distance, truncation)
    values, *slopes = model.grad_grid(coordinates, [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
    band = (distance.abs() < truncation).to(distance.dtype)
    norm = (torch.stack(slopes).square().sum(0) + 1e-12).sqrt()
    term = (band * (norm - 1).square()).sum() / band.sum().clamp(min=1)
    return truncated_loss(values, distance, truncation) + eikonal * term


def points_loss(
    net: torch.nn.Module,
    points: Float[Tensor, "n 3"],
    distance: Float[Tensor, "n 1"],
    truncation: float,
    eikonal: float,
) -> Float[Tensor, ""]:
    """The same loss at points, for a network of all coordinates."""
    if not eikonal:
        return truncated_loss(net(points), distance, truncation)
    x = points.detach().requires_grad_()
    values = net(x)
    (slope,) = torch.autograd.grad(values.sum(), x, create_graph=True)
    band = (distance[:, 0].abs() < truncation).to(distance.dtype)
    term = (band * (slope.square().sum(-1).add(1e-12).sqrt() - 1).square()).sum() / band.sum().clamp(min=1)
    return truncated_loss(values, distance, truncation) + eikonal * term


def iou(predicted: Float[np.ndarray, "*shape"], distance: Float[np.ndarray, "*shape"]) -> float:
    """Intersection over union of the insides of two grids of distances."""
    a, b = predicted < 0, distance < 0
    return float((a & b).sum() / max((a | b).sum(), 1))


def surface(distance: Float[np.ndarray, "n n n"]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in [−1, 1]³ and faces of the zero level (marching cubes); empty where there is none."""
    from skimage.measure import marching_cubes

    if not distance.min() < 0 < distance.max():
        return np.zeros((0, 3)), np.zeros((0, 3), dtype=int)
    vertices, faces, _, _ = marching_cubes(distance, 0.0)
    return (2 * vertices + 1) / distance.shape[0] - 1, faces


def surface_points(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], count: int, seed: int = 0
) -> Float[np.ndarray, "count 3"]:
    """Points spread evenly over a triangle mesh."""
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    rng = np.random.default_rng(seed)
    chosen = corners[rng.choice(len(faces), size=count, p=area / area.sum())]
    u, v = rng.random((2, count, 1))
    fold = u + v > 1
    u, v = np.where(fold, 1 - u, u), np.where(fold, 1 - v, v)
    return chosen[:, 0] + u * (chosen[:, 1] - chosen[:, 0]) + v * (chosen[:, 2] - chosen[:, 0])
