"""Random draws that Poisson factor models are made of: CRT, safe gamma, and the allocation of tokens to classes.

A count y of a cell is a sum of y tokens; given the model each token belongs to one class (regime r, topic k, sender's
community c, receiver's community d) with probability proportional to psi_tr phi_ak theta_ic theta_jd lambda_rkcd.
*Naive* allocation draws from all R K C C classes; *compositional* allocation (Schein, Zhou, Blei, Wallach, "Bayesian
Poisson Tucker Decomposition", ICML 2016, arXiv 1606.01855, section 5) draws (r, k), then c, then d, from tables of
partial sums, at O(RK + 2C) a token. The two have the same distribution. Randomness is a NumPy generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tensorbench.decomposition.counts import kernels
from tensorbench.decomposition.counts.state import State, pair_tables


@dataclass(frozen=True)
class Allocation:
    """Tokens by class. Each array but ``sent + received`` sums to the number of tokens."""

    sent: Int[np.ndarray, "V C"]
    received: Int[np.ndarray, "V C"]
    actions: Int[np.ndarray, "A K"]
    times: Int[np.ndarray, "T R"]
    blocks: Int[np.ndarray, "R K C C"]

    @property
    def actors(self) -> Int[np.ndarray, "V C"]:
        """Tokens that an actor sent or received as a member of a community."""
        return self.sent + self.received


def crt(
    m: int | Int[np.ndarray, "..."], r: float | Float[np.ndarray, "..."], rng: np.random.Generator
) -> Int[np.ndarray, "..."]:
    """Chinese-restaurant-table draws: tables of m customers at concentration r, sum_n Bernoulli(r / (r + n - 1)).

    ``m`` and ``r`` broadcast. The mean is r (digamma(r + m) - digamma(r)). Raises ValueError for negative or fractional
    m and for r that is negative or not finite.
    """
    customers, concentration = np.broadcast_arrays(np.asarray(m), np.asarray(r, dtype=np.float64))
    if not np.issubdtype(customers.dtype, np.integer) or (customers < 0).any():
        raise ValueError("CRT counts customers: m must be whole numbers >= 0")
    if not (np.isfinite(concentration).all() and (concentration >= 0).all()):
        raise ValueError("the concentration r of a CRT must be finite and >= 0")
    out = np.empty(customers.size, dtype=np.int64)
    kernels.crt_each(
        np.ascontiguousarray(customers, dtype=np.int64).ravel(), np.ascontiguousarray(concentration).ravel(), rng, out
    )
    return out.reshape(customers.shape)


def sum_crt(
    m: Int[np.ndarray, "..."],
    r: Float[np.ndarray, "..."],
    rng: np.random.Generator,
    axis: tuple[int, ...] | None = None,
) -> Int[np.ndarray, "..."]:
    """Sum of independent CRT draws over ``axis`` (default: all)."""
    return np.asarray(crt(m, r, rng).sum(axis=axis))


def gamma_safe(
    shape: float | Float[np.ndarray, "..."] | Int[np.ndarray, "..."],
    rate: float | Float[np.ndarray, "..."],
    rng: np.random.Generator,
) -> Float[np.ndarray, "..."]:
    """Ga(shape, rate) draws, mean shape / rate; shapes below 1e-5 count as 1e-5 and no draw is below 1e-300.

    A gamma variable of a tiny shape underflows to zero, from which a Gibbs sampler could not come back.
    """
    both = np.broadcast_arrays(np.asarray(shape, dtype=np.float64), np.asarray(rate, dtype=np.float64))
    if not (np.isfinite(both[0]).all() and (both[0] >= 0).all() and (both[1] > 0).all()):
        raise ValueError("a gamma variable needs a finite shape >= 0 and a rate > 0 (rate, not scale)")
    draws = rng.standard_gamma(np.maximum(both[0], kernels.SMALLEST_SHAPE)) / both[1]
    return np.asarray(np.maximum(draws, kernels.TINY))


def dirichlet_columns(
    concentration: Float[np.ndarray, "n k"] | Int[np.ndarray, "n k"], rng: np.random.Generator
) -> Float[np.ndarray, "n k"]:
    """Columns drawn from Dirichlet distributions; positive, each sums to 1."""
    draws = gamma_safe(concentration, 1.0, rng)
    return draws / draws.sum(axis=0)


def compositional_allocate(
    coords: Int[np.ndarray, "cells 4"], values: Int[np.ndarray, " cells"], state: State, rng: np.random.Generator
) -> Allocation:
    """Draw the classes of all tokens of the cells (i, j, a, t), stepwise. Memory O(R K V (C + V))."""
    inner, pairs = pair_tables(state)
    out = _empty(state)
    kernels.allocate_stepwise(coords, values, *_factors(state), inner, pairs, rng, *vars(out).values())
    return out


def naive_allocate(
    coords: Int[np.ndarray, "cells 4"], values: Int[np.ndarray, " cells"], state: State, rng: np.random.Generator
) -> Allocation:
    """The same, from one categorical distribution over all R K C C classes: the oracle, and the slower peer."""
    out = _empty(state)
    kernels.allocate_jointly(coords, values, *_factors(state), rng, *vars(out).values())
    return out


def _factors(state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return state.Theta_VC, state.Phi_AK, state.Psi_TR, state.Lambda_RKCC


def _empty(state: State) -> Allocation:
    R, K, C, _ = state.Lambda_RKCC.shape
    shapes = (state.Theta_VC.shape, state.Theta_VC.shape, state.Phi_AK.shape, state.Psi_TR.shape, (R, K, C, C))
    return Allocation(*(np.zeros(shape, dtype=np.int64) for shape in shapes))
