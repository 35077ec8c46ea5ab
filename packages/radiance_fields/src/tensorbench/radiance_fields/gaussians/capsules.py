"""Rays against capsules (a segment and all within a radius of it), in closed form: exact pictures of a jointed body.

A capsule from a to b of radius r is hit where |o + t d - nearest point of the segment| = r: a quadratic for the round
side, another for each of the two spheres at its ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Hits:
    """The nearest hit of each ray: its distance (infinite where nothing is hit), which capsule, where along its segment
    (0 to 1), the outward normal (unit; zeros where nothing is hit)."""

    distance: Float[np.ndarray, "rays"]
    capsule: Int[np.ndarray, "rays"]
    along: Float[np.ndarray, "rays"]
    normal: Float[np.ndarray, "rays 3"]


def cast(
    origins: Float[np.ndarray, "rays 3"],
    directions: Float[np.ndarray, "rays 3"],
    start: Float[np.ndarray, "k 3"],
    end: Float[np.ndarray, "k 3"],
    radius: Float[np.ndarray, "k"],
) -> Hits:
    """Where unit ``directions`` from ``origins`` first meet one of k capsules. Rays start outside of them all.

    Raises:
        ValueError: a radius that is not positive, or a capsule whose ends are one point.
    """
    if (radius <= 0).any():
        raise ValueError(f"radii must be positive, the smallest is {radius.min()}")
    rays = len(origins)
    best, owner, along = np.full(rays, np.inf), np.full(rays, -1), np.zeros(rays)
    length = np.linalg.norm(end - start, axis=-1)
    if not (length > 0).all():
        raise ValueError(f"capsule {int(np.argmin(length > 0))} has no length: its ends must be two points")
    middle, bound = (start + end) / 2, length / 2 + radius
    for k in range(len(start)):
        # Only rays that meet the sphere around the capsule.
        away = middle[k] - origins
        ahead = np.einsum("ij,ij->i", away, directions)
        near = np.flatnonzero(np.einsum("ij,ij->i", away, away) - ahead**2 <= bound[k] ** 2)
        if not len(near):
            continue
        t = _one(origins[near], directions[near], start[k], end[k], float(radius[k]))
        nearer = t < best[near]
        chosen = near[nearer]
        best[chosen], owner[chosen] = t[nearer], k
    hit = np.flatnonzero(owner >= 0)
    point = origins[hit] + best[hit, None] * directions[hit]
    a, axis = start[owner[hit]], (end - start)[owner[hit]]
    share = np.einsum("ij,ij->i", point - a, axis) / np.einsum("ij,ij->i", axis, axis)
    along[hit] = np.clip(share, 0.0, 1.0)
    normal = np.zeros((rays, 3))
    outward = point - a - along[hit, None] * axis
    normal[hit] = outward / np.linalg.norm(outward, axis=-1, keepdims=True)
    return Hits(best, owner, along, normal)


def _one(o: np.ndarray, d: np.ndarray, a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    """Distances to one capsule, infinite where it is missed."""
    axis, away = b - a, o - a
    square = axis @ axis
    d_axis, o_axis = d @ axis, away @ axis
    d_away, o_away = np.einsum("ij,ij->i", d, away), np.einsum("ij,ij->i", away, away)
    # The part across the axis: |away + t d|² - (its share along the axis)² = r².
    p = square - d_axis**2
    q = square * d_away - o_axis * d_axis
    rest = square * (o_away - radius**2) - o_axis**2
    found = np.full(len(o), np.inf)
    root = q * q - p * rest
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (-q - np.sqrt(root)) / p
        y = o_axis + t * d_axis
        side = (root >= 0) & (p > 1e-12) & (y > 0) & (y < square) & (t > 0)
        found[side] = t[side]
        for centre in (a, b):
            off = o - centre
            half = np.einsum("ij,ij->i", d, off)
            inner = half * half - np.einsum("ij,ij->i", off, off) + radius**2
            t = -half - np.sqrt(inner)
            # Of the sphere only what lies beyond the end of the segment; the rest is within the round side.
            beyond = (o_axis + t * d_axis <= 0) if centre is a else (o_axis + t * d_axis >= square)
            cap = (inner >= 0) & beyond & (t > 0)
            found[cap] = np.minimum(found[cap], t[cap])
    return found
