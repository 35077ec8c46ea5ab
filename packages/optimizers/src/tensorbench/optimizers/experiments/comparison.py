"""The protocol by which every optimizer meets every other on one task.

A method's learning rate is picked by core's tuning (the same number of trials for all, by validation loss). Then, for
each seed: one training of the given number of steps; one of as many steps as the method makes in the time in which
AdamW makes the given number (``equal time``, measured in the same process); and, for the first seeds, trainings with
the learning rate multiplied by fixed factors (``sensitivity``). Schedules end at the end of each training, so that a
slow method is not cut in the middle of its schedule. Nothing is clipped, and the batches of a seed are the same for
all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tensorbench.core.run import Run
from tensorbench.core.training import History, fit
from tensorbench.optimizers.base import NonFiniteGradientError
from tensorbench.optimizers.methods import create
from tensorbench.optimizers.tasks import PARTS, Task

MakeTask = Callable[[torch.Generator], Task]
_CALIBRATION_STEPS = 20


def train_once(
    make: MakeTask, seed: int, name: str, lr: float, options: Mapping[str, Any], steps: int, points: int = 0,
    parts: Sequence[str] = PARTS, schedule: str = "cosine", warmup: float = 0.05,
) -> tuple[History, dict[str, float], float]:  # fmt: skip
    """Train a new model; the history, the final metrics of ``parts`` and the optimizer's state in units of the weights.

    On the way, at ``points`` equal distances, only the validation part is looked at: the others cost as much as many
    steps.
    """
    task = make(torch.Generator().manual_seed(seed))
    optimizer = create(name, task.model, lr, **options)
    try:
        history = fit(
            task.model, task.batches, task.loss, optimizer,
            steps=steps, schedule=schedule, warmup=warmup,
            evaluate=partial(task.evaluate, parts=("valid",)),
            evaluate_every=max(1, steps // points) if points else None,
        )  # fmt: skip
    except NonFiniteGradientError:  # torch's own rules would step to NaN and be stopped at the next loss
        history = History(stopped="diverged")
    final: dict[str, float] = {}
    if history.evaluations and not history.diverged:
        rest = [part for part in parts if part != "valid"]
        final = history.evaluations[-1][1] | task.evaluate(task.model, rest)
    size = sum(p.numel() * p.element_size() for p in task.model.parameters())
    return history, final, state_bytes(optimizer) / size


def state_bytes(optimizer: Any) -> int:
    """Bytes of all tensors that the optimizer keeps, each storage once."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    parameters = {p.untyped_storage().data_ptr() for group in optimizer.param_groups for p in group["params"]}

    def visit(value: Any) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            if storage.data_ptr() not in parameters:
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, Mapping):
            for item in value.values():
                visit(item)
        elif isinstance(value, list | tuple | set):
            for item in value:
                visit(item)
        elif isinstance(value, torch.optim.Optimizer) or type(value).__module__.startswith("tensorbench"):
            visit({key: item for key, item in vars(value).items() if key not in ("param_groups", "defaults")})

    visit(getattr(optimizer, "state", {}))
    visit({key: value for key, value in vars(optimizer).items() if key not in ("param_groups", "defaults")})
    return sum(storages.values())


def adamw_step_seconds(make: MakeTask, seed: int, steps: int = _CALIBRATION_STEPS) -> float:
    """Mean wall seconds of an AdamW step on the task, after two that warm up."""
    task = make(torch.Generator().manual_seed(seed))
    optimizer = create("adamw", task.model, 1e-4)
    fit(task.model, task.batches, task.loss, optimizer, steps=2)
    began = time.perf_counter()
    fit(task.model, task.batches, task.loss, optimizer, steps=steps)
    return (time.perf_counter() - began) / steps


def compare(
    run: Run, make: MakeTask, *, lr: float, steps: int, points: int = 12, sensitivity: Iterable[float] = (),
    sensitivity_seeds: int = 1, target: float | None = None, **options: Any,
) -> None:  # fmt: skip
    """What a comparison's ``run(run)`` does: train as the module's text says, and log. ``options`` go to the optimizer.

    Logged: ``train_loss``, ``valid_loss``, ``test_loss``, errors where the task has classes, for validation and test
    their ``equal_time_…`` counterparts, ``step_ratio`` (time of a step over AdamW's), ``step_milliseconds``,
    ``state_ratio`` (bytes kept over bytes of parameters), ``steps_to_target`` (first evaluation with at most ``target``
    of validation loss), ``diverged``; histories of the validation loss by step, and of ``sensitivity_loss`` and
    ``sensitivity_error`` by factor, with ``worst_rise``, how far the test error rises at half or twice the learning
    rate.
    A training that diverged has NaN for its losses.
    """
    name = run.method.uses
    if run.trial is not None:
        history, final, _ = train_once(make, run.seed, name, lr, options, steps, parts=("valid",))
        run.log(valid_loss=final.get("valid_loss", math.nan), diverged=history.diverged)
        return
    reference = adamw_step_seconds(make, run.seed)
    history, final, state = train_once(make, run.seed, name, lr, options, steps, points)
    if not history.steps:
        run.log(diverged=True, **dict.fromkeys(("train_loss", "valid_loss", "test_loss", "step_ratio"), math.nan))
        return
    for step, metrics in history.evaluations:
        run.log(step=step, **metrics)
    seconds = history.seconds / max(1, history.steps)
    ratio = seconds / reference
    # A training that diverged has measured something on its way, which must not be taken for its end.
    seen = history.evaluations[0][1] if history.evaluations else ("valid_loss",)
    losses = list(final or (key.replace("valid", part) for part in PARTS for key in seen))
    run.log(
        **{key: final.get(key, math.nan) for key in losses},
        step_ratio=ratio, step_milliseconds=1e3 * seconds, state_ratio=state, diverged=history.diverged,
    )  # fmt: skip
    if target is not None:
        reached = [step for step, metrics in history.evaluations if metrics["valid_loss"] <= target]
        run.log(reached=bool(reached))
        if reached:
            run.log(steps_to_target=reached[0], time_to_target=reached[0] * ratio)
    affordable = max(1, min(steps, round(steps / ratio)))
    same = affordable >= 0.95 * steps
    found = final if same else train_once(make, run.seed, name, lr, options, affordable, parts=("valid", "test"))[1]
    unseen = [key for key in losses if not key.startswith("train")]
    run.log(equal_time_steps=affordable, **{f"equal_time_{key}": found.get(key, math.nan) for key in unseen})
    if run.seed < sensitivity_seeds:
        errors = {}
        for factor in sorted({1.0, *sensitivity}):
            trained = final
            if factor != 1.0:
                trained = train_once(make, run.seed, name, lr * factor, options, steps, parts=("valid", "test"))[1]
            run.log(step=factor, sensitivity_loss=trained.get("valid_loss", math.nan))
            if "test_error" in losses:
                errors[factor] = trained.get("test_error", math.nan)
                run.log(step=factor, sensitivity_error=errors[factor])
        if {0.5, 1.0, 2.0} <= set(errors):
            run.log(worst_rise=max(errors[0.5], errors[2.0]) - errors[1.0])
