"""What all preconditioner fitters share: pairs are checked at the door, and state is a dictionary of tensors.

A fitter looks for the minimiser P of c(P) = E[hᵀ P h + vᵀ P⁻¹ v] from pairs (v, h). With h = H v it is |H|⁻¹; with h a
gradient and v independent of it, the inverse square root of E[h hᵀ] (X.-L. Li, 2024, arXiv 2402.11858).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from tensorbench.core.errors import unknown

NonFinite = Literal["raise", "skip"]


class Fitter(ABC):
    """Fits P from pairs. ``state`` holds every tensor that the next update depends on (no generator's state)."""

    shape: tuple[int, ...]
    damping: float = 0.0
    nonfinite: NonFinite = "raise"
    takes_complex = False

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def update(self, v: Tensor, h: Tensor) -> bool:
        """One step on a pair; whether it was made (a pair with NaN or infinity is skipped where the fitter skips).

        Raises:
            ValueError: shapes that differ from the fitter's, a complex pair, an h of zeros without damping (P would
                grow without bound), a pair with NaN or infinity where ``nonfinite`` is ``"raise"``.
        """
        if tuple(v.shape) != self.shape or tuple(h.shape) != self.shape:
            raise ValueError(f"v {tuple(v.shape)} and h {tuple(h.shape)} must both have shape {self.shape}")
        if not self.takes_complex and (v.is_complex() or h.is_complex()):
            raise ValueError(f"{type(self).__name__} fits real pairs only; Kron takes complex ones")
        size = float(torch.linalg.vector_norm(h))
        if not math.isfinite(size + float(torch.linalg.vector_norm(v))) and not (
            bool(torch.isfinite(v).all()) and bool(torch.isfinite(h).all())
        ):
            if self.nonfinite == "skip":
                return False
            raise ValueError("the pair holds NaN or infinity; no update was made (nonfinite='skip' passes over such)")
        if size == 0 and self.damping == 0 and not bool(h.any()):
            raise ValueError("h is zero: without damping, P would grow without bound; use damping > 0 or leave it out")
        self._update(v, h)
        return True

    @abstractmethod
    def _update(self, v: Tensor, h: Tensor) -> None: ...

    @abstractmethod
    def apply(self, g: Tensor) -> Tensor:
        """P g."""

    @property
    @abstractmethod
    def P(self) -> Inexact[Tensor, "n n"]:
        """The preconditioner as a matrix (of the flattened tensor)."""

    def error(self, H: Float[Tensor, "n n"]) -> float:
        """‖P H - I‖_F."""
        product = self.P.to(H.dtype) @ H
        product.diagonal().sub_(1)
        return float(torch.linalg.matrix_norm(product))


class VectorFitter(Fitter):
    """A fitter of pairs of vectors of n numbers."""

    def __init__(self, n: int, *, nonfinite: NonFinite = "raise") -> None:
        super().__init__()
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"n {n!r} must be a whole number of at least 1")
        if nonfinite not in ("raise", "skip"):
            raise ValueError(unknown("nonfinite", nonfinite, ["raise", "skip"]))
        self.shape, self.nonfinite = (n,), nonfinite


def damped(h: Tensor, damping: float, generator: torch.Generator | None, noise: Tensor | None = None) -> Tensor:
    """h + (damping + ε |h|) noise, with the precision's ε: an upper bound on P and room for round-off errors."""
    if damping == 0:
        return h
    if noise is None:
        noise = torch.randn(h.shape, dtype=h.dtype, device=h.device, generator=generator)
    return h + (damping + torch.finfo(h.dtype).eps * h.abs()) * noise


def check_step(name: str, value: float) -> float:
    """A normalised step of an update, in (0, 2]."""
    if not 0 < value <= 2:
        raise ValueError(f"{name} {value} must be in (0, 2]; the update divides by a bound of the curvature")
    return value
