"""Soft density: a sum of Gaussian blobs that glow. How much light passes is known in closed form.

σ(x) = Σ_k a_k exp(-|x - c_k|² / 2 s_k²). Along a ray each blob is a Gaussian of the distance, so that the optical depth
between two distances is a sum of differences of error functions, and the transmittance exp(-τ) is exact. Emission
∫ T σ c dt is a sum over short intervals whose weights T(t_i) - T(t_{i+1}) are exact too: only where the colour changes
within an interval is there an error, of the second order in its length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Rays = Float[np.ndarray, "m 3"]


@dataclass(frozen=True)
class Blobs:
    """Gaussian blobs: centres, standard deviations, peak densities (per unit length) and colours."""

    centres: Float[np.ndarray, "k 3"]
    deviations: Float[np.ndarray, " k"]
    peaks: Float[np.ndarray, " k"]
    colours: Float[np.ndarray, "k 3"]

    def __post_init__(self) -> None:
        if (self.deviations <= 0).any() or (self.peaks < 0).any():
            raise ValueError("blobs need positive standard deviations and densities that are not negative")

    def each(self, points: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "m k"]:
        """Density of each blob at points."""
        squared = ((points[:, None] - self.centres) ** 2).sum(axis=-1)
        return self.peaks * np.exp(-0.5 * squared / self.deviations**2)

    def density(self, points: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, " m"]:
        """σ at points, per unit length."""
        return self.each(points).sum(axis=1)

    def optical_depth(
        self, origins: Rays, directions: Rays, start: Float[np.ndarray, "m ..."], end: Float[np.ndarray, "m ..."]
    ) -> Float[np.ndarray, "m ..."]:
        """∫ σ dt between two distances along each ray (unit directions); exact."""
        from scipy.special import erf

        total = np.zeros(np.broadcast_shapes(start.shape, end.shape))
        for centre, deviation, peak in zip(self.centres, self.deviations, self.peaks, strict=True):
            offset = centre - origins
            nearest = np.einsum("ij,ij->i", offset, directions)
            miss = np.maximum(np.einsum("ij,ij->i", offset, offset) - nearest**2, 0)
            factor = peak * deviation * np.sqrt(np.pi / 2) * np.exp(-0.5 * miss / deviation**2)
            shape = (-1,) + (1,) * (total.ndim - 1)
            nearest, factor, scale = nearest.reshape(shape), factor.reshape(shape), np.sqrt(2) * deviation
            total += factor * (erf((end - nearest) / scale) - erf((start - nearest) / scale))
        return total

    def emit(
        self, origins: Rays, directions: Rays, start: Float[np.ndarray, " m"], end: Float[np.ndarray, " m"], n: int = 96
    ) -> tuple[Float[np.ndarray, "m 3"], Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """Light given off between two distances, what share of light passes, and ∫ T σ t dt (for expected depth)."""
        edges = start[:, None] + (end - start)[:, None] * np.linspace(0, 1, n + 1)
        passing = np.exp(-self.optical_depth(origins, directions, start[:, None], edges))
        weights = passing[:, :-1] - passing[:, 1:]
        middle = 0.5 * (edges[:, :-1] + edges[:, 1:])
        points = origins[:, None] + middle[..., None] * directions[:, None]
        each = self.each(points.reshape(-1, 3)).reshape(len(origins), n, -1)
        shares = each / np.maximum(each.sum(axis=-1, keepdims=True), 1e-300)
        colours = np.einsum("mi,mik,kc->mc", weights, shares, self.colours)
        return colours, passing[:, -1], (weights * middle).sum(axis=1)
