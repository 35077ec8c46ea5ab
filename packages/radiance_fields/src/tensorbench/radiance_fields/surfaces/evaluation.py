"""How good a reconstructed surface is, for anything that gives points at parameters (networks and meshes alike)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from tensorbench.radiance_fields.surfaces.meshes import interpolation
from tensorbench.radiance_fields.surfaces.pinhole import Pinhole

Surface = Callable[[Float[np.ndarray, "n 2"]], Float[np.ndarray, "n 3"]]


def mesh_surface(
    uv: Float[np.ndarray, "v 2"], faces: Int[np.ndarray, "f 3"], points: Float[np.ndarray, "v 3"]
) -> Surface:
    """A mesh as a map, linear in each triangle."""
    return lambda at: interpolation(uv, faces, at) @ points


def tangents(surface: Surface, uv: Float[np.ndarray, "n 2"], h: float = 2e-3) -> Float[np.ndarray, "n 3 2"]:
    """Jacobians by central differences."""
    n = len(uv)
    shifts = [step * np.eye(2)[axis] for axis in (0, 1) for step in (h, -h)]
    found = surface(np.concatenate([uv + shift for shift in shifts])).reshape(4, n, 3)
    return np.stack([found[0] - found[1], found[2] - found[3]], -1) / (2 * h)


@dataclass(frozen=True)
class SurfaceError:
    """Means over the parameters: distance of corresponding points, angle of normals (degrees), ‖JᵀJ − 1‖ (Frobenius;
    the template's parameters are lengths here), and the picture's error in pixels.
    """

    distance: float
    normal_degrees: float
    metric: float
    pixels: float


def compare(surface: Surface, truth: Surface, uv: Float[np.ndarray, "n 2"], camera: Pinhole) -> SurfaceError:
    """Errors of a surface against the true one at parameters that keep clear of the border."""
    found, true = surface(uv), truth(uv)
    a, b = tangents(surface, uv), tangents(truth, uv)
    cosine = np.abs((_unit_normals(a) * _unit_normals(b)).sum(1)).clip(0, 1)
    metric = np.einsum("nai,naj->nij", a, a) - np.eye(2)
    seen = camera.project(found, nearest=1e-3) - camera.project(true)
    return SurfaceError(
        float(np.linalg.norm(found - true, axis=1).mean()),
        float(np.degrees(np.arccos(cosine)).mean()),
        float(np.linalg.norm(metric, axis=(1, 2)).mean()),
        float(np.linalg.norm(seen, axis=1).mean()),
    )


def _unit_normals(jacobian: Float[np.ndarray, "n 3 2"]) -> Float[np.ndarray, "n 3"]:
    cross = np.cross(jacobian[..., 0], jacobian[..., 1])
    return cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-300)


def edge_error(
    points: Float[np.ndarray, "v 3"], template: Float[np.ndarray, "v 3"], edges: Int[np.ndarray, "e 2"]
) -> float:
    """Mean relative change of the lengths of edges."""
    found, true = (np.linalg.norm(x[edges[:, 0]] - x[edges[:, 1]], axis=1) for x in (points, template))
    return float(np.abs(found / true - 1).mean())


def overlap(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    """Intersection over union of two masks (1 where both are empty)."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0
