"""Which boxes of one size a point lies in: a uniform grid of cells that list the boxes touching them.

Exact: the K nearest centres among the boxes that contain the point (maximum norm to the centre at most the half
range), as a brute-force search gives. Strivec's CUDA code lists at most K boxes a cell instead, nearest to the cell's
centre, and takes those for every point of the cell; with cells as small as its voxels the difference is slight.

Source: Gao et al., Strivec (2023, arXiv 2307.13226), section on the aggregation of neighbouring tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_MOST_CELLS = 2**27
_CHUNK = 1 << 16  # points looked up at once: bounds the memory of the candidates' distances


@dataclass(frozen=True)
class Pairs:
    """Point ``rows`` (not decreasing) lies in box ``ids``, at ``local`` of [-1, 1]³, ``distance`` from its centre."""

    rows: Int[Tensor, "p"]
    ids: Int[Tensor, "p"]
    local: Float[Tensor, "p 3"]
    distance: Float[Tensor, "p"]

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, keep: Bool[Tensor, "p"] | Int[Tensor, "q"]) -> Pairs:
        """Some of the pairs, by a mask or in the order of indices."""
        return Pairs(self.rows[keep], self.ids[keep], self.local[keep], self.distance[keep])


class CellIndex:
    """An index of cubes with centres ``centers`` and sides 2 × ``half_range``.

    ``cell`` is the side of a cell (default: two thirds of the half range). The index holds an integer for each cell of
    the bounding box and a list for each cell that a cube touches.
    """

    def __init__(self, centers: Float[Tensor, "n 3"], half_range: float, cell: float | None = None) -> None:
        self.half_range = float(half_range)
        self.cell = float(cell) if cell is not None else self.half_range / 1.5
        if not self.cell > 0:
            raise ValueError(f"cell {self.cell} is a length and must be positive")
        # A margin of a cell all around belongs to no box: whoever is further away is moved there.
        margin = self.half_range + 1.01 * self.cell
        self.low = centers.amin(0) - margin
        extent = centers.amax(0) + margin - self.low
        self.shape = ((extent / self.cell).floor().long() + 1).tolist()
        self.last = centers.new_tensor(self.shape) - 1
        total = self.shape[0] * self.shape[1] * self.shape[2]
        if total > _MOST_CELLS:
            raise ValueError(f"{total} cells of side {self.cell} cover the tensors' bounding box; use a larger cell")
        cells, boxes = self._touching(centers)
        order = torch.argsort(cells, stable=True)
        cells, boxes = cells[order], boxes[order]
        used, counts = torch.unique_consecutive(cells, return_counts=True)
        first = counts.cumsum(0) - counts
        rank = torch.arange(len(cells), device=cells.device) - first.repeat_interleave(counts)
        place = torch.arange(len(used), device=cells.device).repeat_interleave(counts)
        # Empty places of the lists point to a box far away, which holds no point.
        self.lists = torch.full((int(counts.max()), len(used)), len(centers), dtype=torch.long, device=cells.device)
        self.lists[rank, place] = boxes
        self.slots = torch.full((total,), -1, dtype=torch.long, device=cells.device)
        self.slots[used] = torch.arange(len(used), device=cells.device)
        self.axes = torch.cat([centers, torch.full_like(centers[:1], torch.inf)]).T.contiguous()

    def _touching(self, centers: Float[Tensor, "n 3"]) -> tuple[Int[Tensor, "t"], Int[Tensor, "t"]]:
        """Every (cell, box) such that the closed box meets the cell."""
        margin = 1e-5 * self.half_range
        low = ((centers - self.half_range - margin - self.low) / self.cell).floor().long()
        high = ((centers + self.half_range + margin - self.low) / self.cell).floor().long()
        last = torch.tensor(self.shape, device=centers.device) - 1
        low, high = low.clamp(min=0), high.minimum(last)
        span = torch.arange(int((high - low).max()) + 1, device=centers.device)
        at = low[:, None, None, None] + torch.stack(torch.meshgrid(span, span, span, indexing="ij"), -1)
        keep = (at <= high[:, None, None, None]).all(-1)
        boxes = keep.nonzero()[:, 0]
        x, y, z = at[keep].unbind(-1)
        return (x * self.shape[1] + y) * self.shape[2] + z, boxes

    def _slot(self, points: Float[Tensor, "m 3"]) -> Int[Tensor, "m"]:
        """The list that belongs to each point's cell, -1 where there is none."""
        at = (points - self.low).div_(self.cell).clamp_(min=0).minimum(self.last).long()
        x, y, z = at.unbind(1)
        return self.slots.take((x * self.shape[1] + y) * self.shape[2] + z)

    def may_cover(self, points: Float[Tensor, "m 3"]) -> Bool[Tensor, "m"]:
        """Whether the point's cell meets any box: cheap, and true wherever :meth:`covers` is."""
        return self._slot(points) >= 0

    def covers(self, points: Float[Tensor, "m 3"]) -> Bool[Tensor, "m"]:
        """Whether the point lies in a box."""
        return self.count(points) > 0

    def count(self, points: Float[Tensor, "m 3"]) -> Int[Tensor, "m"]:
        """How many boxes hold each point."""
        parts = []
        for part in points.split(_CHUNK):
            slot = self._slot(part)
            rows = (slot >= 0).nonzero()[:, 0]
            holds, *_ = self._candidates(part[rows], slot[rows])
            parts.append(torch.zeros_like(slot).index_copy_(0, rows, holds.sum(0)))
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long, device=points.device)

    def pairs(self, points: Float[Tensor, "m 3"], k: int) -> Pairs:
        """The at most ``k`` nearest boxes of each point among those that hold it."""
        if k < 1:
            raise ValueError(f"k {k} is the number of tensors that a point takes; use at least 1")
        found = [self._pairs(part, k, start * _CHUNK) for start, part in enumerate(points.split(_CHUNK))]
        if len(found) == 1:
            return found[0]
        return Pairs(*(torch.cat([getattr(f, name) for f in found]) for name in ("rows", "ids", "local", "distance")))

    def _pairs(self, points: Float[Tensor, "m 3"], k: int, start: int) -> Pairs:
        slot = self._slot(points)
        rows = (slot >= 0).nonzero()[:, 0]
        holds, squared, ids, offsets = self._candidates(points[rows], slot[rows])
        if k < len(holds):
            crowded = (holds.sum(0) > k).nonzero()[:, 0]
            if len(crowded):
                far = squared[:, crowded].masked_fill(~holds[:, crowded], torch.inf)
                nearest = far.topk(k, dim=0, largest=False, sorted=False).indices
                holds[:, crowded] = torch.zeros_like(far, dtype=torch.bool).scatter_(0, nearest, True)
        where, which = holds.T.nonzero(as_tuple=True)
        flat = which * holds.shape[1] + where
        local = torch.stack([offset.flatten()[flat] for offset in offsets], 1) / self.half_range
        return Pairs(rows[where] + start, ids.flatten()[flat], local, squared.flatten()[flat].sqrt())

    def _candidates(self, points: Float[Tensor, "q 3"], slot: Int[Tensor, "q"]):
        """For points in listed cells, candidates first: in range, squared distance, box, and offset by axis."""
        ids = self.lists.index_select(1, slot)
        holds: Tensor | None = None
        squared: Tensor | None = None
        offsets = []
        for axis in range(3):
            offset = points[:, axis] - self.axes[axis].take(ids)
            near = offset.abs() <= self.half_range
            holds = near if holds is None else holds & near
            squared = offset.square() if squared is None else torch.addcmul(squared, offset, offset)
            offsets.append(offset)
        return holds, squared, ids, offsets
