"""A small regression problem without noise, to follow networks of many widths on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import dataset


@dataclass(frozen=True)
class TeacherPairs:
    """Inputs with coordinates of order 1, targets with mean square 1; ``test`` are further inputs."""

    x: Float[np.ndarray, "samples d_in"]
    y: Float[np.ndarray, "samples d_out"]
    test: Float[np.ndarray, "test d_in"]


@dataset(title="A smooth teacher on normal inputs", source="generated here", licence="Apache-2.0", generated=True)
def teacher_pairs(
    *, seed: int, samples: int = 16, test: int = 64, d_in: int = 8, d_out: int = 2, hidden: int = 8
) -> TeacherPairs:
    """Outputs of a random tanh network of ``hidden`` units, scaled to mean square 1 on the samples."""
    if min(samples, test, d_in, d_out, hidden) < 1:
        raise ValueError(f"sizes {(samples, test, d_in, d_out, hidden)} must be at least 1")
    rng = np.random.default_rng([seed, 7])
    x = rng.standard_normal((samples + test, d_in))
    first, second = rng.standard_normal((d_in, hidden)) / d_in**0.5, rng.standard_normal((hidden, d_out))
    y = np.tanh(2 * x @ first) @ second
    return TeacherPairs(x[:samples], y[:samples] / np.sqrt((y[:samples] ** 2).mean()), x[samples:])
