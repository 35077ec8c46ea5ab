"""A depthwise separable network (Howard et al. 2017, MobileNets, arXiv 1704.04861) for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DepthwiseNet(nn.Module):
    """A 3 × 3 stem; stages of blocks, each a 3 × 3 filter per channel and a 1 × 1 convolution, all with batch norm
    and ReLU; the mean over the image and a linear layer. Every stage but the first halves the image and doubles the
    channels.

    Initial weights are He's (fan-out) from ``seed``.
    """

    def __init__(
        self,
        layers: Sequence[int] = (2, 2, 2),
        width: int = 16,
        in_channels: int = 1,
        num_classes: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not layers or min(layers) < 1:
            raise ValueError(f"layers {tuple(layers)} must be the numbers of blocks of one or more stages, each >= 1")
        parts = _unit(in_channels, width, 3)
        channels = width
        for stage, blocks in enumerate(layers):
            for block in range(blocks):
                entry = stage > 0 and block == 0
                out = 2 * channels if entry else channels
                parts += _unit(channels, channels, 3, 2 if entry else 1, channels) + _unit(channels, out, 1)
                channels = out
        self.body = nn.Sequential(*parts)
        self.head = nn.Linear(channels, num_classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for part in self.modules():
                if isinstance(part, nn.Conv2d):
                    fan_out = part.weight.shape[0] * part.weight[0, 0].numel() // part.groups
                    part.weight.normal_(0, (2 / fan_out) ** 0.5, generator=generator)
            self.head.weight.normal_(0, channels**-0.5, generator=generator)
            self.head.bias.zero_()

    def forward(self, x: Float[Tensor, "batch in_channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.head(self.body(x).mean(dim=(2, 3)))


def _unit(channels: int, out: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out), nn.ReLU()]
