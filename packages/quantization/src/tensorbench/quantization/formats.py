"""Number formats of a few bits: one registry, exact to the bit.

A ``FloatFormat`` is a split into sign, exponent and mantissa with a bias and a rule for what the top codes mean; an
``IntFormat`` a symmetric grid of integers, or of fractions (MXINT8 counts 64ths). Both round (in every mode of
``rounding``), encode to integer codes and decode back. Values are torch tensors of float32 or float64; all arithmetic
on the way is exact, scaling by powers of two and bits alone, never a logarithm.

Sources: OCP Microscaling Formats (MX) specification 1.0; OCP 8-bit floating point specification 1.0; IEEE 754-2019;
UE5M3 as in Hu, Luschi and Balanca (arXiv 2509.17791): unsigned, bias 15, the exponent field 31 reserved.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from tensorbench.core.errors import unknown

from .rounding import Rounding, check_rounding, to_grid

Specials = Literal["ieee", "one_nan", "finite", "reserved", "power"]
"""What the top exponent means: infinity and NaN as in IEEE; only the all-ones code is NaN; numbers like all others;
nothing (NaN); or, of E8M0, powers of two without zero or subnormals, 255 being NaN."""
Overflow = Literal["saturate", "special"]


@dataclass(frozen=True)
class FloatFormat:
    """``(-1)^sign · 2^(exponent - bias) · (1 + mantissa / 2^mantissa_bits)``, subnormal below ``2^(1 - bias)``."""

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    specials: Specials
    signed: bool = True

    @property
    def bits(self) -> int:
        return int(self.signed) + self.exponent_bits + self.mantissa_bits

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number."""
        return -self.bias if self.specials == "power" else 1 - self.bias

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest number; ``emax`` of the MX specification."""
        top = 2**self.exponent_bits - 1 - self.bias
        return top - (self.specials in ("ieee", "reserved", "power"))

    @property
    def max(self) -> float:
        """The largest finite number."""
        last = 2**self.mantissa_bits - 1 - (self.specials == "one_nan")
        return (1 + last / 2**self.mantissa_bits) * 2.0**self.max_exponent

    @property
    def tiny(self) -> float:
        """The smallest positive number, a subnormal where there are any."""
        return 2.0 ** (self.min_exponent - (0 if self.specials == "power" else self.mantissa_bits))

    @property
    def has_nan(self) -> bool:
        return self.specials != "finite"

    @property
    def has_infinity(self) -> bool:
        return self.specials == "ieee"

    def round(
        self,
        x: Float[Tensor, "*shape"],
        mode: Rounding = "even",
        *,
        overflow: Overflow = "saturate",
        generator: torch.Generator | None = None,
        random_bits: int | None = None,
        midpoint: bool = False,
    ) -> Float[Tensor, "*shape"]:
        """The numbers of this format that ``x`` rounds to, in the dtype of ``x`` (float32 for narrower input).

        ``overflow``: what is beyond the largest number becomes it (``saturate``; infinity too), or infinity, or NaN
        where the format has none (``special``). Negative numbers saturate at the bottom of an unsigned format, and zero
        does in E8M0, which has no zero.

        Raises:
            ValueError: NaN in a format without NaN; an unknown mode; a stochastic mode without generator; integers.
        """
        x = floating(x)
        check_rounding(mode, generator, random_bits)
        if not self.has_nan and bool(torch.isnan(x).any()):
            raise ValueError(f"NaN has no code in {self.name}; mask it first, or use a format with NaN")
        y = self._compute(x)
        if mode == "even" and y.dtype == torch.float32 and self.mantissa_bits <= 12:
            q = self._round_even_fast(y)
        else:
            q = to_grid(y, self._step(y), mode, generator=generator, random_bits=random_bits, midpoint=midpoint)
        return self._limit(q, x, overflow).to(x.dtype)

    def _limit(self, q: Tensor, x: Tensor, overflow: Overflow) -> Tensor:
        if overflow == "special":
            if not self.has_nan:
                raise ValueError(f"{self.name} has neither infinity nor NaN: overflow can only saturate")
            if not self.signed:
                q = q.clamp(min=self.tiny if self.specials == "power" else 0.0)
            beyond = torch.inf if self.has_infinity else torch.nan
            return torch.where(q.abs() > self.max, torch.copysign(torch.full_like(q, beyond), q), q)
        if overflow != "saturate":
            raise ValueError(unknown("overflow", overflow, ("saturate", "special")))
        lowest = -self.max if self.signed else (self.tiny if self.specials == "power" else 0.0)
        return q.clamp(lowest, self.max)

    def _compute(self, x: Tensor) -> Tensor:
        """A copy of ``x`` in which steps of this format and multiples of them are exact."""
        fits = self.min_exponent - self.mantissa_bits > -125 and self.max_exponent < 127
        return x if fits and x.dtype == torch.float32 else x.to(torch.float64)

    def _binade(self, x: Tensor) -> Tensor:
        """The power of two at or below |x|, at least that of the smallest normal number (infinity and NaN: some)."""
        if x.dtype == torch.float32:
            power = (x.view(torch.int32) & 0x7F800000).view(torch.float32)
        else:
            power = (x.view(torch.int64) & 0x7FF0000000000000).view(torch.float64)
        return power.clamp_(2.0**self.min_exponent, 2.0**self.max_exponent)

    def _step(self, x: Tensor) -> Tensor:
        return self._binade(x).mul_(2.0**-self.mantissa_bits)

    def _round_even_fast(self, x: Tensor) -> Tensor:
        """Adding 1.5 · 2^23 steps and taking it off leaves the sum's rounding, ties to even: exact, and four passes."""
        magic = self._binade(x).mul_(1.5 * 2.0 ** (23 - self.mantissa_bits))
        q = torch.copysign((x + magic).sub_(magic), x)  # or -0 would become 0
        return torch.where(x.abs() <= 2 * self.max, q, x)

    def encode(self, x: Float[Tensor, "*shape"], mode: Rounding = "even", **how) -> Int[Tensor, "*shape"]:
        """Integer codes (int32) of ``round(x, mode, **how)``: sign, exponent field, mantissa from the top."""
        q = self.round(x, mode, **how).to(torch.float64)
        magnitude = q.abs()
        finite = torch.isfinite(q)
        safe = torch.where(finite, magnitude, torch.ones_like(q))
        if self.specials == "power":
            code = torch.frexp(safe).exponent.to(torch.int64) - 1 + self.bias
        else:
            binade = self._binade(safe)
            steps = (safe / (binade * 2.0**-self.mantissa_bits)).to(torch.int64)  # 2^m and up where normal
            field = torch.frexp(binade).exponent.to(torch.int64) - 1 - self.min_exponent
            code = steps + (field << self.mantissa_bits)  # the leading one carries into the exponent field
        if self.has_nan:
            code = torch.where(torch.isnan(q), self.nan_code, code)
        if self.has_infinity:
            code = torch.where(torch.isinf(q), self.infinity_code, code)
        if self.signed:
            code = code | (torch.signbit(q).to(torch.int64) << (self.bits - 1))
        return code.to(torch.int32)

    @property
    def infinity_code(self) -> int:
        """Code of plus infinity; only of formats that have it."""
        return (2**self.exponent_bits - 1) << self.mantissa_bits

    @property
    def nan_code(self) -> int:
        """The quiet NaN that encode writes: IEEE's with the top mantissa bit, else the all-ones code."""
        if self.specials == "ieee":
            return self.infinity_code | (1 << (self.mantissa_bits - 1))
        return 2 ** (self.bits - int(self.signed)) - 1

    def values(self) -> Float[Tensor, " codes"]:
        """The value of every code, in the order of the codes (float64)."""
        return _float_values(self).clone()

    def decode(self, codes: Integer[Tensor, "*shape"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
        """Raises ValueError for a code out of range."""
        return _look_up(self, _float_values(self), codes, dtype)


@dataclass(frozen=True)
class IntFormat:
    """Integers of ``bits`` bits, symmetric about zero, counted in units of ``2^-fraction_bits``."""

    name: str
    bits: int
    fraction_bits: int = 0
    signed: bool = True

    @property
    def largest_code(self) -> int:
        return 2 ** (self.bits - int(self.signed)) - 1

    @property
    def max(self) -> float:
        return self.largest_code * 2.0**-self.fraction_bits

    @property
    def max_exponent(self) -> int:
        return self.largest_code.bit_length() - 1 - self.fraction_bits

    @property
    def tiny(self) -> float:
        return 2.0**-self.fraction_bits

    has_nan = False
    has_infinity = False

    def round(
        self,
        x: Float[Tensor, "*shape"],
        mode: Rounding = "even",
        *,
        overflow: Overflow = "saturate",
        generator: torch.Generator | None = None,
        random_bits: int | None = None,
        midpoint: bool = False,
    ) -> Float[Tensor, "*shape"]:
        """As ``FloatFormat.round``; overflow always saturates, there being no code for anything else."""
        x = floating(x)
        if bool(torch.isnan(x).any()):
            raise ValueError(f"NaN has no code in {self.name}; mask it first, or use a format with NaN")
        if overflow != "saturate":
            raise ValueError(f"{self.name} has no infinity and no NaN: overflow can only saturate")
        q = to_grid(x, self.tiny, mode, generator=generator, random_bits=random_bits, midpoint=midpoint)
        return q.clamp_(-self.max if self.signed else 0.0, self.max)

    def encode(self, x: Float[Tensor, "*shape"], mode: Rounding = "even", **how) -> Int[Tensor, "*shape"]:
        """Two's complement codes, as numbers from 0 to 2^bits - 1 (int32)."""
        whole = (self.round(x, mode, **how).to(torch.float64) / self.tiny).to(torch.int32)
        return whole & (2**self.bits - 1)

    def values(self) -> Float[Tensor, " codes"]:
        """The value of every code, in the order of the codes; the most negative, which encode never writes, too."""
        return _int_values(self).clone()

    def decode(self, codes: Integer[Tensor, "*shape"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
        return _look_up(self, _int_values(self), codes, dtype)


Format = FloatFormat | IntFormat


def floating(x: Tensor) -> Tensor:
    """``x`` in float32 or float64; an error for integers, of which nobody knows the unit."""
    if not torch.is_floating_point(x):
        raise ValueError(f"expected floating-point numbers, got {x.dtype}; convert with .float() if that is meant")
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


def _look_up(form: Format, table: Tensor, codes: Tensor, dtype: torch.dtype) -> Tensor:
    index = codes.to(torch.int64)
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= len(table)):
        raise ValueError(
            f"codes of {form.name} are 0 to {len(table) - 1}, got {int(index.min())} to {int(index.max())}"
        )
    return table.to(device=codes.device, dtype=dtype)[index]


@functools.cache
def _float_values(form: FloatFormat) -> Tensor:
    if form.bits > 19:
        raise ValueError(f"{form.name} has {form.bits} bits: its values are too many to list")
    code = torch.arange(2**form.bits, dtype=torch.int64)
    magnitude = code & (2 ** (form.exponent_bits + form.mantissa_bits) - 1)
    field, mantissa = magnitude >> form.mantissa_bits, magnitude & (2**form.mantissa_bits - 1)
    if form.specials == "power":
        value = torch.ldexp(torch.ones(len(code), dtype=torch.float64), field - form.bias)
        return torch.where(code == form.nan_code, torch.nan, value)
    lead = torch.where(field > 0, 2**form.mantissa_bits, 0)
    exponent = field.clamp(min=1) - form.bias - form.mantissa_bits
    value = torch.ldexp((lead + mantissa).to(torch.float64), exponent)
    top = field == 2**form.exponent_bits - 1
    if form.specials == "ieee":
        value = torch.where(top, torch.where(mantissa == 0, torch.inf, torch.nan), value)
    elif form.specials == "reserved":
        value = torch.where(top, torch.nan, value)
    elif form.specials == "one_nan":
        value = torch.where(magnitude == form.nan_code, torch.nan, value)
    if form.signed:
        value = torch.where(code >> (form.bits - 1) == 1, -value, value)
    return value


@functools.cache
def _int_values(form: IntFormat) -> Tensor:
    code = torch.arange(2**form.bits, dtype=torch.int64)
    half = 2 ** (form.bits - 1)
    whole = torch.where(code >= half, code - 2 * half, code) if form.signed else code
    return whole.to(torch.float64) * form.tiny


_FORMATS: tuple[Format, ...] = (
    FloatFormat("fp32", 8, 23, 127, "ieee"),
    FloatFormat("tf32", 8, 10, 127, "ieee"),
    FloatFormat("bf16", 8, 7, 127, "ieee"),
    FloatFormat("fp16", 5, 10, 15, "ieee"),
    FloatFormat("e5m2", 5, 2, 15, "ieee"),
    FloatFormat("e4m3", 4, 3, 7, "one_nan"),
    FloatFormat("e3m4", 3, 4, 3, "ieee"),
    FloatFormat("e3m2", 3, 2, 3, "finite"),
    FloatFormat("e2m3", 2, 3, 1, "finite"),
    FloatFormat("e2m1", 2, 1, 1, "finite"),
    FloatFormat("e8m0", 8, 0, 127, "power", signed=False),
    FloatFormat("ue4m3", 4, 3, 7, "one_nan", signed=False),
    FloatFormat("ue5m3", 5, 3, 15, "reserved", signed=False),
    IntFormat("mxint8", 8, fraction_bits=6),
    *(IntFormat(f"int{bits}", bits) for bits in range(2, 17)),
)
FORMATS: dict[str, Format] = {form.name: form for form in _FORMATS}
"""Every format by name."""


def get_format(name: str | Format) -> Format:
    """Raises ValueError for an unknown name, with the nearest known one."""
    if isinstance(name, FloatFormat | IntFormat):
        return name
    if name not in FORMATS:
        raise ValueError(unknown("number format", name, FORMATS))
    return FORMATS[name]
