"""Elliptic variational problems for the Barron construction, and functions to be approximated by networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from numpy import ndarray

from tensorbench.core.data import dataset
from tensorbench.core.errors import unknown
from tensorbench.pde_operators.trig import TrigFunction

if TYPE_CHECKING:
    from tensorbench.pde_operators.barron.energy import Energy, SineProblem, TrigProblem

PRESETS = ("linear", "minimal_surface", "power", "semilinear")


def preset_energy(preset: str, kappa: float) -> Energy:
    """The energy behind a name of ``PRESETS``."""
    from tensorbench.pde_operators.barron import energy

    if preset not in PRESETS:
        raise ValueError(unknown("preset", preset, PRESETS))
    if preset == "linear":
        return energy.linear(((1.0, 0.0), (0.0, 1.0 + kappa)))
    if preset == "semilinear":
        return energy.semilinear(0.5, 0.25)
    return energy.minimal_surface(kappa) if preset == "minimal_surface" else energy.power_perturbation(kappa)


@dataclass(frozen=True)
class Manufactured:
    """A problem on the unit square and its exact (discrete) minimiser."""

    problem: SineProblem
    solution: Float[ndarray, "n n"]


@dataclass(frozen=True)
class Target:
    """A solution as a trigonometric function, and the energy and source that it belongs to."""

    function: TrigFunction
    energy: Energy
    source: TrigFunction
    period: float  # of the functions


@dataset(
    title="Elliptic variational problems with a manufactured solution",
    source="generated here: sin(πx) sin(πy) + 0.3 sin(2πx) sin(3πy)",
    licence="Apache-2.0",
    generated=True,
)
def elliptic_problem(*, seed: int, preset: str, n: int = 63, kappa: float = 0.5) -> Manufactured:
    """A problem on the unit square of which that solution is the minimiser; nothing is random."""
    from tensorbench.pde_operators.barron.energy import SineProblem
    from tensorbench.pde_operators.solvers.elliptic_sine import SineGrid

    chosen, grid = preset_energy(preset, kappa), SineGrid(n, 2)
    solution = grid.mode((1, 1)) + grid.mode((2, 3), 0.3)
    return Manufactured(SineProblem.manufactured(chosen, grid, solution), solution)


def torus_source(d: int, amplitude: str) -> TrigFunction:
    """Σ_i a cos(x_i) on the torus of side 2π, 2d frequencies of size 1: a = 1 (``unit``) or (2/d)^(1/2)."""
    sizes = {"unit": 1.0, "unit_mean_square": math.sqrt(2 / d)}
    if amplitude not in sizes:
        raise ValueError(unknown("amplitude", amplitude, sizes))
    total = TrigFunction.zero(d, 1.0)
    for axis in range(d):
        total = total + TrigFunction.cosine([int(i == axis) for i in range(d)], sizes[amplitude], unit=1.0)
    return total


def torus_problem(d: int, amplitude: str, *, cubic: float, drop: float = 0.0) -> TrigProblem:
    """-Δu + u + a u³ = f with the source above."""
    from tensorbench.pde_operators.barron.energy import TrigProblem, semilinear

    return TrigProblem(semilinear(1.0, cubic / 4), torus_source(d, amplitude), drop)


@dataset(
    title="Semilinear problems on tori of any dimension",
    source="generated here: -Δu + u + 0.1 u³ = Σ cos(x_i)",
    licence="Apache-2.0",
    generated=True,
)
def torus_family(*, seed: int, amplitude: str = "unit", cubic: float = 0.1) -> dict[str, float | str]:
    """What :func:`torus_problem` needs but for the dimension; nothing is random."""
    return {"amplitude": amplitude, "cubic": cubic}


@dataset(
    title="Solutions of semilinear problems as functions to approximate",
    source="generated here by the preconditioned flow",
    licence="Apache-2.0",
    generated=True,
)
def barron_target(*, seed: int, domain: str, d: int = 4, n: int = 63, cubic: float = 0.1) -> Target:
    """The flow's last iterate: on the unit square with zero boundary values, or on a torus of d dimensions.

    On the square the source is 30 sin(πx) sin(πy) + 40 sin(2πx) sin(3πy), whose solution has all odd harmonics.
    """
    from tensorbench.pde_operators.barron.descent import descend, descend_sparse
    from tensorbench.pde_operators.barron.energy import SineProblem, semilinear
    from tensorbench.pde_operators.solvers.elliptic_sine import SineGrid

    if domain == "square":
        grid = SineGrid(n, 2)
        source = grid.mode((1, 1), 30.0) + grid.mode((2, 3), 40.0)
        problem = SineProblem(semilinear(), grid, source)
        flow = descend(problem, 0.5, 80, tolerance=1e-12, measure=False)
        found, given = (TrigFunction.from_sine_coefficients(c, 1e-14) for c in (flow.solution, source))
        return Target(found, problem.energy, given, 2.0)
    if domain == "torus":
        torus = torus_problem(d, "unit", cubic=cubic, drop=1e-9)
        flow = descend_sparse(torus, 0.5, 60, relative=1e-7, most=20_000, tolerance=1e-5)
        return Target(flow.solution, torus.energy, torus.source, 2 * math.pi)
    raise ValueError(unknown("domain", domain, ["square", "torus"]))
