"""Occupancies of boxes that turn and of clutter, for the study of local and global rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import dataset


@dataclass(frozen=True)
class Occupancies:
    """Volumes on [-1, 1]³ with values in [0, 1]. ``degrees`` says how far each is turned (0 where nothing turns);
    ``flat`` are squares cut through a turned rectangle of the same sides, for the plane."""

    volumes: Float[np.ndarray, "k n n n"]
    degrees: Float[np.ndarray, "k"]
    flat: Float[np.ndarray, "k n n"]


@dataset(title="A box that turns", source="generated here", licence="Apache-2.0", generated=True)
def turned_boxes(
    *, seed: int, n: int = 48, axis: Sequence[float] = (0, 0, 1), degrees: Sequence[float] = (0, 15, 30, 45, 60, 75, 90)
) -> Occupancies:
    """A box of half sides 0.55, 0.3 and 0.4 on n³ voxels, turned about ``axis``; the seed does not matter."""
    from tensorbench.radiance_fields.strivec import solids

    volumes = np.stack([solids.turned_box(n, angle, axis).numpy() for angle in degrees])
    flat = np.stack([solids.turned_rectangle(n, angle).numpy() for angle in degrees])
    return Occupancies(volumes, np.asarray(degrees, dtype=float), flat)


@dataset(title="Random rods", source="generated here", licence="Apache-2.0", generated=True)
def random_rods(*, seed: int, n: int = 64, count: int = 20) -> Occupancies:
    """Thin rods of random direction and place on n³ voxels."""
    import torch

    from tensorbench.radiance_fields.strivec import solids

    return _single(solids.rods(n, count, torch.Generator().manual_seed(seed)).numpy())


@dataset(title="Small boxes and balls", source="generated here", licence="Apache-2.0", generated=True)
def small_objects(*, seed: int, n: int = 64, count: int = 30) -> Occupancies:
    """Small boxes, turned at random, and balls on n³ voxels."""
    import torch

    from tensorbench.radiance_fields.strivec import solids

    return _single(solids.clutter(n, count, torch.Generator().manual_seed(seed)).numpy())


def _single(volume: np.ndarray) -> Occupancies:
    return Occupancies(volume[None], np.zeros(1), np.zeros((1, *volume.shape[:2])))
