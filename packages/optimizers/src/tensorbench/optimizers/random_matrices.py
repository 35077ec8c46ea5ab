"""What noise does to the eigenvalues of a matrix: semicircle and Marchenko-Pastur laws with spikes.

Granziol, Zohren & Roberts (2022, JMLR 23(173), arXiv 2006.09092) model the Hessian of a batch of b samples out of N as
that of all data plus a symmetric matrix with entries of variance σ²(1/b - 1/N). With P parameters and
s² = Pσ²(1/b - 1/N) (:func:`noise_variance`):

- the noise alone has its eigenvalues in [-2s, 2s] (semicircle law);
- an eigenvalue λ with |λ| > s becomes λ + s²/λ, the square of its eigenvector's overlap 1 - s²/λ²;
- one with |λ| ≤ s is lost in the bulk, whose edge is 2s (Baik, Ben Arous & Péché 2005; Benaych-Georges & Nadakuditi
  2011).

For the Gauss-Newton matrix the noise is multiplicative: n samples of P numbers with covariance eigenvalue ℓ, q = P/n,
give bulk edges scale·(1 ± √q)² and outliers ℓ(1 + q·scale/(ℓ - scale)) (Baik & Silverstein 2006).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def noise_variance(P_sigma2: float, b: float, N: float = math.inf) -> float:
    """s² = Pσ²(1/b - 1/N), zero for the whole data set.

    Raises:
        ValueError: b below 1 or above N, or a variance that is negative or not finite.
    """
    if not 1 <= b <= N:
        raise ValueError(f"batch size b {b} must be between 1 and the number of samples, {N}")
    if not 0 <= P_sigma2 < math.inf:
        raise ValueError(
            f"P sigma^2 = {P_sigma2} must be at least 0 and finite; an estimate below 0 needs more probes or pairs"
        )
    return P_sigma2 * (1 / b - 1 / N)


def bulk_edge(P_sigma2: float, b: float, N: float = math.inf) -> float:
    """2s, the largest eigenvalue of the noise."""
    return 2 * math.sqrt(noise_variance(P_sigma2, b, N))


def batch_eigenvalue(lam: float, P_sigma2: float, b: float, N: float = math.inf) -> float:
    """Where the eigenvalue ``lam`` of the full matrix lies in that of a batch; the bulk's edge where it is lost."""
    s2 = noise_variance(P_sigma2, b, N)
    if lam * lam > s2:
        return lam + s2 / lam
    return math.copysign(2 * math.sqrt(s2), lam)


def spike_shift(lam: float, P_sigma2: float, b: float, N: float = math.inf) -> float:
    """How far :func:`batch_eigenvalue` is from ``lam``: away from zero."""
    return batch_eigenvalue(lam, P_sigma2, b, N) - lam


def spike_overlap(lam: float, P_sigma2: float, b: float, N: float = math.inf) -> float:
    """Squared inner product of the two eigenvectors, 1 - s²/λ², and 0 where the spike is lost."""
    s2 = noise_variance(P_sigma2, b, N)
    return max(0.0, 1 - s2 / (lam * lam)) if lam else 0.0


def semicircle_pdf(x: Float[np.ndarray, " points"], edge: float) -> Float[np.ndarray, " points"]:
    """Wigner's density on [-edge, edge]."""
    _positive("edge", edge)
    return 2 / (math.pi * edge**2) * np.sqrt(np.maximum(edge**2 - np.asarray(x, dtype=np.float64) ** 2, 0))


def semicircle_cdf(x: Float[np.ndarray, " points"], edge: float) -> Float[np.ndarray, " points"]:
    """Share of eigenvalues up to x."""
    _positive("edge", edge)
    u = np.clip(np.asarray(x, dtype=np.float64) / edge, -1, 1)
    return 0.5 + (u * np.sqrt(1 - u**2) + np.arcsin(u)) / math.pi


def spiked_wigner(
    P: int, spikes: Sequence[float], sigma: float, b: float, rng: np.random.Generator, N: float = math.inf
) -> Float[np.ndarray, "P P"]:
    """A diagonal matrix with the spikes first and zeros behind, plus noise of entry variance σ²(1/b - 1/N).

    The diagonal of the noise has twice that variance (Gaussian orthogonal ensemble), so that turning the axes changes
    nothing and the spikes' eigenvectors may as well be the first axes.
    """
    if not 0 <= len(spikes) <= P:
        raise ValueError(f"{len(spikes)} spikes do not fit into {P} dimensions")
    a = rng.standard_normal((P, P))
    noise = (a + a.T) * math.sqrt(noise_variance(sigma**2, b, N) / 2)
    noise[np.arange(len(spikes)), np.arange(len(spikes))] += np.asarray(spikes, dtype=np.float64)
    return noise


def mp_edges(q: float, scale: float = 1.0) -> tuple[float, float]:
    """Ends of the Marchenko-Pastur bulk for q = P/n; for q > 1 there are zeros besides."""
    _positive("q", q)
    _positive("scale", scale)
    return scale * (1 - math.sqrt(q)) ** 2, scale * (1 + math.sqrt(q)) ** 2


def mp_pdf(x: Float[np.ndarray, " points"], q: float, scale: float = 1.0) -> Float[np.ndarray, " points"]:
    """Marchenko-Pastur density of the eigenvalues that are not 0; for q > 1 it integrates to 1/q."""
    low, high = mp_edges(q, scale)
    x = np.asarray(x, dtype=np.float64)
    inside = np.maximum((high - x) * (x - low), 0)
    return np.sqrt(inside) / (2 * math.pi * q * scale * np.where(x > 0, x, np.inf))


def mp_spike(lam: float, q: float, scale: float = 1.0) -> float:
    """Where the covariance eigenvalue ``lam`` lies in the sample covariance; the bulk's edge where it is lost."""
    high = mp_edges(q, scale)[1]
    return lam * (1 + q * scale / (lam - scale)) if lam > scale * (1 + math.sqrt(q)) else high


def mp_overlap(lam: float, q: float, scale: float = 1.0) -> float:
    """Squared inner product of the eigenvector of the sample covariance with that of the covariance."""
    _positive("scale", scale)
    theta = lam / scale - 1
    return max(0.0, (1 - q / theta**2) / (1 + q / theta)) if theta > math.sqrt(q) else 0.0


def spiked_wishart(
    P: int, n: int, spikes: Sequence[float], rng: np.random.Generator, scale: float = 1.0
) -> Float[np.ndarray, "P P"]:
    """Sample covariance of n Gaussian vectors whose variances are the spikes and then ``scale``."""
    if not 0 <= len(spikes) <= P or n < 1:
        raise ValueError(f"{len(spikes)} spikes in {P} dimensions and {n} samples make no covariance")
    variance = np.full(P, float(scale))
    variance[: len(spikes)] = spikes
    x = rng.standard_normal((n, P)) * np.sqrt(variance)
    return x.T @ x / n


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} {value} must be positive and finite")
