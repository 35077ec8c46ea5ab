"""Tensors of the nested matrix-tensor model, and handwritten digits seen through noisy copies with unequal gains.

The loaders of generated tensors return draws, which hold the hidden vectors and give the noise on demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tensorbench.core.data import dataset

if TYPE_CHECKING:
    from tensorbench.decomposition.spiked.nested import NestedDraw


@dataset(title="Nested matrix-tensor model", source="generated here", licence="Apache-2.0", generated=True, cache=False)
def nested_family(
    *,
    seed: int,
    sizes: Sequence[Sequence[int]],
    beta_M: float,
    rho: float | None = None,
    varrho: float | None = None,
    draws: int = 1,
) -> list[list[NestedDraw]]:
    """`draws` draws for each size; the strength is given as `rho` (what the second unfolding sees) or as `varrho` (what
    the third unfolding sees)."""
    from tensorbench.decomposition.spiked.nested import NestedModel
    from tensorbench.decomposition.spiked.unfolding_theory import rho_from_beta, third_unfolding

    strength = rho if varrho is None else varrho
    if strength is None or (rho is not None and varrho is not None):
        raise ValueError("give one of rho (second unfolding) and varrho (third unfolding)")
    if draws < 1 or not sizes:
        raise ValueError(f"draws = {draws} must be at least 1 and sizes = {sizes} must name a size")
    family = []
    for k, dims in enumerate(sizes):
        # Both strengths are proportional to beta_T^2.
        per_square = rho_from_beta(dims, 1.0) if varrho is None else third_unfolding(dims, beta_M, 1.0).varrho
        beta_T = float(np.sqrt(strength / per_square))
        model = NestedModel(dims, beta_M, beta_T=beta_T, generator=np.random.default_rng([seed, k, 2402]))
        family.append([model.draw() for _ in range(draws)])
    return family


@dataclass(frozen=True)
class DigitViews:
    """Images of two digits, and their views at any strength.

    `images` (pixels x points): centred, leading singular value 1; `gains` of the views (unit norm); `labels` +1 / -1.
    """

    images: np.ndarray
    gains: np.ndarray
    labels: np.ndarray
    noise_seed: int

    def tensor(self, strength: float) -> np.ndarray:
        """strength * images (x) gains + noise of variance 1 / (pixels + points + views), the same at all strengths."""
        shape = (*self.images.shape, len(self.gains))
        noise = np.random.default_rng(self.noise_seed).standard_normal(shape) / np.sqrt(sum(shape))
        return noise + strength * self.images[:, :, None] * self.gains


@dataclass(frozen=True)
class MultiviewProblems:
    """Draws of the model with two classes (their strengths are to be set), and the digits."""

    draws: list[NestedDraw]
    digits: DigitViews


@dataset(
    title="Two classes in many views",
    source="generated here; UCI optical digits, as in scikit-learn",
    licence="Apache-2.0; CC BY 4.0",
    library="sklearn",
)
def multiview_problems(
    *,
    seed: int,
    p: int = 150,
    n: int = 300,
    m: int = 60,
    draws: int = 1,
    digits: Sequence[int] = (0, 1),
    gains: Sequence[float] = (1.0, 0.7, 0.5, 0.3, 0.1),
) -> MultiviewProblems:
    """Clusters of Gaussians, n points with p features in m views, and all images of two digits in views of unequal
    gains. The seed decides the simulated data and the digits' noise."""
    from sklearn.datasets import load_digits

    from tensorbench.decomposition.spiked.nested import multiview

    if len(set(digits)) != 2 or not set(digits) <= set(range(10)):
        raise ValueError(f"digits = {list(digits)} must be two different ones of 0 to 9")
    weights = np.asarray(gains, dtype=float)
    if weights.ndim != 1 or not len(weights) or not np.linalg.norm(weights) > 0:
        raise ValueError(f"gains = {list(gains)} must be a list of numbers, not all zero")
    model = multiview(p, n, m, 1.0, 1.0, generator=np.random.default_rng([seed, 1062]))
    bunch = load_digits()
    chosen = np.isin(bunch.target, list(digits))
    images = bunch.data[chosen].T / 16.0
    images = images - images.mean(axis=1, keepdims=True)
    views = DigitViews(
        images / np.linalg.norm(images, 2),
        weights / np.linalg.norm(weights),
        np.where(bunch.target[chosen] == digits[0], 1.0, -1.0),
        seed,
    )
    return MultiviewProblems([model.draw() for _ in range(draws)], views)
