"""Theory of local enumeration on synthetic landscapes: evaluation counts, descent rate, and low-rank neighbourhoods.

Li et al. (arXiv 2304.12875), section 4: on an α-strongly convex, β-smooth landscape of K integer variables a local
enumeration over the whole neighbourhood contracts the gap by a constant factor per step, but the neighbourhood has
(2·radius + 1)^K points; when its values, arranged as a K-way tensor, have low tensor-train rank, alternating
enumeration reads only O(K · radius) of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from .objective import FunctionObjective
from .space import RankSpace, Structure
from .tnale import TnALE


def evals_tnls(variables: int, radius: int = 1) -> int:
    """Points of the full neighbourhood that local sampling draws from: (2·radius + 1)^K."""
    _check(variables, radius)
    return (2 * radius + 1) ** variables


def evals_tnale(variables: int, radius: int = 1, modes: int | None = None, round_trips: int = 1) -> int:
    """Upper bound on the evaluations of one TnALE sweep: 1 + round trips · (2K · 2·radius + N(N-1)/2).

    Each window holds 2·radius structures besides the current one, which is already known; ``modes`` = N adds the
    transpositions.
    """
    _check(variables, radius)
    swaps = 0 if modes is None else modes * (modes - 1) // 2
    return 1 + round_trips * (4 * variables * radius + swaps)


def _check(variables: int, radius: int) -> None:
    if variables < 1 or radius < 1:
        raise ValueError(f"variables and radius must be >= 1, got {variables} and {radius}")


@dataclass(frozen=True)
class QuadraticLandscape:
    """f(x) = ½ (x - x*)ᵀ H (x - x*) on the grid {1..max_rank}^K: α-strongly convex and β-smooth.

    Attributes:
        hessian: symmetric positive definite, eigenvalues in [α, β].
        minimiser: a grid point x*.
        max_rank: size of the grid per variable.
    """

    hessian: np.ndarray
    minimiser: np.ndarray
    max_rank: int

    def __call__(self, x: Sequence[int]) -> float:
        step = np.asarray(x, dtype=float) - self.minimiser
        return float(0.5 * step @ self.hessian @ step)

    def objective(self) -> FunctionObjective:
        """As an objective of structures: their ranks are the point."""
        return FunctionObjective(lambda structure: self(structure.ranks))

    @property
    def alpha(self) -> float:
        return float(np.linalg.eigvalsh(self.hessian)[0])

    @property
    def beta(self) -> float:
        return float(np.linalg.eigvalsh(self.hessian)[-1])


def quadratic_landscape(
    variables: int, max_rank: int, generator: np.random.Generator, alpha: float = 1.0, beta: float = 2.0
) -> QuadraticLandscape:
    """A random one with the spectrum spread evenly over [alpha, beta]. Raises ValueError unless 0 < alpha <= beta."""
    if not 0 < alpha <= beta:
        raise ValueError(f"need 0 < alpha <= beta, got {alpha} and {beta}")
    basis, _ = np.linalg.qr(generator.standard_normal((variables, variables)))
    hessian = (basis * np.linspace(alpha, beta, variables)) @ basis.T
    minimiser = generator.integers(1, max_rank + 1, size=variables).astype(float)
    return QuadraticLandscape((hessian + hessian.T) / 2, minimiser, max_rank)


def local_enumeration_rate(
    landscape: QuadraticLandscape, space: RankSpace, generator: np.random.Generator, radius: int = 1, sweeps: int = 20
) -> np.ndarray:
    """Objective after 0, 1, … sweeps of alternating enumeration from a random start (decreasing to 0 when it arrives).

    Successive ratios are the measured contraction; for the quadratic it is at most 1 - α/β per sweep of exact
    coordinate minimisation, up to the rounding of the grid (a gap of at most ½ β K once every coordinate is within ½).
    """
    objective = landscape.objective()
    start = space.random(generator)
    values, current = [objective(start)], start
    search = TnALE(radius=radius, warmup=0)
    for _ in range(sweeps):
        step = _OneSweep(search)
        current = step(objective, space, current)
        values.append(objective(current))
        if len(values) > 1 and values[-1] >= values[-2]:
            break
    return np.array(values)


@dataclass(frozen=True)
class _OneSweep:
    search: TnALE

    def __call__(self, objective: FunctionObjective, space: RankSpace, current: Structure) -> Structure:
        from .trajectory import Meter

        return self.search._round_trip(Meter(objective, None), space, current, warm=False)[0]


def neighbourhood(
    value: Callable[[tuple[int, ...]], float], centre: Sequence[int], radius: int, max_rank: int
) -> Float[np.ndarray, ...]:
    """Values on the box of the given radius around a point (clipped to the grid) as a K-way tensor.

    Raises:
        ValueError: more than 10^6 points.
    """
    axes = [range(max(1, c - radius), min(max_rank, c + radius) + 1) for c in centre]
    shape = tuple(len(axis) for axis in axes)
    if math.prod(shape) > 10**6:
        raise ValueError(f"the neighbourhood has {math.prod(shape)} points, over 10^6; lower the radius")
    return np.array([value(point) for point in itertools.product(*axes)]).reshape(shape)


def train_ranks(values: Float[np.ndarray, ...], tolerance: float = 1e-8) -> tuple[int, ...]:
    """TT ranks of a tensor: numerical ranks of its sequential unfoldings, relative to the largest singular value."""
    shape = values.shape
    ranks = []
    for cut in range(1, len(shape)):
        singular = np.linalg.svd(values.reshape(math.prod(shape[:cut]), -1), compute_uv=False)
        ranks.append(int((singular > tolerance * max(singular[0], 1e-300)).sum()))
    return tuple(ranks)
