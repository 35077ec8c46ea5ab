"""Equations in high dimension whose solution does not separate: Δu + reaction(u) = g on the unit ball, 0 on its rim.

Two-body solution    u = (1 - |x|²) Σᵢ cᵢ sin(xᵢ + cos xᵢ₊₁ + xᵢ₊₁ cos xᵢ)
Three-body solution  u = (1 - |x|²) Σᵢ cᵢ exp(xᵢ xᵢ₊₁ xᵢ₊₂),       c ~ N(0, 1)

(Appendix I.1 of Shi et al. 2024, arXiv 2412.00088). With u = (1 - |x|²) s the source needs s, x·∇s
and Δs, sums over i that cost O(d): Δu = (1 - |x|²) Δs - 4 x·∇s - 2 d s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.stde.local import Local

CHUNK = 4_000_000
Sums = tuple[Tensor, Tensor, Tensor]  # s, x·∇s, Δs

REACTIONS: dict[str, Callable[[Any], Any]] = {
    "poisson": lambda u: 0 * u,
    "allen_cahn": lambda u: u - u**3,
    "sine_gordon": lambda u: torch.sin(u),
}


@dataclass(frozen=True)
class Problem:
    """Δu + reaction(u) = source on the unit ball, with its exact solution."""

    equation: str
    bodies: int
    c: Float[Tensor, "terms"]

    def __post_init__(self) -> None:
        if self.equation not in REACTIONS:
            raise ValueError(unknown("equation", self.equation, REACTIONS))
        if self.bodies not in (2, 3):
            raise ValueError(f"{self.bodies} bodies: the solutions have interactions of 2 or 3 coordinates")

    @property
    def d(self) -> int:
        return len(self.c) + self.bodies - 1

    def reaction(self, u: Any) -> Any:
        return REACTIONS[self.equation](u)

    def operator(self, u: Local) -> Float[Tensor, "points"]:
        return u.laplacian() + self.reaction(u.value)

    def solution(self, x: Any) -> Any:
        """(points, d) -> (points,), of tensors or Taylor tensors."""
        return (1 - x.square().sum(-1)) * self._sums(x)[0]

    def _sums(self, x: Any) -> Sums:
        """On the device of x."""
        return (_two_body if self.bodies == 2 else _three_body)(x, self.c.to(x.device))

    def source(self, x: Float[Tensor, "points d"]) -> Float[Tensor, "points"]:
        rows = max(1, CHUNK // self.d)  # the sums make a dozen arrays of x's size
        return torch.cat([self._source(part) for part in x.split(rows)])

    def _source(self, x: Tensor) -> Tensor:
        s, slope, laplacian = self._sums(x)
        inside = 1 - x.square().sum(-1)
        return inside * laplacian - 4 * slope - 2 * self.d * s + self.reaction(inside * s)


def problem(
    equation: str, d: int, bodies: int, generator: torch.Generator, *, dtype: torch.dtype = torch.float32
) -> Problem:
    """Random coefficients from the generator.

    Raises:
        ValueError: an unknown equation, a number of bodies other than 2 or 3, fewer coordinates than bodies.
    """
    if d < bodies:
        raise ValueError(f"interactions of {bodies} coordinates need as many; d is {d}")
    return Problem(equation, bodies, torch.randn(d - bodies + 1, generator=generator, dtype=dtype))


def _two_body(x: Tensor, c: Tensor) -> Sums:
    """Of Σ cᵢ sin aᵢ with aᵢ = p + cos q + q cos p, p = xᵢ and q = xᵢ₊₁."""
    p, q = x[..., :-1], x[..., 1:]
    sin_p, cos_p, sin_q, cos_q = p.sin(), p.cos(), q.sin(), q.cos()
    a = p + cos_q + q * cos_p
    sin_a, cos_a = a.sin(), a.cos()
    along_p, along_q = 1 - q * sin_p, cos_p - sin_q
    bend = -q * cos_p - cos_q
    return (
        sin_a @ c,
        (cos_a * (p * along_p + q * along_q)) @ c,
        (cos_a * bend - sin_a * (along_p.square() + along_q.square())) @ c,
    )


def _three_body(x: Tensor, c: Tensor) -> Sums:
    """Of Σ cᵢ exp(p q r): x·∇ gives 3 p q r exp, and Δ the squares of the three products of two."""
    p, q, r = x[..., :-2], x[..., 1:-1], x[..., 2:]
    m = p * q * r
    e = m.exp()
    squares = (q * r).square() + (p * r).square() + (p * q).square()
    return e @ c, (3 * m * e) @ c, (squares * e) @ c
