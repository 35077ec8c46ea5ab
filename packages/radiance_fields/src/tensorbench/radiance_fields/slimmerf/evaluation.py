"""What a slimmable field is worth: quality and bytes at every rank, and density where nothing is.

Curves of quality over bytes after Yuan & Zhao 2024 (arXiv 2312.10034). Sizes are of 16-bit weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.radiance_fields.rendering import render_rays
from tensorbench.radiance_fields.slimmerf.field import slim
from tensorbench.radiance_fields.tensorf.alpha_mask import AlphaMask
from tensorbench.radiance_fields.tensorf.vm import TensorVM
from tensorbench.radiance_fields.training import background_of, render_views

if TYPE_CHECKING:
    from tensorbench.radiance_fields.views import SceneData, Views

Cut = Callable[[TensorVM, int], TensorVM]


@dataclass(frozen=True)
class Point:
    """A field cut to ``rank``: mean PSNR (dB) and SSIM over views, and the bytes of its weights as 16-bit floats."""

    rank: int
    psnr: float
    ssim: float
    bytes: int


def slim_curve(
    field: TensorVM,
    data: SceneData,
    views: Views,
    ranks: Iterable[int],
    samples: int,
    *,
    alpha_mask: AlphaMask | None = None,
    cut: Cut = slim,
) -> list[Point]:
    """Quality and size at each rank. ``cut`` makes the smaller field."""
    points = []
    for rank in ranks:
        small = cut(field, rank)
        seen = render_views(small, data, views, samples, alpha_mask)
        points.append(Point(rank, *picture_quality(seen, views), 2 * sum(p.numel() for p in small.parameters())))
    return points


def picture_quality(seen: Float[Tensor, "n h w 3"], views: Views) -> tuple[float, float]:
    """Mean over pictures of PSNR (dB) and SSIM."""
    from tensorbench.radiance_fields.metrics import image_metrics

    found = image_metrics(seen, torch.as_tensor(views.images, dtype=torch.float32))
    return found["psnr"], found["ssim"]


def curve_area(ranks: Sequence[int], values: Sequence[float]) -> float:
    """The mean of a value over ranks, linear between those that were measured (area by the width)."""
    if len(ranks) < 2 or list(ranks) != sorted(set(ranks)):
        raise ValueError(f"ranks {list(ranks)} must ascend, at least two")
    return float(np.trapezoid(values, ranks) / (ranks[-1] - ranks[0]))


def pareto(points: Sequence[Point]) -> list[Point]:
    """Those points that no other beats in both bytes and PSNR."""
    best, front = -np.inf, []
    for point in sorted(points, key=lambda p: (p.bytes, -p.psnr)):
        if point.psnr > best:
            front.append(point)
            best = point.psnr
    return front


@torch.no_grad()
def floater_mass(
    field: TensorVM, data: SceneData, views: Views, samples: int, margin: float, alpha_mask: AlphaMask | None = None
) -> float:
    """The mean weight per ray that lies more than ``margin`` in front of the true surface, over all rays of views.

    Rays that hit nothing have no surface: all their weight counts. Floaters and fog raise it, a wrong colour does not.

    Raises:
        ValueError: views without depth.
    """
    from tensorbench.radiance_fields.cameras import camera_rays

    if views.depth is None:
        raise ValueError("floaters are measured against true depth, which these views do not have")
    background, total = background_of(data).to(field.box), 0.0
    for pose, depth, alpha in zip(views.c2w, views.depth, views.alpha, strict=True):
        c2w = torch.as_tensor(pose, dtype=torch.float32)
        origins, directions = (x.reshape(-1, 3).to(field.box) for x in camera_rays(views.camera, c2w))
        seen = render_rays(
            field, origins, directions, data.near, data.far, samples, background,
            alpha_mask=alpha_mask, weight_threshold=2.0,
        )  # fmt: skip
        assert seen.weights is not None and seen.samples is not None
        surface = torch.as_tensor(np.where(alpha > 0, depth, np.inf), dtype=torch.float32).reshape(-1, 1)
        total += float((seen.weights * (seen.samples.t < surface.to(field.box) - margin)).sum(-1).mean())
    return total / len(views.c2w)
