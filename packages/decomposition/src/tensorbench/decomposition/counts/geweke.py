"""Geweke's joint-distribution test of a sampler: does it leave the posterior of its own model invariant?

J. Geweke, "Getting it right: joint distribution tests of posterior simulators", JASA 2004. Latent variables from the
prior (marginal-conditional) and those of a chain that alternates data given latents with one sweep of the sampler
(successive-conditional) have the same distribution if, and only if, prior, likelihood and sampler agree. A wrong rate
or an order of updates that is not valid shows as a large z.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tensorbench.decomposition.counts.conditionals import Counts, Prior, prior_sample, sweep
from tensorbench.decomposition.counts.state import State, rates

Statistic = Callable[[State], float]
Sweep = Callable[[State, Counts, Prior, np.random.Generator], object]
BATCHES = 20  # long ones: scales such as beta against alpha change slowly


def default_statistics() -> dict[str, Statistic]:
    """Means and mean squares of every latent variable, by name, and how the core lies about its prior mean.

    The last notices a core and prior shapes that each have the right distribution but not together.
    """
    names = (
        "Theta_VC",
        "Lambda_RKCC",
        "alpha_V",
        "delta",
        "Psi_TR",
        "eta_d_C",
        "eta_a_C",
        "nu_K",
        "rho_R",
        "beta",
        "zeta",
    )
    out: dict[str, Statistic] = {}
    for name in names:
        out[name] = lambda s, name=name: float(np.mean(getattr(s, name)))
        out[f"{name}_squared"] = lambda s, name=name: float(np.mean(np.square(getattr(s, name))))
    out["Phi_AK_squared"] = lambda s: float(np.mean(np.square(s.Phi_AK)))  # its mean is constant
    out["core_over_its_mean"] = lambda s: float(np.mean(s.Lambda_RKCC * s.delta / s.core_shapes()))
    return out


def geweke_test(
    dims: tuple[int, int, int, int, int, int],
    prior: Prior,
    rng: np.random.Generator,
    *,
    draws: int = 5000,
    step: Sweep = sweep,
    statistics: Mapping[str, Statistic] | None = None,
    mask: np.ndarray | None = None,
) -> dict[str, float]:
    """z of every statistic, successive- minus marginal-conditional; dims = (V, A, T, C, K, R).

    The variance of the dependent draws comes from batch means, so the chain must be much longer than its memory. With e
    about 10, f and gamma0 of a few and small ranks the moments that are compared are finite and the counts small; with
    the default prior of 0.1 they are not, and z means nothing.
    """
    if draws < 2 * BATCHES:
        raise ValueError(f"draws={draws}: at least {2 * BATCHES} are needed for batch means")
    statistics = default_statistics() if statistics is None else statistics
    observed = 1.0 - np.eye(dims[0]) if mask is None else mask * (1.0 - np.eye(dims[0]))
    independent = np.empty((draws, len(statistics)))
    dependent = np.empty((draws, len(statistics)))
    state = prior_sample(dims, prior, rng)
    for n in range(draws):
        other = prior_sample(dims, prior, rng)
        independent[n] = [statistic(other) for statistic in statistics.values()]
        step(state, draw_counts(state, observed, rng), prior, rng)
        dependent[n] = [statistic(state) for statistic in statistics.values()]
    batches = dependent[: draws // BATCHES * BATCHES].reshape(BATCHES, -1, len(statistics)).mean(axis=1)
    spread = independent.var(axis=0, ddof=1) / draws + batches.var(axis=0, ddof=1) / BATCHES
    z = (dependent.mean(axis=0) - independent.mean(axis=0)) / np.sqrt(np.maximum(spread, 1e-300))
    return dict(zip(statistics, z.tolist(), strict=True))


def draw_counts(state: State, mask: np.ndarray, rng: np.random.Generator) -> Counts:
    """Counts given the latents, of the pairs that the mask (V, V) or (T, V, V) shows; there may be no event at all."""
    V, A, T, *_ = state.dims
    seen = mask[:, :, None, None] if mask.ndim == 2 else mask.transpose(1, 2, 0)[:, :, None, :]
    counts = rng.poisson(rates(state) * seen)
    coords = np.argwhere(counts)
    return Counts(coords, counts[tuple(coords.T)], (V, V, A, T), mask)
