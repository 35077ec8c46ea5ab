"""Probes of a matrix unit: small inputs whose result tells what it does inside, and parameters inferred from them.

``run_suite`` is the published suite (Fasi, Higham, Mikaitis, Pranesh, PeerJ CS 7:e330, 2021) as data. Groups: A
subnormal numbers, B accuracy of the dot product, C rounding, D the accumulator, E monotonicity. The edition for Volta
expects no bits below fp32 in the alignment, the one for Turing and later at least one; a unit passes the edition of
its own generation.
``infer_parameters`` needs no edition: it finds block size, alignment precision, rounding, carry and anchoring by
itself. Everything goes through ``unit.dot`` (or what a backend offers in its place), so that a GPU can be probed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from tensorbench.core.errors import unknown

Edition = Literal["volta", "turing", "fp64"]
EDITIONS: tuple[Edition, ...] = ("volta", "turing", "fp64")
Dot = Callable[[Sequence[float], Sequence[float], float], float]


class Unit(Protocol):
    """What probes need of a unit: formats by name, and dot products of many rows."""

    @property
    def in_fmt(self) -> str: ...

    @property
    def acc_fmt(self) -> str: ...

    def dot(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Probe:
    """One feature: does the unit behave as the edition expects? ``value`` is the last result, for reports."""

    group: str
    name: str
    passed: bool
    value: float


def caller(unit: Unit) -> Dot:
    """``dot(a, b, c)`` on Python numbers."""

    def dot(a: Sequence[float], b: Sequence[float], c: float = 0.0) -> float:
        rows = [torch.tensor([list(x)], dtype=torch.float64) for x in (a, b)]
        return float(unit.dot(rows[0], rows[1], torch.tensor([c], dtype=torch.float64))[0])

    return dot


def run_suite(unit: Unit, edition: Edition) -> list[Probe]:
    """All probes of an edition. For fp32 accumulation with tf32, bf16 or fp16 operands; "fp64" for fp64 units.

    fp16 accumulators get only the probes that the suite has for them.

    Raises:
        ValueError: an unknown edition, or one that does not go with the unit's formats.
    """
    if edition not in EDITIONS:
        raise ValueError(unknown("edition of the suite", edition, EDITIONS))
    if (edition == "fp64") != (unit.in_fmt == "fp64") or unit.in_fmt not in ("fp64", "fp16", "bf16", "tf32"):
        raise ValueError(
            f"edition {edition!r} does not probe {unit.in_fmt} operands (fp16, bf16, tf32; fp64 with 'fp64')"
        )
    dot = caller(unit)
    if edition == "fp64":
        return _double(dot)
    if unit.acc_fmt == "fp16":
        return _half_accumulator(dot)
    return _single(dot, unit.in_fmt, edition)


def _single(dot: Dot, form: str, edition: Edition) -> list[Probe]:
    mantissa, tiny, scale = {
        "fp16": (10, 2.0**-24, 4.0),
        "bf16": (7, 2.0**-133, 2.0**7),
        "tf32": (10, 2.0**-136, 2.0**10),
    }[form]
    normal = 2.0**-14 if form == "fp16" else 2.0**-126
    below, square = 1 - 2.0 ** -(mantissa + 1), (1 - 2.0 ** -(mantissa + 1)) ** 2
    volta = edition == "volta"
    weight, small = (1.0 if volta else 0.5), 2.0**-24  # four products of it must vanish beside 1
    found: list[Probe] = []

    def probe(group: str, name: str, *cases: tuple[float, float]) -> None:
        found.append(Probe(group, name, all(got == expected for got, expected in cases), cases[-1][0]))

    probe("A", "subnormal operands", (dot([tiny], [scale], 0.0), tiny * scale))
    probe("A", "subnormal accumulator", (dot([0.0], [0.0], 2.0**-149), 2.0**-149))
    probe(
        "A",
        "subnormal results",
        (dot([normal], [0.5], 0.0), normal / 2),
        (dot([normal], [1.0], -normal / 2), normal / 2),
    )
    probe("B", "exact products", (dot([below], [below], 0.0), square), (dot([below] * 4, [below] * 4, 0.0), 4 * square))
    probe("B", "sum in fp32", (dot([weight] * 4, [small] * 4, 1.0), 1.0))
    cases = []
    for j in range(4):
        a, b = [weight] * 4, [small] * 4
        a[j] = b[j] = 1.0
        cases.append((dot(a, b, small), 1.0))
    probe("B", "anchored at the largest", *cases)
    probe("C", "down for positive", (dot([1.0, 1.0], [2.0, 3 * small], 0.0), 2.0))
    probe("C", "up for negative", (dot([1.0, 1.0], [-2.0, -3 * small], 0.0), -2.0))
    probe("D", "bits below fp32", (dot([1.0], [1.0], small - 1), 2 * small if volta else small))
    probe("D", "no normalising, addition", (dot([1.0] * 4, [small] * 4, 1 - small), 1 + 2 * small))
    probe("D", "no normalising, subtraction", (dot([1.0, 1.0], [1.0, -small], small - 1), 2 * small if volta else 0.0))
    cases = []
    for j in range(4):
        b = [1.0] * 4
        b[j] = 2.0**-23
        cases.append((dot([1.0] * 4, b, 1 + 3 * 2.0**-23), 4 + 2.0**-21))
    cases.append((dot([1.0] * 4, [1.0, 1.5, 1.75, 1.875], 1.875), 8.0))
    cases += [(dot([1.0] * 4, [s] * 4, s * (1 + 3 * 2.0**-23)), s * 5.0) for s in (1.0, -1.0)]
    probe("D", "carry bits", *cases)
    tail = [small] * 4 if volta else [small] * 3 + [3 * small]
    less, more = (dot([weight] * 4, tail, c) for c in (1 - small, 1.0))
    found.append(Probe("E", "not monotonic", more < less, more - less))
    return found


def _half_accumulator(dot: Dot) -> list[Probe]:
    below = 1 - 2.0**-11
    cases = {
        ("A", "subnormal operands"): [(dot([2.0**-24], [4.0], 0.0), 2.0**-22)],
        ("A", "subnormal results"): [
            (dot([2.0**-14], [0.5], 0.0), 2.0**-15),
            (dot([2.0**-14], [1.0], -(2.0**-15)), 2.0**-15),
        ],
        ("B", "exact products"): [(dot([below, below], [below, 2.0**-11], 0.0), 1 - 2.0**-10 + 2.0**-11)],
        ("C", "result to nearest"): [(dot([2.0**-24, 2.0**-24], [0.5, 0.25], 0.0), 2.0**-24)],
    }
    return [Probe(*key, all(got == want for got, want in pairs), pairs[-1][0]) for key, pairs in cases.items()]


def _double(dot: Dot) -> list[Probe]:
    u = 2.0**-53
    results = {
        ("A", "subnormal operands"): (dot([2.0**-1074], [2.0**52], 0.0), 2.0**-1022),
        ("A", "subnormal results"): (dot([2.0**-1022], [0.5], 0.0), 2.0**-1023),
        ("B", "sum in fp64"): (dot([0.5, 0.5], [u, u], 1.0), 1.0),
        ("C", "to nearest, positive"): (dot([1.0, 1.0], [2.0, 3 * u], 0.0), 2 + 4 * u),
        ("C", "to nearest, negative"): (dot([1.0, 1.0], [-2.0, -3 * u], 0.0), -2 - 4 * u),
        ("C", "ties to even"): (dot([1.0, 1.0], [2 + 4 * u, 2 * u], 0.0), 2 + 8 * u),
        ("D", "bits below fp64"): (dot([1.0], [1.0], u - 1), u),
        ("D", "normalises after each addition"): (dot([1.0, 1.0], [u, u], 1 - u), 1.0),
    }
    found = [Probe(*key, got == want, got) for key, (got, want) in results.items()]
    less, more = (dot([1.0, 1.0], [u / 2, 3 * u / 2], c) for c in (1 - u, 1.0))
    found.append(Probe("E", "monotonic", more >= less, more - less))
    return found


@dataclass(frozen=True)
class Inferred:
    """What probing found out. ``fraction_bits`` of the alignment (23 + extra bits of a tensor core); ``carry_bits``
    is a
    lower bound: as far as the largest operands reach."""

    k_step: int
    fraction_bits: int
    rounding: str
    carry_bits: int
    subnormal_operands: bool
    non_monotonic: bool

    @property
    def extra_bits(self) -> int:
        return self.fraction_bits - 23


def infer_parameters(unit: Unit, *, longest: int = 64) -> Inferred:
    """Block size, alignment precision, rounding, carry, subnormals and monotonicity of a floating-point unit.

    A chain of fused multiply-adds shows as ``k_step`` 1. ``fraction_bits`` counts how far below the largest term bits
    survive within a block; for exact arithmetic that is as far as the accumulator's format reaches.

    Raises:
        ValueError: integer operands, which have nothing to infer.
    """
    if unit.in_fmt.startswith("int"):
        raise ValueError("integer units add exactly in any order: there is nothing to infer")
    dot = caller(unit)
    top = {"e4m3": 8, "fp16": 15, "e5m2": 15}.get(unit.in_fmt, 60)
    low = {"e4m3": -9, "fp16": -24, "e5m2": -16}.get(unit.in_fmt, -60)
    half = unit.acc_fmt == "fp16"
    big = min(2 * top, 15) if half else 2 * top
    reach = min(big - 2 * low, 110) if not half else 39
    left, right = 2.0 ** (big // 2), 2.0 ** (big - big // 2)

    def product(exponent: int) -> tuple[float, float]:
        return 2.0 ** (exponent // 2), 2.0 ** (exponent - exponent // 2)

    # Within a block: C and a product of the opposite sign cancel, what is far below them is lost; after it, kept.
    a, b = product(big - reach)
    k_step = longest
    for j in range(1, longest):
        row_a, row_b = [0.0] * (j + 1), [0.0] * (j + 1)
        row_a[0], row_b[0], row_a[j], row_b[j] = left, right, a, b
        if dot(row_a, row_b, -(2.0**big)) != 0:
            k_step = j
            break
    bits = -1
    for t in range(reach + 1):  # C carries the small number: its format reaches further than the operands'
        if dot([left, left], [right, -right], 2.0 ** (big - t)) == 2.0 ** (big - t):
            bits = t
    return Inferred(k_step, bits, _rounding(dot, unit, bits), _carry(dot, unit, k_step, bits), _subnormals(dot, unit),
                    _non_monotonic(dot, unit, k_step, bits))  # fmt: skip


def _rounding(dot: Dot, unit: Unit, bits: int) -> str:
    """3 + (1 + 3 ulp): three quarters of the result's last place are left over."""
    mantissa = min({"fp64": 52, "fp16": 10}.get(unit.acc_fmt, 23), bits)
    step = 2.0**-mantissa
    positive, negative = (abs(dot([1.5], [2.0 * s], s * (1 + 3 * step))) > 4 for s in (1.0, -1.0))
    if positive:
        return "RN" if negative else "RU"
    return "RD" if negative else "RZ"


def _carry(dot: Dot, unit: Unit, k_step: int, bits: int) -> int:
    """Exponent of the largest sum of products just below 4 and C just below 2 that does not wrap."""
    mantissa = {"fp64": 52, "tf32": 10, "fp16": 10, "bf16": 7, "e4m3": 3, "e5m2": 2}.get(unit.in_fmt, 23)
    x = 2 - 2.0**-mantissa
    reached = 0
    for k in range(1, k_step + 1):
        total = k * x * x + x
        if abs(dot([x] * k, [x] * k, x) / total - 1) > 2.0 ** -min(bits, 9) * k:
            break
        reached = max(reached, int(total).bit_length() - 1)
    return reached


def _subnormals(dot: Dot, unit: Unit) -> bool:
    tiny = {"fp64": -1074, "fp32": -149, "tf32": -136, "bf16": -133, "fp16": -24, "e4m3": -9, "e5m2": -16}[unit.in_fmt]
    return dot([2.0**tiny], [2.0**4], 0.0) == 2.0 ** (tiny + 4)


def _non_monotonic(dot: Dot, unit: Unit, k_step: int, bits: int) -> bool:
    """Is there a sum that shrinks when C grows? Products at the cut count beside C < 1 and vanish beside C = 1."""
    mantissa = {"fp64": 52, "fp16": 10}.get(unit.acc_fmt, 23)
    lowest = {"e4m3": -9, "fp16": -24, "e5m2": -16}.get(unit.in_fmt, -60)
    if bits > 60 or -(bits + 1) < 2 * lowest:
        return False
    left = max(lowest, -bits // 2)
    a, b = 2.0**left, 2.0 ** (-(bits + 1) - left)
    below = 1 - 2.0 ** -min(mantissa + 1, bits + 1)
    for k in {2, 4, k_step}:
        for threes in range(k + 1):
            rows = [a] * k, [b] * (k - threes) + [3 * b] * threes
            if dot(*rows, 1.0) < dot(*rows, below):
                return True
    return False
