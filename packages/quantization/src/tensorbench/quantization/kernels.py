"""The loops of the block quantiser for float32 on the CPU: two passes over memory instead of a score.

An array is seen as (outer, along, inner), blocks running along the middle, so that no axis has to be moved. Arithmetic
is that of ``FloatFormat.round`` in the mode ``even``, to the bit: 1.5 · 2^23 steps are added and taken off again. The
step comes from the exponent bits, and integers are the case of one step for all.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numba import njit

from .formats import FloatFormat, Format

_EXPONENT = np.int32(0x7F800000)
_MAGNITUDE = np.int32(0x7FFFFFFF)
_SIGN = np.int32(-(2**31))


@dataclass(frozen=True)
class Grid:
    """The constants of a format that the loops need."""

    low: np.float32  # smallest and largest binade that has a step of its own
    high: np.float32
    magic: np.float32  # times the binade: 1.5 · 2^23 steps
    largest: np.float32
    mantissa_bits: int
    is_float: bool

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, form: Format) -> Grid | None:
        """None where float32 arithmetic would not be exact. Of an unsigned format it is for what is not negative."""
        if isinstance(form, FloatFormat):
            fits = (
                form.min_exponent - form.mantissa_bits > -100 and form.max_exponent < 100 and form.mantissa_bits <= 12
            )
            if not fits or form.specials == "power":
                return None
            low, high, step = 2.0**form.min_exponent, 2.0**form.max_exponent, 2.0**-form.mantissa_bits
            return cls(*map(np.float32, (low, high, 1.5 * 2**23 * step, form.max)), form.mantissa_bits, True)
        if form.largest_code > 2**20 or not form.signed:
            return None
        return cls(*map(np.float32, (1.0, 1.0, 1.5 * 2**23 * form.tiny, form.max)), form.fraction_bits, False)


@njit(cache=True, nogil=True)
def _largest_rows(bits, block, out):
    """Largest magnitude of each block as bits; those of infinity and NaN are above all numbers'."""
    for row in range(bits.shape[0]):
        for b in range(out.shape[1]):
            part = bits[row, b * block : (b + 1) * block]  # a slice's indices are known not to be negative: vectorised
            top = np.int32(0)
            for k in range(part.size):
                top = max(top, np.int32(part[k] & _MAGNITUDE))
            out[row, b] = top


@njit(cache=True, nogil=True)
def _largest_columns(bits, block, out):
    for o in range(bits.shape[0]):
        for b in range(out.shape[1]):
            top = out[o, b]
            top[:] = 0
            for k in range(b * block, min((b + 1) * block, bits.shape[1])):
                row = bits[o, k]
                for i in range(row.size):
                    top[i] = max(top[i], np.int32(row[i] & _MAGNITUDE))


@njit(cache=True, nogil=True)
def _element(x, scale, low, high, magic, largest):
    """``x / scale`` rounded to the grid, halves to even; zero keeps its sign. NaN only where x or scale is."""
    bits = np.float32(x / scale).view(np.int32)
    size = np.int32(bits & _MAGNITUDE).view(np.float32)
    size = largest if size > largest else size
    binade = np.int32(np.float32(size).view(np.int32) & _EXPONENT).view(np.float32)
    binade = low if binade < low else binade
    binade = high if binade > high else binade
    shift = np.float32(binade * magic)
    size = np.float32(np.float32(size + shift) - shift)
    size = largest if size > largest else size
    return np.int32(np.float32(size).view(np.int32) | (bits & _SIGN)).view(np.float32)


@njit(cache=True, nogil=True)
def _decoded_rows(x, scale, block, low, high, magic, largest, out):
    for row in range(x.shape[0]):
        for b in range(scale.shape[1]):
            s = scale[row, b]
            part, target = x[row, b * block : (b + 1) * block], out[row, b * block : (b + 1) * block]
            for k in range(part.size):
                target[k] = _element(part[k], s, low, high, magic, largest) * s


@njit(cache=True, nogil=True)
def _decoded_columns(x, scale, block, low, high, magic, largest, out):
    for o in range(x.shape[0]):
        for k in range(x.shape[1]):
            row, s, target = x[o, k], scale[o, k // block], out[o, k]
            for i in range(row.size):
                target[i] = _element(row[i], s[i], low, high, magic, largest) * s[i]


@njit(cache=True, nogil=True)
def _float_codes(x, scale, block, low, high, magic, largest, mantissa_bits, base, sign_bit, out):
    shift = np.int32(23 - mantissa_bits)
    first = np.int32(base + (1 << mantissa_bits))  # the code of the smallest normal number, before base is taken off
    for row in range(x.shape[0]):
        for b in range(scale.shape[1]):
            s = scale[row, b]
            dead = s != s  # a NaN block: its elements are zeros
            part, target = x[row, b * block : (b + 1) * block], out[row, b * block : (b + 1) * block]
            for k in range(part.size):
                q = _element(part[k], s, low, high, magic, largest)
                bits = np.float32(q).view(np.int32)
                size = np.int32(bits & _MAGNITUDE).view(np.float32)
                subnormal = size < low
                size = size + low if subnormal else size
                code = (np.float32(size).view(np.int32) >> shift) - (first if subnormal else np.int32(base))
                code |= ((bits >> 31) & 1) << sign_bit
                target[k] = 0 if dead else code


@njit(cache=True, nogil=True)
def _int_codes(x, scale, block, low, high, magic, largest, steps, mask, out):
    for row in range(x.shape[0]):
        for b in range(scale.shape[1]):
            s = scale[row, b]
            dead = s != s
            part, target = x[row, b * block : (b + 1) * block], out[row, b * block : (b + 1) * block]
            for k in range(part.size):
                q = np.float32(0) if dead else _element(part[k], s, low, high, magic, largest)
                target[k] = np.int32(q * steps) & mask


@njit(cache=True, nogil=True)
def _power_scales(amax, largest, top_exponent, mode, carry, out):
    """2^e of each block as ``scales.power_exponent`` says, on the bits of float64; the modes are numbered."""
    for k in range(amax.size):
        a = np.float64(amax[k])
        if not np.isfinite(a):
            out[k] = np.nan
            continue
        value = a / largest if mode == 1 else a
        bits = np.float64(value).view(np.int64)
        exponent = (bits >> 52) - 1023
        fraction = bits & np.int64(0xFFFFFFFFFFFFF)
        if mode == 1 or mode == 2:
            exponent += 1 if fraction != 0 else 0
        if mode == 3:
            exponent += 1 if fraction >= carry else 0
        if mode != 1:
            exponent -= top_exponent
        exponent = -127 if a == 0 else min(max(exponent, -127), 127)
        out[k] = np.float32(np.int64((exponent + 1023) << 52).view(np.float64))


@njit(cache=True, nogil=True)
def _float_scales(amax, element_max, target, low, high, magic, largest, out):
    """The scale of each block rounded to nearest, 1 where that is zero; returns the scale of the whole tensor, for
    which ``target`` (0: none) is the largest block scale."""
    whole, one = np.float32(1), np.float32(1)
    if target > 0:
        top = np.float32(0)
        for k in range(amax.size):
            if np.isfinite(amax[k]) and amax[k] > top:
                top = amax[k]
        if top > 0:
            whole = np.float32(top / target)
    for k in range(amax.size):
        a = amax[k]
        if not np.isfinite(a):
            out[k] = np.nan
            continue
        clean = np.float32(a / whole) if target > 0 else a
        scale = _element(np.float32(clean / element_max), one, low, high, magic, largest)
        out[k] = one if scale == 0 else scale
    return whole


def float_scales(amax: np.ndarray, form: Format, scale: Format, target: float) -> tuple[np.ndarray, float] | None:
    """The scale of each block in a float format, NaN where ``amax`` is not finite, and that of the tensor.

    ``target`` is the largest block scale wanted, or 0 for no scale of the tensor. None where float32 is not exact.
    """
    grid = Grid.of(scale)
    if grid is None or not grid.is_float:
        return None
    out = np.empty(amax.shape, dtype=np.float32)
    whole = _float_scales(
        amax.reshape(-1),
        np.float32(form.max),
        np.float32(form.max * target),
        grid.low,
        grid.high,
        grid.magic,
        grid.largest,
        out.reshape(-1),
    )
    return out, float(whole)


_POWER_MODES = {"floor": 0, "rceil": 1, "ceil": 2, "even": 3}


def power_scales(amax: np.ndarray, form: Format, mode: str) -> np.ndarray:
    """The power-of-two scale of each block from its largest magnitude, NaN where that is not finite."""
    mantissa_bits = form.mantissa_bits if isinstance(form, FloatFormat) else form.bits - 2
    carry = (1 << 52) - (1 << (52 - mantissa_bits - 1))  # of a fraction that rounds up to the next power of two
    out = np.empty(amax.shape, dtype=np.float32)
    numbers = (float(form.max), form.max_exponent, _POWER_MODES[mode], carry)
    _power_scales(amax.reshape(-1), *numbers, out.reshape(-1))
    return out


def largest_magnitudes(x: np.ndarray, block: int) -> np.ndarray:
    """The largest magnitude of each block of an (outer, along, inner) array; infinite or NaN where the block is."""
    outer, along, inner = x.shape
    out = np.empty((outer, -(-along // block), inner), dtype=np.int32)
    bits = x.view(np.int32)
    if inner == 1:
        _largest_rows(bits[:, :, 0], block, out[:, :, 0])
    else:
        _largest_columns(bits, block, out)
    return out.view(np.float32)


def decoded(x: np.ndarray, scale: np.ndarray, block: int, grid: Grid) -> np.ndarray:
    """``scale · round(x / scale)``, NaN where the scale is."""
    out = np.empty_like(x)
    numbers = (grid.low, grid.high, grid.magic, grid.largest)
    if x.shape[2] == 1:
        _decoded_rows(x[:, :, 0], scale[:, :, 0], block, *numbers, out[:, :, 0])
    else:
        _decoded_columns(x, scale, block, *numbers, out)
    return out


def codes(x: np.ndarray, scale: np.ndarray, block: int, form: Format, grid: Grid) -> np.ndarray:
    """Codes of ``round(x / scale)`` of (rows, along); zero where the scale is NaN. One byte each where they fit."""
    out = np.empty(x.shape, dtype=np.uint8 if form.bits <= 8 else np.int32)
    numbers = (grid.low, grid.high, grid.magic, grid.largest)
    if isinstance(form, FloatFormat):
        base = (127 - form.bias) << form.mantissa_bits
        _float_codes(x, scale, block, *numbers, form.mantissa_bits, base, form.bits - 1, out)
    else:
        _int_codes(x, scale, block, *numbers, np.float32(1 / form.tiny), np.int32(2**form.bits - 1), out)
    return out
