"""How good a sketch was: coordinate-wise and Euclidean error constants, embedding distortion, rows that are needed.

The guarantee of Song, Ye, Yin, Zhang (2023, arXiv 2302.00248) is |x' - x*|_inf <= eps / sqrt(d) |A x* - b| |A^+|; the
constants below are the eps that a result attains. All are without unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import qr, svdvals

from tensorbench.decomposition.sketch.regression import check_problem, exact_solve, small_solve
from tensorbench.decomposition.sketch.sketches import Sketch


@dataclass(frozen=True)
class Reference:
    """The exact answer, and what errors are measured by: x*, |A x* - b|, |A^+|, and R of A = Q R."""

    x: np.ndarray
    residual: float
    pinv_norm: float
    R: np.ndarray

    def constants(self, x: Float[np.ndarray, " d"]) -> tuple[float, float]:
        """(sqrt(d) |x - x*|_inf, |x - x*|_2), both over |A x* - b| |A^+|."""
        error, scale = x - self.x, self.residual * self.pinv_norm
        return math.sqrt(len(x)) * float(np.abs(error).max()) / scale, float(np.linalg.norm(error)) / scale

    def spread(self, x: Float[np.ndarray, " d"]) -> tuple[float, float]:
        """|e|_inf / |e|_2 for the error e = x - x*, and for R e: the error in an orthonormal basis of A's columns.

        A direction drawn at random has about sqrt(2 ln d / d), one coordinate alone 1. The first number also shows a
        badly scaled A, whose errors lie along its smallest singular vector for any sketch; the second does not.
        """
        error = x - self.x
        return tuple(float(np.abs(e).max() / np.linalg.norm(e)) for e in (error, self.R @ error))  # type: ignore


def reference(A: Float[np.ndarray, "n d"], b: Float[np.ndarray, " n"]) -> Reference:
    """Solve exactly. Raises ValueError if the system is consistent or A rank-deficient: nothing to scale by."""
    A, b = check_problem(A, b)
    x = exact_solve(A, b)
    residual = float(np.linalg.norm(A @ x - b))
    (R,) = qr(A, mode="r", check_finite=False)
    R = R[: A.shape[1]]
    sigma = svdvals(R)
    if sigma[-1] <= np.finfo(float).eps * max(A.shape) * sigma[0]:
        raise ValueError("A is rank-deficient, so |A^+| says nothing about it; drop columns that depend on others")
    if residual <= 1e-13 * np.linalg.norm(b):
        raise ValueError("b lies in the range of A: every sketch of full rank is exact and the constants are 0/0")
    return Reference(x, residual, 1 / float(sigma[-1]), R)


def linf_constant(A: Float[np.ndarray, "n d"], b: Float[np.ndarray, " n"], x: Float[np.ndarray, " d"]) -> float:
    """sqrt(d) |x - x*|_inf / (|A x* - b| |A^+|)."""
    return reference(A, b).constants(x)[0]


def l2_constant(A: Float[np.ndarray, "n d"], b: Float[np.ndarray, " n"], x: Float[np.ndarray, " d"]) -> float:
    """|x - x*|_2 / (|A x* - b| |A^+|)."""
    return reference(A, b).constants(x)[1]


def random_direction(d: int) -> float:
    """sqrt(2 ln d / d): |e|_inf / |e|_2 of a random direction, the yardstick of the spread."""
    return math.sqrt(2 * math.log(d) / d)


def oce_samples(
    make_sketch: Callable[[int], Sketch], g: Float[np.ndarray, "n *p"], h: Float[np.ndarray, "n *p"], trials: int
) -> Float[np.ndarray, "trials pairs"]:
    """sqrt(m) |g^T (S^T S - I) h| / (|g| |h|) for ``trials`` sketches; columns of g and h are pairs of their own."""
    if trials < 1 or g.shape != h.shape:
        raise ValueError(f"trials = {trials} must be >= 1 and g, h of one shape; got {g.shape} and {h.shape}")
    g, h = g.reshape(len(g), -1), h.reshape(len(h), -1)
    exact, scale = np.einsum("np,np->p", g, h), np.linalg.norm(g, axis=0) * np.linalg.norm(h, axis=0)
    if not (scale > 0).all():
        raise ValueError("g and h must not be zero: the error is relative to |g| |h|")
    out = np.empty((trials, g.shape[1]))
    both = np.hstack([g, h])
    for t in range(trials):
        sketch = make_sketch(t)
        Sg, Sh = np.hsplit(sketch.apply(both), 2)
        out[t] = math.sqrt(sketch.m) * np.abs(np.einsum("mp,mp->p", Sg, Sh) - exact) / scale
    return out


def oce_beta(
    make_sketch: Callable[[int], Sketch],
    g: Float[np.ndarray, " n"],
    h: Float[np.ndarray, " n"],
    trials: int,
    quantiles: Sequence[float] = (0.5, 0.9, 0.99, 1.0),
) -> dict[float, float]:
    """Quantiles of :func:`oce_samples`: the beta of the coordinate-wise embedding that this pair shows."""
    if not all(0 <= q <= 1 for q in quantiles):
        raise ValueError(f"quantiles {list(quantiles)} must lie in [0, 1]")
    values = oce_samples(make_sketch, g, h, trials)[:, 0]
    return {q: float(np.quantile(values, q)) for q in quantiles}


def ose_distortion(sketch: Sketch, A: Float[np.ndarray, "n d"]) -> tuple[float, float]:
    """Smallest and largest singular value of S U, U an orthonormal basis of A's columns; (1, 1) is an isometry."""
    A, _ = check_problem(A)
    U, _ = qr(A, mode="economic", check_finite=False)
    sigma = svdvals(sketch.apply(U))
    return float(sigma[-1]) if sketch.m >= A.shape[1] else 0.0, float(sigma[0])


def required_rows(
    eps: float,
    delta: float,
    make_sketch: Callable[[int, int], Sketch],
    A: Float[np.ndarray, "n d"],
    b: Float[np.ndarray, " n"],
    *,
    trials: int = 20,
    steps: int = 8,
) -> float:
    """Rows m for which the (1 - delta)-quantile of the l_inf constant over ``trials`` sketches is eps.

    ``make_sketch(m, trial)``. Bisection of log m between 2 d and n in ``steps`` halvings; infinite where n rows are
    not enough, 2 d where that suffices already.

    Raises:
        ValueError: eps <= 0 or delta not in (0, 1).
    """
    if not (math.isfinite(eps) and eps > 0) or not 0 < delta < 1:
        raise ValueError(f"eps = {eps} must be positive and delta = {delta} in (0, 1)")
    exact = reference(A, b)
    n, d = A.shape
    Ab = np.column_stack([A, b])

    def enough(m: int) -> bool:
        values = []
        for t in range(trials):
            small = make_sketch(m, t).apply(Ab)
            values.append(exact.constants(small_solve(small[:, :-1], small[:, -1], "S A"))[0])
        return bool(np.quantile(values, 1 - delta) <= eps)

    low, high = min(2 * d, n), n
    if enough(low):
        return float(low)
    if not enough(high):
        return math.inf
    for _ in range(steps):
        middle = round(math.sqrt(low * high))
        if middle in (low, high):
            break
        low, high = (low, middle) if enough(middle) else (middle, high)
    return float(high)
