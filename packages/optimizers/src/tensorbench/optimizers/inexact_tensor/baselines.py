"""Methods that the accelerated ones are measured against, with one interface: ``start``, ``step``, ``run``.

:class:`CubicNewton` (Nesterov and Polyak 2006), :class:`ExtraNewton` (Antonakopoulos, Kavis, Cevher 2022, arXiv
2211.01832), :class:`GradientDescent` (SGD where the oracle is stochastic), :class:`NesterovGradient` (1983). ``asks``
counts derivatives asked for: a gradient and a Hessian are one each. :func:`optami_nesterov` and :func:`trust_exact` run
the implementations of OPTAMI (GPL-3, an optional peer) and SciPy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.optimizers.base import positive, whole
from tensorbench.optimizers.inexact_tensor.cubic import cubic_subproblem
from tensorbench.optimizers.inexact_tensor.oracles import Oracle, Rng, finite, is_exact


@dataclass(frozen=True)
class Iterate:
    """After ``t`` steps: the point x, and what a method keeps beside it."""

    t: int
    x: Float[Tensor, " d"]
    kept: dict[str, Any]


class _Method:
    """Steps from a start."""

    asks = 1

    def __init__(self, oracle: Oracle, T: int = 100) -> None:
        self.oracle, self.T = oracle, whole("T", T)

    def start(self, x0: Float[Tensor, " d"]) -> Iterate:
        """Before the first step."""
        return Iterate(0, x0.clone(), {})

    def step(self, state: Iterate, rng: Rng = None) -> Iterate:
        """One step; ValueError where the oracle answers NaN or infinity."""
        raise NotImplementedError

    def run(self, x0: Float[Tensor, " d"], rng: Rng = None, record: Callable[[Iterate], None] | None = None) -> Iterate:
        """T steps from x₀; ``record`` is called with the state after each."""
        state = self.start(x0)
        for _ in range(self.T):
            state = self.step(state, rng)
            if record is not None:
                record(state)
        return state


class CubicNewton(_Method):
    """x ← x + argmin_h <g, h> + hᵀBh/2 + M|h|³/6, without acceleration: error O(M R³/T²) for M ≥ L₂."""

    asks = 2

    def __init__(self, oracle: Oracle, M: float, T: int = 100, *, delta: float = 0.0, solver: str = "exact") -> None:
        super().__init__(oracle, T)
        self.M, self.delta, self.solver = positive("M", M), delta, solver

    def step(self, state: Iterate, rng: Rng = None) -> Iterate:
        g = finite("gradient", self.oracle.grad(state.x, rng))
        H: Any = self.oracle.hess(state.x, rng) if self.solver == "exact" else self.oracle.hvp(state.x, rng)
        taken = cubic_subproblem(g, H, self.M, self.delta, self.solver, noisy=not is_exact(self.oracle))
        return replace(state, t=state.t + 1, x=state.x + taken.h)


class ExtraNewton(_Method):
    """A Newton step looks ahead, a gradient step follows; both act on weighted averages, with weights a_t = t².

        x̄ = (a_t x_t + Σ_{s<t} a_s x_{s+½})/A_t
        x_{t+½} = x_t - γ_t a_t (g(x̄) + (a_t/A_t) B(x̄)(x_{t+½} - x_t))
        x_{t+1} = x_t - γ_t a_t g(x̄_{t+½})

    γ_t = β/√(1 + Σ a_s² |g(x̄_{s+½}) - g(x̄_s) - B(x̄_s)(x̄_{s+½} - x̄_s)|²) adapts to noise and smoothness. The point is
    x̄_{t+½}.
    """

    asks = 3

    def __init__(self, oracle: Oracle, beta: float = 1.0, T: int = 100) -> None:
        super().__init__(oracle, T)
        self.beta = positive("beta", beta)

    def start(self, x0: Float[Tensor, " d"]) -> Iterate:
        return Iterate(0, x0.clone(), {"z": x0.clone(), "sum": torch.zeros_like(x0), "A": 0.0, "errors": 0.0})

    def step(self, state: Iterate, rng: Rng = None) -> Iterate:
        z, total = state.kept["z"], state.kept["sum"]
        a = float((state.t + 1) ** 2)
        A = state.kept["A"] + a
        gamma = self.beta / (1 + state.kept["errors"]) ** 0.5
        middle = (a * z + total) / A
        g = finite("gradient", self.oracle.grad(middle, rng))
        B = finite("Hessian", self.oracle.hess(middle, rng))
        system = gamma * a * a / A * B + torch.eye(len(z), dtype=z.dtype)
        ahead = z + torch.linalg.solve(system, -gamma * a * g)
        total = total + a * ahead
        x = total / A
        following = finite("gradient", self.oracle.grad(x, rng))
        error = float((following - g - B @ (x - middle)).norm()) ** 2
        kept = {"z": z - gamma * a * following, "sum": total, "A": A, "errors": state.kept["errors"] + a * a * error}
        return Iterate(state.t + 1, x, kept)


class GradientDescent(_Method):
    """x ← x - lr g, with heavy-ball ``momentum`` where asked; SGD where the oracle is stochastic."""

    def __init__(self, oracle: Oracle, lr: float, T: int = 100, *, momentum: float = 0.0) -> None:
        super().__init__(oracle, T)
        self.lr, self.momentum = positive("lr", lr), momentum

    def step(self, state: Iterate, rng: Rng = None) -> Iterate:
        direction = finite("gradient", self.oracle.grad(state.x, rng))
        if self.momentum:
            direction = direction + self.momentum * state.kept.get("velocity", 0.0)
        return Iterate(state.t + 1, state.x - self.lr * direction, {"velocity": direction})


class NesterovGradient(_Method):
    """Accelerated gradient descent with (t-1)/(t+2) extrapolation; ``lr`` = 1/L₁ gives the error 2L₁R²/(T+1)²."""

    def __init__(self, oracle: Oracle, lr: float, T: int = 100) -> None:
        super().__init__(oracle, T)
        self.lr = positive("lr", lr)

    def step(self, state: Iterate, rng: Rng = None) -> Iterate:
        before = state.kept.get("before", state.x)
        y = state.x + (state.t - 1) / (state.t + 2) * (state.x - before) if state.t else state.x
        x = y - self.lr * finite("gradient", self.oracle.grad(y, rng))
        return Iterate(state.t + 1, x, {"before": state.x})


class TorchMethod(_Method):
    """A torch optimizer for one vector, fed by the oracle's gradient; ``make`` builds it from the parameters."""

    def __init__(self, oracle: Oracle, make: Callable[[list[Tensor]], torch.optim.Optimizer], T: int = 100) -> None:
        super().__init__(oracle, T)
        self.make = make

    def start(self, x0: Float[Tensor, " d"]) -> Iterate:
        weights = torch.nn.Parameter(x0.clone())
        return Iterate(0, x0.clone(), {"weights": weights, "optimizer": self.make([weights])})

    def step(self, state: Iterate, rng: Rng = None) -> Iterate:
        weights = state.kept["weights"]
        weights.grad = finite("gradient", self.oracle.grad(weights.detach(), rng))
        state.kept["optimizer"].step()
        return replace(state, t=state.t + 1, x=weights.detach().clone())


def optami_nesterov(
    function: Callable[[Tensor], Tensor],
    x0: Float[Tensor, " d"],
    L: float,
    T: int,
    record: Callable[[int, Tensor], None] | None = None,
) -> Float[Tensor, " d"]:
    """OPTAMI's NesterovAcceleration of its cubic Newton step, where ``L`` is the Hessian's Lipschitz constant."""
    from OPTAMI.accelerations.nesterov_acceleration import NesterovAcceleration

    weights = torch.nn.Parameter(x0.clone())
    method = NesterovAcceleration([weights], L=L, order=2, verbose=False)
    for t in range(T):
        method.step(lambda: function(weights))
        if record is not None:
            record(t + 1, weights.detach())
    return weights.detach().clone()


def trust_exact(
    oracle: Oracle, x0: Float[Tensor, " d"], *, tolerance: float = 1e-10, iterations: int = 1000
) -> Float[Tensor, " d"]:
    """SciPy's trust-region Newton method with exact subproblems."""
    from scipy.optimize import minimize

    def as_tensor(x: Any) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float64)

    result = minimize(
        lambda x: float(oracle.value(as_tensor(x))),
        x0.numpy(),
        jac=lambda x: oracle.grad(as_tensor(x)).numpy(),
        hess=lambda x: oracle.hess(as_tensor(x)).numpy(),
        method="trust-exact",
        options={"gtol": tolerance, "maxiter": iterations},
    )
    return torch.from_numpy(result.x)
