"""Fields in two steps, as progressive volume distillation divides them (Fang et al. 2022, arXiv 2211.15977):
position → features (the logarithm of the density, and what colour needs), then features and direction → colour.

The first feature is the logarithm of the density per unit length. A renderer multiplies densities by its distance scale
(25 in TensoRF), hence σ = exp(feature − log 25) here, and a field that starts with features near 0 is a thin fog.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.radiance_fields.encodings import spherical_harmonics, trunc_exp
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.rendering import DISTANCE_SCALE

LOG_SCALE = math.log(DISTANCE_SCALE)


class Query(NamedTuple):
    """What a field says at points: features (None where it has none to match), log density per unit length, colour."""

    features: Float[Tensor, "m f"] | None
    log_sigma: Float[Tensor, "m"]
    rgb: Float[Tensor, "m 3"]


def linear(inputs: int, outputs: int, generator: torch.Generator | None = None, *, bias: bool = False) -> nn.Linear:
    """A linear layer whose weights (and bias) are uniform in ±1/√inputs, as torch's are, but from ``generator``."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
    return layer


def perceptron(widths: list[int], generator: torch.Generator | None = None) -> nn.Sequential:
    """Linear layers without bias of these widths, with rectifiers between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [linear(inputs, outputs, generator), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class ColorNet(nn.Module):
    """Colour from features and the spherical harmonics of the direction up to order 3: 3 linear layers, then a
    sigmoid."""

    def __init__(self, features: int = 15, hidden: int = 64, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.layers = perceptron([16 + features, hidden, hidden, 3], generator)

    def forward(self, features: Float[Tensor, "m f"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return self.layers(torch.cat((spherical_harmonics(directions, 3), features), dim=-1)).sigmoid()


class StagedField(Field):
    """A field by ``features(points)`` (the first is the log density per unit length) and ``rgb(features,
    directions)``. To be combined with other bases, it has no state of its own.

    ``matches_features`` says whether the features may be compared with another field's (a voxel grid's are colour
    coefficients and may not). ``grids`` and the other parameters get rates of their own.
    """

    matches_features = True

    def features(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m f"]:
        """The log density per unit length, then the features of colour."""
        raise NotImplementedError

    def rgb(self, features: Float[Tensor, "m f"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """Colour from the features and unit directions."""
        raise NotImplementedError

    def grids(self) -> list[nn.Parameter]:
        """The parameters that are values on a grid."""
        return []

    def unit(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """Points of the box as points of the unit cube."""
        return (points - self.box[0]) / (self.box[1] - self.box[0])

    def query(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Query:
        """Features, log density and colour at once."""
        features = self.features(points)
        rgb = self.rgb(features, directions)
        return Query(features if self.matches_features else None, features[:, 0], rgb)

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        return trunc_exp(self.features(points)[:, 0] - LOG_SCALE)

    def color(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return self.rgb(self.features(points), directions)

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]
    ) -> tuple[Float[Tensor, "m"], Float[Tensor, "m 3"]]:
        features = self.features(points)
        return trunc_exp(features[:, 0] - LOG_SCALE), self.rgb(features, directions)

    def parameter_groups(self, lr_grid: float = 0.02, lr_net: float = 1e-3) -> list[dict[str, Any]]:
        grids = self.grids()
        ours = {id(parameter) for parameter in grids}
        nets = [parameter for parameter in self.parameters() if id(parameter) not in ours]
        groups = [{"params": grids, "lr": lr_grid}, {"params": nets, "lr": lr_net}]
        return [group for group in groups if group["params"]]


def query(field: Field, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Query:
    """:class:`Query` of any field: one that is not in stages has no features, and the logarithm of its density is taken
    (of at least 10⁻¹² per unit length)."""
    if isinstance(field, StagedField):
        return field.query(points, directions)
    sigma, rgb = field(points, directions)
    return Query(None, (sigma * DISTANCE_SCALE).clamp(min=1e-12).log(), rgb)
