"""Matrices that stand for gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorbench.core.data import dataset

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Gradients:
    """``steps`` gradients of one weight, in float64, each of the same condition number."""

    of_steps: Float[Tensor, "steps out in"]
    condition: float


@dataset(title="Matrices of a given condition", source="generated here", licence="Apache-2.0", generated=True)
def conditioned_gradients(
    *, seed: int, out: int = 12, into: int = 8, condition: float = 100.0, steps: int = 10
) -> Gradients:
    """Singular values fall geometrically from 1 to 1/condition; bases are random and new at each step."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    rank = min(out, into)

    def basis(rows: int) -> Tensor:
        return torch.linalg.qr(torch.randn(steps, rows, rank, generator=generator, dtype=torch.float64))[0]

    values = condition ** -torch.linspace(0, 1, rank, dtype=torch.float64)
    return Gradients((basis(out) * values) @ basis(into).mT, condition)
