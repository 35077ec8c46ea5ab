"""Equations in many dimensions with their exact solutions, and the budget that every method gets on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensorbench.core.data import dataset

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HighDimensional:
    """``operator(u) = source`` on the unit ball with u = 0 on its surface; without a ``source``, ``solution`` gives it.

    ``test_x`` and ``test_u`` are points and the exact solution there. ``steps``, ``points`` (a step) and ``batch``
    (dimensions a draw) are the training budget.
    """

    d: int
    operator: Callable[[Any], Any]
    solution: Callable[[Any], Any]
    source: Callable[[Any], Any] | None
    reaction: Callable[[Any], Any] | None
    test_x: Tensor
    test_u: Tensor
    steps: int
    points: int
    batch: int


@dataset(
    title="Two- and three-body solutions on the unit ball",
    source="generated here",
    licence="Apache-2.0",
    generated=True,
)
def body_interactions(
    *,
    seed: int,
    equation: str = "allen_cahn",
    d: int = 20,
    bodies: int = 2,
    steps: int = 1500,
    points: int = 100,
    batch: int = 16,
    test_points: int = 2000,
) -> HighDimensional:
    """Δu + reaction(u) = g with coefficients and test points of the seed (:mod:`..stde.problems`)."""
    import torch

    from tensorbench.pde_operators.stde import ball, problem

    generator = torch.Generator().manual_seed(10_000 + seed)
    given = problem(equation, d, bodies, generator)
    x = ball(test_points, d, generator)
    return HighDimensional(
        d, given.operator, given.solution, given.source, given.reaction, x, given.solution(x), steps, points, batch
    )


@dataset(title="A user's own operator: anisotropic diffusion, drift and reaction", source="generated here",
         licence="Apache-2.0", generated=True)  # fmt: skip
def own_operator(
    *, seed: int, d: int = 10_000, steps: int = 300, points: int = 32, batch: int = 16, test_points: int = 500
) -> HighDimensional:
    """Σᵢ (1 + xᵢ²) ∂ᵢᵢu - xᵢ ∂ᵢu + u - u³ with the solution (1 - |x|²)(1 + sin(Σ xᵢ)/2)."""
    import torch

    from tensorbench.pde_operators.stde import ball
    from tensorbench.pde_operators.taylor import squared_norm

    def operator(u: Any) -> Any:
        return u.sum((1 + u.x**2) * u.d(2) - u.x * u.d(1)) + u.value - u.value**3

    def solution(x: Any) -> Any:
        return (1 - squared_norm(x)) * (1 + torch.sin(x.sum(-1)) / 2)

    x = ball(test_points, d, torch.Generator().manual_seed(10_000 + seed))
    return HighDimensional(d, operator, solution, None, None, x, solution(x), steps, points, batch)


@dataset(
    title="Points of the unit ball in several dimensions", source="generated here", licence="Apache-2.0", generated=True
)
def unit_ball(*, seed: int, d: int = 100, points: int = 100) -> Tensor:
    """(points, d), uniform in direction and radius."""
    import torch

    from tensorbench.pde_operators.stde import ball

    return ball(points, d, torch.Generator().manual_seed(20_000 + seed))


@dataset(title="Semilinear parabolic equations, backward in time", source="generated here", licence="Apache-2.0",
         generated=True)  # fmt: skip
def semilinear_parabolic(*, seed: int, equation: str = "semilinear_heat", d: int = 10) -> tuple[Any, int, float]:
    """A problem of :mod:`..stde.parabolic`, d, and the published u(0, 0) (NaN for another d)."""
    from tensorbench.pde_operators.stde.parabolic import PUBLISHED, parabolic

    return parabolic(equation), d, PUBLISHED[equation].get(d, float("nan"))
