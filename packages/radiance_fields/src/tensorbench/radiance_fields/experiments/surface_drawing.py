"""Drawing surfaces in space as shaded quadrilaterals in a plane, far ones first."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, Normalize


def view(azimuth: float, elevation: float) -> Float[np.ndarray, "3 3"]:
    """Rows: right, up, and towards the viewer, for a look at (x, y, z) with z up; degrees."""
    a, e = np.radians([azimuth, elevation])
    right = np.array([-np.sin(a), np.cos(a), 0.0])
    towards = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    return np.stack([right, np.cross(towards, right), towards])


def draw_surface(
    ax: Axes,
    points: Float[np.ndarray, "rows columns 3"],
    values: Float[np.ndarray, "rows columns"],
    *,
    axes: Float[np.ndarray, "3 3"],
    norm: Normalize,
    cmap: Colormap,
    lines: bool = True,
    alpha: float = 1.0,
) -> None:
    """Quads of a grid of points, coloured by the mean of their corners' values and shaded by their slant."""
    corners = np.stack([points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]], 2).reshape(-1, 4, 3)
    mean = np.stack([values[:-1, :-1], values[1:, :-1], values[1:, 1:], values[:-1, 1:]]).mean(0).ravel()
    normal = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)
    light = np.abs(normal @ (axes.T @ np.array([0.35, 0.5, 0.8]) / 1.006))
    seen = corners @ axes.T
    order = np.argsort(seen[..., 2].mean(1))
    colours = cmap(norm(mean))
    colours[:, :3] *= (0.55 + 0.45 * light)[:, None]
    colours[:, 3] = alpha
    edge: Any = "face"
    if lines:
        edge = np.clip(colours[order] * [0.8, 0.8, 0.8, 1], 0, 1)
    ax.add_collection(
        PolyCollection(
            list(seen[order][..., :2]), facecolors=colours[order], edgecolors=edge, linewidths=0.25, rasterized=True
        )
    )


def draw_curve(
    ax: Axes, points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"] | None, axes: np.ndarray, **look: Any
) -> None:
    """A curve on a closed surface; parts whose outward normal looks away are left out."""
    seen = points @ axes.T
    if normals is not None:
        seen = np.where((normals @ axes[2] > 0)[:, None], seen, np.nan)
    ax.plot(seen[:, 0], seen[:, 1], **look)


def bare(
    ax: Axes, points: Float[np.ndarray, "n 3"], axes: np.ndarray, margin: float = 0.05, square: bool = False
) -> None:
    """Limits around the points seen, equal scales, no ticks; ``square`` gives all axes of a row the same height."""
    seen = points.reshape(-1, 3) @ axes.T
    low, high = seen[:, :2].min(0), seen[:, :2].max(0)
    middle, half = (low + high) / 2, (high - low) / 2
    if square:
        half = np.full(2, half.max())
    low, high = middle - (half + 2 * margin * half.max()), middle + (half + 2 * margin * half.max())
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[], aspect="equal")
    ax.grid(False)
    ax.spines[:].set_visible(False)


def upright(points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Camera coordinates (x right, y down, z away) as (away, left, up) of one who stands beside the camera."""
    return np.stack([points[..., 2], -points[..., 0], -points[..., 1]], -1)
