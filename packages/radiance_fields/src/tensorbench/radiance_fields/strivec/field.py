"""Strivec: a radiance field made of a cloud of local tri-vector tensors near surfaces.

σ(x) = softplus(Σ_scales Σ_k w_k Σ_r Π_axes v_r(x) − 10); appearance components of each scale pass a bias-free linear
map to 27 features, which add up, and TensoRF's small network makes the colour. Points that the tensors of some scale do
not cover are empty: σ = softplus(−10), without gradient.

Source: Gao, Xu, Su, Neumann, Xu, "Strivec: Sparse Tri-Vector Radiance Fields", ICCV 2023, arXiv 2307.13226.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.rendering import DISTANCE_SCALE
from tensorbench.radiance_fields.strivec.cloud import TensorCloud
from tensorbench.radiance_fields.tensorf.losses import LazyTerms
from tensorbench.radiance_fields.tensorf.shading import ColorNet, linear


class Strivec(Field):
    """The field of a :class:`~tensorbench.radiance_fields.strivec.cloud.TensorCloud`.

    Args:
        cloud: the tensors.
        box: corners of the scene.
        features, width, view_freqs, feature_freqs: of the colour network, as TensoRF's.
        density_shift: added before the softplus.
        filter_all: only points that every scale covers hold something (the reference's "filter all"); else any scale.
        growth: dims of the scales after each call of :meth:`upsample`, in turn.
        rate: the tensors learn at so many times the grids' rate that a trainer asks for.
    """

    def __init__(
        self,
        cloud: TensorCloud,
        box: Float[Tensor, "2 3"],
        *,
        generator: torch.Generator,
        features: int = 27,
        width: int = 128,
        view_freqs: int = 2,
        feature_freqs: int = 2,
        density_shift: float = -10.0,
        filter_all: bool = True,
        growth: Sequence[Sequence[int]] = (),
        rate: float = 1.0,
    ) -> None:
        super().__init__(box)
        self.cloud, self.density_shift, self.filter_all, self.rate = cloud, density_shift, filter_all, rate
        self.growth = [tuple(dims) for dims in growth]
        self.bases = nn.ModuleList(linear(scale.features, features, generator, bias=False) for scale in cloud.scales)
        self.net = ColorNet(features, width, view_freqs, feature_freqs, generator)

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        return F.softplus(self.cloud.sigma(points, self.filter_all) + self.density_shift)

    def color(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return self.net(self.appearance(points), directions)

    def appearance(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m f"]:
        """The features that colours are made of."""
        parts = [basis(part) for basis, part in zip(self.bases, self.cloud.color(points, self.filter_all), strict=True)]
        return torch.stack(parts).sum(0)

    def occupied(self, points: Float[Tensor, "m 3"]) -> Bool[Tensor, "m"]:
        """Which points may hold something: a mask for the renderer."""
        return self.cloud.filter_uncovered(points, self.filter_all)

    def regularizers(self) -> Mapping[str, Tensor]:
        """``l1``: of the density factors (1e-5 in the paper's configurations)."""
        return LazyTerms(l1=self.cloud.density_l1)

    def parameter_groups(self, lr_grid: float = 0.02, lr_net: float = 1e-3) -> list[dict[str, Any]]:
        networks = [*self.bases.parameters(), *self.net.parameters()]
        tensors = {"params": list(self.cloud.parameters()), "lr": self.rate * lr_grid}
        return [tensors, {"params": networks, "lr": lr_net}]

    def upsample(self, resolution: Sequence[int] | None = None) -> None:
        """Grow the tensors to the next entry of ``growth``; the optimizer must be made anew.

        Schedules speak of the resolution of one grid, which a cloud does not have: ``resolution`` is not looked at.
        """
        if not self.growth:
            raise ValueError(
                "growth has no entry left: give Strivec(growth=...) the dims of the scales for each growth"
            )
        self.cloud.grow(self.growth.pop(0))

    @torch.no_grad()
    def prune(self, threshold: float = 1e-3, nodes: int = 5) -> list[int]:
        """Drop tensors in whose boxes nothing is opaque; how many went of each scale.

        A tensor stays if, at one of ``nodes``³ points of its box, the field's opacity over one interval of the finest
        scale passes ``threshold``, or if it is the only scale's last. The optimizer must be made anew.
        """
        finest = self.cloud.scales[-1]
        length = 2 * finest.half_range / finest.dim
        lattice = torch.linspace(-1, 1, nodes, device=self.box.device)
        grid = torch.stack(torch.meshgrid(lattice, lattice, lattice, indexing="ij"), -1).reshape(-1, 3)
        keep = []
        for scale in self.cloud.scales:
            points = scale.centers[:, None] + scale.half_range * grid
            opacity = -torch.expm1(-DISTANCE_SCALE * length * self.density(points.reshape(-1, 3))).view(len(points), -1)
            alive = opacity.amax(1) > threshold
            keep.append(alive if alive.any() else opacity.amax(1) == opacity.max())
        return self.cloud.prune(keep)

    def counts(self) -> dict[str, int]:
        """Tensors and weights by scale and part, with ``basis``, ``network`` and the ``total`` of weights."""
        counts = self.cloud.counts()
        counts["basis"] = sum(p.numel() for p in self.bases.parameters())
        counts["network"] = sum(p.numel() for p in self.net.parameters())
        counts["total"] = sum(p.numel() for p in self.parameters())
        return counts
