"""Small images: the quasi-linear network against a ResNet, a depthwise separable network and ReLU in its own blocks.

Also its ablations, on digits. A training that diverged has NaN for its losses and accuracies. ``highest_loss`` is
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
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.pde_operators.experiments.pde_net_training import NETWORKS as METHODS
from tensorbench.pde_operators.experiments.pde_net_training import prepare, score, train
from tensorbench.pde_operators.pde_resnet import PDEResNet, count_weights
from tensorbench.pde_operators.stencils import order_shares

ABLATIONS = ["pde", "soft_ball", "no_ball", "k2", "k1", "relu_inside", "relu_stage"]
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
    """Accuracy against weights, ablations, what the filters do."""
    yield "weights", _weights(records)
    yield "ablations", _ablations(records)
    yield "filters", _filter_orders(records)


def _weights(records: pd.DataFrame) -> Figure:
    datasets = [name for name in ("digits", "mnist10k") if name in set(records.get("dataset", []))]
    fig, axes = plotting.figure(columns=2, cols=max(len(datasets), 1), height=6.6)
    for ax, dataset in zip(np.atleast_1d(axes), datasets or [""], strict=True):
        part = records[(records["dataset"] == dataset) & records["method"].isin(COMPARED)] if dataset else records
        if part.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "xy")
        for name in [name for name in COMPARED if (part["method"] == name).any()]:
            runs = part[part["method"] == name]
            error = 100 * (1 - runs["test_accuracy"].to_numpy(dtype=float))
            half = 0.0 if len(error) < 2 else float(_t(len(error) - 1) * error.std(ddof=1) / len(error) ** 0.5)
            centre = float(error.mean())
            look = plotting.style(name)
            ax.errorbar(
                float(runs["weights"].iloc[0]), max(centre, 0.05),
                yerr=[[min(half, 0.9 * centre)], [half]], color=look["color"], marker=look["marker"],
                label=look["label"], linestyle="none", elinewidth=1, capsize=2, markersize=5,
            )  # fmt: skip
        ax.set(title=plotting.label(str(dataset)), xlabel="weights", ylabel="test error (%)")
    plotting.legend(fig)
    return fig


def _t(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def _ablations(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=6.2)
    part = records[records["method"].isin(ABLATIONS) & (records["dataset"] == "digits")] if len(records) else records
    names = [name for name in ABLATIONS if len(part) and (part["method"] == name).any()]
    for ax, metric, text in zip(
        axes, ("test_accuracy", "highest_loss"), ("test accuracy (%)", "highest batch loss (nats)"), strict=True
    ):
        if not names:
            plotting.empty(ax)
            continue
        for at, name in enumerate(names):
            values = part[part["method"] == name][metric].to_numpy(dtype=float) * (100 if "acc" in metric else 1)
            look = plotting.style(name)
            ax.plot(at + np.linspace(-0.2, 0.2, len(values)), values, color=look["color"], marker=look["marker"],
                    linestyle="none", alpha=0.8)  # fmt: skip
            ax.plot([at - 0.3, at + 0.3], [values.mean()] * 2, color=look["color"], linewidth=1.5)
        ax.set_xticks(range(len(names)), [plotting.label(name) for name in names], rotation=30, ha="right",
                      rotation_mode="anchor")  # fmt: skip
        ax.set_ylabel(text)
        ax.grid(False, axis="x")
    if names:
        plotting.log_axis(axes[1], "y")
    return fig


def _filter_orders(records: pd.DataFrame) -> Figure:
    fig, ax = plotting.figure(height=6.4)
    shown = records[records["method"] == "pde"] if len(records) else records
    found = {name: rec.history(shown, f"order_share_{name}") for name in ("start", "trained")} if len(shown) else {}
    if not found or found["trained"].empty:
        plotting.empty(ax)
        return fig
    looks = plotting.styles(found)
    for k, (name, history) in enumerate(found.items()):
        values = history.groupby("step")["value"].mean()
        ax.bar(values.index.to_numpy(dtype=float) + 0.36 * (k - 0.5), 100 * values.to_numpy(), 0.34,
               color=looks[name]["color"], label={"start": "at the start", "trained": "trained"}[name])  # fmt: skip
    for order, ninths in enumerate((1, 2, 3, 2, 1)):
        ax.plot([order - 0.4, order + 0.4], [100 * ninths / 9] * 2, color="#444444", linewidth=0.9, linestyle="--",
                label="white noise" if order == 0 else None)  # fmt: skip
    ax.set_xticks(range(5), ["0: value", "1: slopes", "2", "3", "4"])
    ax.set(xlabel="order of the derivative", ylabel="share of the filters' squares (%)")
    ax.grid(False, axis="x")
    plotting.legend(ax)
    return fig
