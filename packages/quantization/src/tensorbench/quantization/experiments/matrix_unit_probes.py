"""Do simulated matrix units behave as published? Probes, inferred parameters, summation orders, and outputs of GPUs.

Every method is a generation with several units, or the GPU of the machine. Probe results and trees go into an artifact,
which the figures read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.quantization.tensorcore import gpu, order, probes
from tensorbench.quantization.tensorcore.legacy_fp8 import LEGACY
from tensorbench.quantization.tensorcore.presets import get_unit
from tensorbench.quantization.tensorcore.unit import MMAUnit

FAILED_BY_AMPERE = {  # of Volta's edition, on an A10 and an RTX 3080
    "sum in fp32", "anchored at the largest", "bits below fp32", "no normalising, subtraction", "not monotonic",
}  # fmt: skip
REDUCTIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "torch.sum": torch.sum,
    "torch matmul": lambda x: x @ torch.ones_like(x),
    "numpy.sum": lambda x: x.numpy().sum(),
}
COLUMNS = ("volta_fp16", "turing_fp16", "ampere_fp16", "ampere_bf16", "ampere_tf32", "hopper_fp16", "hopper_bf16",
           "hopper_tf32", "gpu_fp16", "gpu_bf16", "gpu_tf32", "ieee_fma_chain", "exact")  # fmt: skip


def _units(run: Run, data: dict[str, Any]) -> None:
    """Probe the units, or compare them with measured outputs."""
    units = [get_unit(name) for name in run.method.params["units"]]
    if run.dataset.uses == "unit_probes":
        _probe(run, units, data)
    else:
        _compare(run, units, data)


def _edition(unit: probes.Unit, edition: str) -> Any:
    return "fp64" if unit.in_fmt == "fp64" else edition


def _probe(run: Run, units: list[MMAUnit], data: dict[str, int]) -> None:
    report: dict[str, Any] = {}
    failed, recovered, as_built, monotonic = 0, [], [], []
    for unit in units:
        inferred, suite = _asked(unit, run.method.params["edition"])
        failed += sum(not probe.passed for probe in suite)
        tree = order.reveal_order(unit, data["length"])
        if unit.align == "max":
            found = inferred.k_step, inferred.extra_bits, inferred.rounding
            recovered.append(found == (unit.k_step, unit.extra_bits, unit.out_round))
            as_built.append(_blocks(tree) == _expected_blocks(unit, data["length"]) and _permutable(unit, data))
            if unit.acc_fmt == "fp32":
                monotonic.append(inferred.non_monotonic)
        report[unit.name] = _told(inferred, suite, tree, exact=unit.align == "exact")
    run.log(probes_failed=failed, pattern=failed == 0)
    if recovered:
        run.log(parameters_recovered=float(np.mean(recovered)), all_recovered=all(recovered))
        run.log(order_as_built=all(as_built), non_monotonic=all(monotonic))
    if "other_edition" in run.method.params:
        results = {
            unit.name: {p.name for p in probes.run_suite(unit, run.method.params["other_edition"]) if not p.passed}
            for unit in units
            if unit.acc_fmt == "fp32"
        }
        run.log(other_pattern=all(names == FAILED_BY_AMPERE for names in results.values()))
    _keep(run, report)


def _asked(unit: probes.Unit, edition: str) -> tuple[probes.Inferred, list[probes.Probe]]:
    """What a unit, simulated or in a GPU, answers: its parameters, and the published suite."""
    suite = []
    if unit.in_fmt in ("fp16", "bf16", "tf32", "fp64"):
        suite = probes.run_suite(unit, _edition(unit, edition))
    return probes.infer_parameters(unit), suite


def _order(unit: probes.Unit, length: int) -> nx.DiGraph | None:
    """The order of summation; None where masks cannot show it, since the format's largest product does not absorb its
    smallest in this unit."""
    try:
        return order.reveal_order(unit, length)
    except ValueError:
        return None


def _told(
    inferred: probes.Inferred, suite: list[probes.Probe], tree: nx.DiGraph | None, exact: bool = False
) -> dict[str, Any]:
    drawn = {} if tree is None else {"tree": nx.node_link_data(tree, edges="edges"), "root": tree.graph[order.ROOT]}
    return drawn | {
        "probes": [[p.group, p.name, p.passed] for p in suite],
        "k_step": inferred.k_step,
        "fraction_bits": inferred.fraction_bits,
        "rounding": inferred.rounding,
        "carry_bits": inferred.carry_bits,
        "exact": exact,
    }


def _silicon(run: Run, data: dict[str, int]) -> None:
    """The GPU of this machine: the same questions, and random products, as put to the units that simulate it."""
    report: dict[str, Any] = {}
    outputs, different, failed, alike, trees, monotonic = 0, 0, 0, [], [], []
    for name in run.method.params["units"]:
        unit = LEGACY[name] if name in LEGACY else get_unit(name)
        real = gpu.MmaBackend(unit.in_fmt, unit.acc_fmt)
        answers = _asked(real, run.method.params["edition"])
        alike.append(answers == _asked(unit, run.method.params["edition"]))
        inferred, suite = answers
        failed += sum(not probe.passed for probe in suite)
        tree, simulated = (_order(u, data["length"]) for u in (real, unit))
        if tree is not None and simulated is not None:
            trees.append(order.as_text(tree) == order.as_text(simulated))
            run.log(**{f"same_order_{name}": trees[-1]})
        if unit.acc_fmt == "fp32":
            monotonic.append(inferred.non_monotonic)
        found = gpu.compare(unit, real, data["rows"], seed=1 + data["seed"])
        run.log(**{f"different_{name}": found.different, f"alike_{name}": alike[-1]})
        run.log(**{f"k_step_{name}": inferred.k_step, f"fraction_bits_{name}": inferred.fraction_bits})
        outputs, different = outputs + found.outputs, different + found.different
        report[real.name] = _told(inferred, suite, tree) | {"simulator": name, "different": found.different}
    run.log(probes_failed=failed, pattern=failed == 0)
    run.log(all_recovered=all(alike), parameters_recovered=float(np.mean(alike)))
    run.log(order_as_built=all(trees), non_monotonic=all(monotonic))
    run.log(mismatches=different, vectors=outputs, bit_exact_share=1 - different / outputs, bit_exact=different == 0)
    _keep(run, report)


def _libraries(run: Run, data: dict[str, Any]) -> None:
    """The trees of CPU reductions, twice as long as the units' sums."""
    length = data["length"]
    report = {}
    for name, function in REDUCTIONS.items():
        tree = order.reveal_reduction(function, 2 * length)
        report[name] = {"tree": nx.node_link_data(tree, edges="edges"), "root": tree.graph[order.ROOT]}
        depth = max(nx.shortest_path_length(tree, tree.graph[order.ROOT]).values())
        run.log(**{f"depth_{name.replace('.', '_').replace(' ', '_')}": depth})
    _keep(run, report)


METHODS = {"units": _units, "libraries": _libraries, "silicon": _silicon}


def run(run: Run) -> None:
    """A generation's units, the GPU of this machine, or the reductions of CPU libraries."""
    METHODS[run.method.uses](run, run.dataset.load(run.seed))


def _keep(run: Run, report: dict[str, Any]) -> None:
    run.artifact("report.json").write_text(json.dumps(report))


def _blocks(tree: nx.DiGraph) -> list[int]:
    """Leaves of every addition, from the first to the last."""
    inner = [node for node in tree if tree.out_degree(node)]
    return [sum(tree.out_degree(c) == 0 for c in tree.successors(node)) for node in sorted(inner, key=len)]


def _expected_blocks(unit: MMAUnit, length: int) -> list[int]:
    return [min(unit.k_step, length - k) for k in range(0, length, unit.k_step)]


def _permutable(unit: MMAUnit, data: dict[str, int]) -> bool:
    """Do random permutations of one block leave its result alone, bit by bit?"""
    generator = torch.Generator().manual_seed(data["seed"])
    a, b = (unit.cast(torch.randn(data["rows"], unit.k_step, generator=generator)) for _ in range(2))
    c = unit.accumulator.round(torch.randn(data["rows"], generator=generator))
    turned = torch.randperm(unit.k_step, generator=generator)
    return bool((unit.dot(a, b, c) == unit.dot(a[:, turned], b[:, turned], c)).all())


def _compare(run: Run, units: list[MMAUnit], data: dict[str, Any]) -> None:
    """Bits against outputs of GPUs. Units without a measurement take part with those of the same operand format."""
    different, vectors = 0, 0
    for unit in units:
        for name, measured in data.items():
            preset = get_unit(name)
            mine = name == unit.name
            stand_in = run.method.name in ("ieee_chain", "exact") and (preset.in_fmt, preset.acc_fmt) == (
                unit.in_fmt, unit.acc_fmt)  # fmt: skip
            if not mine and not stand_in:
                continue
            a, b, c = (torch.from_numpy(np.ascontiguousarray(x)) for x in (measured.a, measured.b, measured.c))
            got = unit.dot(a, b, c).numpy()
            wrong = int((got.view(np.int32) != measured.d.view(np.int32)).sum())
            run.log(**{f"different_{name}": wrong})
            different, vectors = different + wrong, vectors + len(got)
    run.log(mismatches=different, vectors=vectors, bit_exact_share=1 - different / vectors, bit_exact=different == 0)


def _reports(records: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in rec.artifacts(records, "report.json")["path"] if len(records) else ():
        found |= json.loads(path.read_text())
    return found


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """The table of probes, and the trees."""
    reports = _reports(records)
    yield "probes", _probe_figure(reports)
    yield "trees", _tree_figure(reports)


def _probe_figure(reports: dict[str, Any]) -> Figure:
    fig, ax = plotting.figure(columns=2, height=8.6)
    names = [name for name in COLUMNS if name in reports]
    if not names:
        plotting.empty(ax)
        return fig
    rows = [(group, name) for group, name, _ in reports[names[0]]["probes"]]
    ax.grid(False)
    for x, unit in enumerate(names):
        passed = {name: ok for _, name, ok in reports[unit]["probes"]}
        for y, (_, name) in enumerate(rows):
            good = passed.get(name, False)
            ax.plot(x, y, marker="o", markersize=7, markerfacecolor="#0072B2" if good else "white",
                    markeredgecolor="#0072B2" if good else "#D55E00", markeredgewidth=1.2)  # fmt: skip
        found = reports[unit]
        facts = [str(found["k_step"]), str(found["fraction_bits"]), found["rounding"]]
        if found["exact"]:
            facts = ["all", "all", found["rounding"]]
        for offset, text in enumerate(facts):
            ax.text(x, len(rows) + 0.6 + offset, text, ha="center", va="center", fontsize=8)
    labels = [f"{group}  {name}" for group, name in rows]
    ax.set_yticks([*range(len(rows)), *(len(rows) + 0.6 + i for i in range(3))],
                  [*labels, "added at once", "fractional bits", "rounding"])  # fmt: skip
    ax.axhline(len(rows) - 0.2, color="#999999", linewidth=0.6)
    ax.set_xticks(range(len(names)), [_unit_label(name) for name in names])
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_ylim(len(rows) + 3.1, -0.6)
    ax.set_xlim(-0.6, len(names) - 0.4)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return fig


def _unit_label(name: str) -> str:
    known = {"ieee_fma_chain": "FMA\nchain", "exact": "exact"}
    if name in known:
        return known[name]
    generation, form = name.split("_")[:2]
    if generation == "gpu":
        return f"this GPU\n{form.upper()}"
    return f"{generation.capitalize()}\n{form.upper()}"


def _tree_figure(reports: dict[str, Any]) -> Figure:
    wanted = [("volta_fp16", "Volta FP16"), ("ampere_fp16", "Ampere FP16"), ("hopper_fp16", "Hopper FP16"),
              ("ieee_fma_chain", "FMA chain"), ("torch.sum", "torch.sum"), ("numpy.sum", "numpy.sum")]  # fmt: skip
    fig, axes = plotting.figure(columns=2, rows=2, cols=3, height=9.6)
    for ax, (name, title) in zip(axes.flat, wanted, strict=True):
        ax.set_title(title)
        ax.axis("off")
        if name in reports:
            tree = nx.node_link_graph(reports[name]["tree"], directed=True, edges="edges")
            _draw(ax, tree, reports[name]["root"])
        else:
            plotting.empty(ax)
    return fig


def _draw(ax: Axes, tree: nx.DiGraph, root: Any) -> None:
    """Leaves side by side in the order of the tree, every addition above the middle of what it adds."""
    root = tuple(root) if isinstance(root, list) else root
    place: dict[Any, tuple[float, float]] = {}
    counter = iter(range(len(tree)))

    def put(node: Any) -> tuple[float, float]:
        children = sorted(tree.successors(node), key=lambda c: c[0] if isinstance(c, tuple) else c)
        if not children:
            place[node] = (float(next(counter)), 0.0)
        else:
            below = [put(child) for child in children]
            place[node] = (float(np.mean([x for x, _ in below])), 1.0 + max(y for _, y in below))
        return place[node]

    put(root)
    for parent, child in tree.edges:
        (x0, y0), (x1, y1) = place[parent], place[child]
        ax.plot([x0, x1], [y0, y1], color="#888888", linewidth=0.6, zorder=1)
    leaves = np.array([p for n, p in place.items() if tree.out_degree(n) == 0])
    inner = np.array([p for n, p in place.items() if tree.out_degree(n)])
    ax.scatter(leaves[:, 0], leaves[:, 1], s=7, color="#404040", zorder=2, linewidth=0)
    ax.scatter(inner[:, 0], inner[:, 1], s=13, facecolor="white", edgecolor="#0072B2", zorder=3, linewidth=0.9)
