"""Exact proximal operators of sequences: total variation and the fused lasso.

Total variation: argmin_x 0.5 |x - y|^2 + lam sum_i |x_{i+1} - x_i|, by the direct algorithm of L. Condat, "A direct
algorithm for 1-D total variation denoising", IEEE Signal Processing Letters 20 (2013). Fused lasso: the same plus
l1 |x|_1, whose solution is the soft-thresholded one of the first (Friedman, Hastie, Höfling and Tibshirani 2007).
Both work on the rows of a matrix, in O(n) time per row.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.regression.tv_loops import prox_tv_rows


def prox_tv1d(y: Float[np.ndarray, "*rows n"], lam: float) -> Float[np.ndarray, "*rows n"]:
    """The prox of ``lam`` times the total variation, along the last axis.

    Raises:
        ValueError: lam is negative or not a number, y is empty or not finite.
    """
    y = np.asarray(y, dtype=np.float64)
    if not lam >= 0:
        raise ValueError(f"lam {lam} must not be negative")
    if y.ndim == 0 or y.shape[-1] == 0:
        raise ValueError(f"a sequence is expected along the last axis, got shape {y.shape}")
    if not np.isfinite(y).all():
        raise ValueError("y has entries that are not finite")
    if lam == 0 or y.shape[-1] == 1:
        return y.copy()
    rows = np.ascontiguousarray(y).reshape(-1, y.shape[-1])
    # Beyond this weight every row is its mean; an infinite one would make NaN of the running sums.
    lam = min(float(lam), float(np.ptp(rows)) * y.shape[-1] + 1.0)
    out = np.empty_like(rows)
    prox_tv_rows(rows, lam, out)
    return out.reshape(y.shape)


def soft_threshold(y: Float[np.ndarray, "*shape"], lam: float) -> Float[np.ndarray, "*shape"]:
    """The prox of ``lam |x|_1``: every entry moves towards zero by ``lam`` and stops there."""
    return np.sign(y) * np.maximum(np.abs(y) - lam, 0.0)


def prox_fused_lasso(y: Float[np.ndarray, "*rows n"], tv: float, l1: float) -> Float[np.ndarray, "*rows n"]:
    """The prox of ``tv`` times the total variation plus ``l1`` times the l1 norm, along the last axis.

    Raises:
        ValueError: as :func:`prox_tv1d`, and for a negative l1.
    """
    if not l1 >= 0:
        raise ValueError(f"l1 {l1} must not be negative")
    return soft_threshold(prox_tv1d(y, tv), l1)
