"""Rates of new time steps of which only some pairs of actors are observed, everything that is not of time as it was.

The strong generalisation of Schein, Zhou, Blei, Wallach (ICML 2016), section 6: a model of earlier time steps keeps its
actors, actions and core; what belongs to the new steps alone (regimes, component activities, the regime and popularity
of a step) is inferred from their observed pairs. Every function averages rates over posterior samples of the model and,
within each, over the posterior of the new steps given that sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln, softmax

from tensorbench.decomposition.counts.bptd import BPTD
from tensorbench.decomposition.counts.inputs import check_counts
from tensorbench.decomposition.counts.related import BPTF, BlockModel
from tensorbench.decomposition.counts.state import NAMES, State

SAMPLES, SWEEPS, BURN = 50, 40, 20
S = TypeVar("S")


def _spread(samples: Sequence[S], size: int) -> Sequence[S]:
    """At most ``size`` of them, evenly spread, the last one among them."""
    return samples[:: -max(1, -(-len(samples) // size))]


def _mean_rates(samples: Sequence[S], shape: tuple[int, ...], rates: Callable[[S], np.ndarray]) -> np.ndarray:
    """The mean of ``rates(sample)`` over the samples."""
    total = np.zeros(shape)
    for sample in samples:
        total += rates(sample)
    return total / len(samples)


def bptd_new_steps(
    model: BPTD,
    Y: Int[np.ndarray, "V V A T2"],
    mask: Int[np.ndarray, "V V"],
    *,
    seed: int = 0,
    samples: int = SAMPLES,
    sweeps: int = SWEEPS,
    burn: int = BURN,
) -> Float[np.ndarray, "V V A T2"]:
    """Regimes of new steps by ``BPTD.partial_fit``, for ``samples`` kept states of a fitted model."""
    rng, chosen = np.random.default_rng(seed), _spread(model.samples, samples)
    prior = {"e": model.prior.e, "f": model.prior.f, "gamma0": model.prior.gamma0}

    def rates(state: State) -> np.ndarray:
        fixed = {name: getattr(state, name) for name in NAMES if name != "Psi_TR"}
        part = BPTD(*model.ranks, **prior, n_iter=sweeps, burn=burn, seed=rng)
        return part.partial_fit(Y, fixed, mask).posterior_mean()

    return _mean_rates(chosen, Y.shape, rates)


def bptf_new_steps(
    model: BPTF,
    Y: Int[np.ndarray, "V V A T2"],
    mask: Int[np.ndarray, "V V"],
    *,
    seed: int = 0,
    samples: int = SAMPLES,
    sweeps: int = SWEEPS,
    burn: int = BURN,
) -> Float[np.ndarray, "V V A T2"]:
    """Activities of components in new steps by ``BPTF.partial_fit``, for ``samples`` kept states of a fitted model."""
    rng, chosen = np.random.default_rng(seed), _spread(model.samples, samples)

    def rates(state: dict[str, np.ndarray]) -> np.ndarray:
        fixed = {name: value for name, value in state.items() if name != "psi"}
        part = BPTF(model.n_components, a=model.a, n_iter=sweeps, burn=burn, seed=rng)
        return part.partial_fit(Y, fixed, mask).posterior_mean()

    return _mean_rates(chosen, Y.shape, rates)


def blocks_new_steps(
    model: BlockModel, Y: Int[np.ndarray, "V V A T2"], mask: Int[np.ndarray, "V V"], *, samples: int = SAMPLES
) -> Float[np.ndarray, "V V A T2"]:
    """Each new step on its own, in closed form: its regime's posterior, and its popularity (Ga(1, 1)) integrated out.

    A regime's prior weight is the number of earlier steps in it plus ``concentration / R``.
    """
    data = check_counts(Y, mask)
    chosen = _spread(model.samples, samples)
    i, j, a, t = data.coords.T
    T, R = Y.shape[3], model.ranks[2]
    events = np.bincount(t, weights=data.values, minlength=T)
    total = np.zeros(Y.shape)
    for state in chosen:
        g, h, _ = state["degrees"]
        z = state["actors"]
        by_regime = state["core"][:, state["actions"]][:, :, z][:, :, :, z].transpose(0, 2, 3, 1)  # (R, V, V, A)
        by_regime = by_regime * ((g[:, None] * g)[:, :, None] * h)
        exposure = np.einsum("rija,ij->r", by_regime, data.mask)
        logs = np.zeros((T, R))
        np.add.at(logs, t, data.values[:, None] * np.log(by_regime[:, i, j, a]).T)
        if model.degree_corrected:
            logs += gammaln(1.0 + events)[:, None] - np.outer(1.0 + events, np.log1p(exposure))
            popularity = (1.0 + events)[:, None] / (1.0 + exposure)
        else:
            logs -= exposure
            popularity = np.ones((T, R))
        logs += np.log(np.bincount(state["times"], minlength=R) + model.concentration / R)
        total += np.tensordot(by_regime, softmax(logs, axis=1) * popularity, axes=([0], [1]))
    diagonal = np.arange(Y.shape[0])
    total[diagonal, diagonal] = 0.0
    return total / len(chosen)
