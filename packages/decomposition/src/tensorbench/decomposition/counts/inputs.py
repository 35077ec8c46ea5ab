"""Checks of what the count models are given."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from tensorbench.decomposition.counts.conditionals import Counts
from tensorbench.decomposition.counts.state import NAMES, SCALARS, State
from tensorbench.decomposition.linalg import COO

log = logging.getLogger(__name__)


def check_counts(Y: Any, mask: Any = None) -> Counts:
    """Counts (V, V, A, T), dense or sparse, as nonzero cells off the diagonal and inside the mask; or a ValueError."""
    sparse = isinstance(Y, COO)
    shape = tuple(Y.shape) if sparse else np.shape(Y)
    if len(shape) != 4 or shape[0] != shape[1]:
        raise ValueError(f"counts have shape {shape}; expected (V, V, A, T): sender, receiver, action, time step")
    if shape[0] < 2 or min(shape) < 1:
        raise ValueError(f"counts of shape {shape}: at least 2 actors, 1 action and 1 time step are needed")
    dense = None if sparse else np.asarray(Y)
    values = Y.values if sparse else dense[dense != 0]  # type: ignore[index]  # NaN != 0, so it stays to be found
    coords = Y.coords.T if sparse else np.argwhere(dense != 0)
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(
            f"{int((~np.isfinite(values)).sum())} counts are NaN or infinite; say what is missing by a mask"
        )
    if (values < 0).any() or (values != np.round(values)).any():
        bad = values[(values < 0) | (values != np.round(values))][0]
        raise ValueError(f"{bad:g} is not a count; a Poisson model takes whole numbers >= 0")
    V, T = shape[0], shape[3]
    observed = 1.0 - np.eye(V)
    if mask is not None:
        given = np.asarray(mask)
        if given.shape not in ((V, V), (T, V, V)):
            raise ValueError(f"mask has shape {given.shape}; expected {(V, V)}, or {(T, V, V)} for one a time step")
        if not np.isin(given, (0, 1)).all():
            raise ValueError("a mask holds 0 (not observed) and 1 (observed) only")
        observed = observed * given
    i, j, _, t = coords.T
    inside = (observed[i, j] if observed.ndim == 2 else observed[t, i, j]) > 0
    keep = inside & (values > 0)
    if (lost := int(values[(i == j)].sum())) > 0:
        log.warning("%d events from an actor to itself are ignored: the diagonal is undefined in this model", lost)
    if not keep.any():
        raise ValueError("no event is left off the diagonal and inside the mask; there is nothing to fit")
    return Counts(np.ascontiguousarray(coords[keep], dtype=np.int64), values[keep].astype(np.int64), shape, observed)  # type: ignore[arg-type]


def check_fixed(fixed: Mapping[str, Any], state: State) -> dict[str, Any]:
    """Given values of the state's fields, as float64 copies of the right shape; or a ValueError."""
    out: dict[str, Any] = {}
    for name, value in fixed.items():
        if name not in NAMES:
            raise ValueError(f"{name!r} is no variable of the model; it has {', '.join(NAMES)}")
        array = np.array(value, dtype=np.float64)
        if array.shape != np.shape(getattr(state, name)):
            raise ValueError(f"fixed {name} has shape {array.shape}; the model has {np.shape(getattr(state, name))}")
        if not (np.isfinite(array).all() and (array >= 0).all()):
            raise ValueError(f"fixed {name} must be finite and >= 0")
        if name in SCALARS and not array > 0:
            raise ValueError(f"fixed {name} is {float(array)}; the rate of a gamma prior must be positive")
        if name == "Phi_AK" and not np.allclose(array.sum(axis=0), 1.0, rtol=0, atol=1e-6):
            raise ValueError(f"columns of fixed {name} sum to {array.sum(axis=0)}; topics are distributions")
        out[name] = float(array) if name in SCALARS else np.maximum(array, 1e-300)
    return out
