"""Checks of the tensors that the CP methods are given."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float


def check_tensor(tensor: Any, min_order: int = 3) -> Float[np.ndarray, ...]:
    """A float64 array of order >= `min_order` with modes of size >= 2 and finite real entries, or a ValueError."""
    if hasattr(tensor, "detach"):  # a torch tensor
        tensor = tensor.detach().cpu().numpy()
    array = np.asarray(tensor)
    if np.iscomplexobj(array):
        raise ValueError("complex tensors are not supported; the decomposition is over the reals")
    array = array.astype(np.float64, copy=False)
    if array.ndim < min_order:
        raise ValueError(f"tensor of order {array.ndim}, shape {array.shape}; expected order >= {min_order}")
    for mode, size in enumerate(array.shape):
        if size < 2:
            raise ValueError(f"mode {mode} has size {size} (shape {array.shape}); drop it, every mode needs size >= 2")
    if not np.isfinite(array).all():
        raise ValueError(f"tensor has {int((~np.isfinite(array)).sum())} NaN or infinite entries; impute or mask first")
    return array


def as_generator(generator: np.random.Generator | int | None) -> np.random.Generator:
    """A NumPy generator from a generator, an integer seed, or None (seed 0, so that plain calls repeat)."""
    if isinstance(generator, np.random.Generator):
        return generator
    return np.random.default_rng(0 if generator is None else generator)
