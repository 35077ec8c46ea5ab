"""A triangle mesh from a density: marching cubes (Lorensen & Cline 1987; scikit-image) and files that others read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.fields.base import Field

FORMATS = ("glb", "obj", "off", "ply", "stl")


@dataclass(frozen=True)
class Mesh:
    """Triangles in world coordinates; ``colours`` in [0, 1], one a vertex."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    colours: Float[np.ndarray, "v 3"] | None = None

    def save(self, path: str | Path) -> Path:
        """Write it; the suffix says how (glb, obj, off, ply, stl).

        Raises:
            ValueError: another suffix.
        """
        import trimesh

        path = Path(path)
        kind = path.suffix.lstrip(".").lower()
        if kind not in FORMATS:
            raise ValueError(unknown("mesh format", kind or "(no suffix)", FORMATS))
        colours = None if self.colours is None else (255 * self.colours.clip(0, 1)).round().astype(np.uint8)
        whole = trimesh.Trimesh(self.vertices, self.faces, vertex_colors=colours, process=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.export(path)
        return path


@torch.no_grad()
def density_grid(
    density: Callable[[Tensor], Tensor], box: Float[Tensor, "2 3"], resolution: int, chunk: int = 2**17
) -> Float[Tensor, "n n n"]:
    """Densities at the n³ nodes of a grid whose outermost nodes lie on the faces of the box, indexed [x, y, z]."""
    if resolution < 2:
        raise ValueError(f"resolution {resolution} must be at least 2 nodes a side")
    axes = [torch.linspace(float(box[0, k]), float(box[1, k]), resolution, device=box.device) for k in range(3)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    return torch.cat([density(part) for part in points.split(chunk)]).reshape((resolution,) * 3)


def half_opaque(box: Float[Tensor, "2 3"], resolution: int, distance_scale: float = 25.0) -> float:
    """The density of which a layer as thick as a cell lets half of the light through: where to put the surface."""
    cell = float((box[1] - box[0]).amax()) / (resolution - 1)
    return math.log(2) / (cell * distance_scale)


def extract_mesh(field: Field, resolution: int = 128, level: float | None = None, *, colours: bool = True) -> Mesh:
    """The surface where a field's density crosses ``level`` (default: :func:`half_opaque`).

    Space outside the box counts as empty, so that the mesh is closed. Colours are those seen along the inward normal.

    Raises:
        ValueError: the density never crosses the level, or that is not positive.
    """
    from skimage.measure import marching_cubes

    grid = density_grid(field.density, field.box, resolution).cpu().numpy()
    level = half_opaque(field.box, resolution) if level is None else level
    if not level > 0:
        raise ValueError(f"level {level} must be positive: outside of the box the density is 0")
    low, high = float(grid.min()), float(grid.max())
    if not high > level:
        raise ValueError(
            f"the density lies between {low:.3g} and {high:.3g} and never exceeds level {level:.3g}: nothing to mesh; "
            "train longer or lower the level"
        )
    corners = field.box.cpu().numpy().astype(np.float64)
    spacing = (corners[1] - corners[0]) / (resolution - 1)
    # Where a box is full to its face, a layer of emptiness closes the surface.
    vertices, faces, normals, _ = marching_cubes(np.pad(grid, 1), level, spacing=tuple(spacing))
    vertices = vertices - spacing + corners[0]
    found = Mesh(vertices, faces[:, ::-1].astype(np.int64))
    if not colours:
        return found
    return Mesh(found.vertices, found.faces, _colours(field, vertices, normals))


@torch.no_grad()
def _colours(field: Field, vertices: np.ndarray, normals: np.ndarray, chunk: int = 2**16) -> np.ndarray:
    low, high = field.box
    points = torch.as_tensor(vertices, dtype=torch.float32, device=low.device).clamp(low, high)
    inward = torch.as_tensor(normals.copy(), dtype=torch.float32, device=low.device)
    parts = [field.color(p, d) for p, d in zip(points.split(chunk), inward.split(chunk), strict=True)]
    return torch.cat(parts).clamp(0, 1).cpu().numpy()


def export_mesh(field: Field, path: str | Path, resolution: int = 128, level: float | None = None) -> Mesh:
    """:func:`extract_mesh`, written to ``path``."""
    mesh = extract_mesh(field, resolution, level, colours=Path(path).suffix.lower() != ".stl")
    mesh.save(path)
    return mesh
