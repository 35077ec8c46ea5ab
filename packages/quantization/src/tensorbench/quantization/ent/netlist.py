"""Combinational netlists of unit gates: built in Python, counted, and simulated 64 lanes to a machine word.

One representation serves four ends: the area (a count of gates), the activity (how often each gate's output changes
from one cycle to the next, without glitches), an oracle for generated Verilog (a synthesised netlist is read back
into it) and the exhaustive check of a circuit against integer arithmetic.

Signals are numbers: 0 and 1 are the constants, inputs follow, then gate outputs in topological order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numba
import numpy as np
from jaxtyping import Int, UInt64

ZERO, ONE = 0, 1
Words = UInt64[np.ndarray, "cycles words"]


def _fa_carry(a: Words, b: Words, c: Words) -> Words:
    return (a & b) | (c & (a ^ b))


FUNCTIONS: dict[str, Callable] = {
    "INV": lambda a: ~a,
    "BUF": lambda a: a,
    "AND2": lambda a, b: a & b,
    "NAND2": lambda a, b: ~(a & b),
    "OR2": lambda a, b: a | b,
    "NOR2": lambda a, b: ~(a | b),
    "XOR2": lambda a, b: a ^ b,
    "XNOR2": lambda a, b: ~(a ^ b),
    "ANDN2": lambda a, b: a & ~b,
    "ORN2": lambda a, b: a | ~b,
    "MUX2": lambda a, b, s: (a & ~s) | (b & s),
    "HA": lambda a, b: (a ^ b, a & b),
    "FA": lambda a, b, c: (a ^ b ^ c, _fa_carry(a, b, c)),
}


@dataclass(frozen=True)
class Gate:
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    part: str


@dataclass
class Netlist:
    """Ports by name, each a list of signals from the lowest bit, and gates in the order in which they can be
    evaluated."""

    inputs: dict[str, list[int]] = field(default_factory=dict)
    outputs: dict[str, list[int]] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)
    signals: int = 2
    part: str = "logic"

    def input(self, name: str, width: int) -> list[int]:
        """A new input port."""
        self.inputs[name] = list(range(self.signals, self.signals + width))
        self.signals += width
        return self.inputs[name]

    def add(self, kind: str, *inputs: int) -> int:
        """A gate of one output; its number."""
        self.gates.append(Gate(kind, inputs, (self.signals,), self.part))
        self.signals += 1
        return self.signals - 1

    def _add2(self, kind: str, *inputs: int) -> tuple[int, int]:
        self.gates.append(Gate(kind, inputs, (self.signals, self.signals + 1), self.part))
        self.signals += 2
        return self.signals - 2, self.signals - 1

    # Gates that know about constants: what a synthesiser would remove is not there to begin with.
    def inv(self, a: int) -> int:
        return 1 - a if a <= ONE else self.add("INV", a)

    def and2(self, a: int, b: int) -> int:
        if ZERO in (a, b):
            return ZERO
        return b if a == ONE else a if b == ONE else self.add("AND2", a, b)

    def or2(self, a: int, b: int) -> int:
        if ONE in (a, b):
            return ONE
        return b if a == ZERO else a if b == ZERO else self.add("OR2", a, b)

    def xor2(self, a: int, b: int) -> int:
        if a <= ONE:
            return b if a == ZERO else self.inv(b)
        if b <= ONE:
            return a if b == ZERO else self.inv(a)
        return self.add("XOR2", a, b)

    def half_adder(self, a: int, b: int) -> tuple[int, int]:
        if a <= ONE or b <= ONE:
            return self.xor2(a, b), self.and2(a, b)
        return self._add2("HA", a, b)

    def full_adder(self, a: int, b: int, c: int) -> tuple[int, int]:
        """Sum and carry; with a constant among the inputs, the smaller circuit that is left."""
        constants = [x for x in (a, b, c) if x <= ONE]
        others = [x for x in (a, b, c) if x > ONE]
        if not constants:
            return self._add2("FA", a, b, c)
        if len(others) < 2:
            total = sum(constants)
            if not others:
                return total & 1, total >> 1
            return self.xor2(others[0], total & 1), (ONE if total == 2 else self.and2(others[0], total & 1))
        if constants[0] == ZERO:
            return self.half_adder(*others)
        return self.add("XNOR2", *others), self.or2(*others)

    def counts(self, part: str | None = None) -> Counter[str]:
        """Gates by kind, of one part or of all."""
        return Counter(g.kind for g in self.gates if part is None or g.part == part)

    @property
    def parts(self) -> list[str]:
        return list(dict.fromkeys(g.part for g in self.gates))


def to_words(values: Int[np.ndarray, "cycles lanes"], width: int) -> list[Words]:
    """Bit k of every value, for k below ``width``, 64 lanes to a word; lanes are filled up with zeros."""
    values = np.ascontiguousarray(values, dtype=np.int64)
    cycles, lanes = values.shape
    out = np.empty((width, cycles, -(-lanes // 64)), dtype=np.uint64)
    _transpose(values.view(np.uint64), out)
    return list(out)


@numba.njit(cache=True)
def _transpose(values, out):  # pragma: no cover
    """Of each 64 values the 64 × 64 matrix of their bits, turned over by halves, quarters, … of itself."""
    width, cycles, words = out.shape
    lanes = values.shape[1]
    block = np.empty(64, dtype=np.uint64)
    for t in range(cycles):
        for w in range(words):
            for i in range(64):
                lane = 64 * w + i
                block[i] = values[t, lane] if lane < lanes else np.uint64(0)
            step, mask = 32, np.uint64(0x00000000FFFFFFFF)
            while step:
                shift = np.uint64(step)
                i = 0
                while i < 64:
                    for j in range(i, i + step):
                        swap = ((block[j] >> shift) ^ block[j + step]) & mask
                        block[j] ^= swap << shift
                        block[j + step] ^= swap
                    i += 2 * step
                step //= 2
                mask ^= mask << np.uint64(step)
            for k in range(width):
                out[k, t, w] = block[k]


def from_words(words: Sequence[Words], lanes: int) -> Int[np.ndarray, "cycles lanes"]:
    """The numbers (unsigned, int64) whose bits the words hold."""
    total = np.zeros((words[0].shape[0], lanes), dtype=np.int64)
    for k, word in enumerate(words):
        bits = np.unpackbits(np.ascontiguousarray(word).view(np.uint8), axis=1, bitorder="little")[:, :lanes]
        total += bits.astype(np.int64) << k
    return total


def toggles(word: Words) -> int:
    """How many lanes change from one cycle to the next, summed."""
    return int(np.bitwise_count(word[1:] ^ word[:-1]).sum())


@dataclass
class Simulation:
    """Output ports as numbers (unsigned), and toggles by (part, kind of gate) where they were asked for."""

    outputs: dict[str, Int[np.ndarray, "cycles lanes"]]
    toggles: Counter[tuple[str, str]]


def simulate(
    netlist: Netlist,
    inputs: Mapping[str, Int[np.ndarray, "cycles lanes"]],
    *,
    activity: bool = False,
    outputs: bool = True,
) -> Simulation:
    """Evaluate the netlist on numbers (two's complement is taken bit by bit).

    Raises:
        ValueError: a port is missing or unknown, or shapes differ.
    """
    if set(inputs) != set(netlist.inputs):
        raise ValueError(f"the netlist has inputs {sorted(netlist.inputs)}, got {sorted(inputs)}")
    arrays = {name: np.atleast_2d(np.asarray(v)) for name, v in inputs.items()}
    shapes = {v.shape for v in arrays.values()}
    if len(shapes) != 1:
        raise ValueError(f"inputs must agree in shape (cycles × lanes), got {sorted(shapes)}")
    cycles, lanes = shapes.pop()
    blank = np.zeros((cycles, -(-lanes // 64)), dtype=np.uint64)
    values: dict[int, Words] = {ZERO: blank, ONE: ~blank}
    for name, port in netlist.inputs.items():
        values.update(zip(port, to_words(arrays[name], len(port)), strict=True))
    keep = {s for port in netlist.outputs.values() for s in port} | {ZERO, ONE} if outputs else {ZERO, ONE}
    last = {s: k for k, gate in enumerate(netlist.gates) for s in gate.inputs}
    counted: Counter[tuple[str, str]] = Counter()
    for k, gate in enumerate(netlist.gates):
        result = FUNCTIONS[gate.kind](*(values[s] for s in gate.inputs))
        results = result if isinstance(result, tuple) else (result,)
        for signal, word in zip(gate.outputs, results, strict=True):
            if activity:
                counted[gate.part, gate.kind] += toggles(word)
            if signal in keep or signal in last:
                values[signal] = word
        for s in gate.inputs:
            if last[s] == k and s not in keep:
                values.pop(s, None)
    numbers = {n: from_words([values[s] for s in p], lanes) for n, p in netlist.outputs.items()} if outputs else {}
    return Simulation(numbers, counted)
