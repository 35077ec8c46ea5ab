"""The circuits of recoders, multipliers and adders as netlists of unit gates (n-bit operands, two's complement).

A multiplier is: recoder, selection of a multiple in each digit's row, a tree of full adders that leaves two rows, and
one carry-propagate adder. A row's sign bit is inverted and its weight collected in one constant (no sign extension);
a negative multiple is the inverted row plus a one at its lowest place.

The Booth cell comes in two forms. ``textbook`` writes the three control bits as sums of products (12 gates a digit with
inverters) and gives no negative zero; ``factored`` is ``one = b ^ a, two = (c ^ b) & ~one, neg = c`` (four gates).
Which of them a synthesiser would leave decides how much there is to save, so both are costed.

EN-T's recoder starts with the conversion to sign and magnitude, which its n/2 - 1 cells do not count; here it is a
part of its own (``convert``). Its two-bit digits need a small decoder in every multiplier (part ``decode``); Booth's
three bits are the selection lines themselves.
"""

from __future__ import annotations

import functools
from typing import Literal

from tensorbench.core.errors import unknown

from .encoders import ENCODERS, get_encoder
from .netlist import ONE, ZERO, Netlist

BoothForm = Literal["factored", "textbook"]


def recode(net: Netlist, kind: str, x: list[int], booth: BoothForm = "factored") -> list[int]:
    """Gates from the operand's bits to its packed code."""
    if kind == "plain":
        return list(x)
    if kind == "ent":
        return _recode_ent(net, x)
    net.part = "encode"
    return _recode_mbe(net, x, booth) if kind == "mbe" else _recode_csd(net, x)


def _recode_ent(net: Netlist, x: list[int]) -> list[int]:
    net.part, sign = "convert", x[-1]
    magnitude, carry = [x[0]], net.and2(sign, net.inv(x[0]))
    for bit in x[1:-1]:
        out, carry = net.half_adder(net.xor2(bit, sign), carry)
        magnitude.append(out)
    magnitude.append(carry)  # set for the most negative number alone
    net.part = "encode"
    code, carry = magnitude[:2], ZERO
    for i in range(2, len(x), 2):
        a0, a1, b0, b1 = magnitude[i - 2 : i + 2]
        carry = net.or2(net.and2(a0, a1), net.and2(a1, carry))
        code += [net.xor2(b0, carry), net.xor2(b1, net.and2(b0, carry))]
    return [*code, sign]


def _recode_mbe(net: Netlist, x: list[int], booth: BoothForm) -> list[int]:
    if booth not in ("factored", "textbook"):
        raise ValueError(unknown("form of the Booth cell", booth, ("factored", "textbook")))
    code = []
    for i in range(0, len(x), 2):
        a, b, c = x[i - 1] if i else ZERO, x[i], x[i + 1]
        one = net.xor2(b, a)
        if booth == "factored":
            two, neg = net.and2(net.xor2(c, b), net.inv(one)), c
        else:
            low = net.and2(net.and2(net.inv(c), b), a)
            two = net.or2(net.and2(net.and2(c, net.inv(b)), net.inv(a)), low)
            neg = net.and2(c, net.inv(net.and2(b, a)))
        code += [one, two, neg]
    return code


def _recode_csd(net: Netlist, x: list[int]) -> list[int]:
    """Carry i + 1 = majority(x_i, x_i+1, carry i); digit i is nonzero where x_i differs from its carry, negative with
    x_i+1."""
    code, carry = [], ZERO
    for i, bit in enumerate(x):
        above = x[min(i + 1, len(x) - 1)]
        one = net.xor2(bit, carry)
        code += [one, net.and2(one, above)]
        carry = net.or2(net.and2(bit, above), net.and2(carry, net.or2(bit, above)))
    return code


def _rows(net: Netlist, kind: str, code: list[int], y: list[int], width: int) -> list[list[int]]:
    """Columns of bits whose sum is the product modulo 2^width."""
    n = len(y)
    columns: list[list[int]] = [[] for _ in range(width)]
    constant = 0
    if kind in ("ent", "mbe"):
        for i in range(n // 2):
            net.part = "decode"
            if kind == "ent":
                one, high = code[2 * i], code[2 * i + 1]
                two, neg = net.and2(high, net.inv(one)), net.xor2(net.and2(high, one), code[-1])
            else:
                one, two, neg = code[3 * i : 3 * i + 3]
            net.part = "select"
            for j in range(n + 1):
                bit = net.or2(net.and2(one, y[min(j, n - 1)]), net.and2(two, y[j - 1] if j else ZERO))
                bit = net.xor2(bit, neg)
                _place(columns, 2 * i + j, net.inv(bit) if j == n else bit)
            _place(columns, 2 * i, neg)
            constant -= 1 << (2 * i + n)
    else:
        for i in range(n):
            net.part = "select"
            top = kind == "plain" and i == n - 1
            use, neg = (code[2 * i], code[2 * i + 1]) if kind == "csd" else (code[i], ONE if top else ZERO)
            for j in range(n):
                bit = net.xor2(net.and2(use, y[j]), neg)
                _place(columns, i + j, net.inv(bit) if j == n - 1 else bit)
            constant += (1 << i) * (neg == ONE) - (1 << (i + n - 1))
            if neg != ONE:
                _place(columns, i, neg)
    for k in range(width):
        if (constant >> k) & 1:
            columns[k].append(ONE)
    return columns


def _place(columns: list[list[int]], at: int, bit: int) -> None:
    if at < len(columns) and bit != ZERO:
        columns[at].append(bit)


def compress(net: Netlist, columns: list[list[int]]) -> list[list[int]]:
    """Full adders until no column holds more than two bits; the oldest bits go first, which keeps the tree shallow."""
    net.part = "tree"
    for k, column in enumerate(columns):
        if column.count(ONE) > 1:
            raise ValueError("at most one constant a column; add the constants first")
        column.sort(key=lambda s: s == ONE)  # the constant last, for the adder that ends the column
        while len(column) > 2:
            out, carry = net.full_adder(*column[:3])
            column[:3] = []
            column.append(out)
            if k + 1 < len(columns) and carry != ZERO:
                columns[k + 1].append(carry)
    return columns


def carry_propagate(net: Netlist, columns: list[list[int]], part: str = "adder") -> list[int]:
    """A ripple adder over columns of up to two bits; the carry out of the top is dropped."""
    net.part = part
    out, carry = [], ZERO
    for k, column in enumerate(columns):
        a, b = (*column, ZERO, ZERO)[:2]
        if k == len(columns) - 1:
            out.append(net.xor2(net.xor2(a, b), carry))
            continue
        total, carry = net.full_adder(a, b, carry)
        out.append(total)
    return out


@functools.cache
def encoder_circuit(kind: str, n: int = 8, booth: BoothForm = "factored") -> Netlist:
    """Input ``a`` of n bits, output ``code``."""
    _check(kind, n)
    net = Netlist()
    net.outputs["code"] = recode(net, kind, net.input("a", n), booth)
    return net


@functools.cache
def mac_circuit(
    kind: str, n: int = 8, *, edge: bool = False, accumulator: int = 32, booth: BoothForm = "factored"
) -> Netlist:
    """``out = acc + a · b`` modulo 2^accumulator, in one tree and one carry-propagate adder (``accumulator=0``: no
    ``acc``, 2n bits).

    Inputs ``a`` (the operand, or with ``edge`` its code), ``b`` and ``acc``.
    """
    encoder = _check(kind, n)
    net = Netlist()
    a, b = net.input("a", encoder.width if edge else n), net.input("b", n)
    code = a if edge else recode(net, kind, a, booth)
    columns = _rows(net, kind, code, b, accumulator or 2 * n)
    if accumulator:
        for column, bit in zip(columns, net.input("acc", accumulator), strict=True):
            column.append(bit)
    net.outputs["out"] = carry_propagate(net, compress(net, columns))
    return net


def multiplier_circuit(kind: str, n: int = 8, *, edge: bool = False, booth: BoothForm = "factored") -> Netlist:
    """``out = a · b`` in 2n bits."""
    return mac_circuit(kind, n, edge=edge, accumulator=0, booth=booth)


@functools.cache
def adder_circuit(width: int, out: int, part: str = "adder") -> Netlist:
    """``out = a + b`` of signed numbers of ``width`` bits, the sum in ``out`` bits (at most one more, or as many)."""
    net = Netlist()
    a, b = net.input("a", width), net.input("b", width)
    if out > width:
        a, b = [*a, a[-1]], [*b, b[-1]]
    net.outputs["out"] = carry_propagate(net, [[p, q] for p, q in zip(a[:out], b[:out], strict=True)], part)
    return net


def _check(kind: str, n: int):
    if kind not in ENCODERS:
        raise ValueError(unknown("encoder", kind, ENCODERS))
    return get_encoder(kind, n)
