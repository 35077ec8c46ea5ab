"""Restarts: what turns the rate for convex functions into a faster one for uniformly convex ones.

Where f(x) - f* ≥ (μ/q)|x - x*|^q (q = 2: strongly convex), T steps of ASCN that guarantee
f(x_T) - f* ≤ (μ/q)(R/√2)^q leave a point within R/√2 of x*: the method starts again there with that radius, as in
Agafonov et al. (2024, arXiv 2309.01570). The stages get shorter with R, and the batch of Hessians may stay
the same. With gradient noise a stage needs (σ₁/(μR))² steps, so that further stages cost more and more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tensorbench.optimizers.base import positive, whole
from tensorbench.optimizers.inexact_tensor.ascn import ASCN, State
from tensorbench.optimizers.inexact_tensor.bounds import rate_bound
from tensorbench.optimizers.inexact_tensor.oracles import Oracle, Rng


@dataclass(frozen=True)
class Stage:
    """A run between restarts: its radius and its length, and where it ended."""

    R: float
    T: int
    x: Float[Tensor, " d"]


def stage_length(
    M: float, R: float, mu: float, degree: float = 2.0, sigma1: float = 0.0, sigma2: float = 0.0, limit: int = 10**6
) -> int:
    """The least T with rate_bound(T) ≤ (μ/q)(R/√2)^q.

    Raises:
        ValueError: more than ``limit`` steps would be needed (too much noise for this radius).
    """
    positive("mu", mu)
    if not degree >= 2:
        raise ValueError(f"degree {degree} must be at least 2; use 2 for strongly convex functions")
    goal = mu / degree * (R / math.sqrt(2)) ** degree

    def enough(T: int) -> bool:
        return rate_bound(T, M, R, sigma1, sigma2) <= goal

    high = 1
    while not enough(high):
        high *= 2
        if high > limit:
            raise ValueError(
                f"a stage at R = {R:.3g} needs more than {limit} steps: the noise (sigma1 {sigma1:g}, sigma2 "
                f"{sigma2:g}) allows no better point; stop here, or use larger batches"
            )
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


class RestartedASCN:
    """ASCN, started anew each time that the distance to the solution is known to have shrunk by √2.

    Args:
        mu, degree: f(x) - f* ≥ (mu/degree)|x - x*|^degree.
        R: a bound on the distance from the start to the solution.
        options: for :class:`~.ascn.ASCN`.
    """

    def __init__(
        self, oracle: Oracle, M: float, R: float, mu: float, *, degree: float = 2.0, stages: int = 10, **options: Any
    ) -> None:
        self.oracle, self.M, self.R, self.mu = oracle, M, positive("R", R), positive("mu", mu)
        self.degree, self.stages, self.options = degree, whole("stages", stages), options
        self.length(R)  # refuses what cannot work

    def length(self, R: float) -> int:
        """Steps of the stage with radius R."""
        sigma1 = self.options.get("sigma1")
        delta2 = self.options.get("delta2")
        return stage_length(
            self.M,
            R,
            self.mu,
            self.degree,
            self.oracle.sigma1 if sigma1 is None else sigma1,
            self.oracle.delta2 if delta2 is None else delta2,
        )

    def run(
        self, x0: Float[Tensor, " d"], rng: Rng = None, record: Callable[[State], None] | None = None
    ) -> list[Stage]:
        """All stages from x₀; ``record`` is called with the state after each step."""
        x, R = x0, self.R
        done: list[Stage] = []
        for _ in range(self.stages):
            T = self.length(R)
            x = ASCN(self.oracle, self.M, R, T, **self.options).run(x, rng, record).x
            done.append(Stage(R, T, x))
            R /= math.sqrt(2)
        return done
