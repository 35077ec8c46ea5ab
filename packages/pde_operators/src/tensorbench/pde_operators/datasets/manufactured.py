"""Equations with known solutions, by which the order of a solver is measured.

A :class:`Manufactured` problem has an exact solution and the source that makes it one, both as functions of time and
coordinates, found by differentiating with sympy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import Any

import numpy as np

from tensorbench.core.data import dataset

OWN: dict[str, Any] = {"source": "written here", "licence": "Apache-2.0", "generated": True}


@dataclass(frozen=True, eq=False)
class Manufactured:
    """One problem. ``exact`` and ``source`` are called as f(t, \\*coordinates)."""

    equation: str  # burgers, heat, darcy or navier_stokes
    exact: Callable[..., np.ndarray]
    source: Callable[..., np.ndarray] | None = None
    coefficient: float = 0.0  # viscosity or diffusivity
    permeability: Callable[..., np.ndarray] | None = None
    bc: str = "periodic"
    length: float = 1.0
    dims: int = 1
    time: float = 1.0


@dataset(title="Burgers: Cole and Hopf's wave", **OWN)
def burgers_wave(*, seed: int, viscosity: float = 0.2, depth: float = 0.95) -> Manufactured:
    """u = -2ν φ_x/φ with φ = 1 + depth exp(-νt) cos x on [0, 2π]; no source is needed."""
    from tensorbench.pde_operators.solvers.burgers import cole_hopf

    def exact(t: float, x: np.ndarray) -> np.ndarray:
        return cole_hopf(x, t, viscosity=viscosity, length=2 * pi, depth=depth)

    return Manufactured("burgers", exact, coefficient=viscosity, length=2 * pi)


def _allen_cahn(shape: Callable[[Any], Any], kappa: float, **options: Any) -> Manufactured:
    import sympy

    from tensorbench.pde_operators.diffops import lambdified

    t, x = sympy.symbols("t x")
    u = sympy.cos(2 * t) * shape(x)
    source = sympy.diff(u, t) - kappa * sympy.diff(u, x, 2) - (u - u**3)
    return Manufactured(
        "heat", lambdified(u, (t, x)), lambdified(source, (t, x)), coefficient=kappa, dims=1, **options
    )  # fmt: skip


@dataset(title="Allen-Cahn, periodic", **OWN)
def allen_cahn_periodic(*, seed: int, diffusivity: float = 0.02) -> Manufactured:
    """u = cos 2t / (5 + 4 sin 2πx), whose Fourier coefficients halve from one to the next."""
    import sympy

    return _allen_cahn(lambda x: 1 / (5 + 4 * sympy.sin(2 * sympy.pi * x)), diffusivity)


@dataset(title="Allen-Cahn, zero on the boundary", **OWN)
def allen_cahn_dirichlet(*, seed: int, diffusivity: float = 0.02) -> Manufactured:
    """u = cos 2t · 4 x (1 - x) eˣ, whose odd extension has kinks in the second derivative."""
    import sympy

    return _allen_cahn(lambda x: 4 * x * (1 - x) * sympy.exp(x), diffusivity, bc="dirichlet")


@dataset(title="Darcy flow, smooth permeability", **OWN)
def darcy_smooth(*, seed: int) -> Manufactured:
    """a = 2 + y sin πx and u = sin πx sin 2πy on the unit square."""
    import sympy

    from tensorbench.pde_operators.diffops import lambdified

    t, x, y = sympy.symbols("t x y")
    a, u = 2 + y * sympy.sin(sympy.pi * x), sympy.sin(sympy.pi * x) * sympy.sin(2 * sympy.pi * y)
    f = -sympy.diff(a * sympy.diff(u, x), x) - sympy.diff(a * sympy.diff(u, y), y)
    return Manufactured(
        "darcy", lambdified(u, (t, x, y)), lambdified(f, (t, x, y)), permeability=lambdified(a, (t, x, y)), dims=2
    )


@dataset(title="Darcy flow, two layers", **OWN)
def darcy_layers(*, seed: int, high: float = 12.0, low: float = 3.0, interface: float = 0.5) -> Manufactured:
    """a jumps from ``low`` to ``high`` at x = ``interface`` and a u is smooth: u = sin(2πx) sin(πy)/a for a half.

    Off the half, u = g(x) sin(πy)/a with g = x (x - interface) (1 - x). An interface within a cell gives it the
    permeability of its centre.
    """
    centred = interface == 0.5

    def a(t: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where(x < interface, low, high)

    def exact(t: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        g = np.sin(2 * pi * x) if centred else x * (x - interface) * (1 - x)
        return g * np.sin(pi * y) / a(t, x, y)

    def source(t: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if centred:
            return 5 * pi**2 * np.sin(2 * pi * x) * np.sin(pi * y)
        g, bend = x * (x - interface) * (1 - x), 2 * (1 + interface) - 6 * x
        return (pi**2 * g - bend) * np.sin(pi * y)

    return Manufactured("darcy", exact, source, permeability=a, dims=2)


@dataset(title="A forced flow on the torus", **OWN)
def flow_on_torus(*, seed: int, viscosity: float = 0.02) -> Manufactured:
    """Stream function cos t · exp(sin x + cos y)/2 on [0, 2π]²."""
    import sympy

    from tensorbench.pde_operators.diffops import lambdified

    t, x, y = sympy.symbols("t x y")
    psi = sympy.cos(t) * sympy.exp(sympy.sin(x) + sympy.cos(y)) / 2

    def laplacian(f: Any) -> Any:
        return sympy.diff(f, x, 2) + sympy.diff(f, y, 2)

    w = -laplacian(psi)
    turned = sympy.diff(psi, y) * sympy.diff(w, x) - sympy.diff(psi, x) * sympy.diff(w, y)
    f = sympy.diff(w, t) + turned - viscosity * laplacian(w)
    return Manufactured(
        "navier_stokes",
        lambdified(w, (t, x, y)),
        lambdified(f, (t, x, y)),
        coefficient=viscosity,
        length=2 * pi,
        dims=2,
    )
