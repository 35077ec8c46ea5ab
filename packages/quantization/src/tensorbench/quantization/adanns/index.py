"""What every index here can do, and the exact one: a scan of all prefixes of d dimensions.

Cost of the exact search: N·d multiply-adds a query (Rege, Kusupati et al., 2023, arXiv 2305.19435, section 3).
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
from jaxtyping import Float

from .vectors import Found, check_vectors, nearest, prefix, squared_norms

_BLOCK = 128  # queries whose distances are in the cache together


class Index(Protocol):
    """Train on a sample, add a database, search it within a budget.

    ``cost`` is the model's number of multiply-adds a query for the same budget (cells of equal size), the ``macs`` of
    a search are counted; ``bytes_per_vector`` is what the index must keep in memory for each vector, ids left out.
    """

    def train(self, x: Any) -> Self: ...

    def add(self, x: Any) -> Self: ...

    def search(self, xq: Any, k: int, **budget: int) -> Found: ...

    def cost(self, **budget: int) -> float: ...

    @property
    def bytes_per_vector(self) -> float: ...


class ExactL2:
    """Compare a query with every vector of the database, on prefixes of ``d`` dimensions (None: all)."""

    def __init__(self, d: int | None = None) -> None:
        self.d = d
        self._dims: int | None = None
        self._x: np.ndarray | None = None

    def train(self, x: Float[np.ndarray, "n D"]) -> Self:
        """Nothing to learn but the number of dimensions."""
        self._dims = check_vectors(x).shape[1]
        return self

    def add(self, x: Float[np.ndarray, "n D"]) -> Self:
        x = check_vectors(x, "database vectors", self._dims)
        self._dims = x.shape[1]
        part = prefix(x, self.d or self._dims)
        self._x = part if self._x is None else np.concatenate([self._x, part])
        self._norms = squared_norms(self._x)
        return self

    def search(self, xq: Float[np.ndarray, "m D"], k: int) -> Found:
        database = self.database
        q = prefix(check_vectors(xq, "queries", self._dims), database.shape[1])
        values, ids = [], []
        transposed = database.T
        for start in range(0, len(q), _BLOCK):
            scores = q[start : start + _BLOCK] @ transposed
            scores *= -2.0
            scores += self._norms
            value, column = nearest(scores, k)
            values.append(value)
            ids.append(column)
        distances = np.maximum(np.concatenate(values) + squared_norms(q)[:, None], 0)
        every = np.full(len(q), float(len(database)))
        return Found(distances, np.concatenate(ids), every * database.shape[1], every)

    def cost(self) -> float:
        return float(self.database.size)

    @property
    def bytes_per_vector(self) -> float:
        return 4.0 * self.database.shape[1]

    @property
    def database(self) -> Float[np.ndarray, "n d"]:
        """The prefixes that were added."""
        if self._x is None:
            raise ValueError("the index is empty; add vectors before searching")
        return self._x
