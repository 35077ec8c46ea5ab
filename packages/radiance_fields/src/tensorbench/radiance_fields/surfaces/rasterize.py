"""Pictures of a mesh: silhouettes, depth and textures by a z-buffer.

Barycentric coordinates in the picture are turned into those in space (divided by depth), so that textures do not swim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from tensorbench.radiance_fields.surfaces.pinhole import Pinhole


@dataclass(frozen=True)
class Raster:
    """For each pixel the nearest face (-1 where there is none), its barycentric coordinates, and the depth."""

    face: Int[np.ndarray, "height width"]
    weights: Float[np.ndarray, "height width 3"]
    depth: Float[np.ndarray, "height width"]

    @property
    def mask(self) -> Bool[np.ndarray, "height width"]:
        """The silhouette."""
        return self.face >= 0

    def interpolate(
        self, faces: Int[np.ndarray, "faces 3"], values: Float[np.ndarray, "vertices channels"]
    ) -> Float[np.ndarray, "height width channels"]:
        """Values of vertices at the pixels, 0 where there is no face."""
        found = np.einsum("hwk,hwkc->hwc", self.weights, values[faces[self.face]])
        return np.where(self.mask[..., None], found, 0.0)


def rasterize(camera: Pinhole, points: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]) -> Raster:
    """Draw triangles; pixel (i, j) is sampled at its centre (j + 0.5, i + 0.5).

    Raises:
        ValueError: vertices behind the camera.
    """
    pixels, inverse_depth = camera.project(points), 1 / camera.in_frame(points)[:, 2]
    height, width = camera.height, camera.width
    face = np.full((height, width), -1)
    weights, nearest = np.zeros((height, width, 3)), np.zeros((height, width))  # nearest: 1 / depth
    corners = pixels[faces]
    low = np.clip(np.ceil(corners.min(1) - 0.5).astype(int), 0, [width, height])
    high = np.clip(np.floor(corners.max(1) - 0.5).astype(int) + 1, 0, [width, height])
    a, b, c = corners.transpose(1, 0, 2)
    double = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    drawable = (low < high).all(1) & (np.abs(double) > 1e-12)
    for k in np.flatnonzero(drawable):
        x = np.arange(low[k, 0], high[k, 0]) + 0.5
        y = (np.arange(low[k, 1], high[k, 1]) + 0.5)[:, None]
        w1 = ((x - a[k, 0]) * (c[k, 1] - a[k, 1]) - (y - a[k, 1]) * (c[k, 0] - a[k, 0])) / double[k]
        w2 = ((b[k, 0] - a[k, 0]) * (y - a[k, 1]) - (b[k, 1] - a[k, 1]) * (x - a[k, 0])) / double[k]
        w0 = 1 - w1 - w2
        scaled = np.stack([w0, w1, w2], -1) * inverse_depth[faces[k]]
        inverse = scaled.sum(-1)
        window = np.s_[low[k, 1] : high[k, 1], low[k, 0] : high[k, 0]]
        shown = (w0 >= 0) & (w1 >= 0) & (w2 >= 0) & (inverse > nearest[window])
        face[window][shown] = k
        nearest[window][shown] = inverse[shown]
        weights[window][shown] = scaled[shown] / inverse[shown, None]
    with np.errstate(divide="ignore"):
        return Raster(face, weights, 1 / nearest)


def textured(
    raster: Raster,
    faces: Int[np.ndarray, "faces 3"],
    uv: Float[np.ndarray, "vertices 2"],
    texture: Float[np.ndarray, "rows columns channels"],
    background: float = 1.0,
    shade: Float[np.ndarray, " vertices"] | None = None,
) -> Float[np.ndarray, "height width channels"]:
    """The picture of a texture (rows along v, columns along u, the uv box over all of it), bilinearly sampled.

    ``shade`` multiplies it at the vertices.
    """
    from scipy.ndimage import map_coordinates

    low, high = uv.min(0), uv.max(0)
    at = raster.interpolate(faces, (uv - low) / (high - low))
    rows, columns = texture.shape[:2]
    where = [at[..., 1] * (rows - 1), at[..., 0] * (columns - 1)]
    found = np.stack([map_coordinates(texture[..., k], where, order=1) for k in range(texture.shape[2])], -1)
    if shade is not None:
        found = found * raster.interpolate(faces, shade[:, None])
    return np.where(raster.mask[..., None], np.clip(found, 0, 1), background)
