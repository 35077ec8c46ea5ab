"""Eigenvalues of unfoldings beside their limiting laws: centring, histograms, Kolmogorov distance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.linalg import gram, streaming_gram
from tensorbench.decomposition.spiked.unfolding_theory import SecondUnfolding, ThirdUnfolding, centring

__all__ = ["Histogram", "esd", "histogram", "kolmogorov_distance", "rescale"]


def esd(T: Float[np.ndarray, "_ _ _"] | Iterable[Float[np.ndarray, "_ _ _"]], mode: int) -> Float[np.ndarray, " n"]:
    """Ascending eigenvalues of T_(mode) T_(mode)^T; T whole, or in slabs along another mode (modes count from zero)."""
    if isinstance(T, np.ndarray):
        if T.ndim != 3:
            raise ValueError(f"a tensor of order 3 is expected, got shape {T.shape}")
        return np.linalg.eigvalsh(gram(T, mode))
    return np.linalg.eigvalsh(streaming_gram(T, mode))


def rescale(eigenvalues: Float[np.ndarray, " n"], dims: Sequence[int], mode: int) -> Float[np.ndarray, " n"]:
    """(eigenvalue - mu) / sigma, the scale on which the limiting laws stand."""
    mu, sigma = centring(dims, mode)
    return (np.asarray(eigenvalues) - mu) / sigma


def kolmogorov_distance(
    values: Float[np.ndarray, " n"], distribution: Callable[[np.ndarray], np.ndarray], spikes: int = 0
) -> float:
    """sup |F_n - F| of the empirical distribution of `values`, the largest `spikes` left out, from a continuous F."""
    bulk = np.sort(np.asarray(values, dtype=float))
    if not 0 <= spikes < len(bulk):
        raise ValueError(f"spikes = {spikes} leaves nothing of {len(bulk)} values")
    bulk = bulk[: len(bulk) - spikes]
    F = np.asarray(distribution(bulk))
    steps = np.arange(len(bulk) + 1) / len(bulk)
    return float(max(np.abs(F - steps[1:]).max(), np.abs(F - steps[:-1]).max()))


@dataclass(frozen=True)
class Histogram:
    """Heights of the empirical density in bins, and the limiting density averaged over the same bins."""

    edges: Float[np.ndarray, " bins_plus_1"]
    heights: Float[np.ndarray, " bins"]
    expected: Float[np.ndarray, " bins"]


def histogram(
    rescaled: Float[np.ndarray, " n"], law: SecondUnfolding | ThirdUnfolding, bins: int | None = None
) -> Histogram:
    """Histogram over the support of the law; what lies outside counts in the total but has no bin."""
    low, high = law.support[0][0], law.support[-1][1]
    edges = np.linspace(low, high, (round(np.sqrt(len(rescaled))) if bins is None else bins) + 1)
    counts = np.histogram(rescaled, edges)[0]
    width = np.diff(edges)
    return Histogram(edges, counts / (len(rescaled) * width), np.diff(law.distribution(edges)) / width)
