"""Alternating least squares for any tensor network, on a whole tensor or on its observed entries.

Each core in turn minimises |M ∘ (X − X̂)|² + ρ |G_k|² with the others fixed (M the mask), from the normal equations. The
ridge ρ follows the error and dies away: ρ = damping · (current relative squared error) · 0.8^sweep · (mean diagonal of
the Gram), never below a floor of 1e-12. It keeps the cores of an over-parametrised network small while the fit is poor,
which is what carries ALS through its swamps (for the networks of a structure search the error after 40 sweeps falls by
two to three orders of magnitude against the plain floor). If such an update would raise the observed error, the ridge
pulls towards the old core instead of zero (ρ |G_k − G_k,old|²), which cannot: the error never rises. Sweeps run to and
fro over the vertices, so each environment costs one core more than the last (see ``plans``), and several restarts are
fitted at once along a batch axis.

ALS on the cores of a ring: Zhao et al., "Tensor Ring Decomposition" (arXiv 1606.05535); the generic network version is
the solver of arXiv 2008.05437. Missing entries: one small system per slice of the mode, in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from .container import TensorNetwork
from .initial import check_structure, random_network
from .plans import SweepPlan, best_order, network_plan

DECAY = 0.8  # of the damping, per sweep


@dataclass(frozen=True)
class Fit:
    """A fitted network.

    Attributes:
        network: the best restart, vertices in the order of the target's modes.
        rse: |M ∘ (X − X̂)|² / |M ∘ X|² of that restart.
        history: the same after every sweep, (sweeps, restarts).
        converged: whether ``tol`` was reached, or the error had stalled, before the last sweep.
    """

    network: TensorNetwork
    rse: float
    history: np.ndarray
    converged: bool

    @property
    def sweeps(self) -> int:
        return len(self.history)


def check_target(target: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None, float]:
    """The target as float64, the mask as bool, and the norm of the observed part; refuses what cannot be fitted."""
    target = np.asarray(target, dtype=np.float64)
    if target.ndim < 2:
        raise ValueError(f"target must have at least 2 modes, got shape {target.shape}")
    if target.size > 2**31:
        raise ValueError(f"target of shape {target.shape} has {target.size} entries, over 2^31; fit a part of it")
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != target.shape:
            raise ValueError(f"mask has shape {mask.shape}, target {target.shape}")
        mask = mask.astype(bool)
        for mode in range(target.ndim):
            seen = mask.any(axis=tuple(j for j in range(target.ndim) if j != mode))
            if not seen.all():
                raise ValueError(f"mask leaves slice {int(np.argmin(seen))} of mode {mode} without any observed entry")
        target = np.where(mask, target, 0.0)
    if not np.isfinite(target).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(target))[0])
        raise ValueError(f"target is not finite at index {where}" + ("" if mask is not None else "; pass a mask"))
    norm = float(np.linalg.norm(target))
    if norm == 0.0:
        raise ValueError("target is zero: every structure fits it, the relative error is undefined")
    return target, mask, norm


def als(
    target: Float[np.ndarray, ...],
    ranks: np.ndarray | None = None,
    *,
    generator: np.random.Generator | None = None,
    start: TensorNetwork | Sequence[TensorNetwork] | None = None,
    repeats: int = 1,
    mask: Bool[np.ndarray, ...] | None = None,
    max_sweeps: int = 40,
    tol: float = 1e-9,
    stall: float = 0.0,
    change: float = 0.0,
    ridge: float = 1e-12,
    damping: float = 1.0,
    vertices: Sequence[int] | None = None,
) -> Fit:
    """Fit a network of the given structure; the best of ``repeats`` restarts.

    Args:
        target: N-way array (internal vertices: modes of size 1; see ``structure.space``).
        ranks: structure matrix, bonds off the diagonal, mode sizes on it. Omit when ``start`` is given.
        generator: randomness of the restarts.
        start: network(s) to start from; the remaining restarts are random.
        mask: True where observed.
        max_sweeps: passes over all cores.
        tol: stop when a restart reaches this relative squared error.
        stall: stop when no restart improved by this fraction in a sweep (0: never).
        change: stop when the relative error |X − X̂| / |X| (not squared) of no restart fell by more than this in a sweep
            (0: never).
        ridge: floor of the ridge, relative to the mean diagonal of the Gram.
        damping: the ridge of the first sweep in units of the relative squared error, for random restarts (0: plain
            least squares with the floor). Networks given as ``start`` are fitted already and are not damped: the small
            new slices of a warm start would be the first to be damped away.
        vertices: cores to update, all by default.

    Raises:
        ValueError: bad target, mask, structure, or neither start nor ranks.
    """
    target, mask, norm = check_target(target, mask)
    starts = [] if start is None else [start] if isinstance(start, TensorNetwork) else list(start)
    given = len(starts)
    if ranks is None:
        if not starts:
            raise ValueError("give a structure (ranks=) or a network to start from (start=)")
        ranks = starts[0].adjacency()
    ranks = check_structure(ranks)
    if tuple(np.diag(ranks)) != target.shape:
        raise ValueError(f"structure has mode sizes {tuple(np.diag(ranks).tolist())}, target has shape {target.shape}")
    if max_sweeps < 1 or repeats < 1:
        raise ValueError(f"max_sweeps and repeats must be >= 1, got {max_sweeps} and {repeats}")
    if given < repeats:
        if generator is None:
            raise ValueError("random restarts need a generator (generator=np.random.default_rng(0))")
        starts += random_network(ranks, generator, batch=repeats - given)

    line = best_order(_key(ranks))
    plan = network_plan(_key(ranks[np.ix_(line, line)]), "environment" if mask is not None else None)
    update = set(range(len(line))) if vertices is None else {line.index(int(v)) for v in vertices}
    sweep = _Sweep(plan, target.transpose(line) / norm, None if mask is None else mask.transpose(line), ridge)
    moved = [net.permute(line) for net in starts]
    cores = [np.stack([plan.compact(np.asarray(net.cores[k]), k) for net in moved]) for k in range(plan.order)]
    cores[0][:given] /= norm  # the target was divided by its norm; random restarts have norm 1 already

    history: list[np.ndarray] = []
    strength = np.where(np.arange(len(starts)) < given, 0.0, damping)
    sweep.load(cores)
    converged = False
    for number in range(max_sweeps):
        history.append(sweep.run(update, forth=number % 2 == 0, damping=strength * DECAY**number))
        if history[-1].min() <= tol:
            converged = True
            break
        if stall and number and ((history[-2] - history[-1]) <= stall * history[-2]).all():
            converged = True
            break
        if change and number and (np.sqrt(history[-2]) - np.sqrt(history[-1]) <= change).all():
            converged = True
            break
    best = int(np.argmin(history[-1]))
    fitted: list[np.ndarray | None] = [None] * plan.order
    for k in range(plan.order):
        fitted[k] = plan.expand(sweep.cores[k][best] * (norm if k == 0 else 1.0), k)
    network = TensorNetwork(fitted).permute(np.argsort(line))
    return Fit(network=network, rse=float(history[-1][best]), history=np.array(history), converged=converged)


def _key(ranks: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, ranks.tolist()))


class _Sweep:
    """The state of the sweeps: cores (restarts in front), prefixes and suffixes that are up to date where needed."""

    def __init__(self, plan: SweepPlan, target: np.ndarray, mask: np.ndarray | None, ridge: float):
        self.plan, self.ridge, order = plan, ridge, plan.order
        self.square = float((target**2).sum())
        unfold = [np.moveaxis(target, k, -1).reshape(-1, plan.dims[k]) for k in range(order)]
        self.gram_route = plan.route == "gram"
        self.target = target[None] if self.gram_route else None
        self.unfolded = None if self.gram_route else [np.ascontiguousarray(u) for u in unfold]
        self.observed = None
        if mask is not None:
            self.observed = [
                np.ascontiguousarray(np.moveaxis(mask, k, -1).reshape(-1, plan.dims[k]).T) for k in range(order)
            ]

    def load(self, cores: list[np.ndarray]) -> None:
        """Take the cores and build all suffixes: the first pass runs forwards."""
        order = self.plan.order
        self.cores, batch = list(cores), len(cores[0])
        one = np.ones((batch,))
        self.prefix = [self.target if self.gram_route else one] + [None] * order
        self.suffix = [None] * order + [one]
        self.prefix2, self.suffix2 = [one] + [None] * order, [None] * order + [one]
        for k in reversed(range(1, order)):
            self._absorb_right(k)
        self.rse = np.ones(batch)  # until measured: a random start explains nothing

    def _absorb_left(self, k: int) -> None:
        core = self.cores[k]
        self.prefix[k + 1] = self.plan.forward[k](self.prefix[k], core)
        if self.gram_route:
            first, second = self.plan.forward2[k]
            self.prefix2[k + 1] = second(first(self.prefix2[k], core), core)

    def _absorb_right(self, k: int) -> None:
        core = self.cores[k]
        self.suffix[k] = self.plan.backward[k](core, self.suffix[k + 1])
        if self.gram_route:
            first, second = self.plan.backward2[k]
            self.suffix2[k] = second(first(core, self.suffix2[k + 1]), core)

    def run(self, update: set[int], forth: bool, damping: np.ndarray) -> np.ndarray:
        """One pass with a damping per restart; returns the relative squared error of every restart after it."""
        order = self.plan.order
        self.shift = np.maximum(damping * np.minimum(self.rse, 1.0), self.ridge)[:, None, None]
        for k in range(order) if forth else reversed(range(order)):
            last = k == (order - 1 if forth else 0)
            if k in update or last:
                self._update(k, solve=k in update, measure=last)
            if not last:
                (self._absorb_left if forth else self._absorb_right)(k)
        return self.rse

    def _update(self, k: int, solve: bool, measure: bool) -> None:
        plan = self.plan
        env = plan.arrange_environment[k](plan.environment[k](self.prefix[k], self.suffix[k + 1]))
        if self.observed is not None:
            gram, right = self._masked_normal(env, k)
        elif self.gram_route:
            gram, right = plan.arrange_gram[k](plan.gram[k](self.prefix2[k], self.suffix2[k + 1])), env
        else:
            transposed = env.transpose(0, 2, 1)
            gram, right = transposed @ env, transposed @ self.unfolded[k]
        # systems of shape (restart, slice, bond, column): with a mask every slice of the mode has a Gram of its own
        old = self.cores[k].reshape(len(self.cores[k]), 1, -1, plan.dims[k])
        if self.observed is None:
            gram, right = gram[:, None], right[:, None]
        else:
            old, right = old.swapaxes(1, 3), right.transpose(0, 2, 1)[..., None]
        if solve:
            new = self._solve(gram, right, old)
            back = new if self.observed is None else new.swapaxes(1, 3)
            self.cores[k] = back.reshape(self.cores[k].shape)
        else:
            new = old
        if measure:
            error = self.square + _inner(gram @ new - 2.0 * right, new)
            self.rse = np.maximum(error, 0.0) / self.square

    def _solve(self, gram: np.ndarray, right: np.ndarray, old: np.ndarray) -> np.ndarray:
        """The ridge solution, or where that is worse than the old core the proximal one: one factorisation for both."""
        size, columns = right.shape[-2:]
        damped = gram.copy()
        diagonal = damped.reshape(*damped.shape[:-2], -1)[..., :: size + 1]
        # 1e-300 keeps an all-zero environment (a core that vanished) solvable: the core becomes zero
        diagonal += self.shift / size * np.add.reduce(diagonal, -1, keepdims=True) + 1e-300
        residual = right - gram @ old
        both = np.linalg.solve(damped, np.concatenate((right, residual), axis=-1))
        new = both[..., :columns]
        worse = _inner(gram @ new - 2.0 * right, new) > -_inner(residual + right, old)
        if worse.any():
            new = np.where(worse[:, None, None, None], old + both[..., columns:], new)
        return new

    def _masked_normal(self, env: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Gram and right side per slice of mode k, from the observed rows of the environment only."""
        seen = self.observed[k]
        right = env.transpose(0, 2, 1) @ self.unfolded[k]
        gram = np.empty((len(env), len(seen), env.shape[2], env.shape[2]))
        for i, rows in enumerate(seen):
            weighted = env[:, rows]
            gram[:, i] = weighted.transpose(0, 2, 1) @ weighted
        return gram, right


def _inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner product per restart."""
    return (a * b).reshape(len(a), -1).sum(1)
