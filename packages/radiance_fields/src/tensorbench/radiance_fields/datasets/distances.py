"""Signed distances of solids on grids, for networks that learn them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tensorbench.core.data import File, dataset

SPOT = File(
    repository="alecjacobson/common-3d-test-models",
    commit="8a4f8642acaf43f9cd7b67858a1502e1055ef202",
    path="data/spot.obj",
    sha256="0738b5e8608fed74e5e8c7aa8dd0af97b4b74f9f6cbf7aac84cd7e40b2e44a75",
    bytes=330624,
    licence="see the repository's README (model by Keenan Crane)",
)


@dataclass(frozen=True)
class Solid:
    """Signed distance (n, n, n) at the cell centres of [−1, 1]³, negative inside, and points of the surface."""

    distance: np.ndarray
    surface: np.ndarray


@dataset(
    title="A solid by boolean operations", source="generated here", licence="Apache-2.0", generated=True, cache=True
)
def solid_distance(*, seed: int, solid: str = "csg", n: int = 64, points: int = 20000) -> Solid:
    """A ``sphere`` or a bored box (``csg``); the surface's points come from marching cubes on twice the grid."""
    from tensorbench.radiance_fields.implicit import sdf

    fine = sdf.on_grid(solid, max(2 * n, 128))
    vertices, faces = sdf.surface(fine)
    return Solid(sdf.on_grid(solid, n), sdf.surface_points(vertices, faces, points).astype(np.float32))


@dataset(
    title="Spot, a cow",
    source="Keenan Crane, alecjacobson/common-3d-test-models",
    licence="see its README",
    files=[SPOT],
)
def spot_distance(files: list[Path], *, seed: int, n: int = 64, points: int = 20000) -> Solid:
    """The mesh ``spot.obj``, its longest side 1.7 of the cube's 2; the same for every seed."""
    return _of_mesh(files[0], n, points)


@functools.lru_cache(maxsize=2)
def _of_mesh(path: Path, n: int, points: int) -> Solid:
    """Takes seconds, and a job asks for it once for each seed and trial."""
    import trimesh

    from tensorbench.radiance_fields.implicit import sdf

    mesh = sdf.fitted_to_box(trimesh.load(path, force="mesh", process=True))
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    surface = sdf.surface_points(vertices, faces, points).astype(np.float32)
    return Solid(sdf.mesh_distance(mesh, n).astype(np.float32), surface)
