"""Classical rivals on a grid: Chebyshev spectral collocation and central finite differences, Newton where needed.

Every interior grid point satisfies the equation, every boundary point its value; derivatives are matrices, combined by
Kronecker products. Chebyshev points and the differentiation matrix are those of Trefethen, "Spectral Methods in MATLAB"
(2000), chapter 6; finite differences are of second order on equispaced points.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.interpolate import RegularGridInterpolator
from scipy.sparse.linalg import spsolve

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.diffops import Manufactured

KINDS = ("chebyshev", "finite_differences")


@dataclass(frozen=True)
class GridSolution:
    """Values on a grid, and how to read between its points; ``newton_steps`` is 1 for a linear equation."""

    axes: tuple[Float[np.ndarray, " n"], ...]
    values: Float[np.ndarray, "*grid"]
    kind: str
    newton_steps: int

    def __call__(self, axes: Sequence[Float[np.ndarray, " m"]]) -> Float[np.ndarray, "*grid"]:
        """On the grid of these axes: the polynomial itself, or cubic splines through the values."""
        if self.kind == "chebyshev":
            result = self.values
            for k, (old, new) in enumerate(zip(self.axes, axes, strict=True)):
                result = np.moveaxis(np.tensordot(_barycentric(old, new), result, axes=(1, k)), 0, k)
            return result
        mesh = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        return RegularGridInterpolator(self.axes, self.values, method="cubic")(mesh)


def chebyshev(n: int, length: float = 1.0) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
    """``n`` Chebyshev points on [0, length], rising, and the matrix of the first derivative there."""
    if n < 3:
        raise ValueError(f"{n} points are too few; use at least 3")
    k = np.arange(n)
    x = -np.cos(np.pi * k / (n - 1))
    c = np.where((k == 0) | (k == n - 1), 2.0, 1.0) * (-1.0) ** k
    gaps = x[:, None] - x[None, :] + np.eye(n)
    D = np.outer(c, 1 / c) / gaps
    np.fill_diagonal(D, 0.0)
    D -= np.diag(D.sum(axis=1))
    return length * (x + 1) / 2, 2 / length * D


def _barycentric(nodes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The matrix that evaluates the polynomial through values at Chebyshev points (Berrut and Trefethen 2004)."""
    weights = (-1.0) ** np.arange(len(nodes))
    weights[[0, -1]] /= 2
    gaps = at[:, None] - nodes[None, :]
    on = gaps == 0
    matrix = weights / np.where(on, 1.0, gaps)
    hit = on.any(axis=1)
    matrix[hit] = on[hit]
    return matrix / matrix.sum(axis=1, keepdims=True)


def differences(n: int, length: float, order: int) -> sp.csr_matrix:
    """Central differences of second order for the first or second derivative; rows at the ends are not meaningful."""
    h = length / (n - 1)
    if order == 1:
        return sp.diags([-1.0, 1.0], [-1, 1], shape=(n, n), format="csr") / (2 * h)
    if order == 2:
        return sp.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(n, n), format="csr") / h**2
    raise ValueError(f"finite differences of order {order} are not there: 1 and 2 are")


def solve_on_grid(
    problem: Manufactured,
    shape: Sequence[int],
    lengths: Sequence[float],
    kind: str = "chebyshev",
    *,
    newton_steps: int = 50,
    tolerance: float = 1e-10,
) -> GridSolution:
    """Solve with the source and the boundary values of a manufactured problem, from zero.

    Warns where Newton's updates have not become smaller than ``tolerance`` in ``newton_steps``.

    Raises:
        ValueError: an unknown kind, or derivatives that the kind does not have.
    """
    if kind not in KINDS:
        raise ValueError(unknown("kind", kind, KINDS))
    dense = kind == "chebyshev"
    axes, by_order = [], []
    for k, (n, length) in enumerate(zip(shape, lengths, strict=True)):
        orders = {index[k] for index in problem.pde.operators}
        matrices: dict[int, Any] = {0: np.eye(n) if dense else sp.eye(n, format="csr")}
        if dense:
            axis, D = chebyshev(n, length)
            matrices |= {o: np.linalg.matrix_power(D, o) for o in orders if o}
        else:
            axis = np.linspace(0, length, n)
            matrices |= {o: differences(n, length, o) for o in orders if o}
        axes.append(axis)
        by_order.append(matrices)
    product: Callable[[Any, Any], Any] = np.kron if dense else sp.kron
    operators = {i: reduce(product, [m[o] for m, o in zip(by_order, i, strict=True)]) for i in problem.pde.operators}
    points = [p.reshape(-1) for p in np.meshgrid(*axes, indexing="ij")]
    edge = np.zeros(tuple(shape), dtype=bool)
    for k in range(len(shape)):
        np.moveaxis(edge, k, 0)[[0, -1]] = True
    edge = edge.reshape(-1)
    source, wanted = problem.source(*points), problem.solution(*points)
    u, taken = np.where(edge, wanted, 0.0), 0
    for _ in range(1 if problem.pde.linear else newton_steps):
        found = {i: M @ u for i, M in operators.items()}
        residual = np.where(edge, u - wanted, problem.pde.residual(found, source, points))
        rows = None
        for i, c in problem.pde.linearise(found, points).items():
            weight = np.where(edge, 0.0, c)
            part = weight[:, None] * operators[i] if dense else sp.diags(weight) @ operators[i]
            rows = part if rows is None else rows + part
        if dense:
            step = np.linalg.solve(rows + np.diag(edge.astype(float)), residual)
        else:
            step = spsolve(sp.csc_matrix(rows + sp.diags(edge.astype(float))), residual)
        u, taken = u - step, taken + 1
        if np.abs(step).max() <= tolerance * max(1.0, np.abs(u).max()):
            break
    else:
        if not problem.pde.linear:
            warnings.warn(
                f"Newton's method has not converged in {newton_steps} steps: the last changed the values by "
                f"{np.abs(step).max():.2g}",
                stacklevel=2,
            )
    return GridSolution(tuple(axes), u.reshape(tuple(shape)), kind, taken)
