"""What the best rank-one approximation finds under the nested matrix-tensor model, in the large-size limit.

The maximum-likelihood estimate of (x, y, z) is the best rank-one approximation lambda u (x) v (x) w of T. M. E. A.
Seddik, M. Achab, H. Goulart, M. Debbah ("A Nested Matrix-Tensor Model for Noisy Multi-view Clustering", arXiv
2305.19992) give its limits, which arXiv 2402.10677 compares with unfoldings. With c_l = n_l / n_T and

    gamma = beta_T^2 (1 - g3^2 / c3) / (c1 + c2)
    g1 = c1 / (-xi - (1 + gamma) g2 - g3),   g2 = c2 / (-xi - (1 + gamma) g1 - g3),   g3 = c3 / (-xi - g1 - g2),
    q1^2 = 1 - (1 + gamma) g1^2 / c1,   q2^2 = 1 - (1 + gamma) g2^2 / c2,   q3^2 = 1 - g3^2 / c3,
    xi + (1 + gamma)(g1 + g2 + g3) - gamma g3 = beta_T beta_M q1 q2 q3   at xi = lambda                  (the last: *)

the singular value lambda and the alignments |<u, x>|, |<v, y>|, |<w, z>| = q1, q2, q3 are fixed.

`solve` does not iterate in the complex plane. On the real branch right of the bulk every g is negative; let g3 = -w.
Then gamma is a number, t = c1 / |g1| - (1 + gamma) |g1| has the same value for both matrix modes, and the third
equation is one convex equation for t, solved by Newton's method from the right. So w alone runs through the whole
branch: xi = infinity at w = 0, xi = edge of the bulk where d xi / d w = 0; and (*) gives the beta_M that belongs to w.
`stieltjes` iterates the three equations instead, at any xi; it is the oracle of the tests, and gives the density.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

__all__ = ["NoRealSolution", "RankOneLimit", "bulk_edge", "solve", "stieltjes", "threshold_beta_M"]


class NoRealSolution(ValueError):
    """xi lies inside the bulk of the spectrum, where the equations have no real solution."""


@dataclass(frozen=True)
class RankOneLimit:
    """Limits of the best rank-one approximation: singular value `lam` and alignments q_x, q_y, q_z, arrays over beta_M.

    Where (*) has no solution the estimate does not see x and y: `found` is False, the alignments are 0 and `lam` is the
    edge of the bulk.
    """

    lam: Float[np.ndarray, " points"]
    q_x: Float[np.ndarray, " points"]
    q_y: Float[np.ndarray, " points"]
    q_z: Float[np.ndarray, " points"]
    found: np.ndarray


@dataclass(frozen=True)
class _Branch:
    """The real branch at given w = -g3: everything that the equations determine."""

    xi: np.ndarray
    g: np.ndarray  # (3, points), all negative
    gamma: np.ndarray
    q2: np.ndarray  # squared alignments (3, points)
    beta_M: np.ndarray


def _branch(w: np.ndarray, c: np.ndarray, beta_T: float) -> _Branch:
    c1, c2, c3 = c
    gamma = beta_T**2 * (1 - w * w / c3) / (c1 + c2)
    a = 1 + gamma
    t = c3 / w - w  # right of the root: the function is positive there, convex, and Newton's steps only go left
    for _ in range(100):
        r1, r2 = np.sqrt(t * t + 4 * a * c1), np.sqrt(t * t + 4 * a * c2)
        value = t + gamma * (r1 + r2 - 2 * t) / (2 * a) + w - c3 / w
        slope = 1 + gamma * (t / r1 + t / r2 - 2) / (2 * a)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.where(slope > 0, value / slope, np.nan)
        t = t - step
        if not np.any(np.abs(step) > 1e-15 * (1 + np.abs(t))):
            break
    # u = (-t + r) / (2 a) without the cancellation for large t.
    u, v = (2 * share / (t + np.sqrt(t * t + 4 * a * share)) for share in (c1, c2))
    xi = c3 / w + u + v
    q2 = np.stack([1 - a * u * u / c1, 1 - a * v * v / c2, 1 - w * w / c3])
    left = xi - a * (u + v + w) + gamma * w
    with np.errstate(divide="ignore", invalid="ignore"):
        beta_M = left / (beta_T * np.sqrt(np.where((q2 > 0).all(axis=0), q2.prod(axis=0), np.nan)))
    return _Branch(xi, -np.stack([u, v, w]), gamma, q2, beta_M)


def _shares(c: Sequence[float] | np.ndarray) -> np.ndarray:
    shares = np.asarray(c, dtype=float)
    if shares.shape != (3,) or not (shares > 0).all():
        raise ValueError(f"c = {c} must be three positive shares, such as (1/2, 1/3, 1/6) or the dims")
    return shares / shares.sum()


def _strength(beta_T: float) -> float:
    if not beta_T > 0 or not np.isfinite(beta_T):
        raise ValueError(f"beta_T = {beta_T} must be a positive number")
    return float(beta_T)


def _grid(c: np.ndarray, beta_T: float, points: int = 2000) -> tuple[np.ndarray, _Branch]:
    """The part of the branch right of the bulk, w ascending (xi descending to the edge)."""
    w = np.sqrt(c[2]) * np.geomspace(1e-4, 1 - 1e-9, points)
    branch = _branch(w, c, beta_T)
    stop = np.flatnonzero(~(np.diff(branch.xi) < 0))  # NaN, where Newton's method found no root, stops it too
    end = int(stop[0]) + 1 if stop.size else points
    return w[:end], _Branch(*(getattr(branch, name)[..., :end] for name in ("xi", "g", "gamma", "q2", "beta_M")))


def bulk_edge(c: Sequence[float] | np.ndarray, beta_T: float) -> float:
    """Right end of the bulk: the smallest xi of the real branch."""
    shares, strength = _shares(c), _strength(beta_T)
    w, branch = _grid(shares, strength)
    low, high = w[max(len(w) - 3, 0)], min(w[-1] * (w[-1] / w[-2]), np.sqrt(shares[2]) * (1 - 1e-12))
    fine = np.linspace(low, high, 2001)
    return float(np.nanmin(np.append(_branch(fine, shares, strength).xi, branch.xi[-1])))


def threshold_beta_M(c: Sequence[float], beta_T: float) -> float:
    """Smallest beta_M for which (*) has a solution, to the resolution of the branch (about 1e-3)."""
    _, branch = _grid(_shares(c), _strength(beta_T))
    return float(np.nanmin(branch.beta_M))


def solve(c: Sequence[float], beta_M: float | Sequence[float] | np.ndarray, beta_T: float) -> RankOneLimit:
    """Limits for shares `c` (or dims), one beta_T and any number of beta_M.

    Where several xi solve (*), the largest is the global maximum's. ValueError: negative or non-finite strengths,
    shares not three positive numbers.
    """
    shares, strength = _shares(c), _strength(beta_T)
    wanted = np.atleast_1d(np.asarray(beta_M, dtype=float))
    if wanted.ndim != 1 or not (wanted >= 0).all() or not np.isfinite(wanted).all():
        raise ValueError(f"beta_M = {beta_M} must be a number >= 0 or a list of them")
    w, branch = _grid(shares, strength)
    known = np.isfinite(branch.beta_M)
    w, above = w[known], branch.beta_M[known]
    edge = bulk_edge(shares, strength)
    lam, q = np.full(len(wanted), edge), np.zeros((3, len(wanted)))
    found = np.zeros(len(wanted), dtype=bool)

    def gap(at: float, target: float) -> float:
        return float(_branch(np.array([at]), shares, strength).beta_M[0]) - target

    for k, target in enumerate(wanted):
        crossed = np.flatnonzero((above[:-1] > target) & (above[1:] <= target))
        if len(crossed):
            i = int(crossed[0])
            at = brentq(gap, w[i], w[i + 1], args=(target,), xtol=1e-14)
        elif target >= above[0]:  # beyond the first point of the grid: lambda is enormous, any start will do
            at = brentq(gap, w[0] * above[0] / (2 * target), w[0], args=(target,), xtol=1e-16)
        else:
            continue
        point = _branch(np.array([at]), shares, strength)
        lam[k], q[:, k], found[k] = point.xi[0], np.sqrt(np.maximum(point.q2[:, 0], 0)), True
    return RankOneLimit(lam, q[0], q[1], q[2], found)


def stieltjes(
    xi: float | complex, c: Sequence[float], beta_T: float, *, tol: float = 1e-12, maxiter: int = 200_000
) -> np.ndarray:
    """(g1, g2, g3) at `xi` by fixed-point iteration of the three equations from 1j.

    A real `xi` gives real values; NoRealSolution where it lies inside the bulk. A complex `xi` (Im > 0) gives complex
    ones, and Im(g1 + g2 + g3) / pi just above the real axis is the limiting density of the contracted matrix.
    """
    shares, strength = _shares(c), _strength(beta_T)
    real = not np.iscomplexobj(xi) or complex(xi).imag == 0
    g = np.full(3, 1j)
    for _ in range(maxiter):
        gamma = strength**2 * (1 - g[2] ** 2 / shares[2]) / (shares[0] + shares[1])
        before = g.copy()
        g[0] = shares[0] / (-xi - g[1] - g[2] - gamma * g[1])
        g[1] = shares[1] / (-xi - g[0] - g[2] - gamma * g[0])
        g[2] = shares[2] / (-xi - g[0] - g[1])
        if np.abs(g - before).max() < tol:
            break
    if not real:
        return g
    if np.abs(g.imag).max() > 1e-6:
        raise NoRealSolution(
            f"xi = {xi} lies inside the bulk (Im g = {np.abs(g.imag).max():.1e}), which ends at "
            f"{bulk_edge(shares, strength):.4f}; take xi above that"
        )
    return g.real
