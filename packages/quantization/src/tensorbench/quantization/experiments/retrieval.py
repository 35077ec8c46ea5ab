"""Accuracy of nearest-neighbour search for a budget of multiply-adds, or of bits a vector.

Every choice (dimensions, cells, probes) is made on validation queries by top-1, every number is of test queries. Of the
inverted files the steps are the budgets: the best configuration whose measured multiply-adds on validation queries stay
within, and what it does on test queries. Of codes the steps are bits a vector. A method is where the vectors of the
stages come from; ``decoupled`` says whether the stages may differ in dimension. ``opq_full_top1`` is the code of the
longest vectors, which the paper's rigid baseline is, ``opq_top1`` that of the best d.

AdANNS-D (metrics ``ivf_d_…``) searches IVFs built on the longest nested vectors by prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core.run import Run
from tensorbench.quantization.adanns.adaptive import AdaptiveQuery
from tensorbench.quantization.adanns.composite import IVFOPQ
from tensorbench.quantization.adanns.graph import VamanaLite
from tensorbench.quantization.adanns.index import ExactL2
from tensorbench.quantization.adanns.ivf import IVF
from tensorbench.quantization.adanns.matryoshka import svd_basis
from tensorbench.quantization.adanns.metrics import (
    imbalance,
    k_recall_at_n,
    mean_average_precision,
    relative_contrast,
    top1,
)
from tensorbench.quantization.adanns.pq import OPQ
from tensorbench.quantization.adanns.tuner import IVFFamily, Trial, best_within, ivf_grid, sweep
from tensorbench.quantization.adanns.vectors import Found, prefix
from tensorbench.quantization.datasets.retrieval import Embeddings
from tensorbench.quantization.experiments import retrieval_figures

Vectors = Callable[[str, int], np.ndarray]  # (part, d): vectors of length one
NEIGHBOURS = 10
CLAIMED = (7000, 14000, 26000)  # budgets that claims speak of


@dataclass(frozen=True)
class Views:
    """The vectors for cells, for distances and for codes."""

    coarse: Vectors
    fine: Vectors
    codes: Vectors
    decoupled: bool


def _nested(data: Embeddings) -> Vectors:
    return cache(lambda part, d: prefix(data.nested(part), d))


def _rigid(data: Embeddings) -> Vectors:
    return cache(lambda part, d: prefix(data.rigid(part, d), d))


def _svd(data: Embeddings) -> Vectors:
    """The longest rigid embedding in its principal directions."""
    most = int(data.dims[-1])
    mean, basis = svd_basis(data.rigid("database", most))
    return cache(lambda part, d: prefix((data.rigid(part, most) - mean) @ basis, d))


def _one(vectors: Callable[[Embeddings], Vectors], decoupled: bool) -> Callable[[Embeddings], Views]:
    """The same vectors in every stage; ``decoupled``: each stage may take another size of them."""

    def views(data: Embeddings) -> Views:
        view = vectors(data)
        return Views(view, view, view, decoupled)

    return views


def _svd_views(data: Embeddings) -> Views:
    """MG-IVF-SVD makes cells of reduced vectors and compares those of rigid encoders, as the reference code does."""
    reduced = _svd(data)
    return Views(reduced, _rigid(data), reduced, True)


METHODS = {
    "adanns": _one(_nested, True),
    "matryoshka": _one(_nested, False),
    "rigid": _one(_rigid, False),
    "multigranular": _one(_rigid, True),
    "svd": _svd_views,
}


def run(run: Run) -> None:
    """Inverted files, then codes, then codes within cells and on a graph, as the method's ``stages`` say."""
    data = run.dataset.load(run.seed)
    options = run.method.params
    views = METHODS[run.method.uses](data)
    stages = options["stages"]
    with run.time("search"):
        if "exact" in stages:
            _exact(run, data, views)
        if "ivf" in stages:
            chosen = _ivf(run, data, views)
            if "adaptive" in stages:
                _adaptive(run, data, chosen)
        if "codes" in stages:
            codes = _codes(run, data, views)
            if "composite" in stages:
                _composite(run, data, views, codes)
                _graph(run, data, views, codes)


def _score(found: Found, data: Embeddings, part: str) -> float:
    return top1(found.ids, data.labels("database"), data.labels(part))


def _exact(run: Run, data: Embeddings, views: Views) -> None:
    """All vectors compared: the accuracy that d dimensions (the steps) can give, and how hard the search is."""
    for d in data.dims.tolist():
        database, queries = views.codes("database", d), views.codes("test", d)
        found = ExactL2().train(database).add(database).search(queries, NEIGHBOURS)
        run.log(
            step=d,
            exact_top1=_score(found, data, "test"),
            exact_map10=mean_average_precision(found.ids, data.labels("database"), data.labels("test"), NEIGHBOURS),
            relative_contrast=relative_contrast(database, queries, d),
        )


def _grid(run: Run, data: Embeddings, decoupled: bool) -> Iterator[dict[str, int]]:
    """The same for all methods but for the pairs of dimensions. Cells are seldom equally full: 10 % of slack."""
    options = run.method.params["grid"]
    return ivf_grid(
        data.dims.tolist(),
        options["n_lists"],
        options["n_probes"],
        len(data.labels("database")),
        most=1.1 * max(options["budgets"]),
        decoupled=decoupled,
    )


def _within_budgets(run: Run, trials: list[Trial]) -> Iterator[tuple[int, Trial]]:
    cheapest = min(trial.cost for trial in trials)
    for budget in run.method.params["grid"]["budgets"]:
        if budget >= cheapest:
            yield budget, best_within(trials, budget)


def _ivf(run: Run, data: Embeddings, views: Views) -> dict[int, float]:
    """Sweep on validation queries, report on test queries; returns the test top-1 by budget."""
    family = IVFFamily(views.coarse, views.fine, seed=run.seed)

    def measure(**config: int) -> tuple[float, float]:
        found = family.search("valid", 1, **config)
        return float(found.macs.mean()), _score(found, data, "valid")

    trials = sweep(_grid(run, data, views.decoupled), measure)
    exact = ExactL2().add(views.fine("database", int(data.dims[-1])))
    truth = exact.search(views.fine("test", int(data.dims[-1])), NEIGHBOURS).ids
    out = {}
    for budget, trial in _within_budgets(run, trials):
        found = family.search("test", NEIGHBOURS, **trial.config)
        out[budget] = _score(found, data, "test")
        run.log(
            step=budget,
            ivf_top1=out[budget],
            ivf_valid_top1=trial.score,
            ivf_macs=found.macs.mean(),
            ivf_map10=mean_average_precision(found.ids, data.labels("database"), data.labels("test"), NEIGHBOURS),
            ivf_recall10=k_recall_at_n(truth, found.ids, NEIGHBOURS),
            ivf_imbalance=imbalance(family.index(*(trial.config[key] for key in ("n_list", "d_c", "d_s"))).lists),
            **{f"ivf_{name}": value for name, value in trial.config.items()},
        )
    run.log(ivf_trials=len(trials))
    return out


def _adaptive(run: Run, data: Embeddings, chosen: dict[int, float]) -> None:
    """IVFs of the longest vectors, searched by prefixes; the gap to AdANNS-IVF at the same budget."""
    full = {part: prefix(data.nested(part), int(data.dims[-1])) for part in ("database", "valid", "test")}
    built = {
        n_list: AdaptiveQuery(IVF(n_list=n_list, seed=run.seed).train(full["database"]).add(full["database"]))
        for n_list in run.method.params["grid"]["n_lists"]
    }

    def measure(n_list: int, **budget: int) -> tuple[float, float]:
        found = built[n_list].search(full["valid"], 1, **budget)
        return float(found.macs.mean()), _score(found, data, "valid")

    trials = sweep(_grid(run, data, True), measure)
    for budget, trial in _within_budgets(run, trials):
        n_list, rest = trial.config["n_list"], {k: v for k, v in trial.config.items() if k != "n_list"}
        found = built[n_list].search(full["test"], 1, **rest)
        score = _score(found, data, "test")
        run.log(step=budget, ivf_d_top1=score, ivf_d_macs=found.macs.mean())
        if budget in CLAIMED and budget in chosen:
            run.log(step=budget, ivf_d_gap=score - chosen[budget])


def _codes(run: Run, data: Embeddings, views: Views) -> dict[tuple[int, int], OPQ]:
    """OPQ codes of every length and dimension; d is chosen on validation queries. The steps are bits a vector."""
    options = run.method.params["code"]
    nbits = options["nbits"]
    rows = np.random.default_rng([run.seed, 3]).permutation(len(data.labels("database")))[: options["train"]]
    made: dict[tuple[int, int], OPQ] = {}
    for bits in options["bits"]:
        M = bits // nbits
        trials = []
        for d in data.dims.tolist():
            if d % M:
                continue
            code = OPQ(d, M, nbits, rounds=options["rounds"], iterations=options["iterations"], seed=run.seed)
            made[bits, d] = code.train(views.codes("database", d)[rows]).add(views.codes("database", d))
            score = _score(code.search(views.codes("valid", d), 1), data, "valid")
            trials.append(Trial({"d": d}, code.cost(), score))
        if not trials:
            continue
        d = best_within(trials, np.inf).config["d"]
        found = made[bits, d].search(views.codes("test", d), NEIGHBOURS)
        full = int(data.dims[-1])
        run.log(
            step=bits,
            opq_top1=_score(found, data, "test"),
            opq_map10=mean_average_precision(found.ids, data.labels("database"), data.labels("test"), NEIGHBOURS),
            opq_d=d,
            opq_full_top1=_score(made[bits, full].search(views.codes("test", full), 1), data, "test"),
        )
    return made


def _composite(run: Run, data: Embeddings, views: Views, codes: dict[tuple[int, int], OPQ]) -> None:
    """Codes within cells, of which one is visited; d_c and d_s are chosen for every code length."""
    n_list = run.method.params["composite"]["n_list"]
    cells = {}
    for d in data.dims.tolist():
        x = views.coarse("database", d)
        cells[d] = IVF(n_list=n_list, seed=run.seed).train(x).add(x)

    def search(bits: int, d_c: int, d_s: int, part: str) -> Found:
        index = IVFOPQ.of(cells[d_c], codes[bits, d_s])
        return index.search_coarse(views.coarse(part, d_c), index.codes.tables(views.codes(part, d_s)), 1)

    for bits in run.method.params["code"]["bits"]:
        sizes = [d for b, d in codes if b == bits]
        pairs = [(c, s) for c in data.dims.tolist() for s in sizes if views.decoupled or c == s]
        trials = [
            Trial({"d_c": c, "d_s": s}, float(c + s), _score(search(bits, c, s, "valid"), data, "valid"))
            for c, s in pairs
        ]
        best = best_within(trials, np.inf).config
        found = search(bits, **best, part="test")
        run.log(
            step=bits,
            ivfopq_top1=_score(found, data, "test"),
            ivfopq_macs=found.macs.mean(),
            **{f"ivfopq_{name}": value for name, value in best.items()},
        )


def _graph(run: Run, data: Embeddings, views: Views, codes: dict[tuple[int, int], OPQ]) -> None:
    """A graph of d dimensions walked by codes, re-ranked exactly; d and the code's dimension are chosen."""
    options = run.method.params["composite"]
    graphs = {}
    for d in options["graph_dims"]:
        if d in data.dims:
            x = views.fine("database", d)
            graph = VamanaLite(d, d, 1, nbits=1, degree=options["degree"], width=options["width"], seed=run.seed)
            graphs[d] = graph.build(x)
    for bits in run.method.params["code"]["bits"]:
        sizes = [d for b, d in codes if b == bits]
        trials = []
        pairs = [(d, s) for d in graphs for s in sizes if views.decoupled or d == s]
        for d, s in pairs:
            found = _walk(graphs[d].with_codes(codes[bits, s]), views, "valid", options["beam"], 1, s)
            trials.append(Trial({"d": d, "s": s}, float(found.macs.mean()), _score(found, data, "valid")))
        if not trials:
            continue
        best = best_within(trials, np.inf).config
        graph = graphs[best["d"]].with_codes(codes[bits, best["s"]])
        found = _walk(graph, views, "test", options["beam"], NEIGHBOURS, best["s"])
        run.log(
            step=bits,
            graph_top1=_score(found, data, "test"),
            graph_map10=mean_average_precision(found.ids, data.labels("database"), data.labels("test"), NEIGHBOURS),
            graph_macs=found.macs.mean(),
            graph_d=best["d"],
            graph_code_d=best["s"],
        )


def _walk(graph: VamanaLite, views: Views, part: str, beam: int, k: int, d_pq: int) -> Found:
    return graph.walk(graph.codes.tables(views.codes(part, d_pq)), views.fine(part, graph.d), k, beam)


# --- claims that compare different steps ------------------------------------------------------------------------------


def _curve(records: pd.DataFrame, method: str, seed: int, metric: str) -> dict[float, float]:
    row = records[(records["method"] == method) & (records["seed"] == seed)].iloc[0]
    return dict(zip(*row["_history"][metric], strict=True))


def _seeds(records: pd.DataFrame) -> list[int]:
    return sorted(records["seed"].unique())


def mean_gap(records: pd.DataFrame) -> np.ndarray:
    """Test top-1 of AdANNS-IVF less that of IVF-RR, mean over datasets of the mean over budgets of at least 2,000."""
    gaps = []
    for seed in _seeds(records):
        per_dataset = []
        for _, part in records.groupby("dataset"):
            rigid, ours = (_curve(part, name, seed, "ivf_top1") for name in ("rigid", "adanns"))
            per_dataset.append(np.mean([ours[b] - rigid[b] for b in ours if b >= 2000 and b in rigid]))
        gaps.append(np.mean(per_dataset))
    return np.array(gaps)


def _matching(records: pd.DataFrame, seed: int) -> tuple[float, float | None]:
    """The budgets at which IVF-RR is best on validation queries, and at which AdANNS-IVF first is as good there."""
    rigid, ours = (_curve(records, name, seed, "ivf_valid_top1") for name in ("rigid", "adanns"))
    best = max(rigid.values())
    at = min(budget for budget, score in rigid.items() if score == best)
    enough = [budget for budget, score in ours.items() if score >= best]
    return at, min(enough) if enough else None


def macs_to_match(records: pd.DataFrame) -> np.ndarray:
    """Multiply-adds of AdANNS-IVF over those of IVF-RR at equal validation top-1.

    Where it is never reached, those of the largest budget, which the true number would exceed.
    """
    ratios = []
    for seed in _seeds(records):
        at, reached = _matching(records, seed)
        rigid, ours = (_curve(records, name, seed, "ivf_macs") for name in ("rigid", "adanns"))
        ratios.append((max(ours.values()) if reached is None else ours[reached]) / rigid[at])
    return np.array(ratios)


def top1_at_match(records: pd.DataFrame) -> np.ndarray:
    """Test top-1 of AdANNS-IVF less that of IVF-RR at those configurations (at its best one if it never gets there)."""
    gaps = []
    for seed in _seeds(records):
        at, reached = _matching(records, seed)
        rigid, ours = (_curve(records, name, seed, "ivf_top1") for name in ("rigid", "adanns"))
        gaps.append((max(ours.values()) if reached is None else ours[reached]) - rigid[at])
    return np.array(gaps)


def _half_the_bits(records: pd.DataFrame, metric: str, baseline: str = "") -> np.ndarray:
    return np.array(
        [
            _curve(records, "adanns", seed, metric)[16] - _curve(records, "rigid", seed, baseline or metric)[32]
            for seed in _seeds(records)
        ]
    )


def opq_half(records: pd.DataFrame) -> np.ndarray:
    """AdANNS-OPQ of 16 bits less rigid OPQ (best d) of 32 bits, test top-1."""
    return _half_the_bits(records, "opq_top1")


def opq_half_of_full(records: pd.DataFrame) -> np.ndarray:
    """AdANNS-OPQ of 16 bits less OPQ of the longest rigid vectors of 32 bits, test top-1."""
    return _half_the_bits(records, "opq_top1", "opq_full_top1")


def graph_half(records: pd.DataFrame) -> np.ndarray:
    """A graph with AdANNS-OPQ of 16 bits less one with rigid OPQ of 32 bits, test top-1."""
    return _half_the_bits(records, "graph_top1")


def graph_half_map(records: pd.DataFrame) -> np.ndarray:
    """The same, mAP@10."""
    return _half_the_bits(records, "graph_map10")


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Accuracy against compute, against bits, and of all embeddings by dimension."""
    yield "compute", retrieval_figures.compute(records)
    yield "bits", retrieval_figures.bits(records)
    yield "dimensions", retrieval_figures.dimensions(records)
