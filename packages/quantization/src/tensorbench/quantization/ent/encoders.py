"""Recoders of an integer operand: EN-T, modified Booth, canonical signed digits, and none.

A multiplier recodes one operand into digits, each of which selects a multiple of the other. Where that operand is
shared by many multipliers the recoder can stand at the edge of the array; what then travels is its code, so its width
matters.

- **EN-T** (Wu, Gui, Zeng, Wang, Liang, Jin: EN-T, IEEE ICCD 2024, arXiv 2404.11887): sign and magnitude m = |x|, digits
  b_i of two bits; carry c_i = (b_{i-1} = 3) or (b_{i-1} >= 2 and c_{i-1}), c_1 from c_0 = 0; code e_i = (b_i + c_i)
  mod 4, where 3 means -1. Digits {-1, 0, 1, 2}, n + 1 bits with the sign, n/2 - 1 cells. The most negative number
  keeps its magnitude 2^(n-1), as in the authors' Verilog.
- **MBE** (modified Booth, radix 4): digits {-2, ..., 2} of overlapping triples, three control bits (neg, two, one)
  each: 3n/2 bits, n/2 cells.
- **CSD**: digits {-1, 0, 1}, no two neighbours nonzero, two bits (neg, one) each: 2n bits.
- **Plain**: the bits themselves, the highest counting -2^(n-1).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from tensorbench.core.errors import unknown

Representation = Literal["twos_complement", "sign_magnitude"]


class Code(NamedTuple):
    """Digits (lowest first, along a last axis), the sign that applies to all of them, and the packed code."""

    digits: Int[np.ndarray, "*shape digits"]
    sign: Int[np.ndarray, "*shape"]
    packed: Int[np.ndarray, "*shape"]


@dataclass(frozen=True)
class Encoder:
    """What all recoders share: ``x = (-1)^sign · sum_i digit_i · radix^i``.

    ``representation`` is that of the operand: ``sign_magnitude`` input has its sign in the top bit and is given as the
    signed number it stands for (so -2^(n-1) does not exist).

    Raises:
        ValueError: n is odd or out of 2 to 30, or an unknown representation.
    """

    n: int = 8
    representation: Representation = "twos_complement"
    kind: ClassVar[str] = ""
    radix: ClassVar[int] = 4

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or not 2 <= self.n <= 30 or self.n % 2:
            raise ValueError(f"n = {self.n!r}: operands are recoded two bits at a time; use an even n from 2 to 30")
        if self.representation not in ("twos_complement", "sign_magnitude"):
            raise ValueError(unknown("representation", self.representation, ("twos_complement", "sign_magnitude")))

    @property
    def n_digits(self) -> int:
        return self.n // 2 if self.radix == 4 else self.n

    @property
    def width(self) -> int:
        """Bits of the packed code."""
        raise NotImplementedError

    @property
    def n_cells(self) -> int:
        """Digit cells of the recoder (without the conversion to sign and magnitude, where there is one)."""
        raise NotImplementedError

    def check(self, x: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        """``x`` as an array; ValueError for anything but integers within range."""
        x = np.asarray(x)
        if x.dtype.kind not in "iu":
            raise ValueError(f"expected integers, got {x.dtype}; round and clip to {self.n} bits first")
        half = 2 ** (self.n - 1)
        low = -half if self.representation == "twos_complement" else 1 - half
        if x.size and (x.min() < low or x.max() >= half):
            raise ValueError(f"values from {x.min()} to {x.max()} do not fit in {self.n} bits ({low} to {half - 1})")
        return x

    def encode(self, x: Int[np.ndarray, "*shape"]) -> Code:
        """Code of every number; up to n = 16 looked up in a table that the arithmetic has filled once.

        Raises:
            ValueError: input that is not integer or out of range.
        """
        x = self.check(x)
        if self.n > 16:
            return self._compute(x.astype(np.int64))
        table = _table(type(self), self.n)
        index = np.asarray(x, dtype=np.uint16) & np.uint16(2**self.n - 1)
        return Code(*(column.take(index, axis=0) for column in table))

    def _compute(self, x: Int[np.ndarray, "*shape"]) -> Code:
        raise NotImplementedError

    def digits_of(self, packed: Int[np.ndarray, "*shape"]) -> tuple[np.ndarray, np.ndarray]:
        """Digits and sign of a packed code."""
        raise NotImplementedError

    def decode(self, packed: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        """The numbers behind packed codes. Raises ValueError for a code that is wider than ``width``."""
        packed = np.asarray(packed)
        if packed.dtype.kind not in "iu" or (packed.size and (packed.min() < 0 or int(packed.max()) >> self.width)):
            raise ValueError(f"packed codes are integers of {self.width} bits, 0 to {2**self.width - 1}")
        digits, sign = self.digits_of(packed.astype(np.int64))
        value = digits @ (self.radix ** np.arange(self.n_digits, dtype=np.int64))
        return np.where(sign == 1, -value, value)

    def mean_nonzero(self, x: Int[np.ndarray, " values"], weights: np.ndarray | None = None) -> float:
        """Mean number of nonzero digits, over values with ``weights`` (default: all alike)."""
        return float(np.average((self.encode(x).digits != 0).sum(axis=-1), weights=weights))


@dataclass(frozen=True)
class EntEncoder(Encoder):
    """EN-T: digits {-1, 0, 1, 2} of the magnitude, n + 1 bits: codes of two bits from the lowest, then the sign."""

    kind: ClassVar[str] = "ent"

    @property
    def width(self) -> int:
        return self.n + 1

    @property
    def n_cells(self) -> int:
        return self.n // 2 - 1

    def _compute(self, x: Int[np.ndarray, "*shape"]) -> Code:
        magnitude = np.abs(x)
        sign = (x < 0).astype(np.int64)
        # Two bits at a time a carry rises where a digit reaches 3: all at once, it is the carry of m + 0101...01 out of
        # each pair, except that the pair above the last keeps its two bits.
        ones = sum(1 << (2 * i) for i in range(self.n_digits))
        carries = (((magnitude + ones) ^ magnitude ^ ones) & (ones << 2)) & ((1 << self.n) - 1)
        low = magnitude & ones
        packed = (magnitude ^ carries) ^ ((low & carries) << 1)  # each pair plus its carry, mod 4
        packed |= sign << self.n
        digits, _ = self.digits_of(packed)
        return Code(digits, sign, packed)

    def digits_of(self, packed: Int[np.ndarray, "*shape"]) -> tuple[np.ndarray, np.ndarray]:
        code = (packed[..., None] >> (2 * np.arange(self.n_digits))) & 3
        code -= (code == 3).astype(np.int64) << 2
        return code, (packed >> self.n) & 1


@dataclass(frozen=True)
class MBEEncoder(Encoder):
    """Modified Booth, radix 4: three control bits a digit from the lowest: one, two, neg."""

    kind: ClassVar[str] = "mbe"

    @property
    def width(self) -> int:
        return 3 * self.n // 2

    @property
    def n_cells(self) -> int:
        return self.n // 2

    def _compute(self, x: Int[np.ndarray, "*shape"]) -> Code:
        at = 2 * np.arange(self.n_digits)
        triple = ((x << 1)[..., None] >> at) & 7  # bits 2i+1, 2i, 2i-1
        digits = (triple & 1) + ((triple >> 1) & 1) - 2 * (triple >> 2)
        size = np.abs(digits)
        control = (size == 1) | ((size == 2).astype(np.int64) << 1) | ((digits < 0).astype(np.int64) << 2)
        packed = (control.astype(np.int64) << (3 * np.arange(self.n_digits))).sum(axis=-1)
        return Code(digits, np.zeros_like(x), packed)

    def digits_of(self, packed: Int[np.ndarray, "*shape"]) -> tuple[np.ndarray, np.ndarray]:
        control = (packed[..., None] >> (3 * np.arange(self.n_digits))) & 7
        size = (control & 1) + 2 * ((control >> 1) & 1)
        return np.where(control >> 2 == 1, -size, size), np.zeros_like(packed)


@dataclass(frozen=True)
class CSDEncoder(Encoder):
    """Canonical signed digits, radix 2: two bits a digit from the lowest: one, neg."""

    kind: ClassVar[str] = "csd"
    radix: ClassVar[int] = 2

    @property
    def width(self) -> int:
        return 2 * self.n

    @property
    def n_cells(self) -> int:
        return self.n

    def _compute(self, x: Int[np.ndarray, "*shape"]) -> Code:
        half, three = x >> 1, x + (x >> 1)
        plus, minus = three & ~half, half & ~three  # Reitwiesner: nonzero digits of x are where x/2 and 3x/2 differ
        at = np.arange(self.n_digits)
        digits = ((plus[..., None] >> at) & 1) - ((minus[..., None] >> at) & 1)
        packed = ((digits != 0).astype(np.int64) << (2 * at)).sum(axis=-1)
        packed += ((digits < 0).astype(np.int64) << (2 * at + 1)).sum(axis=-1)
        return Code(digits, np.zeros_like(x), packed)

    def digits_of(self, packed: Int[np.ndarray, "*shape"]) -> tuple[np.ndarray, np.ndarray]:
        pair = (packed[..., None] >> (2 * np.arange(self.n_digits))) & 3
        return (pair & 1) * (1 - (pair & 2)), np.zeros_like(packed)


@dataclass(frozen=True)
class PlainBits(Encoder):
    """No recoding: n bits, the highest of them with negative weight."""

    kind: ClassVar[str] = "plain"
    radix: ClassVar[int] = 2

    @property
    def width(self) -> int:
        return self.n

    @property
    def n_cells(self) -> int:
        return 0

    def _compute(self, x: Int[np.ndarray, "*shape"]) -> Code:
        packed = x & ((1 << self.n) - 1)
        digits, sign = self.digits_of(packed)
        return Code(digits, sign, packed)

    def digits_of(self, packed: Int[np.ndarray, "*shape"]) -> tuple[np.ndarray, np.ndarray]:
        bits = (packed[..., None] >> np.arange(self.n)) & 1
        bits[..., -1] *= -1
        return bits, np.zeros_like(packed)


@functools.cache
def _table(kind: type[Encoder], n: int) -> Code:
    """Codes of all numbers by the low n bits of their two's complement; digits and signs are int8."""
    bits = np.arange(2**n, dtype=np.int64)
    code = kind(n)._compute(np.where(bits >= 2 ** (n - 1), bits - 2**n, bits))
    return Code(code.digits.astype(np.int8), code.sign.astype(np.int8), code.packed)


ENCODERS: dict[str, type[Encoder]] = {cls.kind: cls for cls in (EntEncoder, MBEEncoder, CSDEncoder, PlainBits)}


def get_encoder(kind: str | Encoder, n: int = 8) -> Encoder:
    """An encoder by name (``ent``, ``mbe``, ``csd``, ``plain``). Raises ValueError for an unknown one."""
    if isinstance(kind, Encoder):
        return kind
    if kind not in ENCODERS:
        raise ValueError(unknown("encoder", kind, ENCODERS))
    return ENCODERS[kind](n)
