"""Progressive volume distillation (Fang et al. 2022, arXiv 2211.15977): a student field learns from a teacher field.

At the same points on rays of random cameras both are asked for their features, log densities and colours, and both
are rendered. The student follows the features first, then the volume, then the pixels
(:mod:`~tensorbench.radiance_fields.distill.stages`, :mod:`~tensorbench.radiance_fields.distill.losses`). Points are
only where an occupancy grid of the teacher says that something may be; the student is rendered with that grid too.

What differs from the reference code (megvii-research/AAAI2023-PVD): densities are clipped for the comparison alone and
not in the fields themselves; features of other widths are matched through a linear map that is trained along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tensorbench.core.training import Log
from tensorbench.radiance_fields.distill.losses import LOG_SIGMA, Weights, volume_terms
from tensorbench.radiance_fields.distill.losses import loss as loss_of
from tensorbench.radiance_fields.distill.pair import Distillation, Occupied, ask, prepare, train_student
from tensorbench.radiance_fields.distill.rays import RandomRays, View
from tensorbench.radiance_fields.distill.stages import Stages
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.fields.staged import Query
from tensorbench.radiance_fields.rendering import render_weights, sample_rays

HEADS = ("density_net", "color_net")


def distill(
    teacher: Field,
    student: Field,
    view: View,
    *,
    steps: int,
    rays: int = 4096,
    samples: int = 128,
    stages: Stages | None = None,
    weights: Weights | None = None,
    loss: str = "norm_l2",
    clip: tuple[float, float] | None = LOG_SIGMA,
    occupied: Occupied | None = None,
    source: RandomRays | None = None,
    adapter: bool = False,
    inherited: bool = True,
    fix_heads: bool = False,
    groups: list[dict[str, Any]] | None = None,
    weight_decay: float = 0.01,
    generator: torch.Generator | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    log: Log | None = None,
    log_every: int = 20,
    callback: Callable[[int, float], bool | None] | None = None,
) -> Distillation:
    """Train ``student`` in place to be what ``teacher`` is, from random views alone.

    Args:
        view: camera, distances and background; no picture enters.
        stages, weights, loss: see their modules; the paper's by default, its stages in proportion to ``steps``.
        clip: of the log densities that are compared; None for none.
        occupied: which points may hold something (:class:`~tensorbench.radiance_fields.tensorf.alpha_mask.AlphaMask`).
        source: where rays come from; random cameras at radius 4 by default.
        adapter: match features of other widths through a linear map.
        inherited: start from the teacher's weights wherever name and shape agree.
        fix_heads: do not train the student's two networks (``fix_mlp`` in the reference code; with ``inherited``).
        groups: parameter groups with their rates; :func:`rates` by default. Rates fall as a cosine to 5·10⁻⁵.
        log, evaluate, callback: as in :func:`tensorbench.core.training.fit`.

    Raises ValueError for a teacher that cannot teach this student (:func:`check_pair`, :func:`make_adapter`).
    """
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    weights = weights or Weights()
    stages, map_ = prepare(
        teacher, student, stages or Stages.of(steps),
        occupied=occupied, adapter=adapter, inherited=inherited, generator=generator,
    )  # fmt: skip
    source = source or RandomRays(view.camera, generator=generator)
    distance = loss_of(loss)
    scale = Weights.batch(loss, rays)

    def batches() -> Iterator[tuple[int, Tensor, Tensor]]:
        step = 0
        while True:
            step += 1
            origins, directions = (x.to(student.box) for x in source.draw(rays))
            yield step, origins, directions

    def objective(_: nn.Module, batch: tuple[int, Tensor, Tensor]) -> Tensor:
        step, origins, directions = batch
        places = sample_rays(origins, directions, view.near, view.far, samples, student.box, generator)
        kept = _kept(origins, directions, places.t, places.inside, occupied)
        if not len(kept.points):
            return sum(p.sum() for p in student.parameters() if p.requires_grad) * 0.0  # type: ignore[return-value]
        stage = stages.at(step)
        with torch.no_grad():
            truth = ask(teacher, kept.points, kept.directions, colors=stage > 1)
        guess = ask(student, kept.points, kept.directions, colors=stage > 1)
        terms = volume_terms(guess, truth, stage, weights, step, distance, clip, map_)
        if stage == 3 and weights.rgb:
            background = view.background.to(student.box)
            seen = _pixels(guess, kept.index, places.delta, background)
            with torch.no_grad():
                wanted = _pixels(truth, kept.index, places.delta, background)
            terms["rgb"] = weights.rgb * distance(seen, wanted)
            source.learn(origins, directions, (seen.detach() - wanted).square().sum(-1))
        total = scale * torch.stack(list(terms.values())).sum()
        if stage == 3 and weights.l1 and "l1" in (penalties := student.regularizers()):
            total = total + weights.l1 * penalties["l1"]
        return total

    with _frozen(student, HEADS if fix_heads else ()):
        return train_student(
            student, batches, objective, map_, steps=steps, groups=groups, weight_decay=weight_decay,
            evaluate=evaluate, evaluate_every=evaluate_every, log=log, log_every=log_every, callback=callback,
        )  # fmt: skip


@dataclass(frozen=True)
class _Kept:
    """The samples that are asked about: their places in the grid rays × samples, points and directions."""

    index: Tensor
    points: Tensor
    directions: Tensor


def _kept(origins: Tensor, directions: Tensor, t: Tensor, inside: Tensor, occupied: Occupied | None) -> _Kept:
    index = inside.reshape(-1).nonzero()[:, 0]
    ray = index // t.shape[1]
    points = torch.addcmul(origins[ray], directions[ray], t.reshape(-1)[index, None])
    if occupied is not None:
        some = occupied(points).nonzero()[:, 0]
        index, points, ray = index[some], points[some], ray[some]
    return _Kept(index, points, directions[ray])


def _pixels(answer: Query, index: Tensor, delta: Tensor, background: Tensor) -> Tensor:
    """The colours of rays from the answers at their kept samples; all other samples are empty."""
    sigma = delta.new_zeros(delta.numel()).index_copy(0, index, answer.log_sigma.clamp(max=12).exp())
    weights, through = render_weights(sigma.reshape(delta.shape), delta, 1.0)
    color = through[:, None] * background
    return color.index_add(0, index // delta.shape[1], weights.reshape(-1)[index, None] * answer.rgb)


@contextmanager
def _frozen(student: Field, names: tuple[str, ...]) -> Iterator[None]:
    frozen = [p for name in names for p in getattr(student, name, nn.Module()).parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
