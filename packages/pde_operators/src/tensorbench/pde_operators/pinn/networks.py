"""Networks for physics-informed learning: a tanh perceptron, random Fourier features, and sine activations.

* :class:`MLP`: the usual PINN (Raissi, Perdikaris and Karniadakis, J. Comput. Phys. 378, 2019), Glorot weights.
* :class:`FourierNet`: one perceptron behind random Fourier features of several scales, whose outputs meet in the last
  layer (Wang, Wang and Perdikaris, "On the eigenvector bias of Fourier feature networks", 2021, arXiv 2012.10047;
  features of Tancik et al. 2020, arXiv 2006.10739).
* :class:`Siren`: sine activations with their own initial weights (Sitzmann et al. 2020, arXiv 2006.09661).

All take points ``(n, d)`` and return ``(n, outputs)``. Points are mapped to [-1, 1]^d first where a box is given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
}


class ToUnitBox(nn.Module):
    """Maps a box to [-1, 1]^d; the identity where no box is given."""

    def __init__(self, inputs: int, box: tuple[Sequence[float], Sequence[float]] | None, dtype: torch.dtype):
        super().__init__()
        low, high = ([-1.0] * inputs, [1.0] * inputs) if box is None else box
        if len(low) != inputs or len(high) != inputs or any(a >= b for a, b in zip(low, high, strict=True)):
            raise ValueError(f"box {box}: give {inputs} lower ends, each below its upper end")
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", torch.tensor(low, dtype=dtype))
        self.register_buffer("high", torch.tensor(high, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return 2 * (x - self.low) / (self.high - self.low) - 1


class MLP(nn.Module):
    """``depth`` hidden layers of ``hidden`` units, Glorot-normal weights, zero biases."""

    def __init__(
        self,
        inputs: int,
        outputs: int = 1,
        *,
        hidden: int = 64,
        depth: int = 3,
        activation: str = "tanh",
        box: tuple[Sequence[float], Sequence[float]] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        _check_sizes(inputs=inputs, outputs=outputs, hidden=hidden, depth=depth)
        if activation not in ACTIVATIONS:
            raise ValueError(unknown("activation", activation, ACTIVATIONS))
        self.activation = ACTIVATIONS[activation]
        self.scale_inputs = ToUnitBox(inputs, box, dtype)
        widths = [inputs, *[hidden] * depth, outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b, dtype=dtype) for a, b in itertools.pairwise(widths))
        for layer in self.layers:
            _glorot(layer, generator)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n outputs"]:
        return self.head(self.hidden(self.scale_inputs(x)))

    def hidden(self, x: Tensor) -> Tensor:
        """Activations of the last hidden layer for inputs that are scaled already."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return x

    def head(self, x: Tensor) -> Tensor:
        return self.layers[-1](x)


class FourierNet(nn.Module):
    """Random Fourier features ``[cos(2π x B), sin(2π x B)]``, B ~ N(0, scale²), for each of ``scales``.

    The features of every scale go through the same hidden layers; the last layer sees all of them side by side.
    Frequencies are in cycles per unit of the inputs, which are not rescaled.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int = 1,
        *,
        scales: Sequence[float] = (1.0, 20.0),
        features: int = 64,
        hidden: int = 64,
        depth: int = 3,
        activation: str = "tanh",
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales {list(scales)} must be positive frequencies, at least one")
        _check_sizes(features=features)
        self.trunk = MLP(2 * features, outputs, hidden=hidden, depth=depth, activation=activation, generator=generator,
                         dtype=dtype)  # fmt: skip
        self.trunk.layers[-1] = nn.Linear(hidden * len(scales), outputs, dtype=dtype)
        _glorot(self.trunk.layers[-1], generator)
        draws = torch.randn(len(scales), inputs, features, generator=generator, dtype=dtype)
        self.frequencies: Tensor
        self.register_buffer("frequencies", draws * torch.tensor(list(scales), dtype=dtype)[:, None, None])

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n outputs"]:
        angle = 2 * math.pi * torch.einsum("nd,sdf->nsf", x, self.frequencies)
        hidden = self.trunk.hidden(torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1))
        return self.trunk.head(hidden.flatten(1))


class Siren(nn.Module):
    """``sin(ω₀(Wx + b))`` in the first layer and ``sin(Wx + b)`` after it.

    First-layer weights are uniform in ±1/inputs, later ones in ±√(6/fan-in), so that activations keep their
    distribution; ``omega`` sets the highest frequency that is there at the start.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int = 1,
        *,
        omega: float = 30.0,
        hidden: int = 64,
        depth: int = 3,
        box: tuple[Sequence[float], Sequence[float]] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        _check_sizes(inputs=inputs, outputs=outputs, hidden=hidden, depth=depth)
        if omega <= 0:
            raise ValueError(f"omega {omega} must be positive")
        self.omega = omega
        self.scale_inputs = ToUnitBox(inputs, box, dtype)
        widths = [inputs, *[hidden] * depth, outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b, dtype=dtype) for a, b in itertools.pairwise(widths))
        for k, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            bound = 1 / inputs if k == 0 else math.sqrt(6 / layer.in_features)
            for tensor in (layer.weight, layer.bias):
                nn.init.uniform_(tensor, -bound, bound, generator=generator)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n outputs"]:
        x = torch.sin(self.omega * self.layers[0](self.scale_inputs(x)))
        for layer in self.layers[1:-1]:
            x = torch.sin(layer(x))
        return self.layers[-1](x)


class HardBoundary(nn.Module):
    """``distance(x) · network(x) + extension(x)``: exact boundary values where the distance vanishes."""

    def __init__(self, network: nn.Module, distance: Callable[[Tensor], Tensor], extension: Callable[[Tensor], Tensor]):
        super().__init__()
        self.network, self.distance, self.extension = network, distance, extension

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n outputs"]:
        return self.distance(x) * self.network(x) + self.extension(x)


def _glorot(layer: nn.Module, generator: torch.Generator | None) -> None:
    assert isinstance(layer, nn.Linear)
    nn.init.xavier_normal_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} {value} must be at least 1")
