"""Functional Bayesian Tucker decomposition of scattered data with real-valued indices, and its CP special case.

    y_n = vec(W)' (u_1(i_n1) ⊗ ... ⊗ u_K(i_nK)) + ε_n,   ε ~ N(0, 1/τ),  τ ~ Gamma(a0, b0),  vec(W) ~ N(0, I),
    u_kr(·) ~ GP(0, κ),  κ a Matérn kernel.

Fang, Yu, Wang, Li, Kirby and Zhe, "Functional Bayesian Tucker Decomposition for Continuous-indexed Tensor Data",
ICLR 2024, arXiv 2311.04829. The posterior is found by conditional expectation propagation: each observed entry sends a
Gaussian message to the factor values at its indices and to the core, and a Gamma message to the noise; moments are
matched in closed form; the factor messages of one mode then are the observations of its Matérn process, which is
filtered and smoothed in linear time (``statespace``).

The messages of single entries are never needed, only their sums over the entries that share a state, and damping is
linear: the sums are damped instead, exactly the same and without N R x R matrices in memory.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tensorbench.core.errors import unknown
from tensorbench.decomposition.functional import moments
from tensorbench.decomposition.functional.scaling import check_indices, check_values, per_mode, states_of
from tensorbench.decomposition.functional.statespace import (
    Smoothed,
    StateSpace,
    kernel_nu,
    matern_ssm,
    predict,
    sample_prior,
    smooth,
    transitions,
)

log = logging.getLogger(__name__)

MAX_CORE = 4096
PLATEAU = 0.95  # a train RMSE above this share of std(y) means that the factors sit at the fixed point zero
GROWTH = 4.0  # of the prior variances at a restart
NEGLIGIBLE = 1e-8  # share of a state's prior precision that stands in for none
Callback = Callable[[int, float], None]


@dataclass(frozen=True)
class Epoch:
    """One line of the history. ``attempt`` counts restarts from 0."""

    epoch: int
    train_rmse: float
    noise_precision: float
    attempt: int


@dataclass
class _Mode:
    """A mode while fitting: its process, its states, the damped natural message of each state, its posterior."""

    ssm: StateSpace
    t: np.ndarray
    sums: moments.EntrySums
    precision: np.ndarray
    shift: np.ndarray
    mean: np.ndarray
    cov: np.ndarray
    steps: tuple[np.ndarray, np.ndarray]
    post: Smoothed | None = None


@dataclass(frozen=True)
class Core:
    """Posterior of the core: ``mean`` (R1, ..., RK) and ``cov`` (R1..RK, R1..RK) of its row-major vector."""

    mean: np.ndarray
    cov: np.ndarray


class FunBaT:
    """Functional Bayesian Tucker decomposition.

    rank, lengthscale, variance: one number, or one per mode. Lengthscales are in the units of ``idx``; scale ``idx``
    first (``scaling.IndexScaler``), and ``y`` to about unit variance. ``damping_*`` is the share of the old message
    that stays, in [0, 1). ``schedule`` "inner" updates each mode before the next one's messages are computed; "outer"
    computes the messages of all modes first. ``init`` is "rand" (uniform, the paper's), "prior" (functions drawn from
    the prior) or a list of (M_k, R_k) arrays: factor values at the sorted distinct indices. ``core`` fixes the initial
    core mean; with ``update_core=False`` it stays. ``core_cov`` adds the core's posterior covariance to the factor
    messages, which the paper leaves out. ``prior_var`` is the variance of the weak prior at every state that the
    paper's code adds to the process prior (``math.inf``: none); it outweighs the data where a state has few entries.
    ``tol``: stop when the train RMSE changes by less than this relative amount (0: never).

    Zero is a fixed point that attracts sparse data: if the train RMSE still is above 0.95 std(y) after
    ``plateau_epochs`` epochs, the fit restarts, up to ``max_restarts`` times: first with four times ``variance`` and
    ``prior_var``, then from draws of the prior with a larger ``variance`` and without ``prior_var``.
    """

    product: moments.Product = "kron"

    def __init__(
        self,
        rank: int | Sequence[int] = 2,
        kernel: str = "matern32",
        lengthscale: float | Sequence[float] = 0.1,
        variance: float | Sequence[float] = 1.0,
        *,
        a0: float = 1.0,
        b0: float = 1.0,
        prior_var: float = 1.0,
        damping_u: float = 0.3,
        damping_tau: float = 0.5,
        damping_core: float = 0.5,
        schedule: str = "inner",
        init: str | Sequence[np.ndarray] = "rand",
        core: np.ndarray | None = None,
        update_core: bool = True,
        core_cov: bool = False,
        max_epochs: int = 100,
        tol: float = 0.0,
        plateau_epochs: int = 30,
        max_restarts: int = 3,
        seed: int = 0,
    ):
        kernel_nu(kernel)
        if schedule not in ("inner", "outer"):
            raise ValueError(unknown("schedule", schedule, ("inner", "outer")))
        for name, value in (("damping_u", damping_u), ("damping_tau", damping_tau), ("damping_core", damping_core)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} {value} must lie in [0, 1)")
        for name, number in (("a0", a0), ("b0", b0), ("prior_var", prior_var), ("max_epochs", max_epochs)):
            if not number > 0:
                raise ValueError(f"{name} {number} must be positive")
        for name, values in (("rank", rank), ("lengthscale", lengthscale), ("variance", variance)):
            for value in np.atleast_1d(np.asarray(values, dtype=float)):
                if not (np.isfinite(value) and value > 0):
                    raise ValueError(f"{name} {value:g} must be positive")
        if isinstance(init, str) and init not in ("rand", "prior"):
            raise ValueError(unknown("init", init, ("rand", "prior")))
        self.rank, self.kernel, self.lengthscale, self.variance = rank, kernel, lengthscale, variance
        self.a0, self.b0, self.prior_var = a0, b0, prior_var
        self.damping_u, self.damping_tau, self.damping_core = damping_u, damping_tau, damping_core
        self.schedule, self.init, self.initial_core, self.update_core = schedule, init, core, update_core
        self.core_cov, self.max_epochs, self.tol, self.seed = core_cov, max_epochs, tol, seed
        self.plateau_epochs, self.max_restarts = plateau_epochs, max_restarts

    def fit(
        self, idx: Float[np.ndarray, "n k"], y: Float[np.ndarray, " n"], callback: Callback | None = None
    ) -> FunBaT:
        """Fit entries ``y`` at real-valued indices ``idx``; ``callback(epoch, train_rmse)`` hears of every epoch."""
        idx = check_indices(idx)
        y = check_values(y, len(idx))
        self.ranks = [int(r) for r in per_mode("rank", self.rank, idx.shape[1])]
        self._check_ranks()
        variances = [float(v) for v in per_mode("variance", self.variance, idx.shape[1])]
        self.history: list[Epoch] = []
        self._states = [s.of_entry for s in states_of(idx)]
        self._t, self._y = [s.t for s in states_of(idx)], y
        spread = float(y.std())
        self.fitted_prior_var = float(self.prior_var)
        init = self.init
        for attempt in range(self.max_restarts + 1):
            self._start(variances, init, np.random.default_rng([self.seed, attempt]))
            stuck = self._run(attempt, spread, callback, last=attempt == self.max_restarts)
            if not stuck:
                break
            if attempt == 0:
                variances = [GROWTH * v for v in variances]
                self.fitted_prior_var *= GROWTH
            else:  # more of the same would not help: start from functions with a shape, and let the data decide alone
                variances = [2.0 * attempt * float(v) for v in per_mode("variance", self.variance, idx.shape[1])]
                self.fitted_prior_var, init = math.inf, "prior"
            log.warning(
                "train RMSE %.3g is still above %.2f std(y) = %.3g after %d epochs: the factors are held at zero by "
                "the prior; restarting with variance %s, prior_var %g",
                *(self.history[-1].train_rmse, PLATEAU, PLATEAU * spread, self.plateau_epochs),
                *(variances, self.fitted_prior_var),
            )
        self.fitted_variance = variances
        return self

    def _check_ranks(self) -> None:
        if math.prod(self.ranks) > MAX_CORE:
            raise ValueError(
                f"rank {self.ranks} gives a core of {math.prod(self.ranks)} entries, more than {MAX_CORE}; "
                "lower the rank or use FunBaTCP"
            )

    def _start(self, variances: Sequence[float], init: str | Sequence[np.ndarray], rng: np.random.Generator) -> None:
        """Weak messages, unit noise precision, and initial factors: uniform on (0, 1) with unit covariance as in the
        paper's code, or drawn from the prior (or given) with a covariance small enough not to wash out their signs."""
        modes = len(self.ranks)
        lengthscales = per_mode("lengthscale", self.lengthscale, modes)
        if not isinstance(init, str) and len(init) != modes:
            raise ValueError(f"init has {len(init)} arrays; idx has {modes} modes")
        width = 1
        for r in self.ranks:
            width *= r * r if self.product == "kron" else 1
        self._modes: list[_Mode] = []
        for k, (r, t) in enumerate(zip(self.ranks, self._t, strict=True)):
            own = width // (r * r) if self.product == "kron" else r * r
            counts = np.bincount(self._states[k], minlength=len(t)).astype(float)
            ssm = matern_ssm(kernel_nu(self.kernel), float(lengthscales[k]), variances[k], r)
            shift = 1e-3 * counts[:, None] * rng.random((len(t), r)) if init == "rand" else np.zeros((len(t), r))
            mean = rng.random((len(t), r)) if init == "rand" else sample_prior(ssm, t, rng)
            if not isinstance(init, str):
                mean = np.array(init[k], dtype=float)
                if mean.shape != (len(t), r):
                    raise ValueError(f"init[{k}] has shape {mean.shape}; mode {k} needs {(len(t), r)}")
            eye = np.broadcast_to(np.eye(r), (len(t), r, r))
            cov = eye.copy() if init == "rand" else 0.1 * eye
            sums = moments.EntrySums(self._states, self._y, k, own)
            self._modes.append(
                _Mode(ssm, t, sums, 1e-3 * counts[:, None, None] * eye, shift, mean, cov, transitions(ssm, t))
            )
        self._start_core(rng)
        self.noise_precision = 1.0
        self._misfit = float(len(self._y))  # sum of the entries' messages to b, each starting at 1

    def _start_core(self, rng: np.random.Generator) -> None:
        size = math.prod(self.ranks)
        if self.initial_core is None:
            self._w = rng.random(size)
        else:
            start = np.asarray(self.initial_core, dtype=float)
            if start.shape != tuple(self.ranks):
                raise ValueError(f"core has shape {start.shape}; rank {self.ranks} needs {tuple(self.ranks)}")
            self._w = start.reshape(-1).copy()
        self._w_cov = np.eye(size) if self.update_core else np.zeros((size, size))
        self._w_precision = 1e-3 * len(self._y) * np.eye(size)
        self._w_shift = 1e-3 * len(self._y) * rng.random(size)

    def _run(self, attempt: int, spread: float, callback: Callback | None, last: bool) -> bool:
        """Epochs of one attempt; True if it was given up on the plateau at zero."""
        previous = np.inf
        for epoch in range(self.max_epochs):
            if self.schedule == "outer":
                for k in range(len(self._modes)):
                    self._refresh_messages(k)
            for k in range(len(self._modes)):
                if self.schedule == "inner":
                    self._refresh_messages(k)
                self._update_factor(k)
            self._update_core_and_noise()
            rmse = float(np.sqrt(np.mean((self._y - self._fitted()) ** 2)))
            if not np.isfinite(rmse):
                raise FloatingPointError(f"the fit diverged in epoch {epoch}; raise damping_u or lower the variance")
            self.history.append(Epoch(epoch, rmse, self.noise_precision, attempt))
            if callback is not None:
                callback(len(self.history) - 1, rmse)
            plateau = rmse > PLATEAU * spread
            if plateau and epoch + 1 == self.plateau_epochs and not last:
                return True
            if not plateau and abs(previous - rmse) < self.tol * rmse:  # never stop while still at zero
                break
            previous = rmse
        if plateau:
            log.warning("train RMSE %.3g is no better than std(y) %.3g at the end of the fit", rmse, spread)
        return False

    def _tables(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        means = [m.mean for m in self._modes]
        return means, [moments.second_moment(m.mean, m.cov) for m in self._modes]

    def _refresh_messages(self, k: int) -> None:
        """Damped natural messages of mode k's states: Λ = E[τ] Σ W_(k) E[zz'] W_(k)', η = E[τ] Σ y W_(k) E[z]."""
        mode = self._modes[k]
        precision, shift = np.zeros_like(mode.precision), np.zeros_like(mode.shift)
        for states, first, second in mode.sums(self.product, *self._tables()):
            part, tilt = self._through_core(k, first, second)
            precision[states] += part
            shift[states] += tilt
        d, tau = self.damping_u, self.noise_precision
        mode.precision = d * mode.precision + (1 - d) * tau * precision
        mode.shift = d * mode.shift + (1 - d) * tau * shift

    def _through_core(self, k: int, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r = self.ranks[k]
        unfolding = np.moveaxis(self._w.reshape(self.ranks), k, 0).reshape(r, -1)
        part = unfolding @ second @ unfolding.T
        if self.core_cov:
            cov = self._w_cov.reshape(*self.ranks, *self.ranks)
            cov = np.moveaxis(cov, (k, len(self.ranks) + k), (0, len(self.ranks)))
            part = part + np.einsum("apbq,mpq->mab", cov.reshape(r, -1, r, unfolding.shape[1]), second)
        return part, first @ unfolding.T

    def _update_factor(self, k: int) -> None:
        """Filter and smooth mode k's process on its pseudo-observations m_t = R_t η_t, R_t = (Λ_t + I/v)^-1."""
        mode = self._modes[k]
        weak = max(1.0 / self.fitted_prior_var, NEGLIGIBLE / mode.ssm.P_inf[0, 0])  # messages alone may be singular
        cov = np.linalg.inv(mode.precision + weak * np.eye(self.ranks[k]))
        cov = 0.5 * (cov + np.swapaxes(cov, 1, 2))
        mode.post = smooth(mode.ssm, mode.t, np.einsum("mab,mb->ma", cov, mode.shift), cov, None, mode.steps, mode.post)
        mode.mean, mode.cov = np.ascontiguousarray(mode.post.mean), np.ascontiguousarray(mode.post.cov)

    def _totals(self) -> tuple[np.ndarray, np.ndarray]:
        """Σ_n y_n E[z_n] and Σ_n E[z_n z_n'], z over all modes, through the mode with the fewest states."""
        k = int(np.argmin([len(m.t) for m in self._modes]))
        means, seconds = self._tables()
        ranks, rest = self.ranks, [r for j, r in enumerate(self.ranks) if j != k]
        q = math.prod(rest)
        first, second = np.zeros((ranks[k], q)), np.zeros((ranks[k] ** 2, q * q))
        for states, z, zz in self._modes[k].sums(self.product, means, seconds):
            first += means[k][states].T @ z
            second += seconds[k][states].reshape(len(z), -1).T @ zz.reshape(len(z), -1)
        # (r_k, r_k', others, others') -> row-major over all modes on both sides
        first = np.moveaxis(first.reshape(ranks[k], *rest), 0, k).reshape(-1)
        full = second.reshape(ranks[k], ranks[k], *rest, *rest)
        full = np.moveaxis(full, (0, 1), (k, len(ranks) + k))
        return first, full.reshape(first.size, first.size)

    def _update_core_and_noise(self) -> None:
        first, second = self._totals()
        if self.update_core:
            d, tau = self.damping_core, self.noise_precision
            self._w_precision = d * self._w_precision + (1 - d) * tau * second
            self._w_shift = d * self._w_shift + (1 - d) * tau * first
            chol = np.linalg.cholesky(self._w_precision + np.eye(first.size))
            inverse = np.linalg.solve(chol, np.eye(first.size))
            self._w_cov = inverse.T @ inverse
            self._w = self._w_cov @ self._w_shift
        quadratic = self._w @ second @ self._w
        if self.core_cov:
            quadratic += float(np.sum(self._w_cov * second))
        self._update_noise(float(first @ self._w), float(quadratic))

    def _update_noise(self, linear: float, quadratic: float) -> None:
        misfit = 0.5 * float(self._y @ self._y) - linear + 0.5 * quadratic
        self._misfit = self.damping_tau * self._misfit + (1 - self.damping_tau) * misfit
        self.noise_precision = (self.a0 + 0.5 * len(self._y)) / (self.b0 + self._misfit)

    def _fitted(self) -> np.ndarray:
        return self._combine([m.mean[s] for m, s in zip(self._modes, self._states, strict=True)])

    def _combine(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """E[y] of entries whose factor means are given: the core contracted with one mode after the other."""
        out = np.broadcast_to(self._w, (len(values[0]), self._w.size))
        for u in values:
            out = np.einsum("nr,nrq->nq", u, out.reshape(len(u), u.shape[1], -1))
        return out[:, 0]

    @property
    def core(self) -> Core:
        """Posterior mean and covariance of the core."""
        self._check_fitted()
        return Core(self._w.reshape(self.ranks), self._w_cov)

    @property
    def parameters(self) -> int:
        """Numbers in the posterior means: factor values at the distinct indices, and the core."""
        self._check_fitted()
        return sum(m.mean.size for m in self._modes) + self._core_parameters()

    def _core_parameters(self) -> int:
        return self._w.size

    def latent(self, mode: int, grid: Float[np.ndarray, " g"]) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean (G, R) and standard deviation (G, R) of the mode's functions at any indices."""
        self._check_fitted()
        if not 0 <= mode < len(self._modes):
            raise ValueError(f"mode {mode} is not one of 0..{len(self._modes) - 1}")
        mean, cov = predict(self._modes[mode].ssm, self._modes[mode].post, np.asarray(grid, dtype=float))
        return mean, np.sqrt(np.maximum(np.einsum("grr->gr", cov), 0.0))

    def predict(self, idx: Float[np.ndarray, "n k"], return_std: bool = False, noise: bool = True):
        """Mean of y at ``idx``, and with ``return_std`` the standard deviation (of a new observation; of the function
        alone with ``noise=False``). Indices never seen in training are fine."""
        self._check_fitted()
        idx = check_indices(idx, len(self._modes))
        tables = []
        for k, mode in enumerate(self._modes):
            t, of_entry = np.unique(idx[:, k], return_inverse=True)
            mean, cov = predict(mode.ssm, mode.post, t)
            tables.append((mean, moments.second_moment(mean, cov), of_entry.reshape(-1)))
        out = self._combine([mean[i] for mean, _, i in tables])
        if not return_std:
            return out
        variance = np.empty(len(idx))
        step = max(1, moments.CHUNK // self._second_width())
        for a in range(0, len(idx), step):
            part = slice(a, a + step)
            variance[part] = self._square([s[i[part]] for _, s, i in tables]) - out[part] ** 2
        return out, np.sqrt(np.maximum(variance, 0.0) + (1.0 / self.noise_precision if noise else 0.0))

    def _second_width(self) -> int:
        return math.prod(self.ranks) ** 2

    def _square(self, seconds: Sequence[np.ndarray]) -> np.ndarray:
        """E[(vec(W)' z)^2] with the core's own uncertainty."""
        weight = np.outer(self._w, self._w) + self._w_cov
        return moments.kron_matrices(seconds).reshape(len(seconds[0]), -1) @ weight.reshape(-1)

    def _check_fitted(self) -> None:
        if not hasattr(self, "_modes") or any(m.post is None for m in self._modes):
            raise ValueError("call fit before predict, latent or core")
