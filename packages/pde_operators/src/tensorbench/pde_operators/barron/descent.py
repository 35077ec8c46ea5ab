"""Preconditioned gradient flow in function space, u ← u - η (I - Δ)^{-1} DE(u), with its Barron norms counted.

T. Marwah, Z. C. Lipton, J. Lu, A. Risteski (2023), arXiv 2210.12101. On sine grids (1-3 dimensions, any Lagrangian of
:mod:`.energy`) and on sparse trigonometric functions (any dimension, polynomial Lagrangians).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from tensorbench.core.errors import unknown

from ..trig import TrigFunction
from .energy import Energy, SineProblem, TrigProblem

Array = np.ndarray
Preconditioner = Literal["I-Lap", "none"]


@dataclass
class Descent:
    """The flow's last iterate and what was measured along it; entry t of a list belongs to u_t, from t = 0."""

    solution: Any
    energy: list[float] = field(default_factory=list)
    error_h1: list[float] = field(default_factory=list)  # seminorm of the error where a truth was given
    certificate: list[float] = field(default_factory=list)  # H1 norm of (I - Δ)^{-1} DE(u_t)
    barron: list[float] = field(default_factory=list)
    band: list[float] = field(default_factory=list)  # W_t
    operator_barron: list[float] = field(default_factory=list)  # |-div L_p + L_u| at u_t
    terms: list[int] = field(default_factory=list)
    pruned_mass: list[float] = field(default_factory=list)  # Σ|c| left out on the way to u_t
    largest: float = 0.0  # |u| visited, or a bound on it
    iterates: list[Any] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return len(self.barron) - 1


def descend(
    problem: SineProblem,
    eta: float,
    steps: int,
    *,
    start: Float[Array, "..."] | None = None,
    truth: Float[Array, "..."] | None = None,
    preconditioner: Preconditioner = "I-Lap",
    tolerance: float = 0.0,
    keep: bool = False,
    measure: bool = True,
) -> Descent:
    """The flow on a sine grid from ``start`` (zero).

    Stops early once the certificate is at most ``tolerance``. ``keep`` keeps all iterates, ``measure=False`` only the
    last one. Warns where ``eta`` is above 2 over the largest eigenvalue that the preconditioned Hessian may have there.

    Raises:
        ValueError: an L that is not convex, showing a point; iterates that are not finite, naming the step.
    """
    if eta <= 0 or steps < 1:
        raise ValueError(f"eta {eta} must be positive and steps {steps} at least 1")
    _check_convex(problem.energy, problem.grid.d)
    if preconditioner not in ("I-Lap", "none"):
        raise ValueError(unknown("preconditioner", preconditioner, ["I-Lap", "none"]))
    grid = problem.grid
    precondition = 1 / (1 + grid.eigenvalues) if preconditioner == "I-Lap" else 1.0
    u = np.zeros((grid.n,) * grid.d) if start is None else start.copy()
    result = Descent(u)
    for t in range(steps + 1):
        operator = problem.operator(u)
        residual = operator - problem.source
        if measure:
            _record(result, problem, u, operator, residual, truth)
        if keep:
            result.iterates.append(u)
        if t == steps or (tolerance and _dual_norm(residual, grid) <= tolerance):
            break
        u = u - eta * precondition * residual
        if not np.isfinite(u).all():
            raise ValueError(f"the flow left the numbers at step {t + 1}: eta {eta:g} is far above the stable range")
    result.solution = u
    result.largest = max(result.largest, float(np.abs(grid.values(u)).max()))
    _, in_p, in_u = problem.energy.block_bounds(result.largest)
    stiffest = float((precondition * (in_p * grid.eigenvalues + in_u)).max())
    if eta * stiffest > 2 * (1 + 1e-9):
        warnings.warn(
            f"eta {eta:g} is above the stable {2 / stiffest:.3g} for the range that was visited", stacklevel=2
        )
    return result


def _check_convex(energy: Energy, d: int) -> None:
    """Samples only where L may fail to be convex: A, κ and q are checked already, and sums of convex terms are."""
    if energy.reaction < 0 or any(a < 0 for _, a in energy.powers):
        energy.check_convex(d, np.random.default_rng(0))


def _dual_norm(residual: Array, grid: Any) -> float:
    return float(np.sqrt((residual**2 / (1 + grid.eigenvalues)).sum() / 2**grid.d))


def _record(
    result: Descent, problem: SineProblem, u: Array, operator: Array, residual: Array, truth: Array | None
) -> None:
    grid = problem.grid
    result.energy.append(problem.value(u))
    if truth is not None:
        result.error_h1.append(grid.h1_seminorm(u - truth))
    result.certificate.append(_dual_norm(residual, grid))
    result.barron.append(grid.barron_norm(u))
    used = np.abs(u) > 0
    result.band.append(float(np.sqrt(grid.eigenvalues[used].max())) if used.any() else 0.0)
    result.operator_barron.append(grid.barron_norm(operator))
    result.terms.append(2**grid.d * int(used.sum()))
    result.pruned_mass.append(0.0)
    result.largest = max(result.largest, float(np.abs(grid.values(u)).max()))


def descend_sparse(
    problem: TrigProblem,
    eta: float,
    steps: int,
    *,
    start: TrigFunction | None = None,
    relative: float = 0.0,
    most: int | None = None,
    memory: int = 5_000_000,
    tolerance: float = 0.0,
    keep: bool = False,
) -> Descent:
    """The flow on sparse trigonometric functions, pruned after each step.

    ``relative`` and ``most`` prune terms below a share of the largest and beyond a number; the mass of what was left
    out (pruned terms, and pairs that products dropped) is reported step by step. Stops once the certificate is at most
    ``tolerance``. Warns where ``eta`` is too large for the linear part at a frequency of the last iterate, or where the
    certificate ends above that of u = 0 and of the start: in a stable flow it never rises.

    Raises:
        ValueError: an L that is not convex, showing a point; a function of more than ``memory`` terms, or coefficients
            that are not finite, naming the step.
    """
    if eta <= 0 or steps < 1:
        raise ValueError(f"eta {eta} must be positive and steps {steps} at least 1")
    f = problem.source
    _check_convex(problem.energy, f.d)
    u = TrigFunction.zero(f.d, f.unit) if start is None else start
    result = Descent(u)
    mass = 0.0
    for t in range(steps + 1):
        operator, dropped = problem.operator(u)
        if operator.terms > memory:
            raise ValueError(f"step {t}: {operator.terms} terms exceed the cap of {memory}; prune (relative=, most=)")
        update = (operator - f).inverse_shifted_laplacian()
        result.certificate.append(update.h1_norm())
        result.barron.append(u.barron_norm())
        result.band.append(u.band_limit)
        result.operator_barron.append(operator.barron_norm())
        result.terms.append(u.terms)
        result.pruned_mass.append(mass)
        result.largest = max(result.largest, u.mass())
        if not np.isfinite(result.certificate[-1]):
            raise ValueError(f"the flow left the numbers at step {t}: eta {eta:g} is far above the stable range")
        if keep:
            result.iterates.append(u)
        if t == steps or result.certificate[-1] <= tolerance:
            break
        u, left_out = (u - update * eta).pruned(relative, most)
        mass = left_out + eta * dropped
    result.solution = u
    _warn_unstable(result, problem, eta)
    return result


def _warn_unstable(result: Descent, problem: TrigProblem, eta: float) -> None:
    """Only signs that are certain: a bound of u⁴'s curvature by Σ|c| would warn of steps that are stable."""
    u, energy = result.solution, problem.energy
    w = u.freqs * u.unit
    symbol = np.einsum("mi,ij,mj->m", w, energy.matrix(u.d), w) + energy.reaction
    stiffest = float((symbol / (1 + (w**2).sum(axis=1))).max(initial=0.0))
    least = max(result.certificate[0], problem.source.inverse_shifted_laplacian().h1_norm())
    if eta * stiffest > 2 * (1 + 1e-9):
        warnings.warn(f"eta {eta:g} is above the stable {2 / stiffest:.3g} of the linear part", stacklevel=3)
    elif result.certificate[-1] > least:
        warnings.warn(
            f"eta {eta:g} is above the stable range: the certificate rose from {least:.3g} to "
            f"{result.certificate[-1]:.3g} in {result.steps} steps, the Barron norm is {result.barron[-1]:.3g}",
            stacklevel=3,
        )
