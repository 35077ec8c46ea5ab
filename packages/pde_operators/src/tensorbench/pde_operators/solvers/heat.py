"""The heat equation and semilinear heat equations u_t = κ Lap u + r(u) + f in a box of one to three dimensions.

The Laplacian is diagonal in sines (zero on the boundary), cosines (no flux through it) or Fourier modes (periodic):
pure diffusion is exact in time for what the grid resolves, and reactions and sources go by ETDRK4, of order four. In
space the error falls exponentially while r(u) satisfies the boundary condition as u does (Allen-Cahn's u - u³ does in
all three); otherwise like the coefficients of the source, algebraically.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from jaxtyping import Float

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.grids import BOUNDARIES, eigenvalues, from_spectral, to_spectral
from tensorbench.pde_operators.solvers.etdrk4 import as_times, check_initial, integrate

Reaction = Callable[[np.ndarray], np.ndarray]
Source = Callable[[float], np.ndarray]


def solve(
    initial: Float[np.ndarray, "*grid"],
    times: float | list[float] | Float[np.ndarray, " times"],
    *,
    diffusivity: float = 1.0,
    reaction: Reaction | None = None,
    source: Source | None = None,
    bc: str = "dirichlet",
    dims: int = 1,
    dt: float = 1e-2,
    length: float = 1.0,
) -> Float[np.ndarray, "*_"]:
    """u at the given times: shape (\\*batch, times, \\*grid), without the axis of times for a single one.

    Args:
        initial: u at time 0 on ``grids.grid(n, length, bc)`` in each of the last ``dims`` axes, any batch in front.
        reaction: r(u), elementwise.
        source: f(t) on the grid.
        dt: the largest step; without reaction and source each span is one step, which is exact.

    Raises:
        ValueError: bad input (a field that is not finite, times that do not ascend, an unknown boundary condition).
        FloatingPointError: the solution blew up.
    """
    if bc not in BOUNDARIES:
        raise ValueError(unknown("boundary condition", bc, BOUNDARIES))
    if dims not in (1, 2, 3):
        raise ValueError(f"dims {dims!r} must be 1, 2 or 3")
    if not (diffusivity > 0 and np.isfinite(diffusivity)):
        raise ValueError(f"the diffusivity must be positive and finite, not {diffusivity!r}; backwards it is ill-posed")
    u0 = check_initial(initial, dims, least=1)
    t, single = as_times(times, dt)
    shape = u0.shape[-dims:]
    linear = -diffusivity * eigenvalues(shape, length, bc)
    hat = to_spectral(u0, bc, dims)
    if reaction is None and source is None:
        states = [np.exp(linear * end) * hat for end in t]
    else:

        def nonlinear(coefficients: np.ndarray, at: float) -> np.ndarray:
            values = np.zeros(shape)
            if reaction is not None:
                values = reaction(from_spectral(coefficients, shape, bc))
            if source is not None:
                values = values + source(at)
            return to_spectral(values, bc, dims)

        states = integrate(hat, linear, nonlinear, t, dt)
    u = np.stack([from_spectral(state, shape, bc) for state in states], axis=-dims - 1)
    return u.reshape(*u0.shape[:-dims], *shape) if single else u


def ginzburg_landau_energy(
    u: Float[np.ndarray, "*batch n"], *, diffusivity: float, length: float = 1.0
) -> Float[np.ndarray, "*batch"]:
    """∫ κ|∇u|²/2 + (1 - u²)²/4 of a periodic field of one dimension, which u_t = κ u_xx + u - u³ makes fall."""
    n = u.shape[-1]
    power = np.abs(to_spectral(u, "periodic", 1)) ** 2 / n**2
    twice = np.full(n // 2 + 1, 2.0)
    twice[0] = 1.0
    if n % 2 == 0:
        twice[-1] = 1.0
    gradient = (power * twice * eigenvalues((n,), length)).sum(axis=-1)
    return length * (diffusivity / 2 * gradient + ((1 - u**2) ** 2 / 4).sum(axis=-1) / prod((n,)))
