"""Seconds of searching and training beside faiss, hnswlib and usearch, in one process on one thread.

Ratios are the geometric mean of rounds in which both rivals have their turn. For the milliseconds at equal recall every
index gets the cheapest setting of its own budget that reaches the recall on the first half of the queries; all queries
are then timed in one batch.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.quantization.adanns.adaptive import cascade
from tensorbench.quantization.adanns.faiss_tools import PrefixSearch, centroids_of, cut
from tensorbench.quantization.adanns.graph import HNSW, VamanaLite
from tensorbench.quantization.adanns.index import ExactL2
from tensorbench.quantization.adanns.ivf import IVF
from tensorbench.quantization.adanns.metrics import k_recall_at_n
from tensorbench.quantization.adanns.pq import OPQ

METHODS = {"adanns": IVF}
ENGINES = {
    "exact": "exact, here",
    "faiss_flat": "exact, faiss",
    "ivf": "IVF, here",
    "faiss_ivf": "IVF, faiss",
    "cascade": "cascade, here",
    "vamana": "Vamana, here",
    "faiss_hnsw": "HNSW, faiss",
    "hnswlib": "HNSW, hnswlib",
    "usearch": "HNSW, usearch",
}
OURS = ("exact", "ivf", "cascade", "vamana")
Search = Callable[[np.ndarray], np.ndarray]  # queries -> ids


def run(run: Run) -> None:
    """Exact search, IVF, OPQ training, the adapter; then all at equal recall."""
    import faiss

    faiss.omp_set_num_threads(run.threads)
    gc.freeze()  # the collections between turns need not look at what the libraries made
    options = run.method.params
    data = run.dataset.load(run.seed)
    x, q, k = data["database"], data["queries"], options["k"]
    repeats, n_probe = options["repeats"], options["n_probe"]
    exact = ExactL2().train(x).add(x)
    flat = faiss.IndexFlatL2(x.shape[1])
    flat.add(x)
    seconds = compare({"ours": lambda: exact.search(q, k), "faiss": lambda: flat.search(q, k)}, repeats=repeats)
    run.log(exact_ratio=seconds.ratio("ours", "faiss").value)

    ours = IVF(n_list=options["n_list"], seed=run.seed).train(x).add(x)
    quantizer = faiss.IndexFlatL2(x.shape[1])
    quantizer.add(ours.centroids)
    theirs = faiss.IndexIVFFlat(quantizer, x.shape[1], options["n_list"])
    theirs.train(x)
    theirs.add(x)
    theirs.nprobe = n_probe
    full = PrefixSearch(theirs, x.shape[1])
    short = PrefixSearch(cut(theirs, options["d_s"]), options["d_c"], centroids=centroids_of(theirs))
    seconds = compare(
        {
            "ours": lambda: ours.search(q, k, n_probe=n_probe),
            "faiss": lambda: theirs.search(q, k),
            "adapter": lambda: full.search(q, k, n_probe),
            "prefixes": lambda: short.search(q, k, n_probe),
        },
        repeats=2 * repeats,
    )
    run.log(
        ivf_seconds=seconds["ours"],
        ivf_ratio=seconds.ratio("ours", "faiss").value,
        adapter_ratio=seconds.ratio("adapter", "faiss").value,
        prefix_speedup=seconds.speedup("prefixes", "faiss").value,
    )
    _opq(run, x)
    searches = {
        "exact": ([0], lambda budget: lambda queries: exact.search(queries, k).ids),
        "faiss_flat": ([0], lambda budget: lambda queries: flat.search(queries, k)[1]),
        "ivf": (_powers(options["n_list"]), lambda n: lambda queries: ours.search(queries, k, n_probe=n).ids),
        "faiss_ivf": (_powers(options["n_list"]), lambda n: lambda queries: full_search(theirs, queries, k, n)),
        "cascade": (_shortlists(len(x), k), lambda n: lambda queries: _cascade(x, queries, k, n, options)),
    }
    if options["graphs"]:
        searches |= _graphs(x, k, run.seed)
    _equal_recall(run, searches, q, flat.search(q, k)[1])


def full_search(index: Any, queries: np.ndarray, k: int, n_probe: int) -> np.ndarray:
    """faiss's own search with so many probes."""
    index.nprobe = n_probe
    return index.search(queries, k)[1]


def _powers(most: int) -> list[int]:
    return [2**i for i in range(most.bit_length()) if 2**i <= most]


def _shortlists(n: int, k: int) -> list[int]:
    return [size for size in (k, 2 * k, 5 * k, 10 * k, 20 * k, 50 * k, 100 * k) if size <= n]


def _cascade(x: np.ndarray, queries: np.ndarray, k: int, size: int, options: dict) -> np.ndarray:
    return cascade(x, queries, [options["d_c"], x.shape[1]], [size], k).ids


def _opq(run: Run, x: np.ndarray) -> None:
    """As many rounds and k-means steps on both sides: the first codebooks, four a round, and the last codebooks."""
    import faiss

    options = run.method.params["opq"]
    d, M, nbits = x.shape[1], options["M"], options["nbits"]
    made: dict[str, float] = {}

    def ours() -> None:
        index = OPQ(d, M, nbits, rounds=options["rounds"], iterations=options["iterations"], seed=run.seed)
        made["ours"] = index.train(x).distortion(x)

    def theirs() -> None:
        matrix, pq = faiss.OPQMatrix(d, M), faiss.ProductQuantizer(d, M, nbits)
        matrix.pq = faiss.ProductQuantizer(d, M, nbits)
        matrix.niter, matrix.niter_pq, matrix.niter_pq_0 = options["rounds"], 4, options["iterations"]
        matrix.train(x)
        turned = matrix.apply(x)
        pq.cp.niter, pq.cp.max_points_per_centroid = options["iterations"], len(x)
        pq.train(turned)
        made["theirs"] = float(((turned - pq.decode(pq.compute_codes(turned))) ** 2).sum(axis=1).mean())

    seconds = compare({"ours": ours, "faiss": theirs}, repeats=2, warmup=1, min_seconds=0)
    run.log(opq_ratio=seconds.ratio("ours", "faiss").value, opq_distortion_ratio=made["ours"] / made["theirs"])


def _graphs(x: np.ndarray, k: int, seed: int) -> dict[str, tuple[Sequence[int], Callable[[int], Search]]]:
    d = x.shape[1]
    vamana = VamanaLite(d, d, 32, nbits=4, degree=24, width=32, rounds=1, seed=seed).train(x).add(x)
    graphs = {
        name: HNSW(d, links=16, ef_construction=40, library=library, seed=seed).add(x)
        for name, library in (("faiss_hnsw", "faiss"), ("hnswlib", "hnswlib"), ("usearch", "usearch"))
    }
    widths = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    out = {
        name: (widths, lambda ef, graph=graph: lambda queries: graph.search(queries, k, ef=ef).ids)
        for name, graph in graphs.items()
    }
    return {"vamana": (widths, lambda w: lambda queries: vamana.search(queries, k, beam=w).ids)} | out


def _equal_recall(
    run: Run, searches: dict[str, tuple[Sequence[int], Callable[[int], Search]]], q: np.ndarray, truth: np.ndarray
) -> None:
    half, k = len(q) // 2, truth.shape[1]
    chosen: dict[str, Search] = {}
    for name, (budgets, make) in searches.items():
        for budget in budgets:
            if k_recall_at_n(truth[:half], make(budget)(q[:half]), k) >= run.method.params["recall"]:
                chosen[name] = make(budget)
                break
    seconds = compare({name: (lambda search=search: search(q)) for name, search in chosen.items()},
                      repeats=run.method.params["repeats"])  # fmt: skip
    for name, search in chosen.items():
        run.log(
            **{
                f"{name}_ms": 1000 * seconds[name] / len(q),
                f"{name}_recall": k_recall_at_n(truth[half:], search(q[half:]), k),
            }
        )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Milliseconds a query at equal recall, a row for each index."""
    fig, ax = plotting.figure(columns=1, height=6.5)
    there = [name for name in ENGINES if f"{name}_ms" in records and records[f"{name}_ms"].notna().any()]
    if not there:
        plotting.empty(ax)
        yield "speed", fig
        return
    there.sort(key=lambda name: -records[f"{name}_ms"].mean())
    looks = plotting.styles(["here", "peer"])
    for row, name in enumerate(there):
        values = records[f"{name}_ms"].dropna()
        own = name in OURS
        colour = looks["here" if own else "peer"]["color"]
        ax.plot(values, [row] * len(values), marker="o", linestyle="", color=colour, alpha=0.9,
                markerfacecolor=colour if own else "white", markersize=5)  # fmt: skip
    ax.set_yticks(range(len(there)), [ENGINES[name] for name in there])
    ax.set(xlabel="time per query (ms)", ylim=(-0.6, len(there) - 0.4))
    plotting.log_axis(ax, "x", ticks=(0.005, 0.01, 0.02, 0.03))
    yield "speed", fig
