"""The joint density of function values, kernel parameters and noise levels, and its two forms.

To minimise, with U the function values on the grid, y the boundary values, F(U) the residual of the equation there:

    J = ½ log|K| + ½ U'K⁻¹U - λ_b (N_b τ/2 - ½ e^τ |U_b - y|²) - (N v/2 - ½ e^v |F(U)|²) - log p(w)

(Fang et al., arXiv 2311.04465; read from the reference code.) Derivatives in F are those of the interpolant: in one
dimension u'' = K_xx K⁻¹ U, on a grid a mode product for each coordinate. With α = K⁻¹U nothing but log|K| needs an
inverse, so that a gradient at fixed α costs matrix products alone (at the minimiser in α it is that of the profile).

K carries the jitter, its derivatives do not, as in the reference. Corners count once among the boundary points, not
twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tensorbench.pde_operators.diffops import Index
from tensorbench.pde_operators.gp_high_freq.problem import GridProblem, warn_below_nyquist
from tensorbench.pde_operators.kernels import MixtureKernel
from tensorbench.pde_operators.kronecker import KroneckerCov, equispaced, kron_apply, toeplitz


@dataclass(frozen=True)
class Factors:
    """For each coordinate the matrices of the kernel's derivatives by order; order 0 with the jitter."""

    matrices: tuple[Mapping[int, Tensor], ...]

    @property
    def covariances(self) -> list[Tensor]:
        return [m[0] for m in self.matrices]

    def apply(self, index: Index, alpha: Tensor) -> Tensor:
        """∂^index u on the grid for u = K alpha."""
        return kron_apply([m[order] for m, order in zip(self.matrices, index, strict=True)], alpha)


class HighFreqGP(nn.Module):
    """Kernels of the coordinates, log precisions τ (boundary) and v (equation), and the problem they are for.

    Args:
        kernels: one a coordinate; a warning is given where a grid is too coarse for a kernel's frequencies.
        boundary_weight: λ_b.
        jitter: added to the diagonal of every factor.
        offsets: derivatives on the grid of a solution found before (by multi-index, the value among them) to which this
            one is added: the two-stage solver.
    """

    def __init__(
        self,
        problem: GridProblem,
        kernels: Sequence[MixtureKernel],
        *,
        boundary_weight: float = 200.0,
        jitter: float = 1e-6,
        offsets: Mapping[Index, Tensor] | None = None,
    ):
        super().__init__()
        if len(kernels) != len(problem.shape):
            raise ValueError(f"{len(kernels)} kernels for {len(problem.shape)} coordinates; give one each")
        if len({id(k) for k in kernels}) != len(kernels):
            raise ValueError("one kernel object stands for several coordinates; make a new one for each")
        if not jitter > 0 or not math.isfinite(jitter):
            raise ValueError(f"jitter {jitter} must be positive: the covariance of a smooth process is singular")
        if not boundary_weight > 0:
            raise ValueError(f"boundary_weight {boundary_weight} must be positive")
        for k, (kernel, axis) in enumerate(zip(kernels, problem.axes, strict=True)):
            if kernel.frequency.requires_grad:
                warn_below_nyquist(axis, float(kernel.frequency.detach().abs().max()), f"axis {k}")
        self.problem, self.boundary_weight, self.jitter = problem, boundary_weight, jitter
        self.kernels = nn.ModuleList(kernels)
        self.log_tau = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.log_v = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.value_index: Index = (0,) * len(problem.shape)
        operators = dict.fromkeys([*problem.pde.operators, self.value_index])
        self.operators: tuple[Index, ...] = tuple(operators)
        self.orders = [sorted({0, *(index[k] for index in self.operators)}) for k in range(len(problem.shape))]
        self.offsets = dict(offsets or {})
        self._points = problem.points() if any(not t.coefficient.is_number for t in problem.pde.terms) else None
        self._even = [equispaced(axis) for axis in problem.axes]

    def factors(self) -> Factors:
        """The matrices of all coordinates at the present parameters; Toeplitz where the axis is equispaced."""
        result = []
        for kernel, axis, orders, even in zip(self.kernels, self.problem.axes, self.orders, self._even, strict=True):
            assert isinstance(kernel, MixtureKernel)
            lags = axis - axis[0] if even else axis[:, None] - axis[None, :]
            values = kernel.derivatives(lags, orders)
            matrices = {n: toeplitz(v, odd=n % 2 == 1) if even else v for n, v in values.items()}
            matrices[0] = matrices[0] + self.jitter * torch.eye(len(axis), dtype=axis.dtype)
            result.append(matrices)
        return Factors(tuple(result))

    def derivatives(self, alpha: Tensor, factors: Factors) -> dict[Index, Tensor]:
        """All derivatives of the equation, and the value, on the grid; offsets not added."""
        return {index: factors.apply(index, alpha) for index in self.operators}

    def with_offsets(self, derivatives: Mapping[Index, Tensor]) -> dict[Index, Tensor]:
        """The derivatives of the sum with the solution found before."""
        return {index: value + self.offsets.get(index, 0.0) for index, value in derivatives.items()}

    def residual(self, derivatives: Mapping[Index, Tensor]) -> Tensor:
        """F(u) - source on the grid."""
        total = self.with_offsets(derivatives)
        return self.problem.pde.residual(total, self.problem.source, self._points)

    def linearise(self, derivatives: Mapping[Index, Tensor]) -> dict[Index, Tensor | float]:
        """Coefficients of the linearised equation at these derivatives."""
        return self.problem.pde.linearise(self.with_offsets(derivatives), self._points)

    def boundary_error(self, values: Tensor) -> Tensor:
        """U_b - y."""
        total = values + self.offsets.get(self.value_index, 0.0)
        return total[self.problem.boundary] - self.problem.values

    def log_prior(self) -> Tensor:
        """Of the weights of all kernels."""
        return torch.stack([kernel.log_prior() for kernel in self.kernels]).sum()  # type: ignore[operator]

    def data_terms(self, derivatives: Mapping[Index, Tensor]) -> Tensor:
        """- λ_b (…) - (…): both likelihoods, negated."""
        values = derivatives[self.value_index]
        edge = self.boundary_error(values).square().sum()
        inside = self.residual(derivatives).square().sum()
        boundary = self.problem.values.numel() * self.log_tau / 2 - self.log_tau.exp() / 2 * edge
        equation = self.problem.size * self.log_v / 2 - self.log_v.exp() / 2 * inside
        return -(self.boundary_weight * boundary + equation)

    def objective(self, alpha: Tensor) -> Tensor:
        """J as a function of α = K⁻¹U."""
        factors = self.factors()
        found = self.derivatives(alpha, factors)
        covariance = KroneckerCov(factors.covariances)
        prior = covariance.logdet() / 2 + (alpha * found[self.value_index]).sum() / 2
        return prior + self.data_terms(found) - self.log_prior()

    def objective_of_values(self, U: Tensor) -> Tensor:
        """J as a function of U, as the paper minimises it."""
        factors = self.factors()
        covariance = KroneckerCov(factors.covariances)
        alpha = covariance.solve(U)
        found = {i: U if i == self.value_index else factors.apply(i, alpha) for i in self.operators}
        prior = covariance.logdet() / 2 + (alpha * U).sum() / 2
        return prior + self.data_terms(found) - self.log_prior()
