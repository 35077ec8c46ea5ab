"""Rounding to a whole number of steps, in every way that few-bit arithmetic uses.

``to_grid(x, step, mode)`` rounds ``x`` to a multiple of ``step``, a power of two: the division is then exact, and so is
each mode. ``floor`` and ``ceil`` are the directed roundings of IEEE 754 (towards minus and plus infinity), ``even`` and
``away`` break ties to the even neighbour and away from zero.

Stochastic rounding goes up with the probability that makes it unbiased. Hardware has few random bits: with
``random_bits = k`` a uniform integer ``r`` of k bits decides, up where ``fraction + r / 2^k >= 1``, which truncates the
probability to a multiple of 2^-k; with ``midpoint`` up where ``fraction + (2 r + 1) / 2^(k+1) >= 1``, which rounds it
to the nearest multiple instead (Graphcore's eight-bit variant in arXiv 2509.17791).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

Rounding = Literal["even", "away", "zero", "floor", "ceil", "stochastic"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)


def check_rounding(mode: str, generator: torch.Generator | None, random_bits: int | None = None) -> None:
    """Raise ValueError on an unknown mode, or on a stochastic one that could not be repeated."""
    if mode not in ROUNDINGS:
        raise ValueError(unknown("rounding", mode, ROUNDINGS))
    if mode == "stochastic" and generator is None:
        raise ValueError("stochastic rounding needs a torch.Generator, so that it can be repeated")
    if random_bits is not None and not 1 <= random_bits <= 24:
        raise ValueError(f"random_bits {random_bits} must be between 1 and 24, or None for a full uniform number")


def to_grid(
    x: Float[Tensor, "*shape"],
    step: Float[Tensor, "*shape"] | float,
    mode: Rounding = "even",
    *,
    generator: torch.Generator | None = None,
    random_bits: int | None = None,
    midpoint: bool = False,
) -> Float[Tensor, "*shape"]:
    """``x`` rounded to multiples of ``step`` (powers of two, elementwise or one for all). NaN and infinity stay.

    Raises:
        ValueError: an unknown mode; ``stochastic`` without a generator; random bits out of range.
    """
    check_rounding(mode, generator, random_bits)
    y = x / step
    if mode == "even":
        return torch.round(y).mul_(step)
    if mode == "zero":
        return torch.trunc(y).mul_(step)
    if mode == "floor":
        return torch.floor(y).mul_(step)
    if mode == "ceil":
        return torch.ceil(y).mul_(step)
    if mode == "away":
        whole = torch.trunc(y)  # y + 0.5 would round before it is truncated
        return torch.where((y - whole).abs() >= 0.5, whole + torch.sign(y), whole).mul_(step)
    below = torch.floor(y)
    fraction = y - below
    if random_bits is None:
        up = torch.rand(y.shape, generator=generator, dtype=y.dtype, device=y.device) < fraction
    else:
        levels = 2**random_bits
        r = torch.randint(levels, y.shape, generator=generator, device=y.device).to(torch.float64)
        threshold = (2 * r + 1) / (2 * levels) if midpoint else r / levels
        up = fraction + threshold >= 1
    return torch.where(y.isfinite(), below + up.to(y.dtype), y).mul_(step)
