"""The Bayesian relatives that Bayesian Poisson Tucker decomposition contains as special cases, by Gibbs sampling.

- :class:`BPTF`, Bayesian Poisson tensor factorisation (Schein, Paisley, Blei, Wallach, KDD 2015): a CP model, in which
  senders and receivers have memberships of their own and a component is a sender, receiver, action and time pattern.
- :class:`BlockModel`: every actor is in one community, every action in one topic, every time step in one regime, as in
  the gamma-Poisson infinite relational model (GPIRM; Schmidt, Moerup, IEEE Signal Processing Magazine 2013), and with
  ``degree_corrected=True`` a popularity of each actor, action and time step beside (DCGPIRM; Herlau, Schmidt, Moerup,
  2014). Both are written for four modes as the paper does; the number of clusters is an upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.counts import kernels
from tensorbench.decomposition.counts.conditionals import Counts
from tensorbench.decomposition.counts.inputs import check_counts
from tensorbench.decomposition.counts.sampling import gamma_safe

MODES = 4
FACTORS = ("send", "receive", "phi", "psi")  # of BPTF, mode by mode


class _Sampler:
    """Sweeps, burn-in and the average of rates over what is kept; ``samples`` are the kept states."""

    def __init__(
        self, *, n_iter: int = 400, burn: int = 200, thin: int = 4, seed: int | np.random.Generator = 0
    ) -> None:
        if not 0 <= burn < n_iter or thin < 1:
            raise ValueError(f"n_iter={n_iter}, burn={burn}, thin={thin}: need 0 <= burn < n_iter and thin >= 1")
        self.n_iter, self.burn, self.thin = n_iter, burn, thin
        self._rng = np.random.default_rng(seed)
        self._mean: np.ndarray
        self.samples: list[dict[str, Any]] = []

    def fit(self, Y: Any, mask: np.ndarray | None = None) -> Self:
        """Counts (V, V, A, T), dense or sparse; ``mask`` (V, V) as for BPTD. Raises ValueError for bad counts."""
        return self._run(Y, mask, {})

    def _run(self, Y: Any, mask: np.ndarray | None, fixed: Mapping[str, Any]) -> Self:
        data = check_counts(Y, mask)
        if data.mask.ndim != 2:
            raise ValueError("a mask for each time step is BPTD's alone; give one (V, V) mask")
        self._start(data)
        self._set(fixed)
        self.samples = []
        total = np.zeros(data.shape)
        for n in range(self.n_iter):
            self._sweep(data)
            if n >= self.burn and (n - self.burn) % self.thin == 0:
                total += self._rates()
                self.samples.append(self._sample())
        diagonal = np.arange(data.shape[0])
        total[diagonal, diagonal] = 0.0
        self._mean = total / len(self.samples)
        return self

    def posterior_mean(self) -> Float[np.ndarray, "V V A T"]:
        """Rates averaged over the kept samples; the diagonal is 0."""
        return self._mean

    def _start(self, data: Counts) -> None:
        raise NotImplementedError

    def _set(self, fixed: Mapping[str, Any]) -> None:
        if fixed:
            raise NotImplementedError(f"{type(self).__name__} samples all of its variables")

    def _sample(self) -> dict[str, Any]:
        raise NotImplementedError

    def _sweep(self, data: Counts) -> None:
        raise NotImplementedError

    def _rates(self) -> Float[np.ndarray, "V V A T"]:
        raise NotImplementedError


class BPTF(_Sampler):
    """y_ijat ~ Po(sum_q s_iq r_jq phi_aq psi_tq); entries of mode m ~ Ga(a, a b_m), b_m ~ Ga(1, 1). a = 0.1."""

    def __init__(self, n_components: int = 20, *, a: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        if n_components < 1 or a <= 0:
            raise ValueError(f"n_components={n_components} must be at least 1 and a={a} positive")
        self.n_components, self.a = n_components, a
        self.factors: tuple[Float[np.ndarray, "n Q"], ...]
        self._fixed: frozenset[str] = frozenset()

    def partial_fit(self, Y: Any, fixed: Mapping[str, np.ndarray], mask: np.ndarray | None = None) -> Self:
        """Sample only what ``fixed`` does not give: of ``send``, ``receive``, ``phi``, ``psi`` (n, Q) and ``b`` (4,).

        ``samples`` hold these names too. Raises ValueError for unknown names and wrong shapes.
        """
        return self._run(Y, mask, fixed)

    @property
    def num_params(self) -> int:
        """Entries of the factors."""
        return sum(factor.size for factor in self.factors)

    def _start(self, data: Counts) -> None:
        size = (data.values.sum() / data.mask.sum() / data.shape[2] / data.shape[3] / self.n_components) ** (1 / MODES)
        draws = [gamma_safe(np.ones((n, self.n_components)), 1.0 / size, self._rng) for n in data.shape]
        self.factors = tuple(draws)
        self.b = np.full(MODES, 1.0 / size)

    def _set(self, fixed: Mapping[str, Any]) -> None:
        self._fixed = frozenset(fixed)
        own = {**dict(zip(FACTORS, self.factors, strict=True)), "b": self.b}
        for name, value in fixed.items():
            if name not in own:
                raise ValueError(f"{name!r} is no variable of the model; it has {', '.join(own)}")
            if np.shape(value) != own[name].shape:
                raise ValueError(f"fixed {name} has shape {np.shape(value)}; the model has {own[name].shape}")
            own[name][:] = value

    def _sample(self) -> dict[str, Any]:
        factors = {name: factor.copy() for name, factor in zip(FACTORS, self.factors, strict=True)}
        return {**factors, "b": self.b.copy()}

    def exposure(self, mode: int, mask: Float[np.ndarray, "V V"]) -> Float[np.ndarray, "*n Q"]:
        """What multiplies the entries of a mode's factor in the expected number of tokens."""
        send, receive, phi, psi = self.factors
        if mode == 0:
            return (mask @ receive) * phi.sum(0) * psi.sum(0)
        if mode == 1:
            return (mask.T @ send) * phi.sum(0) * psi.sum(0)
        pairs = np.einsum("iq,ij,jq->q", send, mask, receive, optimize=True)
        return pairs * (psi if mode == 2 else phi).sum(0)

    def _sweep(self, data: Counts) -> None:
        counts = tuple(np.zeros((n, self.n_components), dtype=np.int64) for n in data.shape)
        kernels.allocate_components(data.coords, data.values, self.factors, self._rng, counts)
        for mode, factor in enumerate(self.factors):
            if FACTORS[mode] not in self._fixed:
                rate = self.a * self.b[mode] + self.exposure(mode, data.mask)
                factor[:] = gamma_safe(self.a + counts[mode], rate, self._rng)
            if "b" not in self._fixed:
                self.b[mode] = gamma_safe(1.0 + self.a * factor.size, 1.0 + self.a * factor.sum(), self._rng)

    def _rates(self) -> Float[np.ndarray, "V V A T"]:
        send, receive, phi, psi = self.factors
        V, A, T = len(send), len(phi), len(psi)
        pairs = (send[:, None] * receive[None]).reshape(V * V, -1)
        times = (phi[:, None] * psi[None]).reshape(A * T, -1)
        return (pairs @ times.T).reshape(V, V, A, T)


class BlockModel(_Sampler):
    """y_ijat ~ Po(g_i g_j h_a w_t lambda[r_t, k_a, z_i, z_j]), g = h = w = 1 unless ``degree_corrected``.

    z_i, k_a, r_t are hard memberships with symmetric Dirichlet priors of total mass ``concentration`` (the truncated
    Chinese restaurant process); lambda, g, h, w ~ Ga(1, .), lambda's rate being the reciprocal mean rate.
    """

    def __init__(
        self,
        n_communities: int = 20,
        n_topics: int = 6,
        n_regimes: int = 3,
        *,
        degree_corrected: bool = False,
        concentration: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if min(n_communities, n_topics, n_regimes) < 1 or concentration <= 0:
            raise ValueError("a block model needs at least one community, topic and regime, and concentration > 0")
        self.ranks = (n_communities, n_topics, n_regimes)
        self.degree_corrected, self.concentration = degree_corrected, concentration

    @property
    def num_params(self) -> int:
        """Blocks and memberships, and popularities where there are any."""
        labels = self.actors.size + self.actions.size + self.times.size
        return self.core.size + labels * (2 if self.degree_corrected else 1)

    def _start(self, data: Counts) -> None:
        rng, (V, _, A, T), (C, K, R) = self._rng, data.shape, self.ranks
        self.actors, self.actions, self.times = (
            rng.integers(C, size=V),
            rng.integers(K, size=A),
            rng.integers(R, size=T),
        )
        self.degrees = [np.ones(V), np.ones(A), np.ones(T)]
        mean = data.values.sum() / (data.mask.sum() * A * T)
        self.prior_rate = 1.0 / mean
        self.core = gamma_safe(np.ones((R, K, C, C)), self.prior_rate, rng)
        i, j, a, t = data.coords.T
        self._events = [np.bincount(index, weights=data.values, minlength=n)
                        for index, n in zip((i, j, a, t), data.shape, strict=True)]  # fmt: skip

    def _sample(self) -> dict[str, Any]:
        labels = {"actors": self.actors.copy(), "actions": self.actions.copy(), "times": self.times.copy()}
        return {**labels, "core": self.core, "degrees": [degree.copy() for degree in self.degrees]}

    def _sweep(self, data: Counts) -> None:
        self._draw_core(data)
        self._draw_actors(data)
        self._draw_others(data)
        if self.degree_corrected:
            self._draw_degrees(data)

    def _onehots(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Memberships as 0/1 matrices."""
        C, K, R = self.ranks
        return np.eye(C)[self.actors], np.eye(K)[self.actions], np.eye(R)[self.times]

    def _table(self, data: Counts, *axes: tuple[np.ndarray, int]) -> Float[np.ndarray, "..."]:
        """Events by several labels of their cells, each with its number of values."""
        sizes = tuple(size for _, size in axes)
        index = np.ravel_multi_index([label for label, _ in axes], sizes)
        return np.bincount(index, weights=data.values, minlength=int(np.prod(sizes))).reshape(sizes)

    def _pair_counts(self, data: Counts) -> Float[np.ndarray, "V V RK"]:
        """Events of every pair by regime and topic."""
        _, K, R = self.ranks
        i, j, a, t = data.coords.T
        V = data.shape[0]
        return self._table(data, (i, V), (j, V), (self.times[t] * K + self.actions[a], R * K))

    def _class_weights(self) -> Float[np.ndarray, " RK"]:
        """Summed popularity of the cells (a, t) of every regime and topic."""
        _, k, r = self._onehots()
        return np.outer(r.T @ self.degrees[2], k.T @ self.degrees[1]).ravel()

    def _draw_core(self, data: Counts) -> None:
        z = self._onehots()[0]
        C, K, R = self.ranks
        i, j, a, t = data.coords.T
        labels = (self.times[t], R), (self.actions[a], K), (self.actors[i], C), (self.actors[j], C)
        counts = self._table(data, *labels)
        weighted = z * self.degrees[0][:, None]
        pairs = weighted.T @ data.mask @ weighted
        exposure = self._class_weights().reshape(R, K, 1, 1) * pairs
        self.core = gamma_safe(1.0 + counts, self.prior_rate + exposure, self._rng)

    def _draw_actors(self, data: Counts) -> None:
        """z_i given all else, one actor after another."""
        C, K, R = self.ranks
        pairs, weights = self._pair_counts(data), self._class_weights()
        core = self.core.reshape(R * K, C, C)
        logs, mean = np.log(core), np.tensordot(weights, core, axes=1)
        g = self.degrees[0]
        z = np.eye(C)[self.actors]
        for i in range(len(g)):
            z[i] = 0.0
            # A pair's own degrees multiply every candidate's likelihood alike, so only lambda's logarithm counts.
            sent, received = z.T @ pairs[i], z.T @ pairs[:, i]  # (C, RK)
            value = np.einsum("dq,qcd->c", sent, logs) + np.einsum("dq,qdc->c", received, logs)
            to, back = (data.mask[i] * g) @ z, (data.mask[:, i] * g) @ z
            value -= g[i] * (mean @ to + mean.T @ back)
            value += np.log(z.sum(axis=0) + self.concentration / C)
            c = int(np.argmax(value + self._rng.gumbel(size=C)))
            self.actors[i] = c
            z[i, c] = 1.0

    def _draw_others(self, data: Counts) -> None:
        """k_a and r_t, one after another."""
        z = self._onehots()[0]
        weighted = z * self.degrees[0][:, None]
        pairs = weighted.T @ data.mask @ weighted
        mean, logs = np.einsum("rkcd,cd->rk", self.core, pairs), np.log(self.core)
        i, j, *cells = data.coords.T
        C = self.ranks[0]
        for axis, labels in ((0, self.actions), (1, self.times)):
            size, other = self.ranks[1 + axis], (self.times, self.actions)[axis]
            mine, theirs = self.degrees[1 + axis], self.degrees[2 - axis]
            members = np.bincount(labels, minlength=size).astype(float)
            log_of, mean_of = (logs.transpose(1, 0, 2, 3), mean.T) if axis == 0 else (logs, mean)
            width = mean_of.shape[1]
            clusters = other[cells[1 - axis]]
            grouped = self._table(
                data,
                (cells[axis], len(labels)),
                (clusters, width),
                (self.actors[i], C),
                (self.actors[j], C),
            )
            value = np.tensordot(grouped, log_of, axes=([1, 2, 3], [1, 2, 3]))
            share = np.bincount(other, weights=theirs, minlength=width)
            value -= mine[:, None] * (mean_of @ share)
            for n in range(len(labels)):
                members[labels[n]] -= 1
                noise = self._rng.gumbel(size=size)
                labels[n] = int(np.argmax(value[n] + np.log(members + self.concentration / size) + noise))
                members[labels[n]] += 1

    def _draw_degrees(self, data: Counts) -> None:
        """Popularities given memberships: actor by actor, then actions, then time steps."""
        rng, g = self._rng, self.degrees[0]
        z, k, r = self._onehots()
        C, K, R = self.ranks
        mean = np.tensordot(self._class_weights(), self.core.reshape(R * K, C, C), axes=1)
        expected = z @ mean @ z.T * data.mask
        for i in range(len(g)):
            rate = 1.0 + (expected[i] + expected[:, i]) @ g
            g[i] = gamma_safe(1.0 + self._events[0][i] + self._events[1][i], rate, rng)
        weighted = z * g[:, None]
        total = np.einsum("rkcd,cd->rk", self.core, weighted.T @ data.mask @ weighted)
        rate_a = 1.0 + k @ (total.T @ (r.T @ self.degrees[2]))
        self.degrees[1] = gamma_safe(1.0 + self._events[2], rate_a, rng)
        rate_t = 1.0 + r @ (total @ (k.T @ self.degrees[1]))
        self.degrees[2] = gamma_safe(1.0 + self._events[3], rate_t, rng)

    def _rates(self) -> Float[np.ndarray, "V V A T"]:
        blocks = self.core[self.times][:, self.actions]  # (T, A, C, C)
        rate = blocks[:, :, self.actors][:, :, :, self.actors].transpose(2, 3, 1, 0)
        if not self.degree_corrected:
            return rate
        g, h, w = self.degrees
        return rate * (g[:, None] * g)[:, :, None, None] * (h[:, None] * w)
