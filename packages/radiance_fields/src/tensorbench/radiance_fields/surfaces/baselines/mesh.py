"""A triangle mesh whose edges keep their lengths, fitted frame by frame by Gauss-Newton.

Vertices X minimise, from where the last frame left them,

    mean ρ(unit · (π(B X) − p)) + λ_e mean ((|e|² − l²) / 2l)² + λ_b mean |second differences|² + λ_t mean |X − X_prev|²

with ρ twice Huber's loss (reweighted in each iteration), B the barycentric interpolation at the tracked points and
second differences along both families of grid lines (those of a planar grid are 0). This is the usual inextensible mesh
tracking (Salzmann, Fua, Deformable surface 3D reconstruction from monocular images, 2010; constraints as penalties).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.sparse.linalg import splu

from tensorbench.radiance_fields.surfaces.meshes import Template, edges_of, interpolation
from tensorbench.radiance_fields.surfaces.pinhole import Pinhole
from tensorbench.radiance_fields.surfaces.sequences import SurfaceSequence
from tensorbench.radiance_fields.surfaces.tracking import pixel_unit, usable


def second_differences(rows: int, columns: int) -> sparse.csr_matrix:
    """X_{k-1} − 2 X_k + X_{k+1} along the lines of a grid, u slowest, in both directions."""
    lines = [sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(n - 2, n)) for n in (rows, columns)]
    parts = [sparse.kron(lines[0], sparse.eye(columns)), sparse.kron(sparse.eye(rows), lines[1])]
    return sparse.vstack(parts).tocsr()


def projection_rows(
    camera: Pinhole, points: Float[np.ndarray, "n 3"], pixels: Float[np.ndarray, "n 2"], unit: float, threshold: float
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2 3"]]:
    """Residuals and their derivatives in the points, both times the square roots of Huber's weights."""
    local = camera.in_frame(points)
    depth = np.maximum(local[:, 2], 1e-3)
    residual = unit * (camera.project(points, nearest=1e-3) - pixels)
    slope = np.zeros((len(points), 2, 3))
    slope[:, 0, 0], slope[:, 1, 1] = camera.fx / depth, camera.fy / depth
    slope[:, 0, 2], slope[:, 1, 2] = (
        -camera.fx * local[:, 0] / depth**2,
        -camera.fy * local[:, 1] / depth**2,
    )
    weight = np.sqrt(np.minimum(1, threshold * unit / np.maximum(np.abs(residual), 1e-12)))
    return residual * weight, unit * weight[..., None] * (slope @ camera.rotation)


class EdgeMesh:
    """The terms that stay the same in all frames."""

    def __init__(self, template: Template, rows: int, edge: float, bending: float, time: float) -> None:
        if min(edge, bending, time) < 0:
            raise ValueError(f"weights edge {edge}, bending {bending}, time {time} must be >= 0")
        self.template, n = template, len(template.uv)
        if rows < 1 or n % rows:
            raise ValueError(f"{n} vertices are no grid of {rows} rows")
        self.edges, _ = edges_of(template.faces)
        self.lengths = np.linalg.norm(np.diff(template.points[self.edges], axis=1)[:, 0], axis=1)
        self.edge = np.sqrt(edge / len(self.edges))
        columns = n // rows
        plain = second_differences(rows, columns)
        self.bend = sparse.kron(plain, sparse.eye(3)).tocsr() * np.sqrt(bending / plain.shape[0])
        self.still = np.sqrt(time / (3 * n))

    def step(
        self,
        x: Float[np.ndarray, "v 3"],
        before: Float[np.ndarray, "v 3"],
        camera: Pinhole,
        at: sparse.csr_matrix,
        pixels: Float[np.ndarray, "n 2"],
        unit: float,
        threshold: float,
    ) -> Float[np.ndarray, "v 3"]:
        """One damped Gauss-Newton step."""
        n = x.size
        residual, slope = projection_rows(camera, at @ x, pixels, unit, threshold)
        share = 1 / np.sqrt(residual.size)
        blocks = sparse.bsr_matrix((slope, np.arange(len(slope)), np.arange(len(slope) + 1))).tocsr()
        data = share * blocks @ sparse.kron(at, sparse.eye(3)).tocsr()
        a, b = self.edges.T
        span = x[a] - x[b]
        stretch = self.edge * ((span**2).sum(1) - self.lengths**2) / (2 * self.lengths)
        rate = self.edge * span / self.lengths[:, None]
        rows = np.repeat(np.arange(len(a)), 3)
        columns = (3 * a[:, None] + np.arange(3)).ravel(), (3 * b[:, None] + np.arange(3)).ravel()
        lengths = sparse.csr_matrix(
            (np.concatenate([rate.ravel(), -rate.ravel()]), (np.concatenate([rows, rows]), np.concatenate(columns))),
            shape=(len(a), n),
        )
        jacobian = sparse.vstack([data, lengths, self.bend, self.still * sparse.eye(n)]).tocsc()
        found = np.concatenate(
            [share * residual.ravel(), stretch, self.bend @ x.ravel(), self.still * (x - before).ravel()]
        )
        normal = (jacobian.T @ jacobian + 1e-9 * sparse.eye(n)).tocsc()
        return x - splu(normal).solve(jacobian.T @ found).reshape(-1, 3)


def track_mesh(
    sequence: SurfaceSequence,
    template: Template,
    rows: int,
    *,
    edge: float = 10.0,
    bending: float = 1e-2,
    time: float = 1e-3,
    threshold: float = 2.0,
    iterations: int = 10,
) -> Iterator[Float[np.ndarray, "vertices 3"]]:
    """Vertices of the mesh ``template`` (a grid with ``rows`` rows) in each frame.

    Raises:
        ValueError: fewer than four usable points in a frame, negative weights.
    """
    mesh = EdgeMesh(template, rows, edge, bending, time)
    unit = pixel_unit(sequence.camera, template, 1.0)
    x = template.points
    for observation in sequence.observations:
        there = usable(observation)
        at = interpolation(template.uv, template.faces, there.uv)
        before = x
        for _ in range(iterations):
            x = mesh.step(x, before, sequence.camera, at, there.pixels, unit, threshold)
        yield x
