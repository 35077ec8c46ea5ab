"""Functions of two variables to watch an optimizer on, and Rosenbrock's in any number; minimisers are exact.

Rosenbrock (1960); Rastrigin (1974); Beale (1958); a quadratic with a set condition number, turned by 30 degrees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

from ..base import positive, whole


@dataclass(frozen=True)
class Plane:
    """A function, where to start, where its minimum of 0 is, and the part of the plane to draw (x, then y)."""

    name: str
    value: Callable[[Tensor], Tensor]
    start: tuple[float, ...]
    minimiser: tuple[float, ...]
    window: tuple[float, float, float, float]


def rosenbrock_value(x: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Σ 100 (xᵢ₊₁ - xᵢ²)² + (1 - xᵢ)², zero at (1, …, 1)."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def rosenbrock(n: int = 2) -> Plane:
    """Rosenbrock's valley in ``n`` variables from (-1.5, 1, -1.5, …)."""
    whole("n", n, 2)
    start = tuple(-1.5 if k % 2 == 0 else 1.0 for k in range(n))
    return Plane("rosenbrock", rosenbrock_value, start, (1.0,) * n, (-2.0, 2.0, -1.0, 3.0))


def rastrigin() -> Plane:
    """20 + Σ xᵢ² - 10 cos 2π xᵢ: a bowl with a local minimum near every pair of whole numbers."""
    return Plane(
        "rastrigin", lambda x: 20 + (x**2 - 10 * torch.cos(2 * math.pi * x)).sum(), (-1.7, 1.3), (0.0, 0.0),
        (-3.0, 3.0, -3.0, 3.0),
    )  # fmt: skip


def beale() -> Plane:
    """Beale's function: a flat floor, steep walls, minimum at (3, 1/2)."""

    def value(x: Tensor) -> Tensor:
        a, b = x[0], x[1]
        return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2

    return Plane("beale", value, (-1.0, 1.5), (3.0, 0.5), (-2.0, 4.0, -1.5, 2.5))


def ill_conditioned(condition: float = 1e3) -> Plane:
    """½ xᵀ A x with eigenvalues 1 and 1/condition, its axes turned by 30 degrees."""
    positive("condition", condition)
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    matrix = turn @ torch.diag(torch.tensor([1.0, 1.0 / condition], dtype=torch.float64)) @ turn.T

    def value(x: Tensor) -> Tensor:
        return 0.5 * x @ matrix.to(x.dtype) @ x

    return Plane("ill_conditioned", value, (-1.0, 2.0), (0.0, 0.0), (-3.0, 3.0, -3.0, 3.0))


PLANES: dict[str, Callable[[], Plane]] = {
    "rosenbrock": rosenbrock,
    "rastrigin": rastrigin,
    "beale": beale,
    "ill_conditioned": ill_conditioned,
}


def plane(name: str) -> Plane:
    """The landscape called ``name``."""
    if name not in PLANES:
        raise ValueError(unknown("landscape", name, list(PLANES)))
    return PLANES[name]()


def trajectory(
    landscape: Plane, make: Callable[[list[Tensor]], Any], steps: int, dtype: torch.dtype = torch.float64
) -> tuple[Float[Tensor, "points n"], Float[Tensor, " points"]]:
    """Points and values on the way of ``make([parameter])`` from the landscape's start; both end early on divergence.

    The optimizer gets the loss with its graph where its ``needs_graph`` is true, and gradients otherwise.
    """
    whole("steps", steps)
    x = torch.nn.Parameter(torch.tensor(landscape.start, dtype=dtype))
    optimizer = make([x])
    graph = getattr(optimizer, "needs_graph", False)
    points, values = [x.detach().clone()], [float(landscape.value(x.detach()))]

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = landscape.value(x)
        if not graph:
            value.backward()
        return value

    for _ in range(steps):
        try:
            optimizer.step(closure)
        except ValueError:  # a loss or a gradient that is not finite
            break
        value = float(landscape.value(x.detach()))
        if not math.isfinite(value):
            break
        points.append(x.detach().clone())
        values.append(value)
    return torch.stack(points), torch.tensor(values, dtype=torch.float64)
