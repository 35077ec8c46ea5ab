"""Darcy flow -div(a ∇u) = f on the unit square, u = 0 on its boundary: cell-centred finite volumes.

The flux through a face is the difference of the two cells' values times the harmonic mean of their permeabilities,
exact in one dimension when a jumps at the face; at the boundary it is the difference to zero over half a cell. The
scheme conserves: what the sources put in leaves through the boundary. The error falls like h² for smooth a, and in
general like h when a jumps. Systems are solved directly (sparse LU) or by conjugate gradients, preconditioned by a
V-cycle of multigrid: bilinear interpolation between cell centres, coarse matrices as Galerkin products, two damped
Jacobi sweeps before and after, so that the number of iterations hardly grows with the grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.sparse import linalg as sla

from tensorbench.core.errors import unknown

METHODS = ("direct", "multigrid_cg")
_DAMPING = 0.8  # of the Jacobi sweeps
_SWEEPS = 2
_COARSEST = 8  # cells a direction that are solved directly
_MOST_ITERATIONS = 200


@dataclass(frozen=True)
class Report:
    """How a system was solved: iterations of CG (0 for a direct solve) and the residual's norm over that of f."""

    iterations: int
    residual: float


def solve(
    permeability: Float[np.ndarray, "*batch n n"],
    source: Float[np.ndarray, "*any n n"] | float = 1.0,
    *,
    method: str = "direct",
    tolerance: float = 1e-10,
    report: Callable[[Report], None] | None = None,
) -> Float[np.ndarray, "*batch n n"]:
    """u at the cell centres ``grids.cell_grid(n)`` squared, for any batch of permeabilities.

    Args:
        source: f at the cell centres, one field for all, one for each, or a constant.
        tolerance: multigrid_cg stops where the residual is this small relative to f.
        report: called with a :class:`Report` for each system.

    Raises:
        ValueError: a grid that is not square, a permeability that is not positive and finite, an unknown method.
        ArithmeticError: CG did not reach the tolerance.
    """
    a = np.asarray(permeability, dtype=np.float64)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2] or a.shape[-1] < 2:
        raise ValueError(f"the permeability needs a square grid of at least 2 x 2 cells, got shape {a.shape}")
    if not (np.isfinite(a).all() and (a > 0).all()):
        worst = float(np.nanmin(a)) if np.isfinite(a).any() else np.nan
        raise ValueError(f"the permeability must be positive and finite everywhere; its smallest value is {worst:g}")
    if method not in METHODS:
        raise ValueError(unknown("method of solution", method, METHODS))
    if not tolerance > 0:
        raise ValueError(f"tolerance {tolerance!r} must be positive")
    n = a.shape[-1]
    f = np.asarray(source, dtype=np.float64)
    if f.ndim and f.shape not in ((n, n), a.shape):
        raise ValueError(f"a source of shape {f.shape} fits neither one field {(n, n)} nor the batch {a.shape}")
    if not np.isfinite(f).all():
        raise ValueError("the source has values that are not finite")
    right = np.broadcast_to(f, a.shape).reshape(-1, n * n) / n**2
    fields = a.reshape(-1, n, n)
    u = np.empty_like(right)
    for index, (field, b) in enumerate(zip(fields, right, strict=True)):
        matrix = assemble(field)
        if method == "direct":
            u[index], iterations = sla.spsolve(matrix, b, permc_spec="MMD_AT_PLUS_A"), 0
        else:
            u[index], iterations = _conjugate_gradients(matrix, b, Multigrid.build(matrix, n), tolerance)
        if report is not None:
            size = float(np.linalg.norm(b)) or 1.0
            report(Report(iterations, float(np.linalg.norm(b - matrix @ u[index])) / size))
    return u.reshape(a.shape)


def assemble(permeability: Float[np.ndarray, "n n"]) -> sp.csc_matrix:
    """The matrix of net outward fluxes of the cells (symmetric positive definite, five-point)."""
    a = permeability
    n = a.shape[0]
    index = np.arange(n * n).reshape(n, n)
    rows, columns, values = [], [], []
    diagonal = np.zeros((n, n))
    for axis in (0, 1):
        one, two = (np.take(a, range(n - 1), axis), np.take(a, range(1, n), axis))
        face = 2 * one * two / (one + two)
        first, second = np.take(index, range(n - 1), axis).ravel(), np.take(index, range(1, n), axis).ravel()
        rows += [first, second]
        columns += [second, first]
        values += [-face.ravel(), -face.ravel()]
        padded = np.concatenate([2 * np.take(a, [0], axis), face, 2 * np.take(a, [n - 1], axis)], axis)
        diagonal += np.take(padded, range(n), axis) + np.take(padded, range(1, n + 1), axis)
    rows.append(index.ravel())
    columns.append(index.ravel())
    values.append(diagonal.ravel())
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sp.csc_matrix(entries, shape=(n * n, n * n))


def boundary_flux(permeability: Float[np.ndarray, "n n"], u: Float[np.ndarray, "n n"]) -> float:
    """What leaves through the boundary; equals the integral of f."""
    flux = 2 * permeability * u
    return float(flux[0].sum() + flux[-1].sum() + flux[:, 0].sum() + flux[:, -1].sum())


@dataclass(frozen=True, eq=False)
class Multigrid:
    """A hierarchy of matrices; calling it with a residual applies one symmetric V-cycle."""

    matrices: list[sp.csr_matrix]
    interpolations: list[sp.csr_matrix]  # from the next coarser grid
    coarsest: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def build(cls, matrix: sp.spmatrix, n: int) -> Multigrid:
        """Coarsen by pairs of cells until a direction has an odd number of them or at most 8."""
        matrices, interpolations = [sp.csr_matrix(matrix)], []
        while n % 2 == 0 and n > _COARSEST:
            line = _interpolation(n)
            interpolations.append(sp.kron(line, line, format="csr"))
            matrices.append(sp.csr_matrix(interpolations[-1].T @ matrices[-1] @ interpolations[-1]))
            n //= 2
        return cls(matrices, interpolations, sla.splu(sp.csc_matrix(matrices[-1])).solve)

    def __call__(self, residual: np.ndarray, level: int = 0) -> np.ndarray:
        if level == len(self.interpolations):
            return self.coarsest(residual)
        matrix, up = self.matrices[level], self.interpolations[level]
        weight = _DAMPING / matrix.diagonal()
        x = weight * residual
        for _ in range(_SWEEPS - 1):
            x += weight * (residual - matrix @ x)
        x += up @ self(up.T @ (residual - matrix @ x), level + 1)
        for _ in range(_SWEEPS):
            x += weight * (residual - matrix @ x)
        return x


def _interpolation(n: int) -> sp.csr_matrix:
    """Linear between the centres of n/2 cells and to zero at the boundary, at the centres of n cells."""
    coarse = np.arange(n // 2)
    rows = np.concatenate([2 * coarse, 2 * coarse + 1, 2 * coarse[1:], 2 * coarse[:-1] + 1])
    columns = np.concatenate([coarse, coarse, coarse[:-1], coarse[1:]])
    near = np.full(n // 2, 0.75)
    values = np.concatenate([near, near, np.full(n // 2 - 1, 0.25), np.full(n // 2 - 1, 0.25)])
    values[0] = values[n - 1] = 0.5  # beside the boundary: half way from the centre to the wall
    return sp.csr_matrix((values, (rows, columns)), shape=(n, n // 2))


def _conjugate_gradients(
    matrix: sp.spmatrix, b: np.ndarray, precondition: Callable[[np.ndarray], np.ndarray], tolerance: float
) -> tuple[np.ndarray, int]:
    x, r = np.zeros_like(b), b.copy()
    goal = tolerance * float(np.linalg.norm(b))
    if goal == 0:
        return x, 0
    rows = sp.csr_matrix(matrix)
    z = precondition(r)
    p, rz = z, float(r @ z)
    for iteration in range(1, _MOST_ITERATIONS + 1):
        q = rows @ p
        step = rz / float(p @ q)
        x += step * p
        r -= step * q
        if float(np.linalg.norm(r)) <= goal:
            return x, iteration
        z = precondition(r)
        rz, before = float(r @ z), rz
        p = z + (rz / before) * p
    raise ArithmeticError(
        f"conjugate gradients did not reach {tolerance:g} in {_MOST_ITERATIONS} iterations "
        f"(residual {np.linalg.norm(r) / np.linalg.norm(b):.1e}); use method='direct' or a larger tolerance"
    )
