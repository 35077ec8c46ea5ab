"""The terms of progressive volume distillation (Fang et al. 2022, arXiv 2211.15977) and their weights.

Each term is the Frobenius norm, not squared, of a batch's difference. It grows with the square root of the batch, and
the weights belong to 4096 rays: :meth:`Weights.batch` is the factor for another number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.fields.staged import Query

LOG_SIGMA = (-2.0, 7.0)
PAPER_RAYS = 4096


def log_sigma_clip(
    log_sigma: Float[Tensor, "*m"], low: float = LOG_SIGMA[0], high: float = LOG_SIGMA[1]
) -> Float[Tensor, "*m"]:
    """Log densities per unit length within [−2, 7], where they are comparable: beyond, space is empty or opaque however
    far the logarithm goes on. No gradient passes outside."""
    return log_sigma.clamp(low, high)


def norm_l2(a: Float[Tensor, "*m"], b: Float[Tensor, "*m"]) -> Float[Tensor, ""]:
    """The Frobenius norm of the difference, of the whole batch: 5 for (3, 4) and 0. Its gradient where a = b is 0."""
    return torch.linalg.vector_norm(a - b)


def squared(a: Float[Tensor, "*m"], b: Float[Tensor, "*m"]) -> Float[Tensor, ""]:
    """The mean square of the difference."""
    return (a - b).square().mean()


def norm_l1(a: Float[Tensor, "*m"], b: Float[Tensor, "*m"]) -> Float[Tensor, ""]:
    """The sum of the difference's absolute values."""
    return (a - b).abs().sum()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"norm_l2": norm_l2, "squared": squared, "norm_l1": norm_l1}


def loss(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A distance by its name. Raises ValueError for another one."""
    if name not in LOSSES:
        raise ValueError(unknown("loss", name, LOSSES))
    return LOSSES[name]


@dataclass(frozen=True)
class Weights:
    """The weights of the terms for 4096 rays: rendered pixels, colour and log density at the samples, features (which
    fade by ``decay`` a step), and the L1 norm of a VM student's density factors once pixels count."""

    rgb: float = 1.0
    features: float = 0.002
    decay: float = 0.995
    color: float = 0.002
    density: float = 0.002
    l1: float = 1e-4

    def __post_init__(self) -> None:
        negative = [name for name in ("rgb", "features", "color", "density", "l1") if getattr(self, name) < 0]
        if negative or not 0 < self.decay <= 1:
            raise ValueError(f"weights must be at least 0 (not so: {negative}) and decay {self.decay} in (0, 1]")

    def features_at(self, step: int) -> float:
        """The weight of the features at a step (the first one is 1)."""
        return self.features * self.decay**step

    @staticmethod
    def batch(name: str, rays: int) -> float:
        """What the terms of ``rays`` rays are multiplied by, so that they weigh what those of 4096 would."""
        return {"norm_l2": math.sqrt(PAPER_RAYS / rays), "norm_l1": PAPER_RAYS / rays, "squared": 1.0}[name]


def volume_terms(
    guess: Query,
    truth: Query,
    stage: int,
    weights: Weights,
    step: int,
    distance: Callable[[Tensor, Tensor], Tensor],
    clip: tuple[float, float] | None,
    adapter: nn.Linear | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """The weighted terms at points: features, and from stage 2 on log density and colour. Those of weight 0 are left
    out, but for one at least."""
    terms: dict[str, Tensor] = {}
    if guess.features is not None and truth.features is not None and weights.features:
        ours, theirs = (_clip_first(q, clip) for q in (guess.features, truth.features))
        if adapter is not None:
            ours = adapter(ours)
        terms["features"] = weights.features_at(step) * distance(ours, theirs)
    if stage > 1:
        if weights.density:
            ours, theirs = (q if clip is None else log_sigma_clip(q, *clip) for q in (guess.log_sigma, truth.log_sigma))
            terms["density"] = weights.density * distance(ours, theirs)
        if weights.color:
            terms["color"] = weights.color * distance(guess.rgb, truth.rgb)
    return terms or {"nothing": guess.log_sigma.sum() * 0.0}


def _clip_first(features: Tensor, clip: tuple[float, float] | None) -> Tensor:
    """The first feature is the log density, and is clipped like it."""
    if clip is None:
        return features
    return torch.cat((log_sigma_clip(features[:, :1], *clip), features[:, 1:]), dim=-1)
