"""Hessians to be fitted, gradients to be whitened, and functions that PSGD descends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorbench.core.data import dataset

if TYPE_CHECKING:
    from torch import Tensor

    from tensorbench.optimizers.landscapes.tensor import RankDecomposition


@dataclass(frozen=True)
class Fitting:
    """Tri-diagonal Hessians of several sizes, and how many updates a panel has unless a method says otherwise."""

    sizes: tuple[int, ...]
    noise: float
    steps: int


@dataset(
    title="Tri-diagonal Hessians with clean, noisy and drifting products",
    source="Li (2024), Stochastic Hessian Fittings with Lie Groups",
    licence="Apache-2.0",
    generated=True,
    cache=False,
)
def fitting_panels(
    *, seed: int, sizes: list[int] | tuple[int, ...] = (10, 20), noise: float = 0.01, steps: int = 4000
) -> Fitting:
    """1 on the diagonal and 0.5 beside it; ``noise`` is the standard deviation of that in the noisy products."""
    return Fitting(tuple(sizes), noise, steps)


@dataset(
    title="Gradients with a Kronecker covariance",
    source="Li (2024), Stochastic Hessian Fittings with Lie Groups",
    licence="Apache-2.0",
    generated=True,
    cache=False,
)
def kronecker_covariance(*, seed: int, sizes: list[int] | tuple[int, ...] = (6, 6, 6)) -> list[Tensor]:
    """Factors A Aᵀ / n with standard normal A, float64; gradients are their Kronecker product times normal numbers."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    factors = (torch.randn(n, n, dtype=torch.float64, generator=generator) for n in sizes)
    return [A @ A.T / len(A) for A in factors]


@dataset(
    title="Rosenbrock's function of pairs of coordinates",
    source="Rosenbrock (1960), as in the demonstration of PSGD",
    licence="Apache-2.0",
    generated=True,
    cache=False,
)
def rosenbrock_start(*, seed: int, n: int = 100) -> Tensor:
    """Where descent starts: the origin of ``n`` (even) coordinates, in float64."""
    import torch

    if n < 2 or n % 2:
        raise ValueError(f"n {n} must be even and at least 2: coordinates are taken in pairs")
    return torch.zeros(n, dtype=torch.float64)


@dataset(
    title="A tensor of low rank, to be decomposed",
    source="Li (2024), the demonstration of all preconditioners",
    licence="Apache-2.0",
    generated=True,
    cache=False,
)
def rank_decomposition(
    *, seed: int, shape: list[int] | tuple[int, ...] = (10, 10, 10), rank: int = 5
) -> RankDecomposition:
    """Σ_r x_r ⊗ y_r ⊗ z_r with standard normal entries, and the start of the same law; a seed has its own."""
    import torch

    from tensorbench.optimizers.landscapes.tensor import random_rank_decomposition

    return random_rank_decomposition(tuple(shape), rank, torch.Generator().manual_seed(seed))
