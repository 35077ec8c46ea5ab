"""Accuracy after one-shot pruning without training: magnitude, the Fisher matrix's diagonal, blocks or all of it.

Digits: a perceptron 64-48-32-10; MNIST-10k: the residual network, batch norm in evaluation mode. A seed's dense network
is the same for all methods. Accuracy is on the test part; histories are by sparsity and by the number of gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.training import fit
from tensorbench.optimizers.m_fac.gradients import collect
from tensorbench.optimizers.m_fac.pruner import Policy, one_shot
from tensorbench.optimizers.tasks import images

METHODS = {"magnitude": "magnitude", "diagonal": "diagonal", "m_fac": "m_fac"}


def run(run: Run) -> None:
    """Train a dense network, prune copies of it to each sparsity."""
    options = run.method.params
    source = run.dataset.load(run.seed)
    large = source.train_images.shape[1] == 28
    data = images.prepare(source, halve=large)
    g = torch.Generator().manual_seed(run.seed)
    network = images.resnet8(g) if large else images.perceptron(g, (64, 48, 32, 10))
    steps = options["network_steps"] if large else options["steps"]
    optimizer = torch.optim.Adam(network.parameters(), 1e-2 if large else 3e-3)
    fit(network, images.batches(data.train, g, 64), images.loss, optimizer, steps=steps, schedule="cosine")
    dense = 1 - images.measure(network, data.test)[1]
    run.log(dense_accuracy=dense)
    policy = Policy(METHODS[run.method.uses], damp=options["damp"], block=options.get("block"))  # type: ignore[arg-type]

    def accuracy(sparsity: float, count: int) -> float:
        model = copy.deepcopy(network)
        draw = torch.Generator().manual_seed(100 + run.seed)
        one_shot(model, sparsity, policy, lambda m: collect(m, images.loss, data.train, count, draw),
                 options.get("recomputations", 1))  # fmt: skip
        return 1 - images.measure(model, data.test)[1]

    count = options["gradients"]
    for sparsity in run.progress(options["network_sparsities" if large else "sparsities"], desc="sparsity"):
        found = accuracy(sparsity, count)
        run.log(step=100 * sparsity, accuracy=found)
        if round(100 * sparsity) == 80:
            run.log(accuracy_at_80=found, loss_at_80=dense - found)
    if not large and options.get("counts"):
        by = {m: accuracy(0.7, m) for m in options["counts"]}
        for m, found in by.items():
            run.log(step=m, accuracy_by_gradients=found)
        run.log(gain_of_gradients=by[max(by)] - by[min(by)])


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Accuracy against sparsity for both networks, and against the number of gradients."""
    fig, axes = plotting.figure(columns=2, cols=3, height=6.5)
    panels = [("digits", "accuracy", "digits"), ("mnist10k", "accuracy", "MNIST-10k"),
              ("digits", "accuracy_by_gradients", "digits at 70 %")]  # fmt: skip
    for ax, (name, metric, title) in zip(axes, panels, strict=True):
        ax.set_title(title, fontsize=8)
        own = records[records["dataset"] == name] if len(records) else records
        frame = rec.history(own, metric) if len(own) else own
        if not len(frame):
            plotting.empty(ax)
            continue
        by_sparsity = metric == "accuracy"
        if not by_sparsity:
            plotting.log_axis(ax, "x", ticks=sorted(frame["step"].unique()))
        plotting.series(ax, frame, "step", "value")
        if by_sparsity:
            plotting.reference(ax, y=float(own["dense_accuracy"].mean()), text="dense")
        ax.set(xlabel="sparsity (%)" if by_sparsity else "gradients m", ylabel="test accuracy")
    plotting.legend(fig)
    yield "accuracy", fig
