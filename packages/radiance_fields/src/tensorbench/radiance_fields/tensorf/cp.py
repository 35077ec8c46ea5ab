"""TensoRF-CP: a grid as a sum of products of three lines (Chen et al. 2022, arXiv 2203.09517).

``f(x, y, z) = Σ_r X_r(x) Y_r(y) Z_r(z)``. Lines are ``(1, R, size, 1)`` in the order z, y, x, as in the reference
implementation.
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
from tensorbench.radiance_fields.tensorf.grids import Resolution, resample_plane, sample_line
from tensorbench.radiance_fields.tensorf.vm import LINES


class TensorCP(TensorField):
    """Products of three lines; ``3 n (R_σ + R_c) + 27 R_c`` weights on n³ vertices, and the colour network's.

    Args:
        rank_sigma, rank_color: components.
        scale: deviation of the initial factors.
    Other arguments are those of :class:`TensorField`.
    """

    def __init__(
        self,
        box: Box,
        resolution: Sequence[int],
        rank_sigma: int = 96,
        rank_color: int = 288,
        *,
        scale: float = 0.2,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        ranks = {"sigma": check_rank("rank_sigma", rank_sigma), "color": check_rank("rank_color", rank_color)}
        super().__init__(box, resolution, products=ranks["color"], generator=generator, **options)
        self.lines = nn.ModuleDict(
            {
                kind: nn.ParameterList([draw((1, rank, self.resolution[c], 1), scale, generator) for c in LINES])
                for kind, rank in ranks.items()
            }
        )

    def rank(self, kind: str) -> int:
        """Components of ``sigma`` or ``color``."""
        return self.lines[kind][0].shape[1]  # type: ignore[index]

    def density_volume(self) -> Float[Tensor, "x y z"]:
        z, y, x = (line[0, :, :, 0] for line in self.lines["sigma"])  # type: ignore[attr-defined]
        sizes = self.resolution
        xy = (x[:, :, None] * y[:, None]).reshape(len(x), -1)
        return (xy.T @ z).reshape(sizes)

    def density_features(self, coords: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        return self._products("sigma", coords).sum(0)

    def color_products(self, coords: Float[Tensor, "m 3"]) -> Float[Tensor, "p m"]:
        return self._products("color", coords)

    def _products(self, kind: str, coords: Tensor) -> Tensor:
        z, y, x = (sample_line(line, coords[:, c]) for line, c in zip(self.lines[kind], LINES, strict=True))  # type: ignore[call-overload]
        return z * y * x

    def grids(self) -> list[nn.Parameter]:
        return list(self.lines.parameters())

    def regularizers(self) -> Mapping[str, Tensor]:
        """``l1`` (density), ``tv_sigma``, ``tv_color``; with the reference's factors."""
        sigma, color = list(self.lines["sigma"]), list(self.lines["color"])  # type: ignore[call-overload]
        return losses.LazyTerms(
            l1=lambda: losses.l1(sigma),
            tv_sigma=lambda: 1e-3 * torch.stack([losses.total_variation(line) for line in sigma]).sum(),
            tv_color=lambda: 1e-3 * torch.stack([losses.total_variation(line) for line in color]).sum(),
        )

    def _resample(self, resolution: Resolution) -> None:
        for lines in self.lines.values():
            for k, c in enumerate(LINES):
                lines[k] = nn.Parameter(resample_plane(lines[k], (resolution[c], 1)))  # type: ignore

    def _crop(self, first: Sequence[int], last: Sequence[int]) -> None:
        for lines in self.lines.values():
            for k, c in enumerate(LINES):
                lines[k] = nn.Parameter(lines[k][:, :, first[c] : last[c] + 1].clone())  # type: ignore
