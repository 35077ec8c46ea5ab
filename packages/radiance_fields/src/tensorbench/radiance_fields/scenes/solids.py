"""Solids by their signed distance: negative inside, positive outside, never larger than the true distance.

A shape is a function of points (m × 3) that returns m signed distances. What is combined stays a lower bound of the
distance, so that sphere tracing (Hart 1996) cannot step through a surface. Formulas are the common ones (Hart 1996;
the catalogue of distance functions by Inigo Quilez), lengths are in scene units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "m 3"]
Distances = Float[np.ndarray, " m"]
Shape = Callable[[Points], Distances]


def sphere(centre: Sequence[float], radius: float) -> Shape:
    """A ball; exact."""
    _positive("radius", radius)

    def distance(p: Points) -> Distances:
        return _norm(p - _vector(centre, p)) - np.asarray(radius, p.dtype)

    return distance


def box(half: Sequence[float], rounded: float = 0.0) -> Shape:
    """A box about the origin with half sides ``half``, edges rounded by a radius; exact."""
    _positive("half side", min(half))
    if not 0 <= rounded < min(half):
        raise ValueError(f"edges rounded by {rounded} do not fit half sides {list(half)}; use less than the smallest")

    def distance(p: Points) -> Distances:
        q = np.abs(p) - (_vector(half, p) - p.dtype.type(rounded))
        return _norm(np.maximum(q, 0)) + np.minimum(q.max(axis=1), 0) - p.dtype.type(rounded)

    return distance


def cylinder(radius: float, half_height: float) -> Shape:
    """A cylinder around the z axis with flat ends; exact."""
    _positive("radius", radius)
    _positive("half height", half_height)

    def distance(p: Points) -> Distances:
        across = np.hypot(p[:, 0], p[:, 1]) - p.dtype.type(radius)
        along = np.abs(p[:, 2]) - p.dtype.type(half_height)
        return np.hypot(np.maximum(across, 0), np.maximum(along, 0)) + np.minimum(np.maximum(across, along), 0)

    return distance


def torus(major: float, minor: float) -> Shape:
    """A torus around the z axis; exact."""
    _positive("minor radius", minor)
    if not minor < major:
        raise ValueError(f"the minor radius {minor} of a torus must be below its major radius {major}")

    def distance(p: Points) -> Distances:
        ring = np.hypot(p[:, 0], p[:, 1]) - p.dtype.type(major)
        return np.hypot(ring, p[:, 2]) - p.dtype.type(minor)

    return distance


def capsule(start: Sequence[float], end: Sequence[float], radius: float) -> Shape:
    """All points within ``radius`` of a segment; exact."""
    _positive("radius", radius)

    def distance(p: Points) -> Distances:
        a, ab = _vector(start, p), _vector(np.subtract(end, start), p)
        along = np.clip((p - a) @ ab / max(float(ab @ ab), 1e-12), 0, 1).astype(p.dtype)
        return _norm(p - a - along[:, None] * ab) - p.dtype.type(radius)

    return distance


def union(*shapes: Shape) -> Shape:
    """All of the shapes."""
    return lambda p: np.minimum.reduce([shape(p) for shape in shapes])


def intersection(*shapes: Shape) -> Shape:
    """What lies in every shape."""
    return lambda p: np.maximum.reduce([shape(p) for shape in shapes])


def difference(kept: Shape, removed: Shape) -> Shape:
    """What of ``kept`` does not lie in ``removed``."""
    return lambda p: np.maximum(kept(p), -removed(p))


def smooth_union(a: Shape, b: Shape, width: float) -> Shape:
    """Both shapes, the seam filled: distances within ``width`` of each other are blended (polynomial, order 2)."""
    _positive("width", width)

    def distance(p: Points) -> Distances:
        da, db = a(p), b(p)
        blend = np.maximum(width - np.abs(da - db), 0) / width
        return (np.minimum(da, db) - blend * blend * (width / 4)).astype(p.dtype)

    return distance


def placed(shape: Shape, centre: Sequence[float], rotation: Float[np.ndarray, "3 3"] | None = None) -> Shape:
    """The shape turned (``rotation`` maps its axes to the scene's) and moved to ``centre``."""

    def distance(p: Points) -> Distances:
        return shape(to_local(p, centre, rotation))

    return distance


def to_local(p: Points, centre: Sequence[float], rotation: Float[np.ndarray, "3 3"] | None = None) -> Points:
    """Scene points in the coordinates of something turned by ``rotation`` and moved to ``centre``."""
    moved = p - _vector(centre, p)
    return moved if rotation is None else moved @ rotation.astype(p.dtype)


def displaced(shape: Shape, height: Callable[[Points], Distances], slope: float) -> Shape:
    """The surface raised by ``height``, whose gradient nowhere exceeds ``slope``; distances shrink accordingly."""
    if slope < 0:
        raise ValueError(f"slope {slope} is a bound on the length of a gradient and cannot be negative")
    return lambda p: ((shape(p) - height(p)) / (1 + slope)).astype(p.dtype)


def rotation(axis: Sequence[float], degrees: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about an axis by the right-hand rule (Rodrigues)."""
    a = np.asarray(axis, dtype=np.float64)
    length = float(np.linalg.norm(a))
    if length < 1e-12:
        raise ValueError("a rotation needs an axis that is not zero")
    x, y, z = a / length
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * (k @ k)


def _norm(p: Points) -> Distances:
    return np.sqrt(np.einsum("ij,ij->i", p, p))


def _vector(values: Sequence[float] | np.ndarray, like: Points) -> np.ndarray:
    return np.asarray(values, dtype=like.dtype)


def _positive(what: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{what} {value} must be positive")
