"""Convex functions with known minima, as datasets; the seed changes nothing, an instance is part of the dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorbench.core.data import dataset

if TYPE_CHECKING:
    from tensorbench.optimizers.landscapes.convex import Landscape


@dataset(
    title="A chain of powers, hard for methods of the second or third order",
    source="Nesterov (2021), Implementable tensor methods",
    licence="Apache-2.0",
    generated=True,
)
def convex_chain(*, seed: int, k: int = 20, power: int = 3) -> Landscape:
    """Sum of |x_i - x_{i+1}|^power / power, minus x_1."""
    from tensorbench.optimizers.landscapes.convex import power_chain

    return power_chain(k, power)


@dataset(
    title="Log-sum-exp of random affine functions, its minimum at the origin",
    source="generated here, after Nesterov (2021)",
    licence="Apache-2.0",
    generated=True,
)
def tilted_log_sum_exp(
    *, seed: int, dim: int = 50, terms: int = 100, mu: float = 0.1, radius: float = 3.0, instance: int = 0
) -> Landscape:
    """mu log sum exp((a x - b)/mu) with uniform a and b, tilted; the start is at distance ``radius``."""
    import torch

    from tensorbench.optimizers.landscapes.convex import log_sum_exp

    return log_sum_exp(dim, terms, torch.Generator().manual_seed(instance), mu, radius)
