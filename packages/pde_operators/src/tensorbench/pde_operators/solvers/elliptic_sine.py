"""Elliptic problems on the unit cube with zero boundary values, in the sine basis: Poisson and semilinear Newton.

u(x) = Σ_k c_k Π_i sin(π k_i x_i) diagonalises -Δ with eigenvalues π² |k|²; values and coefficients are related by
fast sine transforms (scipy.fft). :class:`SineGrid` evaluates u and ∇u on a padded grid and gives the exact transposes
of these maps, so that an energy by quadrature and its derivative belong together; :func:`poisson` and
:func:`semilinear` solve -Δu = f and -Δu + g(u) = f by collocation (spectral accuracy for odd-periodic smooth f),
:func:`poisson_differences` by second-order finite differences, the plain tensor-grid baseline.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy import fft
from scipy.sparse.linalg import LinearOperator, cg

Array = np.ndarray


@dataclass(frozen=True)
class SineGrid:
    """Sine coefficients ``(n,)*d`` and a quadrature grid of ``pad * (n + 1)`` intervals along each axis.

    With ``pad=2`` integrals of products of four such functions are exact (trapezoidal rule).
    """

    n: int
    d: int
    pad: int = 2

    def __post_init__(self) -> None:
        if self.n < 1 or not 1 <= self.d <= 3 or self.pad < 1:
            raise ValueError(f"a sine grid has n >= 1, pad >= 1 and 1 to 3 dimensions, got {self}")

    @property
    def intervals(self) -> int:
        return self.pad * (self.n + 1)

    @cached_property
    def wave_numbers(self) -> list[Float[Array, "..."]]:
        """π k_i as arrays that broadcast along axis i."""
        k = math.pi * np.arange(1, self.n + 1)
        return [k.reshape([-1 if j == i else 1 for j in range(self.d)]) for i in range(self.d)]

    @cached_property
    def eigenvalues(self) -> Float[Array, "..."]:
        """π² |k|² of -Δ."""
        return sum((k**2 for k in self.wave_numbers), np.zeros((self.n,) * self.d))

    def mode(self, k: tuple[int, ...], amplitude: float = 1.0) -> Float[Array, "..."]:
        """Coefficients of amplitude · Π sin(π k_i x_i)."""
        if len(k) != self.d or not all(1 <= ki <= self.n for ki in k):
            raise ValueError(f"mode {k} is not one of 1 to {self.n} along {self.d} axes")
        c = np.zeros((self.n,) * self.d)
        c[tuple(ki - 1 for ki in k)] = amplitude
        return c

    def points(self) -> list[Float[Array, "..."]]:
        """Coordinates of the closed quadrature grid, broadcastable."""
        x = np.linspace(0, 1, self.intervals + 1)
        return [x.reshape([-1 if j == i else 1 for j in range(self.d)]) for i in range(self.d)]

    def values(self, c: Float[Array, "..."]) -> Float[Array, "..."]:
        """u at the interior quadrature points."""
        wide = np.pad(c, [(0, self.intervals - 1 - self.n)] * self.d)
        return fft.dstn(wide, type=1, workers=1) / 2**self.d

    def project(self, values: Float[Array, "..."]) -> Float[Array, "..."]:
        """2^d ∫ v Π sin(π k_i x_i) from values at the interior quadrature points; inverts :meth:`values`."""
        full = fft.dstn(values, type=1, workers=1) / self.intervals**self.d
        return full[(slice(0, self.n),) * self.d]

    def gradient(self, c: Float[Array, "..."]) -> list[Float[Array, "..."]]:
        """∂_i u on the closed quadrature grid, one array per axis."""
        M, result = self.intervals, []
        for i, k in enumerate(self.wave_numbers):
            v = c * k
            for axis in range(self.d):
                room = [(0, 0)] * self.d
                if axis == i:
                    room[axis] = (1, M - self.n)
                    v = fft.dct(np.pad(v, room), type=1, axis=axis, workers=1) / 2
                else:
                    room[axis] = (0, M - 1 - self.n)
                    v = fft.dst(np.pad(v, room), type=1, axis=axis, workers=1) / 2
                    room[axis] = (1, 1)
                    v = np.pad(v, room)
            result.append(v)
        return result

    def project_gradient(self, flux: list[Float[Array, "..."]]) -> Float[Array, "..."]:
        """2^d ∫ q·∇Π sin(π k_i x_i), the sine coefficients of -div q, from q on the closed quadrature grid."""
        M, total = self.intervals, np.zeros((self.n,) * self.d)
        for i, k in enumerate(self.wave_numbers):
            v = flux[i]
            for axis in range(self.d):
                if axis == i:
                    v = fft.dct(v, type=1, axis=axis, workers=1) / M
                    keep = slice(1, self.n + 1)
                else:
                    inner = tuple(slice(1, M) if j == axis else slice(None) for j in range(self.d))
                    v = fft.dst(v[inner], type=1, axis=axis, workers=1) / M
                    keep = slice(0, self.n)
                v = v[tuple(keep if j == axis else slice(None) for j in range(self.d))]
            total += k * v
        return total

    def integral(self, values: Float[Array, "..."]) -> float:
        """∫ over the unit cube by the trapezoidal rule, of values on the closed or (zero boundary) interior grid."""
        if values.shape[0] == self.intervals - 1:
            return float(values.sum()) / self.intervals**self.d
        weight = np.ones(self.intervals + 1)
        weight[[0, -1]] = 0.5
        for _ in range(self.d):
            values = np.tensordot(weight, values, axes=(0, 0)) / self.intervals
        return float(values)

    def coefficients(self, closed: Float[Array, "..."], tolerance: float = 1e-8) -> Float[Array, "..."]:
        """Sine coefficients of a function given on the closed quadrature grid.

        Raises:
            ValueError: it does not vanish on the boundary; its sine series would converge too slowly to be of use.
        """
        inner = closed[(slice(1, -1),) * self.d]
        if inner.shape != (self.intervals - 1,) * self.d:
            raise ValueError(f"the closed grid has shape {(self.intervals + 1,) * self.d}, the values {closed.shape}")
        edge = closed.copy()
        edge[(slice(1, -1),) * self.d] = 0
        worst = float(np.abs(edge).max())
        if worst > tolerance * max(1.0, float(np.abs(inner).max())):
            raise ValueError(f"the source is {worst:.3g} on the boundary, where sines vanish; subtract a lift first")
        return self.project(inner)

    def h1_seminorm(self, c: Float[Array, "..."]) -> float:
        """(∫ |∇u|²)^(1/2)."""
        return float(np.sqrt((self.eigenvalues * c**2).sum() / 2**self.d))

    def l2_norm(self, c: Float[Array, "..."]) -> float:
        """(∫ u²)^(1/2)."""
        return float(np.sqrt((c**2).sum() / 2**self.d))

    def barron_norm(self, c: Float[Array, "..."]) -> float:
        """Σ (1 + |ω|_2)|c_ω| of the sines written as exponentials: Σ (1 + π|k|)|c_k|."""
        return float(((1 + np.sqrt(self.eigenvalues)) * np.abs(c)).sum())


def interior_points(n: int, d: int) -> list[Float[Array, "..."]]:
    """Coordinates of the n interior points along each of d axes, broadcastable."""
    x = np.arange(1, n + 1) / (n + 1)
    return [x.reshape([-1 if j == i else 1 for j in range(d)]) for i in range(d)]


def _eigenvalues(shape: tuple[int, ...], spectral: bool) -> Float[Array, "..."]:
    total = np.zeros(shape)
    for axis, n in enumerate(shape):
        k = np.arange(1, n + 1)
        mu = (math.pi * k) ** 2 if spectral else (2 * (n + 1) * np.sin(math.pi * k / (2 * (n + 1)))) ** 2
        total += mu.reshape([-1 if j == axis else 1 for j in range(len(shape))])
    return total


def _solve(f: Array, eigenvalues: Array) -> Array:
    return fft.idstn(fft.dstn(f, type=1, workers=1) / eigenvalues, type=1, workers=1)


def poisson(f: Float[Array, "..."], shift: float = 0.0) -> Float[Array, "..."]:
    """u of (shift - Δ)u = f from values at the interior points of a tensor grid; exact for its sines."""
    return _solve(f, shift + _eigenvalues(f.shape, spectral=True))


def poisson_differences(f: Float[Array, "..."], shift: float = 0.0) -> Float[Array, "..."]:
    """The same by second-order central differences, solved exactly; the error falls as h²."""
    return _solve(f, shift + _eigenvalues(f.shape, spectral=False))


def semilinear(
    f: Float[Array, "..."],
    reaction: Callable[[Array], Array],
    slope: Callable[[Array], Array],
    *,
    spectral: bool = True,
    tolerance: float = 1e-12,
    steps: int = 30,
) -> tuple[Float[Array, "..."], list[float]]:
    """u of -Δu + g(u) = f by Newton's method, and the size of its updates (relative, in the maximum norm).

    ``reaction`` is g, ``slope`` its derivative (not negative). Each linear system is solved by conjugate gradients with
    a sine solver of the mean slope as preconditioner. ``spectral=False`` has central differences instead of sines.

    Raises:
        ValueError: a negative slope at an iterate (the problem is then not convex).
        RuntimeError: no convergence within ``steps``.
    """
    mu = _eigenvalues(f.shape, spectral)

    def operator(u: Array) -> Array:
        return fft.idstn(mu * fft.dstn(u, type=1, workers=1), type=1, workers=1)

    u, updates = np.zeros_like(f), []
    for _ in range(steps):
        residual = f - operator(u) - reaction(u)
        weight = slope(u)
        if weight.min() < 0:
            raise ValueError(f"the reaction falls at u = {u.flat[int(weight.argmin())]:.3g}; a rising one is needed")
        mean = float(weight.mean())

        def jacobian(v: Array, weight: Array = weight) -> Array:
            v = v.reshape(f.shape)
            return (operator(v) + weight * v).ravel()

        def precondition(v: Array, mean: float = mean) -> Array:
            return _solve(v.reshape(f.shape), mu + mean).ravel()

        A = LinearOperator((f.size, f.size), jacobian, dtype=float)
        M = LinearOperator((f.size, f.size), precondition, dtype=float)
        update, _ = cg(A, residual.ravel(), rtol=1e-10, atol=0.0, M=M, maxiter=200)
        u = u + update.reshape(f.shape)
        updates.append(float(np.abs(update).max() / max(np.abs(u).max(), 1e-300)))
        if updates[-1] <= tolerance:
            return u, updates
    raise RuntimeError(f"Newton's method has not converged in {steps} steps; last updates {updates[-3:]}")
