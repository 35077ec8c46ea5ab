"""Energies E(u) = ∫ L(u, ∇u) - f u with bounds of the Hessian of L, and their derivatives in two representations.

T. Marwah, Z. C. Lipton, J. Lu, A. Risteski (2023), "Neural network approximations of PDEs beyond linearity", arXiv
2210.12101. There diag(0, λ I) ≤ D²L ≤ Λ I. The Lagrangians here are

    L(u, p) = ½ p·Ap + ½ c u² + Σ_j a_j u^{m_j} + (κ / q) ((1 + |p|²)^{q/2} - 1)

which hold the linear equation, the semilinear one, the regularised minimal surface (q = 1: κ (√(1 + |p|²) - 1), λ = 1
and Λ = 1 + κ) and perturbations by a power (1 ≤ q ≤ 2, the same bounds). On a sine grid the integral is a quadrature
and the derivative its exact transpose, so that the discrete energy obeys the same λ and Λ; for polynomial L a
:class:`~..trig.TrigFunction` has both exactly, in any dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..solvers.elliptic_sine import SineGrid
from ..trig import TrigFunction

Array = np.ndarray


@dataclass(frozen=True)
class Energy:
    """The Lagrangian (see the module). ``diffusion`` is A: a number, or rows of a symmetric matrix.

    ``powers`` are pairs (m, a): a u^m with even m ≥ 4. Raises ValueError for an A without λ > 0, for other powers, and
    for a κ or q that make no convex term. Whether all of it is convex says :meth:`check_convex`; the flows ask it.
    """

    name: str
    diffusion: float | tuple[tuple[float, ...], ...] = 1.0
    reaction: float = 0.0
    powers: tuple[tuple[int, float], ...] = ()
    kappa: float = 0.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        A = np.atleast_2d(np.asarray(self.diffusion, dtype=float))
        if A.shape[0] != A.shape[1] or not np.allclose(A, A.T):
            raise ValueError(f"diffusion must be a number or a symmetric matrix, got shape {A.shape}")
        if not np.linalg.eigvalsh(A)[0] > 0:
            raise ValueError(f"λ = {np.linalg.eigvalsh(A)[0]:.3g}: the diffusion matrix must be positive definite")
        if self.kappa < 0 or not 1 <= self.exponent <= 2:
            raise ValueError(f"kappa {self.kappa} must not be negative and exponent {self.exponent} between 1 and 2")
        for m, _ in self.powers:
            if m < 4 or m % 2:
                raise ValueError(f"a u^{m}: powers must be even and at least 4 (u² is half the reaction)")

    def matrix(self, d: int) -> Float[Array, "d d"]:
        """A in d dimensions."""
        A = np.asarray(self.diffusion, dtype=float)
        if A.ndim == 0:
            return float(A) * np.eye(d)
        if A.shape != (d, d):
            raise ValueError(f"the diffusion matrix is {A.shape[0]} x {A.shape[1]}, the problem has {d} dimensions")
        return A

    def bounds(self, largest: float | None = None) -> tuple[float, float]:
        """λ and Λ. Powers of u have no uniform Λ: give the ``largest`` |u| that was visited, or Λ is infinite."""
        lower, in_p, in_u = self.block_bounds(largest)
        return lower, max(in_p, in_u)

    def block_bounds(self, largest: float | None = None) -> tuple[float, float, float]:
        """λ, and the largest eigenvalues of L_pp and of L_uu."""
        eigenvalues = np.linalg.eigvalsh(np.atleast_2d(np.asarray(self.diffusion, dtype=float)))
        in_u = self.reaction
        if self.powers:
            in_u = math.inf
            if largest is not None:
                in_u = self.reaction + sum(a * m * (m - 1) * largest ** (m - 2) for m, a in self.powers)
        return float(eigenvalues[0]), float(eigenvalues[-1] + self.kappa), float(in_u)

    def density(self, u: Array, p: Array) -> Array:
        """L(u, p), with the components of p along the first axis."""
        s = (p**2).sum(axis=0)
        smooth = self.kappa / self.exponent * ((1 + s) ** (self.exponent / 2) - 1)
        A = self.matrix(len(p))
        return 0.5 * np.einsum("i...,ij,j...->...", p, A, p) + self.potential(u) + smooth

    def potential(self, u: Array) -> Array:
        """½ c u² + Σ a u^m."""
        return 0.5 * self.reaction * u**2 + sum((a * u**m for m, a in self.powers), np.zeros_like(u))

    def potential_slope(self, u: Array) -> Array:
        """Its derivative."""
        return self.reaction * u + sum((m * a * u ** (m - 1) for m, a in self.powers), np.zeros_like(u))

    def flux_factor(self, s: Array) -> Array:
        """g(|p|²) of the flux g p of the term in κ."""
        return self.kappa * (1 + s) ** (self.exponent / 2 - 1)

    def hessian(self, u: float, p: Float[Array, " d"]) -> Float[Array, "e e"]:
        """D²L at one point, first u and then p."""
        d = len(p)
        s = float(p @ p)
        H = np.zeros((d + 1, d + 1))
        H[0, 0] = self.reaction + sum(a * m * (m - 1) * u ** (m - 2) for m, a in self.powers)
        factor = float(self.flux_factor(np.array(s)))
        bend = self.kappa * (self.exponent - 2) * (1 + s) ** (self.exponent / 2 - 2)
        H[1:, 1:] = self.matrix(d) + factor * np.eye(d) + bend * np.outer(p, p)
        return H

    def check_convex(self, d: int, rng: np.random.Generator, samples: int = 200, scale: float = 3.0) -> None:
        """Sample D²L, the origin and a point far out first; ValueError showing where it is below diag(0, λ I)."""
        lower, _ = self.bounds()
        for k in range(samples):
            u, p = float(scale * rng.standard_normal()), scale * rng.standard_normal(d)
            if k < 2:  # where a negative reaction and a negative highest power show
                u, p = 1e3 * scale * k, np.zeros(d)
            H = self.hessian(u, p)
            if H[0, 0] < -1e-12 or np.linalg.eigvalsh(H[1:, 1:])[0] < lower * (1 - 1e-9):
                raise ValueError(
                    f"{self.name}: L is not convex enough at u = {u:.3g}, p = {np.round(p, 3).tolist()}: its Hessian "
                    f"has L_uu = {H[0, 0]:.3g} and in p the eigenvalue {np.linalg.eigvalsh(H[1:, 1:])[0]:.3g}, where 0 "
                    f"and λ = {lower:g} are needed"
                )


def linear(diffusion: float | tuple[tuple[float, ...], ...] = 1.0, reaction: float = 0.0) -> Energy:
    """-div(A ∇u) + c u = f."""
    return Energy("linear", diffusion, reaction)


def semilinear(reaction: float = 0.5, quartic: float = 0.25) -> Energy:
    """-Δu + c u + 4 a u³ = f, from c u²/2 + a u⁴; no uniform Λ."""
    return Energy("semilinear", reaction=reaction, powers=((4, quartic),))


def minimal_surface(kappa: float = 0.5) -> Energy:
    """|p|²/2 + κ (√(1 + |p|²) - 1): λ = 1, Λ = 1 + κ."""
    return Energy("minimal surface", kappa=kappa)


def power_perturbation(kappa: float = 0.5, exponent: float = 1.5) -> Energy:
    """|p|²/2 + (κ/q) ((1 + |p|²)^{q/2} - 1) for 1 ≤ q ≤ 2: λ = 1, Λ = 1 + κ."""
    return Energy("power perturbation", kappa=kappa, exponent=exponent)


@dataclass(frozen=True)
class SineProblem:
    """An energy on the unit cube with zero boundary values; functions are arrays of sine coefficients."""

    energy: Energy
    grid: SineGrid
    source: Float[Array, "..."]

    @classmethod
    def manufactured(cls, energy: Energy, grid: SineGrid, solution: Float[Array, "..."]) -> SineProblem:
        """The problem of which ``solution`` is the exact (discrete) minimiser."""
        free = cls(energy, grid, np.zeros_like(solution))
        return cls(energy, grid, free.operator(solution))

    def value(self, u: Float[Array, "..."]) -> float:
        """E(u)."""
        grid, energy = self.grid, self.energy
        A = energy.matrix(grid.d)
        per = 0.5**grid.d
        diagonal = sum((A[i, i] * k**2 for i, k in enumerate(grid.wave_numbers)), np.zeros_like(u))
        total = per * float((0.5 * (diagonal + energy.reaction) * u**2 - self.source * u).sum())
        if energy.powers:
            values = grid.values(u)
            total += grid.integral(energy.potential(values) - 0.5 * energy.reaction * values**2)
        if (rest := _off_diagonal(A)) is not None or energy.kappa:
            p = np.stack(grid.gradient(u))
            extra = np.zeros(p.shape[1:])
            if rest is not None:
                extra += 0.5 * np.einsum("i...,ij,j...->...", p, rest, p)
            if energy.kappa:
                s = (p**2).sum(axis=0)
                extra += energy.kappa / energy.exponent * ((1 + s) ** (energy.exponent / 2) - 1)
            total += grid.integral(extra)
        return total

    def operator(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """-div L_p + L_u as sine coefficients (2^d times the derivative of E + ∫ f u along each product of sines)."""
        grid, energy = self.grid, self.energy
        A = energy.matrix(grid.d)
        diagonal = sum((A[i, i] * k**2 for i, k in enumerate(grid.wave_numbers)), np.zeros_like(u))
        total = (diagonal + energy.reaction) * u
        if energy.powers:
            values = grid.values(u)
            total = total + grid.project(energy.potential_slope(values) - energy.reaction * values)
        if (rest := _off_diagonal(A)) is not None or energy.kappa:
            p = np.stack(grid.gradient(u))
            flux = np.zeros_like(p)
            if rest is not None:
                flux += np.einsum("ij,j...->i...", rest, p)
            if energy.kappa:
                flux += energy.flux_factor((p**2).sum(axis=0)) * p
            total = total + grid.project_gradient(list(flux))
        return total

    def derivative(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """DE(u) = -div L_p + L_u - f."""
        return self.operator(u) - self.source

    def slope(self, u: Float[Array, "..."], v: Float[Array, "..."]) -> float:
        """The derivative of E at u in the direction v."""
        return float((self.derivative(u) * v).sum()) / 2**self.grid.d


def _off_diagonal(A: Array) -> Array | None:
    rest = A - np.diag(np.diag(A))
    return rest if rest.any() else None


@dataclass(frozen=True)
class TrigProblem:
    """A polynomial energy (κ = 0) on a torus; E is the mean over a period. ``drop`` is for products, see TrigFunction.

    Raises:
        ValueError: an energy that is not polynomial, or one without a reaction term on functions of any mean.
    """

    energy: Energy
    source: TrigFunction
    drop: float = 0.0

    def __post_init__(self) -> None:
        if self.energy.kappa:
            raise ValueError(f"{self.energy.name} is not a polynomial in u and ∇u; use a SineProblem")

    def operator(self, u: TrigFunction) -> tuple[TrigFunction, float]:
        """-div(A∇u) + c u + Σ m a u^{m-1}, and the mass Σ|c| that dropped pairs could have added."""
        total = u.divergence_form(self.energy.matrix(u.d)) + u * self.energy.reaction
        mass = 0.0
        for m, a in self.energy.powers:
            power, dropped = u.power(m - 1, self.drop)
            total, mass = total + power * (m * a), mass + m * abs(a) * dropped
        return total, mass

    def value(self, u: TrigFunction) -> float:
        """E(u), without dropping pairs; powers 2m need the square of u^m."""
        linear_part = u.divergence_form(self.energy.matrix(u.d)) + u * self.energy.reaction
        total = 0.5 * linear_part.inner(u) - self.source.inner(u)
        for m, a in self.energy.powers:
            total += a * u.power(m // 2).function.mean_square()
        return total
