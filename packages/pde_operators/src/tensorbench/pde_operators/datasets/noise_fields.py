"""Fields without physics, for timing alone: their values do not matter, only their sizes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import dataset


@dataset(title="White noise on a grid, for timing", source="generated here", licence="Apache-2.0", generated=True)
def noise_fields(
    *, seed: int, samples: int = 8, channels: int = 1, size: int = 64, axes: int = 2
) -> Float[np.ndarray, "samples channels *grid"]:
    """Independent standard normal values, float32."""
    shape = (samples, channels, *(size,) * axes)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
