"""Second-order finite differences on a tensor grid of the torus, the baseline that pays n^d unknowns."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import fft

from ..trig import TrigFunction


def torus_differences(
    source: TrigFunction, n: int, *, reaction: float, quartic: float, eta: float = 0.5, tolerance: float = 1e-8
) -> tuple[Float[np.ndarray, "..."], int]:
    """u of -Δ_h u + c u + 4 a u³ = f on n^d points of a period, and the steps of the preconditioned flow it took.

    Raises:
        ValueError: n^d above 2·10⁷ unknowns, which is the point of the comparison.
        RuntimeError: no convergence in 500 steps.
    """
    d = source.d
    if n**d > 20_000_000:
        raise ValueError(f"{n}^{d} = {float(n) ** d:.2g} unknowns are too many for this machine; use fewer dimensions")
    h = 2 * np.pi / source.unit / n
    k = (2 / h * np.sin(np.pi * np.arange(n) / n)) ** 2
    last = k[: n // 2 + 1]
    mu = np.zeros((n,) * (d - 1) + (len(last),))
    for axis in range(d):
        mu += (last if axis == d - 1 else k).reshape([-1 if j == axis else 1 for j in range(d)])
    f = torus_values(source, n)
    u = np.zeros_like(f)
    for step in range(1, 501):
        stiff = fft.irfftn(mu * fft.rfftn(u, workers=1), s=u.shape, workers=1)
        residual = stiff + reaction * u + 4 * quartic * u**3 - f
        update = fft.irfftn(fft.rfftn(residual, workers=1) / (1 + mu), s=u.shape, workers=1)
        u = u - eta * update
        if np.abs(update).max() <= tolerance * np.abs(u).max():
            return u, step
    raise RuntimeError(
        f"the flow has not converged in 500 steps on {n}^{d} points; last change {np.abs(update).max():.2g}"
    )


def torus_values(function: TrigFunction, n: int) -> Float[np.ndarray, "..."]:
    """Values on the n^d points of a period, by a fast Fourier transform; aliases frequencies of n/2 and more."""
    table = np.zeros((n,) * function.d, dtype=complex)
    np.add.at(table, tuple(np.mod(function.freqs, n).T), function.coeffs)
    return fft.ifftn(table, workers=1).real * table.size
