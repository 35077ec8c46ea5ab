"""Seconds of orthogonalising and of training steps, in one process on one thread. The steps are sizes n."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.optimizers import methods
from tensorbench.optimizers.matrix_functions import orthogonalize
from tensorbench.optimizers.norm_descent import SignDescent, modular
from tensorbench.optimizers.prodigy import Prodigy
from tensorbench.optimizers.tasks import characters

ITERATIONS = 5
WAYS = {"svd": "singular value decomposition", "quintic": "quintic, 5 steps", "products": "its 15 products"}
SHOWN = {"sign": "sign descent", "modular": "modular norm", "muon": "Muon (torch)", "prodigy": "Prodigy"}
RULES: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), 1e-4),
    "sign": lambda model: SignDescent(model.parameters(), 1e-6),
    "modular": lambda model: modular(model, 1e-4),
    "muon": lambda model: methods.create("muon", model, 1e-4),
    "prodigy": lambda model: Prodigy(model.parameters()),
}


def factors(run: Run, sizes: list[int], repeats: int) -> None:
    """The quintic, the products in it, and the decomposition."""
    for n in sizes:
        G = torch.randn(n, n, generator=run.generator)
        X = G / G.norm()

        def products(X: torch.Tensor = X) -> None:
            for _ in range(3 * ITERATIONS):
                torch.mm(X, X)

        seconds = compare(
            {
                "quintic": lambda G=G: orthogonalize(G, "quintic", ITERATIONS),  # type: ignore[misc]
                "products": products,
                "svd": lambda G=G: torch.linalg.svd(G, full_matrices=False),  # type: ignore[misc]
            },
            repeats=repeats, warmup=1, min_seconds=0.02,
        )  # fmt: skip
        run.log(step=n, **{f"{name}_seconds": value for name, value in seconds.items()})
        run.log(
            over_products=seconds.ratio("quintic", "products").value,
            over_svd=seconds.speedup("quintic", "svd").value,
        )


def steps(run: Run, batch: int, repeats: int, turn_seconds: float) -> None:
    """Whole training steps of the character model: gradients and the rule, the same batch each time."""
    text = run.dataset.load(run.seed)

    def stepper(name: str) -> Callable[[], object]:
        task = characters.task(text, run.generator, batch=batch)
        optimizer, samples = RULES[name](task.model), next(task.batches)

        def step() -> None:
            optimizer.zero_grad()
            task.loss(task.model, samples).backward()
            optimizer.step()

        return step

    seconds = compare({name: stepper(name) for name in RULES}, repeats=repeats, warmup=2, min_seconds=turn_seconds)
    run.log(
        adamw_milliseconds=1000 * seconds["adamw"],
        **{f"ratio_{name}": seconds[name] / seconds["adamw"] for name in RULES if name != "adamw"},  # of medians
    )


METHODS: dict[str, Callable[..., None]] = {"orthogonalize": factors, "step": steps}


def run(run: Run) -> None:
    """One of the two."""
    METHODS[run.method.uses](run, **run.method.params)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Seconds against n, and ratios of steps."""
    fig, (left, right) = plotting.figure(columns=2, cols=2)
    rows = records[records["method"] == "orthogonalize"] if len(records) else records
    if rows.empty:
        plotting.empty(left)
    else:
        long = pd.concat(rec.history(rows, f"{name}_seconds").assign(way=shown) for name, shown in WAYS.items())
        sizes = sorted(long["step"].unique())
        plotting.log_axis(left, "x", ticks=sizes)
        plotting.log_axis(left, "y")
        plotting.series(left, long, "step", "value", by="way")
        start = float(long.loc[(long["step"] == sizes[0]) & (long["way"] == WAYS["products"]), "value"].mean())
        plotting.guide(left, 3, through=(sizes[0], start))
        left.set(xlabel="n", ylabel="time (s)")
        plotting.legend(left, loc="upper left")
    rows = records[records["method"] == "step"] if len(records) else records
    if rows.empty:
        plotting.empty(right)
    else:
        names = [name for name in RULES if name != "adamw"][::-1]
        looks = plotting.styles(names)
        means = [float(rows[f"ratio_{name}"].mean()) for name in names]
        right.barh(range(len(names)), means, height=0.6, color=[looks[name]["color"] for name in names])
        right.set_yticks(range(len(names)), [SHOWN[name] for name in names])
        right.grid(False, axis="y")
        right.set(xlabel="time of a step over AdamW's")
        plotting.reference(right, x=3)
        plotting.reference(right, x=1.1)
    yield "cost", fig
