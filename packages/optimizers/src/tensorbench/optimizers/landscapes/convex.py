"""Convex functions whose minimisers, minimal values and Lipschitz constants are known.

The chains are the hard instances of Nesterov, *Implementable tensor methods in unconstrained convex optimization*
(2021), with as many links as coordinates: from x = 0 the derivatives of a method's first t points see only the
first t coordinates. Log-sum-exp is tilted so that its minimiser is the origin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.optimizers.base import positive, whole


@dataclass(frozen=True)
class Landscape:
    """A function of a float64 vector with its derivatives, where to start, and where the minimum is.

    ``third_vec(x, h)`` is D³f(x)[h, h]; ``lipschitz[p]`` bounds the Lipschitz constant of the p-th derivative.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    grad: Callable[[Tensor], Tensor]
    hess: Callable[[Tensor], Tensor]
    third_vec: Callable[[Tensor, Tensor], Tensor]
    start: Tensor
    minimiser: Tensor
    minimum: float
    lipschitz: dict[int, float] = field(default_factory=dict)

    @property
    def radius(self) -> float:
        """Distance from the start to the minimiser."""
        return float((self.start - self.minimiser).norm())

    def gap(self, x: Float[Tensor, " d"]) -> float:
        """f(x) minus the minimum."""
        return float(self.value(x)) - self.minimum


def power_chain(k: int, power: int = 3) -> Landscape:
    """Σᵢ |xᵢ - xᵢ₊₁|^q / q - x₁ with q = ``power``, x_{k+1} = 0: minimiser (k, …, 2, 1), minimum -(1 - 1/q) k.

    The derivative of order q - 1 has a Lipschitz constant of at most (q-1)! 2^q, since the differences have norm 2.
    """
    whole("k", k)
    whole("power", power, 2)
    q = power
    A = torch.eye(k, dtype=torch.float64) - torch.diag(torch.ones(k - 1, dtype=torch.float64), 1)
    first = torch.zeros(k, dtype=torch.float64)
    first[0] = 1.0
    third = (q - 1) * (q - 2)

    def third_vec(x: Tensor, h: Tensor) -> Tensor:
        u = A @ x
        return third * (A.T @ (u.abs() ** max(q - 3, 0) * u.sign() * (A @ h) ** 2))

    return Landscape(
        name=f"power_chain_{q}",
        value=lambda x: ((A @ x).abs() ** q).sum() / q - x[0],
        grad=lambda x: A.T @ ((u := A @ x).abs() ** (q - 1) * u.sign()) - first,
        hess=lambda x: (A.T * ((q - 1) * (A @ x).abs() ** (q - 2))) @ A,
        third_vec=third_vec,
        start=torch.zeros(k, dtype=torch.float64),
        minimiser=torch.arange(k, 0, -1, dtype=torch.float64),
        minimum=-(1 - 1 / q) * k,
        lipschitz={q - 1: float(math.factorial(q - 1) * 2**q)},
    )


def cubic_chain(k: int) -> Landscape:
    """The chain of third powers, whose Hessian is tri-diagonal with a Lipschitz constant of at most 16."""
    return power_chain(k, 3)


def log_sum_exp(dim: int, terms: int, generator: torch.Generator, mu: float = 0.5, radius: float = 1.0) -> Landscape:
    """μ log Σᵢ exp((aᵢ·x - bᵢ)/μ), tilted so that the minimiser is the origin; the start is at distance ``radius``.

    aᵢ is uniform in [-1, 1]^dim over √dim, bᵢ in [-1, 1]. The third derivative along a unit vector is the third central
    moment of aᵢ·h over μ², and that of a variable within [-ρ, ρ] is at most (2ρ)³/(6√3).
    """
    whole("dim", dim)
    whole("terms", terms)
    positive("mu", mu)
    positive("radius", radius)
    A = (2 * torch.rand(terms, dim, dtype=torch.float64, generator=generator) - 1) / math.sqrt(dim)
    b = 2 * torch.rand(terms, dtype=torch.float64, generator=generator) - 1
    start = torch.randn(dim, dtype=torch.float64, generator=generator)
    tilt = A.T @ torch.softmax(-b / mu, 0)

    def weights(x: Tensor) -> Tensor:
        return torch.softmax((A @ x - b) / mu, 0)

    def value(x: Tensor) -> Tensor:
        return mu * torch.logsumexp((A @ x - b) / mu, 0) - tilt @ x

    def hess(x: Tensor) -> Tensor:
        w = weights(x)
        mean = A.T @ w
        H = ((A.T * w) @ A - torch.outer(mean, mean)) / mu
        return (H + H.T) / 2

    def third_vec(x: Tensor, h: Tensor) -> Tensor:
        w, s = weights(x), A @ h
        s = s - w @ s
        second = w @ s**2
        return (A.T @ (w * s**2) - second * (A.T @ w)) / mu**2

    origin = torch.zeros(dim, dtype=torch.float64)
    return Landscape(
        name="log_sum_exp",
        value=value,
        grad=lambda x: A.T @ weights(x) - tilt,
        hess=hess,
        third_vec=third_vec,
        start=start * (radius / start.norm()),
        minimiser=origin,
        minimum=float(value(origin)),
        lipschitz={2: (2 * float(A.norm(dim=1).max())) ** 3 / (6 * math.sqrt(3) * mu**2)},
    )


def random_quadratic(spectrum: Sequence[float], generator: torch.Generator, radius: float = 1.0) -> Landscape:
    """(x - x*)ᵀ H (x - x*) / 2 with the eigenvalues ``spectrum`` along random axes; the start is the origin."""
    values = torch.as_tensor(list(spectrum), dtype=torch.float64)
    if values.ndim != 1 or not len(values) or not bool((values >= 0).all()):
        raise ValueError(f"spectrum {list(spectrum)!r} must be a list of numbers of at least 0 for a convex quadratic")
    d = len(values)
    Q, _ = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))
    H = (Q * values) @ Q.T
    H = (H + H.T) / 2
    minimiser = torch.randn(d, dtype=torch.float64, generator=generator)
    minimiser = minimiser * (positive("radius", radius) / minimiser.norm())
    return Landscape(
        name="random_quadratic",
        value=lambda x: (x - minimiser) @ H @ (x - minimiser) / 2,
        grad=lambda x: H @ (x - minimiser),
        hess=lambda x: H,
        third_vec=lambda x, h: torch.zeros_like(x),
        start=torch.zeros(d, dtype=torch.float64),
        minimiser=minimiser,
        minimum=0.0,
        lipschitz={2: 0.0, 3: 0.0},
    )


@dataclass(frozen=True)
class LogisticLoss:
    """Mean of log(1 + exp(-bᵢ aᵢ·x)) plus l2/2 |x|², as a function of x, rows A and labels b = ±1, with derivatives.

    With rows of norm 1 its gradient, Hessian and third derivative have Lipschitz constants 1/4 + l2, 1/(6√3) and 1/8.
    """

    l2: float = 0.0

    def __call__(
        self, x: Float[Tensor, " d"], A: Float[Tensor, "rows d"], b: Float[Tensor, " rows"]
    ) -> Float[Tensor, ""]:
        return torch.nn.functional.softplus(-b * (A @ x)).mean() + self.l2 / 2 * (x @ x)

    def grad(
        self, x: Float[Tensor, " d"], A: Float[Tensor, "rows d"], b: Float[Tensor, " rows"]
    ) -> Float[Tensor, " d"]:
        return -(A.T @ (b * torch.sigmoid(-b * (A @ x)))) / len(b) + self.l2 * x

    def hess(
        self, x: Float[Tensor, " d"], A: Float[Tensor, "rows d"], b: Float[Tensor, " rows"]
    ) -> Float[Tensor, "d d"]:
        p = torch.sigmoid(A @ x)
        root = A * (p * (1 - p) / len(b)).sqrt()[:, None]
        H = root.T @ root
        H.diagonal().add_(self.l2)
        return H
