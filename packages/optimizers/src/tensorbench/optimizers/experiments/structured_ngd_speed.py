"""What the inverse-free rules cost against their peers: in one process, on the same work, as ratios of seconds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.core.timing import Comparison, compare
from tensorbench.optimizers.kron import LayerStatistics
from tensorbench.optimizers.structured_ngd import INGD, KFAC, SPD, RGDMomentum
from tensorbench.optimizers.structured_ngd.problems import metric_nearness
from tensorbench.optimizers.structured_ngd.spd import riemannian_step
from tensorbench.optimizers.tasks import images


def descents(
    d: int, lr: float, beta: float, target: float, timed: int, seed: int
) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """``timed`` iterations on metric nearness by order 1, 2, exact, and the textbook form with transport; and how many
    iterations each takes to a gap of ``target`` (the last two make the same iterates)."""
    problem = metric_nearness(d, torch.Generator().manual_seed(seed))

    def coordinates(order: Any, iterations: int, until: float | None = None) -> int:
        rgd = RGDMomentum(SPD(problem.start), lr, beta, order)
        for k in range(1, iterations + 1):
            rgd.step(problem.egrad(rgd.tau))
            if until is not None and problem.gap(rgd.tau) <= until:
                return k
        if until is not None:
            raise RuntimeError(f"no gap of {until} within {iterations} iterations")
        return iterations

    def textbook() -> None:
        tau, V = problem.start, torch.zeros_like(problem.start)
        for _ in range(timed):
            V = beta * V + tau @ problem.egrad(tau) @ tau
            tau, V = riemannian_step(tau, V, lr)

    orders: dict[str, Any] = {"order_1": 1, "order_2": 2, "exact": "exact"}
    counts = {name: coordinates(order, 2000, target) for name, order in orders.items()}
    jobs: dict[str, Callable[[], object]] = {
        name: functools.partial(coordinates, order, timed) for name, order in orders.items()
    }
    return jobs | {"textbook": textbook}, counts | {"textbook": counts["exact"]}


def refreshes(n: int, seed: int) -> dict[str, Callable[[], object]]:
    """One refresh of a layer's factors with p = d = n, float32, on given statistics."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Sequential(nn.Linear(n, n, bias=False))

    def moments() -> Tensor:
        x = torch.randn(2 * n, n, generator=generator)
        return x.T @ x / len(x)

    statistics = LayerStatistics(moments(), moments(), 2 * n, 1)
    rivals = {"ingd": INGD(layer), "kfac_inv": KFAC(layer), "kfac_eig": KFAC(layer, eig=True)}

    def refresh(optimizer: Any) -> Callable[[], object]:
        optimizer.statistics.detach()
        state, group = optimizer.state[layer[0].weight], optimizer.param_groups[0]
        return lambda: optimizer._refresh(state, statistics, group)

    return {name: refresh(optimizer) for name, optimizer in rivals.items()}


def trainings(data: images.Images, steps: int, seed: int) -> dict[str, Callable[[], object]]:
    """``steps`` steps (a multiple of T = 10) of training the digits perceptron, passes included."""
    from singd.optim.optimizer import SINGD

    makers = {
        "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-4),
        "ingd": lambda model: INGD(model, 1e-4, T=10),
        "singd": lambda model: SINGD(model, lr=1e-4, T=10, lr_cov=1e-3),
        "kfac_inv": lambda model: KFAC(model, 1e-4, T=10),
        "kfac_eig": lambda model: KFAC(model, 1e-4, eig=True, T=10),
    }

    def prepared(make: Callable[[nn.Module], Any]) -> Callable[[], object]:
        generator = torch.Generator().manual_seed(seed)
        model = images.perceptron(generator)
        optimizer = make(model)
        batches = images.batches(data.train, generator)
        ready = [next(batches) for _ in range(steps)]

        def train() -> None:
            for batch in ready:
                optimizer.zero_grad()
                images.loss(model, batch).backward()
                optimizer.step()

        return train

    return {name: prepared(make) for name, make in makers.items()}


def measure(run: Run, d: int, n: int, steps: int, timed: int, repeats: int) -> None:
    """All three comparisons."""
    jobs, counts = descents(d, 0.05, 0.9, 1e-6, timed, run.seed)
    found = compare(jobs, repeats=repeats, min_seconds=0)
    run.log(**{f"descent_{name}_iterations": count for name, count in counts.items()})
    run.log(**{f"descent_{name}_seconds": found[name] / timed * counts[name] for name in found})
    for name in ("order_1", "order_2", "textbook"):
        longer = counts[name] / counts["exact"]
        run.log(**{f"descent_{name}_ratio": found.ratio(name, "exact").value * longer})
    fastest = min(("exact", "textbook"), key=found.__getitem__)
    run.log(descent_ratio=found.ratio("order_1", fastest).value * counts["order_1"] / counts["exact"])
    found = compare(refreshes(n, run.seed), repeats=repeats, warmup=0, min_seconds=0)
    _log(run, "refresh", found, "ingd")
    data = images.prepare(run.dataset.load(run.seed))
    found = compare(trainings(data, steps, run.seed), repeats=repeats, min_seconds=0.05)
    _log(run, "step", found, "adamw")
    run.log(step_ratio_to_singd=found.ratio("ingd", "singd").value)


def _log(run: Run, what: str, found: Comparison, reference: str) -> None:
    for name in found:
        run.log(**{f"{what}_{name}_seconds": found[name]})
        if name != reference:
            run.log(**{f"{what}_{name}_ratio": found.ratio(name, reference).value})


METHODS: dict[str, Callable[..., None]] = {"measure": measure}


def run(run: Run) -> None:
    """Measure."""
    METHODS[run.method.uses](run, **run.method.params)


WORDS = {
    "descent": (
        "descent to $10^{-6}$",
        "exact",
        {"order_1": "order 1", "order_2": "order 2", "textbook": "textbook"},
        "exact exponential",
    ),
    "refresh": (
        "refresh of a layer's factors",
        "ingd",
        {"kfac_inv": "KFAC, inverse", "kfac_eig": "KFAC, eigen"},
        "INGD",
    ),
    "step": (
        "step on digits, T = 10",
        "adamw",
        {"ingd": "INGD", "singd": "singd", "kfac_inv": "KFAC, inverse", "kfac_eig": "KFAC, eigen"},
        "AdamW",
    ),
}


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Ratios, a marker for each seed."""
    fig, axes = plotting.figure(columns=2, cols=3, height=5.5)
    for ax, (what, (title, _, names, reference)) in zip(axes, WORDS.items(), strict=True):
        columns = [f"{what}_{name}_ratio" for name in names]
        if not len(records) or not set(columns) <= set(records.columns):
            plotting.empty(ax)
            continue
        for place, column in enumerate(columns):
            ax.plot([place] * len(records), records[column], "o", color="#0072B2", markersize=4)
        ax.set_ylim(0, 1.1 * max(1.0, float(records[columns].to_numpy(dtype=float).max())))
        ax.axhline(1, color="#666666", linewidth=0.8, linestyle=(0, (4, 2)))
        ax.set_xticks(range(len(names)), list(names.values()), rotation=25, ha="right")
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.set(ylabel=f"time over {reference}'s")
        ax.set_title(title)
    yield "ratios", fig
