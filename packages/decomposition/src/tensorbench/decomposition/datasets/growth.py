"""What a tensor network is grown on: planted networks of four kinds and photographs as tensors of high order.

The planted tensors are drawn anew for every seed, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorbench.core.data import dataset

# Bonds (i, j, rank) of the paper's targets; vertex 5 is the core of the Tucker tensor.
BONDS = {
    "triangle": ((0, 1, 5), (1, 2, 2), (2, 3, 5), (1, 4, 2), (2, 4, 2)),
    "tt": ((0, 1, 2), (1, 2, 3), (2, 3, 6), (3, 4, 5)),
    "tr": ((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 0, 5)),
    "tucker": ((0, 5, 2), (1, 5, 3), (2, 5, 4), (3, 5, 3), (4, 5, 2)),
}


def planted_ranks(kind: str, size: int = 7, largest: int = 100) -> np.ndarray:
    """Structure matrix of a kind of target: modes of ``size``, ranks of the paper but at most ``largest``."""
    from tensorbench.core.errors import unknown
    from tensorbench.decomposition.network import structure_matrix

    if kind not in BONDS:
        raise ValueError(unknown("kind of network", kind, list(BONDS)))
    ranks = structure_matrix([size] * 5 + [1] * (kind == "tucker"))
    for i, j, rank in BONDS[kind]:
        ranks[i, j] = ranks[j, i] = min(rank, largest)
    return ranks


@dataclass(frozen=True)
class GrowthTarget:
    """A tensor of norm 1 and, where it was planted, the structure matrix behind it (None for a picture)."""

    tensor: np.ndarray
    ranks: np.ndarray | None = None

    @property
    def params(self) -> int | None:
        """Parameters of the planted network."""
        return None if self.ranks is None else int(self.ranks.prod(axis=1).sum())


@dataset(
    title="Tensors planted on a triangle, a train, a ring and a Tucker network",
    source="generated here",
    licence="Apache-2.0",
    generated=True,
    cache=False,
)
def planted_networks(
    *, seed: int, size: int = 7, kinds: tuple[str, ...] | list[str] = tuple(BONDS), largest: int = 100
) -> dict[str, GrowthTarget]:
    """One tensor of five modes of ``size`` per kind, ranks as in the paper but at most ``largest``."""
    from tensorbench.decomposition.network import random_network

    targets = {}
    for kind in kinds:
        ranks = planted_ranks(kind, size, largest)
        rng = np.random.default_rng([13, list(BONDS).index(kind), seed])
        tensor = np.asarray(random_network(ranks, rng).full()).reshape((size,) * 5)
        targets[kind] = GrowthTarget(tensor / np.linalg.norm(tensor), ranks)
    return targets


@dataset(
    title="Two photographs as tensors of modes of size 4",
    source="scikit-image (astronaut: NASA; camera: Lav Varshney)",
    licence="public domain and CC0",
    library="scikit-image",
)
def growth_pictures(*, seed: int, camera_pixels: int = 256, astronaut_pixels: int = 64) -> dict[str, GrowthTarget]:
    """camera, 256 × 256, as 4^8 and astronaut, 64 × 64 × 3, as 4^6 × 3, row-major; blocks of pixels are averaged."""
    from tensorbench.decomposition.datasets.tensors import astronaut, camera

    targets = {}
    for name, load, pixels in (("camera", camera, camera_pixels), ("astronaut", astronaut, astronaut_pixels)):
        digits = round(np.log2(max(pixels, 1)))
        if pixels != 2**digits or not 4 <= pixels <= 512:
            raise ValueError(f"{name}: {pixels} pixels a side do not become modes of 4; use a power of 2 from 4 to 512")
        picture = load(seed=0, shrink=512 // pixels)
        tensor = picture.reshape((4,) * digits + picture.shape[2:])
        targets[name] = GrowthTarget(tensor / np.linalg.norm(tensor))
    return targets
