"""Colours from appearance features and the viewing direction: TensoRF's small network (Chen et al. 2022)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def linear(cin: int, cout: int, generator: torch.Generator | None, bias: bool = True) -> nn.Linear:
    """A linear layer with torch's initial weights, uniform in ±1/√cin, drawn from the generator."""
    layer = nn.utils.skip_init(nn.Linear, cin, cout, bias=bias)
    bound = 1 / math.sqrt(cin)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def _frequencies(x: Tensor, count: int) -> list[Tensor]:
    """Sines, then cosines, of x, 2x, 4x, ...; each doubled angle from the one before."""
    if count == 0:
        return []
    sines, cosines = [x.sin()], [x.cos()]
    for _ in range(count - 1):
        s, c = sines[-1], cosines[-1]
        sines.append(2 * s * c)
        cosines.append(1 - 2 * s * s)
    return [*sines, *cosines]


class ColorNet(nn.Module):
    """Features and direction, each with sines and cosines of its multiples by powers of two, through two hidden layers.

    Inputs: ``features (1 + 2 feature_freqs) + 3 (1 + 2 view_freqs)``; 150 with the paper's 27 features and twos.
    """

    def __init__(
        self, features: int = 27, width: int = 128, view_freqs: int = 2, feature_freqs: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.view_freqs, self.feature_freqs = view_freqs, feature_freqs
        cin = features * (1 + 2 * feature_freqs) + 3 * (1 + 2 * view_freqs)
        self.layers = nn.Sequential(
            linear(cin, width, generator), nn.ReLU(), linear(width, width, generator), nn.ReLU(),
            linear(width, 3, generator),
        )  # fmt: skip
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, features: Float[Tensor, "m f"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """Colours in (0, 1)."""
        parts = [features, directions]
        parts += _frequencies(features, self.feature_freqs) + _frequencies(directions, self.view_freqs)
        return torch.sigmoid(self.layers(torch.cat(parts, -1)))
