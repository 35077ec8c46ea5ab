"""A residual network of ten layers for small images (He et al. 2016, arXiv 1512.03385), with or without batch norm."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.nn import functional as F

from ..errors import unknown

Norm = Literal["batch", "none"]


def _norm(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


class Block(nn.Module):
    """Two 3 × 3 convolutions around a shortcut, which is a 1 × 1 convolution where sizes change."""

    def __init__(self, channels: int, out: int, stride: int, norm: Norm = "batch") -> None:
        super().__init__()
        bias = norm == "none"  # a shift before batch norm does nothing
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=bias)
        self.bn1 = _norm(norm, out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=bias)
        self.bn2 = _norm(norm, out)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.short = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=bias), _norm(norm, out))

    def forward(self, x):  # without shapes: torch.fx traces with stand-ins for tensors
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.short(x))


class ResNet8(nn.Module):
    """A stem, three blocks and a linear layer: ten layers with weights."""

    def __init__(self, width: int = 8, classes: int = 10, norm: Norm = "batch") -> None:
        super().__init__()
        if norm not in ("batch", "none"):
            raise ValueError(unknown("norm", norm, ("batch", "none")))
        self.stem = nn.Conv2d(1, width, 3, 1, 1, bias=norm == "none")
        self.bn = _norm(norm, width)
        self.block1 = Block(width, width, 1, norm)
        self.block2 = Block(width, 2 * width, 2, norm)
        self.block3 = Block(2 * width, 4 * width, 2, norm)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x):
        """Images (batch, 1, height, width) to scores (batch, classes)."""
        x = self.block1(F.relu(self.bn(self.stem(x))))
        return self.head(self.block3(self.block2(x)).mean(dim=(2, 3)))
