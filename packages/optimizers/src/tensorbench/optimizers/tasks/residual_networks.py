"""Residual networks of the CIFAR experiments, for 32 × 32 images: any depth and width, with or without batch norm.

``resnet(depth, width)`` is that of He et al. (2016, arXiv 1512.03385): three stages of (depth − 2)/6 blocks of width,
2 · width and 4 · width channels, whose shortcuts pad with zeros. ``wide_resnet(depth, widen)`` is that of Zagoruyko,
Komodakis (2016, arXiv 1605.07146): three stages of (depth − 4)/6 blocks with norm and ReLU before each convolution.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def _norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.Identity()


class PostBlock(nn.Module):
    """Two convolutions, norm after each; the shortcut takes every second pixel and pads channels with zeros."""

    def __init__(self, channels: int, out: int, stride: int, batch_norm: bool) -> None:
        super().__init__()
        bias = not batch_norm
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=bias)
        self.bn1 = _norm(out, batch_norm)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=bias)
        self.bn2 = _norm(out, batch_norm)
        self.stride, self.missing = stride, out - channels

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out height2 width2"]:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(short, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2)))


class PreBlock(nn.Module):
    """Norm and ReLU before each of two convolutions; the shortcut is a 1 × 1 convolution where sizes change."""

    def __init__(self, channels: int, out: int, stride: int, batch_norm: bool) -> None:
        super().__init__()
        bias = not batch_norm
        self.bn1 = _norm(channels, batch_norm)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=bias)
        self.bn2 = _norm(out, batch_norm)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=bias)
        changes = stride != 1 or channels != out
        self.short = nn.Conv2d(channels, out, 1, stride, bias=bias) if changes else None

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out height2 width2"]:
        active = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + (x if self.short is None else self.short(active))


class _Head(nn.Module):
    """Mean over pixels, then a linear layer; ``norm`` before it where blocks end without one."""

    def __init__(self, channels: int, classes: int, norm: nn.Module | None) -> None:
        super().__init__()
        self.norm = norm
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = x if self.norm is None else F.relu(self.norm(x))
        return self.linear(x.mean(dim=(2, 3)))


def _blocks(kind: type[nn.Module], start: int, widths: tuple[int, int, int], depth: int, batch_norm: bool) -> list:
    channels, blocks = start, []
    for stage, out in enumerate(widths):
        for number in range(depth):
            blocks.append(kind(channels, out, 2 if stage and number == 0 else 1, batch_norm))
            channels = out
    return blocks


def _start(network: nn.Module, generator: torch.Generator | None) -> nn.Module:
    """He's normal start; biases 0."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan, gain = module.weight[0].numel(), 2.0 if isinstance(module, nn.Conv2d) else 1.0
                if not module.weight.is_meta:
                    module.weight.normal_(0, (gain / fan) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
    return network


def resnet(
    depth: int = 20,
    width: int = 16,
    classes: int = 10,
    *,
    batch_norm: bool = True,
    channels: int = 3,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """ResNet-20, -32, -44, -56, -110, ... for images (batch, channels, height, width).

    Raises:
        ValueError: a depth that is not 6 n + 2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth {depth} must be 6 n + 2: 8, 14, 20, 32, 44, 56, 110, ...")
    stem = nn.Conv2d(channels, width, 3, 1, 1, bias=not batch_norm)
    blocks = _blocks(PostBlock, width, (width, 2 * width, 4 * width), (depth - 2) // 6, batch_norm)
    head = _Head(4 * width, classes, None)
    return _start(nn.Sequential(stem, _norm(width, batch_norm), nn.ReLU(), *blocks, head), generator)


def wide_resnet(
    depth: int = 28,
    widen: int = 10,
    classes: int = 10,
    *,
    batch_norm: bool = True,
    channels: int = 3,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """WRN-28-10, WRN-16-4, ... for images (batch, channels, height, width).

    Raises:
        ValueError: a depth that is not 6 n + 4, ``widen`` below 1.
    """
    if depth < 10 or (depth - 4) % 6 or widen < 1:
        raise ValueError(f"depth {depth} must be 6 n + 4 (10, 16, 22, 28, 40, ...) and widen {widen} at least 1")
    widths = (16 * widen, 32 * widen, 64 * widen)
    stem = nn.Conv2d(channels, 16, 3, 1, 1, bias=not batch_norm)
    blocks = _blocks(PreBlock, 16, widths, (depth - 4) // 6, batch_norm)
    return _start(nn.Sequential(stem, *blocks, _Head(widths[-1], classes, _norm(widths[-1], batch_norm))), generator)
