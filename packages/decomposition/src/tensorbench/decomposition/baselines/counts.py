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
    return _smoothed(counts, _cp_rates(_pyttb_factors(counts, rank, seed, iterations)), smoothing)


def pyttb_cp_apr_new_steps(
    counts: Int[np.ndarray, "V V A T"],
    rank: int,
    new: Int[np.ndarray, "V V A T2"],
    mask: Int[np.ndarray, "V V"],
    *,
    seed: int = 0,
    iterations: int = 60,
    smoothing: float = SMOOTHING,
    updates: int = 500,
) -> Float[np.ndarray, "V V A T2"]:
    """Poisson CP of ``counts`` carried on to new steps of which the pairs in ``mask`` are observed.

    The observed pairs alone may say nothing about a component, so that its activity in a new step has a gamma prior
    with the mean and variance of its activities in ``counts`` (shape within 0.1 to 100); the expected tokens given the
    last estimate and the mean of their gamma posterior alternate ``updates`` times.
    """
    send, receive, phi, psi = _pyttb_factors(counts, rank, seed, iterations)
    mask = mask * (1 - np.eye(len(mask), dtype=int))
    i, j, a, t = np.nonzero(new * mask[:, :, None, None])
    events = new[i, j, a, t].astype(np.float64)
    each = send[i] * receive[j] * phi[a]  # cells x components
    exposure = np.einsum("iq,ij,jq->q", send, mask, receive) * phi.sum(axis=0)
    mean = np.maximum(psi.mean(axis=0), 1e-12)
    shape = np.clip(mean**2 / np.maximum(psi.var(axis=0), 1e-300), 0.1, 100.0)
    steps = np.tile(mean, (new.shape[3], 1))
    for _ in range(updates):
        tokens = each * steps[t]
        tokens *= (events / np.maximum(tokens.sum(axis=1), 1e-300))[:, None]
        expected = np.zeros_like(steps)
        np.add.at(expected, t, tokens)
        steps = (shape + expected) / (shape / mean + exposure)
    rate = _cp_rates((send, receive, phi, steps)) * _off_diagonal(counts)[:, :, None, None]
    return (1 - smoothing) * rate + smoothing * independence_new_steps(counts, new, mask)


def independence_new_steps(
    counts: Int[np.ndarray, "V V A T"], new: Int[np.ndarray, "V V A T2"], mask: Int[np.ndarray, "V V"]
) -> Float[np.ndarray, "V V A T2"]:
    """Margins of ``counts`` for senders, receivers and actions; every new step has its observed number of events."""
    send, receive, action = (counts.sum(axis=tuple(m for m in range(4) if m != mode)) for mode in range(3))
    pairs = send[:, None] * receive.astype(np.float64) * _off_diagonal(counts)
    seen = mask * _off_diagonal(counts)
    level = np.einsum("ijat,ij->t", new, seen) / (pairs * seen).sum()
    return np.einsum("ij,a,t->ijat", pairs, action / action.sum(), level)


def _pyttb_factors(
    counts: Int[np.ndarray, "V V A T"], rank: int, seed: int, iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Factors of senders (with the weights), receivers, actions and time steps."""
    import pyttb

    rng = np.random.default_rng(seed)
    where = np.nonzero(counts)
    tensor = pyttb.sptensor(np.stack(where, axis=1), counts[where].astype(np.float64)[:, None], counts.shape)
    start = pyttb.ktensor([rng.random((n, rank)) for n in counts.shape])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        model, _, _ = pyttb.cp_apr(tensor, rank, maxiters=iterations, init=start, printitn=0)
    send, receive, phi, psi = (np.asarray(factor) for factor in model.factor_matrices)
    return send * np.asarray(model.weights), receive, phi, psi


def _cp_rates(factors: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> Float[np.ndarray, "V V A T"]:
    send, receive, phi, psi = factors
    V, A, T = len(send), len(phi), len(psi)
    pairs = (send[:, None] * receive[None]).reshape(V * V, -1)
    return (pairs @ (phi[:, None] * psi[None]).reshape(A * T, -1).T).reshape(V, V, A, T)


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
