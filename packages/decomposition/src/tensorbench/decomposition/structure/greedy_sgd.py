"""Greedy growth of a tensor network by gradients: any differentiable loss, layers of neural networks included.

Hashemizadeh, Liu, Miller, Rabusseau, "Adaptive Learning of Tensor Network Structures" (arXiv 2008.05437). As in
:mod:`greedy_tn`, each candidate bond gets new slices, which are trained with all else fixed; the bond with the best
score grows, and everything is trained from there. :func:`best_edge` does one such choice for a layer inside a model,
:func:`greedy_loss` is the whole search for a loss of the full tensor.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from ..network import TensorNetwork, increase_rank, random_network, structure_matrix
from ..network.layer import TNLinear
from .growth import Edge, Growth, Limits, grow

Train = Callable[[nn.Module, list[nn.Parameter]], None]


def best_edge(
    model: nn.Module,
    layer: str,
    train: Train,
    score: Callable[[nn.Module], float],
    generator: np.random.Generator,
    *,
    edges: Sequence[Edge] | None = None,
    inc: int = 1,
    noise: float = 1e-6,
) -> tuple[Edge, nn.Module]:
    """The bond of a :class:`TNLinear` whose growth helps most, and the model grown there (a copy).

    Args:
        model: holds the layer.
        layer: its name in the model (``model.get_submodule``).
        train: trains the given parameters of a model, in place.
        score: of a model, higher is better: accuracy on data kept aside.
        generator: of the new slices.
        edges: candidates, all by default.
        inc: slices per bond.
        noise: their relative size at first.

    Raises:
        ValueError: the named module is no TNLinear, or there is no candidate.
    """
    place = model.get_submodule(layer)
    if not isinstance(place, TNLinear):
        raise ValueError(f"{layer!r} is a {type(place).__name__}; growth needs a TNLinear")
    edges = list(combinations(range(len(place.cores)), 2)) if edges is None else list(edges)
    if not edges:
        raise ValueError("no candidate edges")
    found = []
    for edge in edges:
        candidate = copy.deepcopy(model)
        grown = candidate.get_submodule(layer)
        grown.increase_rank(*edge, generator, inc, noise)
        with grown.only_new(candidate, *edge, inc) as parameters:
            train(candidate, parameters)
        found.append((score(candidate), edge, candidate))
    _, edge, candidate = max(found, key=lambda one: one[0])
    return edge, candidate


def minimise(
    network: TensorNetwork,
    loss: Callable[[Tensor], Tensor],
    *,
    steps: int,
    lr: float,
    new: tuple[int, int, int] | None = None,
) -> tuple[TensorNetwork, float]:
    """Adam (AMSGrad) on a loss of the full tensor; the best iterate and its loss.

    Args:
        network: where to start.
        loss: maps the full tensor (of the network's shape) to a scalar.
        steps: of Adam.
        lr: learning rate.
        new: (i, j, inc) trains the last ``inc`` slices of that bond only.
    """
    cores = [torch.tensor(np.asarray(core), requires_grad=new is None or i in new[:2]) for i, core in
             enumerate(network.cores)]  # fmt: skip
    masks = {}
    if new is not None:
        for own, other in (new[:2], new[1::-1]):
            masks[own] = torch.zeros_like(cores[own])
            masks[own].narrow(other, cores[own].shape[other] - new[2], new[2]).fill_(1.0)
    optimiser = torch.optim.Adam([core for core in cores if core.requires_grad], lr=lr, amsgrad=True)
    best, kept = np.inf, network
    for step in range(steps + 1):
        value = loss(TensorNetwork(cores).full())
        if value.item() < best:
            best, kept = value.item(), TensorNetwork([core.detach().numpy().copy() for core in cores])
        if step < steps:
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            for own, mask in masks.items():
                cores[own].grad *= mask
            optimiser.step()
    return kept, float(best)


def greedy_loss(
    loss: Callable[[Tensor], Tensor],
    dims: Sequence[int],
    *,
    generator: np.random.Generator | int,
    limits: Limits | None = None,
    steps: int = 500,
    candidate_steps: int = 50,
    lr: float = 1e-2,
    noise: float = 1e-2,
) -> Growth:
    """Grow a network that minimises any differentiable loss of its full tensor (torch, shape ``dims``).

    Args:
        loss: maps the full tensor to a scalar; ``limits.stop_loss`` and the steps of the result are in its units.
        dims: mode sizes.
        generator: or a seed.
        limits: of growth, :class:`Limits` by default; without ``patience``, as there are no entries kept aside.
        steps: of Adam on all cores after each growth.
        candidate_steps: of Adam on the new slices of each candidate.
        lr: learning rate of both.
        noise: relative size of new slices.

    Raises:
        ValueError: fewer than 2 modes, ``max_params`` below a rank-one network, limits with ``patience``.
    """
    started = time.perf_counter()
    generator, limits = np.random.default_rng(generator), limits or Limits()
    limits.check(dims)
    if limits.patience is not None:
        raise ValueError("patience needs entries kept aside, which a loss of one's own has not; use stop_loss or steps")

    def choose(network: TensorNetwork, edges: list[Edge]) -> tuple[Edge, TensorNetwork]:
        found = []
        for edge in edges:
            grown = increase_rank(network, *edge, generator, limits.rank_inc, noise)
            candidate, value = minimise(grown, loss, steps=candidate_steps, lr=lr, new=(*edge, limits.rank_inc))
            found.append((value, edge, candidate))
        _, edge, candidate = min(found, key=lambda one: one[0])
        return edge, candidate

    def fit(network: TensorNetwork) -> tuple[TensorNetwork, float]:
        return minimise(network, loss, steps=steps, lr=lr)

    network, value = fit(random_network(structure_matrix(dims), generator))
    return grow(network, value, limits, choose, fit, lambda _: float("nan"), None, started)
