"""What the quasi-linear network costs: a training step against core's ResNet-8, fused against unfused inference, a
move.

The networks have as many blocks and the same width; batches are of the dataset's first images. Weights are those of
the start, batch norms in evaluation mode where nothing is trained. ``apply_seconds`` is one move of a network of
the size of ResNet-50 (copy included), the slowest of the stages that have a symmetry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.pde_operators.experiments.pde_net_training import NETWORKS, Part, loss, prepare
from tensorbench.pde_operators.pde_resnet import PDEResNet, count_weights, fuse
from tensorbench.pde_operators.symmetry import apply_symmetry, random_symmetry

METHODS = {"pde": PDEResNet}


def step(model: nn.Module, batch: Part) -> Callable[[], None]:
    """One step of AdamW."""
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def do() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model, batch).backward()
        optimizer.step()

    return do


def run(run: Run) -> None:
    """Three comparisons in one process."""
    options = dict(run.method.params)
    width, batch, repeats = options["width"], options["batch"], options["repeats"]
    images, labels = prepare(run.dataset.load(run.seed)).train
    part = images[:batch].contiguous(memory_format=torch.channels_last), labels[:batch]
    rivals = {
        "pde": NETWORKS["pde"](run.seed, width=width),
        "relu_block": NETWORKS["pde"](run.seed, width=width, activation="relu"),
        "resnet": NETWORKS["resnet"](run.seed, width=width),
        "depthwise": NETWORKS["depthwise"](run.seed, width=width),
    }
    seconds = compare({name: step(model, part) for name, model in rivals.items()}, repeats=repeats)
    run.log(**{f"{name}_step_milliseconds": 1e3 * value for name, value in seconds.items()})
    run.log(**{f"{name}_weights": count_weights(model) for name, model in rivals.items()})
    run.log(step_ratio=seconds.ratio("pde", "resnet").value)

    model = rivals["pde"].eval()
    fused = fuse(model)
    with torch.no_grad():
        seconds = compare({"unfused": lambda: model(part[0]), "fused": lambda: fused(part[0])}, repeats=2 * repeats)
    run.log(fused_speedup=seconds.speedup("fused", "unfused").value)
    run.log(**{f"{name}_milliseconds": 1e3 * value for name, value in seconds.items()})

    large = fuse(PDEResNet(**options["large"], seed=run.seed).eval())
    assert isinstance(large, PDEResNet)
    generator = torch.Generator().manual_seed(run.seed)
    moves: dict[str, Callable[[], object]] = {}
    for stage in range(1, len(large.stages)):
        Q = random_symmetry("orthogonal", large.widths[stage], generator)
        moves[str(stage)] = lambda stage=stage, Q=Q: apply_symmetry(large, stage, Q)  # type: ignore[misc]
    seconds = compare(moves, repeats=2, warmup=0, min_seconds=0)
    run.log(apply_seconds=max(seconds.values()), large_weights=count_weights(large))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Milliseconds of a training step."""
    fig, ax = plotting.figure(height=6)
    names = {"pde": "quasi-linear", "relu_block": "ReLU block", "resnet": "ResNet-8", "depthwise": "depthwise"}
    columns = [name for name in names if f"{name}_step_milliseconds" in records]
    if not columns:
        plotting.empty(ax)
    else:
        long = pd.concat(
            records[["dataset", "seed"]].assign(network=names[name], value=records[f"{name}_step_milliseconds"])
            for name in columns
        )
        plotting.bars(ax, long, "value", by="network")
        ax.set(ylabel="training step (ms)")
        plotting.legend(fig)
    yield "steps", fig
