"""How many instructions in flight a matrix unit needs, and what bank conflicts cost: a model, no measurement."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.quantization.tensorcore.perf import PerfModel, ldmatrix_cycles, row_addresses

IN_FLIGHT = range(1, 13)
STRIDES = (16, 32, 48, 64, 80, 128, 144, 256, 272)


def instruction(run: Run) -> None:
    """One instruction: throughput against the instructions in flight on each scheduler (the steps)."""
    table = run.dataset.load(run.seed)
    model = PerfModel.load(table["path"]) if table["path"] else PerfModel.of(table["architecture"])
    shape, sparse = run.method.params["shape"], run.method.params["sparse"]
    row, peak = model.instruction(shape), model.peak(shape)
    for n in IN_FLIGHT:
        run.log(step=n, peak_share=model.throughput(shape, n, model.schedulers) / peak)
    needed = row.latency / row.issue
    enough, half = math.ceil(needed), max(1, math.floor(needed / 2))
    shares = [model.throughput(shape, n, model.schedulers) / peak for n in (enough, half)]
    run.log(
        needed=needed,
        least_for_95_percent=model.min_parallelism_for_peak(shape),
        reaches_peak=shares[0] >= 0.95 > shares[1],
        sparse_speedup=model.sparse_speedup(shape, sparse, enough, model.schedulers),
    )
    for stride in STRIDES:
        run.log(step=stride, ldmatrix_cycles=ldmatrix_cycles(row_addresses(stride, 4)))
        if stride % 128 == 0:
            run.log(step=stride, ldmatrix_cycles_swizzled=ldmatrix_cycles(row_addresses(stride, 4, swizzle=True)))


METHODS = {"instruction": instruction}


def run(run: Run) -> None:
    """One instruction of one architecture."""
    METHODS[run.method.uses](run)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Share of the peak, and bank conflicts."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.4)
    history = rec.history(records, "peak_share") if len(records) else records
    if history.empty:
        for ax in axes:
            plotting.empty(ax)
        yield "parallelism", fig
        return
    plotting.series(axes[0], history, "step", "value")
    plotting.reference(axes[0], y=0.95)
    axes[0].set(xlabel="instructions in flight per scheduler", ylabel="share of the peak", ylim=(0, 1.08))
    axes[0].set_xticks([1, 2, 4, 6, 8, 10, 12])
    plotting.legend(axes[0], loc="lower right")
    ax = axes[1]
    looks = plotting.styles(["rows as they lie", "swizzled"])
    for metric, name in (("ldmatrix_cycles", "rows as they lie"), ("ldmatrix_cycles_swizzled", "swizzled")):
        part = rec.history(records, metric).groupby("step")["value"].mean()
        places = [STRIDES.index(int(stride)) for stride in part.index]
        ax.plot(places, part.to_numpy(), **looks[name] | {"linestyle": "none", "markersize": 6})
    ax.set_xticks(range(len(STRIDES)), [str(s) for s in STRIDES])
    ax.set(xlabel="bytes between rows", ylabel="cycles of ldmatrix.x4")
    ax.set_ylim(0, 35)
    plotting.legend(ax, loc="upper left")
    yield "parallelism", fig
