"""Tensor rings inside the engine: conversion, order around the ring, and a canonical form of the cores.

A ring core G_k has shape (r_k, d_k, r_{k+1}) (tensorly's convention, r_{N+1} = r_1); trains are rings with r_1 = 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .container import TensorNetwork


def ring_network(cores: Sequence[np.ndarray]) -> TensorNetwork:
    """Ring cores (r_k, d_k, r_{k+1}) to a network whose vertex k carries mode k (order >= 3)."""
    order = len(cores)
    if order < 3:
        raise ValueError(f"a ring needs at least 3 cores (2 would share two bonds); got {order}")
    full = []
    for k, core in enumerate(cores):
        before, after = (k - 1) % order, (k + 1) % order
        axes = {before: core.shape[0], k: core.shape[1], after: core.shape[2]}
        by_vertex = np.transpose(core, np.argsort([before, k, after]))
        full.append(by_vertex.reshape([axes.get(j, 1) for j in range(order)]))
    return TensorNetwork(full)


def chain_structure(shape: Sequence[int], ranks: Sequence[int]) -> np.ndarray:
    """The structure matrix of a ring or a train whose vertex k carries mode k.

    ``ranks``: one per bond; of a ring the bond between the last and the first mode first, of a train from left to
    right.
    """
    order = len(shape)
    closed = tuple(ranks) if len(ranks) == order else (1, *ranks)  # a train is a ring whose first bond is 1
    matrix = np.ones((order, order), dtype=np.int64)
    np.fill_diagonal(matrix, shape)
    for k in range(order):
        before = (k - 1) % order
        matrix[before, k] = matrix[k, before] = closed[k]
    return matrix


def ring_order(ranks: np.ndarray) -> tuple[int, ...]:
    """The vertices of a ring (or path, or pieces of one) in order around it.

    Raises:
        ValueError: when a vertex has more than two bonds or a cycle leaves vertices out.
    """
    ranks = np.asarray(ranks)
    order = len(ranks)
    neighbours = {i: [j for j in range(order) if j != i and ranks[i, j] > 1] for i in range(order)}
    crowded = [i for i, near in neighbours.items() if len(near) > 2]
    if crowded:
        raise ValueError(f"vertex {crowded[0]} has {len(neighbours[crowded[0]])} bonds; a ring has two per vertex")
    line: list[int] = []
    left = set(range(order))
    while left:
        ends = [v for v in sorted(left) if len(neighbours[v]) < 2]
        if not ends and line:
            raise ValueError("the structure holds a cycle beside other vertices: not a ring")
        vertex = ends[0] if ends else min(left)
        while vertex is not None:
            line.append(vertex)
            left.discard(vertex)
            vertex = next((w for w in neighbours[vertex] if w in left), None)
    return tuple(line)


def ring_cores(network: TensorNetwork) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """Ring cores (r_k, d, r_{k+1}) and the mode that each carries; inverse of ``ring_network`` up to the start."""
    line = ring_order(network.adjacency())
    order, cores = len(line), []
    for k, vertex in enumerate(line):
        before, after = line[k - 1], line[(k + 1) % order]
        core = np.asarray(network.cores[vertex])
        others = [v for v in range(order) if v not in (before, vertex, after)]
        moved = np.transpose(core, (before, vertex, after, *others))
        cores.append(moved.reshape(moved.shape[:3]))
    return cores, line


def canonical_ring(cores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same ring with all cores but the last left-orthogonal, the signs fixed (R with non-negative diagonal).

    A ring has no unique canonical form as a train has; this fixes the gauge of N - 1 of its N bonds, which keeps the
    numbers well scaled and makes two fits of one structure comparable. Bonds wider than r_k d_k shrink to it.
    """
    out = [np.array(core, dtype=float) for core in cores]
    for k in range(len(out) - 1):
        left, size, right = out[k].shape
        q, r = np.linalg.qr(out[k].reshape(left * size, right))
        signs = np.where(np.diag(r) < 0, -1.0, 1.0)
        out[k] = (q * signs).reshape(left, size, -1)
        out[k + 1] = np.tensordot(signs[:, None] * r, out[k + 1], axes=(1, 0))
    return out
