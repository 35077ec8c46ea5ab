"""Semilinear parabolic equations backward in time, u_t + Δu + reaction(u) = 0 with u(T, x) = terminal(x), T = 0.3.

Wanted is u(0, 0). The three problems of the paper (appendix I.2; its reference values come from multilevel Picard):

    semilinear heat   reaction (1 - u²)/(1 + u²)   terminal 5 / (10 + 2|x|²)
    Allen-Cahn        reaction u - u³              terminal arctan(max xᵢ)
    sine-Gordon       reaction sin u               terminal 5 / (10 + 2|x|²)

References that use no network: :func:`multilevel_picard` for all of them (E, Hutzenthaler, Jentzen, Kruse 2021), from
the Feynman-Kac formula u(t, x) = E[terminal(X_T) + ∫ reaction(u(s, X_s)) ds] with X = x + √2 W; and
:func:`radial_reference`, finite differences in r = |x| where the terminal value depends on that alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.stde.local import Local
from tensorbench.pde_operators.stde.pinn import StochasticPinn

# u(0, 0) as the paper prints it, for d = 10, 100, 1000, 10000.
PUBLISHED = {
    "semilinear_heat": {10: 0.47006, 100: 0.31674, 1000: 0.28753, 10000: 0.28433},
    "allen_cahn": {10: 0.89060, 100: 1.04510, 1000: 1.09100, 10000: 1.11402},
    "sine_gordon": {10: 0.3229470, 100: 0.0528368, 1000: 0.0055896, 10000: 0.0005621},
}


def _rational(x: Any) -> Any:
    return 5 / (10 + 2 * (x * x).sum(-1))


@dataclass(frozen=True)
class Parabolic:
    """u_t + Δu + reaction(u) = 0 up to ``horizon``, backward from ``terminal``."""

    reaction: Callable[[Any], Any]
    terminal: Callable[[Any], Any]
    radial: bool
    horizon: float = 0.3

    def operator(self, u: Local) -> Float[Tensor, "points"]:
        """Of functions of (x, t), the time last."""
        return u.partial(-1) + u.laplacian() + self.reaction(u.value)


PROBLEMS = {
    "semilinear_heat": Parabolic(lambda u: (1 - u * u) / (1 + u * u), _rational, True),
    "allen_cahn": Parabolic(lambda u: u - u**3, lambda x: torch.atan(x.amax(-1)), False),
    "sine_gordon": Parabolic(lambda u: torch.sin(u), _rational, True),
}


def parabolic(name: str) -> Parabolic:
    """One of the three by name."""
    if name not in PROBLEMS:
        raise ValueError(unknown("parabolic problem", name, PROBLEMS))
    return PROBLEMS[name]


def paths(
    points: int, d: int, horizon: float, generator: torch.Generator, *, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "points inputs"], Float[Tensor, "points inputs"]]:
    """(x, t) at uniform times with x as √2 W has it there, and at the horizon."""
    t = torch.rand(points, 1, generator=generator, dtype=dtype) * horizon
    x = torch.randn(points, d, generator=generator, dtype=dtype) * (2 * t).sqrt()
    last = torch.randn(points, d, generator=generator, dtype=dtype) * (2 * horizon) ** 0.5
    return torch.cat([x, t], -1), torch.cat([last, torch.full_like(t, horizon)], -1)


def parabolic_loss(
    problem: Parabolic,
    f: Callable[[Any], Any],
    points: int,
    d: int,
    generator: torch.Generator,
    *,
    batch: int = 16,
    unbiased: bool = False,
    boundary: float = 20.0,
    gradient: float = 0.05,
) -> Float[Tensor, ""]:
    """Residual inside, and at the horizon the squared error of the value (weight 20) and its gradient (20 × 0.05)."""
    inside, last = paths(points, d, problem.horizon, generator)
    scheme = StochasticPinn(problem.operator, batch=min(batch, d), unbiased=unbiased, dims=d)
    total = scheme.loss(f, inside, generator)
    last = last.requires_grad_()
    off = f(last) - problem.terminal(last[:, :d])
    (slope,) = torch.autograd.grad(off.sum(), last, create_graph=True)
    return total + boundary * (off.square().mean() + gradient * slope[:, :d].square().mean())


def feynman_kac(problem: Parabolic, d: int, samples: int, generator: torch.Generator) -> tuple[float, float]:
    """E[terminal(√2 W_T)] and its standard error: u(0, 0) without the reaction."""
    x = torch.randn(samples, d, generator=generator, dtype=torch.float64) * (2 * problem.horizon) ** 0.5
    values = problem.terminal(x)
    return float(values.mean()), float(values.std() / samples**0.5)


def multilevel_picard(
    problem: Parabolic, d: int, level: int, generator: torch.Generator, *, base: int | None = None
) -> float:
    """u(0, 0) by full-history recursive multilevel Picard iteration, ``base`` (default: ``level``) to the power of n
    samples.

    Unbiased but for the iteration's own error, which falls with ``level``; work grows like (3 base)^level · d.
    """
    base = level if base is None else base
    if level < 1 or base < 1:
        raise ValueError(f"level {level} and base {base} must be at least 1")
    horizon = problem.horizon

    def value(n: int, t: Tensor, x: Tensor) -> Tensor:
        """V_n at many (t, x): times (k,), places (k, d)."""
        if n == 0:
            return torch.zeros(len(x), dtype=x.dtype)
        left = horizon - t
        count = base**n
        noise = torch.randn(len(x), count, d, generator=generator, dtype=x.dtype)
        total = problem.terminal(x[:, None] + (2 * left).sqrt()[:, None, None] * noise).mean(-1)
        for k in range(n):
            count = base ** (n - k)
            share = torch.rand(len(x), count, generator=generator, dtype=x.dtype)
            s = t[:, None] + left[:, None] * share
            step = (2 * (s - t[:, None])).sqrt()[..., None]
            places = x[:, None] + step * torch.randn(len(x), count, d, generator=generator, dtype=x.dtype)
            flat_s, flat_x = s.reshape(-1), places.reshape(-1, d)
            change = problem.reaction(value(k, flat_s, flat_x))
            if k:
                change = change - problem.reaction(value(k - 1, flat_s, flat_x))
            total = total + left * change.reshape(len(x), count).mean(-1)
        return total

    start = torch.zeros(1, dtype=torch.float64)
    return float(value(level, start, torch.zeros(1, d, dtype=torch.float64))[0])


def radial_reference(problem: Parabolic, d: int, *, cells: int = 800, steps: int = 600) -> float:
    """u(0, 0) where the solution depends on |x| alone, by finite differences in r = |x| and Crank-Nicolson steps.

    u_t + u_rr + (d - 1)/r u_r + reaction(u) = 0 on r up to 4 standard deviations past where √2 W_T lies. Raises
    ValueError for a terminal value that is not radial.
    """
    from scipy.linalg import solve_banded

    if not problem.radial:
        raise ValueError("the terminal value is not radial; use multilevel_picard")
    far = (2 * problem.horizon) ** 0.5 * (d**0.5 + 4)
    r = np.linspace(0, far, cells + 1)
    h, dt = r[1], problem.horizon / steps
    up, down, middle = np.ones(cells + 1), np.ones(cells + 1), np.full(cells + 1, -2.0)
    drift = (d - 1) * h / (2 * np.maximum(r, h))
    up, down = up + drift, down - drift
    up[0], middle[0], down[0] = 2.0 * d, -2.0 * d, 0.0  # Δu = d u_rr at the centre
    up[-1], middle[-1], down[-1] = 0.0, 0.0, 0.0  # far out the terminal value is flat
    up, middle, down = up / h**2, middle / h**2, down / h**2
    # Large drift makes central differences oscillate; upwind where they would.
    wrong = (down < 0) & (np.arange(cells + 1) > 0)
    if wrong.any():
        speed = (d - 1) / np.maximum(r, h) / h
        up = np.where(wrong, 1 / h**2 + speed, up)
        middle = np.where(wrong, -2 / h**2 - speed, middle)
        down = np.where(wrong, 1 / h**2, down)
    bands = np.zeros((3, cells + 1))
    bands[0, 1:], bands[1], bands[2, :-1] = -dt / 2 * up[:-1], 1 - dt / 2 * middle, -dt / 2 * down[1:]

    def reaction(v: np.ndarray) -> np.ndarray:
        return problem.reaction(torch.from_numpy(v)).numpy()

    u = problem.terminal(torch.from_numpy(r)[:, None]).numpy()  # radial: one coordinate is enough
    previous = reaction(u)
    for _ in range(steps):
        now = reaction(u)
        explicit = u + dt / 2 * (middle * u + up * np.append(u[1:], 0) + down * np.insert(u[:-1], 0, 0))
        u = solve_banded((1, 1), bands, explicit + dt * (1.5 * now - 0.5 * previous))
        previous = now
    return float(u[0])
