"""Fitting P itself: gradient descent in the Euclidean and the SPD geometry, the closed form, and BFGS.

Source: X.-L. Li, Stochastic Hessian Fittings with Lie Groups (2024, arXiv 2402.11858), where these are what the Lie
groups are compared with.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..base import in_interval
from .fitter import NonFinite, VectorFitter, check_step
from .norm_bounds import track


class _FitsP(VectorFitter):
    """P is the state; it starts at ``init_scale`` I."""

    def __init__(
        self, n: int, *, init_scale: float = 1.0, dtype: torch.dtype = torch.float64, nonfinite: NonFinite = "raise"
    ) -> None:
        super().__init__(n, nonfinite=nonfinite)
        self.state["P"] = init_scale * torch.eye(n, dtype=dtype)

    @property
    def P(self) -> Float[Tensor, "n n"]:
        return self.state["P"]

    def apply(self, g: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self.P @ g


class EuclidGD(_FitsP):
    """P ← Π(P - μ (h hᵀ - P⁻¹v vᵀP⁻¹) / L), Π lifts the eigenvalues to at least ``floor``.

    L tracks ‖h‖² + 2 ‖P⁻¹v‖² ‖P⁻¹‖, a bound of the curvature of vᵀP⁻¹v with the scale of the first term added. Near the
    minimiser the curvature is about λ(H)³, so that the small eigenvalues of H come last.
    """

    def __init__(self, n: int, mu: float = 1.0, *, floor: float = 1e-6, beta: float = 0.9, **options) -> None:
        super().__init__(n, **options)
        self.mu, self.floor, self.beta = check_step("mu", mu), floor, in_interval("beta", beta, 0, 1)
        self.state["L"] = self.P.new_zeros(())

    def _update(self, v: Tensor, h: Tensor) -> None:
        values, vectors = torch.linalg.eigh(self.P)
        if float(values[0]) < self.floor:
            values = values.clamp(min=self.floor)
            self.state["P"] = (vectors * values) @ vectors.T
        solved = vectors @ ((vectors.T @ v) / values)
        self.state["L"] = track(self.state["L"], h @ h + 2 * (solved @ solved) / values[0], self.beta)
        step = self.mu / self.state["L"]
        self.state["P"] = self.P + step * (torch.outer(solved, solved) - torch.outer(h, h))


class SPDGD(_FitsP):
    """P ← P - μ (P h hᵀ P - v vᵀ) / (hᵀ P h + vᵀ P⁻¹ v): the affine-invariant gradient; P > 0 is kept for μ < 1."""

    def __init__(self, n: int, mu: float = 1.0, **options) -> None:
        super().__init__(n, **options)
        self.mu = check_step("mu", mu)

    def _update(self, v: Tensor, h: Tensor) -> None:
        P = self.P
        Ph = P @ h
        solved = torch.linalg.solve(P, v)
        step = self.mu / (h @ Ph + v @ solved)
        P = P - step * (torch.outer(Ph, Ph) - torch.outer(v, v))
        self.state["P"] = (P + P.T) / 2


class ClosedForm(VectorFitter):
    """P = C^(-1/2) with the running mean C of h hᵀ, started at the identity.

    The weight of the past is (t+1)/(t+2) up to ``window``, as in the paper's figure; 1 would be the mean of all.
    """

    def __init__(self, n: int, *, window: float = 0.999, dtype: torch.dtype = torch.float64,
                 nonfinite: NonFinite = "raise") -> None:  # fmt: skip
        super().__init__(n, nonfinite=nonfinite)
        self.window = in_interval("window", window, 0, 1, closed="both")
        self.state["C"] = torch.eye(n, dtype=dtype)
        self.state["updates"] = torch.zeros((), dtype=torch.int64)

    def _update(self, v: Tensor, h: Tensor) -> None:
        t = int(self.state["updates"])
        past = min((t + 1) / (t + 2), self.window)
        self.state["C"] = torch.addr(self.state["C"], h, h, beta=past, alpha=1 - past)
        self.state["updates"] += 1

    @property
    def P(self) -> Float[Tensor, "n n"]:
        values, vectors = torch.linalg.eigh(self.state["C"])
        return (vectors * values.clamp(min=torch.finfo(values.dtype).tiny).rsqrt()) @ vectors.T

    def apply(self, g: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self.P @ g


class BFGS(_FitsP):
    """The update of the inverse Hessian by the pair alone; h is turned where vᵀh < 0, which would break P > 0."""

    def _update(self, v: Tensor, h: Tensor) -> None:
        P, vh = self.P, v @ h
        if float(vh) < 0:
            h, vh = -h, -vh
        Ph = P @ h
        cross = torch.outer(Ph, v) / vh
        self.state["P"] = P + torch.outer(v, v) * ((vh + h @ Ph) / vh**2) - (cross + cross.T)
