"""Positive-definite matrices τ = A Aᵀ in generalised normal coordinates (Lin et al. 2023, arXiv 2302.09738, section 3).

Around A a symmetric matrix η stands for τ(η) = A Expm(η) Aᵀ, which is the geodesic of the affine-invariant metric
tr(τ⁻¹ dτ τ⁻¹ dτ) from τ in the direction A η Aᵀ. At η = 0 the metric is the identity, so a gradient is
g = Aᵀ (∂f/∂τ) A, a step is A ← A Expm(−lr·g/2), and what was a direction at the old point is, in the coordinates of the
new one, the same matrix: parallel transport along the step is the identity. The exponential may be cut after its first
or second order; the latter, I + m + m²/2 = (I + (I + m)²)/2, is positive definite for every symmetric m.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

Order = Literal["exact", 1, 2]
ORDERS: tuple[Order, ...] = ("exact", 1, 2)


@dataclass(frozen=True)
class SPD:
    """A positive-definite matrix (or a batch of them), kept as a factor A with τ = A Aᵀ."""

    A: Float[Tensor, "*batch d d"]

    @classmethod
    def from_matrix(cls, tau: Float[Tensor, "*batch d d"]) -> SPD:
        """Cholesky's factor of ``tau``.

        Raises:
            ValueError: ``tau`` is not symmetric or not positive definite.
        """
        check_symmetric("tau", tau)
        A, info = torch.linalg.cholesky_ex(tau)
        if bool((info != 0).any()):
            low = float(torch.linalg.eigvalsh(tau).min())
            raise ValueError(f"tau is not positive definite: its smallest eigenvalue is {low:.3g}; add to its diagonal")
        return cls(A)

    @property
    def tau(self) -> Float[Tensor, "*batch d d"]:
        return self.A @ self.A.mT

    def step(self, m: Float[Tensor, "*batch d d"], order: Order = "exact") -> SPD:
        """The point A Expm(m)."""
        return SPD(gnc_step(self.A, m, order))


def check_symmetric(name: str, matrix: Float[Tensor, "*batch d d"]) -> None:
    """Refuse a matrix that is not square, or differs from its transpose by more than rounding.

    Raises:
        ValueError: the message says by how much.
    """
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name} must be a square matrix, got shape {tuple(matrix.shape)}")
    gap, size = float((matrix - matrix.mT).abs().max()), float(matrix.abs().max())
    if not gap <= 1e3 * torch.finfo(matrix.dtype).eps * max(size, torch.finfo(matrix.dtype).tiny):
        raise ValueError(f"{name} is not symmetric: it differs from its transpose by {gap:.3g}; use sym({name})")


def sym(matrix: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d d"]:
    """The symmetric part."""
    return (matrix + matrix.mT) / 2


def expm(m: Float[Tensor, "*batch d d"], order: Order = "exact") -> Float[Tensor, "*batch d d"]:
    """Expm(m), or its first terms: I + m (order 1), I + m + m²/2 (order 2).

    Raises:
        ValueError: another order.
    """
    if order == "exact":
        return torch.linalg.matrix_exp(m)
    if order not in (1, 2):
        raise ValueError(unknown("order", str(order), [str(o) for o in ORDERS]))
    h = m.clone() if order == 1 else torch.baddbmm(m, m, m, alpha=0.5) if m.ndim == 3 else m + m @ m / 2
    h.diagonal(dim1=-2, dim2=-1).add_(1)
    return h


def gnc_step(
    A: Float[Tensor, "*batch d d"], m: Float[Tensor, "*batch d d"], order: Order = "exact", check: bool = True
) -> Float[Tensor, "*batch d d"]:
    """The factor A Expm(m) of the new point, whose τ is A Expm(2m) Aᵀ.

    Order 1 is A + A m, two operations that half precision can do.

    Raises:
        ValueError: ``m`` is not symmetric or does not fit A (looked at where ``check``).
    """
    if check:
        check_symmetric("m", m)
        if m.shape[-1] != A.shape[-1]:
            raise ValueError(f"m of shape {tuple(m.shape)} does not fit A of shape {tuple(A.shape)}")
    if order == 1:
        return A + A @ m
    return A @ expm(m, order)


def riemannian_grad(A: Float[Tensor, "*batch d d"], egrad: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d d"]:
    """The gradient g = Aᵀ (∂f/∂τ) A in the coordinates at A, where the metric is the identity."""
    return sym(A.mT @ egrad @ A)


def transport(m: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d d"]:
    """Parallel transport along a step, in these coordinates: the identity."""
    return m


def distance(first: Float[Tensor, "d d"], second: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    """Geodesic distance of two positive-definite matrices: the norm of the logarithms of the eigenvalues of
    first⁻¹ second."""
    L = torch.linalg.cholesky(first)
    half = torch.linalg.solve_triangular(L, second, upper=False)
    inner = torch.linalg.solve_triangular(L, half.mT, upper=False)
    return torch.linalg.eigvalsh(sym(inner)).log().norm()


def riemannian_step(
    tau: Float[Tensor, "*batch d d"], momentum: Float[Tensor, "*batch d d"], lr: float
) -> tuple[Float[Tensor, "*batch d d"], Float[Tensor, "*batch d d"]]:
    """The textbook form of the same step: exponential map at τ and parallel transport of a tangent vector, by
    eigendecompositions. The new point τ^½ Expm(−lr τ^−½ V τ^−½) τ^½ and V carried there."""
    values, vectors = torch.linalg.eigh(tau)
    root = (vectors * values.sqrt()[..., None, :]) @ vectors.mT
    inverse = (vectors / values.sqrt()[..., None, :]) @ vectors.mT
    exponents, turns = torch.linalg.eigh(sym(-lr * inverse @ momentum @ inverse))
    half = (turns * (exponents / 2).exp()[..., None, :]) @ turns.mT
    E = root @ half @ inverse
    return sym(root @ half @ half @ root), sym(E @ momentum @ E.mT)
