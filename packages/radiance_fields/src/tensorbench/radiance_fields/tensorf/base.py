"""What VM and CP fields share: the activation of the density, colours, voxels, and the choice how to evaluate.

Chen, Xu, Geiger, Yu, Su 2022, *TensoRF: Tensorial Radiance Fields* (arXiv 2203.09517). ``σ = softplus(f − 10)`` with f
a sum of products of factors; appearance products pass through a linear map to 27 features and a small network.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.fields.base import Box, Field
from tensorbench.radiance_fields.tensorf.grids import Resolution, check_resolution, trilinear
from tensorbench.radiance_fields.tensorf.shading import ColorNet, linear

Activation = Literal["softplus", "relu"]
Evaluate = Literal["auto", "volume", "factors"]
_ACTIVATIONS, _EVALUATIONS = ("softplus", "relu"), ("auto", "volume", "factors")
_VERTICES_PER_POINT = 8  # multiply the volume out where it has at most so many vertices for each point
_LARGEST_VOLUME = 2**25
Self = TypeVar("Self", bound="TensorField")


class TensorField(Field):
    """A radiance field whose grids are given by factors. Use :class:`TensorVM` or :class:`TensorCP`.

    Args:
        box: corners of the scene.
        resolution: vertices along x, y and z.
        products: how many appearance products there are.
        features: appearance features that the network sees.
        width: of the colour network's hidden layers.
        generator: for the initial weights.
        density_shift: added before the activation; −10 makes an empty field.
        activation: ``softplus``, or ``relu`` (TensoRF's choice for forward-facing scenes).
        evaluate: the density of many points from the multiplied-out volume, from the factors, or (auto) whichever is
            less work. Both give the same values.
    """

    def __init__(
        self,
        box: Box,
        resolution: Sequence[int],
        *,
        products: int,
        features: int = 27,
        width: int = 128,
        view_freqs: int = 2,
        feature_freqs: int = 2,
        generator: torch.Generator | None = None,
        density_shift: float = -10.0,
        activation: Activation = "softplus",
        evaluate: Evaluate = "auto",
    ) -> None:
        super().__init__(box)
        if activation not in _ACTIVATIONS:
            raise ValueError(unknown("activation", activation, _ACTIVATIONS))
        if evaluate not in _EVALUATIONS:
            raise ValueError(unknown("evaluation", evaluate, _EVALUATIONS))
        self.resolution: Resolution = check_resolution(resolution)
        self.density_shift, self.activation, self.evaluate = density_shift, activation, evaluate
        self.basis = linear(products, features, generator, bias=False)
        self.net = ColorNet(features, width, view_freqs, feature_freqs, generator)

    # --- what a format defines -------------------------------------------------------------------------------------

    def density_volume(self) -> Float[Tensor, "x y z"]:
        """The density before its activation at all vertices."""
        raise NotImplementedError

    def density_features(self, coords: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        """The density before its activation at coordinates in [-1, 1], from the factors."""
        raise NotImplementedError

    def color_products(self, coords: Float[Tensor, "m 3"]) -> Float[Tensor, "p m"]:
        """The appearance products at coordinates in [-1, 1]."""
        raise NotImplementedError

    def grids(self) -> list[nn.Parameter]:
        """The factors: what learns with the grids' rate."""
        raise NotImplementedError

    def _resample(self, resolution: Resolution) -> None:
        raise NotImplementedError

    def _crop(self, first: Sequence[int], last: Sequence[int]) -> None:
        raise NotImplementedError

    # --- the field -------------------------------------------------------------------------------------------------

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        coords = self.normalized(points)
        vertices = self.resolution[0] * self.resolution[1] * self.resolution[2]
        few = vertices <= min(_LARGEST_VOLUME, _VERTICES_PER_POINT * len(points))
        if self.evaluate == "volume" or (self.evaluate == "auto" and few):
            value = trilinear(self.density_volume(), coords)
        else:
            value = self.density_features(coords)
        value = value + self.density_shift
        return F.softplus(value) if self.activation == "softplus" else F.relu(value)

    def color(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return self.net(self.appearance(points), directions)

    def appearance(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m f"]:
        """The features that colours are made of."""
        return self.basis(self.color_products(self.normalized(points)).T)

    def regularizers(self) -> Mapping[str, Tensor]:
        raise NotImplementedError

    def parameter_groups(self, lr_grid: float = 0.02, lr_net: float = 1e-3) -> list[dict[str, Any]]:
        networks = [*self.basis.parameters(), *self.net.parameters()]
        return [{"params": self.grids(), "lr": lr_grid}, {"params": networks, "lr": lr_net}]

    # --- the grid --------------------------------------------------------------------------------------------------

    @property
    def voxel_edges(self) -> Float[Tensor, "3"]:
        """Distances between neighbouring vertices along each axis, in units of the scene."""
        return (self.box[1] - self.box[0]) / (self.box.new_tensor(self.resolution) - 1)

    @torch.no_grad()
    def upsample(self, resolution: Sequence[int]) -> None:
        """Interpolate the factors to a finer grid; the optimizer must be made anew, since the parameters are new."""
        target = check_resolution(resolution)
        self._resample(target)
        self.resolution = target

    @torch.no_grad()
    def shrink(self, box: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
        """Cut the grid down to the vertices nearest to a smaller box, which then is the field's; returns it.

        Raises:
            ValueError: a box that leaves fewer than two vertices along an axis.
        """
        edges = self.voxel_edges
        places = ((box.to(self.box) - self.box[0]) / edges).round().long()
        first, last = places[0].clamp(min=0), torch.minimum(places[1], places.new_tensor(self.resolution) - 1)
        if bool((last - first < 1).any()):
            raise ValueError(f"the box {box.tolist()} leaves fewer than two vertices of the grid along an axis")
        low = self.box[0].clone()
        self._crop(first.tolist(), last.tolist())
        self.box.copy_(torch.stack([low + first * edges, low + last * edges]))
        self.resolution = check_resolution((last - first + 1).tolist())
        return self.box

    def clone(self: Self) -> Self:
        """An independent copy."""
        return copy.deepcopy(self)


def draw(shape: tuple[int, ...], scale: float, generator: torch.Generator | None) -> nn.Parameter:
    """A normal grid of this deviation."""
    return nn.Parameter(scale * torch.randn(shape, generator=generator))


def check_rank(name: str, rank: object) -> int:
    """A whole number of at least 1."""
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"{name} {rank!r} must be a whole number of at least 1")
    return rank
