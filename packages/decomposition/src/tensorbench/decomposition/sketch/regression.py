"""Least squares through a sketch: solve the small problem once, or repeatedly as a Hessian.

With the thin SVD A = U Sigma V^T and the residual r = b - A x* (so U^T r = 0), sketch-and-solve errs by

    x' - x* = V Sigma^-1 (U^T S^T S U)^-1 U^T S^T S r                                    (error identity)

whenever S A has full column rank. The coordinate-wise analysis of Song, Ye, Yin, Zhang (2023, arXiv 2302.00248) bounds
g^T S^T S r for g = U (U^T S^T S U)^-1 c as if g were fixed, but g depends on S; :func:`.instances.counterexample` shows
that the step cannot be made for all embeddings.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.linalg import lstsq, qr, solve_triangular

from tensorbench.decomposition.sketch.sketches import Sketch
from tensorbench.decomposition.sketch.structured import TensorSketch, TensorSRHT

MakeSketch = Callable[[int], Sketch]  # from the number of the iteration (a seed) to a sketch


class RankWarning(UserWarning):
    """A (or S A) has not full column rank: the solution of least norm is returned."""


def check_problem(A: np.ndarray, b: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Finite float64 A (n x d, n >= d) and b (n), or a ValueError."""
    A = np.asarray(A, dtype=np.float64)
    if A.ndim != 2 or A.shape[1] < 1:
        raise ValueError(f"A must be an n x d matrix; got shape {A.shape}")
    n, d = A.shape
    if n < d:
        raise ValueError(f"A is {n} x {d}: fewer rows than unknowns, there is nothing to sketch; need n >= d")
    b = np.zeros(n) if b is None else np.asarray(b, dtype=np.float64)
    if b.shape != (n,):
        raise ValueError(f"b has shape {b.shape}; A has {n} rows, so it must be ({n},)")
    if not (np.isfinite(A).all() and np.isfinite(b).all()):
        raise ValueError("A or b has NaN or infinite entries; drop or impute these rows first")
    return A, b


def _check_rows(m: int, d: int) -> None:
    if m < d:
        raise ValueError(f"a sketch of m = {m} rows leaves {d} unknowns undetermined; need m >= d, better m >= 4 d")


def small_solve(A: Float[np.ndarray, "m d"], b: Float[np.ndarray, " m"], what: str = "A") -> Float[np.ndarray, " d"]:
    """Least squares by pivoted QR; of deficient rank: the solution of least norm, with a :class:`RankWarning`."""
    x, _, rank, _ = lstsq(
        A, b, cond=np.finfo(float).eps * max(A.shape), lapack_driver="gelsy", check_finite=False, overwrite_a=False
    )
    if rank < A.shape[1]:
        warnings.warn(
            f"{what} has rank {rank} < d = {A.shape[1]}; taking the solution of least norm", RankWarning, stacklevel=3
        )
    return x


def exact_solve(A: Float[np.ndarray, "n d"], b: Float[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
    """x* = A^+ b."""
    return small_solve(*check_problem(A, b))


def sketch_and_solve(
    A: Float[np.ndarray, "n d"], b: Float[np.ndarray, " n"], sketch: Sketch
) -> Float[np.ndarray, " d"]:
    """argmin_x |S A x - S b|.

    Raises:
        ValueError: shapes do not fit, NaN, n < d, or the sketch has fewer rows than A has columns.
    """
    A, b = check_problem(A, b)
    _check_rows(sketch.m, A.shape[1])
    small = sketch.apply(np.column_stack([A, b]))
    return small_solve(small[:, :-1], small[:, -1], "S A")


def error_identity(A: Float[np.ndarray, "n d"], b: Float[np.ndarray, " n"], sketch: Sketch) -> Float[np.ndarray, " d"]:
    """x' - x* by the error identity (A and S A of full column rank)."""
    A, b = check_problem(A, b)
    U, sigma, Vt = np.linalg.svd(A, full_matrices=False)
    r = b - U @ (U.T @ b)
    SU, Sr = sketch.apply(U), sketch.apply(r)
    return Vt.T @ (np.linalg.solve(SU.T @ SU, SU.T @ Sr) / sigma)


def sketched_normal_inverse(A: Float[np.ndarray, "n d"], sketch: Sketch) -> Float[np.ndarray, "d d"]:
    """(A^T S^T S A)^-1, from the triangular factor of S A, which is never squared."""
    inverse = solve_triangular(_triangle(A, sketch), np.eye(A.shape[1]))
    return inverse @ inverse.T


def _triangle(A: np.ndarray, sketch: Sketch) -> np.ndarray:
    A, _ = check_problem(A)
    _check_rows(sketch.m, A.shape[1])
    (R,) = qr(sketch.apply(A), mode="r", check_finite=False)
    R = R[: A.shape[1]]
    if np.abs(np.diag(R)).min() <= np.finfo(float).eps * max(A.shape) * np.abs(R).max():
        raise ValueError("S A has not full column rank, so its normal matrix has no inverse; take more rows m")
    return R


def iterative_sketching(
    A: Float[np.ndarray, "n d"],
    b: Float[np.ndarray, " n"],
    make_sketch: MakeSketch,
    iterations: int = 10,
    *,
    refresh: bool = False,
    step: float | None = None,
) -> list[Float[np.ndarray, " d"]]:
    """x_0 = 0, x_(t+1) = x_t + step (A^T S^T S A)^-1 A^T (b - A x_t); the sketch only stands in for the Hessian.

    All iterates, x_0 included. The default ``step``, with rho = sqrt(d/m), is the one that contracts most when the
    squared singular values of S U fill [(1 - rho)^2, (1 + rho)^2]: by 2 rho / (1 + rho^2) an iteration. ``refresh``
    draws a new sketch each time (Pilanci, Wainwright 2016, arXiv 1411.0347).

    Raises:
        ValueError: as :func:`sketch_and_solve`; iterations < 1; m <= d without a step; S A of deficient rank.
    """
    A, b = check_problem(A, b)
    if iterations < 1:
        raise ValueError(f"iterations = {iterations} must be at least 1")
    sketch = make_sketch(0)
    if step is None:
        rho2 = A.shape[1] / sketch.m
        if rho2 >= 1:
            raise ValueError(f"m = {sketch.m} must exceed d = {A.shape[1]} for the default step; take m >= 4 d")
        step = (1 - rho2) ** 2 / (1 + rho2)
    R = _triangle(A, sketch)
    iterates = [np.zeros(A.shape[1])]
    for t in range(iterations):
        if refresh and t:
            R = _triangle(A, make_sketch(t))
        gradient = A.T @ (b - A @ iterates[-1])
        iterates.append(iterates[-1] + step * solve_triangular(R, solve_triangular(R, gradient, trans="T")))
    return iterates


def newton_logistic(
    X: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    make_sketch: MakeSketch | None,
    iterations: int = 10,
    *,
    ridge: float = 1.0,
) -> list[Float[np.ndarray, " d"]]:
    """Iterates of Newton's method for sum log(1 + exp(-y x.w)) + ridge/2 |w|^2, y = ±1, with a sketched Hessian.

    The Hessian is B^T B + ridge I with B = sqrt(p (1 - p)) X, and S B takes the place of B; ``make_sketch=None`` is the
    exact method. Steps are halved until the loss falls (Armijo, 1e-4).
    """
    X, y = check_problem(X, y)
    if not np.isin(y, (-1.0, 1.0)).all() or not ridge > 0:
        raise ValueError(f"labels must be -1 or 1 and ridge = {ridge} positive")

    def loss(w: np.ndarray) -> float:
        return float(np.logaddexp(0, -y * (X @ w)).sum() + ridge / 2 * w @ w)

    iterates = [np.zeros(X.shape[1])]
    for t in range(iterations):
        w = iterates[-1]
        p = 0.5 * (1 + np.tanh(0.5 * (X @ w)))
        B = X * np.sqrt(p * (1 - p))[:, None]
        if make_sketch is not None:
            B = make_sketch(t).apply(B)
        gradient = X.T @ (p - (y + 1) / 2) + ridge * w
        move = -np.linalg.solve(B.T @ B + ridge * np.eye(len(w)), gradient)
        size, now = 1.0, loss(w)
        while loss(w + size * move) > now + 1e-4 * size * (gradient @ move) and size > 1e-10:
            size /= 2
        iterates.append(w + size * move)
    return iterates


def kron_solve(
    A1: Float[np.ndarray, "n1 d1"], A2: Float[np.ndarray, "n2 d2"], b: Float[np.ndarray, " n1n2"]
) -> Float[np.ndarray, " d1d2"]:
    """The exact (A1 (x) A2)^+ b, from the factors' pseudo-inverses."""
    B = np.asarray(b).reshape(A1.shape[0], A2.shape[0])
    return (np.linalg.pinv(A1) @ B @ np.linalg.pinv(A2).T).ravel()


def kron_regression(
    A1: Float[np.ndarray, "n1 d1"],
    A2: Float[np.ndarray, "n2 d2"],
    b: Float[np.ndarray, " n1n2"],
    m: int | None = None,
    generator: np.random.Generator | int | None = None,
    *,
    kind: type[TensorSRHT] | type[TensorSketch] = TensorSRHT,
) -> Float[np.ndarray, " d1d2"]:
    """Sketch-and-solve for (A1 (x) A2) x = b; the design's n1 n2 rows are never formed.

    ``m`` defaults to 8 d1 d2 rows. Rows and unknowns are in row-major order, as ``np.kron`` has them.
    """
    A1, A2 = np.asarray(A1, dtype=np.float64), np.asarray(A2, dtype=np.float64)
    if A1.ndim != 2 or A2.ndim != 2:
        raise ValueError(f"A1 and A2 must be matrices; got shapes {A1.shape} and {A2.shape}")
    b = np.asarray(b, dtype=np.float64)
    rows, d = A1.shape[0] * A2.shape[0], A1.shape[1] * A2.shape[1]
    if b.shape != (rows,):
        raise ValueError(f"b has shape {b.shape}; A1 (x) A2 has {rows} rows, so it must be ({rows},)")
    if rows < d:
        raise ValueError(f"A1 (x) A2 is {rows} x {d}: fewer rows than unknowns")
    m = 8 * d if m is None else m
    _check_rows(m, d)
    sketch = kind((A1.shape[0], A2.shape[0]), m, generator)
    return small_solve(sketch.apply_kron(A1, A2), sketch.apply(b), "S (A1 (x) A2)")
