"""A small character model trained under recipes of few-bit products, each against bf16 from the same seeds.

Every method is a recipe by name: same weights, batches, optimiser and schedule, the head left in float32. Products
are emulated exactly in the operands, accumulated in float32. ``gradient_cosine_error`` is 1 - cos between the gradients
of the quantised layers' weights with and without quantisation, at the run's own weights, averaged over layers and over
measuring points in the course of training.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.tasks import char_lm
from tensorbench.core.training import fit
from tensorbench.quantization.fidelity import compare, weight_gradients
from tensorbench.quantization.layers import GemmSpec, QuantLinear, convert
from tensorbench.quantization.recipes import RECIPES, recipe

METHODS: dict[str, GemmSpec] = {**RECIPES}


def gradient_cosine_error(model: torch.nn.Module, batch: char_lm.Batch) -> float:
    """1 - cos between weight gradients with the recipe and without, averaged over the quantised layers."""
    layers = [module for module in model.modules() if isinstance(module, QuantLinear)]
    quantised = weight_gradients(model, char_lm.loss, batch)
    specs = [layer.spec for layer in layers]
    try:
        for layer in layers:
            layer.spec = GemmSpec()
        exact = weight_gradients(model, char_lm.loss, batch)
    finally:
        for layer, spec in zip(layers, specs, strict=True):
            layer.spec = spec
    names = [name for name, module in model.named_modules() if isinstance(module, QuantLinear)]
    return float(np.mean([compare(exact[name], quantised[name])[1] for name in names]))


def run(run: Run) -> None:
    """Train, and measure the validation loss and the gradients on the way."""
    text = run.dataset.load(run.seed)
    options = run.method.params
    generator = run.generator
    shape = char_lm.CharLMShape(len(text.vocabulary), width=options["width"], depth=options["depth"])
    model = char_lm.CharLM(shape, generator)
    spec = METHODS[run.method.uses] if run.method.uses in METHODS else recipe(run.method.uses)
    convert(model, spec, char_lm.OUTPUT, generator=torch.Generator().manual_seed(run.seed + 1))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options["learning_rate"], betas=(0.9, 0.95), weight_decay=options["weight_decay"]
    )
    probe = torch.Generator().manual_seed(run.seed + 2)
    probes = [next(char_lm.batches(text.valid, probe)) for _ in range(2)]
    steps, points = options["steps"], options["measure"]

    def measure(network: torch.nn.Module) -> dict[str, float]:
        with torch.enable_grad():
            error = float(np.mean([gradient_cosine_error(network, batch) for batch in probes]))
        return {"cosine_error": error, "validation": char_lm.evaluate(network, text.valid, windows=options["windows"])}

    with run.time("train"):
        history = fit(
            model,
            char_lm.batches(text.train, generator, batch=options["batch"]),
            char_lm.loss,
            optimizer,
            steps=steps,
            schedule="cosine",
            warmup=0.1,
            clip=1.0,
            evaluate=measure,
            evaluate_every=max(1, steps // points),
            log=run.log,
            log_every=10,
            progress=run.progress,
        )
    errors = [error for _, error in history.curve("cosine_error")]
    run.log(
        valid_loss=history.curve("validation")[-1][1],
        gradient_cosine_error=float(np.mean(errors)),
        diverged=history.diverged,
        step_milliseconds=1e3 * history.seconds / history.steps,
    )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Gap to bf16, error of gradients and training curves."""
    yield "parity", _parity(records)
    yield "curves", _curves(records)


def _parity(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=6.5)
    base = records[records["method"] == "bf16"] if len(records) else records
    if not len(base):
        for ax in axes:
            plotting.empty(ax)
        return fig
    pairs = records.merge(base[["dataset", "seed", "valid_loss"]], on=["dataset", "seed"], suffixes=("", "_bf16"))
    pairs = pairs.assign(gap=pairs["valid_loss"] - pairs["valid_loss_bf16"])
    dataset = next(d for d in pd.unique(pairs["dataset"]))
    pairs = pairs[(pairs["dataset"] == dataset)]
    others = pairs[pairs["method"] != "bf16"]
    names = list(pd.unique(others["method"]))
    for k, name in enumerate(names):
        look = plotting.style(name)
        part = others[others["method"] == name]
        axes[0].plot(part["gap"], np.full(len(part), k), linestyle="none", marker=look["marker"], color=look["color"],
                     alpha=0.45, markersize=4)  # fmt: skip
        axes[0].plot([part["gap"].mean()] * 2, [k - 0.3, k + 0.3], color=look["color"], linewidth=2)
        errors = part["gradient_cosine_error"].to_numpy()
        if (errors > 0).all():
            axes[1].plot(errors, np.full(len(part), k), linestyle="none", marker=look["marker"], color=look["color"],
                         alpha=0.8, markersize=4)  # fmt: skip
    axes[0].axvspan(-0.01, 0.01, color="#BBBBBB", alpha=0.35, linewidth=0, zorder=0)
    axes[0].set_yticks(range(len(names)), [plotting.label(name) for name in names])
    axes[1].set_yticks(range(len(names)), [])
    for ax in axes:
        ax.set_ylim(len(names) - 0.5, -0.5)
    axes[0].set_xlabel("validation loss above bf16 (nats)")
    plotting.log_axis(axes[1], "x")
    axes[1].set_xlabel("1 − cos of weight gradients")
    return fig


def _curves(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=6.5)
    for ax, metric, title in (
        (axes[0], "validation", "validation loss (nats)"),
        (axes[1], "cosine_error", "1 − cos of weight gradients"),
    ):
        curves = rec.history(records, metric) if len(records) else pd.DataFrame()
        if curves.empty:
            plotting.empty(ax)
            continue
        curves = curves[curves["dataset"] == curves["dataset"].iloc[0]]
        if metric == "cosine_error":
            plotting.log_axis(ax, "y")
        plotting.series(ax, curves, "step", "value")
        ax.set(xlabel="step", ylabel=title)
    plotting.legend(fig)
    return fig
