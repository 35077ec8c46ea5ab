"""Tensor rank decomposition as a function of its factors: many minimisers, saddles and swamps, minimum 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.optimizers.base import whole

_LETTERS = "abcdefghij"


def compose(factors: Sequence[Float[Tensor, "rank _"]]) -> Tensor:
    """The tensor Σ_r x_r ⊗ y_r ⊗ … of factors with a component in each row."""
    letters = _LETTERS[: len(factors)]
    return torch.einsum(",".join("z" + mode for mode in letters) + "->" + letters, *factors)


@dataclass(frozen=True)
class RankDecomposition:
    """Sum of the squared errors of a decomposition; ``minimiser`` are the factors that the target is made of."""

    target: Tensor
    start: tuple[Float[Tensor, "rank _"], ...]
    minimiser: tuple[Float[Tensor, "rank _"], ...]
    minimum: float = 0.0

    def __call__(self, factors: Sequence[Float[Tensor, "rank _"]]) -> Float[Tensor, ""]:
        return (compose(factors) - self.target).square().sum()


def random_rank_decomposition(shape: Sequence[int], rank: int, generator: torch.Generator) -> RankDecomposition:
    """Target and start with standard normal factors, in float64.

    Raises:
        ValueError: fewer than two modes or more than ten.
    """
    whole("rank", rank)
    if not 2 <= len(shape) <= len(_LETTERS) or min(shape) < 1:
        raise ValueError(f"shape {tuple(shape)} must have 2 to {len(_LETTERS)} modes of size 1 or more")

    def draw() -> tuple[Tensor, ...]:
        return tuple(torch.randn(rank, n, dtype=torch.float64, generator=generator) for n in shape)

    factors = draw()
    return RankDecomposition(compose(factors), draw(), factors)


def relative_error(problem: RankDecomposition, loss: float) -> float:
    """‖T - T̂‖ / ‖T‖ from the loss."""
    return math.sqrt(max(loss, 0.0)) / float(torch.linalg.vector_norm(problem.target))
