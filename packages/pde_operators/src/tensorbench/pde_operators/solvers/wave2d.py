"""The wave equation in two dimensions, by finite elements with Newmark's method and by leap-frog finite differences.

``u_tt = div(c² ∇u) − 2ζ u_t + f`` with u = 0 or a first-order absorbing condition ``u_t + c ∂u/∂n = 0`` on each side
(Engquist, Majda 1977). Finite elements (scikit-fem) give ``M u'' + C u' + K u = F`` with
``C = 2ζ M + a M + b K + B``: a and b are Rayleigh's damping, B comes from the absorbing sides. Newmark's method (1959)
with β = 1/4, γ = 1/2 is unconditionally stable and keeps the energy ``(v'Mv + u'Ku) / 2`` exactly where nothing damps
or drives. :func:`leapfrog` is the 5-point scheme in divergence form; its time step is bounded (CFL).

>>> wave = assemble(unit_square(31), speed=1.0)
>>> u0 = gaussian(wave.points, centre=(0.4, 0.6), width=0.1)
>>> run = newmark(wave, u0, dt=0.01, steps=200, every=5)
>>> run.u.shape, abs(run.energy[-1] / run.energy[0] - 1) < 1e-12
((41, 1024), True)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from jaxtyping import Bool, Float

from tensorbench.core.errors import unknown

Side = Literal["dirichlet", "absorbing"]
Field = float | Callable[[np.ndarray], np.ndarray]  # a number, or a function of points (2, …)
ELEMENTS = ("p1", "p2", "q1")
MASSES = ("consistent", "lumped")
SIDES = ("left", "right", "bottom", "top")
_KINDS = ("dirichlet", "absorbing")


@dataclass(frozen=True)
class Wave:
    """A wave equation in space: matrices over all degrees of freedom, and which of them may move.

    ``points`` are the places (2, dofs) of the degrees of freedom; ``boundary`` is the matrix of the absorbing sides.
    """

    mass: sp.csc_matrix
    stiffness: sp.csc_matrix
    boundary: sp.csc_matrix
    free: Bool[np.ndarray, "dofs"]
    points: Float[np.ndarray, "2 dofs"]
    load: Callable[[Callable[[np.ndarray], np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Trajectory:
    """Snapshots of a run; ``energy`` is that of each snapshot (finite elements only, NaN for differences)."""

    times: Float[np.ndarray, "snapshots"]
    u: Float[np.ndarray, "snapshots ..."]
    v: Float[np.ndarray, "snapshots ..."]
    energy: Float[np.ndarray, "snapshots"]


def unit_square(cells: int, element: str = "q1") -> Any:
    """The unit square in cells × cells squares (``q1``), or twice as many triangles, its sides tagged by name."""
    from skfem import MeshQuad, MeshTri

    if cells < 2:
        raise ValueError(f"cells {cells} must be at least 2, or no point inside is free")
    if element not in ELEMENTS:
        raise ValueError(unknown("element", element, ELEMENTS))
    line = np.linspace(0.0, 1.0, cells + 1)
    return (MeshQuad if element == "q1" else MeshTri).init_tensor(line, line).with_defaults()


def assemble(
    mesh: Any,
    element: str = "q1",
    *,
    speed: Field = 1.0,
    mass: str = "consistent",
    sides: Mapping[str, Side] | None = None,
    obstacle: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Wave:
    """Finite elements of the wave equation.

    Args:
        mesh: a scikit-fem mesh of triangles (``p1``, ``p2``) or quadrilaterals (``q1``) with named boundaries.
        speed: c, a number or a function of points, positive.
        mass: ``consistent``, or ``lumped`` (row sums; not for ``p2``, where some would vanish).
        sides: what happens on each named boundary, ``dirichlet`` (u = 0, the default) or ``absorbing``.
        obstacle: true for points that are held at u = 0.

    Raises:
        ValueError: unknown options or sides, a mesh without the tags that are named, a speed that is not positive.
    """
    from skfem import Basis, BilinearForm, ElementQuad1, ElementTriP1, ElementTriP2, FacetBasis, LinearForm
    from skfem.helpers import dot, grad

    for name, value, valid in (("element", element, ELEMENTS), ("mass", mass, MASSES)):
        if value not in valid:
            raise ValueError(unknown(name, value, valid))
    if mass == "lumped" and element == "p2":
        raise ValueError("row sums of the mass matrix vanish at the corners of p2 triangles; use mass='consistent'")
    sides = _check_sides(mesh, sides)
    kind = {"p1": ElementTriP1, "p2": ElementTriP2, "q1": ElementQuad1}[element]()
    basis = Basis(mesh, kind)
    c = _values(speed, np.asarray(basis.global_coordinates()))
    with _quietly("skfem"):
        M = BilinearForm(lambda u, v, w: u * v).assemble(basis).tocsc()
        K = BilinearForm(lambda u, v, w: w.c2 * dot(grad(u), grad(v))).assemble(basis, c2=c**2).tocsc()
    B = sp.csc_matrix(M.shape)
    free = np.ones(M.shape[0], dtype=bool)
    for side, what in sides.items():
        if what == "dirichlet":
            free[basis.get_dofs(side).all()] = False
    for side, what in sides.items():
        if what == "absorbing":
            edge = FacetBasis(mesh, kind, facets=mesh.boundaries[side])
            speed_there = _values(speed, np.asarray(edge.global_coordinates()))
            with _quietly("skfem"):
                B = B + BilinearForm(lambda u, v, w: w.c * u * v).assemble(edge, c=speed_there).tocsc()
    if mass == "lumped":
        M = sp.diags(np.asarray(M.sum(axis=1)).ravel()).tocsc()
    if obstacle is not None:
        free &= ~np.asarray(obstacle(basis.doflocs), dtype=bool)
    if not free.any():
        raise ValueError("nothing is free to move: the obstacle or the mesh leaves no point inside")

    def load(f: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        with _quietly("skfem"):
            return LinearForm(lambda v, w: f(np.asarray(w.x)) * v).assemble(basis)

    return Wave(M, K, B, free, basis.doflocs, load)


@contextmanager
def _quietly(name: str) -> Iterator[None]:
    """Without the notes that a library logs at every assembly."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_sides(mesh: Any, sides: Mapping[str, Side] | None) -> dict[str, Side]:
    tagged = mesh.boundaries or {}
    if not tagged:
        raise ValueError("the mesh has no named boundaries; tag its sides, say with mesh.with_defaults()")
    for name, what in (sides or {}).items():
        if name not in tagged:
            raise ValueError(unknown("boundary of the mesh", name, tagged))
        if what not in _KINDS:
            raise ValueError(unknown("kind of side", what, _KINDS))
    return {name: (sides or {}).get(name, "dirichlet") for name in tagged}


def _values(field: Field, points: np.ndarray) -> np.ndarray:
    values = np.asarray(field(points) if callable(field) else np.full(points.shape[1:], float(field)), dtype=float)
    if values.shape != points.shape[1:]:
        raise ValueError(f"the speed must give a number a point: {points.shape[1:]} points, got {values.shape}")
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"the speed must be positive and finite everywhere, got {values.min():g}")
    return values


def energy(
    wave: Wave, u: Float[np.ndarray, "*batch dofs"], v: Float[np.ndarray, "*batch dofs"]
) -> Float[np.ndarray, "*batch"]:
    """``(v'Mv + u'Ku) / 2``."""
    kinetic = np.einsum("...i,...i->...", v, (wave.mass @ np.atleast_2d(v).T).T.reshape(v.shape))
    potential = np.einsum("...i,...i->...", u, (wave.stiffness @ np.atleast_2d(u).T).T.reshape(u.shape))
    return np.asarray(kinetic + potential) / 2


def newmark(
    wave: Wave,
    u0: Float[np.ndarray, "dofs"],
    v0: Float[np.ndarray, "dofs"] | None = None,
    *,
    dt: float,
    steps: int,
    every: int = 1,
    beta: float = 0.25,
    gamma: float = 0.5,
    damping: float = 0.0,
    rayleigh: tuple[float, float] = (0.0, 0.0),
    source: Callable[[np.ndarray, float], np.ndarray] | None = None,
) -> Trajectory:
    """Newmark's method: predict, solve for the acceleration, correct. One sparse factorisation for all steps.

    Args:
        damping: ζ of the equation. ``rayleigh`` are (a, b) of ``a M + b K``.
        source: f(points, t).
        every: a snapshot every so many steps, the initial state included.

    Raises:
        ValueError: fields of the wrong size or not finite, no step, a negative damping.
    """
    n = wave.mass.shape[0]
    u0, v0 = _initial(u0, n), _initial(np.zeros(n) if v0 is None else v0, n)
    _check_steps(dt, steps, every)
    if damping < 0 or min(rayleigh) < 0:
        raise ValueError(f"damping {damping} and rayleigh {rayleigh} must not be negative: the wave would gain energy")
    if not (0 <= beta <= 0.5 and 0 <= gamma <= 1):
        raise ValueError(f"beta {beta} must lie in [0, 1/2] and gamma {gamma} in [0, 1]")
    keep = np.flatnonzero(wave.free)
    M, K = wave.mass[keep][:, keep], wave.stiffness[keep][:, keep]
    C = (2 * damping + rayleigh[0]) * M + rayleigh[1] * K + wave.boundary[keep][:, keep]
    damped = C.nnz > 0 and abs(C).max() > 0
    implicit = spla.splu((M + gamma * dt * C + beta * dt**2 * K).tocsc())

    def force(t: float) -> np.ndarray | float:
        return 0.0 if source is None else wave.load(lambda x: source(x, t))[keep]

    u, v = u0[keep].copy(), v0[keep].copy()
    a = spla.splu(M.tocsc()).solve(force(0.0) - K @ u - C @ v)
    shots_u, shots_v = [u.copy()], [v.copy()]
    for step in range(1, steps + 1):
        u = u + dt * v + dt**2 * (0.5 - beta) * a
        v = v + dt * (1 - gamma) * a
        right = force(step * dt) - K @ u
        a = implicit.solve(right - C @ v if damped else right)
        u = u + beta * dt**2 * a
        v = v + gamma * dt * a
        if step % every == 0:
            shots_u.append(u.copy())
            shots_v.append(v.copy())
    full_u, full_v = np.zeros((len(shots_u), n)), np.zeros((len(shots_u), n))
    full_u[:, keep], full_v[:, keep] = shots_u, shots_v
    times = dt * every * np.arange(len(shots_u))
    return Trajectory(times, full_u, full_v, energy(wave, full_u, full_v))


def cfl_limit(c_max: float, h: float) -> float:
    """The largest stable time step of the 5-point leap-frog scheme, h / (c √2)."""
    return h / (c_max * math.sqrt(2))


def leapfrog(
    speed: Float[np.ndarray, "n n"],
    u0: Float[np.ndarray, "n n"],
    *,
    dt: float,
    steps: int,
    every: int = 1,
    sides: Mapping[str, Side] | None = None,
) -> Trajectory:
    """Finite differences on the nodes (x first) of the unit square, from rest; c² is averaged onto the faces.

    Absorbing sides are Mur's (1981) discretisation of the first-order condition.

    Raises:
        ValueError: a time step above :func:`cfl_limit`, a speed that is not positive, fields that do not fit.
    """
    speed = np.asarray(speed, dtype=float)
    if speed.ndim != 2 or speed.shape[0] != speed.shape[1] or min(speed.shape) < 3:
        raise ValueError(f"the speed must be given on a square grid of 3 × 3 nodes or more, got shape {speed.shape}")
    if not (np.isfinite(speed) & (speed > 0)).all():
        raise ValueError(f"the speed must be positive and finite everywhere, got {speed.min():g}")
    u0 = _initial(u0, speed.shape)
    _check_steps(dt, steps, every)
    for name, what in (sides or {}).items():
        if name not in SIDES:
            raise ValueError(unknown("side", name, SIDES))
        if what not in _KINDS:
            raise ValueError(unknown("kind of side", what, _KINDS))
    h = 1.0 / (len(speed) - 1)
    limit = cfl_limit(speed.max(), h)
    if dt > limit * (1 + 1e-12):
        raise ValueError(f"dt {dt:g} violates the CFL condition dt <= h / (c √2) = {limit:g} (h {h:g})")
    c2 = speed**2
    across, along = (c2[1:] + c2[:-1]) / 2, (c2[:, 1:] + c2[:, :-1]) / 2

    def laplacian(u: np.ndarray) -> np.ndarray:
        flux_x, flux_y = across * np.diff(u, axis=0), along * np.diff(u, axis=1)
        return (np.diff(flux_x, axis=0)[:, 1:-1] + np.diff(flux_y, axis=1)[1:-1]) / h**2

    # Views on the edge of a field and on the line beside it.
    edges: dict[str, tuple[Any, Any]] = {
        "left": (np.s_[0, :], np.s_[1, :]),
        "right": (np.s_[-1, :], np.s_[-2, :]),
        "bottom": (np.s_[:, 0], np.s_[:, 1]),
        "top": (np.s_[:, -1], np.s_[:, -2]),
    }
    absorbing = [edges[name] for name, what in (sides or {}).items() if what == "absorbing"]
    held = [edges[name][0] for name in SIDES if (sides or {}).get(name, "dirichlet") == "dirichlet"]

    def close(new: np.ndarray, old: np.ndarray) -> None:
        for edge, inner in absorbing:
            r = (speed[edge] * dt - h) / (speed[edge] * dt + h)
            new[edge] = old[inner] + r * (new[inner] - old[edge])
        for edge in held:
            new[edge] = 0.0

    now = u0.copy()
    for edge in held:
        now[edge] = 0.0
    before = now.copy()  # at −dt: u(−dt) = u(dt) for a wave that starts at rest
    before[1:-1, 1:-1] += dt**2 / 2 * laplacian(now)
    close(before, now)
    shots, speeds = [now.copy()], [np.zeros_like(now)]
    for step in range(1, steps + 1):
        new = now.copy()
        new[1:-1, 1:-1] = 2 * now[1:-1, 1:-1] - before[1:-1, 1:-1] + dt**2 * laplacian(now)
        close(new, now)
        if step % every == 0:
            shots.append(new)
            speeds.append((new - now) / dt)
        before, now = now, new
    u = np.array(shots)
    return Trajectory(dt * every * np.arange(len(u)), u, np.array(speeds), np.full(len(u), np.nan))


def gaussian(
    points: Float[np.ndarray, "2 *grid"], centre: tuple[float, float], width: float
) -> Float[np.ndarray, "*grid"]:
    """A pulse of height 1 and standard deviation ``width``."""
    if not width > 0:
        raise ValueError(f"width {width} must be positive")
    x, y = points
    return np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * width**2))


def on_grid(wave: Wave, u: Float[np.ndarray, "*batch dofs"]) -> Float[np.ndarray, "*batch n n"]:
    """Values at the nodes of :func:`unit_square` as grids (x first); for ``p1`` and ``q1``."""
    n = math.isqrt(u.shape[-1])
    if n * n != u.shape[-1]:
        raise ValueError(f"{u.shape[-1]} degrees of freedom are not the nodes of a square grid; use p1 or q1 elements")
    order = np.lexsort(np.round(wave.points[::-1], 9))  # by x, then y
    return np.ascontiguousarray(u[..., order]).reshape(*u.shape[:-1], n, n)


def _initial(u: np.ndarray, shape: int | tuple[int, ...]) -> np.ndarray:
    u = np.asarray(u, dtype=float)
    wanted = (shape,) if isinstance(shape, int) else shape
    if u.shape != wanted:
        raise ValueError(f"the initial field has shape {u.shape}, the discretisation {wanted}")
    if not np.isfinite(u).all():
        raise ValueError("the initial field has values that are not finite")
    return u


def _check_steps(dt: float, steps: int, every: int) -> None:
    if not (dt > 0 and math.isfinite(dt)):
        raise ValueError(f"dt {dt} must be positive")
    if steps < 1 or every < 1:
        raise ValueError(f"steps {steps} and every {every} must be at least 1")
