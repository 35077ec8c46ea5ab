"""Small images: the quasi-linear network against a ResNet, a depthwise separable network and ReLU in its own blocks.

A training that diverged has NaN for its losses and accuracies. ``highest_loss`` is
over the batches after the first fifth of the steps; ``order_share_start`` and ``order_share_trained`` are how much
of the 3 × 3 filters acts as a derivative of an order (the step).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.pde_operators.experiments.pde_net_training import NETWORKS as METHODS
from tensorbench.pde_operators.experiments.pde_net_training import prepare, score, train
from tensorbench.pde_operators.pde_resnet import PDEResNet, count_weights
from tensorbench.pde_operators.stencils import order_shares

COMPARED = ["pde", "pde_narrow", "relu_block", "resnet", "resnet_wide", "depthwise"]


def run(run: Run) -> None:
    """Train one network and score it."""
    options = dict(run.method.params)
    lr, kept, steps = options.pop("lr"), options.pop("train", None), options.pop("steps")
    if isinstance(steps, dict):
        steps = steps[run.dataset.name]
    data = prepare(run.dataset.load(run.seed), kept)
    model = METHODS[run.method.uses](run.seed, **options)
    run.log(weights=count_weights(model))
    filters = {"start": _filters(model)}
    with run.time("fit"):
        history = train(model, data.train, run.seed, lr=lr, steps=steps)
    run.log(diverged=float(history.diverged), highest_loss=max(history.losses[steps // 5 :], default=math.nan))
    if history.diverged:
        run.log(**dict.fromkeys(("valid_loss", "test_accuracy", "test_loss", "train_accuracy"), math.nan))
        return
    test = score(model, data.test)
    run.log(
        valid_loss=score(model, data.valid)["loss"],
        test_accuracy=test["accuracy"],
        test_loss=test["loss"],
        train_accuracy=score(model, data.train)["accuracy"],
    )
    filters["trained"] = _filters(model)
    for name, found in filters.items():
        if found is not None:
            for order, share in enumerate(order_shares(found).mean(0)):
                run.log(step=order, **{f"order_share_{name}": float(share)})


def _filters(model: torch.nn.Module) -> torch.Tensor | None:
    if not isinstance(model, PDEResNet):
        return None
    return torch.cat([block.conv2.conv.weight[:, 0] for block in model.blocks()]).detach().clone()


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Test error against weights."""
    yield "weights", _weights(records)


def _weights(records: pd.DataFrame) -> Figure:
    datasets = [name for name in ("digits", "mnist10k") if name in set(records.get("dataset", []))]
    fig, axes = plotting.figure(columns=2, cols=max(len(datasets), 1), height=6.6)
    for ax, dataset in zip(np.atleast_1d(axes), datasets or [""], strict=True):
        part = records[(records["dataset"] == dataset) & records["method"].isin(COMPARED)] if dataset else records
        if part.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "x", ticks=(10_000, 20_000, 40_000, 80_000))
        for name in [name for name in COMPARED if (part["method"] == name).any()]:
            runs = part[part["method"] == name]
            error = 100 * (1 - runs["test_accuracy"].to_numpy(dtype=float))
            half = 0.0 if len(error) < 2 else float(_t(len(error) - 1) * error.std(ddof=1) / len(error) ** 0.5)
            centre = float(error.mean())
            look = plotting.style(name)
            ax.errorbar(
                float(runs["weights"].iloc[0]), centre, yerr=[[min(half, centre)], [half]],
                color=look["color"], marker=look["marker"],
                label=look["label"], linestyle="none", elinewidth=1, capsize=2, markersize=5,
            )  # fmt: skip
        ax.set(title=plotting.label(str(dataset)), xlabel="weights", ylabel="test error (%)", xlim=(9_000, 100_000))
        ax.set_ylim(bottom=0)
    plotting.legend(fig)
    return fig


def _t(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
