"""Fitting a functional tensor on grids and a monolithic network on points, with one budget: steps or CPU seconds.

On a grid each step evaluates every axis's network once, on the whole grid or on a sub-grid of coordinates drawn anew
("slab"). The loss is the sum over channels of the mean squared error, the optimizer Adam, as in the authors' demo of
F-INR (arXiv 2503.21507). CPU seconds are this process's, so that a busy machine does not shorten anybody's training;
evaluations do not count.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.core.timing import WorkClock
from tensorbench.core.training import History, fit
from tensorbench.radiance_fields.implicit.functional import FunctionalTensor, pixel_centres
from tensorbench.radiance_fields.implicit.nets import AxisNet

# The factor on the learning rate, of the share of the budget that is left.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda left: 1.0,
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
}


@functools.cache
def _warm_up() -> None:
    """A step of nothing: a process's first optimizer imports a second's worth of modules, which is no training."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()


@dataclass
class Course:
    """How a training went: the core's history, and (CPU seconds, metric) at the marks."""

    history: History
    seconds: float = 0.0  # of CPU time, evaluations not counted
    marks: list[tuple[float, float]] = field(default_factory=list)

    def seconds_to(self, level: float) -> float:
        """CPU seconds until the metric first reached ``level``, linear between marks; infinite where it did not."""
        before = (0.0, -math.inf)
        for at, value in self.marks:
            if value >= level:
                if not math.isfinite(before[1]):
                    return at
                return before[0] + (at - before[0]) * (level - before[1]) / (value - before[1])
            before = (at, value)
        return math.inf


def train(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    *,
    steps: int | None = None,
    cpu_seconds: float | None = None,
    lr: float = 1e-3,
    schedule: str = "constant",
    clip: float | None = 1.0,
    batches: Callable[[], Iterator] | None = None,
    metric: Callable[[Any], float] | None = None,
    at: Sequence[float] = (),
    callback: Callable[[int, float], None] | None = None,
) -> Course:
    """Adam on ``loss(model, batch)`` until ``steps`` or ``cpu_seconds`` are used up; gradients are clipped at the norm
    ``clip``, without which a constant rate throws products of several networks (TT, Tucker) off late in training.

    ``metric(model)`` is evaluated when the CPU time of training passes each of the seconds ``at``, and at the end. A
    schedule (``linear``, ``cosine``) runs over the budget that is used up first.

    Raises:
        ValueError: no budget, or an unknown schedule.
        RuntimeError: the loss diverged.
    """
    if steps is None and cpu_seconds is None:
        raise ValueError("give a budget: steps=..., cpu_seconds=..., or both")
    if schedule not in SCHEDULES:
        raise ValueError(unknown("schedule", schedule, SCHEDULES))
    _warm_up()
    clock, marks = WorkClock(), sorted(at)
    course = Course(History())
    total = steps if steps is not None else 1_000_000_000

    def evaluate(mark: float) -> None:
        if metric is None:
            return
        with clock.paused(), torch.no_grad():
            course.marks.append((mark, metric(model)))

    def after(step: int, value: float) -> bool:
        spent = clock.elapsed()
        while marks and spent >= marks[0]:
            evaluate(marks.pop(0))
        if callback is not None:
            callback(step, value)
        return cpu_seconds is not None and spent >= cpu_seconds

    def share(used: float) -> float:
        spent = clock.elapsed() / cpu_seconds if cpu_seconds is not None else 0.0
        left = 1 - min(1.0, max(used if steps is not None else 0.0, spent))
        return SCHEDULES[schedule](left)

    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    course.history = fit(
        model, batches if batches is not None else [None], loss, optimizer, steps=total,
        schedule=share, clip=clip, callback=after,
    )  # fmt: skip
    course.seconds = clock.elapsed()
    if course.history.diverged:
        raise RuntimeError(f"training diverged after {course.history.steps} steps; lower lr (now {lr:g})")
    if metric is not None and (not course.marks or course.marks[-1][0] < course.seconds - 1e-9):
        last = cpu_seconds if cpu_seconds is not None and course.seconds >= cpu_seconds else course.seconds
        if not course.marks or course.marks[-1][0] < last:
            evaluate(last)
    return course


def channel_mse(
    predicted: Float[Tensor, "*sizes channels"], target: Float[Tensor, "*sizes channels"]
) -> Float[Tensor, ""]:
    """Sum over the last axis of the mean squared error over all others."""
    return (predicted - target).square().flatten(0, -2).mean(0).sum()


def fit_grid(
    model: FunctionalTensor,
    target: Float[Tensor, "*sizes channels"],
    *,
    coordinates: Sequence[Float[Tensor, " _"]] | None = None,
    slab: int | None = None,
    generator: torch.Generator | None = None,
    **budget: Any,
) -> Course:
    """Fit values on a grid: the whole, or ``slab`` coordinates of each axis, drawn anew for each step.

    Other keywords are those of :func:`train`; ``metric`` defaults to the PSNR of the whole grid, range 1.

    Raises:
        ValueError: values that are not finite, an axis of fewer than 2 samples, shapes that do not fit the model.
    """
    values = check_signal(target, model.dims, model.channels)
    sizes = values.shape[:-1]
    x = [pixel_centres(n, values.device) for n in sizes] if coordinates is None else list(coordinates)
    if [len(column) for column in x] != list(sizes):
        raise ValueError(f"coordinates of {[len(column) for column in x]} points for a grid of {list(sizes)}")
    budget.setdefault("metric", lambda net: psnr(net.forward_grid(x), values))
    if slab is None:
        return train(model, lambda net, _: channel_mse(net.forward_grid(x), values), **budget)

    def draws() -> Iterator[list[Tensor]]:
        yield [torch.randperm(n, generator=generator)[:slab].to(values.device) for n in sizes]

    def loss(net: nn.Module, some: list[Tensor]) -> Tensor:
        part = values
        for axis, index in enumerate(some):
            part = part.index_select(axis, index)
        assert isinstance(net, FunctionalTensor)
        return channel_mse(net.forward_grid([c[i] for c, i in zip(x, some, strict=True)]), part)

    return train(model, loss, batches=draws, **budget)


def grid_points(sizes: Sequence[int], device: torch.device | str = "cpu") -> Float[Tensor, "points d"]:
    """The pixel centres of a grid as points, the last axis fastest."""
    axes = torch.meshgrid([pixel_centres(n, device) for n in sizes], indexing="ij")
    return torch.stack(axes, dim=-1).reshape(-1, len(sizes))


def fit_points(
    model: nn.Module,
    target: Float[Tensor, "*sizes channels"],
    *,
    batch: int | None = None,
    generator: torch.Generator | None = None,
    **budget: Any,
) -> Course:
    """Fit a network of all coordinates (the monolithic baseline) to values on a grid, ``batch`` random points a step or
    all of them. Keywords, metric and errors as in :func:`fit_grid`."""
    dims = target.ndim - 1
    values = check_signal(target, dims, target.shape[-1])
    x, y = grid_points(values.shape[:-1], values.device), values.reshape(-1, values.shape[-1])
    budget.setdefault("metric", lambda net: psnr(in_chunks(net, x), y))
    if batch is None or batch >= len(x):
        return train(model, lambda net, _: channel_mse(net(x), y), **budget)

    def draws() -> Iterator[Tensor]:
        order = torch.randperm(len(x), generator=generator).to(values.device)
        yield from order.split(batch)

    return train(model, lambda net, some: channel_mse(net(x[some]), y[some]), batches=draws, **budget)


@torch.no_grad()
def in_chunks(net: nn.Module, x: Float[Tensor, "points d"], chunk: int = 1 << 14) -> Float[Tensor, "points channels"]:
    """A network's values at many points, without gradients."""
    return torch.cat([net(part) for part in x.split(chunk)])


def monolithic(backend: str, dims: int, channels: int, generator: torch.Generator | None, **options: Any) -> AxisNet:
    """One network of all coordinates, the baseline; ``options`` are those of :class:`AxisNet`."""
    return AxisNet(backend, inputs=dims, out=channels, generator=generator, **options)


def rank_sweep(
    ranks: Sequence[int], make: Callable[[int], FunctionalTensor], fit_one: Callable[[FunctionalTensor], Course]
) -> dict[int, tuple[FunctionalTensor, Course]]:
    """A model for each rank, each trained alike."""
    found = {}
    for rank in ranks:
        model = make(rank)
        found[rank] = (model, fit_one(model))
    return found


def psnr(predicted: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio (dB) over all values."""
    error = float((predicted - target).detach().square().mean())
    return 10 * math.log10(peak**2 / max(error, 1e-20))


def check_signal(target: Tensor, dims: int, channels: int) -> Tensor:
    """The signal as it came. ValueError for a wrong number of axes or channels, NaN, or an axis below 2 samples."""
    if target.ndim != dims + 1 or target.shape[-1] != channels:
        raise ValueError(f"a signal of shape {tuple(target.shape)} is not of {dims} axes and {channels} channels")
    if not bool(torch.isfinite(target).all()):
        raise ValueError("the signal has values that are not finite (NaN pixels?); fill or mask them first")
    if min(target.shape[:-1]) < 2:
        raise ValueError(f"each axis needs at least 2 samples, the signal has {list(target.shape[:-1])}")
    return target


def as_image(array: np.ndarray) -> Float[Tensor, "h w c"]:
    """A picture of bytes or of numbers in [0, 1] as (h, w, 1 or 3) float32; alpha is dropped with a warning."""
    values = np.asarray(array)
    values = values.astype(np.float32) / 255 if values.dtype == np.uint8 else values.astype(np.float32)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4):
        raise ValueError(f"a picture has shape (h, w), (h, w, 3) or (h, w, 4), got {values.shape}")
    if values.shape[2] in (2, 4):
        warnings.warn("the picture's alpha channel is dropped", stacklevel=2)
        values = values[:, :, :-1]
    return torch.from_numpy(np.ascontiguousarray(values))
