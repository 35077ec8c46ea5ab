"""The full conditionals of Bayesian Poisson Tucker decomposition, and the order of a Gibbs sweep that keeps them exact.

Schein, Zhou, Blei, Wallach, "Bayesian Poisson Tucker Decomposition for Learning the Structure of International
Relations", ICML 2016 (arXiv 1606.01855), section 4 and appendix. Every function updates its part of a
:class:`~tensorbench.decomposition.counts.state.State` in place. With the mask M, W_rij = sum_t psi_tr M_tij and the
exposures E_rcd = sum_ij theta_ic W_rij theta_jd:

- core shapes (eta_a, eta_d, nu, rho): lambda integrated out, y_rkcd ~ NB(shape_rkcd, E / (delta + E)), by CRT draws;
- lambda_rkcd ~ Ga(shape_rkcd + y_rkcd, delta + E_rcd);
- psi_tr ~ Ga(e + y_tr, f + sum_cd lambda_r.cd (Theta' M_t Theta)_cd);
- alpha_i with theta_i integrated out, then theta_i, one actor after another;
- phi_k ~ Dir(e + y_ak); beta, delta, zeta are conjugate.

Where a variable was integrated out it is drawn right after, before anything conditions on it. The authors' code draws
eta, nu and rho after lambda (and alpha after theta) and allocates the next tokens with the old lambda; for such a chain
nothing guarantees that the posterior stays invariant (van Dyk, Park, "Partially collapsed Gibbs samplers", JASA 2008).
It also draws the rows of theta side by side from the old Theta, although they depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tensorbench.decomposition.counts import kernels
from tensorbench.decomposition.counts.sampling import (
    Allocation,
    compositional_allocate,
    dirichlet_columns,
    gamma_safe,
    sum_crt,
)
from tensorbench.decomposition.counts.state import State

INTEGRATED = {"Theta_VC": ("alpha_V",), "Lambda_RKCC": ("eta_d_C", "eta_a_C", "nu_K", "rho_R")}  # out, for its parents


@dataclass(frozen=True)
class Prior:
    """Shape e and rate f of the gamma priors (e also of the Dirichlet); gamma0 is the shape of eta, nu and rho."""

    e: float = 0.1
    f: float = 0.1
    gamma0: float = 0.1**0.25

    def __post_init__(self) -> None:
        if min(self.e, self.f, self.gamma0) <= 0:
            raise ValueError(f"e={self.e}, f={self.f} and gamma0={self.gamma0} must be positive")


@dataclass(frozen=True)
class Counts:
    """Nonzero cells (rows i, j, a, t), their counts, the tensor's shape, and the mask of observed pairs."""

    coords: Int[np.ndarray, "cells 4"]
    values: Int[np.ndarray, " cells"]
    shape: tuple[int, int, int, int]
    mask: Float[np.ndarray, "*T V V"]

    def pair_weights(self, psi: Float[np.ndarray, "T R"]) -> Float[np.ndarray, "R V V"]:
        """W_rij = sum_t psi_tr M_tij."""
        if self.mask.ndim == 2:
            return psi.sum(axis=0)[:, None, None] * self.mask
        return np.tensordot(psi.T, self.mask, axes=1)


Allocate = Callable[[np.ndarray, np.ndarray, State, np.random.Generator], Allocation]


def prior_sample(
    dims: tuple[int, int, int, int, int, int], prior: Prior, rng: np.random.Generator, **given: float
) -> State:
    """A draw of all latent variables; dims = (V, A, T, C, K, R). ``given`` fixes beta, delta or zeta."""
    V, A, T, C, K, R = dims
    scalars = {name: given.get(name, float(gamma_safe(prior.e, prior.f, rng))) for name in ("beta", "delta", "zeta")}
    zeta = scalars["zeta"]
    eta_d, eta_a, nu, rho = (gamma_safe(np.full(n, prior.gamma0), zeta, rng) for n in (C, C, K, R))
    alpha = gamma_safe(np.full(V, prior.e), prior.f, rng)
    state = State(
        gamma_safe(np.repeat(alpha[:, None], C, axis=1), scalars["beta"], rng),
        dirichlet_columns(np.full((A, K), prior.e), rng),
        gamma_safe(np.full((T, R), prior.e), prior.f, rng),
        np.empty((R, K, C, C)),
        eta_d,
        eta_a,
        nu,
        rho,
        alpha,
        **scalars,
    )
    state.Lambda_RKCC = gamma_safe(state.core_shapes(), state.delta, rng)
    return state


def exposures(state: State, data: Counts) -> Float[np.ndarray, "R C C"]:
    """E_rcd: what multiplies lambda_rkcd, for every k, in the expected number of tokens."""
    return state.Theta_VC.T @ data.pair_weights(state.Psi_TR) @ state.Theta_VC


def update_core_shapes(
    state: State, tokens: Allocation, data: Counts, prior: Prior, rng: np.random.Generator, fixed: Collection[str] = ()
) -> None:
    """eta_a, eta_d, nu and rho given the tokens, with lambda integrated out. lambda must be drawn next."""
    logs = np.log1p(exposures(state, data) / state.delta)  # (R, C, C)
    kernels.update_community_weights(
        state.eta_d_C,
        state.eta_a_C,
        tokens.blocks.sum(axis=1),
        state.rho_R,
        float(state.nu_K.sum()),
        state.nu_K.sum() * np.tensordot(state.rho_R, logs, axes=1),
        prior.gamma0,
        state.zeta,
        "eta_d_C" in fixed,
        "eta_a_C" in fixed,
        rng,
    )
    by_regime = np.einsum("cd,rcd->r", state.community_shapes(), logs)
    if "nu_K" not in fixed:
        tables = sum_crt(tokens.blocks, state.core_shapes(), rng, axis=(0, 2, 3))
        state.nu_K[:] = gamma_safe(prior.gamma0 + tables, state.zeta + state.rho_R @ by_regime, rng)
    if "rho_R" not in fixed:
        tables = sum_crt(tokens.blocks, state.core_shapes(), rng, axis=(1, 2, 3))
        state.rho_R[:] = gamma_safe(prior.gamma0 + tables, state.zeta + state.nu_K.sum() * by_regime, rng)


def update_core(state: State, tokens: Allocation, data: Counts, rng: np.random.Generator) -> None:
    """lambda given everything else."""
    rate = state.delta + exposures(state, data)[:, None]
    state.Lambda_RKCC[:] = gamma_safe(state.core_shapes() + tokens.blocks, rate, rng)


def update_regimes(state: State, tokens: Allocation, data: Counts, prior: Prior, rng: np.random.Generator) -> None:
    """psi given everything else."""
    by_time = state.Theta_VC.T @ data.mask @ state.Theta_VC  # (C, C), or (T, C, C)
    rate = np.tensordot(by_time, state.Lambda_RKCC.sum(axis=1), axes=([-2, -1], [1, 2]))  # (R,), or (T, R)
    state.Psi_TR[:] = gamma_safe(prior.e + tokens.times, prior.f + rate, rng)


def update_memberships(
    state: State, tokens: Allocation, data: Counts, prior: Prior, rng: np.random.Generator, fixed: Collection[str] = ()
) -> None:
    """alpha and theta, actor by actor."""
    kernels.update_actors(
        state.Theta_VC,
        state.alpha_V,
        tokens.actors,
        np.ascontiguousarray(state.Lambda_RKCC.sum(axis=1)),
        data.pair_weights(state.Psi_TR),
        state.beta,
        prior.e,
        prior.f,
        "alpha_V" in fixed,
        "Theta_VC" in fixed,
        rng,
    )


def update_topics(state: State, tokens: Allocation, prior: Prior, rng: np.random.Generator) -> None:
    """phi given the tokens; nothing else enters, because topics sum to one."""
    state.Phi_AK[:] = dirichlet_columns(prior.e + tokens.actions, rng)


def update_scalars(state: State, prior: Prior, rng: np.random.Generator, fixed: Collection[str] = ()) -> None:
    """beta, delta and zeta: rates of gamma priors."""
    C = state.Theta_VC.shape[1]
    weights = np.concatenate([state.eta_d_C, state.eta_a_C, state.nu_K, state.rho_R])
    if "beta" not in fixed:
        shape, rate = prior.e + C * state.alpha_V.sum(), prior.f + state.Theta_VC.sum()
        state.beta = float(gamma_safe(shape, rate, rng))
    if "delta" not in fixed:
        shape, rate = prior.e + state.core_shapes().sum(), prior.f + state.Lambda_RKCC.sum()
        state.delta = float(gamma_safe(shape, rate, rng))
    if "zeta" not in fixed:
        shape, rate = prior.e + prior.gamma0 * weights.size, prior.f + weights.sum()
        state.zeta = float(gamma_safe(shape, rate, rng))


def sweep(
    state: State,
    data: Counts,
    prior: Prior,
    rng: np.random.Generator,
    *,
    fixed: Collection[str] = (),
    allocate: Allocate = compositional_allocate,
) -> Allocation:
    """One Gibbs sweep over everything that is not ``fixed``; returns the tokens it drew first.

    What is drawn with another variable integrated out is held where that variable is fixed, as its draw would be from
    another distribution: alpha with theta; eta, nu and rho with lambda.
    """
    fixed = {*fixed, *(name for child, names in INTEGRATED.items() if child in fixed for name in names)}
    tokens = allocate(data.coords, data.values, state, rng)
    update_core_shapes(state, tokens, data, prior, rng, fixed)
    if "Lambda_RKCC" not in fixed:
        update_core(state, tokens, data, rng)
    if "Psi_TR" not in fixed:
        update_regimes(state, tokens, data, prior, rng)
    update_memberships(state, tokens, data, prior, rng, fixed)
    if "Phi_AK" not in fixed:
        update_topics(state, tokens, prior, rng)
    update_scalars(state, prior, rng, fixed)
    return tokens
