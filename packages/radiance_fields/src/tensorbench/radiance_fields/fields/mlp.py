"""A radiance field in the weights of one network: NeRF (Mildenhall et al. 2020, arXiv 2003.08934) in the form that PVD
(Fang et al. 2022, arXiv 2211.15977) gives it: a trunk over sines and cosines of the position, then the two heads of the
hash field, so that all architectures share their features' width.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.radiance_fields.encodings import positional
from tensorbench.radiance_fields.fields.staged import ColorNet, StagedField, linear, perceptron


class MLPField(StagedField):
    """``depth`` linear layers of ``width`` (the last one of ``trunk_features``) over positions scaled to [−1, 1] and
    encoded with ``frequencies``; the encoding enters once more after layer ``skip`` (0-based; None: nowhere)."""

    def __init__(
        self,
        box: Float[Tensor, "2 3"],
        *,
        depth: int = 8,
        width: int = 256,
        skip: int | None = 3,
        frequencies: int = 10,
        trunk_features: int = 28,
        hidden: int = 64,
        color_features: int = 15,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(box)
        if depth < 2:
            raise ValueError(f"depth {depth}: the trunk has at least 2 layers")
        if skip is not None and not 0 <= skip < depth - 1:
            raise ValueError(f"skip {skip} must be between 0 and {depth - 2}, or None")
        self.frequencies, self.skip = frequencies, skip
        encoded = 3 * (2 * frequencies + 1)
        inputs = [encoded if k == 0 else width + (encoded if k - 1 == skip else 0) for k in range(depth)]
        outputs = [width] * (depth - 1) + [trunk_features]
        self.trunk = nn.ModuleList(linear(n, m, generator, bias=True) for n, m in zip(inputs, outputs, strict=True))
        self.density_net = perceptron([trunk_features, hidden, 1 + color_features], generator)
        self.color_net = ColorNet(color_features, hidden, generator)

    def features(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m f"]:
        encoded = positional(2 * self.unit(points) - 1, self.frequencies)
        x = encoded
        for k, layer in enumerate(self.trunk):
            x = layer(x)
            if k < len(self.trunk) - 1:
                x = x.relu()
            if k == self.skip:
                x = torch.cat((encoded, x), dim=-1)
        return self.density_net(x)

    def rgb(self, features: Float[Tensor, "m f"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return self.color_net(features[:, 1:], directions)


def build(data: Any, *, generator: torch.Generator | None = None, **params: Any) -> MLPField:
    """A field for a scene's box (``data.box``), untrained."""
    return MLPField(torch.as_tensor(data.box), generator=generator, **params)
