"""Seconds to draw a sketch and apply it, in one process on one thread. The steps are the rows n."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.decomposition.sketch.sketches import CountSketch, GaussianSketch
from tensorbench.decomposition.sketch.structured import SRHT, BalancedGaussianPooled

METHODS = {"srht": SRHT}
RIVALS = {"srht": SRHT, "pooled": BalancedGaussianPooled, "count_sketch": CountSketch, "gaussian": GaussianSketch}


def run(run: Run) -> None:
    """All sizes for the fast sketches; the dense one at the largest size only, for the ratio."""
    options = run.method.params
    m, repeats = options["m"], options["repeats"]
    for n in run.progress(options["rows"], desc="rows"):
        ((A, _),) = run.dataset.load(run.seed, n=n).values()
        jobs = {name: (lambda kind=kind, A=A, n=n: kind(n, m, run.seed).apply(A)) for name, kind in RIVALS.items()}
        dense = {"gaussian": jobs.pop("gaussian")}
        seconds = compare(jobs, repeats=repeats, min_seconds=0.02)
        run.log(step=n, **{f"{name}_seconds": seconds[name] for name in jobs})
        if n == max(options["rows"]):
            # Long enough to need neither a warm-up nor several calls a turn.
            pair = compare(jobs | dense, repeats=repeats, warmup=0, min_seconds=0)
            run.log(step=n, gaussian_seconds=pair["gaussian"])
            run.log(
                speedup=pair.speedup("srht", "gaussian").value,
                speedup_pooled=pair.speedup("pooled", "gaussian").value,
            )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Time against n."""
    fig, ax = plotting.figure(height=7)
    names = {"srht": "srht", "pooled": "pooled", "count_sketch": "count_sketch", "gaussian": "gaussian_sketch"}
    long = [
        history.assign(method=shown)
        for name, shown in names.items()
        if len(records) and not (history := rec.history(records, f"{name}_seconds")).empty
    ]
    if not long:
        plotting.empty(ax)
    else:
        plotting.log_axis(ax, "x", ticks=(4096, 16384, 65536))
        plotting.log_axis(ax, "y")
        plotting.series(ax, pd.concat(long), "step", "value")
        n = np.unique(long[0]["step"].to_numpy(dtype=float))
        start = float(long[0].loc[long[0]["step"] == n[0], "value"].mean())
        ax.plot(n, start * n * np.log(n) / (n[0] * np.log(n[0])), color="#444444", linewidth=0.9, linestyle=":",
                label="n log n")  # fmt: skip
        ax.set(xlabel="rows n", ylabel="time (s)")
        plotting.legend(fig)
    yield "time", fig
