"""How many evaluations does a structure search need? TnALE against its predecessor, a genetic algorithm and chance.

All methods minimise compression ratio + λ · relative squared error of the same objective with the same budget; the
steps of the history are evaluations (distinct structures fitted). Logged at the end: ``evaluations`` until the method
stopped by itself or by the budget, ``evaluations_to_best``, ``objective``, ``rse``, ``compression``; on planted
targets ``eff`` (true over found parameters) and ``recovered`` (an objective no worse than the planted structure's);
on landscapes ``sweep_evaluations``, the cost of the first sweep, with the order of the network as the step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.datasets.networks import SearchProblem
from tensorbench.decomposition.network import ring_order
from tensorbench.decomposition.network.drawing import draw
from tensorbench.decomposition.structure.greedy_rank import Greedy
from tensorbench.decomposition.structure.landscape import QuadraticLandscape
from tensorbench.decomposition.structure.objective import FunctionObjective, StructureObjective
from tensorbench.decomposition.structure.random_search import RandomSearch
from tensorbench.decomposition.structure.space import PermutationSpace, RankSpace, Structure, TopologySpace
from tensorbench.decomposition.structure.tnale import TnALE, interpolate_errors
from tensorbench.decomposition.structure.tnga import TNGA
from tensorbench.decomposition.structure.tnls import TNLS
from tensorbench.decomposition.structure.topology import by_name

METHODS = {"tnale": TnALE, "tnls": TNLS, "tnga": TNGA, "greedy": Greedy, "random": RandomSearch}
RECOVERED_WITHIN = 1e-3  # of the objective of the planted structure (a fit stops at a relative squared error of 1e-7)


def space_of(problem: SearchProblem, method: str) -> RankSpace:
    """The space of the problem; greedy growth has no permutations: where modes may move it works on all pairs."""
    if method == "greedy" and problem.permutable and problem.tensor is not None:
        return TopologySpace(problem.dims, problem.max_rank)
    kind = PermutationSpace if problem.permutable else RankSpace
    return kind(problem.dims, by_name(problem.topology, len(problem.dims)), problem.max_rank)


def objective_of(
    problem: SearchProblem, method: str, seed: int, workers: int = 1
) -> StructureObjective | FunctionObjective:
    if problem.tensor is None:
        return QuadraticLandscape(*problem.landscape, problem.max_rank).objective()
    return StructureObjective(
        problem.tensor,
        lam=problem.lam,
        max_iter=problem.sweeps,
        tol=1e-7,
        seed=seed,
        workers=workers,
        transfer=method == "greedy",
    )


def truth_of(problem: SearchProblem) -> Structure | None:
    if problem.ranks is None:
        return None
    template = by_name(problem.topology, len(problem.dims))
    return Structure(problem.dims, template, problem.ranks, problem.permutation)


def run(run: Run) -> None:
    """One search; then what it found against the planted structure."""
    problem: SearchProblem | tuple[SearchProblem, ...] = run.dataset.load(run.seed)
    search = METHODS[run.method.uses](**run.method.params)
    if isinstance(problem, tuple):
        for landscape in problem:
            objective = objective_of(landscape, run.method.uses, run.seed)
            found = search(objective, space_of(landscape, run.method.uses), landscape.budget, run.rng)
            first = found.sweep_evaluations[0] if found.sweep_evaluations else found.evaluations
            run.log(step=len(landscape.dims), sweep_evaluations=first)
        return
    objective = objective_of(problem, run.method.uses, run.seed, run.threads)
    with run.time("fit"):
        found = search(objective, space_of(problem, run.method.uses), problem.budget, run.rng)
    if isinstance(objective, StructureObjective):
        objective.close()

    grid = np.unique(np.geomspace(1, problem.budget, 60).round())
    last = np.searchsorted(found.history[:, 0], grid, side="right") - 1
    for evaluations, place in zip(grid, last, strict=True):
        run.log(step=evaluations, best_objective=found.history[place, 1])
    run.log(
        objective=found.value,
        rse=found.error,
        compression=found.best.compression,
        evaluations=found.evaluations,
        evaluations_to_best=found.evaluations_to_best,
    )
    truth = truth_of(problem)
    if truth is not None:
        limit = truth.compression * (1 + RECOVERED_WITHIN)
        run.log(eff=truth.params / found.best.params, recovered=float(found.value <= limit))
        np.savez(run.artifact("graph.npz"), found=found.best.adjacency, truth=truth.adjacency)
        if run.method.name == "tnale" and run.seed == 0:
            np.savez(run.artifact("slices.npz"), **landscape_slices(problem, truth, run.seed))


def landscape_slices(problem: SearchProblem, truth: Structure, seed: int) -> dict[str, np.ndarray]:
    """Relative squared errors along every rank variable through the planted structure, and a warm-up's guesses."""
    objective = objective_of(problem, "tnale", seed)
    space = space_of(problem, "tnale")
    measured, guessed = [], []
    for edge in range(space.variables):
        line = [truth.with_rank(edge, rank) for rank in range(1, problem.max_rank + 1)]
        errors = np.array(objective.errors(line))
        centre = truth.ranks[edge] - 1
        low = min(max(centre - 2, 0), max(len(line) - 5, 0))
        window = np.arange(low, min(low + 5, len(line)))
        known = {0: errors[window[0]], len(window) // 2: errors[window[len(window) // 2]]}
        known[len(window) - 1] = errors[window[-1]]
        guess = np.full(len(line), np.nan)
        guess[window] = interpolate_errors(window.astype(float), known)
        measured.append(errors)
        guessed.append(guess)
    return {"measured": np.array(measured), "guessed": np.array(guessed), "ranks": np.array(truth.ranks)}


def recovery_share(records: pd.DataFrame) -> list[float]:
    """Per seed: the share of the ring targets whose planted structure TnALE recovered."""
    rings = records[(records["method"] == "tnale") & records["dataset"].str.startswith("ring_")]
    if rings.empty or "recovered" not in rings:
        return []
    return rings.groupby("seed")["recovered"].mean().tolist()


# ---- figures


def _names(records: pd.DataFrame) -> list[str]:
    """Datasets with a search history, in the order of the config."""
    searched = set(rec.history(records, "best_objective")["dataset"])
    return [name for name in dict.fromkeys(records["dataset"]) if name in searched]


def _draw_searches(records: pd.DataFrame) -> Figure:
    history = rec.history(records, "best_objective")
    names = _names(records)
    cols = min(3, max(len(names), 1))
    rows = max(-(-len(names) // cols), 1)
    fig, axes = plotting.figure(columns=2, rows=rows, cols=cols, height=4.6 * rows + 1.2, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        part = history[history["dataset"] == name]
        plotting.series(ax, part, "step", "value", reducer="median", log="xy")
        here = records[records["dataset"] == name]
        for method, group in here.groupby("method"):
            look = plotting.style(method)
            stop = float(group["evaluations"].median())
            end = group["objective"].median()
            ax.plot([stop], [end], color=look["color"], marker="|", markersize=11, linestyle="none")
        if "eff" in here and here["eff"].notna().any():
            first = here[here["eff"].notna()].iloc[0]
            plotting.reference(ax, y=float(first["eff"] * first["compression"]))
        if len(part):  # the first few draws say nothing about the methods
            least = part["value"].min()
            ax.set_xlim(left=4)
            plotting.log_axis(ax, "y", ticks=[0.2, 0.5, 1, 2, 5, 10])
            ax.set_ylim(0.85 * least, min(40 * least, 1.1 * part["value"].max()))
        ax.set(title=plotting.label(name), xlabel="evaluations", ylabel="best objective")
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    if not names:
        plotting.canvas.empty(axes.flat[0])
    plotting.legend(fig)
    return fig


def _draw_graphs(records: pd.DataFrame) -> Figure:
    """The planted ring and what every method found on it, with the first seed."""
    graphs = rec.artifacts(records, "graph.npz")
    graphs = graphs[graphs["seed"] == graphs["seed"].min()] if len(graphs) else graphs
    planted = [name for name in _names(records) if name in set(graphs["dataset"])]
    if not planted:
        fig, ax = plotting.figure()
        plotting.canvas.empty(ax)
        return fig
    graphs = graphs[graphs["dataset"] == planted[0]]
    panels = 1 + len(graphs)
    cols = min(4, panels)
    rows = -(-panels // cols)
    fig, axes = plotting.figure(columns=2, rows=rows, cols=cols, height=4.3 * rows, squeeze=False)
    for at, (_, row) in enumerate(graphs.iterrows(), start=1):
        with np.load(row["path"]) as stored:
            found, truth = stored["found"], stored["truth"]
        circle = list(ring_order(truth))
        if at == 1:
            draw(truth, axes.flat[0], title=f"planted ({_params(truth)} parameters)", circle=circle)
        draw(found, axes.flat[at], title=f"{plotting.label(row['method'])} ({_params(found)})", circle=circle)
    for ax in axes.flat[panels:]:
        ax.set_visible(False)
    return fig


def _params(adjacency: np.ndarray) -> int:
    return int(adjacency.prod(axis=1).sum())


def _draw_slices(records: pd.DataFrame) -> Figure:
    stored = rec.artifacts(records, "slices.npz")
    if stored.empty:
        fig, ax = plotting.figure()
        plotting.canvas.empty(ax)
        return fig
    with np.load(stored.iloc[0]["path"]) as arrays:
        measured, guessed, ranks = arrays["measured"], arrays["guessed"], arrays["ranks"]
    cols = min(3, len(measured))
    rows = -(-len(measured) // cols)
    fig, axes = plotting.figure(columns=2, rows=rows, cols=cols, height=4.2 * rows + 1.0, squeeze=False, sharey=True)
    floor = 1e-9
    at = np.arange(1, measured.shape[1] + 1)
    for edge, ax in enumerate(axes.flat[: len(measured)]):
        ax.plot(at, np.maximum(measured[edge], floor), color="#4477aa", marker="o", markersize=4, label="fitted")
        ax.plot(at, np.maximum(guessed[edge], floor), color="#cc6677", marker="x", linestyle=":", label="interpolated")
        ax.set_yscale("log")
        plotting.reference(ax, x=float(ranks[edge]), text="planted")
        ax.set(title=f"rank variable {edge + 1}", xlabel="rank", xticks=at)
    for ax in axes[:, 0]:
        ax.set_ylabel("relative squared error")
    for ax in axes.flat[len(measured) :]:
        ax.set_visible(False)
    plotting.legend(fig)
    return fig


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Best objective against evaluations, the graphs found, and slices through the landscape."""
    yield "searches", _draw_searches(records)
    yield "graphs", _draw_graphs(records)
    yield "slices", _draw_slices(records)
