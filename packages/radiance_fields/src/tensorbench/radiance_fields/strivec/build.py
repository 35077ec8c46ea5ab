"""From posed pictures to a Strivec field that is ready to be trained: coarse reconstruction, placement, tensors.

>>> field = build(data, generator=torch.Generator().manual_seed(0))
>>> train(field, data, steps=600, generator=generator)

Desk scales are those of the paper times two and a half in space, with nodes 0.075 apart (a picture of 64 pixels across
shows little more) and few components, so that the weights are about those of TensoRF's smaller models;
``scales=PAPER_SCALES, growth=PAPER_GROWTH, width=128, rate=1`` are the published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.radiance_fields.strivec.cloud import Scale, TensorCloud
from tensorbench.radiance_fields.strivec.field import Strivec
from tensorbench.radiance_fields.strivec.placement import CoarseReconstruction, voxel_centers

if TYPE_CHECKING:
    from tensorbench.radiance_fields.views import SceneData

DESK_SCALES = (Scale(1.0, 0.75, 20, 3, 4), Scale(0.5, 0.375, 10, 3, 4), Scale(0.25, 0.1875, 5, 1, 3))


def surface_points(
    data: SceneData,
    *,
    generator: torch.Generator,
    steps: int = 150,
    resolution: int = 48,
    rays: int = 512,
    samples: int = 96,
    threshold: float = 0.1,
    lr: float = 0.3,
) -> Float[Tensor, "m 3"]:
    """Points near surfaces: a coarse reconstruction of ``steps`` steps, and its opaque nodes."""
    from tensorbench.radiance_fields.tensorf.schedule import Schedule
    from tensorbench.radiance_fields.training import settled, train

    coarse = CoarseReconstruction(torch.as_tensor(data.box), resolution)
    trained = train(
        coarse, data, generator=generator, steps=steps, rays=rays, samples=samples,
        schedule=Schedule(lr_grid=lr, decay=1.0),
    )  # fmt: skip
    settled(trained.history)
    return coarse.occupied(threshold)


def build(
    data: SceneData,
    *,
    generator: torch.Generator,
    points: Float[Tensor, "m 3"] | None = None,
    scales: Sequence[Scale | Sequence[float]] = DESK_SCALES,
    growth: Sequence[Sequence[int]] = (),
    kind: str = "cp",
    place: str = "voxel",
    neighbours: int = 4,
    blend: str = "inverse",
    filter_all: bool = True,
    width: int = 64,
    init: float = 0.2,
    rate: float = 2.5,
    **coarse: float,
) -> Strivec:
    """A field for the scene of ``data``.

    Args:
        points: near surfaces; by default those of :func:`surface_points` with the options ``coarse``.
        scales: coarse to fine, as :class:`Scale` or as (spacing, half range, dim, rank of density, rank of colour).
        growth: dims of the scales at each growth.
        kind: ``cp`` (tri-vectors) or ``vm`` (planes and lines).
        place, neighbours, blend, init: see :meth:`TensorCloud.at_points`.
        width: of the colour network.
        rate: the tensors learn at so many times the grids' rate (2.5 × 0.02 for the few steps of desk).
    """
    if points is None:
        points = surface_points(data, generator=generator, **coarse)  # type: ignore[arg-type]
    made = [scale if isinstance(scale, Scale) else _scale(scale) for scale in scales]
    cloud = TensorCloud.at_points(
        points, made, generator=generator, kind=kind, place=place, neighbours=neighbours, blend=blend, init=init
    )
    return Strivec(
        cloud, torch.as_tensor(data.box), generator=generator, width=width, filter_all=filter_all, growth=growth,
        rate=rate,
    )  # fmt: skip


def _scale(values: Sequence[float]) -> Scale:
    if len(values) != 5:
        raise ValueError(f"a scale is (spacing, half range, dim, density rank, colour rank), got {list(values)}")
    spacing, half_range, *whole = values
    return Scale(float(spacing), float(half_range), *(int(value) for value in whole))


def matched(points: Float[Tensor, "m 3"], scale: Scale, weights: int, *, kind: str = "cp") -> Scale:
    """``scale`` with ranks so that its tensors at ``points`` have about ``weights`` weights, in the same proportion.

    For comparisons at equal size: a single scale may spend what three scales have in all.
    """
    nodes = scale.dim + 1
    each = 3 * nodes if kind == "cp" else 3 * (nodes * nodes + nodes)
    total = weights / (len(voxel_centers(points, scale.spacing)) * each)
    share = scale.rank_sigma / (scale.rank_sigma + scale.rank_color)
    density = max(1, round(total * share))
    return replace(scale, rank_sigma=density, rank_color=max(1, round(total) - density))
