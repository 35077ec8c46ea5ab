"""TensoRF-VM: a grid as a sum of planes times lines, along each of the three axes.

Chen et al. 2022 (arXiv 2203.09517): with components r of the plane (a, b) and the line c,

    f(x, y, z) = Σ_r P_r(x, y) L_r(z) + Σ_r P_r(x, z) L_r(y) + Σ_r P_r(y, z) L_r(x)

for the density; the products of the appearance factors are not summed but mixed by a linear map. Layout of the factors
as in the reference implementation: plane ``(1, R, size of b, size of a)``, line ``(1, R, size of c, 1)`` for the axes
(a, b) in :data:`PLANES` and c in :data:`LINES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.radiance_fields.fields.base import Box
from tensorbench.radiance_fields.tensorf import losses
from tensorbench.radiance_fields.tensorf.base import TensorField, check_rank, draw
from tensorbench.radiance_fields.tensorf.grids import Resolution, resample_plane, sample_line, sample_plane

PLANES = ((0, 1), (0, 2), (1, 2))
LINES = (2, 1, 0)
_VOLUMES = ("ryx,rz->xyz", "rzx,ry->xyz", "rzy,rx->xyz")
Ranks = int | Sequence[int]


def three_ranks(name: str, rank: Ranks) -> tuple[int, int, int]:
    """One rank for each of the axes, from one for all or three."""
    each = list(rank) if isinstance(rank, Sequence) else [rank] * 3
    if len(each) != 3:
        raise ValueError(f"{name} {rank!r}: one rank, or three (for the lines along z, y and x)")
    first, second, third = (check_rank(name, r) for r in each)
    return first, second, third


class TensorVM(TensorField):
    """Planes times lines; ``3 (R_σ + R_c) (n² + n) + 27 · 3 R_c`` weights on n³ vertices, and the colour network's.

    Args:
        rank_sigma, rank_color: components along each axis, one number or three (for the lines along z, y, x).
        scale: deviation of the initial factors.
    Other arguments are those of :class:`TensorField`.
    """

    def __init__(
        self,
        box: Box,
        resolution: Sequence[int],
        rank_sigma: Ranks = 16,
        rank_color: Ranks = 48,
        *,
        scale: float = 0.1,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        ranks = {"sigma": three_ranks("rank_sigma", rank_sigma), "color": three_ranks("rank_color", rank_color)}
        super().__init__(box, resolution, products=sum(ranks["color"]), generator=generator, **options)
        size = self.resolution
        self.planes, self.lines = nn.ModuleDict(), nn.ModuleDict()
        for kind, each in ranks.items():
            axes = list(zip(each, PLANES, LINES, strict=True))
            self.planes[kind] = nn.ParameterList(
                [draw((1, r, size[b], size[a]), scale, generator) for r, (a, b), _ in axes]
            )
            self.lines[kind] = nn.ParameterList([draw((1, r, size[c], 1), scale, generator) for r, _, c in axes])

    def ranks(self, kind: str) -> tuple[int, ...]:
        """Components along each axis of ``sigma`` or ``color``."""
        return tuple(line.shape[1] for line in self.lines[kind])  # type: ignore[attr-defined]

    def factors(self, kind: str) -> list[tuple[Tensor, Tensor]]:
        """The three planes and lines of ``sigma`` or ``color``, as they enter the field (a subclass may mask)."""
        return list(zip(self.planes[kind], self.lines[kind], strict=True))  # type: ignore[call-overload]

    def density_volume(self) -> Float[Tensor, "x y z"]:
        pairs = zip(_VOLUMES, self.factors("sigma"), strict=True)
        parts = [torch.einsum(sizes, plane[0], line[0, :, :, 0]) for sizes, (plane, line) in pairs]
        return parts[0] + parts[1] + parts[2]

    def density_features(self, coords: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        return torch.stack([product.sum(0) for product in self._products("sigma", coords)]).sum(0)

    def color_products(self, coords: Float[Tensor, "m 3"]) -> Float[Tensor, "p m"]:
        return torch.cat(self._products("color", coords))

    def _products(self, kind: str, coords: Tensor) -> list[Tensor]:
        axes = zip(self.factors(kind), PLANES, LINES, strict=True)
        return [
            sample_plane(plane, coords[:, list(ab)]) * sample_line(line, coords[:, c]) for (plane, line), ab, c in axes
        ]

    def grids(self) -> list[nn.Parameter]:
        return [*self.planes.parameters(), *self.lines.parameters()]

    def regularizers(self) -> Mapping[str, Tensor]:
        """``l1`` (density), ``tv_sigma``, ``tv_color``, ``orthogonality``; with the reference's factors."""
        sigma, color = self.factors("sigma"), self.factors("color")
        return losses.LazyTerms(
            l1=lambda: losses.l1([factor for pair in sigma for factor in pair]),
            tv_sigma=lambda: 1e-2 * torch.stack([losses.total_variation(plane) for plane, _ in sigma]).sum(),
            tv_color=lambda: 1e-2 * torch.stack([losses.total_variation(plane) for plane, _ in color]).sum(),
            orthogonality=lambda: torch.stack([losses.orthogonality(line) for _, line in [*sigma, *color]]).sum(),
        )

    def _resample(self, resolution: Resolution) -> None:
        for kind in self.planes:
            planes, lines = self.planes[kind], self.lines[kind]
            for k, ((a, b), c) in enumerate(zip(PLANES, LINES, strict=True)):
                planes[k] = nn.Parameter(resample_plane(planes[k], (resolution[b], resolution[a])))  # type: ignore
                lines[k] = nn.Parameter(resample_plane(lines[k], (resolution[c], 1)))  # type: ignore

    def _crop(self, first: Sequence[int], last: Sequence[int]) -> None:
        part = [slice(low, high + 1) for low, high in zip(first, last, strict=True)]
        for kind in self.planes:
            planes, lines = self.planes[kind], self.lines[kind]
            for k, ((a, b), c) in enumerate(zip(PLANES, LINES, strict=True)):
                planes[k] = nn.Parameter(planes[k][:, :, part[b], part[a]].clone())  # type: ignore
                lines[k] = nn.Parameter(lines[k][:, :, part[c]].clone())  # type: ignore
