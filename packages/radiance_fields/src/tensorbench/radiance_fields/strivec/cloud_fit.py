"""Fitting a cloud of tri-vector tensors to a volume by its values, without rendering.

The voxels within the boxes of all scales are drawn in batches; Adam minimises the mean squared difference of
their values. The same code as in the radiance field gathers and blends, so that error against weights shows what
overlapping, blended tensors at several scales can represent.

Source: Gao et al., Strivec (2023, arXiv 2307.13226).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.training import fit
from tensorbench.radiance_fields.strivec.cloud import Scale, TensorCloud
from tensorbench.radiance_fields.strivec.low_rank import Fitted
from tensorbench.radiance_fields.strivec.masked_adam import MaskedAdam
from tensorbench.radiance_fields.strivec.solids import coordinates


def voxel_scales(voxels: Sequence[int], n: int, rank: int) -> list[Scale]:
    """Scales with tensors every so many ``voxels`` of an n³ grid: a node a voxel, boxes half as wide again."""
    return [Scale(2 * v / n, 1.5 * v / n, max(2, round(1.5 * v)), rank, 1) for v in voxels]


def cloud_fit(
    volume: Float[Tensor, "n n n"],
    scales: Sequence[Scale],
    *,
    generator: torch.Generator,
    steps: int = 300,
    batch: int = 4096,
    lr: float = 0.05,
    neighbours: int = 4,
    blend: str = "inverse",
) -> Fitted:
    """The cloud's density features, fitted to a volume on [-1, 1]³; outside of the cloud the approximation is 0."""
    n = len(volume)
    at = coordinates(n).reshape(-1, 3).float()
    target = volume.reshape(-1).float()
    cloud = TensorCloud.at_points(
        at[target > 0], scales, generator=generator, neighbours=neighbours, blend=blend, init=0.2
    )
    covered = cloud.filter_uncovered(at).nonzero()[:, 0]
    factors = [factor for scale in cloud.scales for factor in scale.density_factors()]

    def batches():
        while True:
            order = covered[torch.randperm(len(covered), generator=generator)]
            yield from order.split(batch)

    def loss(model: torch.nn.Module, index: Tensor) -> Tensor:
        return (cloud.sigma(at[index]) - target[index]).square().mean()

    fit(cloud, batches, loss, MaskedAdam(factors, lr=lr), steps=steps, schedule="cosine")
    with torch.no_grad():
        values = torch.zeros_like(target)
        values[covered] = cloud.sigma(at[covered])
    return Fitted(values.view_as(volume).to(volume), sum(factor.numel() for factor in factors))
