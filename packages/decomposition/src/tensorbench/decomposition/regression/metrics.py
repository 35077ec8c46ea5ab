"""The True Skill Statistic; mean squared errors, coverage and the like are one line where they are needed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def true_skill(y: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"], threshold: float = 0.0) -> float:
    """Hit rate minus false-alarm rate of "at least ``threshold``": 1 perfect, 0 no skill, NaN if a class is empty."""
    event, said = np.asarray(y) >= threshold, np.asarray(predicted) >= threshold
    if event.all() or not event.any():
        return float("nan")
    return float(said[event].mean() - said[~event].mean())
