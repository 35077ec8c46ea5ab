"""Penalties on grids: total variation, L1, orthogonality of the lines (Chen et al. 2022, arXiv 2203.09517).

Their scales are the reference implementation's, so that the weights in papers mean the same here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

Weight = float | Callable[[float], float]  # constant, or of the used share of training


class LazyTerms(Mapping[str, Tensor]):
    """Penalties by name that are computed when they are asked for, since most have weight zero."""

    def __init__(self, **terms: Callable[[], Tensor]) -> None:
        self._terms = terms

    def __getitem__(self, name: str) -> Tensor:
        return self._terms[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._terms)

    def __len__(self) -> int:
        return len(self._terms)


def l1(grids: Iterable[Tensor]) -> Float[Tensor, ""]:
    """Sum of the grids' mean absolute values: empties what no view asks for."""
    return torch.stack([grid.abs().mean() for grid in grids]).sum()


def total_variation(grid: Float[Tensor, "1 r h w"]) -> Float[Tensor, ""]:
    """Twice the sum over both axes of the mean squared difference of neighbours."""
    total = grid.new_zeros(())
    for axis in (2, 3):
        if grid.shape[axis] > 1:
            total = total + grid.diff(dim=axis).square().mean()
    return 2 * total


def orthogonality(line: Float[Tensor, "1 r n 1"]) -> Float[Tensor, ""]:
    """Mean absolute inner product of different components of a set of lines (zero for one component)."""
    rows = line[0, :, :, 0]
    rank = len(rows)
    if rank < 2:
        return line.new_zeros(())
    gram = (rows @ rows.T).abs()
    return (gram.sum() - gram.diagonal().sum()) / (rank * (rank - 1))


def switch(before: float, after: float, share: float) -> Callable[[float], float]:
    """A weight that changes once this share of training is done (L1: 8e-5, and 4e-5 after the first alpha mask)."""
    return lambda used: before if used < share else after


def decayed(weight: float, final: float = 0.1) -> Callable[[float], float]:
    """A weight that falls exponentially to ``final`` times itself, as the learning rate does (total variation)."""
    return lambda used: weight * final**used


def weigh(terms: Mapping[str, Tensor], weights: Mapping[str, Weight], used: float) -> Tensor | None:
    """The weighted sum of the penalties, or None where no weight is positive.

    Raises:
        ValueError: a weight for a penalty that the field does not have.
    """
    from tensorbench.core.errors import unknown

    total: Tensor | None = None
    for name, weight in weights.items():
        value = weight(used) if callable(weight) else weight
        if value == 0:
            continue
        if name not in terms:
            raise ValueError(unknown("penalty of this field", name, terms))
        part = value * terms[name]
        total = part if total is None else total + part
    return total
