"""Initial networks: random cores of unit expected norm, and cores carried over when a rank changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .container import TensorNetwork


def check_structure(ranks: np.ndarray) -> np.ndarray:
    """A structure matrix as int64: symmetric, entries >= 1. Raises ValueError naming the offending entry."""
    ranks = np.asarray(ranks)
    if ranks.ndim != 2 or ranks.shape[0] != ranks.shape[1]:
        raise ValueError(f"structure matrix must be square (bonds off, mode sizes on the diagonal); got {ranks.shape}")
    if len(ranks) < 2:
        raise ValueError("a network needs at least 2 vertices")
    if not np.array_equal(ranks, ranks.astype(np.int64)) or (ranks < 1).any():
        i, j = np.argwhere((ranks < 1) | (ranks != ranks.astype(np.int64)))[0]
        raise ValueError(f"structure matrix entry ({i}, {j}) is {ranks[i, j]}; ranks and mode sizes are integers >= 1")
    if not np.array_equal(ranks, ranks.T):
        i, j = np.argwhere(ranks != ranks.T)[0]
        raise ValueError(f"bond ({i}, {j}) has rank {ranks[i, j]} one way and {ranks[j, i]} the other")
    return ranks.astype(np.int64)


def structure_matrix(dims: Sequence[int], ranks: int | Sequence[Sequence[int]] | np.ndarray = 1) -> np.ndarray:
    """The structure matrix of mode sizes and bond ranks.

    Args:
        dims: mode sizes (1 for an internal vertex).
        ranks: one rank for all bonds, a square matrix (its diagonal is replaced by ``dims``), or the upper triangle
            row by row: ``[[r01, r02, ...], [r12, ...], ...]``.

    Raises:
        ValueError: another shape, or entries that are no integers >= 1.
    """
    order = len(dims)
    if isinstance(ranks, int | np.integer):
        matrix = np.full((order, order), ranks)
    elif len(ranks) == order and all(len(row) == order for row in ranks):
        matrix = np.array(ranks)
    else:
        lengths = [len(row) for row in ranks]
        if lengths != list(range(order - 1, 0, -1)):
            raise ValueError(
                f"ranks of {order} vertices are a number, a {order} x {order} matrix or rows of lengths "
                f"{list(range(order - 1, 0, -1))}; got rows of lengths {lengths}"
            )
        matrix = np.ones((order, order), dtype=np.int64)
        for i, row in enumerate(ranks):
            matrix[i, i + 1 :] = matrix[i + 1 :, i] = row
    matrix[range(order), range(order)] = dims
    return check_structure(matrix)


def random_network(ranks: np.ndarray, generator: np.random.Generator, batch: int | None = None) -> TensorNetwork | list:
    """Gaussian cores with standard deviation (prod(shape_i) d_i)^(-1/4), so that E|full|² = 1.

    Args:
        ranks: structure matrix, mode sizes on the diagonal.
        generator: source of randomness.
        batch: if given, returns that many networks as a list.
    """
    ranks = check_structure(ranks)
    networks = []
    for _ in range(batch or 1):
        cores = []
        for i, shape in enumerate(ranks):
            scale = (float(np.prod(shape.astype(float))) * shape[i]) ** -0.25
            cores.append(scale * generator.standard_normal(tuple(shape)))
        networks.append(TensorNetwork(cores))
    return networks[0] if batch is None else networks


def warm_start(
    network: TensorNetwork, ranks: np.ndarray, generator: np.random.Generator, noise: float = 1e-2
) -> TensorNetwork:
    """Carry the cores of a fitted network over to a neighbouring structure ("knowledge transfer").

    A bond that grows gets new slices of relative size ``noise`` on both sides (with noise 0 the tensor is unchanged); a
    bond that shrinks keeps its heaviest slices, weight = |slice at one end| · |slice at the other|.

    Raises:
        ValueError: other mode sizes, or noise < 0.
    """
    ranks = check_structure(ranks)
    if noise < 0:
        raise ValueError(f"noise must be >= 0, got {noise}")
    if network.shape != tuple(np.diag(ranks)):
        raise ValueError(f"the network has mode sizes {network.shape}, the new structure {tuple(np.diag(ranks))}")
    cores = [np.asarray(core) for core in network.cores]
    order = len(cores)
    for i in range(order):
        for j in range(i + 1, order):
            old, new = cores[i].shape[j], int(ranks[i, j])
            if new < old:
                slices = [np.moveaxis(cores[a], b, 0).reshape(old, -1) for a, b in ((i, j), (j, i))]
                weight = np.linalg.norm(slices[0], axis=1) * np.linalg.norm(slices[1], axis=1)
                keep = np.sort(np.argsort(-weight, kind="stable")[:new])
                cores[i], cores[j] = cores[i].take(keep, axis=j), cores[j].take(keep, axis=i)
            elif new > old:
                for a, b in ((i, j), (j, i)):
                    grown = list(cores[a].shape)
                    grown[b] = new - old
                    scale = noise * np.sqrt(np.mean(cores[a] ** 2))
                    cores[a] = np.concatenate([cores[a], scale * generator.standard_normal(grown)], axis=b)
    return TensorNetwork(cores)


def check_edge(network: TensorNetwork, i: int, j: int) -> None:
    """Two different vertices of the network, or a ValueError that says which number is none."""
    for vertex in (i, j):
        if not 0 <= vertex < network.order:
            raise ValueError(f"vertex {vertex} is not one of 0..{network.order - 1}")
    if i == j:
        raise ValueError(f"edge ({i}, {j}) joins a vertex with itself; a bond needs two vertices")


def increase_rank(
    network: TensorNetwork, i: int, j: int, generator: np.random.Generator, inc: int = 1, noise: float = 1e-2
) -> TensorNetwork:
    """The network with ``inc`` more on bond (i, j), new slices of relative size ``noise`` (0: the same tensor).

    Raises:
        ValueError: i = j, no such vertex, inc < 1 or noise < 0.
    """
    check_edge(network, i, j)
    if inc < 1:
        raise ValueError(f"inc must be >= 1, got {inc}")
    ranks = network.adjacency()
    ranks[i, j] = ranks[j, i] = ranks[i, j] + inc
    return warm_start(network, ranks, generator, noise)


def append_slices(network: TensorNetwork, i: int, j: int, slice_i: np.ndarray, slice_j: np.ndarray) -> TensorNetwork:
    """The network with given new slices on bond (i, j): its tensor is the old one plus that of the network in which
    cores i and j are replaced by the slices. There are no cross terms: index k of the bond meets index k alone.

    Raises:
        ValueError: i = j, no such vertex, or slices that do not fit (by ``TensorNetwork``).
    """
    check_edge(network, i, j)
    cores = list(network.cores)
    cores[i] = np.concatenate([cores[i], slice_i], axis=j)
    cores[j] = np.concatenate([cores[j], slice_j], axis=i)
    return TensorNetwork(cores)
