"""Sizes and rates that the analysis of tubal gradient descent speaks of, as numbers.

Exact: counts of unknowns, and the length of the spectral phase from the operator at hand. From the theorem's form only:
:func:`admissible_step`, :func:`admissible_alpha`, :func:`iteration_bound`, :func:`error_bound`. They follow the matrix
theorem of Stöger and Soltanolkotabi (NeurIPS 2021), which the tubal one of Karnik et al. (2025) generalises; the
powers of k, the constants `c` and their being sufficient are NOT verified against the paper. Steps and operators are
those of the text there: A_i with entries of variance 1 / m (divide a step by m for entries of variance 1).
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.tubal.algebra import fourier_singular_values, real_slices
from tensorbench.decomposition.tubal.measurements import MeasurementOperator


def _check_sizes(n: int, r: int, k: int) -> None:
    if n < 1 or k < 1 or not 1 <= r <= n:
        raise ValueError(f"n={n}, r={r}, k={k}: sizes are positive and the tubal rank r is in 1..n")


def figure_measurements(n: int, r: int, k: int, factor: float) -> int:
    """m = ceil(factor (n + 1) r k ln(n + 1)): factor 1.2 in the paper's figure 2, 0.9 in figures 3 and 4."""
    _check_sizes(n, r, k)
    return math.ceil(factor * (n + 1) * r * k * math.log(n + 1))


def symmetric_unknowns(n: int, k: int, transform: str = "fft") -> int:
    """Free numbers in an n x n x k tensor with X = X^T: least squares alone needs as many measurements."""
    _check_sizes(n, 1, k)
    return sum(n * (n + 1) // 2 if real else n * n for real in real_slices(k, transform))


def lowrank_unknowns(n: int, r: int, k: int, transform: str = "fft") -> int:
    """Free numbers in X * X^T of tubal rank r: no method can do with fewer generic measurements."""
    _check_sizes(n, r, k)
    return sum(n * r - r * (r - 1) // 2 if real else 2 * n * r - r * r for real in real_slices(k, transform))


def spectral_iterations(
    operator: MeasurementOperator, y: Float[np.ndarray, " m"], rank: int, alpha: float, step: float
) -> float:
    """Iterations until the power method lifts the weakest of the r leading directions from alpha to 1:
    ln(1 / alpha) / ln(1 + step lambda), lambda the least r-th eigenvalue of a slice of sum_i y_i (A_i + A_i^T)."""
    _check_sizes(operator.n, rank, operator.k)
    slices = operator.coordinates.slices(2.0 * operator.adjoint_symmetric(operator.check_values(y)))
    growth = float(np.linalg.eigvalsh(slices)[:, -rank].min())
    if growth <= 0 or not 0 < alpha < 1:
        raise ValueError(f"the r-th eigenvalue {growth:.2e} must be positive and alpha={alpha} in (0, 1)")
    return math.log(1 / alpha) / math.log1p(step * growth)


def _scales(X: Float[np.ndarray, "n r k"]) -> tuple[float, float]:
    values = fourier_singular_values(X)
    if values.min() <= 0:
        raise ValueError("the factor X has a zero singular value in a slice: the theorem needs full tubal rank")
    return float(values.max()), float(values.max() / values.min())


def admissible_step(X: Float[np.ndarray, "n r k"], c: float = 1.0) -> float:
    """c kappa^-4 |X|^-2 (unverified constant) for the ground-truth factor X with t-condition number kappa."""
    norm, kappa = _scales(X)
    return c / (kappa**4 * norm**2)


def admissible_alpha(X: Float[np.ndarray, "n r k"], R: int, c: float = 1.0) -> float:
    """c |X| sqrt(min(R, n) - r) / (kappa^(1/2) (n k)^(3/4)) (unverified constant and power of k)."""
    (n, r, k), (norm, kappa) = X.shape, _scales(X)
    if min(R, n) <= r:
        raise ValueError(f"min(R, n) = {min(R, n)} must exceed the tubal rank {r} (over-parametrisation)")
    return c * norm * math.sqrt(min(R, n) - r) / (math.sqrt(kappa) * (n * k) ** 0.75)


def iteration_bound(X: Float[np.ndarray, "n r k"], R: int, alpha: float, step: float, c: float = 1.0) -> float:
    """c / (step sigma_min^2) ln(kappa n / m max(1, kappa r / m) |X| / alpha), m = min(R, n) - r, c unverified."""
    (n, r, _), (norm, kappa) = X.shape, _scales(X)
    excess = min(R, n) - r
    if excess <= 0 or not alpha > 0 or not step > 0:
        raise ValueError(f"min(R, n) - r = {excess}, alpha={alpha} and step={step} must be positive")
    inside = kappa * n / excess * max(1.0, kappa * r / excess) * norm / alpha
    return c * math.log(inside) / (step * (norm / kappa) ** 2)


def error_bound(X: Float[np.ndarray, "n r k"], R: int, alpha: float, c: float = 1.0) -> float:
    """c r^(1/8) kappa^(-3/16) (min(R, n) - r)^(3/8) (alpha / |X|)^(21/16), relative to |X|^2 (unverified constant and
    without the factor in k). What is testable is the exponent of alpha."""
    (n, r, _), (norm, kappa) = X.shape, _scales(X)
    return c * r**0.125 * kappa ** (-3 / 16) * max(min(R, n) - r, 0) ** 0.375 * (alpha / norm) ** (21 / 16)
