"""Viscous Burgers' equation u_t + (u²/2)_x = ν u_xx on a periodic interval: Fourier and ETDRK4.

Exponentially accurate in space (products are dealiased by the 2/3 rule), of order four in time, and the mean of u is
conserved to rounding. A front of a fall by Δu is about 4ν/Δu wide: the grid must resolve it. The closed solution of
:func:`cole_hopf` (Cole 1951, Hopf 1950), u = -2ν φ_x/φ with φ a solution of the heat equation, is what the tests
measure orders with.
"""

from __future__ import annotations

from math import pi

import numpy as np
import scipy.fft
from jaxtyping import Float

from tensorbench.pde_operators.grids import dealias_mask, wavenumbers
from tensorbench.pde_operators.solvers.etdrk4 import as_times, check_initial, integrate


def solve(
    initial: Float[np.ndarray, "*batch n"],
    times: float | list[float] | Float[np.ndarray, " times"],
    *,
    viscosity: float,
    dt: float = 1e-3,
    length: float = 1.0,
) -> Float[np.ndarray, "*_"]:
    """u at the given times, shape (\\*batch, times, n); for a single time (\\*batch, n).

    Args:
        initial: u at time 0 on ``grids.periodic_grid(n, length)``, any batch in front.
        dt: the largest step; each span between times is cut into equal ones.

    Raises:
        ValueError: a field that is not real and finite, times that do not ascend, a viscosity that is not positive.
        FloatingPointError: the solution blew up (dt too large for the grid).
    """
    u0 = check_initial(initial, 1)
    t, single = as_times(times, dt)
    if not (viscosity > 0 and np.isfinite(viscosity)):
        raise ValueError(f"the viscosity must be positive and finite, not {viscosity!r}; without it shocks form")
    n = u0.shape[-1]
    k = wavenumbers(n, length, real=True)
    advection = -0.5j * k * dealias_mask((n,))

    def nonlinear(hat: np.ndarray, _t: float) -> np.ndarray:
        return advection * scipy.fft.rfft(scipy.fft.irfft(hat, n=n) ** 2)

    hat = scipy.fft.rfft(u0) * dealias_mask((n,))
    states = integrate(hat, -viscosity * k**2, nonlinear, t, dt)
    u = np.stack([scipy.fft.irfft(state, n=n) for state in states], axis=-2)
    return u[..., 0, :] if single else u


def cole_hopf(
    x: Float[np.ndarray, " n"], t: float, *, viscosity: float, length: float = 1.0, waves: int = 1, depth: float = 0.5
) -> Float[np.ndarray, " n"]:
    """An exact solution: φ = 1 + depth exp(-νκ²t) cos κx with κ = 2π waves/length; steep as ``depth`` nears 1."""
    if not 0 < depth < 1:
        raise ValueError(f"depth {depth} must lie between 0 and 1, or φ has zeros")
    kappa = 2 * pi * waves / length
    decay = depth * np.exp(-viscosity * kappa**2 * t)
    return 2 * viscosity * kappa * decay * np.sin(kappa * x) / (1 + decay * np.cos(kappa * x))
