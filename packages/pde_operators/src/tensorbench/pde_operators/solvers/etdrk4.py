"""Exponential time differencing, Runge-Kutta of fourth order, for u' = L u + N(u, t) with a diagonal L.

Cox and Matthews (2002), with the coefficients by contour integrals of Kassam and Trefethen (2005), which stay accurate
where L dt is small. The linear part is exact; the nonlinear part is of order four in dt unless boundary conditions or
stiffness reduce it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_CONTOUR = 32  # points on the half circle; the rule converges exponentially


@dataclass(frozen=True, eq=False)
class Coefficients:
    """exp(L dt), exp(L dt/2) and the weights of the four stages for one step ``dt``."""

    dt: float
    whole: np.ndarray
    half: np.ndarray
    q: np.ndarray
    f1: np.ndarray
    f2: np.ndarray
    f3: np.ndarray


def coefficients(linear: np.ndarray, dt: float) -> Coefficients:
    """For the diagonal ``linear`` (real) and one step."""
    z = dt * np.asarray(linear, dtype=np.float64)[..., None]
    z = z + np.exp(1j * np.pi * (np.arange(1, _CONTOUR + 1) - 0.5) / _CONTOUR)  # the lower half is the conjugate
    e = np.exp(z)

    def mean(values: np.ndarray) -> np.ndarray:
        return dt * values.mean(axis=-1).real

    return Coefficients(
        dt,
        np.exp(dt * linear),
        np.exp(dt / 2 * linear),
        mean((np.exp(z / 2) - 1) / z),
        mean((-4 - z + e * (4 - 3 * z + z**2)) / z**3),
        mean((2 + z + e * (z - 2)) / z**3),
        mean((-4 - 3 * z - z**2 + e * (4 - z)) / z**3),
    )


def step(u: np.ndarray, t: float, c: Coefficients, nonlinear: Callable[[np.ndarray, float], np.ndarray]) -> np.ndarray:
    """The coefficients of the state at t + dt from those at t."""
    at_start = nonlinear(u, t)
    a = c.half * u + c.q * at_start
    at_a = nonlinear(a, t + c.dt / 2)
    b = c.half * u + c.q * at_a
    at_b = nonlinear(b, t + c.dt / 2)
    last = c.half * a + c.q * (2 * at_b - at_start)
    at_last = nonlinear(last, t + c.dt)
    return c.whole * u + c.f1 * at_start + 2 * c.f2 * (at_a + at_b) + c.f3 * at_last


def integrate(
    u: np.ndarray,
    linear: np.ndarray,
    nonlinear: Callable[[np.ndarray, float], np.ndarray],
    times: np.ndarray,
    dt: float,
) -> list[np.ndarray]:
    """The states at the ascending ``times`` from ``u`` at time 0; each span is cut into equal steps of at most ``dt``.

    Raises:
        FloatingPointError: a state is no longer finite.
    """
    states, t = [], 0.0
    known: dict[float, Coefficients] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for end in times:
            count = steps_for(end - t, dt)
            if count:
                size = (end - t) / count
                if size not in known:
                    known[size] = coefficients(linear, size)
                start = t
                for k in range(count):
                    u = step(u, start + k * size, known[size], nonlinear)
                if not np.isfinite(u).all():
                    raise FloatingPointError(f"the solution blew up before t = {end:g} with dt = {size:g}; use less")
            t = float(end)
            states.append(u)
    return states


def steps_for(span: float, dt: float) -> int:
    """How many equal steps of at most ``dt`` (up to rounding) cover ``span``."""
    return int(np.ceil(span / dt * (1 - 1e-12))) if span > 0 else 0


def as_times(times: float | np.ndarray | list[float], dt: float) -> tuple[np.ndarray, bool]:
    """Ascending times and whether a single one was given.

    Raises:
        ValueError: times that do not ascend from 0, or a step that is not positive.
    """
    if not (dt > 0 and np.isfinite(dt)):
        raise ValueError(f"the time step must be positive and finite, not dt = {dt!r}")
    single = np.ndim(times) == 0
    t = np.atleast_1d(np.asarray(times, dtype=np.float64))
    if t.ndim != 1 or t.size == 0 or not np.isfinite(t).all() or t[0] < 0 or (np.diff(t) <= 0).any():
        raise ValueError(f"times must ascend from 0 on, got {np.asarray(times).tolist()}")
    return t, single


def check_initial(initial: np.ndarray, dims: int, least: int = 4) -> np.ndarray:
    """The initial state as float64; ValueError where it is not real, not finite, or too small a grid."""
    u = np.asarray(initial)
    if np.iscomplexobj(u):
        raise ValueError("the initial state is complex; these solvers are for real fields")
    u = u.astype(np.float64)
    if u.ndim < dims or min(u.shape[-dims:], default=0) < least:
        raise ValueError(f"the initial state needs {dims} grid axes of at least {least} points, got shape {u.shape}")
    if not np.isfinite(u).all():
        raise ValueError("the initial state has values that are not finite")
    return u
