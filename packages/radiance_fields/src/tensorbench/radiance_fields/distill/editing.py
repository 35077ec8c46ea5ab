"""Edits of radiance fields: scale, translate, compose, erase. Edit where it is easy, then convert to any architecture:
a use of progressive volume distillation (Fang et al. 2022, arXiv 2211.15977).

An edited field is a field: it can be rendered, and distilled into a hash grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.fields.voxel import PlenoxelField


def _within(points: Tensor, box: Tensor) -> Tensor:
    return ((points >= box[0]) & (points <= box[1])).all(-1)


class Moved(Field):
    """A field scaled by ``scale`` about ``centre`` and then translated by ``offset``, on a box of its own.

    Densities are divided by the scale, so that what was opaque stays as opaque. Raises ValueError for a scale that is
    not positive.
    """

    def __init__(
        self,
        field: Field,
        *,
        scale: float = 1.0,
        offset: Sequence[float] = (0.0, 0.0, 0.0),
        centre: Sequence[float] = (0.0, 0.0, 0.0),
        box: Float[Tensor, "2 3"] | None = None,
    ) -> None:
        super().__init__(field.box if box is None else box)
        if scale <= 0:
            raise ValueError(f"scale {scale} must be positive")
        self.field, self.scale = field, scale
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float32))
        self.register_buffer("centre", torch.tensor(centre, dtype=torch.float32))

    def back(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """Where in the original field the points were."""
        return (points - self.offset - self.centre) / self.scale + self.centre  # type: ignore[operator]

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        before = self.back(points)
        return torch.where(_within(before, self.field.box), self.field.density(before) / self.scale, 0.0)

    def color(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return self.field.color(self.back(points), directions)


class Composed(Field):
    """Several fields in one box: densities add up, colours are the means weighted by density.

    Raises ValueError where there is none.
    """

    def __init__(self, fields: Sequence[Field], box: Float[Tensor, "2 3"] | None = None) -> None:
        if not fields:
            raise ValueError("nothing to compose: give one field or more")
        super().__init__(fields[0].box if box is None else box)
        self.fields = torch.nn.ModuleList(fields)

    def _each(self) -> list[Field]:
        return list(self.fields)  # type: ignore[arg-type]

    def _densities(self, points: Tensor) -> Tensor:
        parts = [torch.where(_within(points, f.box), f.density(points), 0.0) for f in self._each()]
        return torch.stack(parts)

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        return self._densities(points).sum(0)

    def color(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        shares = self._densities(points)
        shares = (shares + 1e-12) / (shares + 1e-12).sum(0)
        return sum(  # type: ignore[return-value]
            share[:, None] * f.color(points, directions) for share, f in zip(shares, self._each(), strict=True)
        )


def erase(field: PlenoxelField, region: Float[Tensor, "2 3"], log_density: float = -20.0) -> None:
    """Empty a box of a voxel field, in place: what PVD's editing example does to the bucket of its excavator."""
    axes = [
        torch.linspace(float(field.box[0, k]), float(field.box[1, k]), n, device=field.box.device)
        for k, n in enumerate(field.resolution)
    ]
    nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    with torch.no_grad():
        field.log_density[_within(nodes, region.to(nodes))] = log_density
