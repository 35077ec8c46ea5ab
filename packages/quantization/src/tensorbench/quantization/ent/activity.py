"""What an array is made of, and what all of it does while it multiplies two matrices.

Parts: ``convert`` and ``encode`` (the recoder), ``decode`` and ``select`` (rows of partial products), ``tree`` and
``adder`` (the sum), ``adder tree`` (between multipliers of one dot product), ``operands`` and ``sums`` (registers),
``wires`` (a broadcast operand's way to each multiplier). Toggles are counted gate by gate on the cycles of the
array's own simulation, without glitches. ``Circuits`` says which netlists stand behind the parts;
``synthesis.Synthesised`` has those of Yosys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from .arrays import Array, Result, Trace
from .circuits import BoothForm, adder_circuit, encoder_circuit, mac_circuit, multiplier_circuit
from .costs import Activity, GateModel, Report
from .netlist import Netlist, simulate, to_words, toggles


@dataclass(frozen=True)
class Circuits:
    """The unit-gate circuits of this package, with either form of the Booth cell."""

    booth: BoothForm = "factored"

    def encoder(self, array: Array) -> Netlist:
        return encoder_circuit(array.kind, array.n, self.booth)

    def mac(self, array: Array) -> Netlist:
        edge = array.placement == "edge"
        return mac_circuit(array.kind, array.n, edge=edge, accumulator=array.accumulator, booth=self.booth)

    def multiplier(self, array: Array) -> Netlist:
        return multiplier_circuit(array.kind, array.n, edge=array.placement == "edge", booth=self.booth)

    def adder(self, width: int, out: int) -> Netlist:
        return adder_circuit(width, out, "adder tree")


UNIT = Circuits()


def _operand_bits(array: Array) -> tuple[int, int]:
    return array.encoder.width if array.placement == "edge" else array.n, array.n


def _tree_levels(array: Array) -> Iterator[tuple[int, int]]:
    """Adders for each dot product, and the width of their inputs, level by level."""
    terms, width = array.multipliers // array.accumulators, 2 * array.n
    while terms > 1:
        yield terms // 2, width
        terms, width = terms - terms // 2, width + 1


def netlist_counts(array: Array, circuits: Circuits = UNIT) -> dict[str, Counter[str]]:
    """Gates by part and kind in the whole array."""
    counts: dict[str, Counter[str]] = {}

    def put(net: Netlist, times: int, name: str | None = None) -> None:
        for part in net.parts:
            mine = counts.setdefault(name or part, Counter())
            for gate, k in net.counts(part).items():
                mine[gate] += k * times

    if array.placement == "edge" and array.kind != "plain":
        put(circuits.encoder(array), array.shared)
    if array.tree:
        put(circuits.multiplier(array), array.multipliers)
        for adders, width in _tree_levels(array):
            put(circuits.adder(width, width + 1), adders * array.accumulators, "adder tree")
        put(circuits.adder(array.accumulator, array.accumulator), array.accumulators, "adder tree")
    else:
        put(circuits.mac(array), array.multipliers)
    (a_bits, b_bits), (a, b) = _operand_bits(array), array.operand_registers
    counts["operands"] = Counter(DFF=a * a_bits + b * b_bits)
    counts["sums"] = Counter(DFF=array.accumulators * array.accumulator)
    return counts


def register_bits_per_cell(array: Array) -> float:
    """Operand register bits a multiplier."""
    return netlist_counts(array)["operands"]["DFF"] / array.multipliers


def area(array: Array, model: GateModel | None = None, circuits: Circuits = UNIT) -> dict[str, float]:
    """µm² by part."""
    return (model or GateModel()).area(netlist_counts(array, circuits))


def _bit_toggles(values: Int[np.ndarray, "cycles lanes"], bits: int) -> int:
    return sum(toggles(word) for word in to_words(values, bits))


def trace_activity(array: Array, trace: Trace, circuits: Circuits = UNIT) -> Activity:
    """Everything that a tile's cycles do; its first and last cycle are idle and do not count as such."""
    counted: Counter[tuple[str, str]] = Counter()
    edge = array.placement == "edge"
    a = array.encoder.encode(trace.a).packed if edge else trace.a
    if edge and array.kind != "plain":
        net = circuits.encoder(array)
        counted += simulate(net, {"a": array.entering(trace.a)}, activity=True, outputs=False).toggles
    if array.tree:
        net = circuits.multiplier(array)
        counted += simulate(net, {"a": a, "b": trace.b}, activity=True, outputs=False).toggles
        counted += _tree_toggles(array, trace, circuits)
    else:
        operands = {"a": a, "b": trace.b, "acc": trace.before}
        counted += simulate(circuits.mac(array), operands, activity=True, outputs=False).toggles
    (a_bits, b_bits), (a_reach, b_reach) = _operand_bits(array), array.reach
    a_held, b_held = array.held(a, trace.b)
    a_toggles, b_toggles = _bit_toggles(a_held, a_bits), _bit_toggles(b_held, b_bits)
    counted["operands", "DFF"] += a_toggles + b_toggles
    counted["wires", "WIRE"] += a_toggles * a_reach + b_toggles * b_reach
    counted["sums", "DFF"] += _bit_toggles(trace.after, array.accumulator)
    cycles = len(trace.a) - 2
    return Activity(counted, _clocked(array, cycles), cycles, 0)


def _clocked(array: Array, cycles: int) -> Counter[str]:
    (a_bits, b_bits), (a, b) = _operand_bits(array), array.operand_registers
    return Counter(operands=cycles * (a * a_bits + b * b_bits), sums=cycles * array.accumulators * array.accumulator)


def _tree_toggles(array: Array, trace: Trace, circuits: Circuits) -> Counter[tuple[str, str]]:
    counted: Counter[tuple[str, str]] = Counter()

    def put(net: Netlist, a: np.ndarray, b: np.ndarray) -> None:
        ports = {"a": a.reshape(len(a), -1), "b": b.reshape(len(b), -1)}
        for (_, gate), k in simulate(net, ports, activity=True, outputs=False).toggles.items():
            counted["adder tree", gate] += k

    terms = (trace.a * trace.b).reshape(len(trace.a), array.accumulators, -1)
    for adders, width in _tree_levels(array):
        left, right = terms[..., 0 : 2 * adders : 2], terms[..., 1 : 2 * adders : 2]
        put(circuits.adder(width, width + 1), left, right)
        terms = np.concatenate([left + right, terms[..., 2 * adders :]], axis=-1)
    put(circuits.adder(array.accumulator, array.accumulator), terms[..., 0], trace.before)
    return counted


def measure(array: Array, A: Int[np.ndarray, "m k"], B: Int[np.ndarray, "k n"], circuits: Circuits = UNIT) -> Activity:
    """Toggles and clocked registers of ``array.run(A, B)``."""
    return of_result(array, array.run(A, B, trace=True), circuits)


def of_result(array: Array, result: Result, circuits: Circuits = UNIT) -> Activity:
    """Toggles and clocked registers of a product that was traced."""
    counted: Counter[tuple[str, str]] = Counter()
    for trace in _together(result.traces):
        counted += trace_activity(array, trace, circuits).toggles
    return Activity(counted, _clocked(array, result.cycles), result.cycles, result.macs)


_LARGEST = 2_000_000  # operands at a time


def _together(traces: list[Trace]) -> Iterator[Trace]:
    """Tiles one after the other as one trace; between two of them everything is idle."""
    while traces:
        many = max(1, min(len(traces), _LARGEST // traces[0].a.size))
        yield Trace(*(np.concatenate(column) for column in zip(*traces[:many], strict=True)))
        traces = traces[many:]


def energy(array: Array, A: np.ndarray, B: np.ndarray, model: GateModel | None = None) -> dict[str, float]:
    """fJ by part of ``A · B`` in this array."""
    return (model or GateModel()).energy(measure(array, A, B))


def report(array: Array, activity: Activity, model: GateModel | None = None, circuits: Circuits = UNIT) -> Report:
    """Area, energy and figures of merit of the array on the work that was measured."""
    model = model or GateModel()
    return Report(
        sum(area(array, model, circuits).values()),
        sum(model.energy(activity).values()),
        activity.cycles,
        activity.macs,
        array.multipliers,
        model.clock_hz,
    )
