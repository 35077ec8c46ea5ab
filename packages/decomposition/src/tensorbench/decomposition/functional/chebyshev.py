"""Chebyshev series along one axis: nodes, transforms between values and coefficients, derivative, integral, product.

A function on [a, b] is written f(x) = Σ_{k<m} c_k T_k(y), y = (2x - a - b) / (b - a), with T_k(y) = cos(k arccos y).
The nodes are the m extrema of T_{m-1} (second kind), x_j = -cos(πj/(m-1)), ascending, with both ends; interpolation
there is a type-I discrete cosine transform,

    c_k = 2/(m-1) Σ''_j v_j cos(πkj'/(m-1)),   j' = m-1-j,

the first and the last term of the sum and the first and the last coefficient halved (Trefethen, Approximation Theory
and Approximation Practice, 2013, chapter 3). Every function works along any axis of an array.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from jaxtyping import Float
from numpy.polynomial import chebyshev

ROUNDING = 1e-12  # points outside [-1, 1] by no more than this are on the border


def chebpts(m: int, a: float = -1.0, b: float = 1.0) -> Float[np.ndarray, " m"]:
    """The ``m`` Chebyshev nodes of the second kind on [a, b], ascending, both ends included.

    Raises ValueError for m < 2 or an empty interval.
    """
    check_degree(m)
    check_interval(a, b)
    # A sine is antisymmetric about the centre in floating point too, so that the nodes are exactly symmetric.
    y = np.sin(np.pi * (2 * np.arange(m) - (m - 1)) / (2 * (m - 1)))
    return (a * (1 - y) + b * (1 + y)) / 2


def midpoints(n: int, a: float = -1.0, b: float = 1.0) -> Float[np.ndarray, " n"]:
    """The centres of ``n`` equal cells of [a, b]: a + h/2 + jh with h = (b - a)/n."""
    if n < 1:
        raise ValueError(f"a grid needs at least one cell, got n = {n}")
    check_interval(a, b)
    return a + (b - a) * (np.arange(n) + 0.5) / n


def vals2coeffs(values: Float[np.ndarray, "*_"], axis: int = 0) -> Float[np.ndarray, "*_"]:
    """Coefficients of the interpolant of ``values`` at :func:`chebpts`, along ``axis``."""
    values = np.asarray(values, dtype=np.float64)
    m = values.shape[axis]
    check_degree(m)
    coeffs = scipy.fft.dct(np.flip(values, axis), type=1, axis=axis) / (m - 1)
    return _scale_ends(coeffs, axis, 0.5)


def coeffs2vals(coeffs: Float[np.ndarray, "*_"], axis: int = 0) -> Float[np.ndarray, "*_"]:
    """Values at :func:`chebpts` of the series with ``coeffs`` along ``axis``: the inverse of :func:`vals2coeffs`."""
    coeffs = np.asarray(coeffs, dtype=np.float64)
    check_degree(coeffs.shape[axis])
    return np.flip(scipy.fft.dct(_scale_ends(coeffs.copy(), axis, 2.0), type=1, axis=axis) / 2, axis)


def _scale_ends(array: np.ndarray, axis: int, factor: float) -> np.ndarray:
    ends = np.moveaxis(array, axis, 0)
    ends[0] *= factor
    ends[-1] *= factor
    return array


def chebvander(x: Float[np.ndarray, " n"], m: int) -> Float[np.ndarray, "n m"]:
    """T_k(x) for k < m; x in [-1, 1], points outside by rounding are moved to the border.

    By the three-term recurrence, which is as exact as cos(k arccos x) here and several times faster.
    """
    x = np.asarray(x, dtype=np.float64)
    near = np.where(np.abs(x) <= 1 + ROUNDING, np.clip(x, -1, 1), x)
    return chebyshev.chebvander(near, m - 1)


def to_unit(x: Float[np.ndarray, "*_"], a: float, b: float) -> Float[np.ndarray, "*_"]:
    """[a, b] mapped to [-1, 1]."""
    return (2 * np.asarray(x, dtype=np.float64) - a - b) / (b - a)


def diff_coeffs(
    coeffs: Float[np.ndarray, "*_"], a: float = -1.0, b: float = 1.0, axis: int = 0
) -> Float[np.ndarray, "*_"]:
    """Coefficients of the derivative with respect to x in [a, b]; as many as before, the last one zero."""
    check_interval(a, b)
    derivative = chebyshev.chebder(np.asarray(coeffs, dtype=np.float64), scl=2 / (b - a), axis=axis)
    return _pad(derivative, np.shape(coeffs)[axis], axis)


def integrate_coeffs(
    coeffs: Float[np.ndarray, "*_"], a: float = -1.0, b: float = 1.0, axis: int = 0
) -> Float[np.ndarray, "*_"]:
    """Coefficients of the antiderivative that vanishes at a; one more than before."""
    check_interval(a, b)
    # numpy's scl multiplies the result, and its lower bound is a point of [-1, 1].
    return chebyshev.chebint(np.asarray(coeffs, dtype=np.float64), lbnd=-1, scl=(b - a) / 2, axis=axis)


def integral_weights(m: int, a: float = -1.0, b: float = 1.0) -> Float[np.ndarray, " m"]:
    """∫_a^b T_k dx for k < m: (b - a)/(1 - k²) for even k, else 0. Its product with coefficients is the integral."""
    k = np.arange(m, dtype=np.float64)
    weights = np.zeros(m)
    weights[::2] = (b - a) / (1 - k[::2] ** 2)
    return weights


def gram_matrix(m: int, p: int, a: float = -1.0, b: float = 1.0) -> Float[np.ndarray, "m p"]:
    """∫_a^b T_j T_k dx for j < m and k < p, from T_j T_k = (T_{j+k} + T_{|j-k|})/2."""
    weights = integral_weights(m + p, a, b)
    j, k = np.ogrid[:m, :p]
    return (weights[j + k] + weights[np.abs(j - k)]) / 2


def _pad(coeffs: np.ndarray, m: int, axis: int) -> np.ndarray:
    """Zeros appended along ``axis`` until there are ``m`` coefficients."""
    width = [(0, 0)] * coeffs.ndim
    width[axis] = (0, m - coeffs.shape[axis])
    return np.pad(coeffs, width)


def check_degree(m: int) -> None:
    """ValueError unless m is a whole number of nodes, at least two."""
    if isinstance(m, bool) or not isinstance(m, int | np.integer) or m < 2:
        raise ValueError(f"m = {m!r} is not a number of Chebyshev nodes; both ends are nodes, so use m >= 2")


def check_interval(a: float, b: float) -> None:
    """ValueError unless a < b, both finite."""
    if not (np.isfinite(a) and np.isfinite(b) and a < b):
        raise ValueError(f"[{a}, {b}] is not an interval; give finite ends with a < b")
