"""DeepONet: a branch network of the input function and a trunk network of the output place (Lu et al. 2021).

G(u)(y) = sum_k b_k(u) t_k(y) + b_0 (the "unstacked" form, arXiv 1910.03193), with multilayer perceptrons b and t. All
output places are known in advance here (a grid), so that the trunk is evaluated once a batch, and the sum is a matrix
product. With several output channels each has its own p of the branch's outputs and shares the trunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}


def mlp(sizes: Sequence[int], activation: str = "relu", generator: torch.Generator | None = None) -> nn.Sequential:
    """Linear layers of these sizes with activations between them; Glorot-uniform weights, biases of zero."""
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes {list(sizes)} must name an input and an output width, all at least 1")
    if activation not in ACTIVATIONS:
        raise ValueError(unknown("activation", activation, ACTIVATIONS))
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
        layers += [layer, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def grid_coordinates(shape: Sequence[int], periodic: Sequence[bool] | None = None) -> Float[Tensor, "places dims"]:
    """Places of a grid over the unit cube, row-major: cell centres, or for a periodic axis its cosine and sine."""
    periodic = [False] * len(shape) if periodic is None else list(periodic)
    if len(periodic) != len(shape):
        raise ValueError(f"periodic {periodic} must say of each of the {len(shape)} axes whether it is")
    axes = [(torch.arange(n) + 0.5) / n for n in shape]
    columns = []
    for values, wraps in zip(torch.meshgrid(*axes, indexing="ij"), periodic, strict=True):
        t = values.reshape(-1)
        columns += [torch.cos(2 * math.pi * t), torch.sin(2 * math.pi * t)] if wraps else [t]
    return torch.stack(columns, dim=1)


class DeepONet(nn.Module):
    """From sampled input functions to values at fixed places.

    Args:
        sensors: numbers of an input function, all channels and parameters together.
        places: coordinates of the output places (see :func:`grid_coordinates`).
        out_shape: shape of an output sample without its channels; its product is the number of places.
        out_channels: None for outputs without an axis of channels.
        width, depth: of the hidden layers of both networks.
        basis: how many functions b_k and t_k.
        generator: of the initial weights.
    """

    places: Tensor

    def __init__(
        self,
        sensors: int,
        places: Float[Tensor, "places dims"],
        out_shape: Sequence[int],
        *,
        out_channels: int | None = None,
        width: int = 64,
        depth: int = 2,
        basis: int = 32,
        activation: str = "gelu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if places.ndim != 2 or len(places) != math.prod(out_shape):
            raise ValueError(
                f"places of shape {tuple(places.shape)}: one row for each of the {math.prod(out_shape)} places of "
                f"out_shape {tuple(out_shape)} is expected"
            )
        if min(width, depth, basis) < 1:
            raise ValueError(f"width {width}, depth {depth} and basis {basis} must be at least 1")
        self.sensors, self.out_shape, self.out_channels = sensors, tuple(out_shape), out_channels
        channels = out_channels or 1
        self.branch = mlp([sensors, *[width] * depth, basis * channels], activation, generator)
        self.trunk = mlp([places.shape[1], *[width] * depth, basis], activation, generator)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("places", places.to(torch.get_default_dtype()))

    def forward(self, u: Float[Tensor, "batch *sensors"]) -> Float[Tensor, "batch *out"]:
        """Values of shape (batch, channels, *out_shape), or (batch, *out_shape) where ``out_channels`` is None."""
        u = u.flatten(1)
        if u.shape[1] != self.sensors:
            raise ValueError(f"{u.shape[1]} numbers a sample; this network takes {self.sensors}")
        b = self.branch(u).unflatten(1, (len(self.bias), -1))  # batch, channel, basis
        values = b @ self.trunk(self.places).T / math.sqrt(b.shape[-1]) + self.bias[:, None]
        return values.reshape(len(u), *(() if self.out_channels is None else (self.out_channels,)), *self.out_shape)
