"""Distillation at random points of the box: the volume terms alone, and nothing is rendered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.radiance_fields.distill.losses import LOG_SIGMA, Weights, volume_terms
from tensorbench.radiance_fields.distill.losses import loss as loss_of
from tensorbench.radiance_fields.distill.pair import Distillation, Occupied, ask, prepare, train_student
from tensorbench.radiance_fields.distill.stages import Stages
from tensorbench.radiance_fields.fields.base import Field


def distill_points(
    teacher: Field,
    student: Field,
    *,
    steps: int,
    points: int = 4096,
    stages: Stages | None = None,
    weights: Weights | None = None,
    loss: str = "norm_l2",
    clip: tuple[float, float] | None = LOG_SIGMA,
    occupied: Occupied | None = None,
    adapter: bool = False,
    inherited: bool = False,
    groups: list[dict[str, Any]] | None = None,
    weight_decay: float = 0.01,
    generator: torch.Generator | None = None,
    callback: Callable[[int, float], bool | None] | None = None,
) -> Distillation:
    """As :func:`distill`, but at uniform random points and directions, and nothing is rendered.

    With ``occupied``, points where nothing can be are drawn but not asked about. The terms weigh as for as many rays
    as there are points.
    """
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    weights = weights or Weights()
    stages, map_ = prepare(
        teacher, student, stages or Stages(0, steps + 1),
        occupied=occupied, adapter=adapter, inherited=inherited, generator=generator,
    )  # fmt: skip
    distance = loss_of(loss)
    low, high = student.box

    def batches() -> Iterator[tuple[int, Tensor, Tensor]]:
        step = 0
        while True:
            step += 1
            yield step, *random_points(points, low, high, occupied, generator)

    def objective(_: nn.Module, batch: tuple[int, Tensor, Tensor]) -> Tensor:
        step, where, directions = batch
        stage = min(stages.at(step), 2)
        with torch.no_grad():
            truth = ask(teacher, where, directions, colors=stage > 1)
        guess = ask(student, where, directions, colors=stage > 1)
        terms = volume_terms(guess, truth, stage, weights, step, distance, clip, map_)
        return Weights.batch(loss, points) * torch.stack(list(terms.values())).sum()

    return train_student(
        student, batches, objective, map_, steps=steps, groups=groups, weight_decay=weight_decay, callback=callback
    )


def random_points(
    n: int,
    low: Float[Tensor, "3"],
    high: Float[Tensor, "3"],
    occupied: Occupied | None,
    generator: torch.Generator | None,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """``n`` uniform points of a box, of its occupied part where that is given, and as many random unit directions."""
    found: list[Tensor] = []
    count = 0
    for _ in range(200):
        draw = torch.rand(4 * n if occupied is not None else n, 3, generator=generator).to(low)
        draw = low + (high - low) * draw
        if occupied is not None:
            draw = draw[occupied(draw)]
        found.append(draw)
        count += len(draw)
        if count >= n:
            break
    else:
        raise ValueError("hardly any point of the box is occupied; lower the occupancy grid's threshold")
    directions = torch.randn(n, 3, generator=generator).to(low)
    return torch.cat(found)[:n], torch.nn.functional.normalize(directions, dim=-1)
