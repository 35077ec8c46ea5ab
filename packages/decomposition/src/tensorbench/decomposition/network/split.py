"""Internal vertices: a core that is low-rank across some bipartition of its legs becomes two.

Splitting step of Hashemizadeh, Liu, Miller, Rabusseau, "Adaptive Learning of Tensor Network Structures"
(arXiv 2008.05437): for every core with at least three legs and every bipartition of them, the singular value
decomposition of the unfolded core; where it truncates without loss, the legs on the far side of the mode move to a new
vertex that carries no mode. This is how a greedy search over bonds finds Tucker and trees.
"""

from __future__ import annotations

import itertools

import numpy as np

from .container import TensorNetwork

TRIALS = 8  # splits tried against the tensor itself before giving up: what a core bears, the network may not


def split_internal(network: TensorNetwork, eps: float = 1e-5) -> TensorNetwork:
    """Split cores (and shorten bonds that are wider than they need be) until nothing is gained.

    Each accepted split lowers the number of parameters; all together change the tensor by at most ``eps`` relative to
    its norm. New internal vertices stand last and have a mode of size 1. The split that saves most goes first (the
    reference takes the first that it meets).

    Raises:
        ValueError: eps <= 0.
    """
    if eps <= 0:
        raise ValueError(f"eps must be > 0, got {eps}")
    wanted = np.asarray(network.full())
    allowed = eps * float(np.linalg.norm(wanted))
    while True:
        gains = sorted(
            (found for vertex in range(network.order) for found in _candidates(network, vertex, eps)),
            key=lambda found: -found[0],
        )
        for _, vertex, moved, rank in gains[:TRIALS]:
            smaller = _split(network, vertex, moved, rank)
            if np.linalg.norm(np.asarray(smaller.full()).reshape(wanted.shape) - wanted) <= allowed:
                network = smaller
                break
        else:
            return network


def _legs(network: TensorNetwork, vertex: int) -> list[int]:
    shape = network.cores[vertex].shape
    return [j for j in range(network.order) if j != vertex and shape[j] > 1]


def _unfolded(network: TensorNetwork, vertex: int, moved: tuple[int, ...]) -> np.ndarray:
    core = np.moveaxis(np.asarray(network.cores[vertex]), moved, range(-len(moved), 0))
    columns = int(np.prod(core.shape[core.ndim - len(moved) :]))
    return core.reshape(-1, columns)


def _candidates(network: TensorNetwork, vertex: int, eps: float) -> list[tuple[int, int, tuple[int, ...], int]]:
    """(parameters saved, vertex, neighbours whose bonds move away, rank) of every bipartition that saves any."""
    legs = _legs(network, vertex)
    out = []
    # one moved leg: the bond itself is too wide. Several: a new vertex takes them.
    for count in range(1, len(legs) + 1):
        for moved in itertools.combinations(legs, count):
            matrix = _unfolded(network, vertex, moved)
            values = np.linalg.svd(matrix, compute_uv=False)
            tails = np.sqrt(np.cumsum(values[::-1] ** 2))[::-1]
            rank = max(1, int((tails > eps * tails[0]).sum()))
            if count == 1:
                other = network.cores[moved[0]].size // matrix.shape[1]
                saved = (matrix.shape[1] - rank) * (matrix.shape[0] + other)
            else:
                saved = matrix.size - rank * sum(matrix.shape)
            if saved > 0:
                out.append((saved, vertex, moved, rank))
    return out


def _split(network: TensorNetwork, vertex: int, moved: tuple[int, ...], rank: int) -> TensorNetwork:
    order = network.order
    left, values, right = np.linalg.svd(_unfolded(network, vertex, moved), full_matrices=False)
    root = np.sqrt(values[:rank])
    left, right = left[:, :rank] * root, root[:, None] * right[:rank]
    shape = network.cores[vertex].shape
    cores = [np.asarray(core) for core in network.cores]
    if len(moved) == 1:
        (other,) = moved
        kept = [shape[j] for j in range(order) if j != other]
        cores[vertex] = np.moveaxis(left.reshape(*kept, rank), -1, other)
        cores[other] = np.moveaxis(np.tensordot(cores[other], right, axes=(vertex, 1)), -1, vertex)
        return TensorNetwork(cores)
    for k in range(order):
        cores[k] = cores[k][..., None]
        if k in moved:  # this bond now ends at the new vertex
            cores[k] = np.swapaxes(cores[k], vertex, order)
    cores[vertex] = left.reshape(*(1 if j in moved else shape[j] for j in range(order)), rank)
    inner = [shape[j] if j in moved else 1 for j in range(order)] + [1]
    inner[vertex] = rank
    in_order = np.moveaxis(right.reshape(rank, *(shape[j] for j in moved)), 0, -1)
    axes = np.argsort([*moved, vertex])  # from (moved..., vertex) to ascending vertices
    cores.append(in_order.transpose(axes).reshape(inner))
    return TensorNetwork(cores)
