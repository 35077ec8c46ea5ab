"""What a teacher and a student must have in common, what the student starts from, and at which rates it learns."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.training import History, fit
from tensorbench.radiance_fields.distill.stages import Stages
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.fields.hash import HashField
from tensorbench.radiance_fields.fields.mlp import MLPField
from tensorbench.radiance_fields.fields.staged import Query, StagedField, query
from tensorbench.radiance_fields.fields.voxel import PlenoxelField

log = logging.getLogger(__name__)
Occupied = Callable[[Tensor], Tensor]
LR, LR_NET, LR_FINAL = 1e-2, 1e-3, 5e-5


@dataclass
class Distillation:
    """How a distillation went, and the student's linear map between features where there was one."""

    history: History
    adapter: nn.Linear | None = None


def inherit(teacher: nn.Module, student: nn.Module) -> list[str]:
    """Give the student the teacher's weights wherever name and shape agree (the reference code starts so: it loads the
    teacher's checkpoint into the student as far as it fits). Returns their names."""
    ours, theirs = dict(student.named_parameters()), dict(teacher.named_parameters())
    same = [name for name, p in ours.items() if name in theirs and theirs[name].shape == p.shape]
    with torch.no_grad():
        for name in same:
            ours[name].copy_(theirs[name])
    return same


def rates(student: Field, lr: float = LR, lr_net: float = LR_NET) -> list[dict[str, Any]]:
    """Parameter groups with the paper's rates: 10⁻² for hash and voxel fields and all their parts, a tenth of it for a
    network, and ``lr_net`` for the networks of tensor fields."""
    if isinstance(student, MLPField):
        return student.parameter_groups(0.1 * lr, 0.1 * lr)
    return student.parameter_groups(lr, lr if isinstance(student, HashField | PlenoxelField) else lr_net)


@torch.no_grad()
def check_pair(teacher: Field, student: Field, occupied: Occupied | None) -> None:
    """The errors at the door of a distillation.

    Raises ValueError: other boxes, a teacher that is not finite, an occupancy grid that marks nothing. Warns where only
    one of the two has an exponential density.
    """
    if not torch.allclose(teacher.box, student.box.to(teacher.box)):
        raise ValueError(
            f"teacher and student have other boxes ({teacher.box.tolist()} and {student.box.tolist()}); "
            "make the student with the teacher's, or wrap the teacher in distill.editing.Moved"
        )
    low, high = teacher.box
    points = low + (high - low) * torch.rand(1024, 3, generator=torch.Generator().manual_seed(0)).to(low)
    sigma, rgb = teacher(points, torch.nn.functional.normalize(points - points.mean(0) + 1e-3, dim=-1))
    if not bool(torch.isfinite(sigma).all() & torch.isfinite(rgb).all()):
        raise ValueError("the teacher's densities or colours are not finite: it has diverged; train it again")
    if occupied is not None and not _any_occupied(occupied, points):
        raise ValueError("the occupancy grid marks no point: nothing could be learnt; lower its threshold")
    if isinstance(teacher, StagedField) != isinstance(student, StagedField):
        log.warning(
            "%s and %s have other activations of the density; beyond the clip their logarithms may differ",
            type(teacher).__name__, type(student).__name__,
        )  # fmt: skip


def _any_occupied(occupied: Occupied, points: Tensor) -> bool:
    cells = getattr(occupied, "cells", None)
    return bool((cells if cells is not None else occupied(points)).any())


def make_adapter(teacher: Field, student: Field, wanted: bool, generator: torch.Generator | None) -> nn.Linear | None:
    """A linear map from the student's features to the teacher's where their widths differ (it starts as the identity
    on the common ones, the log density among them); None where they agree or cannot be compared.

    Raises ValueError where it is needed but not ``wanted``.
    """
    widths = [width(teacher), width(student)]
    if None in widths or widths[0] == widths[1]:
        return None
    if not wanted:
        raise ValueError(
            f"the teacher has {widths[0]} features, the student {widths[1]}; adapter=True trains a linear map between"
        )
    map_ = nn.utils.skip_init(nn.Linear, widths[1] or 1, widths[0] or 1).to(student.box)
    with torch.no_grad():
        noise = torch.randn(map_.weight.shape, generator=generator) * 0.01
        map_.weight.copy_(torch.eye(*map_.weight.shape) + noise.to(map_.weight))
        map_.bias.zero_()
    return map_


@torch.no_grad()
def width(field: Field) -> int | None:
    """How many features a field has to match; None where it has none."""
    centre = field.box.mean(0, keepdim=True)
    features = query(field, centre, torch.nn.functional.normalize(torch.ones_like(centre), dim=-1)).features
    return None if features is None else features.shape[-1]


def ask(field: Field, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], *, colors: bool) -> Query:
    """What a field says at points; without ``colors`` those are left out where the field allows it."""
    if not colors and isinstance(field, StagedField):
        features = field.features(points)
        return Query(features, features[:, 0], features.new_zeros(0, 3))
    return query(field, points, directions)


def cosine_to(final: float, groups: list[dict[str, Any]]) -> Callable[[float], float]:
    """The factor on all rates, so that the largest one ends at ``final``."""
    end = min(1.0, final / max(group["lr"] for group in groups))
    return lambda used: end + (1 - end) * (1 + math.cos(math.pi * used)) / 2


def prepare(
    teacher: Field,
    student: Field,
    stages: Stages,
    *,
    occupied: Occupied | None,
    adapter: bool,
    inherited: bool,
    generator: torch.Generator,
) -> tuple[Stages, nn.Linear | None]:
    """What comes before the first step: the checks, what the student inherits, and the stages and the map between
    features that this pair can have."""
    check_pair(teacher, student, occupied)
    if inherited:
        inherit(teacher, student)
    map_ = make_adapter(teacher, student, adapter, generator)
    if width(teacher) is None or width(student) is None:
        stages = stages.without_features()
    return stages, map_


def train_student(
    student: Field,
    batches: Callable[[], Iterable[Any]],
    objective: Callable[[nn.Module, Any], Tensor],
    map_: nn.Linear | None,
    *,
    steps: int,
    groups: list[dict[str, Any]] | None,
    weight_decay: float,
    **options: Any,
) -> Distillation:
    """AdamW on what is not frozen of the student, and on the map; ``options`` are those of ``fit``."""
    groups = groups or rates(student)
    if map_ is not None:
        groups = [*groups, {"params": list(map_.parameters()), "lr": LR_NET}]
    groups = [g | {"params": [p for p in g["params"] if p.requires_grad]} for g in groups]
    optimizer = torch.optim.AdamW(
        [g for g in groups if g["params"]], betas=(0.9, 0.99), eps=1e-15, weight_decay=weight_decay
    )
    schedule = cosine_to(LR_FINAL, groups)
    history = fit(
        student, batches, objective, optimizer, steps=steps, schedule=schedule, divergence_factor=1e6, **options
    )
    return Distillation(history, map_)
