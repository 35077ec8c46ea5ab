"""What the experiments on implicit representations share: models from a method's parameters, budgets, pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.radiance_fields.implicit.functional import FunctionalTensor
from tensorbench.radiance_fields.implicit.nets import Axis, AxisNet
from tensorbench.radiance_fields.implicit.training import Course


def functional(
    dims: int,
    channels: int,
    generator: torch.Generator,
    *,
    backend: str,
    embedding: str = "none",
    features: Sequence[int] = (256, 256, 256, 256),
    format: str = "cp",
    rank: int | Sequence[int] = 64,
    shared: bool = False,
    offset: bool = False,
    std: float = 0.3,
    **options: Any,
) -> FunctionalTensor:
    """F-INR with the same network on every axis; ``options`` are those of ``AxisNet``."""
    axis = Axis(backend, embedding, tuple(features), options)
    return FunctionalTensor([axis] * dims, format, rank, channels, generator, shared=shared, std=std, offset=offset)


def monolithic(
    dims: int,
    channels: int,
    generator: torch.Generator,
    *,
    backend: str,
    embedding: str = "none",
    features: Sequence[int] = (256, 256, 256, 256),
    **options: Any,
) -> AxisNet:
    """One network of all coordinates with the same layers."""
    return AxisNet(backend, embedding, inputs=dims, features=features, out=channels, generator=generator, **options)


def budget(run: Run, seconds: float, trial_seconds: float, at: Sequence[float]) -> dict[str, Any]:
    """CPU seconds and marks of a run, or of a shorter trial without marks."""
    if run.trial is not None:
        return {"cpu_seconds": trial_seconds}
    return {"cpu_seconds": seconds, "at": [mark for mark in at if mark <= seconds]}


def log_course(run: Run, course: Course, metric: str, levels: Sequence[float] = ()) -> None:
    """The metric at its marks, steps, and seconds to each level (the whole budget where it was not reached)."""
    for mark, value in course.marks:
        run.log(step=mark, **{metric: value})
    run.log(steps_made=course.history.steps, seconds_per_step=course.seconds / max(course.history.steps, 1))
    for level in levels:
        needed = course.seconds_to(level)
        run.log(**{f"seconds_to_{level:g}": min(needed, course.seconds), f"reached_{level:g}": math.isfinite(needed)})


def show(ax: Axes, picture: np.ndarray, title: str = "", below: str = "", **keywords: Any) -> None:
    """A picture without ticks, its numbers below."""
    picture = picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    if picture.ndim == 2:
        keywords = {"cmap": "gray", "vmin": 0, "vmax": 1} | keywords
    ax.imshow(picture, interpolation="nearest", **keywords)
    plotting.bare(ax)
    if title:
        ax.set_title(title, fontsize=7.5, pad=2)
    if below:
        ax.set_xlabel(below, fontsize=7, labelpad=1.5)
