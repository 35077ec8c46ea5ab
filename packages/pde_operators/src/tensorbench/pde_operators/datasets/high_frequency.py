"""Differential equations with solutions of high or several frequencies, chosen by hand (manufactured)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorbench.core.data import dataset
from tensorbench.core.errors import unknown

if TYPE_CHECKING:
    from tensorbench.pde_operators.diffops import Manufactured


@dataclass(frozen=True)
class HighFrequencyProblem:
    """A problem on [0, length]^d.

    Attributes:
        name: what it is called.
        problem: equation, solution and source.
        points: collocation points in each coordinate.
        freq_scale: highest frequency (cycles per unit) that a kernel starts with.
        frequencies: the true ones in the first coordinate, in cycles per unit; empty where there is no finite list.
        length: side of the box.
    """

    name: str
    problem: Manufactured
    points: int
    freq_scale: float
    frequencies: tuple[float, ...]
    length: float = 1.0

    @property
    def dimension(self) -> int:
        return len(self.problem.pde.coordinates)


# equation, coordinates, solution, points, frequency scale, angular frequencies in the first coordinate
_MIX = "(sin({c}) + 0.1*sin(20*{c}) + cos(100*{c}))"
PROBLEMS: dict[str, tuple[str, str, str, int, float, tuple[float, ...]]] = {
    "sin100": ("poisson", "x", "sin(100*x)", 200, 20, (100,)),
    "sin6cos100": ("poisson", "x", "sin(6*x)*cos(100*x)", 200, 20, (94, 106)),
    "x_sin200": ("poisson", "x", "x*sin(200*x)", 200, 50, (200,)),
    "multiscale": ("poisson", "x", "sin(x) + 0.1*sin(20*x) + 0.05*cos(100*x)", 200, 30, (1, 20, 100)),
    "sin500_parabola": ("poisson", "x", "sin(500*x) - 2*(x - 0.5)**2", 400, 100, (500,)),
    "allen_cahn_sin100": ("allen_cahn", "x", "sin(100*x)", 200, 20, (100,)),
    "allen_cahn_sin6cos100": ("allen_cahn", "x", "sin(6*x)*cos(100*x)", 200, 20, (94, 106)),
    "sin40_sin40": ("poisson", "xy", "sin(40*x)*sin(40*y)", 40, 20, (40,)),
    "sin6cos20_sum": ("poisson", "xy", "sin(6*x)*cos(20*x) + sin(6*y)*cos(20*y)", 40, 20, (14, 26)),
    "sin100_sin100": ("poisson", "xy", "sin(100*x)*sin(100*y)", 48, 20, (100,)),
    "allen_cahn_2d": ("allen_cahn", "xy", _MIX.format(c="x") + "*" + _MIX.format(c="y"), 64, 30, (1, 20, 100)),
    "advection": ("advection", "xy", "sin(x - 200*y)", 82, 40, (1,)),
}


@dataset(
    title="Equations with high-frequency solutions",
    source="generated here; solutions of arXiv 2311.04465",
    licence="Apache-2.0",
    generated=True,
)
def high_frequency_equations(
    *, seed: int, names: list[str], points: dict[str, int] | None = None, length: float = 1.0
) -> list[HighFrequencyProblem]:
    """Poisson, Allen-Cahn and advection problems with sources of known solutions, by name.

    ``points`` overrides the collocation points of some; ``length`` is the side of the box for all. Nothing is random.
    """
    import math

    from tensorbench.pde_operators.diffops import advection, allen_cahn, manufactured, poisson

    makers = {"poisson": poisson, "allen_cahn": allen_cahn, "advection": lambda c: advection(200.0, c)}
    chosen = []
    for name in [*names, *(points or {})]:
        if name not in PROBLEMS:
            raise ValueError(unknown("problem", name, PROBLEMS))
    for name in names:
        equation, coordinates, solution, n, freq_scale, angular = PROBLEMS[name]
        chosen.append(
            HighFrequencyProblem(
                name,
                manufactured(makers[equation](coordinates), solution),
                (points or {}).get(name, n),
                freq_scale,
                tuple(w / (2 * math.pi) for w in angular),
                length,
            )
        )
    return chosen
