"""S-ARTEM: the accelerated method with derivatives up to order p, for p = 2 and 3.

Agafonov et al. (2024, arXiv 2309.01570). For p = 3 the step minimises

    Ω(h) = <g, h> + hᵀ(B + δ₂I)h/2 + D³f[h]³/6 + δ₃|h|³/6 + M|h|⁴/24,     M ≥ 6 L₃

With M = 3τ²L₃ this model is convex and within 1 ± 1/τ of the curvature of ρ(h) = hᵀ(B + δ₂I)h/2 + δ₃|h|³/6 + M|h|⁴/24
(Nesterov 2021, *Implementable tensor methods*), so that gradient steps in ρ's Bregman distance converge
linearly: each minimises a quadratic plus powers of the distance, of which the eigenvalues are computed once a step.
They stop where |∇Ω(h)| ≤ |∇f(v + h)|/6 (Nesterov 2021, *Superfast second-order methods*), or at the tolerance τ_t.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.optimizers.base import nonnegative, positive
from tensorbench.optimizers.inexact_tensor.ascn import ASCN
from tensorbench.optimizers.inexact_tensor.cubic import Step, solve_in_basis, spectrum
from tensorbench.optimizers.inexact_tensor.oracles import Oracle, Rng, finite, is_exact

RELATIVE = 1 / 6  # accepted |∇Ω(h)| over |∇f(v + h)|


def tensor_subproblem(
    g: Float[Tensor, " d"],
    H: Float[Tensor, "d d"],
    third_vec: Callable[[Tensor], Tensor],
    M: float,
    delta2: float = 0.0,
    delta3: float = 0.0,
    *,
    accept: Callable[[Tensor, float], bool] | None = None,
    ratio: float = math.sqrt(2),
    max_iterations: int = 200,
    noisy: bool = True,
) -> Step:
    """The minimiser of Ω, by gradient steps in the Bregman distance of ρ.

    Args:
        third_vec: h ↦ D³f[h, h].
        accept: ``accept(h, residual)`` ends the steps; by default at a residual of 1e-10 |g|.
        ratio: τ, the square root of M/(3L₃).

    Raises:
        ValueError: M not positive, a negative delta, a Hessian that is not symmetric or (unless ``noisy``) not convex.
    """
    positive("M", M)
    nonnegative("delta2", delta2)
    nonnegative("delta3", delta3)
    e, Q, below = spectrum(H, noisy=noisy)
    size = float(g.norm())
    length = 1 / (1 + 1 / ratio)
    h = torch.zeros_like(g)
    reference, model, residual = torch.zeros_like(g), g, size  # ∇ρ(h), ∇Ω(h)
    products = 0
    while products < max_iterations and residual > 0:
        z, r = solve_in_basis(e, (Q.T @ (length * model - reference)).double().numpy(), delta2, delta3, M)
        h = Q @ torch.from_numpy(z).to(g.dtype)
        reference = Q @ torch.from_numpy(e * z).to(g.dtype) + (delta2 + delta3 * r / 2 + M * r * r / 6) * h
        model = g + reference + third_vec(h) / 2
        residual = float(model.norm())
        products += 1
        if accept(h, residual) if accept is not None else residual <= 1e-10 * size:
            return Step(h, residual, True, products, clamped=below)
    return Step(h, residual, residual <= 1e-10 * size, products, clamped=below)


class SARTEM(ASCN):
    """The method above; with p = 2 it is :class:`ASCN` with the estimating function minimised by Newton's method.

    Raises:
        ValueError: p outside {2, 3}, and what :class:`ASCN` refuses.
    """

    closed_form = False

    def __init__(
        self, oracle: Oracle, p: int = 3, M: float = 1.0, R: float | None = None, T: int = 100, **options: Any
    ):
        if p not in (2, 3):
            raise ValueError(f"p {p!r} must be 2 or 3: steps with higher derivatives are not available")
        self.p = p
        if p == 3 and options.get("solver", "exact") != "exact":
            raise ValueError("with p = 3 the step needs the Hessian's eigenvalues; use solver='exact'")
        super().__init__(oracle, M, R, T, **options)

    def _model_step(self, v: Float[Tensor, " d"], t: int, rng: Rng) -> Step:
        if self.p == 2:
            return super()._model_step(v, t, rng)
        g = finite("gradient", self.oracle.grad(v, rng))
        tolerance = self.schedule.tolerance(t)
        exact = is_exact(self.oracle)
        if tolerance is None and not exact:
            tolerance = 1e-6 * float(g.norm())

        def accept(h: Tensor, residual: float) -> bool:
            if tolerance is not None:
                return residual <= tolerance
            return residual <= RELATIVE * float(self.oracle.grad(v + h, rng).norm())

        # One draw of noise for the whole step: the model is one function.
        seed = None if rng is None or exact else int(torch.randint(2**62, (), generator=rng))

        def third_vec(h: Tensor) -> Tensor:
            own = None if seed is None else torch.Generator().manual_seed(seed)
            return finite("third derivative", self.oracle.third_vec(v, h, own))

        H = finite("Hessian", self.oracle.hess(v, rng))
        return tensor_subproblem(
            g,
            H,
            third_vec,
            self.schedule.M,
            self.schedule.delta(t),
            self.schedule.delta3,
            accept=accept,
            noisy=not exact,
        )
