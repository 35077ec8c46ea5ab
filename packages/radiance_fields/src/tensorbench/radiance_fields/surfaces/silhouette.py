"""Tracking without correspondences: the projected surface must fill the silhouette.

Three data terms for :func:`.tracking.track`, all of parameters that are projected:

- ``Chamfer``: mean squared distance of projected points to the nearest of the pixels sampled in the mask, and of those
  to the nearest projected point (the released code's alternative to tracked points);
- ``Contour``: the same distances between the projected rim and the mask's outline (ours);
- ``SoftMask``: projected points are blurred to a picture, 1 − Π_i (1 − exp(−|p − q_i|² / 2σ²)), which must be that of
  the mask's pixels in the mean square.

Parameters should reach the template's border: where they end is where the surface's silhouette does.

A term may join several cameras. Paper: Barbany, Colomé, Torras (arXiv 2212.11596); its code's Chamfer loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tensorbench.radiance_fields.surfaces.meshes import Template, as_tensor, edges_of
from tensorbench.radiance_fields.surfaces.pinhole import Pinhole


@dataclass(frozen=True)
class View:
    """One camera's mask of a frame.

    Raises:
        ValueError: a mask that is not the camera's size, or is empty.
    """

    camera: Pinhole
    mask: Bool[np.ndarray, "height width"]

    def __post_init__(self) -> None:
        if self.mask.shape != (self.camera.height, self.camera.width):
            raise ValueError(
                f"the mask is {self.mask.shape}, the camera's picture {(self.camera.height, self.camera.width)}"
            )
        if not self.mask.any():
            raise ValueError("the mask has no foreground: the surface is not seen in this frame")

    def samples(self, n: int, rng: np.random.Generator) -> Float[np.ndarray, "n 2"]:
        """Pixel coordinates drawn uniformly in the mask."""
        rows, columns = np.nonzero(self.mask)
        chosen = rng.integers(len(rows), size=n)
        return np.stack([columns[chosen], rows[chosen]], 1) + rng.random((n, 2))


class _Nearest:
    """Two-sided squared distance of projected points and each view's pixels, in the unit of ``unit`` per pixel."""

    uv: Float[np.ndarray, "n 2"]
    unit: float
    views: Sequence[View]
    targets: list[Float[Tensor, "m 2"]]

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
        total = points.new_zeros(())
        for view, target in zip(self.views, self.targets, strict=True):
            found = view.camera.project(points, nearest=1e-3) * self.unit
            total = total + chamfer_loss(found, target.to(points.device))
        return total / len(self.views)


class Chamfer(_Nearest):
    """Two-sided squared distance of projected points and mask samples, in the unit of ``unit`` per pixel."""

    def __init__(
        self,
        views: Sequence[View],
        uv: Float[np.ndarray, "n 2"],
        unit: float,
        rng: np.random.Generator,
        samples: int = 600,
        like: Tensor | None = None,
    ) -> None:
        if not views:
            raise ValueError("a silhouette needs at least one view")
        like = torch.zeros(()) if like is None else like
        self.uv, self.unit, self.views = uv, unit, views
        self.targets = [as_tensor(view.samples(samples, rng) * unit, like) for view in views]


def chamfer_loss(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """mean_a min_b |a − b|² + mean_b min_a |a − b|²."""
    with torch.no_grad():
        distances = torch.cdist(a, b)
        to_b, to_a = distances.argmin(1), distances.argmin(0)
    return (a - b[to_b]).square().sum(1).mean() + (b - a[to_a]).square().sum(1).mean()


class Contour(_Nearest):
    """Two-sided squared distance of the projected rim and the mask's outline, in the unit of ``unit`` per pixel.

    ``uv`` must run along the template's border. Where all of the silhouette is the rim (no fold hides it), this has no
    pull inwards, as samples inside the mask have: their nearest projected point is on average further inside.
    """

    def __init__(
        self,
        views: Sequence[View],
        uv: Float[np.ndarray, "n 2"],
        unit: float,
        samples: int = 300,
        like: Tensor | None = None,
    ) -> None:
        if not views:
            raise ValueError("a silhouette needs at least one view")
        like = torch.zeros(()) if like is None else like
        self.uv, self.unit, self.views = uv, unit, views
        self.targets = [as_tensor(outline(view.mask, samples) * unit, like) for view in views]


def outline(mask: Bool[np.ndarray, "height width"], samples: int) -> Float[np.ndarray, "samples 2"]:
    """Points (x, y) at equal distances along the longest outline of a mask, between its pixels and their neighbours."""
    from skimage.measure import find_contours

    longest = max(find_contours(np.pad(mask, 1).astype(float), 0.5), key=len) - 1
    steps = np.linalg.norm(np.diff(longest, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.linspace(0, along[-1], samples, endpoint=False)
    return np.stack([np.interp(at, along, longest[:, k]) for k in (1, 0)], 1) + 0.5


def rim(template: Template, samples: int) -> Float[np.ndarray, "n 2"]:
    """Parameters on the template's border edges, equally many on each, about ``samples`` in all."""
    edges, count = edges_of(template.faces)
    border = template.uv[edges[count == 1]]
    share = (np.arange(max(1, round(samples / len(border)))) + 0.5) / max(1, round(samples / len(border)))
    return (border[:, None, 0] + share[:, None] * (border[:, None, 1] - border[:, None, 0])).reshape(-1, 2)


class SoftMask:
    """Mean squared difference of two blurred pictures on a coarse grid of ``cell`` pixels: of the projected points, and
    of the mask's own pixels, so that both are blurred alike; times (σ · unit)², to be a squared distance.
    """

    def __init__(
        self,
        views: Sequence[View],
        uv: Float[np.ndarray, "n 2"],
        unit: float,
        cell: int = 12,
        sigma: float = 8.0,
        like: Tensor | None = None,
    ) -> None:
        if not views or cell < 1 or not sigma > 0:
            raise ValueError(f"{len(views)} views, cells of {cell} pixels, sigma {sigma}: all must be positive")
        like = torch.zeros(()) if like is None else like
        self.uv, self.views, self.sigma, self.unit = uv, views, sigma, unit
        self.grids, self.goals = [], []
        for view in views:
            rows, columns = np.nonzero(view.mask)
            x = np.arange(columns.min() - 3 * sigma, columns.max() + 3 * sigma + 1, cell) + 0.5
            y = np.arange(rows.min() - 3 * sigma, rows.max() + 3 * sigma + 1, cell) + 0.5
            self.grids.append(as_tensor(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2), like))
            # As many pixels as there are points, evenly: every k-th of the rows and columns.
            stride = max(1, round(np.sqrt(len(rows) / max(len(uv), 1))))
            chosen = (rows % stride == 0) & (columns % stride == 0)
            pixels = np.stack([columns[chosen], rows[chosen]], 1) + 0.5
            self.goals.append(self._blurred(self.grids[-1], as_tensor(pixels, like)))

    def _blurred(self, grid: Float[Tensor, "cells 2"], pixels: Float[Tensor, "n 2"]) -> Float[Tensor, " cells"]:
        squared = (grid[:, :1] - pixels[:, 0]).square() + (grid[:, 1:] - pixels[:, 1]).square()
        covered = torch.exp(-squared / (2 * self.sigma**2)).clamp_max(1 - 1e-6)
        return 1 - torch.exp(torch.log1p(-covered).sum(1))

    def picture(self, points: Float[Tensor, "n 3"], k: int = 0) -> Float[Tensor, " cells"]:
        """The blurred projection on the grid of view k."""
        return self._blurred(self.grids[k].to(points.device), self.views[k].camera.project(points, nearest=1e-3))

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
        total = points.new_zeros(())
        for k, goal in enumerate(self.goals):
            total = total + (self.picture(points, k) - goal.to(points.device)).square().mean()
        return total / len(self.goals) * (self.sigma * self.unit) ** 2
