"""The two sequential recursions behind ``statespace``: the Kalman filter and its backward companion, compiled.

They cost O(M (pR)^3) for M states of R functions with p derivatives each, and nothing in them depends on the spacing
of the states. The backward pass is the Bryson-Frazier form of the Rauch-Tung-Striebel smoother: it carries the
gradient ``lam`` and curvature ``Lam`` of the future's log-likelihood instead of inverting a predicted covariance, so
that two states at (almost) the same place do no harm.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def _spd_inverse(matrix: np.ndarray, inverse: np.ndarray) -> float:
    """Inverse of a small positive definite matrix by Cholesky; returns its log-determinant, NaN if not definite."""
    n = matrix.shape[0]
    chol = np.zeros((n, n))
    logdet = 0.0
    for i in range(n):
        for j in range(i + 1):
            s = matrix[i, j]
            for k in range(j):
                s -= chol[i, k] * chol[j, k]
            if i == j:
                if not s > 0.0:
                    return np.nan
                chol[i, i] = np.sqrt(s)
                logdet += np.log(s)
            else:
                chol[i, j] = s / chol[j, j]
    for c in range(n):  # forward, then backward substitution on each unit vector
        for i in range(n):
            s = 1.0 if i == c else 0.0
            for k in range(i):
                s -= chol[i, k] * inverse[k, c]
            inverse[i, c] = s / chol[i, i]
        for i in range(n - 1, -1, -1):
            s = inverse[i, c]
            for k in range(i + 1, n):
                s -= chol[k, i] * inverse[k, c]
            inverse[i, c] = s / chol[i, i]
    return logdet


@njit(cache=True)
def _apply_left(block: np.ndarray, matrix: np.ndarray, transpose: bool, out: np.ndarray) -> None:
    """``out = (block ⊗ I_R) matrix``, or with the block transposed; block (p, p), matrix (pR, c)."""
    p = block.shape[0]
    r = matrix.shape[0] // p
    for i in range(p):
        for a in range(r):
            for c in range(matrix.shape[1]):
                s = 0.0
                for j in range(p):
                    s += (block[j, i] if transpose else block[i, j]) * matrix[j * r + a, c]
                out[i * r + a, c] = s


@njit(cache=True)
def filter_pass(transition, noise, stationary, y, cov, observed, mean, var, gain, inverse, innovation):
    """Forward pass. Fills the filtered ``mean`` (M, D), ``var`` (M, D, D), the ``gain`` (M, D, R), the inverse
    innovation covariance (M, R, R) and the ``innovation`` (M, R); returns the log marginal likelihood."""
    states, r = y.shape
    p = stationary.shape[0]
    d = p * r
    m = np.zeros((d, 1))
    moved = np.zeros((d, 1))
    big = np.zeros((d, d))
    half = np.zeros((d, d))
    turned = np.zeros((d, d))
    s_matrix = np.zeros((r, r))
    for i in range(p):
        for k in range(p):
            for a in range(r):
                big[i * r + a, k * r + a] = stationary[i, k]
    loglik = 0.0
    for t in range(states):
        if t > 0:  # the stationary prior stands at the first state
            _apply_left(transition[t], m, False, moved)
            m[:, :] = moved
            _apply_left(transition[t], big, False, half)
            for i in range(d):
                for j in range(d):
                    turned[i, j] = half[j, i]
            _apply_left(transition[t], turned, False, big)
            for i in range(p):
                for k in range(p):
                    for a in range(r):
                        big[i * r + a, k * r + a] += noise[t, i, k]
        if observed[t]:
            for a in range(r):
                innovation[t, a] = y[t, a] - m[a, 0]
                for b in range(r):
                    s_matrix[a, b] = big[a, b] + cov[t, a, b]
            logdet = _spd_inverse(s_matrix, inverse[t])
            quad = 0.0
            for a in range(r):
                for b in range(r):
                    quad += innovation[t, a] * inverse[t, a, b] * innovation[t, b]
            loglik -= 0.5 * (quad + logdet + r * np.log(2.0 * np.pi))
            for i in range(d):
                for a in range(r):
                    g = 0.0
                    for b in range(r):
                        g += big[i, b] * inverse[t, b, a]
                    gain[t, i, a] = g
                for a in range(r):
                    m[i, 0] += gain[t, i, a] * innovation[t, a]
            for i in range(d):
                for j in range(d):
                    g = 0.0
                    for a in range(r):
                        g += gain[t, i, a] * big[a, j]
                    half[i, j] = g
            for i in range(d):
                for j in range(i + 1):  # symmetric by construction, kept so exactly
                    v = big[i, j] - 0.5 * (half[i, j] + half[j, i])
                    var[t, i, j] = v
                    var[t, j, i] = v
            big[:, :] = var[t]
        else:
            var[t] = big
        mean[t] = m[:, 0]
    return loglik


@njit(cache=True)
def smoother_pass(transition, observed, mean, var, gain, inverse, innovation, smooth_mean, smooth_var):
    """Backward pass over what ``filter_pass`` left; fills the smoothed mean (M, D) and covariance (M, D, D)."""
    states, d = mean.shape
    r = inverse.shape[1]
    lam = np.zeros((d, 1))
    moved = np.zeros((d, 1))
    curv = np.zeros((d, d))
    half = np.zeros((d, d))
    turned = np.zeros((d, d))
    for t in range(states - 1, -1, -1):
        for i in range(d):
            s = mean[t, i]
            for j in range(d):
                s -= var[t, i, j] * lam[j, 0]
                h = 0.0
                for k in range(d):
                    h += curv[i, k] * var[t, k, j]
                half[i, j] = h
            smooth_mean[t, i] = s
        for i in range(d):
            for j in range(i + 1):
                s = var[t, i, j]
                for k in range(d):
                    s -= var[t, i, k] * half[k, j]
                smooth_var[t, i, j] = s
                smooth_var[t, j, i] = s
        if observed[t]:  # with C = I - K H: lam <- C' lam - H' S^-1 v, Lam <- C' Lam C + H' S^-1 H
            for a in range(r):
                s = lam[a, 0]
                for k in range(d):
                    s -= gain[t, k, a] * lam[k, 0]
                for b in range(r):
                    s -= inverse[t, a, b] * innovation[t, b]
                moved[a, 0] = s
            lam[:r, :] = moved[:r, :]
            for i in range(d):
                for j in range(d):
                    turned[i, j] = (1.0 if i == j else 0.0) - (gain[t, i, j] if j < r else 0.0)
            for i in range(d):
                for j in range(d):
                    s = 0.0
                    for k in range(d):
                        s += curv[i, k] * turned[k, j]
                    half[i, j] = s
            for i in range(
                d
            ):  # C is applied as one matrix and only half is computed: expanding the product, or letting
                for j in range(i + 1):  # the halves drift apart, is unstable over hundreds of precise observations
                    s = inverse[t, i, j] if i < r else 0.0
                    for k in range(d):
                        s += turned[k, i] * half[k, j]
                    curv[i, j] = s
                    curv[j, i] = s
        if t > 0:
            _apply_left(transition[t], lam, True, moved)
            lam[:, :] = moved
            _apply_left(transition[t], curv, True, half)
            for i in range(d):
                for j in range(d):
                    turned[i, j] = half[j, i]
            _apply_left(transition[t], turned, True, curv)
