"""A cloud of local tensors at several scales, and the features of a point in it.

At each scale boxes of half range h stand at a spacing of about 4h/3 where the scene is occupied. A point takes, from
every scale, its K nearest tensors among those whose box holds it, with weights w_k = 1 / (d_k + 1e-6) of the distances
to their centres, divided by max(Σ w, 1); features of scales add up (densities), or are mapped by a linear basis each
and then add up (appearance). Where boxes are smaller than 1/√3 in half range (all of the paper's), the maximum with 1
never acts and the weights sum to 1.

Source: Gao, Xu, Su, Neumann, Xu, "Strivec: Sparse Tri-Vector Radiance Fields", ICCV 2023, arXiv 2307.13226; constants
from its reference code's configurations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.strivec.local_tensors import LocalTensors, local_tensors
from tensorbench.radiance_fields.strivec.neighbours import CellIndex, Pairs
from tensorbench.radiance_fields.strivec.placement import voxel_centers

EPSILON = 1e-6
BLENDS = ("inverse", "squared", "uniform", "sum")


@dataclass(frozen=True)
class Scale:
    """Tensors every ``spacing``, boxes of ``half_range`` (scene units), ``dim`` intervals an axis, and two ranks."""

    spacing: float
    half_range: float
    dim: int
    rank_sigma: int
    rank_color: int

    def __post_init__(self) -> None:
        if not self.spacing > 0 or not self.half_range > 0:
            raise ValueError(f"spacing {self.spacing} and half_range {self.half_range} must be positive")
        if 2 * self.half_range < self.spacing:
            raise ValueError(
                f"boxes of half range {self.half_range} every {self.spacing} leave gaps; "
                f"use half_range >= {self.spacing / 2}"
            )


PAPER_SCALES = (Scale(0.4, 0.3, 29, 32, 48), Scale(0.2, 0.15, 15, 24, 48), Scale(0.1, 0.075, 7, 16, 48))
PAPER_GROWTH = ((43, 23, 11), (65, 35, 17), (85, 43, 21), (103, 53, 27), (121, 61, 31))  # dims by scale, each time


@dataclass(frozen=True)
class Gathered:
    """For each scale the pairs of points and tensors, and their weights; pairs count the points in ``rows``."""

    points: int
    rows: Int[Tensor, "q"]
    pairs: list[Pairs]
    weights: list[Float[Tensor, "p"]]


def blend_weights(
    rows: Int[Tensor, "p"], distance: Float[Tensor, "p"], points: int, blend: str = "inverse"
) -> Float[Tensor, "p"]:
    """The weight of each pair in its point's features.

    ``inverse``: 1 / (d + 1e-6) over max(sum, 1), the paper's; ``squared``: 1 / (d² + 1e-6) likewise; ``uniform``: the
    mean; ``sum``: 1, no weights.
    """
    if blend == "sum":
        return torch.ones_like(distance)
    if blend == "uniform":
        raw = torch.ones_like(distance)
    elif blend == "inverse":
        raw = 1 / (distance + EPSILON)
    elif blend == "squared":
        raw = 1 / (distance.square() + EPSILON)
    else:
        raise ValueError(unknown("blend", blend, BLENDS))
    total = raw.new_zeros(points).index_add_(0, rows, raw).clamp_(min=1)
    return raw / total[rows]


class TensorCloud(nn.Module):
    """The local tensors of every scale, their indices of cells, and blended features.

    ``neighbours`` is K, ``blend`` one of :data:`BLENDS`. Made from points near surfaces by :meth:`at_points`.
    """

    def __init__(
        self, locals_: Sequence[LocalTensors], *, neighbours: int = 4, blend: str = "inverse", spacings: Sequence[float]
    ) -> None:
        super().__init__()
        if blend not in BLENDS:
            raise ValueError(unknown("blend", blend, BLENDS))
        if neighbours < 1:
            raise ValueError(f"neighbours {neighbours} is K, the tensors a point takes from each scale; use at least 1")
        if not locals_ or len(spacings) != len(locals_):
            raise ValueError(f"{len(locals_)} scales with {len(spacings)} spacings; one spacing a scale is needed")
        if list(spacings) != sorted(spacings, reverse=True):
            raise ValueError(f"spacings {tuple(spacings)} must go from coarse to fine: sort the scales")
        self.tensors = nn.ModuleList(locals_)
        self.neighbours, self.blend, self.spacings = neighbours, blend, tuple(spacings)
        self._indices: list[CellIndex] | None = None

    @classmethod
    def at_points(
        cls,
        points: Float[Tensor, "m 3"],
        scales: Sequence[Scale] = PAPER_SCALES,
        *,
        generator: torch.Generator,
        kind: str = "cp",
        place: str = "voxel",
        neighbours: int = 4,
        blend: str = "inverse",
        init: float = 0.2,
    ) -> TensorCloud:
        """Tensors of ``kind`` (``cp`` or ``vm``) in the voxels, of each scale's spacing, that hold a point.

        ``place`` is ``voxel`` (centre of the voxel, as the reference's configurations) or ``mean`` (of its points).
        """
        spacings = [scale.spacing for scale in scales]
        make = local_tensors(kind)
        made = [
            make(
                voxel_centers(points, scale.spacing, place=place), scale.half_range, scale.dim, scale.rank_sigma,
                scale.rank_color, generator=generator, init=init,
            )
            for scale in scales
        ]  # fmt: skip
        return cls(made, neighbours=neighbours, blend=blend, spacings=spacings)

    @property
    def scales(self) -> list[LocalTensors]:
        """The tensors of each scale, coarse to fine."""
        return list(self.tensors)  # type: ignore[arg-type]

    @property
    def indices(self) -> list[CellIndex]:
        """The index of each scale, made when first needed and after tensors were dropped or moved to a device."""
        device = self.scales[0].centers.device
        if self._indices is None or self._indices[0].low.device != device:
            self._indices = [CellIndex(scale.centers, scale.half_range) for scale in self.scales]
        return self._indices

    def filter_uncovered(self, points: Float[Tensor, "m 3"], every: bool = True) -> Bool[Tensor, "m"]:
        """Which points lie in a tensor's box of every scale (or, with ``every=False``, of any)."""
        _check_points(points)
        rows = self._candidates(points, every)
        found = torch.stack([index.covers(points[rows]) for index in self.indices])
        covered = found.all(0) if every else found.any(0)
        return torch.zeros(len(points), dtype=torch.bool, device=points.device).index_copy_(0, rows, covered)

    def _candidates(self, points: Float[Tensor, "m 3"], every: bool) -> Int[Tensor, "q"]:
        """The points whose cells meet boxes of every (any) scale; the finest scale, the emptiest, is asked first."""
        if not every:
            return torch.stack([index.may_cover(points) for index in self.indices]).any(0).nonzero()[:, 0]
        rows = torch.arange(len(points), device=points.device)
        for index in reversed(self.indices):
            rows = rows[index.may_cover(points[rows])]
        return rows

    def coverage(self, points: Float[Tensor, "m 3"]) -> Int[Tensor, "m scales"]:
        """How many tensors of each scale hold each point, before the K nearest are chosen."""
        _check_points(points)
        return torch.stack([index.count(points) for index in self.indices], 1)

    @torch.no_grad()
    def gather(self, points: Float[Tensor, "m 3"], every: bool = False) -> Gathered:
        """Which tensors the features of ``points`` are made of; with ``every`` only of those that all scales cover."""
        _check_points(points)
        rows = self._candidates(points, every)
        found = [index.pairs(points[rows], self.neighbours) for index in self.indices]
        if every and len(found) > 1:
            held = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
            for pairs in found:
                held &= torch.zeros_like(held).index_fill_(0, pairs.rows, True)
            if not held.all():
                found = [pairs.where(held[pairs.rows]) for pairs in found]
        weights = [blend_weights(pairs.rows, pairs.distance, len(rows), self.blend) for pairs in found]
        return Gathered(len(points), rows, found, weights)

    def sigma(self, points: Float[Tensor, "m 3"] | Gathered, every: bool = False) -> Float[Tensor, "m"]:
        """Density features, summed over scales; 0 and without gradient where no tensor is."""
        found = points if isinstance(points, Gathered) else self.gather(points, every)
        total = self.scales[0].centers.new_zeros(len(found.rows))
        for scale, pairs, weights in zip(self.scales, found.pairs, found.weights, strict=True):
            if len(pairs):
                total = total.index_add(0, pairs.rows, weights * scale.sigma(pairs.ids, pairs.local))
        return total.new_zeros(found.points).index_copy(0, found.rows, total)

    def color(self, points: Float[Tensor, "m 3"] | Gathered, every: bool = False) -> list[Float[Tensor, "m features"]]:
        """Appearance components of each scale."""
        found = points if isinstance(points, Gathered) else self.gather(points, every)
        parts = []
        for scale, pairs, weights in zip(self.scales, found.pairs, found.weights, strict=True):
            values = weights[:, None] * scale.color(pairs.ids, pairs.local)
            blended = values.new_zeros(found.points, scale.features)
            parts.append(blended.index_add(0, found.rows[pairs.rows], values))
        return parts

    def grow(self, dims: Sequence[int]) -> None:
        """Interpolate the tensors of each scale to ``dims`` intervals; the parameters are new ones."""
        if len(dims) != len(self.tensors):
            raise ValueError(f"{len(dims)} dims for {len(self.tensors)} scales; give one a scale")
        for scale, dim in zip(self.scales, dims, strict=True):
            scale.upsample(dim)

    def prune(self, keep: Sequence[Bool[Tensor, "_"]]) -> list[int]:
        """Keep, at each scale, the tensors that are true in ``keep``; how many went of each."""
        before = [len(scale.centers) for scale in self.scales]
        for scale, mask in zip(self.scales, keep, strict=True):
            if not mask.all():
                scale.prune(mask)
        self._indices = None
        return [count - len(scale.centers) for count, scale in zip(before, self.scales, strict=True)]

    def density_l1(self) -> Float[Tensor, ""]:
        """The reference's sparsity term, over all scales."""
        return torch.stack([scale.density_l1() for scale in self.scales]).sum()

    def counts(self) -> dict[str, int]:
        """Tensors and weights by scale and part: ``tensors_0``, ``density_0``, ``appearance_0``, …"""
        counts = {}
        for number, scale in enumerate(self.scales):
            counts[f"tensors_{number}"] = len(scale.centers)
            counts |= {f"{part}_{number}": value for part, value in scale.counts().items()}
        return counts

    def statistics(self, points: Float[Tensor, "m 3"]) -> dict[str, float]:
        """The share of ``points`` that all scales cover, and there the tensors taken a sample, in all and by scale."""
        coverage = self.coverage(points)
        covered = (coverage > 0).all(1)
        taken = coverage[covered].clamp(max=self.neighbours).double()
        means = taken.mean(0).tolist() if len(taken) else [0.0] * coverage.shape[1]
        found = {f"tensors_per_sample_{number}": value for number, value in enumerate(means)}
        return found | {"covered": covered.double().mean().item(), "tensors_per_sample": sum(means)}


def with_growth(scales: Sequence[Scale], dims: Sequence[int]) -> tuple[Scale, ...]:
    """The scales with other ``dims``."""
    return tuple(replace(scale, dim=dim) for scale, dim in zip(scales, dims, strict=True))


def _check_points(points: Float[Tensor, "m 3"]) -> None:
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must be (m, 3), got {tuple(points.shape)}")
    if not torch.isfinite(points).all():
        raise ValueError("points must be finite: a ray with NaN or infinite origin or direction came in")
