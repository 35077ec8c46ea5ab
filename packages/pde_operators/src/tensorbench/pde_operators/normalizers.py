"""Scaling fields to mean 0 and standard deviation 1 and back, by statistics of the training data alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

PER = ("channel", "point")


class UnitGaussianNormalizer(nn.Module):
    """(x - mean) / std of each channel (any resolution afterwards) or of each point of each channel (that grid alone).

    >>> normalizer = UnitGaussianNormalizer.fit(train_y)
    >>> prediction = normalizer.decode(model(x))
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def fit(
        cls, x: Float[Tensor, "samples channels *grid"], *, per: str = "channel", floor: float = 1e-6
    ) -> UnitGaussianNormalizer:
        """Statistics of ``x``; deviations below ``floor`` count as 1, so that a constant becomes 0.

        Raises:
            ValueError: NaN or infinity in the data, one sample with ``per='point'``, an unknown ``per``.
        """
        if per not in PER:
            raise ValueError(unknown("per", per, PER))
        if not len(x):
            raise ValueError("no fields: statistics need at least one sample")
        if not torch.isfinite(x).all():
            raise ValueError("the fields hold NaN or infinity; leave those samples out before the statistics are taken")
        if per == "point" and x.shape[0] < 2:
            raise ValueError("one sample has no deviation at a point; use per='channel'")
        over = (0, *range(2, x.ndim)) if per == "channel" else (0,)
        std, mean = torch.std_mean(x, dim=over, keepdim=True, correction=0)
        return cls(mean, torch.where(std < floor, torch.ones_like(std), std))

    def encode(self, x: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch channels *grid"]:
        return (x - self.mean) / self.std

    def decode(self, x: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch channels *grid"]:
        return x * self.std + self.mean

    forward = encode
