"""Random tangents and points: coordinate subsets, isotropic probes, the unit ball."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tensorbench.core.errors import unknown

Distribution = Literal["rademacher", "gaussian", "sphere"]
DISTRIBUTIONS = ("rademacher", "gaussian", "sphere")


def coordinates(d: int, batch: int, generator: torch.Generator, *, replace: bool = False) -> Int[Tensor, "batch"]:
    """``batch`` of the coordinates 0 … d-1, uniformly; without replacement all different.

    Raises:
        ValueError: an empty batch, or one larger than d without replacement.
    """
    if batch < 1:
        raise ValueError(f"a batch of {batch} dimensions says nothing; take at least 1")
    if replace:
        return torch.randint(d, (batch,), generator=generator)
    if batch > d:
        raise ValueError(
            f"{batch} of {d} dimensions cannot be drawn without replacement; use batch <= {d} or replace=True"
        )
    while batch * batch < d:  # few of many: draws that happen to differ are uniform, and cost nothing that grows with d
        drawn = torch.randint(d, (batch,), generator=generator)
        if len(drawn.unique()) == batch:
            return drawn
    return torch.randperm(d, generator=generator)[:batch]


def probes(
    d: int, batch: int, generator: torch.Generator, distribution: Distribution = "rademacher", *, dtype: torch.dtype
) -> Float[Tensor, "batch d"]:
    """Random vectors with E[v vᵀ] = I: signs, Gaussian, or uniform on the sphere of radius √d."""
    if distribution not in DISTRIBUTIONS:
        raise ValueError(unknown("distribution", distribution, DISTRIBUTIONS))
    if batch < 1:
        raise ValueError(f"a batch of {batch} probes says nothing; take at least 1")
    if distribution == "rademacher":
        return torch.randint(2, (batch, d), generator=generator).to(dtype) * 2 - 1
    v = torch.randn(batch, d, generator=generator, dtype=dtype)
    return v if distribution == "gaussian" else v * (d**0.5 / v.norm(dim=-1, keepdim=True))


def ball(
    points: int, d: int, generator: torch.Generator, *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "points d"]:
    """Points of the unit ball, uniform in direction and in radius (the paper's choice; not uniform in volume)."""
    x = torch.randn(points, d, generator=generator, dtype=dtype)
    radius = torch.rand(points, 1, generator=generator, dtype=dtype)
    return x.mul_(radius / x.norm(dim=-1, keepdim=True))
