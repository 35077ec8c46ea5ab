"""The tensor-network engine: cores on a graph, cached contraction plans, least-squares and gradient fits."""

from __future__ import annotations

from .alternating import Fit, als
from .container import TensorNetwork
from .initial import append_slices, increase_rank, random_network, structure_matrix, warm_start
from .plans import best_order, network_plan
from .ring import canonical_ring, ring_cores, ring_network, ring_order
from .split import split_internal

__all__ = [
    "Fit",
    "TensorNetwork",
    "als",
    "append_slices",
    "best_order",
    "canonical_ring",
    "increase_rank",
    "network_plan",
    "random_network",
    "ring_cores",
    "ring_network",
    "ring_order",
    "split_internal",
    "structure_matrix",
    "warm_start",
]
