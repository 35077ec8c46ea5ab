"""Initial networks: random cores of unit expected norm, and cores carried over when a rank changes."""

from __future__ import annotations

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
