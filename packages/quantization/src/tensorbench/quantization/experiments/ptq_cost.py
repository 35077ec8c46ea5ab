"""What guided search spends its time on, what wrapping costs, and what few bits save on this machine's kernels.

All in one process on one thread. The steps of the histories are rows of a square product (``rows`` = inner = columns)
for the kernels; everything else is a number a model.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.quantization.experiments.classify_ptq import BATCH, Bench
from tensorbench.quantization.ptq.cost import latency
from tensorbench.quantization.ptq.latency import conversion_jobs, linear_jobs, measure_table
from tensorbench.quantization.ptq.search import bisection_search, greedy_search
from tensorbench.quantization.ptq.sensitivity import noise, order_by, sensitivity

METHODS = ("guided",)
KERNELS = {"fp32": "float32", "bf16": "bfloat16", "int8_quantized": "int8, quantised linear", "int8_mm": "int8, int_mm"}


def run(run: Run) -> None:
    """Overheads of one model, then the kernels."""
    options = run.method.params
    bench = Bench(run.dataset.load(run.seed), options)
    gc.collect()
    gc.freeze()  # what lives on need not be looked through before every sample
    try:
        _search(run, bench, options)
        _overhead(run, bench, options)
        _noise(run, bench, options)
        _latency(run, bench, options)
        if run.dataset.name == options["kernels_with"]:  # they know nothing of the model: once is enough
            _kernels(run, options)
    finally:
        gc.unfreeze()


def _search(run: Run, bench: Bench, options: dict[str, Any]) -> None:
    """Share of a search's wall time that ``evaluate`` takes: greedy along the order of true losses."""
    scores = sensitivity("loss", bench.model, bench.scored, bench.bits)
    order = order_by(scores, bench.bits)
    bench.evaluate(bench.uniform(16))
    bench.seconds = 0.0
    start = time.perf_counter()
    result = greedy_search(order, bench.bits, options["target"], bench.evaluate)
    wall = time.perf_counter() - start
    run.log(evaluation_share=bench.seconds / wall, evaluation_milliseconds=1e3 * bench.seconds / len(result.visited))


def _overhead(run: Run, bench: Bench, options: dict[str, Any]) -> None:
    """The wrapped model with every layer at 16 bits, and at 32 (nothing quantised), against the model itself."""
    x = bench.task.valid[0][:BATCH]
    plain = bench.plain
    rivals: dict[str, Any] = {"float": lambda: plain(x)}
    for b in (16, 32, 8):
        wrapped = copy.deepcopy(bench.model)
        wrapped.set_config(b)
        rivals[f"wrapped_{b}"] = partial(wrapped, x)
    with torch.inference_mode():
        seconds = compare(rivals, repeats=options["repeats"], warmup=2, min_seconds=0.01)
    for name in ("wrapped_16", "wrapped_32", "wrapped_8"):
        run.log(**{f"overhead_{name.removeprefix('wrapped_')}": seconds.ratio(name, "float").value})


def _noise(run: Run, bench: Bench, options: dict[str, Any]) -> None:
    """All draws in one pass against a pass a draw."""

    def job(vectorised: bool):
        return lambda: noise(bench.model, bench.scored, (4,), generator=torch.Generator().manual_seed(run.seed),
                             vectorised=vectorised)  # fmt: skip

    seconds = compare({"vectorised": job(True), "loop": job(False)}, repeats=options["noise_repeats"], min_seconds=0)
    run.log(noise_speedup=seconds.speedup("vectorised", "loop").value)


def _latency(run: Run, bench: Bench, options: dict[str, Any]) -> None:
    """Time of the config that bisection finds, relative to 16 bits everywhere, by measured kernels with conversions."""
    layers = bench.layers
    table = measure_table(layers, (16, *bench.bits), options["batch"], repeats=3, min_seconds=5e-4)
    scores = sensitivity("hessian", bench.model, bench.scored, bench.bits,
                         generator=torch.Generator().manual_seed(1000 * run.seed))  # fmt: skip
    result = bisection_search(order_by(scores, bench.bits), bench.bits, options["target"], bench.evaluate)
    base = latency(layers, bench.uniform(16), table)
    run.log(
        relative_latency=latency(layers, result.config, table) / base,
        relative_latency_uniform8=latency(layers, bench.uniform(8), table) / base,
        relative_products=sum(table.seconds[n][result.config[n]] for n in bench.model.names) / base,
        conversion_share=sum(table.conversion.values()) / base,
    )


def _kernels(run: Run, options: dict[str, Any]) -> None:
    for rows in options["kernel_rows"]:
        seconds = compare(linear_jobs(rows, rows, rows), repeats=options["repeats"], min_seconds=2e-3)
        moves = compare(conversion_jobs(rows, rows), repeats=options["repeats"], min_seconds=1e-3)
        run.log(step=rows, **{f"{name}_seconds": value for name, value in {**seconds, **moves}.items()})
        if "int8_mm" in seconds:
            run.log(step=rows, int8_speedup=seconds.speedup("int8_mm", "bf16").value)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Kernels by size, and where time goes."""
    fig, (left, right) = plotting.figure(columns=2, cols=2, height=7.5)
    pieces = [
        found.assign(method=KERNELS.get(name, name))
        for name in KERNELS
        if len(records) and not (found := rec.history(records, f"{name}_seconds")).empty
    ]
    move = rec.history(records, "to_int8_seconds") if len(records) else pd.DataFrame()
    if not pieces:
        plotting.empty(left)
        plotting.empty(right)
        yield "kernels", fig
        return
    everything = pd.concat([*pieces, move.assign(method="converting to int8")])
    ticks = sorted(everything["step"].unique())
    plotting.log_axis(left, "x", ticks=ticks)
    plotting.log_axis(left, "y")
    plotting.series(left, everything.assign(kernel=everything["method"]), "step", "value", by="kernel")
    left.set(xlabel="rows = inner = columns", ylabel="time of a product (s)")
    plotting.legend(left, loc="upper left", fontsize=7)
    shown = {"relative_latency_uniform8": "8 bits everywhere", "relative_latency": "config found, 99 %",
             "relative_products": "… without conversions"}  # fmt: skip
    table = pd.concat(
        [records[["dataset", "seed"]].assign(what=text, value=records[name]) for name, text in shown.items()]
    )
    plotting.bars(right, table.rename(columns={"value": "relative"}), "relative", by="what")
    plotting.reference(right, y=1, text="16 bits")
    right.set_ylabel("latency relative to bfloat16")
    right.set_ylim(0, 1.35 * right.get_ylim()[1])  # room for the legend
    plotting.legend(right, loc="upper left", fontsize=7)
    yield "kernels", fig
