"""The estimating sequence of accelerated tensor methods: all past gradients in one vector, and its minimiser.

    ψ_t(x) = Σ_{j<t} (α_j/A_j) <g_j, x - x₀> + Σ_i c_i |x - x₀|^i / i! + constants,   i = 2 … p+1

With z = x - x₀ and s the sum of gradients, the minimiser satisfies s + φ(r) z = 0 for φ(r) = c₂ + c₃ r/2 + c₄ r²/6 and
r = |z|, so that r is the positive root of r φ(r) = |s|: a quadratic equation for p = 2 (Agafonov et al. 2024, arXiv
2309.01570), a scalar root for p = 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def alpha(t: int, p: int = 2) -> float:
    """α_t = (p+1)/(t+p+1); α₀ = 1."""
    return (p + 1) / (t + p + 1)


def product_of_rest(t: int, p: int = 2) -> float:
    """A_t = Π_{j=1..t} (1 - α_j) = (p+1)! / ((t+1) … (t+p+1)); A₀ = 1. For p = 2 it is 6/((t+1)(t+2)(t+3))."""
    return math.prod((j / (t + j) for j in range(1, p + 2)), start=1.0)


@dataclass(frozen=True)
class EstimatingSequence:
    """ψ_t without its constants: where it is centred, its linear part ``s`` and the weights of its powers."""

    x0: Float[Tensor, " d"]
    s: Float[Tensor, " d"]
    c2: float = 0.0
    c3: float = 0.0
    c4: float = 0.0

    @classmethod
    def at(cls, x0: Float[Tensor, " d"]) -> EstimatingSequence:
        """ψ₀ without weights: no gradients yet."""
        return cls(x0.clone(), torch.zeros_like(x0))

    def add(self, g: Float[Tensor, " d"], weight: float, **weights: float) -> EstimatingSequence:
        """With ``weight`` · <g, x - x₀> added, and the weights c2, c3, c4 set anew. Weights never fall.

        Raises:
            ValueError: a weight would fall, which the proof does not allow.
        """
        for name, value in weights.items():
            if not value >= getattr(self, name) * (1 - 1e-12):
                raise ValueError(f"{name} would fall from {getattr(self, name):g} to {value:g}; weights never fall")
        powers = {"c2": self.c2, "c3": self.c3, "c4": self.c4} | weights
        return EstimatingSequence(self.x0, self.s + weight * g, **powers)

    def radius(self, *, closed_form: bool = True) -> float:
        """|x - x₀| of the minimiser. ``closed_form`` (where c4 = 0) solves the quadratic equation, else Newton's
        method.

        Raises:
            ValueError: gradients, but no positive weight: ψ is unbounded.
        """
        n = float(torch.linalg.vector_norm(self.s))
        if n == 0:
            return 0.0
        if self.c2 <= 0 and self.c3 <= 0 and self.c4 <= 0:
            raise ValueError("the estimating function has no minimiser: all its weights are 0")
        if closed_form and self.c4 == 0:
            # The root (-a + √(a² + 2 c n)) / c, written so that nothing cancels.
            return 2 * n / (self.c2 + math.sqrt(self.c2**2 + 2 * self.c3 * n))
        powers = ((2, self.c2), (3, self.c3), (4, self.c4))
        ends = [(n * math.factorial(i - 1) / c) ** (1 / (i - 1)) for i, c in powers if c > 0]
        r = min(ends)  # above the root; r φ(r) is convex and grows, so that Newton's method descends to it
        for _ in range(100):
            value = r * (self.c2 + self.c3 * r / 2 + self.c4 * r * r / 6) - n
            following = r - value / (self.c2 + self.c3 * r + self.c4 * r * r / 2)
            if abs(following - r) <= 1e-16 * r or following >= r:
                break
            r = following
        return r

    def argmin(self, *, closed_form: bool = True) -> Float[Tensor, " d"]:
        """x₀ - s / φ(r)."""
        r = self.radius(closed_form=closed_form)
        if r == 0:
            return self.x0.clone()
        return self.x0 - self.s / (self.c2 + self.c3 * r / 2 + self.c4 * r * r / 6)

    def value(self, x: Float[Tensor, " d"]) -> Float[Tensor, ""]:
        """ψ_t(x) - ψ_t(x₀)."""
        z = x - self.x0
        r = torch.linalg.vector_norm(z)
        return self.s @ z + self.c2 * r**2 / 2 + self.c3 * r**3 / 6 + self.c4 * r**4 / 24
