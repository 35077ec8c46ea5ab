"""The paper's network, with weights shared over blocks of coordinates where asked, and its hard boundary factor."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import nn

from tensorbench.pde_operators.taylor import squared_norm


class TanhNet(nn.Module):
    """``depth`` linear layers of ``width`` units with tanh between; (points, d) -> (points,).

    Weights and biases are uniform in ±1/√fan_in. With ``block`` the coordinates go through one shared layer first,
    which maps each block of so many to one number (appendix G of the paper): d / block inputs instead of d, so that
    the first layer has a ``block``-th of the weights. ``extra`` more inputs at the end, time say, bypass it.
    """

    def __init__(
        self,
        d: int,
        *,
        width: int = 128,
        depth: int = 4,
        block: int | None = None,
        extra: int = 0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        if d < 1 or width < 1 or depth < 2:
            raise ValueError(f"d={d} and width={width} must be at least 1, depth={depth} at least 2")
        if block is not None and (block < 1 or d % block):
            raise ValueError(f"blocks of {block} do not divide {d} coordinates; use a divisor")
        self.d, self.block, self.extra = d, block, extra
        self.shared = None if block is None else nn.Linear(block, 1, dtype=dtype)
        sizes = [(d if block is None else d // block) + extra, *[width] * (depth - 1), 1]
        self.layers = nn.ModuleList(nn.Linear(a, b, dtype=dtype) for a, b in itertools.pairwise(sizes))
        for layer in [*([] if self.shared is None else [self.shared]), *self.layers]:
            bound = 1 / math.sqrt(layer.in_features)
            with torch.no_grad():
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Any) -> Any:
        """(points, inputs) -> (points,), of tensors or Taylor tensors."""
        h: Any = x
        if self.shared is not None:
            blocks = x[..., : self.d].unflatten(-1, (self.d // self.block, self.block))  # type: ignore[operator]
            h = torch.tanh(self.shared(blocks)).squeeze(-1)
            h = torch.cat([h, x[..., self.d :]], -1) if self.extra else h
        for layer in self.layers[:-1]:
            h = torch.tanh(layer(h))
        return self.layers[-1](h).squeeze(-1)


class OnBall(nn.Module):
    """(1 - |x|²) net(x): zero on the unit sphere whatever the network says."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Any) -> Any:
        return (1 - squared_norm(x)) * self.net(x)
