"""What the diagonal of a Hessian is estimated on, and planes to descend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensorbench.core.data import dataset
from tensorbench.core.data.shared import LabelledImages

if TYPE_CHECKING:
    from tensorbench.optimizers.landscapes.planar import Plane


@dataset(title="Waves in four directions with noise", source="generated here", licence="Apache-2.0", generated=True)
def gratings(*, seed: int, size: int = 10, count: int = 256, noise: float = 0.3) -> LabelledImages:
    """Images of a wave of random phase whose direction is the class (0, 45, 90, 135 degrees), in [0, 1]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 2 * count)
    angles, phases = labels * np.pi / 4, rng.uniform(0, 2 * np.pi, 2 * count)
    y, x = np.mgrid[:size, :size] / size
    along = np.cos(angles)[:, None, None] * x + np.sin(angles)[:, None, None] * y
    waves = np.sin(4 * np.pi * along + phases[:, None, None]) + noise * rng.standard_normal((2 * count, size, size))
    images = np.clip((waves + 2) / 4, 0, 1)
    half, rest = count, count + count // 2
    return LabelledImages(
        images[:half], labels[:half], images[half:rest], labels[half:rest], images[rest:], labels[rest:], 4
    )


@dataset(title="Four functions of two variables", source="generated here", licence="Apache-2.0", generated=True)
def planes(*, seed: int) -> list[Plane]:
    """Rosenbrock's, Rastrigin's and Beale's functions and an ill-conditioned quadratic."""
    from tensorbench.optimizers.landscapes.planar import PLANES

    return [make() for make in PLANES.values()]
