"""Baselines for count tensors (V, V, A, T): what libraries fit, and closed forms. Each returns rates of all cells.

Maximum-likelihood factors put a rate of exactly zero on cells that a held-out event may fall on, and its
log-likelihood would be minus infinity. So library fits are mixed with the independence model, 1 % of it by default.
"""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float, Int

SMOOTHING = 0.01


def constant(counts: Int[np.ndarray, "V V A T"]) -> Float[np.ndarray, "V V A T"]:
    """The same rate in all cells off the diagonal."""
    off = _off_diagonal(counts)
    return np.broadcast_to(off[:, :, None, None], counts.shape) * (counts.sum() / (off.sum() * counts[0, 0].size))


def independence(counts: Int[np.ndarray, "V V A T"]) -> Float[np.ndarray, "V V A T"]:
    """Senders, receivers, actions and time steps independent of each other: the product of the four margins.

    The diagonal is left out and the rest scaled to the total.
    """
    margins = [counts.sum(axis=tuple(m for m in range(4) if m != mode)) for mode in range(4)]
    rate = np.einsum("i,j,a,t->ijat", *(margin.astype(np.float64) for margin in margins))
    rate *= _off_diagonal(counts)[:, :, None, None]
    return rate * (counts.sum() / rate.sum())


def pyttb_cp_apr(
    counts: Int[np.ndarray, "V V A T"],
    rank: int,
    *,
    seed: int = 0,
    iterations: int = 60,
    smoothing: float = SMOOTHING,
) -> Float[np.ndarray, "V V A T"]:
    """Poisson CP of `pyttb.cp_apr` (multiplicative updates, sparse; optional dependency `bench`).

    It takes the diagonal for observed zeros, as the library has no mask. Stops at its KKT tolerance of 1e-4, or after
    `iterations` of at most 10 inner steps a mode.
    """
    import pyttb

    rng = np.random.default_rng(seed)
    where = np.nonzero(counts)
    tensor = pyttb.sptensor(np.stack(where, axis=1), counts[where].astype(np.float64)[:, None], counts.shape)
    start = pyttb.ktensor([rng.random((n, rank)) for n in counts.shape])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        model, _, _ = pyttb.cp_apr(tensor, rank, maxiters=iterations, init=start, printitn=0)
    send, receive, phi, psi = (np.asarray(factor) for factor in model.factor_matrices)
    V, A, T = len(send), len(phi), len(psi)
    pairs = (send[:, None] * receive[None] * np.asarray(model.weights)).reshape(V * V, rank)
    rate = pairs @ (phi[:, None] * psi[None]).reshape(A * T, rank).T
    return _smoothed(counts, rate.reshape(V, V, A, T), smoothing)


def tensorly_non_negative_tucker(
    counts: Int[np.ndarray, "V V A T"],
    ranks: tuple[int, int, int, int],
    *,
    seed: int = 0,
    iterations: int = 100,
    smoothing: float = SMOOTHING,
) -> Float[np.ndarray, "V V A T"]:
    """Non-negative Tucker of `tensorly` (multiplicative updates, squared error, random start)."""
    from tensorly import tucker_to_tensor
    from tensorly.decomposition import non_negative_tucker

    model = non_negative_tucker(
        counts.astype(np.float64), list(ranks), n_iter_max=iterations, init="random", random_state=seed
    )
    return _smoothed(counts, np.asarray(tucker_to_tensor(model)), smoothing)


def _smoothed(
    counts: Int[np.ndarray, "V V A T"], rate: Float[np.ndarray, "V V A T"], share: float
) -> Float[np.ndarray, "V V A T"]:
    """A fit scaled to the observed total off the diagonal, with a share of independence mixed in."""
    if not 0 <= share < 1:
        raise ValueError(f"smoothing={share} is the share of the independence model; it must lie in [0, 1)")
    rate = np.maximum(rate, 0.0) * _off_diagonal(counts)[:, :, None, None]
    return (1 - share) * rate * (counts.sum() / rate.sum()) + share * independence(counts)


def _off_diagonal(counts: Int[np.ndarray, "V V A T"]) -> Float[np.ndarray, "V V"]:
    return 1.0 - np.eye(counts.shape[0])
