"""What regularisers cost, in one process on one thread.

``step``: seconds of a training step of the residual network (batch 128) beside SGD with its own weight decay.
``parts``: norm loss of 25 million weights beside one read of them (Σ w² of each tensor by ``vector_norm``), and the
decoupled step of many small weights beside a loop over them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.optimizers.norm_loss import norm_loss, norm_loss_step_
from tensorbench.optimizers.tasks import images
from tensorbench.optimizers.weight_regularizers import create, regularized_step

RIVALS = ("weight_decay", "norm_loss", "decoupled_norm_loss", "orthogonality", "srip", "weight_norm", "oblique")


def steps(run: Run, batch: int, repeats: int, turn_seconds: float, width: int) -> None:
    """Steps of the same network on the same batches; ``sgd`` has torch's own weight decay and no regulariser."""
    data = images.prepare(run.dataset.load(run.seed), halve=run.dataset.name != "digits")
    stream = images.batches(data.train, run.generator, batch)
    samples = [next(stream) for _ in range(4)]

    def stepper(kind: str | None) -> Callable[[], object]:
        network = images.resnet8(run.generator, width, classes=data.classes)
        regulariser = create(kind or "none", network, 1e-3, generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.SGD(
            network.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=0.0 if kind else 5e-4
        )
        turns = itertools.cycle(samples)

        def step() -> None:
            batch = next(turns)
            regularized_step(regulariser, optimizer, lambda: images.loss(network, batch))

        return step

    rivals = {"sgd": stepper(None)} | {kind: stepper(kind) for kind in RIVALS}
    seconds = compare(rivals, repeats=repeats, warmup=2, min_seconds=turn_seconds)
    run.log(sgd_milliseconds=1000 * seconds["sgd"])
    for kind in RIVALS:
        run.log(**{f"ratio_{kind}": seconds[kind] / seconds["sgd"]})  # medians: an interruption bends a mean


def parts(run: Run, tensors: int, side: int, small: int, repeats: int) -> None:
    """The regulariser alone."""
    generator = run.generator
    large = [torch.randn(side, side, generator=generator) for _ in range(tensors)]
    with torch.no_grad():
        pair = compare(
            {
                "norm_loss": lambda: norm_loss(large, 1e-3),
                "squares": lambda: [torch.linalg.vector_norm(w).square() for w in large],
                "naive": lambda: [w.square().sum() for w in large],
            },
            repeats=repeats,
        )
        many = [torch.randn(16, 8, 3, 3, generator=generator) for _ in range(small)]

        def loop() -> None:
            for w in many:
                norm = (w.flatten(1).square().sum(dim=1) + 1e-8).sqrt()
                w.mul_((1 - 1e-5 * (1 - 1 / norm))[:, None, None, None])

        small_pair = compare({"together": lambda: norm_loss_step_(many, 5e-6), "loop": loop}, repeats=repeats)
    run.log(
        weights=tensors * side * side,
        read_ratio=pair.ratio("norm_loss", "squares").value,
        naive_ratio=pair.ratio("norm_loss", "naive").value,
        together_speedup=small_pair.speedup("together", "loop").value,
    )


METHODS: dict[str, Callable[..., None]] = {"step": steps, "parts": parts}


def run(run: Run) -> None:
    """One of the two."""
    METHODS[run.method.uses](run, **run.method.params)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Time of a step over plain SGD's."""
    fig, ax = plotting.figure(height=6)
    rows = records[records["method"] == "step"] if len(records) else records
    if rows.empty:
        plotting.empty(ax)
    else:
        long = pd.concat(rows[["dataset", "seed"]].assign(rival=k, value=rows[f"ratio_{k}"]) for k in RIVALS)
        means = long.groupby(["rival"])["value"].agg(["mean", "min", "max"]).reindex(RIVALS[::-1])
        at = range(len(means))
        looks = plotting.styles(RIVALS)
        ax.barh(at, means["mean"] - 1, left=1, height=0.6, color=[looks[k]["color"] for k in means.index])
        ax.errorbar(
            means["mean"], at, xerr=[means["mean"] - means["min"], means["max"] - means["mean"]], color="#222222",
            linestyle="none", elinewidth=0.8, capsize=2,
        )  # fmt: skip
        ax.set_yticks(list(at), [plotting.label(f"ratio_{k}") for k in means.index])
        ax.grid(False, axis="y")
        ax.set(xlabel="time of a step over SGD's")
        plotting.reference(ax, x=1.05)
        plotting.reference(ax, x=1.3)
    yield "steps", fig
