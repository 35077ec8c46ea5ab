"""Riemannian gradient descent with momentum in generalised normal coordinates (Lin et al. 2023, arXiv 2302.09738,
section 3.1, eqs. for the update of m and A).

    g = Aᵀ (∂f/∂τ) A,   m ← β m + project(g),   A ← A Expm(−lr·m/2)

so that τ = A Aᵀ moves along a geodesic by Expm(−lr·m). No inverse, no root, no transport of m.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..base import in_interval, positive
from .spd import SPD, Order, check_symmetric, gnc_step, riemannian_grad, transport
from .structures import Structure


class RGDMomentum:
    """State (A, m) and its update.

    Args:
        start: τ at the start (factored by Cholesky), a batch of such, or an ``SPD`` point. With a ``structure``: the
            element of its group.
        lr: step size in the affine-invariant metric tr(τ⁻¹ dτ τ⁻¹ dτ).
        beta: momentum, in [0, 1).
        order: of the exponential: ``exact``, 1 or 2.
        structure: keeps A in a group; every symmetric direction where it is not given.
    """

    def __init__(
        self,
        start: SPD | Float[Tensor, "*batch d d"] | Tensor,
        lr: float,
        beta: float = 0.9,
        order: Order = 2,
        structure: Structure | None = None,
    ) -> None:
        self.lr, self.beta, self.order, self.structure = (
            positive("lr", lr),
            in_interval("beta", beta, 0, 1),
            order,
            structure,
        )
        if isinstance(start, SPD):
            self.A = start.A.clone()
        elif structure is not None:
            if start.shape != structure.identity().shape:
                raise ValueError(
                    f"the start has shape {tuple(start.shape)}, an element of {type(structure).__name__} of dim "
                    f"{structure.dim} has {tuple(structure.identity().shape)}"
                )
            self.A = start.clone()
        else:
            self.A = SPD.from_matrix(start).A
        self.m = torch.zeros_like(self.A)

    @property
    def tau(self) -> Float[Tensor, "*batch d d"]:
        A = self.A if self.structure is None else self.structure.dense(self.A)
        return A @ A.mT

    def step(self, egrad: Float[Tensor, "*batch d d"]) -> None:
        """One update with the Euclidean gradient ∂f/∂τ at the present τ.

        Raises:
            ValueError: the gradient is not symmetric or not finite; nothing changes then.
        """
        if not bool(torch.isfinite(egrad).all()):
            raise ValueError("the gradient has NaN or infinity; no step was made; use a smaller lr")
        check_symmetric("egrad", egrad)
        if self.structure is None:
            self.m = self.beta * transport(self.m) + riemannian_grad(self.A, egrad)
            self.A = gnc_step(self.A, -self.lr / 2 * self.m, self.order, check=False)
        else:
            self.m = self.beta * self.m + self.structure.inner(self.A, egrad)
            self.A = self.structure.retract(self.A, -self.lr / 2 * self.m, self.order)

    def minimise(
        self,
        egrad: Callable[[Tensor], Tensor],
        steps: int,
        callback: Callable[[int, Tensor], bool | None] | None = None,
    ) -> Float[Tensor, "*batch d d"]:
        """``steps`` updates; ``callback(k, tau)`` after each, returning True to stop. Returns τ."""
        for k in range(1, steps + 1):
            self.step(egrad(self.tau))
            if callback is not None and callback(k, self.tau):
                break
        return self.tau
