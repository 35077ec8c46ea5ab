"""Errors of a unit's operations one by one, of chains of products, and of long sums: the paper's numeric profile.

Operations (Sun et al., arXiv 2206.02874, Section on numeric behaviours): with operands from N(0, 1), the multiplication
``a b``, the addition of the inner product ``a1 1 + a2 1`` and the accumulation ``a 1 + c``, each against float32 on a
CPU (float64 for fp64 units).
``init="low"`` rounds the operands first, so that the unit's arithmetic alone is seen; ``init="fp32"`` compares with the
unrounded operands, so that the cast dominates. A chain is ``A <- A B_t`` with fresh B_t; the result re-enters in the
operand format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

from .presets import get_unit
from .unit import MMAUnit

Init = Literal["low", "fp32"]


def profile_ops(unit: str | MMAUnit, init: Init = "low", n: int = 1024, *, seed: int = 0) -> dict[str, float]:
    """Mean absolute errors of ``multiplication``, ``addition`` (of two products) and ``accumulation`` over ``n`` draws.

    Raises:
        ValueError: an unknown init or unit, no draws, an integer unit.
    """
    unit = get_unit(unit)
    if init not in get_args(Init):
        raise ValueError(unknown("init", init, get_args(Init)))
    if n < 1:
        raise ValueError(f"n = {n}: at least one draw is needed")
    if unit.align == "integer":
        raise ValueError(f"{unit.name} adds integers, without any error to profile")
    generator = torch.Generator().manual_seed(seed)
    a1, a2, b, c = (torch.randn(n, generator=generator).to(unit.dtype) for _ in range(4))
    low = [unit.cast(x).to(unit.dtype) for x in (a1, a2, b)]
    if unit.acc_fmt == "fp16":
        c = unit.accumulator.round(c)
    one, zero = torch.ones(n, dtype=unit.dtype), torch.zeros(n, dtype=unit.dtype)
    x1, x2, y = low if init == "low" else (a1, a2, b)
    l1, l2, ly = low
    rows = {
        "multiplication": (unit.dot(torch.stack([l1, zero], 1), torch.stack([ly, zero], 1)), x1 * y),
        "addition": (unit.dot(torch.stack([l1, l2], 1), torch.stack([one, one], 1)), x1 + x2),
        "accumulation": (unit.dot(torch.stack([l1, zero], 1), torch.stack([one, zero], 1), c), x1 + c),
    }
    return {
        name: float((got.to(torch.float64) - want.to(torch.float64)).abs().mean()) for name, (got, want) in rows.items()
    }


def chain_error(
    unit: str | MMAUnit, lengths: Sequence[int], chains: int = 200, *, seed: int = 0, shape: tuple[int, int] = (16, 8)
) -> Float[Tensor, "chains lengths"]:
    """Relative l2 error of chains of products against the same chain in float64, at each length.

    A is rows × k, every B_t k × k of N(0, 1), both rounded to the operand format first. Infinite or NaN once a result
    overflowed.

    Raises:
        ValueError: lengths that do not rise from at least 1, no chains, an integer unit.
    """
    unit = get_unit(unit)
    lengths = list(lengths)
    if not lengths or lengths[0] < 1 or lengths != sorted(set(lengths)):
        raise ValueError(f"lengths {lengths} must rise and start at 1 or later")
    if chains < 1:
        raise ValueError(f"chains = {chains}: at least one is needed")
    if unit.align == "integer":
        raise ValueError(f"{unit.name} has no chain of floating-point products")
    generator = torch.Generator().manual_seed(seed)
    rows, k = shape
    low = unit.cast(torch.randn(chains, rows, k, generator=generator))
    exact = low.to(torch.float64)
    errors = []
    for t in range(1, lengths[-1] + 1):
        b = unit.cast(torch.randn(chains, k, k, generator=generator))
        result = unit.mma(unit.cast(low), b).to(torch.float64)
        exact = exact @ b.to(torch.float64)
        if t in lengths:
            errors.append((result - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1))
        low = result.to(unit.dtype)
    return torch.stack(errors, dim=1)


def sum_error(
    unit: str | MMAUnit, length: int, rows: int = 16, *, seed: int = 0, positive: bool = True
) -> Float[Tensor, "rows rows"]:
    """Signed relative errors of a rows × rows product whose sums have ``length`` terms, uniform in (0, 1] or normal.

    Relative to the sum of the absolute products, computed in float64; operands are rounded first. Negative: too small.

    Raises:
        ValueError: no terms or rows, an integer unit.
    """
    unit = get_unit(unit)
    if unit.align == "integer":
        raise ValueError(f"{unit.name} adds integers, without any error to profile")
    if length < 1 or rows < 1:
        raise ValueError(f"length {length} and rows {rows} must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    draw = (lambda *s: 1 - torch.rand(*s, generator=generator)) if positive else (
        lambda *s: torch.randn(*s, generator=generator))  # fmt: skip
    A, B = unit.cast(draw(rows, length)), unit.cast(draw(length, rows))
    exact = A.to(torch.float64) @ B.to(torch.float64)
    scale = A.abs().to(torch.float64) @ B.abs().to(torch.float64)
    return (unit.mma(A, B).to(torch.float64) - exact) / scale
