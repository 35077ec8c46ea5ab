"""Networks of coordinates: a small multilayer perceptron with one of six activations behind one of four embeddings.

* ``relu``, ``tanh``: plain layers, Glorot's initial weights.
* ``siren``: sin(ω z). Sitzmann et al. (2020, arXiv 2006.09661), section 3.2 with its initial weights.
* ``wire``: cos(ω z₁) exp(−(s z₂)²) with two linear maps z₁ and z₂, the real Gabor layer of Saragadam et al. (2023,
  arXiv 2301.05187); so a layer has twice the weights of the others.
* ``finer``: sin(ω (|z| + 1) z). Liu et al. (2024, arXiv 2312.02434); biases of the first layer are uniform in ±k.
* ``gaussian``: exp(−(s z)²). Ramasinghe and Lucey (2022, arXiv 2111.15135).

F-INR (Vemuri, Büchner and Denzler 2025, arXiv 2503.21507) takes such a network of one coordinate for each axis; the
same class with two or three inputs is the monolithic network that it is compared with. Of the paper its abstracts and
the authors' demo (two-dimensional CP) could be read, not the body; defaults are those of the papers of the layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.encodings import HashGrid, positional

BACKENDS = ("relu", "tanh", "siren", "wire", "finer", "gaussian")
EMBEDDINGS = ("none", "positional", "fourier", "hash")


def sine(z: Float[Tensor, "*shape"], omega: float) -> Float[Tensor, "*shape"]:
    """sin(ω z)."""
    return torch.sin(omega * z)


def gabor(
    z1: Float[Tensor, "*shape"], z2: Float[Tensor, "*shape"], omega: float, scale: float
) -> Float[Tensor, "*shape"]:
    """cos(ω z₁) exp(−(s z₂)²)."""
    return torch.cos(omega * z1) * torch.exp(-((scale * z2) ** 2))


def finer(z: Float[Tensor, "*shape"], omega: float) -> Float[Tensor, "*shape"]:
    """sin(ω (|z| + 1) z). The gradient is the whole one (the paper's code holds the factor |z| + 1 fixed, with which
    derivatives in the coordinates would be wrong)."""
    return torch.sin(omega * (z.abs() + 1) * z)


def gaussian(z: Float[Tensor, "*shape"], scale: float) -> Float[Tensor, "*shape"]:
    """exp(−(s z)²)."""
    return torch.exp(-((scale * z) ** 2))


class Fourier(nn.Module):
    """(sin 2πBx, cos 2πBx) with fixed B from N(0, σ²). Tancik et al. (2020, arXiv 2006.10739)."""

    matrix: Tensor

    def __init__(self, inputs: int, frequencies: int, sigma: float, generator: torch.Generator | None) -> None:
        super().__init__()
        self.register_buffer("matrix", sigma * torch.randn(inputs, frequencies, generator=generator))

    def forward(self, x: Float[Tensor, "*points d"]) -> Float[Tensor, "*points width"]:
        angles = 2 * math.pi * (x @ self.matrix)
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class AxisNet(nn.Module):
    """A network from ``inputs`` coordinates in [−1, 1] to ``out`` numbers; the last layer is linear.

    >>> net = AxisNet("siren", out=64, generator=torch.Generator().manual_seed(0))
    >>> net(torch.linspace(-1, 1, 128)[:, None]).shape
    torch.Size([128, 64])

    Args:
        backend: one of :data:`BACKENDS`.
        embedding: ``none``, ``positional`` (each coordinate x becomes x, sin 2ᵏπx, cos 2ᵏπx for ``frequencies`` values
            of k from 0, or around 0 if ``centred``, which is the demo's choice), ``fourier`` (``frequencies`` random
            ones of deviation ``sigma``), ``hash`` (``HashGrid`` over [−1, 1] with ``hash_options``).
        inputs, features, out: widths. The closed form of the number of weights is :func:`count`.
        first_omega, omega: frequency of the first and of the other layers of ``siren``, ``wire`` and ``finer``.
        scale: s of ``wire`` and ``gaussian``.
        first_bias: k of ``finer``.

    Raises:
        ValueError: an unknown backend or embedding, a width below 1.
    """

    def __init__(
        self,
        backend: str = "siren",
        embedding: str = "none",
        *,
        inputs: int = 1,
        features: Sequence[int] = (256, 256, 256, 256),
        out: int = 1,
        generator: torch.Generator | None = None,
        first_omega: float = 30.0,
        omega: float = 30.0,
        scale: float = 10.0,
        first_bias: float = 1.0,
        frequencies: int = 10,
        centred: bool = False,
        sigma: float = 10.0,
        hash_options: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        if backend not in BACKENDS:
            raise ValueError(unknown("backend", backend, BACKENDS))
        if embedding not in EMBEDDINGS:
            raise ValueError(unknown("embedding", embedding, EMBEDDINGS))
        if inputs < 1 or out < 1 or not features or min(features) < 1:
            raise ValueError(f"inputs {inputs}, features {list(features)} and out {out} must all be at least 1")
        self.backend, self.embedding, self.inputs, self.out = backend, embedding, inputs, out
        self.first_omega, self.omega, self.scale = first_omega, omega, scale
        self.frequencies, self.centred = frequencies, centred
        self.encoder: nn.Module | None = None
        if embedding == "fourier":
            self.encoder = Fourier(inputs, frequencies, sigma, generator)
        elif embedding == "hash":
            options = {"levels": 8, "features": 2, "base": 16, "finest": 512, "log2_table": 14} | (hash_options or {})
            self.encoder = HashGrid(inputs, generator=generator, **options)
        widths = [self.encoded, *features]
        copies = 2 if backend == "wire" else 1
        self.hidden = nn.ModuleList(nn.utils.skip_init(nn.Linear, a, copies * b) for a, b in itertools.pairwise(widths))
        self.last = nn.utils.skip_init(nn.Linear, widths[-1], out)
        self._initialise(generator, first_bias)

    @property
    def encoded(self) -> int:
        """Inputs of the first layer."""
        if self.embedding == "positional":
            return self.inputs * (2 * self.frequencies + 1)
        if self.embedding == "fourier":
            return 2 * self.frequencies
        return self.encoder.width if isinstance(self.encoder, HashGrid) else self.inputs

    def _initialise(self, generator: torch.Generator | None, first_bias: float) -> None:
        layers = [*self.hidden, self.last]
        with torch.no_grad():
            for number, layer in enumerate(layers):
                assert isinstance(layer, nn.Linear)
                width = layer.in_features
                plain = 1 / math.sqrt(width)
                limit, bias = plain, plain  # torch's own, which WIRE and the Gaussians take
                if self.backend in ("relu", "tanh"):
                    limit = math.sqrt(6 / (width + layer.out_features))
                elif self.backend in ("siren", "finer"):
                    limit = 1 / width if number == 0 else math.sqrt(6 / width) / self.omega
                    if self.backend == "finer" and number == 0:
                        bias = first_bias
                layer.weight.uniform_(-limit, limit, generator=generator)
                layer.bias.uniform_(-bias, bias, generator=generator)

    def encode(self, x: Float[Tensor, "*points d"]) -> Float[Tensor, "*points encoded"]:
        """What the first layer sees."""
        if self.embedding == "none":
            return x
        if self.embedding == "positional":
            lowest = -((self.frequencies - 1) // 2) if self.centred else 0
            waves = positional(x * (math.pi * 2.0**lowest), self.frequencies, include_input=False)
            return torch.cat((x, waves), dim=-1)
        assert self.encoder is not None
        return self.encoder((x + 1) / 2 if self.embedding == "hash" else x)

    def activate(self, z: Float[Tensor, "*points width"], omega: float) -> Float[Tensor, "*points features"]:
        """The activation of a hidden layer."""
        match self.backend:
            case "relu":
                return torch.relu(z)
            case "tanh":
                return torch.tanh(z)
            case "siren":
                return sine(z, omega)
            case "wire":
                z1, z2 = z.chunk(2, dim=-1)
                return gabor(z1, z2, omega, self.scale)
            case "finer":
                return finer(z, omega)
        return gaussian(z, self.scale)

    def forward(self, x: Float[Tensor, "*points d"]) -> Float[Tensor, "*points out"]:
        h = self.encode(x)
        for number, layer in enumerate(self.hidden):
            h = self.activate(layer(h), self.first_omega if number == 0 else self.omega)
        return self.last(h)

    @torch.no_grad()
    def scale_output(self, factor: float) -> None:
        """Multiply the last layer by ``factor``, and with it the output."""
        self.last.weight.mul_(factor)
        self.last.bias.mul_(factor)


@dataclass(frozen=True)
class Axis:
    """What network an axis gets; its outputs are the format's to say. ``options`` are keywords of :class:`AxisNet`."""

    backend: str = "siren"
    embedding: str = "none"
    features: tuple[int, ...] = (256, 256, 256, 256)
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, out: int, generator: torch.Generator | None, inputs: int = 1) -> AxisNet:
        """The network with ``out`` outputs."""
        return AxisNet(self.backend, self.embedding, inputs=inputs, features=self.features, out=out,
                       generator=generator, **self.options)  # fmt: skip


def count(encoded: int, features: Sequence[int], out: int, *, wire: bool = False) -> int:
    """Weights and biases of an :class:`AxisNet` whose first layer has ``encoded`` inputs, tables not counted."""
    widths = [encoded, *features]
    hidden = sum((a + 1) * b for a, b in itertools.pairwise(widths))
    return (2 if wire else 1) * hidden + (widths[-1] + 1) * out


def features_of_equal_weights(weights: int, encoded: int, depth: int, out: int, *, wire: bool = False) -> int:
    """The width of ``depth`` equal hidden layers with which a network has nearest to ``weights`` weights."""
    sizes = range(1, 4097)
    return min(sizes, key=lambda width: abs(count(encoded, [width] * depth, out, wire=wire) - weights))
