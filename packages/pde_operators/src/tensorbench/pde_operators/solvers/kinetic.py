"""Steady kinetic transport between two confocal ellipses, by upwind differences and sparse linear algebra.

    (cos w d_x + sin w d_y) f = (1 / ell) d^2 f / dw^2,       w periodic,

for the density f(x, y, w) of particles that fly in the direction w and are turned by small angles; ell is the mean free
path. f is prescribed where the direction of flight enters the domain: on the inner curve for u.n > 0, on the outer one
for u.n < 0 (n points away from the centre). The quantity of interest is rho = sum over the w grid of f, a plain sum.

The inner curve has the semi-axes 1 (along y) and a1 (along x), the outer one shares its foci and has the semi-axis a2
along x. Coordinates: x = c sinh(x1) cos(x2), y = c cosh(x1) sin(x2) with c^2 = 1 - a1^2, and polar ones on a circle.
The scheme is that of Wagner 2023 (arXiv 2312.14979) in the form of its reference code: first-order upwind in x1 and x2,
fourth-order central second differences in w, radial nodes that cluster at both walls. Arrays are ordered (x1 radial,
x2 angle, w).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from jaxtyping import Bool, Float, Int

from tensorbench.core.errors import unknown

CIRCLE = 1e-7  # 1 - a1 below which the curves are taken for circles
FAMILIES = ("random", "piecewise", "constant")
DECAYS = ("none", "one", "product", "square")


@dataclass(frozen=True)
class Annulus:
    """The domain: semi-axes a1 in (0, 1] of the inner and a2 > 1 of the outer curve along x."""

    a1: float
    a2: float

    def __post_init__(self) -> None:
        if not 0 < self.a1 <= 1:
            raise ValueError(f"a1 {self.a1} must be in (0, 1]: the inner curve's other semi-axis is 1")
        if not (self.a2 > 1 and math.isfinite(self.a2)):
            raise ValueError(f"a2 {self.a2} must be above 1, so that the outer curve lies outside the inner one")

    @property
    def is_circle(self) -> bool:
        return 1 - self.a1 < CIRCLE

    @property
    def focal(self) -> float:
        """Half the distance of the foci (0 on a circle)."""
        return 0.0 if self.is_circle else math.sqrt(1 - self.a1**2)

    def radial(self, n: int) -> Float[np.ndarray, " n_plus_2"]:
        """n nodes between the walls, with both walls at the ends: r on a circle, the elliptic coordinate else."""
        s = np.sin(np.linspace(-np.pi / 2, np.pi / 2, n + 2)) / 2 + 0.5
        if self.is_circle:
            return (self.a2 - 1) * s + 1
        c = self.focal
        inner, outer = (math.exp(math.acosh(b / c)) for b in (1.0, math.hypot(c, self.a2)))
        return np.log((outer - inner) * s + inner)

    def cartesian(self, x1: np.ndarray, x2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y of coordinates."""
        if self.is_circle:
            return x1 * np.cos(x2), x1 * np.sin(x2)
        return self.focal * np.sinh(x1) * np.cos(x2), self.focal * np.cosh(x1) * np.sin(x2)

    def flight(self, x1: np.ndarray, x2: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """d x1 / dt and d x2 / dt of a particle of unit speed that flies in the direction w."""
        if self.is_circle:
            return np.cos(w - x2) * np.ones_like(x1), np.sin(w - x2) / x1
        ch, sh, co, si = np.cosh(x1), np.sinh(x1), np.cos(x2), np.sin(x2)
        metric = self.focal * (ch**2 * co**2 + sh**2 * si**2)
        along_1 = ch * co * np.cos(w) + sh * si * np.sin(w)
        along_2 = ch * co * np.sin(w) - sh * si * np.cos(w)
        return along_1 / metric, along_2 / metric

    def cell_corners(self, n1: int, n2: int) -> tuple[Float[np.ndarray, "n1p n2p"], Float[np.ndarray, "n1p n2p"]]:
        """x and y of the corners of cells around the n1 x n2 nodes, for ``pcolormesh``; the walls are their ends."""
        nodes = self.radial(n1)
        edges = np.concatenate([nodes[:1], (nodes[1:-2] + nodes[2:-1]) / 2, nodes[-1:]])
        turns = -np.pi + (np.arange(n2 + 1) - 0.5) * (2 * np.pi / n2)
        return self.cartesian(*np.meshgrid(edges, turns, indexing="ij"))


def _angles(n2: int, nw: int) -> tuple[np.ndarray, np.ndarray]:
    """x2 from -pi, and w shifted by an eighth of its step so that no direction is tangent to a circle at a node."""
    return np.linspace(-np.pi, np.pi, n2, endpoint=False), (np.arange(nw) + 0.125) * (2 * np.pi / nw)


class KineticSolver:
    """The discrete equation for one geometry and one mean free path; solves for any number of inflows.

    Args:
        shape: nodes (n1 radial, n2 angle, nw directions); nw even and at least 6 (the stencil in w has five points).
        ell: mean free path, in units of the inner curve's long semi-axis.
        domain: the annulus.

    Raises:
        ValueError: a parameter outside its range, or a direction of flight that is tangent to a wall at a node.
    """

    def __init__(self, shape: tuple[int, int, int], ell: float, domain: Annulus) -> None:
        n1, n2, nw = shape
        if nw % 2 or nw < 6:
            raise ValueError(f"n_w {nw} must be even and at least 6: half of the directions enter at a wall")
        if n1 < 2 or n2 < 4:
            raise ValueError(f"a grid of {n1} x {n2} nodes is too small; use at least 2 x 4")
        if not ell > 0:
            raise ValueError(f"ell {ell} must be positive")
        self.shape, self.ell, self.domain = (n1, n2, nw), float(ell), domain
        self.walls = domain.radial(n1)
        self.x1 = self.walls[1:-1]
        self.x2, self.w = _angles(n2, nw)
        self.speed1, self.speed2 = domain.flight(self.x1[:, None, None], self.x2[None, :, None], self.w[None, None, :])
        smallest = float(np.abs(self.speed1[[0, -1]]).min())
        if smallest < 1e-10:
            raise ValueError(f"a direction is tangent to a wall (speed {smallest:.1g}); change a1 or a2 a little")

    # --- inflow ----------------------------------------------------------------------------------------------------

    @cached_property
    def entering(self) -> tuple[Int[np.ndarray, "n2 half"], Int[np.ndarray, "n2 half"]]:
        """Indices of the w nodes that enter at the inner and at the outer wall, by the sine of their angle to it.

        The order makes the entering half occupy the same places at each x2, whatever the wall's direction there.
        """
        half, found = self.shape[2] // 2, []
        for wall, sign in ((0, 1), (-1, -1)):
            inward = sign * self.speed1[wall] > 0
            if not (inward.sum(axis=1) == half).all():
                raise ValueError("at some node not half of the directions enter")
            nodes = np.nonzero(inward)[1].reshape(-1, half)
            order = np.argsort(np.take_along_axis(self.speed2[wall], nodes, axis=1), axis=1)
            found.append(np.take_along_axis(nodes, order, axis=1))
        return found[0], found[1]

    def sample(self, inner: np.ndarray, outer: np.ndarray) -> Float[np.ndarray, "2 n2 half"]:
        """Functions on the full (x2, w) grid of each wall, restricted to the entering directions in their order."""
        return np.stack(
            [np.take_along_axis(g, nodes, axis=1) for g, nodes in zip((inner, outer), self.entering, strict=True)]
        )

    def right_hand_side(self, inflow: Float[np.ndarray, "*k 2 n2 half"]) -> Float[np.ndarray, "unknowns *k"]:
        """What the inflow adds to the equations of the nodes beside the walls."""
        n1, n2, nw = self.shape
        inflow = np.asarray(inflow, dtype=np.float64)
        if inflow.shape[-3:] != (2, n2, nw // 2):
            raise ValueError(f"inflow of shape {inflow.shape} must end in (2, n2 {n2}, n_w / 2 {nw // 2})")
        if inflow.ndim > 4:
            raise ValueError(f"inflow of shape {inflow.shape}: give one inflow or a stack (k, 2, n2, n_w / 2) of them")
        if not np.isfinite(inflow).all():
            raise ValueError("the inflow holds NaN or infinity")
        many = inflow.reshape(-1, 2, n2, nw // 2)
        b = np.zeros((len(many), n1, n2, nw))
        gaps = (self.walls[1] - self.walls[0], self.walls[-1] - self.walls[-2])
        for side, (wall, nodes, gap) in enumerate(zip((0, -1), self.entering, gaps, strict=True)):
            speed = np.abs(np.take_along_axis(self.speed1[wall], nodes, axis=1))
            b[:, wall, np.arange(n2)[:, None], nodes] = speed * many[:, side] / gap
        flat = b.reshape(len(many), -1).T
        return flat if inflow.ndim == 4 else flat[:, 0]

    # --- the operator ----------------------------------------------------------------------------------------------

    @cached_property
    def operator(self) -> sp.csc_matrix:
        """L with L f = right-hand side. Assembled from whole arrays: diagonals and neighbours."""
        n1, n2, nw = self.shape
        index = np.arange(n1 * n2 * nw).reshape(n1, n2, nw)
        rows, columns, values = [], [], []
        diagonal = np.zeros(self.shape)

        def couple(to: np.ndarray, weight: np.ndarray, where: Bool[np.ndarray, "n1 n2 nw"]) -> None:
            rows.append(index[where])
            columns.append(to[where])
            values.append(weight[where])

        gap = np.diff(self.walls)[:, None, None]
        positive = self.speed1 > 0
        inside = np.ones(self.shape, dtype=bool)
        for sign, weight, first in ((positive, self.speed1 / gap[:-1], 0), (~positive, -self.speed1 / gap[1:], n1 - 1)):
            diagonal += np.where(sign, weight, 0)
            has_neighbour = sign & inside
            has_neighbour[first] = False
            couple(np.roll(index, 1 if first == 0 else -1, axis=0), -weight, has_neighbour)
        positive = self.speed2 > 0
        weight = np.abs(self.speed2) / (2 * np.pi / n2)
        diagonal += weight
        couple(np.roll(index, 1, axis=1), -weight, positive)
        couple(np.roll(index, -1, axis=1), -weight, ~positive)
        turning = 1 / (self.ell * 12 * (2 * np.pi / nw) ** 2)
        diagonal += 30 * turning
        for shift, number in ((1, 16), (-1, 16), (2, -1), (-2, -1)):
            couple(np.roll(index, shift, axis=2), np.full(self.shape, -number * turning), inside)
        couple(index, diagonal, inside)
        triple = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
        return sp.csc_matrix(sp.coo_matrix(triple, shape=(index.size, index.size)))

    @cached_property
    def _factors(self) -> spla.SuperLU:
        return spla.splu(self.operator)

    def solve(
        self,
        inflow: Float[np.ndarray, "*k 2 n2 half"],
        method: Literal["direct", "gmres"] = "direct",
        tolerance: float = 1e-7,
    ) -> Float[np.ndarray, "*k n1 n2 nw"]:
        """f on the grid for one inflow or several.

        ``direct`` factorises once for all inflows (SuperLU); ``gmres`` preconditions with an incomplete factorisation,
        for grids whose factors do not fit in memory.

        Raises:
            ValueError: an inflow of the wrong shape or with NaN, an unknown method.
            RuntimeError: the true residual is above ten times the tolerance.
        """
        if method not in ("direct", "gmres"):
            raise ValueError(unknown("method", method, ["direct", "gmres"]))
        b = self.right_hand_side(inflow)
        if method == "direct":
            f = self._factors.solve(b)
        else:
            weak = spla.spilu(self.operator, drop_tol=1e-4, fill_factor=8)
            preconditioner = spla.LinearOperator(self.operator.shape, weak.solve)
            f = np.stack([self._gmres(column, preconditioner, tolerance) for column in np.atleast_2d(b.T)], axis=1)
            f = f.reshape(b.shape)
        if not (worst := self.residual(f, b)) <= 10 * tolerance:  # NaN neither
            raise RuntimeError(f"{method}: relative residual {worst:.2g} is above 10 x tolerance {tolerance:g}")
        return np.moveaxis(f.reshape(*self.shape, *b.shape[1:]), 3, 0) if b.ndim == 2 else f.reshape(self.shape)

    def _gmres(self, b: np.ndarray, preconditioner: spla.LinearOperator, tolerance: float) -> np.ndarray:
        if not b.any():
            return np.zeros_like(b)
        return spla.gmres(self.operator, b, rtol=tolerance, restart=80, maxiter=50, M=preconditioner)[0]

    def residual(self, f: np.ndarray, b: np.ndarray) -> float:
        """The largest |L f - b| / |b| over the inflows."""
        f, b = f.reshape(len(f), -1), b.reshape(len(b), -1)
        size = np.linalg.norm(b, axis=0)
        return float((np.linalg.norm(self.operator @ f - b, axis=0) / np.where(size > 0, size, 1)).max())

    def density(self, f: Float[np.ndarray, "*k n1 n2 nw"]) -> Float[np.ndarray, "*k n1 n2"]:
        """rho, the plain sum over directions."""
        return f.sum(axis=-1)


# --- inflows -------------------------------------------------------------------------------------------------------


def _fourier(theta: np.ndarray, phi: np.ndarray, decay: str, highest: int, rng: np.random.Generator) -> np.ndarray:
    """Sixteen products of cosines of random frequencies and phases, shifted to be nowhere negative."""
    total = np.zeros_like(theta)
    if rng.random() < 0.2:
        total += rng.random() * np.cos(theta / 2 - rng.uniform(0, 2 * np.pi))
    for _ in range(16):
        kx, ky = rng.integers(1, highest + 1, 2)
        one = kx if rng.random() < 0.5 else ky
        size = rng.uniform(-1, 1) / {"none": 1, "one": one, "product": kx * ky, "square": (kx * ky) ** 2}[decay]
        phases = rng.uniform(0, 2 * np.pi, 2)
        total += size * np.cos(kx * theta - phases[0]) * np.cos(ky * phi - phases[1])
    return total - min(total.min(), 0.0)


def _steps(theta: np.ndarray, phi: np.ndarray, pieces: int, rng: np.random.Generator) -> np.ndarray:
    """A product of piecewise constant functions, values in [0, 1], of the two angles."""
    place = [np.floor((np.mod(angle, 2 * np.pi)) / (2 * np.pi) * pieces).astype(int) % pieces for angle in (theta, phi)]
    return rng.random(pieces)[place[0]] * rng.random(pieces)[place[1]]


def random_inflow(
    solver: KineticSolver, rng: np.random.Generator, *, family: str = "random", decay: str | None = None
) -> Float[np.ndarray, "2 n2 half"]:
    """An inflow at both walls, a function of x2 and x2 - w.

    ``random``: Fourier sums whose amplitudes fall with the frequencies by one of the laws ``DECAYS`` (1, 1/kx or 1/ky,
    1/(kx ky), its square), drawn unless given, frequencies up to n_w; ``piecewise``: constant on 4 to 8 sectors of each
    angle; ``constant``: one number for both walls.
    """
    if family not in FAMILIES:
        raise ValueError(unknown("family", family, FAMILIES))
    if decay is not None and decay not in DECAYS:
        raise ValueError(unknown("decay", decay, DECAYS))
    theta, w = np.meshgrid(solver.x2, solver.w, indexing="ij")
    if family == "constant":
        return np.full((2, solver.shape[1], solver.shape[2] // 2), rng.random())
    walls = []
    for _ in range(2):
        if family == "piecewise":
            walls.append(_steps(theta, theta - w, int(rng.integers(4, 9)), rng))
        else:
            law = decay or DECAYS[rng.integers(len(DECAYS))]
            walls.append(_fourier(theta, theta - w, law, solver.shape[2], rng))
    return solver.sample(*walls)
