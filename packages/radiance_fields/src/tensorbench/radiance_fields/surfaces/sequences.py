"""Sequences of a deforming sheet before one camera: exact isometries, and models of what goes wrong with tracks.

A sheet of side 1, flat in the known template, is held obliquely before the camera and bends more from frame to frame
(:mod:`.isometries`). Points on it are tracked: their pixels get normal noise, some are replaced by pixels anywhere in
the box of the sheet's picture (outliers: mismatches), some are lost (NaN).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.surfaces import isometries
from tensorbench.radiance_fields.surfaces.meshes import Template, grid_mesh
from tensorbench.radiance_fields.surfaces.pinhole import Pinhole

Surface = Callable[[Float[np.ndarray, "n 2"]], Float[np.ndarray, "n 3"]]


@dataclass(frozen=True)
class Observation:
    """Tracked points of one frame: template coordinates and pixels (NaN where a point is lost)."""

    uv: Float[np.ndarray, "n 2"]
    pixels: Float[np.ndarray, "n 2"]


@dataclass(frozen=True)
class SurfaceSequence:
    """What a tracker is given (camera, template, observations), and the truth at the template's vertices, which only
    evaluation reads. ``exact`` gives a frame's true surface at any parameters where it is known.
    """

    name: str
    camera: Pinhole
    template: Template
    observations: tuple[Observation, ...]
    truth: Float[np.ndarray, "frames vertices 3"] | None = None
    exact: tuple[Surface, ...] = ()


@dataclass(frozen=True)
class Corruption:
    """Noise (pixels, standard deviation), and the shares of points that are outliers or lost in each frame."""

    noise: float = 1.0
    outliers: float = 0.0
    missing: float = 0.0

    def __post_init__(self) -> None:
        if self.noise < 0 or not (0 <= self.outliers < 1 and 0 <= self.missing < 1):
            raise ValueError(f"noise {self.noise} must be >= 0, outliers and missing shares in [0, 1)")

    def apply(self, pixels: Float[np.ndarray, "n 2"], rng: np.random.Generator) -> Float[np.ndarray, "n 2"]:
        """Corrupted pixels. Each kind has draws of its own: more outliers leave the noise as it was."""
        found = pixels + self.noise * rng.standard_normal(pixels.shape)
        order, anywhere = rng.permutation(len(pixels)), rng.random(pixels.shape)
        lost = rng.permutation(len(pixels))[: round(self.missing * len(pixels))]
        wrong = order[: round(self.outliers * len(pixels))]
        low, high = pixels.min(0), pixels.max(0)
        found[wrong] = low + anywhere[wrong] * (high - low)
        found[lost] = np.nan
        return found


def on_arrays(f: Callable[[torch.Tensor], torch.Tensor]) -> Surface:
    """A map of tensors as one of arrays."""
    return lambda uv: f(torch.from_numpy(np.asarray(uv, dtype=np.float64))).numpy()


def posed(surface: Surface, rotation: Rotation, centre: Float[np.ndarray, "3"]) -> Surface:
    """The surface turned and moved."""
    return lambda uv: rotation.apply(surface(uv)) + centre


def developable_sequence(
    shape: str,
    *,
    seed: int,
    frames: int = 12,
    curvature: float = 2.5,
    points: int = 200,
    corruption: Corruption | None = None,
    focal: float = 500.0,
    depth: float = 2.5,
    side: int = 21,
    tilt: tuple[float, float] = (20.0, 30.0),
    size: tuple[int, int] = (640, 480),
) -> SurfaceSequence:
    """A sheet that bends to ``curvature`` in equal steps over ``frames``.

    Args:
        shape: ``cylinder``, ``curve`` (κ changes its sign once within the sheet) or ``cone``.
        seed: draws the direction of the bend (±30°), its side, the pose (tilt in the range given, in degrees), the
            points and their corruption.
        points: tracked points, the same ones in all frames.
        side: vertices of the template's grid a side.

    Raises:
        ValueError: an unknown shape, or numbers that make no sense.
    """
    if shape not in isometries.BENDS:
        raise ValueError(unknown("shape", shape, isometries.BENDS))
    if frames < 1 or points < 4 or depth <= 1:
        raise ValueError(f"frames {frames}, points {points}, depth {depth}: at least 1 frame, 4 points, depth above 1")
    rng = np.random.default_rng([seed, sorted(isometries.BENDS).index(shape)])
    angle = math.radians(rng.uniform(-30, 30))
    sign = rng.choice([-1.0, 1.0])
    rotation = Rotation.from_euler(
        "xyz", [rng.uniform(*tilt), rng.uniform(-10, 10), rng.uniform(-15, 15)], degrees=True
    )
    options: dict[str, Any] = {"phase": rng.uniform(0.2, 1.0) - math.pi / 2} if shape == "curve" else {}
    if shape == "curve":
        options["frequency"] = 1.5 * math.pi
    centre = np.array([0.0, 0.0, depth])
    bend = isometries.BENDS[shape]

    def surface(amount: float) -> Surface:
        side_of = functools.partial(_mirrored, bend, sign=sign, curvature=amount, angle=angle, **options)
        return posed(on_arrays(side_of), rotation, centre)

    surfaces = tuple(surface(curvature * (k + 1) / frames) for k in range(frames))
    uv, faces = grid_mesh(side)
    template = Template(uv, surface(0.0)(uv), faces)
    camera = Pinhole.centred(focal, *size)
    tracked = rng.uniform(-0.5, 0.5, size=(points, 2))
    corruption = corruption or Corruption()
    observations = tuple(
        Observation(tracked, corruption.apply(camera.project(true(tracked)), np.random.default_rng([seed, 7, k])))
        for k, true in enumerate(surfaces)
    )
    truth = np.stack([true(uv) for true in surfaces])
    return SurfaceSequence(shape, camera, template, observations, truth, surfaces)


def _mirrored(
    bend: Callable, uv: torch.Tensor, *, sign: float, curvature: float, angle: float, **options: Any
) -> torch.Tensor:
    """The bend to one side or the other of the sheet."""
    points = bend(uv, curvature, angle, **options)
    return points * torch.tensor([1.0, 1.0, sign], dtype=points.dtype)


def flag_sequence(
    *,
    seed: int,
    frames: int = 8,
    curvature: float = 2.0,
    focal: float = 500.0,
    depth: float = 2.5,
    side: int = 21,
    size: tuple[int, int] = (640, 480),
) -> SurfaceSequence:
    """A flag held at its left edge: a wave grows and runs along it (generalised cylinder), seen obliquely. Nothing is
    tracked on it; only its silhouette is seen (:mod:`.silhouette`).
    """
    rng = np.random.default_rng([seed, 11])
    rotation = Rotation.from_euler(
        "xyz", [rng.uniform(15, 25), rng.uniform(-20, -10), rng.uniform(-5, 5)], degrees=True
    )
    phase, centre = rng.uniform(0, 0.6), np.array([0.0, 0.0, depth])

    def surface(k: int) -> Surface:
        share = k / frames
        wave = functools.partial(
            isometries.curved,
            curvature=curvature * share,
            frequency=1.2 * math.pi,
            phase=phase - 0.8 * share,
            start=-0.5,
        )
        return posed(on_arrays(wave), rotation, centre)

    surfaces = tuple(surface(k + 1) for k in range(frames))
    uv, faces = grid_mesh(side)
    template = Template(uv, surface(0)(uv), faces)
    camera = Pinhole.centred(focal, *size)
    none = np.zeros((0, 2))
    truth = np.stack([true(uv) for true in surfaces])
    return SurfaceSequence("flag", camera, template, (Observation(none, none),) * frames, truth, surfaces)
