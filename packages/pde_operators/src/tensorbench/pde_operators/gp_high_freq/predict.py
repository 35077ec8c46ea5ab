"""What the solved process says between the grid points: mean, derivatives, and variance.

    E ∂^a u(x) = ∂^a k(x, X) α,   α = K⁻¹U
    Var ∂^a u(x) = ∂^a∂'^a k(x, x) - |φ|² + φ' P⁻¹ φ,   φ = R⁻¹ ∂^a k(X, x)

with P the precision of the whitened values (Gaussian where the equation is linear, Laplace's approximation elsewhere).
The first two terms of the variance are the process given the function values, the last is their own uncertainty.
Hyperparameters count as known.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.pde_operators.diffops import Index
from tensorbench.pde_operators.gp_high_freq.inner import LARGEST_DENSE, _System, _Whitened
from tensorbench.pde_operators.gp_high_freq.model import HighFreqGP
from tensorbench.pde_operators.kronecker import cholesky, kron_apply


def mean_on_grid(
    model: HighFreqGP, alpha: Tensor, axes: Sequence[Float[Tensor, " m"]], index: Index | None = None
) -> Float[Tensor, "*grid"]:
    """The mean, or its derivative with this multi-index, on the grid of these axes."""
    orders = model.value_index if index is None else index
    with torch.no_grad():
        parts = [
            kernel(new[:, None] - old[None, :], order)
            for kernel, new, old, order in zip(model.kernels, axes, model.problem.axes, orders, strict=True)
        ]
        return kron_apply(parts, alpha)


def mean_at(
    model: HighFreqGP, alpha: Tensor, points: Float[Tensor, "m d"], index: Index | None = None
) -> Float[Tensor, " m"]:
    """The mean, or a derivative, at scattered points."""
    with torch.no_grad():
        rows = _rows(model, points, model.value_index if index is None else index)
        result = rows[0] @ alpha.reshape(alpha.shape[0], -1)
        result = result.reshape(len(points), *alpha.shape[1:])
        for row in rows[1:]:
            result = torch.einsum("mn,mn...->m...", row, result)
        return result


def variance_at(
    model: HighFreqGP, alpha: Tensor, points: Float[Tensor, "m d"], index: Index | None = None
) -> Float[Tensor, " m"]:
    """The variance at scattered points, never below 0; dense in the number of grid points.

    Raises:
        ValueError: more grid points than a dense factor should have.
    """
    if model.problem.size > LARGEST_DENSE:
        raise ValueError(
            f"the variance needs a dense factor of all {model.problem.size} grid points; use a grid of at most "
            f"{LARGEST_DENSE}"
        )
    orders = model.value_index if index is None else index
    with torch.no_grad():
        white = _Whitened(model, model.factors(), by_eigenvectors=False)
        phi = torch.ones(len(points), 1, dtype=torch.float64)
        prior = torch.ones((), dtype=torch.float64)
        zero = torch.zeros((), dtype=torch.float64)
        for kernel, row, root, n in zip(model.kernels, _rows(model, points, orders), white.roots, orders, strict=True):
            # ∂^n in the point is (-1)^n ∂^n in the grid point; both signs square to the same.
            factor = torch.linalg.solve_triangular(root, row.T, upper=False).T
            phi = (phi[:, :, None] * factor[:, None, :]).reshape(len(points), -1)
            prior = prior * (-1) ** n * kernel(zero, 2 * n)
        system = _System(white, white.of_alpha(alpha))
        factor = cholesky(system.matrix(), "the precision of the function values")
        spread = torch.linalg.solve_triangular(factor, phi.T, upper=False)
        return (prior - phi.square().sum(dim=1) + spread.square().sum(dim=0)).clamp(min=0)


def _rows(model: HighFreqGP, points: Tensor, orders: Index) -> list[Tensor]:
    if points.ndim != 2 or points.shape[1] != len(model.problem.axes):
        raise ValueError(f"points of shape {tuple(points.shape)}; expected (m, {len(model.problem.axes)})")
    return [
        kernel(points[:, k, None] - axis[None, :], order)
        for k, (kernel, axis, order) in enumerate(zip(model.kernels, model.problem.axes, orders, strict=True))
    ]
