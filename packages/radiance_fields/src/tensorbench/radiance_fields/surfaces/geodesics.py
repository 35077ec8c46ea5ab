"""Geodesics: distances over a mesh of samples, and curves of a smooth map.

- ``mesh_distances``: shortest paths along edges (too long by up to a direction-dependent factor however fine the mesh),
  or the heat method (Crane, Weischedel, Wardetzky, 2013): diffuse a point for a short time, normalise the gradient, and
  find the function with that gradient; both on a triangulation of the samples.
- ``exponential_map``: the equation ẍᵏ + Γᵏ_ij ẋⁱ ẋʲ = 0 in the parameter plane, by the classical Runge-Kutta method,
  with Christoffel symbols by automatic differentiation.
- ``shortest_curve``: a polyline between two parameters that minimises its energy Σ |X(c_{i+1}) − X(c_i)|², whose
  minimisers have equal steps and shortest length.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import splu
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.surfaces.geometry import Map, christoffel, first_form, jacobian
from tensorbench.radiance_fields.surfaces.meshes import edges_of, face_areas, laplacian

WAYS = ("edges", "heat")


def mesh_distances(
    points: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    source: int,
    way: str = "heat",
    time_factor: float = 1.0,
) -> Float[np.ndarray, " v"]:
    """Distances over the mesh from one vertex to all; ``time_factor`` times the squared mean edge is the heat's time.

    Raises:
        ValueError: an unknown way, or a source that is no vertex.
    """
    if way not in WAYS:
        raise ValueError(unknown("way", way, WAYS))
    if not 0 <= source < len(points):
        raise ValueError(f"source {source} is no vertex; there are {len(points)}")
    edges, _ = edges_of(faces)
    lengths = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    if way == "edges":
        graph = sparse.coo_matrix((lengths, edges.T), shape=(len(points),) * 2)
        return csgraph.dijkstra(graph, directed=False, indices=source)
    return _heat(points, faces, source, time_factor * lengths.mean() ** 2)


def _heat(points: np.ndarray, faces: np.ndarray, source: int, time: float) -> np.ndarray:
    stiffness, areas = laplacian(points, faces)
    start = np.zeros(len(points))
    start[source] = 1
    heat = splu((sparse.diags(areas) + time * stiffness).tocsc()).solve(start)
    corner = points[faces]
    opposite = corner[:, [2, 0, 1]] - corner[:, [1, 2, 0]]  # the edge opposite to each corner
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    double = np.linalg.norm(normal, axis=1, keepdims=True)
    slopes = np.cross(normal[:, None] / double[:, None], opposite) / double[:, None]  # gradients of the hat functions
    gradient = np.einsum("fkd,fk->fd", slopes, heat[faces])
    direction = -gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-300)
    sources = np.einsum("fkd,fd->fk", slopes, direction) * face_areas(points, faces)[:, None]
    right = np.bincount(faces.ravel(), sources.ravel(), minlength=len(points))
    free = np.delete(np.arange(len(points)), source)
    distance = np.zeros(len(points))
    distance[free] = splu(stiffness[free][:, free].tocsc()).solve(right[free])
    return distance


def exponential_map(
    f: Map, start: Float[Tensor, "n 2"], velocity: Float[Tensor, "n 2"], length: float, steps: int = 50
) -> Float[Tensor, "time n 2"]:
    """Parameters along geodesics of arc length ``length`` from ``start`` in the directions ``velocity``.

    Raises:
        ValueError: fewer than one step, or a velocity of no length.
    """
    if steps < 1:
        raise ValueError(f"steps {steps} must be at least 1")
    speed = torch.einsum("nij,ni,nj->n", first_form(jacobian(f, start)), velocity, velocity).sqrt()
    if not bool((speed > 0).all()):
        raise ValueError("a geodesic needs a direction: a velocity has no length")
    position, rate = start, velocity / speed[:, None]
    h = length / steps

    def motion(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return v, -torch.einsum("nkij,ni,nj->nk", christoffel(f, x), v, v)

    found = [position]
    for _ in range(steps):
        k1, a1 = motion(position, rate)
        k2, a2 = motion(position + h / 2 * k1, rate + h / 2 * a1)
        k3, a3 = motion(position + h / 2 * k2, rate + h / 2 * a2)
        k4, a4 = motion(position + h * k3, rate + h * a3)
        position, rate = position + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), rate + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
        found.append(position)
    return torch.stack(found)


def shortest_curve(
    f: Map, start: Float[Tensor, "2"], end: Float[Tensor, "2"], points: int = 41, iterations: int = 60
) -> tuple[Float[Tensor, "points 2"], float]:
    """Parameters of the shortest curve near the straight one between two parameters, and its length.

    L-BFGS on the energy. The length is that of the polyline, Richardson-extrapolated from every point and every other
    one (the error of a chord is of second order).

    Raises:
        ValueError: fewer than five points, or an even number of them.
    """
    if points < 5 or points % 2 == 0:
        raise ValueError(f"points {points} must be odd and at least 5")
    share = torch.linspace(0, 1, points, dtype=start.dtype, device=start.device)[:, None]
    curve = (start + share * (end - start)).detach()
    inner = curve[1:-1].clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [inner], max_iter=iterations, history_size=30, line_search_fn="strong_wolfe", tolerance_grad=1e-12,
        tolerance_change=1e-15,
    )  # fmt: skip

    def whole() -> Tensor:
        return torch.cat([curve[:1], inner, curve[-1:]])

    def closure() -> Tensor:
        optimizer.zero_grad()
        energy = (points - 1) * f(whole()).diff(dim=0).square().sum()
        energy.backward()
        return energy

    optimizer.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        places = f(whole())
        fine, coarse = (part.diff(dim=0).norm(dim=1).sum() for part in (places, places[::2]))
    return whole().detach(), float(fine + (fine - coarse) / 3)
