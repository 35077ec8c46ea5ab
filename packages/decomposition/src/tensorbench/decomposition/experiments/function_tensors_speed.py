"""How long building a Chebyshev-Tucker form takes: reduced (Algorithm 4) against full construction (Algorithm 3).

Both see the same canonical tensor, in one process, in turns. The full construction is as fast as we could make it: one
matrix product for the values, cosine transforms, QR-based singular vectors. On generated charges the reduced
construction is also timed against the number of terms and of nodes (the steps of the histories).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare, measure
from tensorbench.decomposition.datasets.functions import long_range
from tensorbench.decomposition.experiments.function_tensors import slice_errors
from tensorbench.decomposition.formats import CP
from tensorbench.decomposition.functional.chebtuck import ChebTucker
from tensorbench.decomposition.functional.chebtuck_build import from_cp
from tensorbench.decomposition.functional.chebyshev import midpoints
from tensorbench.decomposition.functional.molecules import hard_core

METHODS = {"chebyshev_tucker": from_cp}
MODES = ("reduced", "full")
SWEPT_TERMS = 800  # where the number of nodes is swept


def run(run: Run) -> None:
    """Speed, ranks and errors of the two constructions, and a grid evaluation."""
    options = run.method.params
    m, tol, repeats = options["m"], options["tol"], options["repeats"]
    loaded = run.dataset.load(run.seed)
    cp = loaded if isinstance(loaded, CP) else long_range(next(iter(loaded.values())))
    weights, factors = cp.weights.numpy(), [F.numpy() for F in cp.factors]
    built: dict[str, ChebTucker] = {}

    def build(mode: str) -> None:
        built[mode] = from_cp(weights, factors, m, tol=tol, mode=mode)

    seconds = compare(
        {"reduced": lambda: build("reduced"), "full": lambda: build("full")}, repeats=repeats, min_seconds=0.0
    )
    reduced, full = built["reduced"], built["full"]
    errors = [slice_errors(cp, model)[0] for model in (reduced, full)]
    axes = [midpoints(options["cells"])] * 3
    with measure() as grid:
        reduced.grid(*axes)
    run.log(
        reduced_seconds=seconds["reduced"],
        full_seconds=seconds["full"],
        speedup=seconds.speedup("reduced", "full").value,
        rank_gap=max(abs(r - s) for r, s in zip(reduced.ranks, full.ranks, strict=True)),
        error_ratio=max(errors) / min(errors),
        grid_seconds=grid.seconds,
    )
    if not isinstance(loaded, CP):
        sweeps(run)


def sweeps(run: Run) -> None:
    """Seconds against the number of terms (both constructions) and against the number of nodes (the reduced one)."""
    options = run.method.params
    m, tol = options["m"], options["tol"]
    for terms in options["terms"]:
        weights, factors = _terms(terms, run.seed)
        calls = {mode: lambda w=weights, F=factors, mode=mode: from_cp(w, F, m, tol=tol, mode=mode) for mode in MODES}
        seconds = compare(calls, repeats=1, warmup=0, min_seconds=0.0)
        run.log(step=terms, terms_seconds=seconds["reduced"], terms_full_seconds=seconds["full"])
    weights, factors = _terms(min(SWEPT_TERMS, max(options["terms"])), run.seed)
    calls = {str(nodes): lambda nodes=nodes: from_cp(weights, factors, nodes, tol=tol) for nodes in options["nodes"]}
    seconds = compare(calls, repeats=2, min_seconds=0.0)
    for nodes in options["nodes"]:
        run.log(step=nodes, nodes_seconds=seconds[str(nodes)])


def _terms(count: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The first ``count`` terms of the long-range potential of enough random charges."""
    cp = long_range(hard_core(count // 10 + 10, seed=seed))
    return cp.weights.numpy()[:count], [np.ascontiguousarray(F.numpy()[:, :count]) for F in cp.factors]


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Seconds against terms and against nodes."""
    fig, (left, right) = plotting.figure(columns=2, cols=2, height=6.5, sharey=True)
    terms = [
        history.assign(line=text)
        for metric, text in (("terms_seconds", "reduced (Algorithm 4)"), ("terms_full_seconds", "full (Algorithm 3)"))
        if not (history := rec.history(records, metric)).empty
    ]
    nodes = rec.history(records, "nodes_seconds")
    if terms:
        frame = pd.concat(terms)
        plotting.log_axis(left, "x", ticks=sorted(set(frame["step"])))
        plotting.series(left, frame, "step", "value", by="line", log="y")
        left.set(xlabel="canonical terms R", ylabel="time to build (s)")
    else:
        plotting.empty(left)
    if len(nodes):
        plotting.log_axis(right, "x", ticks=sorted(set(nodes["step"])))
        plotting.series(right, nodes.assign(line="reduced (Algorithm 4)"), "step", "value", by="line", log="y")
        right.set(xlabel="nodes per variable m", ylabel="")
        first = nodes[nodes["step"] == nodes["step"].min()]
        through = (float(first["step"].iloc[0]), float(first["value"].mean()))
        plotting.guide(right, 1, through=through)
    else:
        plotting.empty(right)
    plotting.legend(fig)
    yield "time", fig
