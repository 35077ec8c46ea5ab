"""Multiply-adds per second of simulated units, beside a float32 product of the same blocks, in one process."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.quantization.tensorcore.presets import get_unit

TARGET = 5e6  # multiply-adds per second


def measure_unit(run: Run) -> None:
    """The unit of the method's name."""
    unit = get_unit(run.method.name)
    left, right = (torch.from_numpy(x) for x in run.dataset.load(run.seed))
    A, B = unit.cast(left), unit.cast(right)
    macs = A.shape[0] * A.shape[1] * A.shape[2] * B.shape[2]
    seconds = compare({"unit": lambda: unit.mma(A, B), "float32": lambda: A @ B}, repeats=run.method.params["repeats"])
    run.log(
        unit_seconds=seconds["unit"],
        float32_seconds=seconds["float32"],
        macs_per_second=macs / seconds["unit"],
        slowdown=seconds.ratio("unit", "float32").value,
    )


METHODS = {"unit": measure_unit}


def run(run: Run) -> None:
    """One unit against float32."""
    METHODS[run.method.uses](run)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Multiply-adds per second."""
    fig, ax = plotting.figure(height=6)
    plotting.bars(ax, records, "macs_per_second", log=True)
    if len(records):
        plotting.reference(ax, y=TARGET, text="target")
        ax.set_ylabel("multiply-adds per second")
        plotting.legend(fig)
    yield "speed", fig
