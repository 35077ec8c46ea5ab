"""One small loop for whoever trains a torch model: a budget in steps or seconds, a schedule, and honest stopping.

It owns no model, no data and no device. Batches come from an iterable, the loss from a function, metrics go out through
``log``; what it returns says how training went, divergence included.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from .errors import unknown

Stop = Literal["steps", "seconds", "diverged", "exhausted", "callback"]
Multiplier = Callable[[float], float]  # of the learning rate, given the share of the budget that is used up
_SCHEDULES = ("constant", "linear", "cosine")


class Log(Protocol):
    """``run.log`` fits."""

    def __call__(self, *, step: float | None = None, **metrics: Any) -> None: ...


@dataclass
class History:
    """How training went. ``diverged`` means that the weights are not to be trusted and no metric should be either."""

    steps: int = 0
    seconds: float = 0.0  # of training; evaluation is not counted
    stopped: Stop = "steps"
    losses: list[float] = field(default_factory=list)  # one a step
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    @property
    def diverged(self) -> bool:
        return self.stopped == "diverged"

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds if self.seconds > 0 else math.nan

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of a metric that ``evaluate`` returned."""
        return [(step, metrics[metric]) for step, metrics in self.evaluations if metric in metrics]


def schedule_multiplier(schedule: str | Multiplier, warmup: float = 0.0, final: float = 0.0) -> Multiplier:
    """The factor on the learning rate as a function of the used share of the budget, from 0 to 1.

    ``constant``, ``linear`` and ``cosine`` (the latter two fall to ``final``) rise linearly from 0 during the first
    ``warmup`` share.
    """
    if callable(schedule):
        return schedule
    if schedule not in _SCHEDULES:
        raise ValueError(unknown("schedule", schedule, _SCHEDULES))
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup {warmup} is a share of the budget and must be in [0, 1)")

    def multiplier(used: float) -> float:
        if used < warmup:
            return used / warmup
        left = 1 - min(1.0, (used - warmup) / (1 - warmup))
        if schedule == "constant":
            return 1.0
        shape = left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
        return final + (1 - final) * shape

    return multiplier


def fit(
    model: torch.nn.Module,
    batches: Iterable[Any] | Callable[[], Iterable[Any]],
    loss: Callable[[torch.nn.Module, Any], Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    schedule: str | Multiplier | torch.optim.lr_scheduler.LRScheduler | None = None,
    warmup: float = 0.0,
    evaluate: Callable[[torch.nn.Module], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    log: Log | None = None,
    log_every: int = 1,
    progress: Callable[..., Iterator[int]] | None = None,
    clip: float | None = None,
    divergence_factor: float = 1e4,
    callback: Callable[[int, float], bool | None] | None = None,
) -> History:
    """Train ``model`` in place.

    Args:
        batches: an iterable that is gone through again when it ends (a list, a DataLoader), or a function that returns
            a new one for each pass. An iterator ends training when it ends.
        loss: ``loss(model, batch)``, a scalar tensor.
        optimizer: steps with a closure too, for optimizers that ask for several evaluations. One with an attribute
            ``needs_graph`` that is true differentiates the loss itself: its closure makes no backward pass.
        steps, seconds: the budget; the first that is used up ends training. Seconds do not count evaluation.
        schedule: ``constant``, ``linear``, ``cosine``, a function of the used share of the budget, or a torch
            scheduler (stepped once a step).
        warmup: share of the budget during which the learning rate rises from 0.
        evaluate: metrics of the model, called in evaluation mode without gradients after every ``evaluate_every``
            steps and at the end.
        log: called as ``log(step=k, train_loss=...)`` every ``log_every`` steps and with the metrics of ``evaluate``;
            ``run.log`` fits.
        progress: wraps the range of steps (``run.progress`` fits); needs ``steps``.
        clip: largest norm of the gradient; refused for an optimizer that differentiates the loss itself.
        divergence_factor: a loss that is not finite, or above this multiple of the first loss (or of 1 where that is
            smaller), stops training and is flagged; the weights stay as they were before that step.
        callback: ``callback(step, loss)`` after each step; returning True stops.

    Raises:
        ValueError: no budget or one that makes no sense, an unknown schedule, a schedule or warm-up of an optimizer
            without learning rate, no batches.
    """
    _check_budget(steps, seconds)
    if progress is not None and steps is None:
        raise ValueError("progress needs a budget in steps; with seconds alone the number of steps is unknown")
    if clip is not None and getattr(optimizer, "needs_graph", False):
        raise ValueError(f"{type(optimizer).__name__} differentiates the loss itself, so clip=... would do nothing")
    if (evaluate_every is not None and evaluate_every < 1) or log_every < 1:
        raise ValueError(f"evaluate_every {evaluate_every} and log_every {log_every} must be at least 1")
    scheduler = schedule if isinstance(schedule, torch.optim.lr_scheduler.LRScheduler) else None
    multiplier = None
    if scheduler is None and (schedule is not None or warmup):
        multiplier = schedule_multiplier(schedule or "constant", warmup)  # type: ignore[arg-type]
    rates = [] if multiplier is None else _learning_rates(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    history = History()
    stream = _endless(batches)
    numbers = range(1, steps + 1) if steps is not None else itertools.count(1)
    clock = _Clock()
    model.train()
    limit = sys.float_info.max  # below it only infinity and NaN are divergence

    for step in progress(numbers, total=steps, desc="steps") if progress is not None else numbers:
        if seconds is not None and clock.elapsed() >= seconds:
            history.stopped = "seconds"
            break
        try:
            batch = next(stream)
        except StopIteration:
            history.stopped = "exhausted"
            break
        if multiplier is not None:
            factor = multiplier(_used(step, steps, clock, seconds))
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        value, diverged = _step(model, batch, loss, optimizer, parameters, clip, limit)
        if scheduler is not None and not diverged:
            scheduler.step()
        history.steps, history.seconds = step, clock.elapsed()
        history.losses.append(value)
        if step == 1:
            limit = min(limit, divergence_factor * max(1.0, abs(value)))
        if log is not None and (step % log_every == 0 or diverged):
            log(step=step, train_loss=value)
        if diverged:
            history.stopped = "diverged"
            break
        if evaluate is not None and evaluate_every is not None and step % evaluate_every == 0:
            _evaluate(model, evaluate, history, clock, log)
        if callback is not None and callback(step, value):
            history.stopped = "callback"
            break

    if multiplier is not None:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    history.seconds = clock.elapsed()
    done = bool(history.evaluations) and history.evaluations[-1][0] == history.steps
    if evaluate is not None and not done and not history.diverged:
        _evaluate(model, evaluate, history, clock, log)
    return history


def _learning_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """Of the groups, for a schedule to multiply."""
    if any("lr" not in group for group in optimizer.param_groups):
        raise ValueError(f"{type(optimizer).__name__} has no learning rate that a schedule or a warm-up could change")
    return [group["lr"] for group in optimizer.param_groups]


def _check_budget(steps: int | None, seconds: float | None) -> None:
    if steps is None and seconds is None:
        raise ValueError("give a budget: steps=..., seconds=..., or both")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ValueError(f"steps {steps!r} must be a whole number of at least 1")
    if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"seconds {seconds!r} must be positive and finite")


def _endless(batches: Iterable[Any] | Callable[[], Iterable[Any]]) -> Iterator[Any]:
    if isinstance(batches, Iterator):
        for batch in batches:  # not `yield from`, which would close the caller's generator when training ends
            yield batch
        return
    while True:
        empty = True
        for batch in batches() if callable(batches) else batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("there are no batches to train on")


class _DivergedError(Exception):
    """Leaves the optimizer before it takes a step on a loss that means nothing."""


class _Clock:
    """Seconds of training: it stands still while the model is evaluated."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def elapsed(self) -> float:
        return time.perf_counter() - self._start

    def skip(self, seconds: float) -> None:
        self._start += seconds


def _used(step: int, steps: int | None, clock: _Clock, seconds: float | None) -> float:
    """Share of the budget that is used up, by whichever of the two is further; of steps, in the middle of this one."""
    shares = [(step - 0.5) / steps] if steps is not None else []
    if seconds is not None:
        shares.append(clock.elapsed() / seconds)
    return min(1.0, max(shares))


def _step(
    model: torch.nn.Module,
    batch: Any,
    loss: Callable[[torch.nn.Module, Any], Tensor],
    optimizer: torch.optim.Optimizer,
    parameters: list[Tensor],
    clip: float | None,
    limit: float,
) -> tuple[float, bool]:
    """One step of the optimizer; the loss before it, and whether that was above ``limit`` (then no step is made)."""
    first: list[float] = []
    graph = getattr(optimizer, "needs_graph", False)

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(model, batch)
        if value.numel() != 1:
            raise ValueError(f"the loss must be one number, got shape {tuple(value.shape)}; take its mean or sum")
        if not first:
            first.append(float(value.detach()))  # waits for the device, so the clock counts the work
            if not first[0] <= limit:
                raise _DivergedError
        if graph:
            return value
        value.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        return value

    try:
        optimizer.step(closure)  # type: ignore[arg-type]
    except _DivergedError:
        return first[0], True
    return first[0], False


def _evaluate(
    model: torch.nn.Module,
    evaluate: Callable[[torch.nn.Module], Mapping[str, float]],
    history: History,
    clock: _Clock,
    log: Log | None,
) -> None:
    began = time.perf_counter()
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            metrics = {name: float(value) for name, value in evaluate(model).items()}
    finally:
        model.train(was_training)
    history.evaluations.append((history.steps, metrics))
    if log is not None:
        log(step=history.steps, **metrics)
    clock.skip(time.perf_counter() - began)
