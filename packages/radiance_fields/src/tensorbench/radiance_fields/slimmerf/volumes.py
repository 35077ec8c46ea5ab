"""Fitting a volume with planes and lines whose rank grows: a small stand-in for training from pictures.

The same factors, mask and rules as in a slimmable radiance field, with the mean squared error of the interpolated
features at random points in place of that of rendered colours: seconds instead of minutes, and an exact loss to compare
the noisy one with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.slimmerf.field import SlimVM
from tensorbench.radiance_fields.slimmerf.ranks import RankRule
from tensorbench.radiance_fields.tensorf.grids import trilinear

Loss = Literal["batch", "exact"]
_BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def fit_volume(
    target: Float[Tensor, "x y z"],
    rule: RankRule,
    *,
    generator: torch.Generator,
    steps: int,
    points: int = 1024,
    lr: float = 0.02,
    loss: Loss = "batch",
) -> tuple[SlimVM, list[float]]:
    """Fit the density features of a slimmable VM field to a volume with Adam; returns it and the losses.

    Args:
        rule: unlocks ranks from the loss of each step.
        points: random points a step (``batch``); ``exact`` takes all vertices, so that the loss has no noise.
    """
    if loss not in ("batch", "exact"):
        raise ValueError(unknown("loss", loss, ["batch", "exact"]))
    field = SlimVM(_BOX, target.shape, rule.maximum, width=1, features=1, generator=generator)
    field.to(target.device)
    grids = [*field.planes["sigma"].parameters(), *field.lines["sigma"].parameters()]
    optimizer = torch.optim.Adam(grids, lr=lr, betas=(0.9, 0.99), fused=True)
    field.set_rank(rule.rank)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        if loss == "exact":
            error = (field.density_volume() - target).square().mean()
        else:
            coords = 2 * torch.rand((points, 3), generator=generator, device=generator.device).to(target) - 1
            error = (field.density_features(coords) - trilinear(target, coords)).square().mean()
        error.backward()
        optimizer.step()
        losses.append(float(error.detach()))
        if rule.update(losses[-1]):
            field.set_rank(rule.rank)
    return field, losses


@torch.no_grad()
def volume_psnr(field: SlimVM, target: Float[Tensor, "x y z"], ranks: Sequence[int]) -> list[float]:
    """PSNR (dB, of values in [0, 1]) of the field's volume at each rank."""
    before = field.rank
    found = []
    for rank in ranks:
        field.set_rank(rank)
        error = (field.density_volume() - target).square().mean().clamp(min=1e-10)
        found.append(float(-10 * error.log10()))
    field.set_rank(before)
    return found
