"""From raw indices to the coordinates and states that the functional models work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


class IndexScaler:
    """Min-max scaling of every index column to [0, s], learned on the training entries.

    New indices outside the training range fall outside [0, s], which the functional models extrapolate to.
    """

    def __init__(self, s: float = 10.0):
        if not s > 0:
            raise ValueError(f"s {s} must be positive")
        self.s = float(s)

    def fit(self, idx: Float[np.ndarray, "n k"]) -> IndexScaler:
        idx = check_indices(idx)
        self.low, self.span = idx.min(0), np.ptp(idx, axis=0)
        if np.any(self.span == 0):
            raise ValueError(f"mode {int(np.argmin(self.span))} has one distinct index; at least 2 are needed")
        return self

    def transform(self, idx: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        if not hasattr(self, "low"):
            raise ValueError("call fit before transform")
        return self.s * (np.asarray(idx, dtype=float) - self.low) / self.span

    def fit_transform(self, idx: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        return self.fit(idx).transform(idx)


@dataclass(frozen=True)
class States:
    """The distinct indices of one mode, sorted, and the state (position among them) of every entry."""

    t: Float[np.ndarray, " m"]
    of_entry: Int[np.ndarray, " n"]


def states_of(idx: Float[np.ndarray, "n k"]) -> list[States]:
    """Per mode, the map between entries and distinct indices. Raises ValueError for a mode with fewer than 2."""
    out = []
    for mode in range(idx.shape[1]):
        t, inverse = np.unique(idx[:, mode], return_inverse=True)
        if len(t) < 2:
            raise ValueError(f"idx has {len(t)} distinct index in mode {mode}; at least 2 are needed")
        out.append(States(t, inverse.reshape(-1)))
    return out


def check_indices(idx: object, modes: int | None = None) -> Float[np.ndarray, "n k"]:
    """``idx`` as a finite float64 matrix (N, K), or a ValueError that names the argument."""
    try:
        out = np.asarray(idx, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"idx must be an (N, K) array of real numbers: {error}") from None
    if out.ndim != 2 or out.shape[1] < 2 or len(out) == 0:
        raise ValueError(f"idx has shape {out.shape}; it must be (N, K) with N >= 1 entries and K >= 2 modes")
    if modes is not None and out.shape[1] != modes:
        raise ValueError(f"idx has {out.shape[1]} modes; the model was fitted on {modes}")
    if not np.isfinite(out).all():
        raise ValueError(f"idx has {int((~np.isfinite(out)).sum())} NaN or infinite values; drop those entries")
    return out


def check_values(y: object, entries: int) -> Float[np.ndarray, " n"]:
    """``y`` as a finite float64 vector of length ``entries``, or a ValueError that names the argument."""
    out = np.asarray(y, dtype=float)
    if out.shape != (entries,):
        raise ValueError(f"y has shape {out.shape}; idx has {entries} entries, so y must have shape ({entries},)")
    if not np.isfinite(out).all():
        raise ValueError("y has NaN or infinite values; drop those entries")
    return out


def per_mode(name: str, value: object, modes: int) -> list:
    """A number repeated for every mode, or a sequence checked to have one item per mode."""
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        if len(value) != modes:
            raise ValueError(f"{name} has {len(value)} items; idx has {modes} modes")
        return list(value)
    return [value] * modes
