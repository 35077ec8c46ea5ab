"""The function values that minimise the objective at fixed kernel and noise parameters.

The covariance is whitened, K = R R', U = R β. With R_b the boundary rows of R and A the equation linearised in β,

    (I + λ_b e^τ R_b'R_b + e^v A'A) β = λ_b e^τ R_b' y + e^v A' (A β₀ - F(β₀))

is the step of Gauss and Newton from β₀, exact in one step where the equation is linear. ``dense`` factors the matrix
(all grid points at once), ``cg`` needs products alone: R and A are sums of Kronecker products. CG whitens with the
eigenvectors of the factors of K, in which stationary operators are nearly diagonal, and is preconditioned by the exact
diagonal; nothing is truncated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.diffops import Index
from tensorbench.pde_operators.gp_high_freq.model import Factors, HighFreqGP
from tensorbench.pde_operators.kronecker import cholesky, kron_apply, kron_dense

METHODS = ("dense", "cg")
LARGEST_DENSE = 2500  # grid points; beyond, a dense factor costs more than a second


@dataclass(frozen=True)
class Inner:
    """``alpha = K⁻¹U``, the ``values`` U, Gauss-Newton steps and products taken, and CG's last relative residual."""

    alpha: Tensor
    values: Tensor
    newton_steps: int
    products: int
    residual: float


def inner_solve(
    model: HighFreqGP,
    start: Tensor | None = None,
    *,
    method: str | None = None,
    newton_steps: int = 1,
    tolerance: float = 1e-8,
    cg_steps: int = 500,
) -> Inner:
    """Minimise the objective over the function values.

    Args:
        start: function values to begin with; they matter where the equation is not linear, and save products of ``cg``.
        method: ``dense`` or ``cg``; default: dense up to 2500 grid points.
        newton_steps: at most so many Gauss-Newton steps (a linear equation needs one), fewer where a step no longer
            lowers the objective.
        tolerance: relative residual at which ``cg`` stops.

    Raises:
        ValueError: an unknown method, or a covariance that is not positive definite.
    """
    if method is None:
        method = "dense" if model.problem.size <= LARGEST_DENSE else "cg"
    if method not in METHODS:
        raise ValueError(unknown("inner solver", method, METHODS))
    with torch.no_grad():
        factors = model.factors()
        white = _Whitened(model, factors, by_eigenvectors=method == "cg")
        zero = torch.zeros(model.problem.shape, dtype=torch.float64)
        beta = zero if start is None else white.of_values(start.detach())
        linear = model.problem.pde.linear
        value, products, error, taken = None if linear else white.value(beta), 0, 0.0, 0
        for _ in range(1 if linear else newton_steps):
            system = _System(white, beta)
            if method == "dense":
                target = system.solve_dense()
            else:
                target, used, error = system.solve_cg(beta, tolerance, cg_steps)
                products += used
            taken += 1
            if value is None:
                beta = target
                break
            step, size = target - beta, 1.0
            while size > 1e-3 and not white.value(beta + size * step) < value:
                size /= 2
            if size <= 1e-3:
                break
            beta = beta + size * step
            before, value = value, white.value(beta)
            if before - value <= 1e-10 * max(1.0, abs(value)):
                break
        return Inner(white.alpha(beta), white.apply(model.value_index, beta), taken, products, error)


class _Whitened:
    """U = R β with K = R R', a Kronecker product: Cholesky factors, or eigenvectors times roots of eigenvalues."""

    def __init__(self, model: HighFreqGP, factors: Factors, *, by_eigenvectors: bool):
        self.model = model
        self.operators: list[dict[int, Tensor]] = []  # by coordinate and order: derivative matrices times R⁻¹'
        self.inverses: list[Callable[[Tensor], Tensor]] = []  # R⁻¹' x, along mode 0
        self.inverses_of_values: list[Callable[[Tensor], Tensor]] = []  # R⁻¹ x, along mode 0
        self.roots: list[Tensor] = []
        for k, matrices in enumerate(factors.matrices):
            K = matrices[0]
            if by_eigenvectors:
                values, vectors = torch.linalg.eigh(K)
                if float(values[0]) <= 0:
                    cholesky(K, f"covariance factor {k}")
                    values = values.clamp(min=model.jitter * 1e-3)
                inverse = vectors / values.sqrt()
                root = vectors * values.sqrt()
                self.inverses.append(partial(torch.matmul, inverse))
                self.inverses_of_values.append(partial(torch.matmul, inverse.T))
                self.operators.append({n: root if n == 0 else M @ inverse for n, M in matrices.items()})
            else:
                root = cholesky(K, f"covariance factor {k}")
                self.inverses.append(partial(torch.linalg.solve_triangular, root.T, upper=True))
                self.inverses_of_values.append(partial(torch.linalg.solve_triangular, root, upper=False))
                self.operators.append({
                    n: root if n == 0 else torch.linalg.solve_triangular(root, M.T, upper=False).T
                    for n, M in matrices.items()
                })  # fmt: skip
            self.roots.append(root)

    def apply(self, index: Index, beta: Tensor) -> Tensor:
        return kron_apply([m[n] for m, n in zip(self.operators, index, strict=True)], beta)

    def transposed(self, index: Index, values: Tensor) -> Tensor:
        return kron_apply([m[n].T for m, n in zip(self.operators, index, strict=True)], values)

    def alpha(self, beta: Tensor) -> Tensor:
        """R⁻¹' β."""
        for mode, inverse in enumerate(self.inverses):
            fibres = torch.movedim(beta, mode, 0)
            beta = torch.movedim(inverse(fibres.reshape(len(fibres), -1)).reshape(fibres.shape), 0, mode)
        return beta

    def of_values(self, values: Tensor) -> Tensor:
        """R⁻¹ U."""
        for mode, inverse in enumerate(self.inverses_of_values):
            fibres = torch.movedim(values, mode, 0)
            values = torch.movedim(inverse(fibres.reshape(len(fibres), -1)).reshape(fibres.shape), 0, mode)
        return values

    def of_alpha(self, alpha: Tensor) -> Tensor:
        """R' α."""
        return kron_apply([root.T for root in self.roots], alpha)

    def derivatives(self, beta: Tensor) -> dict[Index, Tensor]:
        return {index: self.apply(index, beta) for index in self.model.operators}

    def value(self, beta: Tensor) -> float:
        """The objective but for what does not depend on β."""
        return float(beta.square().sum() / 2 + self.model.data_terms(self.derivatives(beta)))


class _System:
    """The linear system of one Gauss-Newton step."""

    def __init__(self, white: _Whitened, beta: Tensor):
        self.white, model = white, white.model
        self.mask = model.problem.boundary
        self.edge_weight = model.boundary_weight * float(model.log_tau.exp())
        self.inside_weight = float(model.log_v.exp())
        found = white.derivatives(beta)
        coefficients = model.linearise(found)
        self.coefficients: dict[Index, Tensor | float] = {
            i: c for i, c in coefficients.items() if not (isinstance(c, float) and c == 0.0)
        }
        self.value_index = model.value_index
        self.pulled = self._linear(found) - model.residual(found)  # A β₀ - F(β₀)
        self.edge = found[self.value_index][self.mask] - model.boundary_error(found[self.value_index])
        edge = torch.zeros_like(self.pulled)
        edge[self.mask] = self.edge
        self.right = self.edge_weight * white.transposed(self.value_index, edge)
        self.right += self.inside_weight * self._adjoint(self.pulled)

    def _linear(self, found: Mapping[Index, Tensor]) -> Tensor:
        parts = [c * found[i] for i, c in self.coefficients.items()]
        return sum(parts[1:], parts[0])

    def _adjoint(self, values: Tensor) -> Tensor:
        parts = [self.white.transposed(i, c * values) for i, c in self.coefficients.items()]
        return sum(parts[1:], parts[0])

    def product(self, beta: Tensor) -> Tensor:
        """The matrix of the system times β."""
        wanted = dict.fromkeys([*self.coefficients, self.value_index])
        found = {i: self.white.apply(i, beta) for i in wanted}
        edge = torch.where(self.mask, found[self.value_index], 0.0) * self.edge_weight
        inside = self.inside_weight * self._linear(found)
        total = beta.clone()
        for i in wanted:
            values = self.coefficients[i] * inside if i in self.coefficients else torch.zeros_like(inside)
            total += self.white.transposed(i, values + edge if i == self.value_index else values)
        return total

    def diagonal(self) -> Tensor:
        """The diagonal of the matrix; coefficients that vary in space enter by their means."""
        means = {i: float(c.mean()) if isinstance(c, Tensor) else float(c) for i, c in self.coefficients.items()}
        total = torch.ones(self.right.shape, dtype=self.right.dtype)
        for i, a in means.items():
            for j, b in means.items():
                pairs = [(m[n] * m[o]).sum(dim=0) for m, n, o in zip(self.white.operators, i, j, strict=True)]
                total += self.inside_weight * a * b * _outer(pairs)
        return total + self.edge_weight * self._boundary_diagonal()

    def _boundary_diagonal(self) -> Tensor:
        squares = [root.square().T for root in self.white.roots]
        return kron_apply(squares, self.mask.to(torch.float64))

    def _rows(self) -> tuple[Tensor, Tensor]:
        """R_b and A as dense matrices."""
        size = self.mask.numel()
        A = torch.zeros(size, size, dtype=torch.float64)
        for i, c in self.coefficients.items():
            part = kron_dense([m[n] for m, n in zip(self.white.operators, i, strict=True)])
            A += c.reshape(-1, 1) * part if isinstance(c, Tensor) else c * part
        return kron_dense(self.white.roots)[self.mask.reshape(-1)], A

    def matrix(self) -> Tensor:
        """The dense matrix: the precision of the whitened values."""
        edge, A = self._rows()
        prior = torch.eye(len(A), dtype=A.dtype)
        return prior + self.edge_weight * edge.T @ edge + self.inside_weight * (A.T @ A)

    def solve_dense(self) -> Tensor:
        """Least squares by QR: the normal equations would square a condition number of up to 1e8."""
        edge, A = self._rows()
        a, b = self.edge_weight**0.5, self.inside_weight**0.5
        rows = torch.cat([torch.eye(len(A), dtype=A.dtype), a * edge, b * A])
        right = torch.cat([torch.zeros(len(A), dtype=A.dtype), a * self.edge, b * self.pulled.reshape(-1)])
        found = torch.linalg.lstsq(rows, right[:, None], driver="gels").solution
        return found.reshape(self.right.shape)

    def solve_cg(self, start: Tensor, tolerance: float, steps: int) -> tuple[Tensor, int, float]:
        """Conjugate gradients, preconditioned by the diagonal."""
        inverse = 1 / self.diagonal()
        x = start.clone()
        r = self.right - self.product(x)
        scale = float((self.right * inverse * self.right).sum().sqrt()) or 1.0
        z = inverse * r
        p, rz, used = z.clone(), float((r * z).sum()), 1
        while used <= steps and rz**0.5 > tolerance * scale:
            q = self.product(p)
            used += 1
            step = rz / float((p * q).sum())
            x += step * p
            r -= step * q
            z = inverse * r
            rz, before = float((r * z).sum()), rz
            p = z + (rz / before) * p
        return x, used, rz**0.5 / scale


def _outer(vectors: list[Tensor]) -> Tensor:
    result = vectors[0]
    for vector in vectors[1:]:
        result = result[..., None] * vector
    return result
