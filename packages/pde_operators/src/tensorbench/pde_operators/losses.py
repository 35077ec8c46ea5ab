"""Losses between fields: relative and absolute Lᵖ and Sobolev H¹ norms, one number a sample, on grids of 1 to 3 axes.

The norm of a sample is the integral over the domain by the rectangle rule (exact for periodic fields that the grid
resolves), summed over channels. H¹ adds the squares of all first derivatives, by second-order differences or, for
periodic fields, by the Fourier series. Used so by Kossaifi et al., TMLR 2024, arXiv 2310.00120 (training in H¹, reports
in relative L²).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.grids import spectral_derivative

REDUCTIONS = ("mean", "sum", "none")
DERIVATIVES = ("central", "spectral")


def relative_l2(
    prediction: Float[Tensor, "batch channels *grid"], target: Float[Tensor, "batch channels *grid"]
) -> Float[Tensor, ""]:
    """Mean over samples of ‖prediction - target‖ / ‖target‖."""
    return LpLoss()(prediction, target)


@dataclass(frozen=True)
class LpLoss:
    """‖prediction - target‖ₚ, over ‖target‖ₚ where ``relative``; ``reduction`` over the samples.

    ``size`` is the measure of the whole domain, which only absolute norms depend on.
    """

    p: float = 2.0
    relative: bool = True
    reduction: str = "mean"
    size: float = 1.0

    def __post_init__(self) -> None:
        _check_options(self.reduction)
        if not self.p >= 1:
            raise ValueError(f"p {self.p} must be at least 1 (math.inf is the largest value)")

    def norm(self, x: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, " batch"]:
        """The Lᵖ norm of each sample."""
        cell = self.size / math.prod(x.shape[2:])
        return torch.linalg.vector_norm(x.flatten(1), self.p, dim=1) * cell ** (1 / self.p)

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        _check_fields(prediction, target)
        error = self.norm(prediction - target)
        return _reduce(error / _positive(self.norm(target)) if self.relative else error, self.reduction)


@dataclass(frozen=True)
class H1Loss:
    """√(‖e‖² + ‖∇e‖²) of the error e, over that of the target where ``relative``.

    Args:
        periodic: of all axes, or one value an axis. Elsewhere one-sided differences of second order stand at the ends.
        derivative: ``central`` differences, or ``spectral`` (all axes periodic).
        lengths: of the domain, one number or one an axis.
    """

    periodic: bool | Sequence[bool] = True
    derivative: str = "central"
    relative: bool = True
    reduction: str = "mean"
    lengths: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        _check_options(self.reduction)
        if self.derivative not in DERIVATIVES:
            raise ValueError(unknown("derivative", self.derivative, DERIVATIVES))
        if self.derivative == "spectral" and not all(
            [self.periodic] if isinstance(self.periodic, bool) else self.periodic
        ):
            raise ValueError("spectral derivatives need periodic fields; use derivative='central'")

    def norm(self, x: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, " batch"]:
        """The H¹ norm of each sample."""
        axes = x.ndim - 2
        lengths = [float(self.lengths)] * axes if isinstance(self.lengths, (int, float)) else list(self.lengths)
        periodic = [self.periodic] * axes if isinstance(self.periodic, bool) else list(self.periodic)
        if not (1 <= axes <= 3 and len(lengths) == len(periodic) == axes):
            raise ValueError(f"a field of {axes} axes with lengths {lengths} and periodic {periodic}; 1 to 3 axes fit")
        squares = x.square().flatten(1).sum(1)
        for axis, (length, wraps) in enumerate(zip(lengths, periodic, strict=True)):
            if self.derivative == "spectral":
                slope = spectral_derivative(x, axis=axis + 2, length=length)
            else:
                slope = difference(x, axis + 2, length / x.shape[axis + 2], wraps)
            squares = squares + slope.square().flatten(1).sum(1)
        return _root(squares * math.prod(n / m for n, m in zip(lengths, x.shape[2:], strict=True)))

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        _check_fields(prediction, target)
        error = self.norm(prediction - target)
        return _reduce(error / _positive(self.norm(target)) if self.relative else error, self.reduction)


def difference(x: Tensor, axis: int, spacing: float, periodic: bool) -> Tensor:
    """Second-order central differences; one-sided ones at the ends of an axis without period.

    Raises:
        ValueError: an axis without period of fewer than three points.
    """
    if periodic:
        return (torch.roll(x, -1, axis) - torch.roll(x, 1, axis)) / (2 * spacing)
    n = x.shape[axis]
    if n < 3:
        raise ValueError(f"an axis of {n} points has no second-order difference at its ends; at least 3 are needed")
    a, b, c = (x.narrow(axis, k, 1) for k in range(3))
    z, y, w = (x.narrow(axis, n - k, 1) for k in (1, 2, 3))
    middle = x.narrow(axis, 2, n - 2) - x.narrow(axis, 0, n - 2)
    return torch.cat([4 * b - 3 * a - c, middle, 3 * z - 4 * y + w], dim=axis) / (2 * spacing)


def _check_options(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(unknown("reduction", reduction, REDUCTIONS))


def _check_fields(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape or prediction.ndim < 3:
        raise ValueError(
            "fields (batch, channels, *grid) of one shape are needed, "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    if not len(prediction):
        raise ValueError("no fields: the batch is empty")


def _root(squares: Tensor) -> Tensor:
    """√, with gradient 0 where the squares are 0 (the root's own slope is infinite there)."""
    zero = squares == 0
    return torch.where(zero, squares, torch.where(zero, torch.ones_like(squares), squares).sqrt())


def _positive(norm: Tensor) -> Tensor:
    """Norms of targets, which a relative error divides by."""
    if not bool((norm.detach() != 0).all()):
        raise ValueError("a target field is 0 everywhere: its relative error is undefined; use relative=False")
    return norm


def _reduce(values: Float[Tensor, " batch"], reduction: str) -> Tensor:
    return values if reduction == "none" else values.mean() if reduction == "mean" else values.sum()
