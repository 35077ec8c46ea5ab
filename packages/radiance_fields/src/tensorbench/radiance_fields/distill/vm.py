"""TensoRF's VM field as progressive volume distillation writes it (Fang et al. 2022, arXiv 2211.15977): the sum of the
density products is the log density itself, the appearance products are mixed to 15 features, and colour comes from the
same network as in the other architectures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.radiance_fields.encodings import trunc_exp
from tensorbench.radiance_fields.fields.staged import LOG_SCALE, ColorNet, StagedField
from tensorbench.radiance_fields.tensorf.base import TensorField
from tensorbench.radiance_fields.tensorf.vm import Ranks, TensorVM


class VMField(StagedField, TensorVM):
    """A VM tensor field in stages; ranks 16 and 48 for each axis in the paper. Upsampling and shrinking are
    :class:`~tensorbench.radiance_fields.tensorf.vm.TensorVM`'s."""

    def __init__(
        self,
        box: Float[Tensor, "2 3"],
        resolution: Sequence[int],
        rank_sigma: Ranks = 16,
        rank_color: Ranks = 48,
        *,
        hidden: int = 64,
        color_features: int = 15,
        generator: torch.Generator | None = None,
    ) -> None:
        TensorVM.__init__(
            self, box, resolution, rank_sigma, rank_color, features=color_features, width=1, density_shift=0.0,
            generator=generator,
        )  # fmt: skip
        del self.net
        self.color_net = ColorNet(color_features, hidden, generator)

    def features(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m f"]:
        log_sigma = self.density_features(self.normalized(points))
        return torch.cat((log_sigma[:, None], self.appearance(points)), dim=-1)

    def rgb(self, features: Float[Tensor, "m f"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return self.color_net(features[:, 1:], directions)

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        return trunc_exp(self.density_features(self.normalized(points)) - LOG_SCALE)

    def color(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return self.color_net(self.appearance(points), directions)

    def grids(self) -> list[nn.Parameter]:
        return TensorVM.grids(self)


class InStages(StagedField):
    """A :class:`~tensorbench.radiance_fields.tensorf.base.TensorField` with its own network and softplus, as it comes
    from its trainer, seen in stages: the logarithm of its density and its appearance features. Their width is another
    one, so that a distillation from it takes ``adapter=True``."""

    def __init__(self, field: TensorField) -> None:
        super().__init__(field.box)
        self.field = field

    def features(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m f"]:
        log_sigma = self.field.density(points).clamp(min=1e-12).log() + LOG_SCALE
        return torch.cat((log_sigma[:, None], self.field.appearance(points)), dim=-1)

    def rgb(self, features: Float[Tensor, "m f"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return self.field.net(features[:, 1:], directions)

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        return self.field.density(points)

    def grids(self) -> list[nn.Parameter]:
        return self.field.grids()


def build(data: Any, *, resolution: int = 48, generator: torch.Generator | None = None, **params: Any) -> VMField:
    """A field for a scene's box (``data.box``), untrained; ``resolution`` nodes a side."""
    return VMField(torch.as_tensor(data.box), (resolution,) * 3, generator=generator, **params)
