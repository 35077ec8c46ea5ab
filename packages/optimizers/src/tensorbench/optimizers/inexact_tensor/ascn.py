"""ASCN: an accelerated cubic Newton method for convex functions with noisy derivatives and inexact steps.

Agafonov, Kamzolov, Gasnikov, Kavis, Antonakopoulos, Cevher, Takáč (2024), *Advancing the lower bounds: an accelerated,
stochastic, second-order method with optimal adaptation to inexactness*, arXiv 2309.01570. Step t:

    v = (1 - α_t) x_t + α_t y_t
    x_{t+1} = v + argmin_h <g(v), h> + hᵀ(B(v) + δ_t I)h/2 + M|h|³/6,     M ≥ 4 L₂
    s ← s + (α_t/A_t) g(x_{t+1}),  g drawn anew
    y_{t+1} = argmin_x <s, x - x₀> + (k₂ + λ_t)/2 |x - x₀|² + c₃/6 |x - x₀|³

with δ_t = δ₂ + (σ₁ + τ_t)/R (t+3)^(3/2), λ_t = σ₁/R (t+3)^(5/2), k₂ = 2δ_t α_t²/A_t and c₃ = (8/3) M α³/A. Its error is
O(σ₁R/√T + σ₂R²/T² + L₂R³/T³). The orders in t are the paper's; the constants are those for which :mod:`.bounds` has a
proof. Each step asks for two gradients and one Hessian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.optimizers.base import nonnegative, positive, whole
from tensorbench.optimizers.inexact_tensor.cubic import METHODS, Step, cubic_subproblem
from tensorbench.optimizers.inexact_tensor.estimating import EstimatingSequence, alpha, product_of_rest
from tensorbench.optimizers.inexact_tensor.oracles import Oracle, Rng, finite, is_exact

WEIGHT = 8 / 3  # of M, and of δ₃, in the estimating function's powers


@dataclass(frozen=True)
class Schedule:
    """How much the steps and the estimating function are held back, by what is known of the errors.

    ``horizon`` fixes δ and λ at their values for that many steps; without it they grow as the steps come.
    """

    M: float
    R: float | None = None
    sigma1: float = 0.0
    delta2: float = 0.0
    delta3: float = 0.0
    p: int = 2
    tau: Callable[[int], float] | None = None
    horizon: int | None = None

    def __post_init__(self) -> None:
        positive("M", self.M)
        for name in ("sigma1", "delta2", "delta3"):
            nonnegative(name, getattr(self, name))
        if self.p not in (2, 3):
            raise ValueError(f"p {self.p!r} must be 2 or 3: steps with higher derivatives are not available")
        if self.R is not None:
            positive("R", self.R)
        elif self.sigma1 > 0 or self.tau is not None:
            raise ValueError("R, a bound on |x0 - x*|, is needed where sigma1 > 0 or tau is given; pass R")

    def tolerance(self, t: int) -> float | None:
        """τ_t, or None where steps are as exact as their solver is."""
        return None if self.tau is None else self.tau(t)

    def delta(self, t: int) -> float:
        """δ_t = δ₂ + (σ₁ + τ_t)/R (t+p+1)^(3/2)."""
        if self.R is None:
            return self.delta2
        at = t if self.horizon is None else self.horizon
        return self.delta2 + (self.sigma1 + (self.tolerance(t) or 0.0)) / self.R * (at + self.p + 1) ** 1.5

    def lam(self, t: int) -> float:
        """λ_t = σ₁/R (t+p+1)^(p+1/2)."""
        if self.R is None:
            return 0.0
        at = t if self.horizon is None else self.horizon
        return self.sigma1 / self.R * (at + self.p + 1) ** (self.p + 0.5)

    def weights(self, t: int) -> dict[str, float]:
        """c₂, c₃, c₄ of ψ_t; they may fall with t where τ_t does, which :class:`ASCN` mends by a running maximum."""
        a, A = alpha(t, self.p), product_of_rest(t, self.p)
        top = {f"c{self.p + 1}": WEIGHT * self.M * a ** (self.p + 1) / A}
        c2 = 2 * self.delta(t) * a**2 / A + self.lam(max(t - 1, 0))
        noise = {"c3": WEIGHT * self.delta3 * a**3 / A if self.p == 3 else 0.0}
        return {"c2": c2, "c4": 0.0} | noise | top


@dataclass(frozen=True)
class State:
    """After ``t`` steps: the point x, the minimiser y of the estimating function, and what the last step took."""

    t: int
    x: Float[Tensor, " d"]
    y: Float[Tensor, " d"]
    sequence: EstimatingSequence
    last: Step | None = None
    flops: float = 0.0  # of all steps' subproblems


class ASCN:
    """The method above.

    Args:
        oracle: its declared sigma1 and delta2 set the schedule, unless they are given here.
        M: at least 4 times the Hessian's Lipschitz constant.
        R: a bound on the distance to the solution; needed where there is noise or a tolerance.
        T: steps that :meth:`run` makes.
        schedule: ``anytime``, or ``horizon`` with δ and λ at their values for T steps from the start.
        solver: of the cubic step: ``exact``, ``krylov`` or ``gd``.
        tau: the accepted residual of step t, as ``tau(t)``; see :func:`~.cubic.dynamic_rule`.

    Raises:
        ValueError: M or R not positive, a negative sigma, T < 1, an unknown solver or schedule.
    """

    p = 2
    closed_form = True  # of the estimating function's minimiser

    def __init__(
        self,
        oracle: Oracle,
        M: float,
        R: float | None = None,
        T: int = 100,
        schedule: str = "anytime",
        *,
        solver: str = "exact",
        tau: Callable[[int], float] | None = None,
        sigma1: float | None = None,
        delta2: float | None = None,
    ) -> None:
        if schedule not in ("anytime", "horizon"):
            raise ValueError(unknown("schedule", schedule, ("anytime", "horizon")))
        if solver not in METHODS:
            raise ValueError(unknown("solver", solver, METHODS))
        self.oracle, self.T, self.solver = oracle, whole("T", T), solver
        self.schedule = Schedule(
            M=M,
            R=R,
            sigma1=oracle.sigma1 if sigma1 is None else sigma1,
            delta2=oracle.delta2 if delta2 is None else delta2,
            delta3=oracle.delta3 if self.p == 3 else 0.0,
            p=self.p,
            tau=tau,
            horizon=T if schedule == "horizon" else None,
        )

    def start(self, x0: Float[Tensor, " d"]) -> State:
        """Before the first step: x = y = x₀."""
        return State(0, x0.clone(), x0.clone(), EstimatingSequence.at(x0))

    def step(self, state: State, rng: Rng = None) -> State:
        """One step: two gradients, one Hessian (or products with it).

        Raises:
            ValueError: NaN or infinity from the oracle, a Hessian that is not symmetric, or one of an exact oracle with
                negative eigenvalues. The state is a value: the old one stays as it was.
        """
        t, p = state.t, self.p
        a, A = alpha(t, p), product_of_rest(t, p)
        v = (1 - a) * state.x + a * state.y
        taken = self._model_step(v, t, rng)
        x = v + taken.h
        g = finite("gradient", self.oracle.grad(x, rng))
        weights = self.schedule.weights(t + 1)
        sequence = state.sequence.add(
            g, a / A, **{name: max(value, getattr(state.sequence, name)) for name, value in weights.items()}
        )
        y = sequence.argmin(closed_form=self.closed_form)
        return replace(state, t=t + 1, x=x, y=y, sequence=sequence, last=taken, flops=state.flops + taken.flops)

    def _model_step(self, v: Float[Tensor, " d"], t: int, rng: Rng) -> Step:
        g = finite("gradient", self.oracle.grad(v, rng))
        H: Any = self.oracle.hvp(v, rng) if self.solver != "exact" else finite("Hessian", self.oracle.hess(v, rng))
        return cubic_subproblem(
            g,
            H,
            self.schedule.M,
            self.schedule.delta(t),
            self.solver,
            self.schedule.tolerance(t),
            noisy=not is_exact(self.oracle),
        )

    def run(self, x0: Float[Tensor, " d"], rng: Rng = None, record: Callable[[State], None] | None = None) -> State:
        """T steps from x₀; ``record`` is called with the state after each."""
        state = self.start(x0)
        for _ in range(self.T):
            state = self.step(state, rng)
            if record is not None:
                record(state)
        return state
