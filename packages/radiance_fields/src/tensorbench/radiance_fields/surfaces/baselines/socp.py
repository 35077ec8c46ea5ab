"""Inextensible surface by second-order cone programming: as far from the camera as its edges allow.

Vertices X of each frame, by itself, minimise

    Σ w_i ‖(x, y)(B X)_i − (x̂, ŷ)_i z(B X)_i‖ / Σ w_i − λ mean z(X)   subject to   |X_i − X_j| ≤ l_ij for all edges,

with sightlines (x̂, ŷ, 1): the maximum-depth heuristic with norms (not squares) of the distances from the sightlines,
which tolerates outliers (Salzmann, Fua, Linear local models for monocular reconstruction of deformable surfaces, 2011;
Brunet et al., Monocular template-based reconstruction of inextensible surfaces, 2011). In a sequence the weights w_i
are Huber's of the residuals at the last frame's surface, then at the new one (unweighted, a third of outliers pulls all
of it into the camera, where every sightline meets). Convex: no ambiguity between bends, but the constraint is an
inequality. Solved by CLARABEL through cvxpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tensorbench.radiance_fields.surfaces.meshes import Template, edges_of, interpolation
from tensorbench.radiance_fields.surfaces.pinhole import Pinhole
from tensorbench.radiance_fields.surfaces.sequences import Observation, SurfaceSequence
from tensorbench.radiance_fields.surfaces.tracking import usable


@dataclass(frozen=True)
class Inextensible:
    """Vertices, the optimum, and the largest share by which an edge exceeds its length (rounding of the solver)."""

    points: Float[np.ndarray, "vertices 3"]
    objective: float
    excess: float


def reconstruct(
    camera: Pinhole,
    template: Template,
    observation: Observation,
    depth_weight: float = 0.05,
    weights: Float[np.ndarray, " n"] | None = None,
) -> Inextensible:
    """The vertices of one frame; ``weights`` are those of the observation's points (1 by default).

    Raises:
        ValueError: fewer than four usable points, a weight that is not positive, a camera that is not in the origin.
        RuntimeError: the solver found no optimum.
    """
    import cvxpy as cp

    if not depth_weight > 0:
        raise ValueError(
            f"depth_weight {depth_weight} must be positive: without it the surface shrinks into the camera"
        )
    if not camera.still:
        raise ValueError("sightlines start in the origin here: give points in the camera's coordinates")
    there = usable(observation)
    weights = np.ones(len(observation.uv)) if weights is None else weights
    weights = weights[np.isfinite(observation.pixels).all(1)]
    at = interpolation(template.uv, template.faces, there.uv)
    lines = camera.rays(there.pixels)
    edges, _ = edges_of(template.faces)
    lengths = np.linalg.norm(template.points[edges[:, 0]] - template.points[edges[:, 1]], axis=1)
    x = cp.Variable((len(template.uv), 3))
    on = at @ x
    across = cp.vstack([on[:, k] - cp.multiply(lines[:, k], on[:, 2]) for k in (0, 1)])
    miss = (weights / weights.sum()) @ cp.norm(across, 2, axis=0)
    problem = cp.Problem(
        cp.Minimize(miss - depth_weight * cp.sum(x[:, 2]) / len(template.uv)),
        [cp.norm(x[edges[:, 0]] - x[edges[:, 1]], 2, axis=1) <= lengths],
    )
    problem.solve(solver=cp.CLARABEL)
    if x.value is None:
        raise RuntimeError(f"CLARABEL ended with {problem.status!r}")
    found = np.asarray(x.value)
    spans = np.linalg.norm(found[edges[:, 0]] - found[edges[:, 1]], axis=1)
    return Inextensible(found, float(problem.value), float((spans / lengths - 1).max()))


def track_socp(
    sequence: SurfaceSequence,
    template: Template,
    *,
    depth_weight: float = 0.05,
    threshold: float = 2.0,
    solves: int = 2,
) -> Iterator[Float[np.ndarray, "vertices 3"]]:
    """Vertices of the mesh ``template`` in each frame; ``solves`` programs each, with Huber's weights (``threshold`` in
    pixels) of the residuals at the surface before.
    """
    points = template.points
    for observation in sequence.observations:
        at = interpolation(template.uv, template.faces, observation.uv)
        for _ in range(solves):
            miss = np.linalg.norm(sequence.camera.project(at @ points, nearest=1e-3) - observation.pixels, axis=1)
            weights = np.minimum(1.0, threshold / np.maximum(np.nan_to_num(miss), 1e-9))
            points = reconstruct(sequence.camera, template, observation, depth_weight, weights).points
        yield points
