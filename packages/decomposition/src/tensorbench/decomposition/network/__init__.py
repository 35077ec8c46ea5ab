"""The tensor-network engine: cores on a graph, cached contraction plans, least-squares and gradient fits."""

from __future__ import annotations

from .alternating import Fit, als
from .container import TensorNetwork
from .initial import random_network, warm_start
from .plans import best_order, network_plan
from .ring import canonical_ring, ring_cores, ring_network, ring_order

__all__ = [
    "Fit",
    "TensorNetwork",
    "als",
    "best_order",
    "canonical_ring",
    "network_plan",
    "random_network",
    "ring_cores",
    "ring_network",
    "ring_order",
    "warm_start",
]
