"""A small U-Net on grids of one, two or three dimensions, made of any kind of convolution.

Encoder and decoder with skip connections (Ronneberger, Fischer, Brox 2015, arXiv 1505.04597): on level l = 0 … depth
there are ``width · 2ˡ`` channels on a grid that is 2ˡ times as coarse. Each level has two convolutions; a convolution
of stride 2 leads down, interpolation (or a transposed convolution) leads up, and a 1 × 1 convolution gives the output.
Grids of any size are taken: what comes up is brought to the size of the skip that it joins.

>>> net = UNet(3, 1, width=8, generator=torch.Generator().manual_seed(0))
>>> net(torch.zeros(4, 3, 32, 32)).shape
torch.Size([4, 1, 32, 32])
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core.errors import unknown

Factory = Callable[..., nn.Module]  # (cin, cout, kernel_size, *, stride, padding, …) -> a convolution
CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
Norm = Literal["none", "group"]
_NORMS = ("none", "group")
_GROUPS = 4


class UNet(nn.Module):
    """Encoder, decoder and skips.

    Args:
        width: channels of the finest level; they double on each coarser one.
        depth: how many times the grid is halved.
        conv: a factory of convolutions, called as ``conv(cin, cout, kernel_size, stride=…, padding=…)`` (and
            ``padding_mode=…`` where it is not ``zeros``); torch's own of ``dims`` dimensions by default.
        up: a factory of transposed convolutions, called as ``up(cin, cout, 2, stride=2)``; None interpolates and
            lets the next convolution reduce the channels.
        activation: ``gelu``, ``relu``, ``silu`` or ``tanh``.
        norm: ``group`` puts a group norm behind each convolution but the last.
        padding_mode: as torch's convolutions have it; ``circular`` for periodic domains.
        generator: for the initial weights (:func:`initialise`); the factories' own otherwise.

    Raises:
        ValueError: sizes below 1, an even kernel, an unknown activation or norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 16,
        depth: int = 2,
        *,
        conv: Factory | None = None,
        up: Factory | None = None,
        kernel_size: int = 3,
        activation: str = "gelu",
        norm: Norm = "none",
        padding_mode: str = "zeros",
        dims: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if dims not in CONVOLUTIONS:
            raise ValueError(f"dims {dims} must be 1, 2 or 3")
        for name, size in (("in_channels", in_channels), ("out_channels", out_channels), ("width", width)):
            if size < 1:
                raise ValueError(f"{name} {size} must be at least 1")
        if depth < 0:
            raise ValueError(f"depth {depth} must be 0 (one level) or more")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} is even and would shift the grid; use an odd one")
        if activation not in ACTIVATIONS:
            raise ValueError(unknown("activation", activation, ACTIVATIONS))
        if norm not in _NORMS:
            raise ValueError(unknown("norm", norm, _NORMS))
        self.dims, self.depth, self.in_channels = dims, depth, in_channels
        make: Factory = CONVOLUTIONS[dims] if conv is None else conv
        extra = {} if padding_mode == "zeros" else {"padding_mode": padding_mode}

        def block(cin: int, cout: int, stride: int = 1) -> nn.Sequential:
            parts = [make(cin, cout, kernel_size, stride=stride, padding=kernel_size // 2, **extra)]
            if norm == "group":
                parts.append(nn.GroupNorm(math.gcd(_GROUPS, cout), cout))
            return nn.Sequential(*parts, ACTIVATIONS[activation]())

        channels = [width * 2**level for level in range(depth + 1)]
        self.stem = nn.Sequential(block(in_channels, width), block(width, width))
        self.down = nn.ModuleList(
            nn.Sequential(block(fine, coarse, 2), block(coarse, coarse))
            for fine, coarse in itertools.pairwise(channels)
        )
        pairs = list(itertools.pairwise(channels))[::-1]
        self.rise = nn.ModuleList() if up is None else nn.ModuleList(up(c, f, 2, stride=2) for f, c in pairs)
        self.merge = nn.ModuleList(
            nn.Sequential(block(fine + (fine if up else coarse), fine), block(fine, fine)) for fine, coarse in pairs
        )
        self.head = CONVOLUTIONS[dims](width, out_channels, 1)
        if generator is not None:
            initialise(self, generator)

    def forward(self, x: Float[Tensor, "batch cin *grid"]) -> Float[Tensor, "batch cout *grid"]:
        """Fields on a grid to fields on the same grid."""
        if x.ndim != self.dims + 2 or x.shape[1] != self.in_channels:
            grid = ", ".join("n" * self.dims)
            raise ValueError(f"expected fields (batch, {self.in_channels}, {grid}), got shape {tuple(x.shape)}")
        x = self.stem(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for number, merge in enumerate(self.merge):
            skip = skips.pop()
            if len(self.rise):
                x = self.rise[number](x)
            if x.shape[2:] != skip.shape[2:]:
                x = F.interpolate(x, size=skip.shape[2:], mode="nearest")
            x = merge(torch.cat([skip, x], dim=1))
        return self.head(x)


def initialise(model: nn.Module, generator: torch.Generator, gain: float = math.sqrt(2)) -> None:
    """Draw all weights of convolutions and linear layers: variance gain² / fan-in (He et al. 2015), biases zero.

    A module that has a method ``initialise(generator, gain)`` of its own is asked to use it, and nothing inside it is
    touched. A layer of kernel size 1 at the very end is a readout and gets gain 1.
    """
    linear = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    last = linear[-1] if linear else None

    def visit(module: nn.Module) -> None:
        if module is not model and callable(own := getattr(module, "initialise", None)):
            own(generator, gain)
            return
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if isinstance(module, kinds):
            _kaiming(module, generator, 1.0 if module is last else gain)
        for child in module.children():
            visit(child)

    visit(model)


def _kaiming(module: nn.Module, generator: torch.Generator, gain: float) -> None:
    weight: Tensor = module.weight  # type: ignore[assignment]
    fan = weight[0].numel()
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        # (cin, cout, k, k): each output sees all inputs but, with a stride, only k/s of the taps of an axis.
        fan = max(1, module.in_channels * weight[0, 0].numel() // math.prod(module.stride))
    with torch.no_grad():
        weight.normal_(0.0, gain / math.sqrt(fan), generator=generator)
        bias = module.bias
        if isinstance(bias, Tensor):
            bias.zero_()
