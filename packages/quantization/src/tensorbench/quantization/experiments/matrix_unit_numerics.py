"""Errors of matrix units: single operations, chains of products, growing sums, and a network evaluated on each unit.

Steps are the lengths of chains, and of sums. The network's error is split: ``arithmetic_error`` compares with float64
products of the very operands that the unit saw, ``output_error`` with the network in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.quantization.gemm import matmul
from tensorbench.quantization.tensorcore.presets import get_unit
from tensorbench.quantization.tensorcore.profile import chain_error, profile_ops, sum_error
from tensorbench.quantization.tensorcore.unit import MMAUnit

COMPARED = range(2, 9)  # lengths of chains in the claims


def _operations(run: Run, unit: MMAUnit, data: dict[str, int]) -> None:
    for init in ("low", "fp32"):
        errors = profile_ops(unit, init, data["draws"], seed=data["seed"])
        run.log(**{f"{name}_{init}": value for name, value in errors.items()})
    run.log(products_exact=run.metrics["multiplication_low"] == 0)
    lengths = range(1, data["longest"] + 1)
    chains = chain_error(unit, lengths, data["chains"], seed=data["seed"]).mean(dim=0)
    finite = torch.isfinite(chains)
    for length, error, fine in zip(lengths, chains.tolist(), finite.tolist(), strict=True):
        if fine:
            run.log(step=length, chain_error=error)
    run.log(stays_finite=bool(finite.all()))
    if not bool(finite.all()):
        run.log(first_overflow=lengths[int((~finite).nonzero()[0])])


def _sums(run: Run, unit: MMAUnit, data: dict[str, Any]) -> None:
    for length in run.progress(data["lengths"], desc="length"):
        errors = sum_error(unit, length, data["rows"], seed=data["seed"])
        run.log(step=length, bias=float(errors.mean().abs()), mean_error=float(errors.abs().mean()))


def _network(run: Run, unit: MMAUnit, data: dict[str, Any]) -> None:
    """All layers on the unit, float32 between them; then the same in float64."""
    layers, biases, labels = data["layers"], data["biases"], data["labels"]
    result = exact = torch.from_numpy(layers[0].x).double()
    arithmetic = []
    for i, (layer, bias) in enumerate(zip(layers, biases, strict=True)):
        weight, offset = torch.from_numpy(layer.w), torch.from_numpy(bias)
        product = matmul(result.float(), weight, unit).double()
        seen = _as_seen(unit, result.float()) @ _as_seen(unit, weight)
        arithmetic.append(float((product - seen).norm() / seen.norm()))
        run.log(step=i + 1, layer_error=arithmetic[-1])
        result, exact = product + offset, exact @ weight.double() + offset
        if i + 1 < len(layers):
            result, exact = result.clamp(min=0), exact.clamp(min=0)
    run.log(
        arithmetic_error=max(arithmetic),
        output_error=float((result - exact).norm() / exact.norm()),
        accuracy=float(np.mean(result.argmax(dim=1).numpy() == labels)),
        accuracy_float32=float(np.mean(exact.argmax(dim=1).numpy() == labels)),
    )


def _as_seen(unit: MMAUnit, x: torch.Tensor) -> torch.Tensor:
    """The operand that the unit multiplies, in float64."""
    if unit.align != "integer":
        return unit.cast(x).double()
    scale = float(x.abs().max()) / unit.operand.max
    return unit.cast(x.double() / scale) * scale


KINDS: dict[str, Callable[[Run, MMAUnit, Any], None]] = {
    "normal_operands": _operations, "growing_sums": _sums, "captured_products": _network
}  # fmt: skip


def evaluate(run: Run) -> None:
    """The unit of the method's name on the run's dataset."""
    KINDS[run.dataset.uses](run, get_unit(run.method.name), run.dataset.load(run.seed))


METHODS = {"unit": evaluate}


def run(run: Run) -> None:
    """One unit on one kind of work."""
    METHODS[run.method.uses](run)


def _farthest(records: pd.DataFrame, of: str, over: str, middle: float) -> list[float]:
    """For each seed, of the ratios of chain errors at the compared lengths the one farthest from the middle."""
    history = rec.history(records, "chain_error")
    table = history.pivot_table(index=["seed", "step"], columns="method", values="value")
    ratio = (table[of] / table[over]).unstack("step")[list(COMPARED)]
    rows = ratio.to_numpy()
    return [float(row[np.argmax(np.abs(np.log(row / middle)))]) for row in rows]


def bf16_over_tf32(records: pd.DataFrame) -> list[float]:
    """Chain errors in BF16 over TF32; middle of [6.5, 9.5] in logarithms."""
    return _farthest(records, "ampere_bf16", "ampere_tf32", float(np.sqrt(6.5 * 9.5)))


def fp16_over_tf32(records: pd.DataFrame) -> list[float]:
    """Chain errors in FP16 over TF32; middle of [0.95, 1.05] in logarithms."""
    return _farthest(records, "ampere_fp16", "ampere_tf32", float(np.sqrt(0.95 * 1.05)))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Operations, chains, growing sums, and the network."""
    yield "operations", _operation_figure(records)
    yield "chains", _chain_figure(records)
    yield "growth", _growth_figure(records)
    yield "network", _network_figure(records)


def _of(records: pd.DataFrame, dataset: str) -> pd.DataFrame:
    return records[records["dataset"] == dataset] if len(records) else records


def _operation_figure(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=6.6, sharey=True)
    part = _of(records, "operations")
    names = ("multiplication", "addition", "accumulation")
    for ax, init, title in zip(axes, ("low", "fp32"), ("operands rounded first", "operands in float32"), strict=True):
        ax.set_title(title)
        if part.empty:
            plotting.empty(ax)
            continue
        ax.set_yscale("symlog", linthresh=1e-9, linscale=0.6)
        methods = list(pd.unique(part["method"]))
        for m, method in enumerate(methods):
            look = plotting.style(method)
            values = part[part["method"] == method]
            for x, name in enumerate(names):
                y = float(values[f"{name}_{init}"].mean())
                ax.plot(x + 0.22 * (m - 1), y, **look | {"linestyle": "none", "markersize": 6, "clip_on": False})
        ax.set_xticks(range(3), ["multiply", "add two products", "accumulate"])
        ax.set_xlim(-0.5, 2.5)
        ax.set_ylim(0, 1e-1)
        ax.set_yticks([0, 1e-9, 1e-7, 1e-5, 1e-3, 1e-1])
    axes[0].set_ylabel("mean absolute error")
    plotting.legend(fig)
    return fig


def _chain_figure(records: pd.DataFrame) -> Figure:
    fig, ax = plotting.figure(columns=1, height=6.8)
    part = _of(records, "operations")
    history = rec.history(part, "chain_error") if len(part) else part
    if history.empty:
        plotting.empty(ax)
        return fig
    plotting.log_axis(ax, "y", ticks=(2e-4, 5e-4, 1e-3, 2e-3, 5e-3))
    history = history[history["step"] > 1]
    plotting.series(ax, history, "step", "value")
    overflow = part.dropna(subset=["first_overflow"]) if "first_overflow" in part else part.iloc[:0]
    for method, rows in overflow.groupby("method"):
        mine = history[history["method"] == method].groupby("step")["value"].mean()
        colour = plotting.style(str(method))["color"]
        ax.plot(float(rows["first_overflow"].mean()), float(mine.iloc[-1]), marker="x", markersize=7, color=colour,
                markeredgewidth=1.6, linestyle="none", label="first overflow")  # fmt: skip
    ax.set(xlabel="products in the chain", ylabel="relative error (l2)")
    plotting.legend(fig)
    return fig


def _growth_figure(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=7.0, sharey=True)
    part = _of(records, "growing_sums")
    for ax, metric, title in zip(axes, ("bias", "mean_error"), ("size of the mean error", "mean size of the error"),
                                 strict=True):  # fmt: skip
        history = rec.history(part, metric) if len(part) else part
        if history.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "xy")
        plotting.series(ax, history, "step", "value")
        k = np.unique(history["step"].to_numpy(dtype=float))
        ax.plot(k, k * 2.0**-24, color="#666666", linewidth=0.8, linestyle=":", label="K u")
        ax.plot(k, np.sqrt(k) * 2.0**-24, color="#666666", linewidth=0.8, linestyle="--", label="√K u")
        ax.set(xlabel="terms of a sum, K", title=title)
        ax.set_ylabel("relative to the sum" if metric == "bias" else "")
    plotting.legend(fig)
    return fig


def _network_figure(records: pd.DataFrame) -> Figure:
    fig, ax = plotting.figure(columns=1, height=6.4)
    part = _of(records, "digits_network")
    if part.empty:
        plotting.empty(ax)
        return fig
    ax.set_xscale("log")
    methods = list(part.groupby("method")["output_error"].mean().sort_values().index)
    total, own = (part.groupby("method")[name].mean()[methods] for name in ("output_error", "arithmetic_error"))
    places = range(len(methods))
    ax.hlines(places, own, total, color="#BBBBBB", linewidth=1, zorder=1)
    dots = {"linestyle": "none", "marker": "o", "markersize": 6, "color": "#0072B2"}
    ax.plot(own, places, label="arithmetic of the unit, worst layer", markerfacecolor="white", **dots)
    ax.plot(total, places, label="whole error of the outputs", **dots)
    ax.set_yticks(list(places), [plotting.label(method) for method in methods])
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.set_xlabel("relative error (l2)")
    plotting.legend(fig, ncols=1)
    return fig
