"""All eight-bit integers, and how often each comes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tensorbench.core.data import dataset


class Int8Values(NamedTuple):
    """Numbers and their probabilities."""

    values: np.ndarray
    weights: np.ndarray


@dataset(title="All int8 values, normally distributed", source="generated here", licence="Apache-2.0", generated=True)
def all_int8(*, seed: int, sd: float = 30.0) -> Int8Values:
    """-128 to 127 with the mass of N(0, sd²) within half a step of each."""
    from scipy.stats import norm

    x = np.arange(-128, 128)
    return Int8Values(x, norm.cdf(x + 0.5, 0, sd) - norm.cdf(x - 0.5, 0, sd))
