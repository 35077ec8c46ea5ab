"""Integers and float64 numbers to a floating-point format: the last step of every unit, and fused multiply-add.

``round_integer`` takes an exact sum ``S · 2^lsb`` (``|S| < 2^62``) to the format's grid, towards zero or to nearest,
ties to even, with subnormals; beyond the largest number it gives infinity in both modes, as matrix units do. ``fma``
rounds ``a b + c`` once: for short significands through a float64 sum rounded to odd (Boldo and Melquiond, "Emulation
of FMA and correctly rounded sums", IEEE Trans. Computers 57(4), 2008), in float64 by their algorithm on error-free
transformations.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.quantization.formats import FloatFormat
from tensorbench.quantization.rounding import Rounding

UnitRounding = Literal["RZ", "RN"]
FP64 = FloatFormat("fp64", 11, 52, 1023, "ieee")
_MODES: dict[str, Rounding] = {"RZ": "zero", "RN": "even"}


def power_of_two(exponent: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``2^exponent`` in float64, exact for exponents from -1022 to 1023."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def exponent_of(x: Float[Tensor, "*shape"], lowest: int, zero: int = -30000) -> Int[Tensor, "*shape"]:
    """Exponent of the leading bit of float64 numbers, at least ``lowest`` (subnormals); ``zero`` for zeros. int32."""
    bits = (x.view(torch.int64) >> 52) & 0x7FF
    exponent = (bits.to(torch.int32) - 1023).clamp_(min=lowest)
    return torch.where(x == 0, torch.full_like(exponent, zero), exponent)


def round_integer(
    total: Int[Tensor, "*shape"],
    lsb: Int[Tensor, "*shape"],
    form: FloatFormat,
    mode: UnitRounding,
    mantissa_bits: int | None = None,
) -> Float[Tensor, "*shape"]:
    """``total · 2^lsb`` in ``form`` (float64 values), with fewer mantissa bits where ``mantissa_bits`` says so.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in _MODES:
        raise ValueError(unknown("rounding of a unit", mode, _MODES))
    bits = form.mantissa_bits if mantissa_bits is None else mantissa_bits
    magnitude, lsb = total.abs(), lsb.to(torch.int64)
    top = _bit_length(magnitude) - 1 + lsb
    step = top.clamp(min=form.min_exponent) - bits
    drop = step - lsb
    gone = drop > 62  # all bits lie below half a step
    drop = drop.clamp(0, 62)
    kept = torch.where(gone, 0, magnitude >> drop)
    if mode == "RN":
        rest = magnitude - (kept << drop)
        half = (torch.ones_like(drop) << drop) >> 1
        up = (rest > half) | ((rest == half) & (kept & 1 == 1))
        kept = kept + (up & (drop > 0) & ~gone).to(torch.int64)
    value = kept.to(torch.float64) * power_of_two((lsb + drop).clamp(min=-1022))
    value = torch.where(value > form.max, torch.inf, value)
    return torch.where(total < 0, -value, value)


def _bit_length(n: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Bits of non-negative integers below 2^62; 0 of zero."""
    high = n >> 31
    low = n & (2**31 - 1)
    part = torch.where(high > 0, high, low).to(torch.float64)
    length = ((part.view(torch.int64) >> 52) & 0x7FF) - 1022
    return torch.where(n == 0, 0, length + torch.where(high > 0, 31, 0))


def two_sum(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> tuple[Tensor, Tensor]:
    """``s = fl(a + b)`` and its error, ``a + b = s + error`` exactly."""
    s = a + b
    back = s - a
    return s, (a - (s - back)) + (b - back)


def _two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    p = a * b
    high_a, low_a = _split(a)
    high_b, low_b = _split(b)
    return p, ((high_a * high_b - p) + high_a * low_b + low_a * high_b) + low_a * low_b


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    large = x.abs() > 2.0**990  # the product below would overflow
    y = torch.where(large, x * 2.0**-60, x)
    t = y * 134217729.0
    high = t - (t - y)
    high = torch.where(large, high * 2.0**60, high)
    return high, x - high


def add_to_odd(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``a + b`` in float64 rounded to odd: an inexact sum gets the neighbour with an odd last bit."""
    s, error = two_sum(a, b)
    bits = s.view(torch.int64)
    fix = (error != 0) & torch.isfinite(s) & (bits & 1 == 0)
    step = torch.where((error > 0) == (s > 0), 1, -1)
    return torch.where(fix, bits + step, bits).view(torch.float64)


def fma(
    a: Float[Tensor, "*shape"],
    b: Float[Tensor, "*shape"],
    c: Float[Tensor, "*shape"],
    form: FloatFormat,
    mode: UnitRounding = "RN",
) -> Float[Tensor, "*shape"]:
    """``a b + c`` rounded once to ``form``; float64 values in and out.

    Below float64, ``a`` and ``b`` need significands of at most 26 bits (fp32 has 24). In float64 only "RN", and the
    product must not come near underflow or overflow (its error term would not be representable).

    Raises:
        ValueError: float64 with another rounding than to nearest.
    """
    if form.mantissa_bits <= 23:
        exact = add_to_odd(a * b, c)
        if mode == "RN" and form.name == "fp32":
            return exact.to(torch.float32).to(torch.float64)
        return form.round(exact, _MODES[mode], overflow="special")
    if mode != "RN":
        raise ValueError("fused multiply-add in fp64 rounds to nearest (RN) only")
    p, p_error = _two_product(a, b)
    p_error = torch.where(torch.isfinite(p_error), p_error, 0.0)
    u, u_error = two_sum(c, p_error)
    v, v_error = two_sum(p, u)
    result = v + add_to_odd(u_error, v_error)
    return torch.where(torch.isfinite(p) & torch.isfinite(v), result, p + c)
