"""The loop of greedy growth and its records: what all searches that grow a network bond by bond share.

:mod:`greedy_tn` grows by least squares, :mod:`greedy_sgd` by the gradients of any loss; each hands :func:`grow` its own
choice of a bond, its fit and its validation.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..network import TensorNetwork

log = logging.getLogger(__name__)
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


def grow(
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
