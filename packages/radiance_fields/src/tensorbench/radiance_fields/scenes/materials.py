"""Textures (functions of points), materials, and one directional light: Lambert with Blinn-Phong highlights.

Colours are display values in [0, 1]: nothing is tone-mapped, and what exceeds 1 is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tensorbench.radiance_fields.scenes.solids import to_local

Points = Float[np.ndarray, "m 3"]
Colours = Float[np.ndarray, "m 3"]
Texture = Callable[[Points], Colours]
Rgb = tuple[float, float, float]


def plain(colour: Rgb) -> Texture:
    """One colour."""
    return lambda p: np.broadcast_to(np.asarray(colour, p.dtype), p.shape)


def checker(first: Rgb, second: Rgb, size: float) -> Texture:
    """Cubes of side ``size`` in two colours, in turn."""
    return lambda p: _choose((np.floor(p / size).sum(axis=1) % 2) > 0.5, second, first, p)


def stripes(first: Rgb, second: Rgb, width: float, axis: Sequence[float] = (0.0, 0.0, 1.0)) -> Texture:
    """Slabs of thickness ``width`` across ``axis`` in two colours, in turn."""
    unit = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    return lambda p: _choose((np.floor(p @ unit.astype(p.dtype) / width) % 2) > 0.5, second, first, p)


def noisy(first: Rgb, second: Rgb, scale: float, seed: int = 0, octaves: int = 2) -> Texture:
    """Between two colours by value noise whose cells are ``scale`` wide."""

    def colours(p: Points) -> Colours:
        share = value_noise(p / scale, seed, octaves)[:, None]
        return ((1 - share) * np.asarray(first) + share * np.asarray(second)).astype(p.dtype)

    return colours


def in_frame(texture: Texture, centre: Sequence[float], rotation: Float[np.ndarray, "3 3"] | None = None) -> Texture:
    """The texture fixed to something that was turned and moved."""
    return lambda p: texture(to_local(p, centre, rotation))


def value_noise(p: Points, seed: int = 0, octaves: int = 1) -> Float[np.ndarray, " m"]:
    """Smooth noise in [0, 1] with cells of side 1: random values at the corners, blended by 6t⁵ - 15t⁴ + 10t³.

    Each further octave halves cells and weight.
    """
    if octaves < 1:
        raise ValueError(f"octaves {octaves} must be at least 1")
    total, weight, result = 0.0, 1.0, np.zeros(len(p))
    for octave in range(octaves):
        result += weight * _one_octave(p * 2**octave, seed + 101 * octave)
        total += weight
        weight /= 2
    return (result / total).astype(p.dtype)


def _one_octave(p: Points, seed: int) -> np.ndarray:
    corner = np.floor(p).astype(np.int64)
    t = p - corner
    t = t * t * t * (t * (6 * t - 15) + 10)
    result = np.zeros(len(p))
    for k in range(8):
        offset = np.array([k & 1, k >> 1 & 1, k >> 2 & 1])
        weight = np.where(offset, t, 1 - t).prod(axis=1)
        result += weight * _hash(corner + offset, seed)
    return result


def _hash(lattice: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each lattice point: multiply and shift, as integer hashes do (Wang; Evensen)."""
    word = lattice.astype(np.uint64) * np.array([73856093, 19349663, 83492791], dtype=np.uint64)
    mixed = (word[:, 0] ^ word[:, 1] ^ word[:, 2]) + np.uint64(seed * 2654435761 % 2**32)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(factor)
    return (mixed >> np.uint64(40)).astype(np.float64) / 2**24


def _choose(condition: np.ndarray, yes: Rgb, no: Rgb, p: Points) -> Colours:
    return np.where(condition[:, None], np.asarray(yes, p.dtype), np.asarray(no, p.dtype))


@dataclass(frozen=True)
class Material:
    """Diffuse colour, and the strength and exponent of the highlight (0: dull)."""

    colour: Texture
    specular: float = 0.0
    shininess: float = 32.0


@dataclass(frozen=True)
class Light:
    """Light from far away along -``towards`` (the direction to it), and how much comes from everywhere."""

    towards: tuple[float, float, float] = (0.45, -0.35, 0.82)
    ambient: float = 0.35
    strength: float = 0.75

    @property
    def unit(self) -> Float[np.ndarray, "3"]:
        direction = np.asarray(self.towards, dtype=np.float64)
        return direction / np.linalg.norm(direction)


def blinn_phong(
    material: Material,
    light: Light,
    points: Points,
    normals: Points,
    directions: Points,
    lit: Float[np.ndarray, " m"],
) -> Colours:
    """colour (ambient + strength · lit · max(0, n·l)) + specular · lit · max(0, n·h)^shininess, cut at 1.

    ``directions`` point from the camera to the points; ``lit`` is 0 in shadow and 1 out of it.
    """
    to_light = light.unit.astype(points.dtype)
    facing = np.maximum(normals @ to_light, 0) * lit
    half = to_light - directions
    half = half / np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-12)
    shine = np.maximum(np.einsum("ij,ij->i", normals, half), 0) ** material.shininess * (facing > 0) * lit
    colour = material.colour(points) * (light.ambient + light.strength * facing)[:, None]
    return np.clip(colour + material.specular * shine[:, None], 0, 1).astype(points.dtype)
