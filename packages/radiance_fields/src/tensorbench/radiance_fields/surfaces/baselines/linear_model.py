"""Linear shape models with a pose: a rigid template, and principal components of training bends.

Shape S(c) = mean + Σ_j c_j σ_j B_j, placed by a rotation and a translation, minimises mean ρ(unit · (π(R S + t) − p)) +
λ mean c² by Levenberg-Marquardt from the last frame, with Huber's weights. With no components this is rigid pose
(perspective-n-point) refinement, for which :func:`planar_pose` gives a start from a homography (direct linear
transform). With components of example surfaces it is the classical statistical model (Salzmann et al., Surface
deformation models for nonrigid 3D shape recovery, 2007; Blanz and Vetter's morphable models, 1999).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from scipy.spatial.transform import Rotation

from tensorbench.radiance_fields.surfaces import isometries
from tensorbench.radiance_fields.surfaces.baselines.mesh import projection_rows
from tensorbench.radiance_fields.surfaces.meshes import Template, interpolation
from tensorbench.radiance_fields.surfaces.pinhole import Pinhole
from tensorbench.radiance_fields.surfaces.sequences import SurfaceSequence
from tensorbench.radiance_fields.surfaces.tracking import pixel_unit, usable


@dataclass(frozen=True)
class LinearModel:
    """Mean shape and components (unit deviations, scaled by the training standard deviations)."""

    mean: Float[np.ndarray, "v 3"]
    components: Float[np.ndarray, "k v 3"]

    def shape(self, c: Float[np.ndarray, " k"]) -> Float[np.ndarray, "v 3"]:
        """S(c)."""
        return self.mean + np.tensordot(c, self.components, 1)


@dataclass(frozen=True)
class State:
    """Coefficients and pose."""

    c: Float[np.ndarray, " k"]
    rotation: Rotation
    translation: Float[np.ndarray, "3"]

    def points(self, model: LinearModel) -> Float[np.ndarray, "v 3"]:
        """Vertices in the camera's coordinates."""
        return self.rotation.apply(model.shape(self.c)) + self.translation


def align(points: Float[np.ndarray, "v 3"], to: Float[np.ndarray, "v 3"]) -> tuple[Rotation, Float[np.ndarray, "3"]]:
    """The rigid motion that takes ``points`` closest to ``to`` (Kabsch)."""
    a, b = points.mean(0), to.mean(0)
    rotation, _ = Rotation.align_vectors(to - b, points - a)
    return rotation, b - rotation.apply(a)


def rigid_model(template: Template) -> LinearModel:
    """The template as it is."""
    return LinearModel(template.points, np.zeros((0, *template.points.shape)))


def bends_model(
    uv: Float[np.ndarray, "v 2"], components: int, rng: np.random.Generator, examples: int = 200, curvature: float = 2.5
) -> LinearModel:
    """Principal components of random bends (all of :data:`.isometries.BENDS`, any direction, up to ``curvature``),
    aligned rigidly to the flat sheet.

    Raises:
        ValueError: more components than examples.
    """
    if not 1 <= components <= examples:
        raise ValueError(f"components {components} must be between 1 and the {examples} examples")
    flat = np.concatenate([uv, np.zeros((len(uv), 1))], 1)
    names = sorted(isometries.BENDS)
    found = []
    for k in range(examples):
        options = (
            {"frequency": 1.5 * math.pi, "phase": rng.uniform(-math.pi, math.pi)} if names[k % 3] == "curve" else {}
        )
        bent = isometries.BENDS[names[k % 3]](
            torch.from_numpy(uv), rng.uniform(0, curvature), rng.uniform(-math.pi, math.pi), **options
        )
        points = bent.numpy() * [1, 1, rng.choice([-1.0, 1.0])]
        rotation, translation = align(points, flat)
        found.append(rotation.apply(points) + translation)
    stacked = np.stack(found)
    mean = stacked.mean(0)
    _, deviations, directions = np.linalg.svd((stacked - mean).reshape(examples, -1), full_matrices=False)
    scaled = directions[:components] * (deviations[:components] / math.sqrt(examples))[:, None]
    return LinearModel(mean, scaled.reshape(components, len(uv), 3))


def planar_pose(
    camera: Pinhole, flat: Float[np.ndarray, "n 2"], pixels: Float[np.ndarray, "n 2"]
) -> tuple[Rotation, Float[np.ndarray, "3"]]:
    """Pose of a plane from its homography, by the direct linear transform.

    Raises:
        ValueError: fewer than four points, or points on a line.
    """
    if len(flat) < 4:
        raise ValueError(f"{len(flat)} correspondences are too few for a pose; 4 are needed")
    if np.linalg.matrix_rank(flat - flat.mean(0), tol=1e-9) < 2:
        raise ValueError("the correspondences are on a line: the pose is not determined")
    lines = camera.rays(pixels)
    h = np.concatenate([flat, np.ones((len(flat), 1))], 1)
    zero = np.zeros_like(h)
    system = np.concatenate([np.hstack([h, zero, -lines[:, :1] * h]), np.hstack([zero, h, -lines[:, 1:2] * h])])
    homography = np.linalg.svd(system)[2][-1].reshape(3, 3)
    homography = homography / np.sqrt(np.linalg.norm(homography[:, 0]) * np.linalg.norm(homography[:, 1]))
    homography *= np.sign(homography[2, 2])  # the plane's origin is before the camera
    axes = np.stack([homography[:, 0], homography[:, 1], np.cross(homography[:, 0], homography[:, 1])], 1)
    u, _, vt = np.linalg.svd(axes)
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return Rotation.from_matrix(rotation), homography[:, 2]


def fit(
    model: LinearModel,
    start: State,
    camera: Pinhole,
    at: sparse.csr_matrix,
    pixels: Float[np.ndarray, "n 2"],
    unit: float,
    *,
    threshold: float = 2.0,
    ridge: float = 1e-4,
    iterations: int = 15,
) -> State:
    """Levenberg-Marquardt from ``start``; ``at`` interpolates the vertices at the observed points."""
    k = len(start.c)
    held = np.sqrt(ridge / max(k, 1))
    mean, parts = (
        at @ model.mean,
        np.stack([at @ part for part in model.components]) if k else np.zeros((0, len(pixels), 3)),
    )
    state, damping, cost = start, 1e-4, math.inf

    def residuals(s: State):
        turned = s.rotation.apply(mean + np.tensordot(s.c, parts, 1))
        found, slope = projection_rows(camera, turned + s.translation, pixels, unit, threshold)
        plain = unit * np.abs(camera.project(turned + s.translation, nearest=1e-3) - pixels)
        delta = threshold * unit
        value = np.where(plain < delta, plain**2, 2 * delta * plain - delta**2).mean() + held**2 * (s.c**2).sum()
        return turned, found, slope, float(value)

    turned, found, slope, cost = residuals(state)
    share = 1 / math.sqrt(found.size)
    for _ in range(iterations):
        cross = np.zeros((len(turned), 3, 3))  # d(ω × x)/dω = −[x]×
        cross[:, 0, 1], cross[:, 0, 2] = turned[:, 2], -turned[:, 1]
        cross[:, 1, 0], cross[:, 1, 2] = -turned[:, 2], turned[:, 0]
        cross[:, 2, 0], cross[:, 2, 1] = turned[:, 1], -turned[:, 0]
        directions = [slope @ cross, slope]
        if k:
            bent = np.stack([state.rotation.apply(part) for part in parts], -1)
            directions.insert(0, slope @ bent)
        jacobian = share * np.concatenate(directions, 2).reshape(-1, k + 6)
        jacobian = np.concatenate([jacobian, held * np.eye(k, k + 6)])
        error = np.concatenate([share * found.ravel(), held * state.c])
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ error
        step = -np.linalg.solve(normal + damping * np.diag(normal.diagonal() + 1e-12), gradient)
        new = State(
            state.c + step[:k],
            Rotation.from_rotvec(step[k : k + 3]) * state.rotation,
            state.translation + step[k + 3 :],
        )
        after = residuals(new)
        if after[3] < cost:
            done = cost - after[3] < 1e-9 * cost
            state, (turned, found, slope, cost), damping = new, after, damping / 10
            if done:
                break
        else:
            damping *= 10
    return state


def track_linear(
    sequence: SurfaceSequence,
    template: Template,
    model: LinearModel,
    *,
    threshold: float = 2.0,
    ridge: float = 1e-4,
    iterations: int = 15,
) -> Iterator[Float[np.ndarray, "v 3"]]:
    """Vertices in each frame; the start is the pose that takes the model's mean to the template.

    Raises:
        ValueError: fewer than four usable points in a frame, a negative ridge.
    """
    if ridge < 0:
        raise ValueError(f"ridge {ridge} must be >= 0")
    unit = pixel_unit(sequence.camera, template, 1.0)
    rotation, translation = align(model.mean, template.points)
    state = State(np.zeros(len(model.components)), rotation, translation)
    for observation in sequence.observations:
        there = usable(observation)
        at = interpolation(template.uv, template.faces, there.uv)
        state = fit(
            model, state, sequence.camera, at, there.pixels, unit,
            threshold=threshold, ridge=ridge, iterations=iterations,
        )  # fmt: skip
        yield state.points(model)
