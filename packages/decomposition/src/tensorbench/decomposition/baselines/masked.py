"""Baselines for completing a tensor on a grid from its observed cells.

Each takes the tensor (0 where not observed), the mask of observed cells and its setting, and returns the whole
predicted tensor and the number of fitted parameters. :func:`best_setting` chooses among settings by the error on
held-out cells, so that every method's rank is found in the same way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

Fitted = tuple[np.ndarray, int]


def best_setting(
    fit: Callable[..., Fitted],
    settings: Sequence[Mapping[str, Any]],
    tensor: Float[np.ndarray, ...],
    mask: Bool[np.ndarray, ...],
    held: Bool[np.ndarray, ...],
) -> Mapping[str, Any]:
    """The setting whose fit to ``mask & ~held`` is closest on ``held``; a fit that fails or diverges is no candidate.

    Raises:
        ValueError: no settings, nothing held out, or no setting that could be fitted.
    """
    if not settings or not held.any():
        raise ValueError("at least one setting and one held-out cell are needed to choose a setting")
    seen = mask & ~held
    errors = []
    for setting in settings:
        try:
            predicted, _ = fit(np.where(seen, tensor, 0.0), seen, **setting)
            error = float(np.mean((predicted[held] - tensor[held]) ** 2))
        except np.linalg.LinAlgError:
            error = np.inf
        errors.append(error if np.isfinite(error) else np.inf)
    if not np.isfinite(min(errors)):
        raise ValueError(f"none of the {len(settings)} settings gave finite predictions")
    return settings[int(np.argmin(errors))]


def tensorly_cp(
    tensor: Float[np.ndarray, ...], mask: Bool[np.ndarray, ...], *, rank: int, iterations: int, seed: int
) -> Fitted:
    """``tensorly.decomposition.parafac`` with a mask; missing cells are filled in from the last iterate."""
    from tensorly.cp_tensor import cp_to_tensor
    from tensorly.decomposition import parafac

    fitted = parafac(
        tensor, rank, mask=mask.astype(float), n_iter_max=iterations, init="random", tol=0, random_state=seed
    )
    return cp_to_tensor(fitted), rank * sum(tensor.shape)


def tensorly_tucker(
    tensor: Float[np.ndarray, ...], mask: Bool[np.ndarray, ...], *, rank: int, iterations: int, seed: int
) -> Fitted:
    """``tensorly.decomposition.tucker`` with a mask, one rank for all modes (at most the size of each)."""
    from tensorly.decomposition import tucker
    from tensorly.tucker_tensor import tucker_to_tensor

    ranks = [min(rank, size) for size in tensor.shape]
    core, factors = tucker(
        tensor, ranks, mask=mask.astype(float), n_iter_max=iterations, init="random", tol=0, random_state=seed
    )
    return tucker_to_tensor((core, factors)), core.size + sum(factor.size for factor in factors)


def tensor_ring(
    tensor: Float[np.ndarray, ...],
    mask: Bool[np.ndarray, ...],
    *,
    rank: int,
    ridge: float,
    iterations: int,
    seed: int,
) -> Fitted:
    """Masked ALS of this package's tensor-network engine on a ring with one rank for all bonds."""
    from tensorbench.decomposition.network import als
    from tensorbench.decomposition.network.ring import chain_structure

    structure = chain_structure(tensor.shape, (rank,) * tensor.ndim)
    fitted = als(
        tensor, structure, generator=np.random.default_rng(seed), mask=mask, max_sweeps=iterations, ridge=ridge
    )
    return np.asarray(fitted.network.full()).reshape(tensor.shape), fitted.network.num_params()


def biharmonic(tensor: Float[np.ndarray, "rows columns channels"], mask: Bool[np.ndarray, "..."]) -> Fitted:
    """``skimage.restoration.inpaint_biharmonic`` on each channel, whose cells are missing independently."""
    from skimage.restoration import inpaint_biharmonic

    channels = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for c in range(tensor.shape[2]):
            channels.append(inpaint_biharmonic(tensor[..., c], ~mask[..., c]))
    return np.stack(channels, axis=-1), 0
