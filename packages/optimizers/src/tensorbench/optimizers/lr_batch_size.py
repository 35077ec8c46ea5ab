"""Largest stable learning rate as a function of the batch size, and rules that follow from it.

Granziol, Zohren & Roberts (2022, JMLR 23(173), arXiv 2006.09092): a batch of b samples has a Hessian whose largest
eigenvalue is λ₁'(b) = λ₁ + Pσ²/(bλ₁) (see :mod:`tensorbench.optimizers.random_matrices`). Gradient descent is stable up
to a learning rate of 2/λ₁', with momentum ρ up to 2(1 + ρ)/λ₁':

    lr_max = 2 b λ₁ / (b λ₁² + Pσ²),  linear in b below b* = Pσ²/λ₁² and 2/λ₁ above it.

Adam divides by a preconditioner of about the square root of that curvature, hence 2/√λ₁' and √b below b*. A damping of
second-order and adaptive methods must be at least proportional to lr/b.

λ₁' as above takes the spike to be outside of the bulk. By the theory itself it is lost where b < b*, and the largest
eigenvalue is then the bulk's edge 2√(Pσ²/b), which makes the rates √b and b^¼: ``bulk=True`` says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tensorbench.core.errors import unknown

from .base import in_interval, positive
from .random_matrices import batch_eigenvalue, noise_variance

Kind = Literal["sgd", "adam"]
_POWER = {"sgd": 1.0, "adam": 0.5}


def max_lr(
    kind: Kind, lam1: float, P_sigma2: float, b: float, momentum: float = 0.0, N: float = math.inf, bulk: bool = False
) -> float:
    """The largest learning rate at which a step on a batch of b samples is stable.

    Args:
        kind: ``sgd``, or ``adam`` for any method that divides by the root of the curvature; there the unit of the rate
            is the preconditioner's, so that the growth with b means more than the value.
        lam1: largest eigenvalue of the Hessian of all data.
        P_sigma2: variance of the samples' Hessians (:func:`~tensorbench.optimizers.hessian_noise.hessian_noise`).
        momentum: heavy ball's.
        N: number of samples; infinite unless it is given.
        bulk: whether a spike below the noise is lost in the bulk.

    Raises:
        ValueError: unknown kind, an eigenvalue that is not positive, a batch size outside of [1, N].
    """
    power = _power(kind)
    positive("lam1", lam1)
    in_interval("momentum", momentum, 0, 1)
    s2 = noise_variance(P_sigma2, b, N)
    largest = batch_eigenvalue(lam1, P_sigma2, b, N) if bulk else lam1 + s2 / lam1
    return 2 * (1 + momentum) / largest**power


def critical_batch(lam1: float, P_sigma2: float) -> float:
    """b* = Pσ²/λ₁², where the linear growth of the learning rate ends (half of its limit is reached there)."""
    positive("lam1", lam1)
    return noise_variance(P_sigma2, 1) / lam1**2


def lr_schedule_for_batch(lr0: float, b0: float, b: float, kind: Kind, cap: float = math.inf) -> float:
    """The learning rate for b samples from one that is good for b0: lr0·b/b0 (SGD) or lr0·√(b/b0) (Adam), up to cap."""
    for name, value in (("lr0", lr0), ("b0", b0), ("b", b)):
        positive(name, value)
    if not cap > 0:
        raise ValueError(f"cap {cap} must be positive")
    return min(cap, lr0 * (b / b0) ** _power(kind))


def damping_rule(lr: float, b: float, scale: float = 1.0) -> float:
    """The smallest damping, ``scale``·lr/b; one good value at another (lr, b) gives the scale."""
    return positive("scale", scale) * positive("lr", lr) / positive("b", b)


def heavy_ball(largest: float, smallest: float) -> tuple[float, float]:
    """Polyak's learning rate and momentum for a quadratic with eigenvalues between the two.

    4/(√L + √l)² and ((√L - √l)/(√L + √l))²; the error shrinks by √momentum a step.

    Raises:
        ValueError: they are not positive, or in the wrong order.
    """
    if not 0 < smallest <= largest < math.inf:
        raise ValueError(f"eigenvalues {smallest} and {largest} must be positive, finite and in this order")
    high, low = math.sqrt(largest), math.sqrt(smallest)
    return 4 / (high + low) ** 2, ((high - low) / (high + low)) ** 2


def diverged(losses: Iterable[float], start: float, factor: float = 4.0) -> bool:
    """Whether a loss is NaN or above ``factor`` times the one at the start. Stops reading at the first such loss."""
    return any(not value <= factor * start for value in losses)


@dataclass(frozen=True)
class Threshold:
    """The largest learning rate of a grid that was stable and the next one, which was not (NaN: none was tried)."""

    stable: float
    unstable: float
    runs: int


def find_max_lr(train: Callable[[float], bool], grid: Sequence[float]) -> Threshold:
    """Bisection for where training starts to diverge.

    Args:
        train: runs at a learning rate and says whether it stayed stable (``not diverged(...)``).
        grid: learning rates in rising order. What lies below a stable rate is taken as stable, above an unstable one
            as unstable: about log₂ of the grid's length runs are made.

    Raises:
        ValueError: a grid that does not rise, or whose first rate is unstable.
    """
    if not grid or any(not 0 < a < b for a, b in itertools.pairwise(grid)):
        raise ValueError("the grid of learning rates must be positive and rise")
    low, high, runs = -1, len(grid), 0
    while high - low > 1:
        middle = (low + high) // 2
        runs += 1
        if train(grid[middle]):
            low = middle
        else:
            high = middle
    if low < 0:
        raise ValueError(f"already the smallest learning rate, {grid[0]:g}, is unstable; start the grid lower")
    return Threshold(grid[low], grid[high] if high < len(grid) else math.nan, runs)


def _power(kind: str) -> float:
    if kind not in _POWER:
        raise ValueError(unknown("kind", kind, _POWER))
    return _POWER[kind]
