"""Fitting a factor Q of P = QᵀQ on a Lie group, where dQ = 𝓔 Q: all invertible matrices, triangular or diagonal ones.

With a = Q h and b = Q⁻ᵀ v the step is Q ← Q - μ (a aᵀ - b bᵀ) Q / (‖a‖² + ‖b‖²). The step is equivariant, so that the
rate does not depend on how H is conditioned; c is strongly convex on GL(n) but for rotations Q → O Q, which leave P
alone. Source: X.-L. Li, Stochastic Hessian Fittings with Lie Groups (2024, arXiv 2402.11858).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..base import whole
from .fitter import NonFinite, VectorFitter, check_step
from .norm_bounds import lift


class _DenseFactor(VectorFitter):
    """P = QᵀQ for a square Q that is stored whole."""

    @property
    def P(self) -> Float[Tensor, "n n"]:
        return self.state["Q"].T @ self.state["Q"]

    def apply(self, g: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self.state["Q"].T @ (self.state["Q"] @ g)


class GLn(_DenseFactor):
    """Q with its inverse, which Woodbury's identity carries along; a true inverse every ``refresh`` updates."""

    def __init__(
        self,
        n: int,
        mu: float = 1.0,
        *,
        init_scale: float = 1.0,
        refresh: int = 10_000,
        dtype: torch.dtype = torch.float64,
        nonfinite: NonFinite = "raise",
    ) -> None:
        super().__init__(n, nonfinite=nonfinite)
        self.mu, self.refresh = check_step("mu", mu), whole("refresh", refresh)
        self.state["Q"] = init_scale * torch.eye(n, dtype=dtype)
        self.state["inverse"] = torch.eye(n, dtype=dtype) / init_scale
        self.updates = 0

    def _update(self, v: Tensor, h: Tensor) -> None:
        Q, inverse = self.state["Q"], self.state["inverse"]
        U = torch.stack((Q @ h, v @ inverse))  # its rows are a and b
        (aa, ab), (_, bb) = (U @ U.T).tolist()
        step = self.mu / (aa + bb)
        # (I - Uᵀ S U)⁻¹ = I + Uᵀ (S⁻¹ - U Uᵀ)⁻¹ U with S = diag(step, -step).
        first, second = 1 / step - aa, -1 / step - bb
        determinant = first * second - ab * ab
        core = U.new_tensor([[second / determinant, ab / determinant], [ab / determinant, first / determinant]])
        S = U.new_tensor([[step], [-step]])
        self.state["Q"] = torch.addmm(Q, (S * U).T, U @ Q, alpha=-1)
        self.state["inverse"] = torch.addmm(inverse, inverse @ U.T, core @ U)
        self.updates += 1
        if self.updates % self.refresh == 0:
            self.state["inverse"] = torch.linalg.inv(self.state["Q"])


class Triangular(_DenseFactor):
    """Upper triangular Q: the upper part of the same step, and b by a triangular solve."""

    def __init__(
        self,
        n: int,
        mu: float = 1.0,
        *,
        init_scale: float = 1.0,
        dtype: torch.dtype = torch.float64,
        nonfinite: NonFinite = "raise",
    ) -> None:
        super().__init__(n, nonfinite=nonfinite)
        self.mu = check_step("mu", mu)
        self.state["Q"] = init_scale * torch.eye(n, dtype=dtype)

    def _update(self, v: Tensor, h: Tensor) -> None:
        Q = self.state["Q"]
        a = Q @ h
        b = torch.linalg.solve_triangular(lift(Q.T), lift(v[:, None]), upper=False)[:, 0].to(Q.dtype)
        step = self.mu / (a @ a + b @ b)
        self.state["Q"] = Q - step * ((torch.outer(a, a) - torch.outer(b, b)).triu() @ Q)


class Diagonal(VectorFitter):
    """Q = diag(q): q ← q (1 - μ ((q h)² - (v/q)²) / max((q h)² + (v/q)²))."""

    def __init__(
        self,
        n: int,
        mu: float = 1.0,
        *,
        init_scale: float = 1.0,
        dtype: torch.dtype = torch.float64,
        nonfinite: NonFinite = "raise",
    ) -> None:
        super().__init__(n, nonfinite=nonfinite)
        self.mu = check_step("mu", mu)
        self.state["q"] = torch.full((n,), init_scale, dtype=dtype)

    def _update(self, v: Tensor, h: Tensor) -> None:
        q = self.state["q"]
        aa, bb = (q * h).square(), (v / q).square()
        self.state["q"] = q - (self.mu / (aa + bb).max()) * (aa - bb) * q

    @property
    def P(self) -> Float[Tensor, "n n"]:
        return torch.diag(self.state["q"].square())

    def apply(self, g: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self.state["q"].square() * g
