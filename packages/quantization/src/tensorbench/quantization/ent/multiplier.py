"""Multipliers and multiply-accumulate units on integers: what the circuits compute, step by step and vectorised.

Partial products are digit times multiplicand, shifted; a tree of 3:2 compressors leaves a sum and a carry row; one
addition ends it. With ``carry_save`` the accumulator keeps both rows and is added up once at the end (arXiv
2404.11887, section on the multiplier; the carry-save accumulator is that of the authors' later engines).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from tensorbench.core.errors import unknown

from .encoders import Encoder

Overflow = Literal["wrap", "saturate"]


def wrap(x: Int[np.ndarray, "*shape"], bits: int) -> Int[np.ndarray, "*shape"]:
    """The low ``bits`` bits, read as two's complement."""
    return np.asarray(((x + (1 << (bits - 1))) & ((1 << bits) - 1)) - (1 << (bits - 1)))


def accumulate(
    total: Int[np.ndarray, "*shape"], term: Int[np.ndarray, "*shape"], bits: int, overflow: Overflow
) -> Int[np.ndarray, "*shape"]:
    """``total + term`` in ``bits`` bits. Raises ValueError for an unknown overflow."""
    if overflow == "wrap":
        return wrap(total + term, bits)
    if overflow != "saturate":
        raise ValueError(unknown("overflow", overflow, ("wrap", "saturate")))
    return np.asarray(np.clip(total + term, -(1 << (bits - 1)), (1 << (bits - 1)) - 1))


@dataclass(frozen=True)
class PartialProduct:
    """Rows digit · y · radix^i, of which the sum is the product; the common sign flips every row."""

    encoder: Encoder

    def __call__(
        self, packed: Int[np.ndarray, "*shape"], y: Int[np.ndarray, "*shape"]
    ) -> Int[np.ndarray, "*shape digits"]:
        digits, sign = self.encoder.digits_of(np.asarray(packed, dtype=np.int64))
        digits = np.where(sign[..., None] == 1, -digits, digits)
        return digits * np.asarray(y, dtype=np.int64)[..., None] * self.encoder.radix ** np.arange(digits.shape[-1])


@dataclass(frozen=True)
class CompressorTree:
    """Carry-save addition of ``rows`` rows of ``width`` bits, modulo 2^width."""

    rows: int
    width: int

    def __post_init__(self) -> None:
        if self.rows < 1 or not 1 <= self.width <= 62:
            raise ValueError(f"a tree needs a row and 1 to 62 bits, got {self.rows} rows of {self.width} bits")

    @property
    def compressors_3_2(self) -> int:
        """Full adders, one a bit, where no column is shorter than another."""
        return max(0, self.rows - 2) * self.width

    @property
    def compressors_4_2(self) -> int:
        """4:2 compressors (two full adders each) in place of pairs of 3:2; an odd row takes a 3:2 that is not
        counted."""
        return max(0, self.rows - 2) // 2 * self.width

    @property
    def depth(self) -> int:
        """Levels of 3:2 compressors (Wallace)."""
        rows, levels = self.rows, 0
        while rows > 2:
            rows, levels = rows - rows // 3, levels + 1
        return levels

    def reduce(
        self, rows: Int[np.ndarray, "*shape rows"]
    ) -> tuple[Int[np.ndarray, "*shape"], Int[np.ndarray, "*shape"]]:
        """Two rows (unsigned) of the same sum. Raises ValueError for another number of rows."""
        if rows.shape[-1] != self.rows:
            raise ValueError(f"the tree has {self.rows} rows, got {rows.shape[-1]}")
        mask = (1 << self.width) - 1
        left = [rows[..., k].astype(np.int64) & mask for k in range(self.rows)]
        while len(left) > 2:
            whole = len(left) // 3 * 3
            after: list[np.ndarray] = []
            for a, b, c in zip(left[0:whole:3], left[1:whole:3], left[2:whole:3], strict=True):
                after += [a ^ b ^ c, (((a & b) | (c & (a ^ b))) << 1) & mask]
            left = after + left[whole:]
        return left[0], left[1] if len(left) > 1 else np.zeros_like(left[0])


@dataclass(frozen=True)
class Multiplier:
    """n × n bits to 2n bits through recoder, partial products and tree."""

    encoder: Encoder

    def __call__(self, x: Int[np.ndarray, "*shape"], y: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        """Raises ValueError for operands out of range."""
        y = self.encoder.check(y)
        return self.from_code(self.encoder.encode(x).packed, y)

    def from_code(self, packed: Int[np.ndarray, "*shape"], y: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        """The product where the recoder stands elsewhere."""
        rows = PartialProduct(self.encoder)(packed, y)
        total, carry = CompressorTree(rows.shape[-1], 2 * self.encoder.n).reduce(rows)
        return wrap(total + carry, 2 * self.encoder.n)


@dataclass(frozen=True)
class MAC:
    """Products summed along the last axis in an accumulator of ``bits`` bits that wraps or saturates at every step.

    ``carry_save`` keeps sum and carry rows and adds them up at the end, which only a wrapping accumulator can.
    """

    encoder: Encoder
    bits: int = 32
    overflow: Overflow = "wrap"
    carry_save: bool = False

    def __post_init__(self) -> None:
        if self.carry_save and self.overflow != "wrap":
            raise ValueError("a carry-save accumulator does not know its value before the end: it cannot saturate")
        if not 2 * self.encoder.n <= self.bits <= 62:
            raise ValueError(f"an accumulator of {self.bits} bits: use {2 * self.encoder.n} to 62")

    def __call__(self, x: Int[np.ndarray, "*shape k"], y: Int[np.ndarray, "*shape k"]) -> Int[np.ndarray, "*shape"]:
        packed, y = self.encoder.encode(x).packed, self.encoder.check(y)
        if not self.carry_save:
            product = Multiplier(self.encoder).from_code(packed, y)
            total = np.zeros(product.shape[:-1], dtype=np.int64)
            for k in range(product.shape[-1]):
                total = accumulate(total, np.asarray(product[..., k]), self.bits, self.overflow)
            return total
        rows = PartialProduct(self.encoder)(packed, y)
        tree = CompressorTree(rows.shape[-1] + 2, self.bits)
        total = carry = np.zeros(rows.shape[:-2], dtype=np.int64)
        for k in range(rows.shape[-2]):
            total, carry = tree.reduce(np.concatenate([rows[..., k, :], total[..., None], carry[..., None]], axis=-1))
        return wrap(total + carry, self.bits)
