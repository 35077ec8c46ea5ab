"""Fields on square grids whose evolution is known in closed form. They do not depend on the seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import dataset


@dataclass(frozen=True)
class GridField:
    """A field u[y, x] and its coordinates; ``spacing`` is the distance of grid points."""

    X: Float[np.ndarray, "rows columns"]
    Y: Float[np.ndarray, "rows columns"]
    u: Float[np.ndarray, "rows columns"]
    spacing: float


def wave(
    X: Float[np.ndarray, "rows columns"], Y: Float[np.ndarray, "rows columns"]
) -> Float[np.ndarray, "rows columns"]:
    """1.5 + sin x cos y / 2, between 1 and 2: an eigenfunction of the Laplacian (-2) on a constant."""
    return 1.5 + 0.5 * np.sin(X) * np.cos(Y)


@dataset(title="A plane wave on the torus", source="generated here", licence="Apache-2.0", generated=True, cache=False)
def torus_wave(*, seed: int, points: int = 64) -> GridField:
    """:func:`wave` on ``points`` × ``points`` of [0, 2π)²."""
    at = np.arange(points) * 2 * math.pi / points
    Y, X = np.meshgrid(at, at, indexing="ij")
    return GridField(X, Y, wave(X, Y), 2 * math.pi / points)


@dataset(title="A blob in the dark", source="generated here", licence="Apache-2.0", generated=True, cache=False)
def blob(*, seed: int, points: int = 64, width: float = 4.0, reach: float = 3.5) -> GridField:
    """A Gaussian of this width (pixels), zero beyond ``reach`` widths, left of the middle. Coordinates are pixels."""
    at = np.arange(points, dtype=float)
    Y, X = np.meshgrid(at, at, indexing="ij")
    apart = (X - points // 3) ** 2 + (Y - points // 2) ** 2
    u = np.exp(-apart / (2 * width**2)) * (apart <= (reach * width) ** 2)
    return GridField(X, Y, u, 1.0)
