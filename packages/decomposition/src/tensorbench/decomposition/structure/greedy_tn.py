"""Greedy learning of a tensor network's structure: one unit of rank at a time, on the bond that lowers the loss most.

Hashemizadeh, Liu, Miller, Rabusseau, "Adaptive Learning of Tensor Network Structures" (arXiv 2008.05437). The search
starts from a rank-one tensor on the complete graph (all bonds 1). Each step tries every bond: new slices are fitted to
the residual with all else fixed (``heuristic="rank_one"``, see :mod:`edge_scan`), or the whole enlarged network is
fitted (``"full"``). The best bond keeps its slices, and alternating least squares over all cores follows from there,
so that nothing learnt is thrown away. Cores that have become low-rank may be split (``internal_nodes``), which is how
Tucker and trees are reached. :func:`random_walk` draws the bonds instead; :func:`complete` sees the observed entries
only and chooses bonds and size by entries kept aside; :mod:`greedy_sgd` takes any differentiable loss. The loop that
both share is in :mod:`growth`.

``greedy_rank.Greedy`` is the same rule read as a search over a space of structures: every candidate is a fit of the
whole network, and what is counted is fits. Here a candidate costs two small solves.

The loss is the relative error |M ∘ (X - X̂)| / |M ∘ X|, not squared, M the mask.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from ..network import TensorNetwork, als, append_slices, increase_rank, random_network, split_internal, structure_matrix
from ..network.alternating import check_target
from .edge_scan import scan_edges
from .growth import Edge, Growth, Limits, grow

HEURISTICS = ("rank_one", "full", "random")
DESCRIBING, COMPLETING = Limits(), Limits(max_arity=4, patience=3)  # what a search may do unless it is told


@dataclass
class _LeastSquares:
    """A target (of norm 1 where observed) and the fits to it."""

    target: np.ndarray
    train: np.ndarray | None
    valid: np.ndarray | None
    generator: np.random.Generator
    heuristic: str
    limits: Limits
    sweeps: int
    candidate_sweeps: int
    change: float
    noise: float
    ridge: float
    valid_norm: float = field(init=False, default=math.nan)

    def __post_init__(self):
        if self.valid is not None:
            self.valid_norm = float(np.linalg.norm(self.target[self.valid]))

    def shaped(self, array: np.ndarray | None, network: TensorNetwork) -> np.ndarray | None:
        """With a mode of size 1 for each internal vertex."""
        return None if array is None else array.reshape(array.shape + (1,) * (network.order - array.ndim))

    def fit(self, network: TensorNetwork) -> tuple[TensorNetwork, float]:
        """All cores from where they are."""
        fitted = als(
            self.shaped(self.target, network),
            start=network,
            mask=self.shaped(self.train, network),
            max_sweeps=self.sweeps,
            tol=self.limits.stop_loss**2,
            change=self.change,
            ridge=self.ridge,
        )
        return fitted.network, math.sqrt(fitted.rse)

    def choose(self, network: TensorNetwork, edges: list[Edge]) -> tuple[Edge, TensorNetwork]:
        """The bond to grow and the network grown there."""
        if self.heuristic == "random":
            edge = edges[int(self.generator.integers(len(edges)))]
            return edge, self.grown(network, edge)
        if self.heuristic == "full":
            fits = [self.fit(self.grown(network, edge)) for edge in edges]
            scores = [loss if self.valid is None else self.validate(fitted) for fitted, loss in fits]
            best = int(np.argmin(scores))
            return edges[best], fits[best][0]
        residual = self.shaped(self.target, network) - np.asarray(network.full())
        found = scan_edges(
            residual, network, edges, self.generator, sweeps=self.candidate_sweeps, inc=self.limits.rank_inc,
            mask=self.shaped(self.train, network), valid=self.shaped(self.valid, network), ridge=self.ridge,
        )  # fmt: skip
        best = min(found, key=lambda c: c.loss if self.valid is None else c.valid_loss)
        return best.edge, append_slices(network, *best.edge, *best.slices)

    def grown(self, network: TensorNetwork, edge: Edge) -> TensorNetwork:
        return increase_rank(network, *edge, self.generator, self.limits.rank_inc, self.noise)

    def validate(self, network: TensorNetwork) -> float:
        if self.valid is None:
            return math.nan
        error = self.target[self.valid] - np.asarray(network.full()).reshape(self.target.shape)[self.valid]
        return float(np.linalg.norm(error)) / self.valid_norm


def split_observed(
    mask: Bool[np.ndarray, ...], fraction: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Observed entries to fit and entries to keep aside; a slice that would lose its last fitted entry keeps them all.

    Raises:
        ValueError: a fraction outside [0, 0.5], or one that keeps nothing aside.
    """
    if not 0 <= fraction <= 0.5:
        raise ValueError(f"val_fraction must lie in [0, 0.5], got {fraction}")
    seen = np.flatnonzero(mask)
    held = generator.permutation(seen)[: round(fraction * len(seen))]
    valid = np.zeros(mask.size, dtype=bool)
    valid[held] = True
    valid = valid.reshape(mask.shape)
    for mode in range(mask.ndim):
        others = tuple(k for k in range(mask.ndim) if k != mode)
        bare = ~(mask & ~valid).any(axis=others)
        if bare.any():
            np.moveaxis(valid, mode, 0)[bare] = False
    if fraction > 0 and not valid.any():
        raise ValueError(f"val_fraction {fraction} of {len(seen)} observed entries keeps none aside")
    return mask & ~valid, valid


def greedy_tn(
    target: Float[np.ndarray, ...],
    *,
    generator: np.random.Generator | int,
    mask: Bool[np.ndarray, ...] | None = None,
    heuristic: str = "rank_one",
    limits: Limits = DESCRIBING,
    max_sweeps: int = 100,
    candidate_sweeps: int = 2,
    change: float = 1e-7,
    noise: float = 1e-2,
    ridge: float = 1e-12,
    val_fraction: float = 0.0,
    internal_nodes: bool = False,
    split_eps: float = 1e-5,
) -> Growth:
    """Grow a network that describes the target.

    Args:
        target: N-way array.
        generator: or a seed.
        mask: True where observed.
        heuristic: "rank_one", "full" or "random" (any bond, the baseline).
        limits: of steps, parameters, loss.
        max_sweeps: of alternating least squares over all cores after each step.
        candidate_sweeps: of least squares on the new slices of each candidate.
        change: a fit stops when the loss falls by less in a sweep.
        noise: relative size of new slices that are not fitted first ("full" and "random").
        ridge: of all least squares, relative to the mean diagonal of a Gram.
        val_fraction: share of the observed entries that is kept aside and decides about bonds (and, with
            ``limits.patience``, about the size).
        internal_nodes: split cores that are low-rank to ``split_eps`` after each step.

    Raises:
        ValueError: bad target, mask, heuristic, limits, noise or fraction.
    """
    started = time.perf_counter()
    if heuristic not in HEURISTICS:
        from tensorbench.core.errors import unknown

        raise ValueError(unknown("heuristic", heuristic, HEURISTICS))
    if noise < 0 or max_sweeps < 1 or candidate_sweeps < 1:
        raise ValueError(f"noise >= 0 and sweeps >= 1, got {noise}, {max_sweeps} and {candidate_sweeps}")
    generator = np.random.default_rng(generator)
    target, mask, norm = check_target(target, mask)
    limits.check(target.shape)
    train, valid = mask, None
    if val_fraction:
        train, valid = split_observed(np.ones(target.shape, bool) if mask is None else mask, val_fraction, generator)
    elif limits.patience is not None:
        raise ValueError("patience needs entries kept aside (val_fraction > 0)")
    problem = _LeastSquares(
        target / norm, train, valid, generator, heuristic, limits, max_sweeps, candidate_sweeps, change, noise, ridge
    )
    network, loss = problem.fit(random_network(structure_matrix(target.shape), generator))
    split = (lambda network: split_internal(network, split_eps)) if internal_nodes else None
    found = grow(network, loss, limits, problem.choose, problem.fit, problem.validate, split, started)
    steps = [replace(step, network=_scaled(step.network, norm)) for step in found.steps]
    return Growth(_scaled(found.network, norm), steps, found.stopped)


def _scaled(network: TensorNetwork, factor: float) -> TensorNetwork:
    return TensorNetwork([network.cores[0] * factor, *network.cores[1:]])


def random_walk(target: Float[np.ndarray, ...], *, generator: np.random.Generator | int, **options) -> Growth:
    """The baseline of the paper: the same steps on bonds drawn at random. Arguments of :func:`greedy_tn`."""
    return greedy_tn(target, generator=generator, heuristic="random", **options)


def complete(
    tensor: Float[np.ndarray, ...],
    mask: Bool[np.ndarray, ...],
    *,
    generator: np.random.Generator | int,
    limits: Limits = COMPLETING,
    val_fraction: float = 0.1,
    max_sweeps: int = 50,
    candidate_sweeps: int = 10,
    ridge: float = 1e-12,
    refit: bool = True,
    **options,
) -> Growth:
    """Fill in missing entries: ``complete(tensor, mask, generator=0).network.full()``.

    A share of the observed entries is kept aside for the whole search (the authors' program draws it anew for every
    step, after the network has been fitted to all entries). It chooses the bonds and the size; at the end the chosen
    network is fitted to all observed entries (``refit``).

    Raises:
        ValueError: see :func:`greedy_tn`; a mode with an empty slice is named.
    """
    generator = np.random.default_rng(generator)
    found = greedy_tn(
        tensor, generator=generator, mask=mask, limits=limits, val_fraction=val_fraction, max_sweeps=max_sweeps,
        candidate_sweeps=candidate_sweeps, ridge=ridge, **options,
    )  # fmt: skip
    if not refit:
        return found
    extended = tuple(np.shape(tensor)) + (1,) * (found.network.order - np.ndim(tensor))
    target, seen = np.reshape(tensor, extended), np.reshape(mask, extended)
    fitted = als(target, start=found.network, mask=seen, max_sweeps=max_sweeps, change=1e-5, ridge=ridge)
    return Growth(fitted.network, found.steps, found.stopped)
