"""A radiance field whose density and appearance are functional tensors: a network for each of x, y and z (F-INR,
Vemuri, Büchner and Denzler 2025, arXiv 2503.21507), between TensoRF's activation and colour network.

A step evaluates each axis's network at ``nodes`` coordinates, 3 · ``nodes`` in all, however many rays it has. The
density is the contraction to the grid of these nodes, interpolated trilinearly (as tensorf does with its volume), or,
where the grid has more vertices than that is worth, the contraction at points of factors interpolated linearly;
appearance always is the latter. So this is a tensor field of ``nodes``³ vertices with networks for its lines: how the
paper samples its fields could not be read. The networks can be evaluated on more nodes than they were trained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tensorbench.radiance_fields.fields.base import Box, Field
from tensorbench.radiance_fields.implicit.functional import FunctionalTensor
from tensorbench.radiance_fields.implicit.nets import Axis
from tensorbench.radiance_fields.tensorf.grids import trilinear
from tensorbench.radiance_fields.tensorf.shading import ColorNet

if TYPE_CHECKING:
    from tensorbench.radiance_fields.views import SceneData

_VERTICES_PER_POINT = 8


class FunctionalField(Field):
    """Density and appearance in a tensor format with networks of one coordinate.

    Args:
        box: corners of the scene.
        axis: the network of every axis.
        format: ``cp``, ``tt``, ``tucker`` or ``ring``.
        rank_sigma, rank_color: ranks of the two tensors, as :class:`FunctionalTensor` takes them.
        features: appearance features that the colour network sees; its hidden layers have ``width``.
        nodes: coordinates of each axis at which the networks are evaluated.
        density_shift: added before the softplus.
        axis_rate: the axes' learning rate over that of the other networks.
    """

    def __init__(
        self,
        box: Box,
        axis: Axis,
        *,
        format: str = "cp",
        rank_sigma: int | Sequence[int] = 48,
        rank_color: int | Sequence[int] = 96,
        features: int = 27,
        width: int = 64,
        nodes: int = 64,
        density_shift: float = -5.0,
        axis_rate: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(box)
        if nodes < 2:
            raise ValueError(f"{nodes} nodes: an axis needs at least 2")
        self.nodes, self.density_shift, self.axis_rate = nodes, density_shift, axis_rate
        self.sigma = FunctionalTensor([axis] * 3, format, rank_sigma, 1, generator, std=1.0)
        self.appearance = FunctionalTensor([axis] * 3, format, rank_color, features, generator, shared=True, std=0.3)
        self.net = ColorNet(features, width, generator=generator)

    def _tables(self, tensor: FunctionalTensor) -> list[Tensor]:
        at = torch.linspace(-1, 1, self.nodes, device=self.box.device)
        return tensor.factors([at] * 3)

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        coordinates = self.normalized(points)
        tables = self._tables(self.sigma)
        if self.nodes**3 <= _VERTICES_PER_POINT * len(points):
            value = trilinear(self.sigma.contract_grid(tables)[..., 0], coordinates)
        else:
            value = self.sigma.interpolated(tables, coordinates)[:, 0]
        return F.softplus(value + self.density_shift)

    def color(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        features = self.appearance.interpolated(self._tables(self.appearance), self.normalized(points))
        return self.net(features, directions)

    def regularizers(self) -> Mapping[str, Tensor]:
        """``l1``: mean absolute value of the density's factors at the nodes."""
        return {"l1": torch.stack([table.abs().mean() for table in self._tables(self.sigma)]).sum()}

    def parameter_groups(self, lr_grid: float = 0.02, lr_net: float = 1e-3) -> list[dict[str, Any]]:
        axes = [*self.sigma.parameters(), *self.appearance.parameters()]
        return [{"params": axes, "lr": self.axis_rate * lr_net}, {"params": list(self.net.parameters()), "lr": lr_net}]


def build(data: SceneData, *, generator: torch.Generator | None = None, **params: Any) -> FunctionalField:
    """A field for a scene's box, untrained. ``backend``, ``embedding``, ``layers`` (widths) and ``options`` make the
    axes' networks, other parameters are those of :class:`FunctionalField`."""
    axis = Axis(params.pop("backend", "siren"), params.pop("embedding", "none"),
                tuple(params.pop("layers", (64, 64, 64))), dict(params.pop("options", {})))  # fmt: skip
    return FunctionalField(torch.as_tensor(data.box), axis, generator=generator, **params)
