"""Bayesian Poisson Tucker decomposition of event counts between actors, fitted by Gibbs sampling.

Schein, Zhou, Blei, Wallach, "Bayesian Poisson Tucker Decomposition for Learning the Structure of International
Relations", ICML 2016 (arXiv 1606.01855). The count y of action a from actor i to actor j in time step t is

    y_ijat ~ Po(sum_cdkr theta_ic theta_jd phi_ak psi_tr lambda_rkcd),   i != j,

with gamma-process priors that shrink communities c, d, topics k and regimes r which the data do not need: the three
numbers are upper bounds. Predictions are averages of rates over posterior samples, never rates of averaged factors.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln

from tensorbench.decomposition.counts.conditionals import Allocate, Counts, Prior, prior_sample, sweep
from tensorbench.decomposition.counts.inputs import check_counts, check_fixed
from tensorbench.decomposition.counts.sampling import Allocation, compositional_allocate, gamma_safe
from tensorbench.decomposition.counts.state import State, rates, token_shares
from tensorbench.decomposition.linalg import COO
from tensorbench.decomposition.selection import match_components

log = logging.getLogger(__name__)


class BPTD:
    """The model and its sampler.

    ``n_iter`` sweeps are run in all; of those after ``burn`` every ``thin``-th state is kept. ``e``, ``f`` and
    ``gamma0`` are the prior's (:class:`~tensorbench.decomposition.counts.conditionals.Prior`). After a fit ``state``
    is the last sample, ``samples`` are the kept ones, ``tokens`` is the last allocation and ``trace`` lists the
    training log-likelihood per event, up to constants of the data, every tenth sweep.
    """

    def __init__(
        self,
        n_communities: int = 20,
        n_topics: int = 6,
        n_regimes: int = 3,
        *,
        e: float = 0.1,
        f: float = 0.1,
        gamma0: float = 0.1**0.25,
        n_iter: int = 400,
        burn: int = 200,
        thin: int = 4,
        seed: int | np.random.Generator = 0,
        allocate: Allocate = compositional_allocate,
    ) -> None:
        for name, value in (("n_communities", n_communities), ("n_topics", n_topics), ("n_regimes", n_regimes)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number >= 1; superfluous ones are shrunk away")
        if not 0 <= burn < n_iter or thin < 1:
            raise ValueError(f"n_iter={n_iter}, burn={burn}, thin={thin}: need 0 <= burn < n_iter and thin >= 1")
        self.ranks = (int(n_communities), int(n_topics), int(n_regimes))
        self.prior = Prior(e, f, gamma0)
        self.n_iter, self.burn, self.thin = n_iter, burn, thin
        self.allocate = allocate
        self._rng = np.random.default_rng(seed)
        self.state: State
        self.tokens: Allocation
        self.samples: list[State] = []
        self.trace: list[tuple[int, float]] = []

    def fit(self, Y: np.ndarray | COO, mask: np.ndarray | None = None) -> Self:
        """Sample the posterior given counts ``Y`` (V, V, A, T), dense or sparse.

        ``mask`` (V, V) or (T, V, V), 0 or 1, says which pairs were observed; the default is all pairs of different
        actors. The diagonal is never observed: counts on it are ignored with a warning. Raises ValueError for counts
        that are negative, fractional or NaN, for shapes that do not fit, and for data without any event.
        """
        return self._run(Y, mask, {})

    def partial_fit(
        self, Y: np.ndarray | COO, fixed: Mapping[str, np.ndarray | float], mask: np.ndarray | None = None
    ) -> Self:
        """Sample only what ``fixed`` does not give, say the regimes ``Psi_TR`` of new time steps.

        ``fixed`` maps names of the state's fields to their values; see :class:`~...counts.state.State`. With
        ``Theta_VC`` alpha is held too, with ``Lambda_RKCC`` eta, nu and rho (at the start's values unless given).
        """
        return self._run(Y, mask, fixed)

    def _run(self, Y: Any, mask: np.ndarray | None, fixed: Mapping[str, Any]) -> Self:
        data = check_counts(Y, mask)
        V, _, A, T = data.shape
        dims = (V, A, T, *self.ranks)
        self.state = start(dims, self.prior, data, self._rng)
        for name, value in check_fixed(fixed, self.state).items():
            setattr(self.state, name, value)
        self.samples, self.trace = [], []
        for n in range(self.n_iter):
            self.tokens = sweep(self.state, data, self.prior, self._rng, fixed=fixed, allocate=self.allocate)
            if n % 10 == 9 or n == self.n_iter - 1:
                self.trace.append((n + 1, self._training(data)))
                log.debug("sweep %d: %.4f nats per event", *self.trace[-1])
            if n >= self.burn and (n - self.burn) % self.thin == self.thin - 1:
                self.samples.append(self.state.copy())
        if not self.samples:
            self.samples.append(self.state.copy())
        return self

    def _training(self, data: Counts) -> float:
        weights = data.pair_weights(self.state.Psi_TR)
        theta, core = self.state.Theta_VC, self.state.Lambda_RKCC.sum(axis=1)
        expected = float(np.einsum("rcd,rcd->", core, theta.T @ weights @ theta))
        logs = np.log(np.maximum(rates(self.state, data.coords), 1e-300))
        return float((data.values @ logs - expected) / data.values.sum())

    def reconstruct(self, subs: Int[np.ndarray, "cells 4"] | None = None) -> Float[np.ndarray, "..."]:
        """Rates of the last sample, of the cells ``subs`` (rows i, j, a, t) or of all."""
        return rates(self.state, subs)

    def posterior_mean(self, subs: Int[np.ndarray, "cells 4"] | None = None) -> Float[np.ndarray, "..."]:
        """Rates averaged over the kept samples."""
        total = rates(self.samples[0], subs)
        for sample in self.samples[1:]:
            total += rates(sample, subs)
        return total / len(self.samples)

    def score(self, test: Int[np.ndarray, "V V A T"], exposure: float = 1.0) -> float:
        """Held-out Poisson log-likelihood per event of ``test`` under ``exposure`` times the posterior mean rate."""
        return loglik_per_event(test, exposure * self.posterior_mean())

    @property
    def num_params(self) -> int:
        """Numbers that the rates of one sample depend on."""
        return self.state.num_params


def start(dims: tuple[int, int, int, int, int, int], prior: Prior, data: Counts, rng: np.random.Generator) -> State:
    """Where the chain starts: all weights 1, factors dispersed around what gives the observed total.

    A draw from the prior would be allowed too, but with shapes of 0.1 most of it is numerically zero, and the chain
    takes long to bring anything back.
    """
    V, _, T, C, K, R = dims
    state = prior_sample(dims, prior, rng, beta=1.0, delta=1.0, zeta=1.0)
    for name in ("eta_d_C", "eta_a_C", "nu_K", "rho_R"):
        getattr(state, name)[:] = 1.0
    state.alpha_V[:] = 1.0
    state.Theta_VC[:] = gamma_safe(np.ones((V, C)), 1.0, rng)
    state.Psi_TR[:] = gamma_safe(np.full((T, R), 5.0), 5.0, rng)
    mean = data.values.sum() / max(data.mask.sum() * (T if data.mask.ndim == 2 else 1), 1.0)
    state.Lambda_RKCC[:] = gamma_safe(np.ones((R, K, C, C)), R * K * C * C / mean, rng)
    return state


def loglik_per_event(
    counts: Float[np.ndarray, "V V A T"] | Int[np.ndarray, "V V A T"],
    rate: Float[np.ndarray, "V V A T"],
    pairs: Bool[np.ndarray, "V V"] | None = None,
) -> float:
    """Poisson log-likelihood of all cells off the diagonal, in nats, divided by the number of events in them.

    Only cells of the ``pairs`` count, if given. Minus infinity where an event falls on a rate of zero. Raises
    ValueError without events.
    """
    off = ~np.eye(counts.shape[0], dtype=bool)
    if pairs is not None:
        off &= pairs
    y, r = np.asarray(counts, dtype=np.float64)[off], np.asarray(rate, dtype=np.float64)[off]
    if y.sum() == 0:
        raise ValueError("no event to score off the diagonal")
    seen = y > 0
    with np.errstate(divide="ignore"):
        return float((y[seen] @ np.log(r[seen]) - gammaln(y[seen] + 1).sum() - r.sum()) / y.sum())


def generative_sample(
    prior: Prior, dims: tuple[int, int, int, int, int, int], rng: np.random.Generator, **given: float
) -> tuple[State, Int[np.ndarray, "V V A T"]]:
    """Latent variables from the prior and counts given them; dims = (V, A, T, C, K, R)."""
    state = prior_sample(dims, prior, rng, **given)
    return state, rng.poisson(rates(state))


def effective_communities(shares: Float[np.ndarray, "V C"] | Int[np.ndarray, "V C"], least: float = 0.01) -> int:
    """Communities that hold at least the share ``least`` of all tokens (sent and received)."""
    totals = np.asarray(shares, dtype=np.float64).sum(axis=0)
    return int((totals >= least * totals.sum()).sum())


def align_communities(reference: State, other: State) -> State:
    """``other`` with its communities in the order of ``reference``'s that they resemble most, by who holds tokens.

    Chains label communities as they like; compare or average them only after this.
    """
    match = match_components([token_shares(reference)], [token_shares(other)])
    rest = np.setdiff1d(np.arange(other.Theta_VC.shape[1]), match.estimate)
    order = np.concatenate([match.estimate[np.argsort(match.reference)], rest])
    return other.permuted(order)
