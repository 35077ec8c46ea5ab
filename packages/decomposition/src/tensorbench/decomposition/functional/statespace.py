"""Matérn Gaussian processes as linear stochastic differential equations: filtering and smoothing in linear time.

A process with kernel κ of smoothness ν = p - 1/2 is the first coordinate of the stationary solution of

    dx = F x ds + L dβ,   spectral density q,   f = H x,   x = (f, f', ..., f^(p-1)),

so that between two indices x(s + Δ) = A(Δ) x(s) + noise(Q(Δ)) with A = exp(F Δ) and Q = P_inf - A P_inf A'. F + λI is
nilpotent, which gives A in closed form for every ν here: A = exp(-λΔ) Σ_{j<p} Δ^j (F + λI)^j / j!. R independent
functions share one set of hyperparameters: their state is the Kronecker product of these blocks with I_R, and they are
coupled only by the observations y_t = f(t) + N(0, R_t) with a full R x R covariance.

Hartikainen and Särkkä, "Kalman filtering and smoothing solutions to temporal Gaussian process regression models",
2010; used for tensor factors by Fang et al., "Functional Bayesian Tucker Decomposition for Continuous-indexed Tensor
Data", 2024, arXiv 2311.04829. All arrays are float64 NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial, sqrt

import numpy as np
from jaxtyping import Bool, Float

from tensorbench.core.errors import unknown
from tensorbench.decomposition.functional.recursions import filter_pass, smoother_pass

KERNELS = {"matern12": 0.5, "matern32": 1.5, "matern52": 2.5}


@dataclass(frozen=True)
class StateSpace:
    """One Matérn process as an SDE, and how many independent copies of it (``rank``) are followed together.

    The arrays are the blocks of a single function; ``expanded`` gives the matrices of the whole state, which orders
    derivatives first: (f_1..f_R, f'_1..f'_R, ...).
    """

    F: Float[np.ndarray, "p p"]
    L: Float[np.ndarray, "p 1"]
    q: float
    P_inf: Float[np.ndarray, "p p"]
    H: Float[np.ndarray, "1 p"]
    rank: int
    rate: float

    @property
    def order(self) -> int:
        """Coordinates per function: 1, 2 or 3."""
        return self.F.shape[0]

    def expanded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(F, L, P_inf, H) of the R functions together."""
        eye = np.eye(self.rank)
        return np.kron(self.F, eye), np.kron(self.L, eye), np.kron(self.P_inf, eye), np.kron(self.H, eye)


def kernel_nu(kernel: str) -> float:
    """Smoothness of a kernel named ``matern12``, ``matern32`` or ``matern52``."""
    if kernel not in KERNELS:
        raise ValueError(unknown("kernel", kernel, KERNELS))
    return KERNELS[kernel]


def matern_ssm(nu: float, lengthscale: float, variance: float, rank: int = 1) -> StateSpace:
    """The SDE of ``rank`` independent Matérn-ν processes, ν in {1/2, 3/2, 5/2}; ``lengthscale`` in units of the index.

    Raises ValueError for another ν or a hyperparameter that is not positive.
    """
    if nu not in KERNELS.values():
        raise ValueError(f"nu {nu} has no state space here; use 0.5, 1.5 or 2.5")
    for name, value in (("lengthscale", lengthscale), ("variance", variance)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} {value} must be a positive finite number")
    if rank < 1:
        raise ValueError(f"rank {rank} must be at least 1")
    p = int(nu + 0.5)
    lam = sqrt(2 * nu) / lengthscale
    # The companion matrix of (d/ds + lam)^p.
    drift = np.eye(p, k=1)
    drift[-1] = [-factorial(p) / (factorial(j) * factorial(p - j)) * lam ** (p - j) for j in range(p)]
    if p == 1:
        stationary = np.array([[variance]])
    elif p == 2:
        stationary = np.diag([variance, lam**2 * variance])
    else:
        k = lam**2 * variance / 3
        stationary = np.array([[variance, 0.0, -k], [0.0, k, 0.0], [-k, 0.0, lam**4 * variance]])
    density = variance * {1: 2 * lam, 2: 4 * lam**3, 3: 16 / 3 * lam**5}[p]
    column = np.zeros((p, 1))
    column[-1] = 1.0
    return StateSpace(drift, column, density, stationary, np.eye(p)[:1], int(rank), lam)


def discretise(
    ssm: StateSpace, dt: Float[np.ndarray, "*batch"] | float
) -> tuple[Float[np.ndarray, "*batch p p"], Float[np.ndarray, "*batch p p"]]:
    """Transition A(dt) and noise Q(dt) of one function's block, for every entry of ``dt`` >= 0."""
    dt = np.asarray(dt, dtype=float)
    if np.any(dt < 0):
        raise ValueError("dt must not be negative: the indices have to be sorted")
    nilpotent = ssm.F + ssm.rate * np.eye(ssm.order)
    power, series = np.eye(ssm.order), np.zeros((*dt.shape, ssm.order, ssm.order))
    for j in range(ssm.order):
        series = series + (dt**j / factorial(j))[..., None, None] * power
        power = power @ nilpotent
    transition = np.exp(-ssm.rate * dt)[..., None, None] * series
    noise = ssm.P_inf - transition @ ssm.P_inf @ np.swapaxes(transition, -1, -2)
    return transition, 0.5 * (noise + np.swapaxes(noise, -1, -2))


def sample_prior(ssm: StateSpace, t: Float[np.ndarray, " m"], rng: np.random.Generator) -> Float[np.ndarray, "m r"]:
    """R independent functions drawn from the prior, at sorted indices ``t``."""
    transition, noise = transitions(ssm, t)
    noise[0], transition[0] = ssm.P_inf, 0.0
    values, vectors = np.linalg.eigh(noise)  # Q may be singular where two indices (almost) coincide
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    steps = root @ rng.normal(size=(len(t), ssm.order, ssm.rank))
    state = np.zeros((ssm.order, ssm.rank))
    out = np.empty((len(t), ssm.rank))
    for i, (a, step) in enumerate(zip(transition, steps, strict=True)):
        state = a @ state + step
        out[i] = state[0]
    return out


def transitions(ssm: StateSpace, t: Float[np.ndarray, " m"]) -> tuple[np.ndarray, np.ndarray]:
    """A and Q from each of the sorted indices ``t`` to the next (at the first, of a step of length zero)."""
    return discretise(ssm, np.diff(t, prepend=t[:1]))


@dataclass(frozen=True)
class Filtered:
    """What the forward pass leaves: filtered moments of the state, the log marginal likelihood, and its problem."""

    t: Float[np.ndarray, " m"]
    y: Float[np.ndarray, "m r"]
    R: Float[np.ndarray, "m r r"]
    observed: Bool[np.ndarray, " m"]
    state_mean: Float[np.ndarray, "m d"]
    state_cov: Float[np.ndarray, "m d d"]
    log_marginal: float
    transition: Float[np.ndarray, "m p p"]
    gain: Float[np.ndarray, "m d r"]
    inverse: Float[np.ndarray, "m r r"]
    innovation: Float[np.ndarray, "m r"]


@dataclass(frozen=True)
class Smoothed:
    """Posterior of the R functions at the indices ``t``: ``mean`` (M, R) and ``cov`` (M, R, R); and of the state."""

    filtered: Filtered
    state_mean: Float[np.ndarray, "m d"]
    state_cov: Float[np.ndarray, "m d d"]
    rank: int

    @property
    def t(self) -> Float[np.ndarray, " m"]:
        return self.filtered.t

    @property
    def mean(self) -> Float[np.ndarray, "m r"]:
        return self.state_mean[:, : self.rank]

    @property
    def cov(self) -> Float[np.ndarray, "m r r"]:
        return self.state_cov[:, : self.rank, : self.rank]

    @property
    def log_marginal(self) -> float:
        return self.filtered.log_marginal


def kalman_filter(
    ssm: StateSpace,
    t: Float[np.ndarray, " m"],
    y: Float[np.ndarray, "m r"],
    R: Float[np.ndarray, "m r r"],
    observed: Bool[np.ndarray, " m"] | None = None,
    steps: tuple[np.ndarray, np.ndarray] | None = None,
    reuse: Filtered | None = None,
) -> Filtered:
    """Filter the observations ``y_t = f(t) + N(0, R_t)`` at sorted indices ``t`` (repeats allowed).

    ``observed`` marks the states that have an observation; by default those whose ``y`` row is finite. ``steps`` is
    ``transitions(ssm, t)``, and ``reuse`` a former result of the same problem whose arrays are overwritten: both are
    for callers that filter the same indices again and again. Raises
    ValueError for unsorted indices, shapes that do not match, or a covariance that is not positive definite.
    """
    t, y, R = (np.ascontiguousarray(a, dtype=float) for a in (t, y, R))
    if y.shape != (len(t), ssm.rank) or R.shape != (len(t), ssm.rank, ssm.rank):
        raise ValueError(f"y {y.shape} and R {R.shape} do not fit {len(t)} indices and rank {ssm.rank}")
    seen = np.isfinite(y).all(1) if observed is None else np.ascontiguousarray(observed, dtype=bool)
    states, r, d = len(t), ssm.rank, ssm.rank * ssm.order
    transition, noise = transitions(ssm, t) if steps is None else steps
    if reuse is None:
        mean, var, gain = np.zeros((states, d)), np.zeros((states, d, d)), np.zeros((states, d, r))
        inverse, innovation = np.zeros((states, r, r)), np.zeros((states, r))
    else:
        mean, var, gain = reuse.state_mean, reuse.state_cov, reuse.gain
        inverse, innovation = reuse.inverse, reuse.innovation
    loglik = filter_pass(transition, noise, ssm.P_inf, y, R, seen, mean, var, gain, inverse, innovation)
    if np.isnan(loglik):
        raise ValueError("an observation covariance R is not positive definite (or y has NaN where observed)")
    return Filtered(t, y, R, seen, mean, var, float(loglik), transition, gain, inverse, innovation)


def rts_smoother(ssm: StateSpace, filtered: Filtered, reuse: Smoothed | None = None) -> Smoothed:
    """Rauch-Tung-Striebel smoothed moments at every index (computed in Bryson and Frazier's form)."""
    if reuse is None:
        mean, var = np.zeros_like(filtered.state_mean), np.zeros_like(filtered.state_cov)
    else:
        mean, var = reuse.state_mean, reuse.state_cov
    f = filtered
    smoother_pass(f.transition, f.observed, f.state_mean, f.state_cov, f.gain, f.inverse, f.innovation, mean, var)
    return Smoothed(filtered, mean, var, ssm.rank)


def smooth(
    ssm: StateSpace,
    t: np.ndarray,
    y: np.ndarray,
    R: np.ndarray,
    observed: np.ndarray | None = None,
    steps: tuple[np.ndarray, np.ndarray] | None = None,
    reuse: Smoothed | None = None,
) -> Smoothed:
    """Filter and smooth in one call; arguments as in ``kalman_filter``."""
    filtered = kalman_filter(ssm, t, y, R, observed, steps, reuse.filtered if reuse else None)
    return rts_smoother(ssm, filtered, reuse)


def smooth_modes(
    ssms: Sequence[StateSpace], ts: Sequence[np.ndarray], ys: Sequence[np.ndarray], Rs: Sequence[np.ndarray]
) -> list[Smoothed]:
    """``smooth`` for every mode of a tensor: lengths, ranks and kernels may differ from mode to mode."""
    return [smooth(*problem) for problem in zip(ssms, ts, ys, Rs, strict=True)]


def log_marginal(ssm: StateSpace, t: np.ndarray, y: np.ndarray, R: np.ndarray) -> float:
    """log p(y) of the observations under the prior, in nats."""
    return kalman_filter(ssm, t, y, R).log_marginal


def predict(
    ssm: StateSpace, post: Smoothed, t_new: Float[np.ndarray, " g"]
) -> tuple[Float[np.ndarray, "g r"], Float[np.ndarray, "g r r"]]:
    """Exact posterior mean and covariance at any indices: left of, between, on or right of the observed ones.

    The new indices become states without an observation, and the smoother runs over the union.
    """
    t_new = np.asarray(t_new, dtype=float)
    old = post.filtered
    t = np.concatenate([old.t, t_new])
    order = np.argsort(t, kind="stable")
    blank = len(t_new)
    y = np.concatenate([old.y, np.full((blank, ssm.rank), np.nan)])[order]
    cov = np.concatenate([old.R, np.broadcast_to(np.eye(ssm.rank), (blank, ssm.rank, ssm.rank))])[order]
    observed = np.concatenate([old.observed, np.zeros(blank, dtype=bool)])[order]
    both = smooth(ssm, t[order], y, cov, observed)
    where = np.empty_like(order)
    where[order] = np.arange(len(order))
    return both.mean[where[len(old.t) :]], both.cov[where[len(old.t) :]]
