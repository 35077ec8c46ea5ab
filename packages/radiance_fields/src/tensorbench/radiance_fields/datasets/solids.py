"""Occupancy volumes of random solids, for fits of volumes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import dataset

_KINDS = ("boxes", "balls")


@dataset(title="Random solids as occupancy volumes", source="generated here", licence="Apache-2.0", generated=True)
def random_solids(*, seed: int, kind: str = "boxes", n: int = 48, count: int = 6) -> Float[np.ndarray, "n n n"]:
    """The union of ``count`` rotated boxes or of balls in [-1, 1]³ at n³ vertices, (n, n, n) float32 in [0, 1].

    Surfaces are one voxel wide (a sigmoid of the signed distance).
    """
    if kind not in _KINDS:
        from tensorbench.core.errors import unknown

        raise ValueError(unknown("kind", kind, _KINDS))
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, n)
    at = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    distance = np.full((n, n, n), np.inf)
    for _ in range(count):
        local = at - rng.uniform(-0.55, 0.55, 3)
        if kind == "balls":
            here = np.linalg.norm(local, axis=-1) - rng.uniform(0.15, 0.35)
        else:
            rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
            q = np.abs(local @ rotation) - rng.uniform(0.08, 0.4, 3)
            here = np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)
        distance = np.minimum(distance, here)
    return (1 / (1 + np.exp(np.clip(distance * (n - 1) * 2, -50, 50)))).astype(np.float32)
