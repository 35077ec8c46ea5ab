"""Greedy learning of a tensor network's structure: one unit of rank at a time, on the bond that lowers the loss most.

Hashemizadeh, Liu, Miller, Rabusseau, "Adaptive Learning of Tensor Network Structures" (arXiv 2008.05437). The search
starts from a rank-one tensor on the complete graph (all bonds 1). Each step tries every bond: new slices are fitted to
the residual with all else fixed (``heuristic="rank_one"``, see :mod:`edge_scan`), or the whole enlarged network is
fitted (``"full"``). The best bond keeps its slices, and alternating least squares over all cores follows from there,
so that nothing learnt is thrown away. Cores that have become low-rank may be split (``internal_nodes``), which is how
Tucker and trees are reached. :func:`random_walk` draws the bonds instead; :func:`complete` sees the observed entries
only and chooses bonds and size by entries kept aside; :mod:`greedy_sgd` takes any differentiable loss.

``greedy_rank.Greedy`` is the same rule read as a search over a space of structures: every candidate is a fit of the
whole network, and what is counted is fits. Here a candidate costs two small solves.

The loss is the relative error |M ∘ (X - X̂)| / |M ∘ X|, not squared, M the mask.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from ..network import TensorNetwork, als, append_slices, increase_rank, random_network, split_internal, structure_matrix
from ..network.alternating import check_target
from .edge_scan import scan_edges

log = logging.getLogger(__name__)
HEURISTICS = ("rank_one", "full", "random")
Edge = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """One step: the bond that grew (None at the start), and the network after all cores were fitted again.

    Attributes:
        loss: relative error on what was fitted (or the value of a loss of one's own).
        valid_loss: relative error on the entries kept aside, nan without.
        seconds: since the start of the search.
        params: of the network, as the search counts them.
    """

    edge: Edge | None
    network: TensorNetwork
    loss: float
    valid_loss: float
    seconds: float
    params: int

    @property
    def adjacency(self) -> np.ndarray:
        return self.network.adjacency()


@dataclass(frozen=True)
class Growth:
    """The path of a search.

    Attributes:
        network: the result (the last network; with entries kept aside, the best on these).
        steps: from the rank-one network on.
        stopped: "loss", "steps", "params" (no bond may grow within the bounds) or "patience".
    """

    network: TensorNetwork
    steps: list[Step]
    stopped: str

    def within(self, params: int) -> Step:
        """The step of the lowest loss with at most so many parameters. ValueError if there is none."""
        inside = [step for step in self.steps if step.params <= params]
        if not inside:
            raise ValueError(f"no network with at most {params} parameters; rank one has {self.steps[0].params}")
        return min(inside, key=lambda step: step.loss)

    def seconds_to(self, loss: float) -> float:
        """Seconds until the loss was first reached, inf if never."""
        return next((step.seconds for step in self.steps if step.loss <= loss), math.inf)


@dataclass(frozen=True)
class Limits:
    """Where growth ends and what it may do.

    Args:
        steps: units of growth.
        max_params: no network has more parameters.
        max_arity: bonds per vertex (None: as many as there are vertices).
        rank_inc: by how much a bond grows.
        stop_loss: the loss that is good enough.
        patience: steps without a better validation loss (None: as many as it takes).
        dims: mode sizes that parameters are counted with, when the target is the core of an orthogonal compression of
            the tensor proper; default the target's.

    Raises:
        ValueError: steps < 0, rank_inc < 1, max_arity or patience < 1.
    """

    steps: int = 50
    max_params: int = 3000
    max_arity: int | None = None
    rank_inc: int = 1
    stop_loss: float = 1e-6
    patience: int | None = None
    dims: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.steps < 0 or self.rank_inc < 1:
            raise ValueError(f"steps >= 0 and rank_inc >= 1, got {self.steps} and {self.rank_inc}")
        for name in ("max_arity", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where a rank-one network is too large already, or ``dims`` are those of another tensor."""
        dims = shape if self.dims is None else self.dims
        if len(dims) != len(shape):
            raise ValueError(f"dims {dims} cannot be those of a tensor with a core of shape {tuple(shape)}")
        if self.max_params < sum(dims):
            raise ValueError(f"max_params {self.max_params} is below the {sum(dims)} parameters of a rank-one network")

    def sizes(self, network: TensorNetwork) -> np.ndarray:
        """Entries of each core, by the mode sizes that count."""
        ranks = network.adjacency()
        if self.dims is not None:
            known = range(len(self.dims))  # internal vertices stand last and count as they are
            ranks[known, known] = self.dims
        return ranks.prod(axis=1)

    def admissible(self, network: TensorNetwork) -> list[Edge]:
        """Bonds that may grow."""
        ranks, sizes = network.adjacency(), self.sizes(network)
        degree = (ranks > 1).sum(1) - (np.diag(ranks) > 1)
        arity = network.order if self.max_arity is None else self.max_arity
        out = []
        for i in range(network.order):
            for j in range(i + 1, network.order):
                grown = sizes.sum() + self.rank_inc * (sizes[i] + sizes[j]) // ranks[i, j]
                free = ranks[i, j] > 1 or max(degree[i], degree[j]) < arity
                if free and grown <= self.max_params:
                    out.append((i, j))
        return out


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


def _grow(
    network: TensorNetwork,
    loss: float,
    limits: Limits,
    choose: Callable[[TensorNetwork, list[Edge]], tuple[Edge, TensorNetwork]],
    fit: Callable[[TensorNetwork], tuple[TensorNetwork, float]],
    validate: Callable[[TensorNetwork], float],
    split: Callable[[TensorNetwork], TensorNetwork] | None,
    started: float,
) -> Growth:
    """The loop that all searches share."""

    def step(edge: Edge | None) -> Step:
        params = int(limits.sizes(network).sum())
        return Step(edge, network, loss, validate(network), time.perf_counter() - started, params)

    steps = [step(None)]
    stopped = "steps"
    while True:
        if loss <= limits.stop_loss:
            stopped = "loss"
            break
        if len(steps) > limits.steps:
            break
        edges = limits.admissible(network)
        if not edges:
            stopped = "params"
            break
        edge, candidate = choose(network, edges)
        network, loss = fit(candidate)
        if split is not None and len(steps) > 1:
            smaller = split(network)
            if smaller.num_params() < network.num_params():
                again, loss_again = fit(smaller)
                if loss_again <= max(loss, limits.stop_loss):  # the reference keeps every split
                    network, loss = again, loss_again
        steps.append(step(edge))
        log.debug("bond %s: %d parameters, loss %.3e", edge, steps[-1].params, loss)
        if limits.patience is not None:
            best = int(np.argmin([one.valid_loss for one in steps]))
            if len(steps) - 1 - best >= limits.patience:
                stopped = "patience"
                break
    if not math.isnan(steps[-1].valid_loss):
        network = min(steps, key=lambda one: one.valid_loss).network
    return Growth(network, steps, stopped)


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
    limits: Limits = Limits(),
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
    found = _grow(network, loss, limits, problem.choose, problem.fit, problem.validate, split, started)
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
    limits: Limits = Limits(max_arity=4, patience=3),
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
