"""What each recoder does to an n-bit operand and what it costs, over every operand and every product of eight bits.

``exact`` says that all codes decode, that all 65536 products of the digit arithmetic and of the gate netlists
(recoder in the multiplier and in front of it) are right, and, where Yosys is there, those of the synthesised Verilog
too. Areas are of the unit-gate model; ``verilog_…`` counts Yosys' generic cells. The steps of the histories are
operand widths n.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.quantization.ent import circuits, synthesis, verilog
from tensorbench.quantization.ent.costs import GateModel
from tensorbench.quantization.ent.encoders import get_encoder
from tensorbench.quantization.ent.multiplier import Multiplier, wrap
from tensorbench.quantization.ent.netlist import Netlist, simulate

log = logging.getLogger(__name__)
METHODS = {kind: kind for kind in ("ent", "mbe", "csd", "plain")}
PARTS = ("convert", "encode", "decode", "select", "tree", "adder")
N = 8


def run(run: Run) -> None:
    """Exactness and costs at n = 8, then how the recoder grows with n."""
    kind, booth = run.method.uses, run.method.params.get("booth", "factored")
    data, model, encoder = run.dataset.load(run.seed), GateModel(), get_encoder(run.method.uses, N)
    exact = _exact(kind, booth)
    run.log(
        width=encoder.width,
        digit_cells=encoder.n_cells,
        nonzero_uniform=encoder.mean_nonzero(data.values),
        nonzero_normal=encoder.mean_nonzero(data.values, data.weights),
    )
    recoder, whole = _area(model, circuits.encoder_circuit(kind, N, booth)), {}
    for edge in (False, True):
        whole[edge] = _area(model, circuits.multiplier_circuit(kind, N, edge=edge, booth=booth))
    run.log(
        recoder_um2=sum(recoder.values()),
        recoder_without_conversion_um2=recoder.get("encode", 0.0),
        multiplier_um2=sum(whole[False].values()),
        multiplier_without_recoder_um2=sum(whole[True].values()),
        saved_percent=100 * (1 - sum(whole[True].values()) / sum(whole[False].values())),
    )
    run.log(**{f"{part}_um2": whole[False].get(part, 0.0) for part in PARTS})
    for n in run.method.params.get("sizes", (4, 8, 12, 16)):
        net = circuits.encoder_circuit(kind, n, booth)
        run.log(step=n, recoder_um2_by_n=sum(_area(model, net).values()), width_by_n=get_encoder(kind, n).width)
    exact &= _synthesised(run, kind, booth)
    run.log(exact=exact)


def _area(model: GateModel, net: Netlist) -> dict[str, float]:
    return model.area({part: net.counts(part) for part in net.parts})


def _products() -> tuple[np.ndarray, np.ndarray]:
    x = np.arange(-(2 ** (N - 1)), 2 ** (N - 1))
    return np.repeat(x, len(x)), np.tile(x, len(x))


def _right(net: Netlist, a: np.ndarray, b: np.ndarray, wanted: np.ndarray) -> bool:
    out = simulate(net, {"a": a[None], "b": b[None]}).outputs["out"][0]
    return bool((wrap(out, 2 * N) == wanted).all())


def _exact(kind: str, booth: str) -> bool:
    encoder, (a, b) = get_encoder(kind, N), _products()
    code = encoder.encode(a).packed
    right = bool((encoder.decode(code) == a).all() and (Multiplier(encoder)(a, b) == a * b).all())
    for edge in (False, True):
        right &= _right(circuits.multiplier_circuit(kind, N, edge=edge, booth=booth), code if edge else a, b, a * b)
    return right


def _synthesised(run: Run, kind: str, booth: str) -> bool:
    """Cells of the synthesised Verilog, and whether its products are right."""
    if synthesis.yosys_command() is None:
        log.warning("%s: no yosys here, so nothing is said of the Verilog", run.title)
        return True
    text = verilog.encoder_module(kind, N, booth, "recoder")
    for edge in (False, True):
        text += verilog.multiplier_module(kind, N, edge=edge, booth=booth, name=f"multiplier{edge:d}")
    tops = ["recoder", "multiplier0", "multiplier1"]
    if kind in ("ent", "mbe"):
        text += verilog.digit_module(kind, booth)
        tops.append("digit")
    made = synthesis.synthesize(text, tops)
    for top in tops:
        run.log(**{f"verilog_{top}_cells": sum(made[top].counts().values())})
    a, b = _products()
    code = get_encoder(kind, N).encode(a).packed
    right = all(_right(made[f"multiplier{edge}"].netlist, code if edge else a, b, a * b) for edge in (0, 1))
    run.log(verilog_exact=right)
    return right


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Where a multiplier's area is, and how code and recoder grow."""
    fig, ax = plotting.figure(columns=2, height=6.5)
    names = list(records["method"]) if len(records) else []
    looks = plotting.styles(PARTS)
    left = np.zeros(len(names))
    for part in PARTS:
        column = f"{part}_um2"
        if column not in records or not names:
            continue
        value = records[column].to_numpy(dtype=float)
        ax.barh(names, value, left=left, color=looks[part]["color"], label=_PART_LABELS[part], height=0.65)
        left += value
    if names:
        for place, (total, saved) in enumerate(zip(left, records["saved_percent"], strict=True)):
            ax.annotate(f"{saved:.1f} %", (total, place), xytext=(3, 0), textcoords="offset points", va="center",
                        fontsize=8)  # fmt: skip
        ax.set_yticks(range(len(names)), [plotting.label(name) for name in names])
        ax.set_xlim(0, left.max() * 1.12)
        ax.invert_yaxis()
        ax.grid(False, axis="y")
        ax.set_xlabel("area of an 8 × 8 multiplier (µm²)")
        plotting.legend(fig, ncols=6)
    else:
        plotting.empty(ax)
    yield "area", fig

    fig, axes = plotting.figure(columns=2, cols=2, height=6)
    for ax, metric, text in zip(
        axes, ("width_by_n", "recoder_um2_by_n"), ("width of the code (bits)", "area of the recoder (µm²)"), strict=True
    ):
        history = rec.history(records, metric) if len(records) else pd.DataFrame()
        if history.empty:
            plotting.empty(ax)
            continue
        plotting.series(ax, history, "step", "value")
        ax.set(xlabel="operand width n (bits)", ylabel=text, xticks=sorted(history["step"].unique()))
    plotting.legend(fig)
    yield "growth", fig


_PART_LABELS = {
    "convert": "sign and magnitude",
    "encode": "recoding",
    "decode": "decoding",
    "select": "partial products",
    "tree": "tree",
    "adder": "adder",
}
