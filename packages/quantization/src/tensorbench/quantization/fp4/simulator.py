"""The simulator: a task trained with a recipe from a seed, as plain functions.

``simulate(task, recipe, seed=...)`` trains and returns what came out; ``sweep`` does so for every task, recipe and
seed and returns rows for a data frame. The same seed gives every recipe the same initial weights and the same
batches, so that losses compare in pairs. Tasks are those of ``tasks``, put together by the functions here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.core.tasks import char_lm
from tensorbench.core.training import fit

from ..layers import GemmSpec, QuantLinear, convert
from ..tasks import classify, diffusion, regression
from .loss_scale import LossScaler
from .overhead import Overhead, overhead, total
from .recipes import Recipe, install
from .stable_spam import StableSPAM

OPTIMIZERS = ("adamw", "stable_spam")


@dataclass
class Task:
    """A model with what trains and judges it. ``evaluate`` returns ``valid_loss`` and others."""

    model: nn.Module
    batches: Iterator[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[nn.Module], Mapping[str, float]]
    keep: tuple[str, ...]
    lr: float


@dataclass(frozen=True)
class Outcome:
    """``metrics`` of the task on its validation data, the cost of a step, and how training went."""

    metrics: dict[str, float]
    cost: Overhead
    losses: tuple[float, ...]
    diverged: bool


def regression_task(features: Any, targets: Any, valid_features: Any, valid_targets: Any, seed: int) -> Task:
    """The perceptron on rows of features."""
    x, y, vx, vy = (
        torch.as_tensor(np.asarray(a), dtype=torch.float32) for a in (features, targets, valid_features, valid_targets)
    )
    model = regression.Perceptron(x.shape[1], _stream(seed, 0))
    return Task(
        model, regression.batches(x, y, _stream(seed, 1)), regression.loss,
        lambda m: {"valid_loss": regression.evaluate(m, vx, vy)}, regression.KEEP, 3e-3,
    )  # fmt: skip


def classify_task(images: Any, labels: Any, valid_images: Any, valid_labels: Any, seed: int) -> Task:
    """The convolutional network on grey images in [0, 1]."""
    x, vx = (torch.as_tensor(np.asarray(a), dtype=torch.float32) for a in (images, valid_images))
    y, vy = (torch.as_tensor(np.asarray(a), dtype=torch.int64) for a in (labels, valid_labels))

    def evaluate(model: nn.Module) -> dict[str, float]:
        nats, accuracy = classify.evaluate(model, vx, vy)
        return {"valid_loss": nats, "accuracy": accuracy}

    model = classify.SmallCNN(int(max(y.max(), vy.max())) + 1, _stream(seed, 0))
    return Task(model, classify.batches(x, y, _stream(seed, 1)), classify.loss, evaluate, classify.KEEP, 3e-3)


def diffusion_task(images: Any, valid_images: Any, seed: int) -> Task:
    """The denoiser on images in [0, 1]."""
    x, vx = (2 * torch.as_tensor(np.asarray(a), dtype=torch.float32).flatten(1) - 1 for a in (images, valid_images))
    model = diffusion.Denoiser(x.shape[1], _stream(seed, 0))
    return Task(
        model, diffusion.batches(x, _stream(seed, 1)), diffusion.loss,
        lambda m: {"valid_loss": diffusion.evaluate(m, vx)}, diffusion.KEEP, 2e-3,
    )  # fmt: skip


def char_lm_task(text: Any, valid_text: Any, vocabulary: int, seed: int, *, context: int = 32, batch: int = 8) -> Task:
    """The character model; the last layer stays."""
    shape = char_lm.CharLMShape(vocabulary, context=context)
    model = char_lm.CharLM(shape, _stream(seed, 0))
    return Task(
        model, char_lm.batches(text, _stream(seed, 1), batch=batch, context=context), char_lm.loss,
        lambda m: {"valid_loss": char_lm.evaluate(m, valid_text, context=context)}, char_lm.OUTPUT, 3e-3,
    )  # fmt: skip


def _stream(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(1_000_003 * seed + number)


def simulate(
    task: Task,
    recipe: Recipe | GemmSpec | None,
    *,
    steps: int,
    seed: int = 0,
    optimizer: str = "adamw",
    schedule: str = "cosine",
    **options: Any,
) -> Outcome:
    """Train the task's model in place, its layers quantised by ``recipe`` (None: float32), and evaluate it as trained.

    Args:
        optimizer: ``adamw`` or ``stable_spam``, at the task's learning rate.
        options: for ``core.training.fit`` (``log``, ``progress``, …).

    Raises:
        ValueError: an unknown optimizer; and whatever ``convert`` and ``fit`` refuse.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(unknown("optimizer", optimizer, OPTIMIZERS))
    model, draws = task.model, _stream(seed, 2)
    if isinstance(recipe, Recipe):
        install(model, recipe, task.keep, seed=seed, generator=draws)
    elif recipe is not None:
        convert(model, recipe, task.keep, generator=draws)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if optimizer == "stable_spam":
        rule: torch.optim.Optimizer = StableSPAM(parameters, lr=task.lr)
    else:
        rule = torch.optim.AdamW(parameters, lr=task.lr, weight_decay=0.0)
    loss = task.loss
    factor = recipe.loss_scale if isinstance(recipe, Recipe) else None
    scaler = LossScaler(parameters, factor) if factor else None
    if scaler is not None:
        loss = lambda m, batch: scaler(task.loss(m, batch))  # noqa: E731
    first = next(task.batches)
    cost = step_overhead(model, recipe if isinstance(recipe, Recipe) else None, lambda: task.loss(model, first))
    history = fit(model, task.batches, loss, rule, steps=steps, schedule=schedule, warmup=0.1, **options)
    if scaler is not None:
        scaler.remove()
    return Outcome(dict(task.evaluate(model)), cost, tuple(history.losses), history.diverged)


def step_overhead(model: nn.Module, recipe: Recipe | None, forward: Callable[[], Any]) -> Overhead:
    """Summed over the quantised layers, with the tokens that ``forward()`` sends through each."""
    seen: list[tuple[int, int, int]] = []

    def hook(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        tokens = arguments[0].numel() // layer.in_features
        seen.append((tokens, layer.in_features, layer.out_features))

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, QuantLinear)]
    try:
        if handles:
            with torch.no_grad():
                forward()
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        return Overhead(0, 0, 0, 0, 0, 1)
    return total([overhead(recipe, shape) for shape in seen])


def sweep(
    tasks: Mapping[str, Callable[[int], Task]],
    recipes: Mapping[str, Recipe | GemmSpec | None],
    seeds: Sequence[int],
    *,
    steps: int,
) -> list[dict[str, Any]]:
    """Every task (made anew from the seed) with every recipe and seed: one row each."""
    rows = []
    for name, make in tasks.items():
        for label, recipe in recipes.items():
            for seed in seeds:
                out = simulate(make(seed), recipe, steps=steps, seed=seed)
                row = {"task": name, "recipe": label, "seed": seed, "overhead": out.cost.relative}
                rows.append(row | {"diverged": out.diverged} | out.metrics)
    return rows
