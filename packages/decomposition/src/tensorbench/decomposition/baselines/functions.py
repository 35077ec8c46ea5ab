"""Approximating a function on [-1, 1]^3 from samples on a tensor grid, by well-kept libraries, with one interface.

Every ``fit(f, n)`` samples ``f`` at n points per variable and returns a :class:`Fitted`: a function of scattered
points, the numbers it stores, and its Tucker or TT ranks where it has some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.polynomial import chebyshev as npcheb
from scipy.interpolate import CubicSpline, RegularGridInterpolator
from scipy.sparse.linalg import gmres

from tensorbench.decomposition.functional.chebyshev import chebpts
from tensorbench.decomposition.functional.truncation import hosvd_tol

Function = Callable[..., np.ndarray]
Points = Float[np.ndarray, "n 3"]


@dataclass(frozen=True)
class Fitted:
    """What a baseline returns."""

    evaluate: Callable[[np.ndarray], np.ndarray]
    storage: int
    ranks: tuple[int, ...] = ()


def sample(f: Function, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n n n"]:
    """f on the grid x × x × x."""
    return np.ascontiguousarray(np.broadcast_to(f(x[:, None, None], x[:, None], x), (len(x),) * 3))


def plain_chebyshev(f: Function, n: int) -> Fitted:
    """The full tensor of coefficients, by ``numpy.polynomial`` (chebfit along each axis, chebvander)."""
    x = chebpts(n)
    coeffs = sample(f, x)
    for axis in range(3):
        flat = np.moveaxis(coeffs, axis, 0).reshape(n, -1)
        fitted = npcheb.chebfit(x, flat, n - 1, rcond=0.0).reshape(n, n, n)
        coeffs = np.moveaxis(fitted, 0, axis)
    coeffs = np.ascontiguousarray(coeffs)

    def evaluate(points: np.ndarray) -> np.ndarray:
        a, b, c = (npcheb.chebvander(points[:, k], n - 1) for k in range(3))
        rows = (a @ coeffs.reshape(n, -1)).reshape(len(points), n, n)
        return np.einsum("njk,nj,nk->n", rows, b, c, optimize=True)

    return Fitted(evaluate, coeffs.size)


def grid_tucker(f: Function, n: int, tol: float = 1e-7) -> Fitted:
    """Tucker decomposition (HOOI, TensorLy) of the values on a uniform grid, columns continued by cubic splines.

    The ranks are those of an HOSVD to the same tolerance.
    """
    from tensorly.decomposition import tucker

    x = np.linspace(-1, 1, n)
    values = sample(f, x)
    ranks = hosvd_tol(values, tol)[0].shape
    core, factors = tucker(values, rank=list(ranks), init="svd", random_state=0)
    splines = [CubicSpline(x, U) for U in factors]

    def evaluate(points: np.ndarray) -> np.ndarray:
        return np.einsum("abc,na,nb,nc->n", core, *(s(points[:, k]) for k, s in enumerate(splines)), optimize=True)

    return Fitted(evaluate, core.size + sum(U.size for U in factors), tuple(core.shape))


def grid_interpolator(f: Function, n: int, kind: str = "cubic") -> Fitted:
    """SciPy's ``RegularGridInterpolator`` on a uniform grid; ``kind`` is its ``method``.

    The iterative solver behind its splines stops at a relative residual of 1e-5 by default, which would be the error of
    the interpolant too; here it goes on to 1e-12.
    """
    x = np.linspace(-1, 1, n)
    tight = {} if kind == "linear" else {"solver": gmres, "solver_args": {"rtol": 1e-12, "atol": 0.0}}
    interpolator = RegularGridInterpolator((x, x, x), sample(f, x), method=kind, **tight)
    return Fitted(interpolator, n**3)


def tt_cross(f: Function, n: int, tol: float = 1e-7, seed: int = 0, largest: int = 64) -> Fitted:
    """TT-cross (TensorLy) of the values at Chebyshev nodes, the cores then turned into Chebyshev series.

    TensorLy's routine takes given ranks: they are raised by half until 500 random entries agree to ``tol`` of the
    largest value, or until the routine finds no more independent fibres.
    """
    from tensorly.contrib.decomposition import tensor_train_cross

    x = chebpts(n)
    values = sample(f, x)
    probe = tuple(np.random.default_rng(seed).integers(n, size=(3, 500)))
    scale = float(np.abs(values).max())
    best, best_error, rank = None, np.inf, 2
    while rank <= min(largest, n):
        try:
            cores = [np.asarray(core) for core in tensor_train_cross(values, [1, rank, rank, 1], random_state=seed)]
        except (ValueError, np.linalg.LinAlgError):  # singular: the rank is above what the function has
            break
        guess = np.einsum("pa,apb,bp->p", cores[0][0][probe[0]], cores[1][:, probe[1]], cores[2][:, probe[2], 0])
        error = float(np.abs(guess - values[probe]).max()) / scale
        if error < best_error:
            best, best_error = cores, error
        if best_error <= tol:
            break
        rank = max(rank + 1, rank * 3 // 2)
    if best is None:
        raise ValueError(f"TT-cross found no decomposition of the {n}^3 samples, not even with ranks 2")
    series = [
        np.moveaxis(
            npcheb.chebfit(x, np.moveaxis(core, 1, 0).reshape(n, -1), n - 1, rcond=0.0).reshape(
                n, core.shape[0], core.shape[2]
            ),
            0,
            1,
        )
        for core in best
    ]

    def evaluate(points: np.ndarray) -> np.ndarray:
        chain = np.ones((len(points), 1))
        for k, core in enumerate(series):
            basis = npcheb.chebvander(points[:, k], n - 1)
            chain = np.einsum("na,amb,nm->nb", chain, core, basis, optimize=True)
        return chain[:, 0]

    return Fitted(evaluate, sum(core.size for core in best), tuple(core.shape[2] for core in best[:-1]))
