"""Triangle meshes of a template: grids, edges, barycentric samples, and discrete curvature to compare with.

Discrete curvatures at vertices: the angle defect (2π − Σ angles) over the mixed area for K, and half the norm of the
cotangent Laplacian of the positions for |H| (Meyer, Desbrun, Schröder, Barr, Discrete differential-geometry operators
for triangulated 2-manifolds, 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from scipy.spatial import cKDTree


def grid_mesh(
    rows: int,
    columns: int | None = None,
    low: tuple[float, float] = (-0.5, -0.5),
    high: tuple[float, float] = (0.5, 0.5),
    alternate: bool = True,
) -> tuple[Float[np.ndarray, "vertices 2"], Int[np.ndarray, "faces 3"]]:
    """Parameters of a rows × columns grid of a rectangle, u slowest, and two triangles for each cell.

    Diagonals alternate, so that no direction is favoured; with ``alternate=False`` all run the same way, and all inner
    vertices have six neighbours (angle defects of vertices with four and eight do not come near the curvature).
    """
    columns = rows if columns is None else columns
    if min(rows, columns) < 2:
        raise ValueError(f"a grid of {rows} × {columns} has no cells; use 2 or more a side")
    u, v = np.linspace(low[0], high[0], rows), np.linspace(low[1], high[1], columns)
    uv = np.stack(np.meshgrid(u, v, indexing="ij"), -1).reshape(-1, 2)
    i, j = (part.ravel() for part in np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij"))
    a, b, c, d = i * columns + j, (i + 1) * columns + j, (i + 1) * columns + j + 1, i * columns + j + 1
    even = ((i + j) % 2 == 0)[:, None] | (not alternate)
    first = np.where(even, np.stack([a, b, c], 1), np.stack([a, b, d], 1))
    second = np.where(even, np.stack([a, c, d], 1), np.stack([b, c, d], 1))
    return uv, np.concatenate([first, second])


def edges_of(faces: Int[np.ndarray, "faces 3"]) -> tuple[Int[np.ndarray, "edges 2"], Int[np.ndarray, " edges"]]:
    """Undirected edges, each once, and how many faces have each (1 on the border)."""
    pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    return np.unique(pairs, axis=0, return_counts=True)


def face_areas(
    points: Float[np.ndarray, "vertices dims"], faces: Int[np.ndarray, "faces 3"]
) -> Float[np.ndarray, " faces"]:
    """Areas of triangles in the plane or in space."""
    a, b = points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]]
    gram = (a**2).sum(1) * (b**2).sum(1) - (a * b).sum(1) ** 2
    return 0.5 * np.sqrt(np.maximum(gram, 0))


@dataclass(frozen=True)
class Template:
    """A surface whose 3-D shape is known: parameters and positions of vertices (camera coordinates), and triangles.

    Raises:
        ValueError: lengths differ, indices that are no vertices, values that are not finite, triangles without area,
            or two vertices with the same parameters.
    """

    uv: Float[np.ndarray, "vertices 2"]
    points: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]

    def __post_init__(self) -> None:
        if len(self.uv) != len(self.points):
            raise ValueError(f"{len(self.uv)} parameters for {len(self.points)} vertices; each vertex needs its own")
        if not (np.isfinite(self.uv).all() and np.isfinite(self.points).all()):
            raise ValueError("the template has vertices that are not finite")
        if not len(self.faces) or self.faces.min() < 0 or self.faces.max() >= len(self.uv):
            raise ValueError(f"faces must hold vertex numbers 0 to {len(self.uv) - 1}")
        if len(np.unique(self.uv.round(12), axis=0)) < len(self.uv):
            raise ValueError("duplicate vertices: two have the same (u, v); merge them")
        for name, where in (("parameters", self.uv), ("positions", self.points)):
            areas = face_areas(where, self.faces)
            if (bad := int((areas <= 1e-12 * max(areas.max(), 1e-300)).sum())) or not areas.max() > 0:
                raise ValueError(f"{bad} of {len(areas)} triangles have zero area in their {name}; remove them")

    def samples(
        self, per_face: int, per_border: int, rng: np.random.Generator
    ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 3"]]:
        """The vertices, and fresh barycentric samples: uniform (Dirichlet) in each face and on each border edge."""
        weights = rng.dirichlet(np.ones(3), size=(per_face, len(self.faces))).reshape(-1, 3)
        corners = np.tile(self.faces, (per_face, 1))
        edges, count = edges_of(self.faces)
        border = np.tile(edges[count == 1], (per_border, 1))
        t = rng.random(len(border))[:, None]
        found = []
        for where in (self.uv, self.points):
            inside = np.einsum("nk,nkd->nd", weights, where[corners])
            rim = t * where[border[:, 0]] + (1 - t) * where[border[:, 1]]
            found.append(np.concatenate([where, inside, rim]))
        return found[0], found[1]

    def draw(self, n: int, rng: np.random.Generator) -> Float[np.ndarray, "n 2"]:
        """Parameters drawn uniformly by the template's area in the parameter plane."""
        areas = face_areas(self.uv, self.faces)
        corners = self.faces[rng.choice(len(areas), size=n, p=areas / areas.sum())]
        return np.einsum("nk,nkd->nd", rng.dirichlet(np.ones(3), size=n), self.uv[corners])


def locate(
    uv: Float[np.ndarray, "vertices 2"], faces: Int[np.ndarray, "faces 3"], at: Float[np.ndarray, "n 2"]
) -> tuple[Int[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """The triangle of each parameter and its barycentric coordinates (of the nearest triangle for points outside)."""
    a, b, c = (uv[faces[:, k]] for k in range(3))
    inverse = np.linalg.inv(np.stack([b - a, c - a], -1))  # (faces, 2, 2)

    def best_of(points: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        local = np.einsum("nfij,nfj->nfi", inverse[candidates], points[:, None] - a[candidates])
        weights = np.concatenate([1 - local.sum(-1, keepdims=True), local], -1)
        best, rows = weights.min(-1).argmax(1), np.arange(len(points))
        return candidates[rows, best], weights[rows, best]

    near = min(12, len(faces))
    _, candidates = cKDTree(uv[faces].mean(1)).query(at, k=near)
    face, weights = best_of(at, candidates.reshape(len(at), near))
    missed = np.flatnonzero(weights.min(1) < -1e-9)  # long triangles, or points outside: look at all of them
    for part in np.array_split(missed, max(1, len(missed) * len(faces) // 1_000_000)):
        if len(part):
            face[part], weights[part] = best_of(at[part], np.tile(np.arange(len(faces)), (len(part), 1)))
    return faces[face], weights


def interpolation(
    uv: Float[np.ndarray, "vertices 2"], faces: Int[np.ndarray, "faces 3"], at: Float[np.ndarray, "n 2"]
) -> sparse.csr_matrix:
    """The sparse matrix that takes values at vertices to values at parameters, linear in each triangle."""
    corners, weights = locate(uv, faces, at)
    rows = np.repeat(np.arange(len(at)), 3)
    return sparse.csr_matrix((weights.ravel(), (rows, corners.ravel())), shape=(len(at), len(uv)))


def _cotangents(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Cotangent of the angle at each corner, (faces, 3)."""
    found = []
    for k in range(3):
        a, b = points[faces[:, (k + 1) % 3]] - points[faces[:, k]], points[faces[:, (k + 2) % 3]] - points[faces[:, k]]
        found.append((a * b).sum(1) / np.maximum(np.linalg.norm(np.cross(a, b), axis=1), 1e-300))
    return np.stack(found, 1)


def laplacian(
    points: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> tuple[sparse.csr_matrix, Float[np.ndarray, " vertices"]]:
    """The cotangent stiffness matrix (positive semidefinite) and the area of each vertex."""
    cot = _cotangents(points, faces)
    n = len(points)
    rows, columns = faces[:, [1, 2, 0]].ravel(), faces[:, [2, 0, 1]].ravel()
    weights = 0.5 * sparse.coo_matrix((cot.ravel(), (rows, columns)), shape=(n, n))
    weights = (weights + weights.T).tocsr()
    areas = np.bincount(faces.ravel(), np.repeat(face_areas(points, faces) / 3, 3), minlength=n)
    return sparse.diags(np.asarray(weights.sum(1)).ravel()) - weights, areas


def mixed_areas(
    points: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> Float[np.ndarray, " vertices"]:
    """Voronoi area of each vertex; of an obtuse triangle, half for its obtuse corner and a quarter for the others."""
    cot, areas = _cotangents(points, faces), face_areas(points, faces)[:, None]
    squares = np.stack(
        [((points[faces[:, a]] - points[faces[:, b]]) ** 2).sum(1) for a, b in ((1, 2), (2, 0), (0, 1))], 1
    )
    weighted = squares * cot / 8  # of the edge opposite to each corner, for both its ends
    voronoi = weighted.sum(1, keepdims=True) - weighted
    obtuse = cot < 0
    blunt = np.where(obtuse, areas / 2, areas / 4)
    each = np.where(obtuse.any(1, keepdims=True), blunt, voronoi)
    return np.bincount(faces.ravel(), each.ravel(), minlength=len(points))


def discrete_curvature(
    points: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> tuple[Float[np.ndarray, " vertices"], Float[np.ndarray, " vertices"]]:
    """|H| and K at the vertices; NaN on the border, where neither is defined."""
    stiffness, _ = laplacian(points, faces)
    areas = mixed_areas(points, faces)
    mean = np.linalg.norm(stiffness @ points, axis=1) / (2 * areas)
    angles = np.arctan2(1.0, _cotangents(points, faces))
    gauss = (2 * np.pi - np.bincount(faces.ravel(), angles.ravel(), minlength=len(points))) / areas
    edges, count = edges_of(faces)
    border = np.unique(edges[count == 1])
    mean[border] = gauss[border] = np.nan
    return mean, gauss


def vertex_normals(
    points: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> Float[np.ndarray, "vertices 3"]:
    """Unit normals, means of the faces' by area."""
    a, b = points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]]
    each = np.cross(a, b)
    total = np.stack([np.bincount(faces.ravel(), np.repeat(each[:, k], 3), minlength=len(points)) for k in range(3)], 1)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-300)


def as_tensor(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """The array with the type and on the device of a tensor."""
    return torch.as_tensor(array, dtype=like.dtype, device=like.device)
