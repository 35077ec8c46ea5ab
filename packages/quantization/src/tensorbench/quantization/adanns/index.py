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
        self._rows: np.ndarray | None = None  # -2 x and |x|², so that a product with (q, 1) is |q - x|² - |q|²

    def train(self, x: Float[np.ndarray, "n D"]) -> Self:
        """Nothing to learn but the number of dimensions."""
        self._dims = check_vectors(x).shape[1]
        return self

    def add(self, x: Float[np.ndarray, "n D"]) -> Self:
        x = check_vectors(x, "database vectors", self._dims)
        self._dims = x.shape[1]
        part = prefix(x, self.d or self._dims)
        rows = np.concatenate([-2.0 * part, squared_norms(part)[:, None]], axis=1)
        self._rows = rows if self._rows is None else np.concatenate([self._rows, rows])
        return self

    def search(self, xq: Float[np.ndarray, "m D"], k: int) -> Found:
        rows = self._filled()
        n, d = len(rows), rows.shape[1] - 1
        q = prefix(check_vectors(xq, "queries", self._dims), d)
        extended = np.concatenate([q, np.ones((len(q), 1), dtype=np.float32)], axis=1)
        scores = np.empty((min(_BLOCK, len(q)), n), dtype=np.float32)
        values, ids = [], []
        for start in range(0, len(q), _BLOCK):
            block = extended[start : start + _BLOCK]
            value, column = nearest(np.matmul(block, rows.T, out=scores[: len(block)]), k)
            values.append(value)
            ids.append(column)
        distances = np.maximum(np.concatenate(values) + squared_norms(q)[:, None], 0)
        every = np.full(len(q), float(n))
        return Found(distances, np.concatenate(ids), every * d, every)

    def cost(self) -> float:
        n, columns = self._filled().shape
        return float(n * (columns - 1))

    @property
    def bytes_per_vector(self) -> float:
        """The vector and its squared length."""
        return 4.0 * self._filled().shape[1]

    @property
    def database(self) -> Float[np.ndarray, "n d"]:
        """The prefixes that were added."""
        return -0.5 * self._filled()[:, :-1]

    def _filled(self) -> np.ndarray:
        if self._rows is None:
            raise ValueError("the index is empty; add vectors before searching")
        return self._rows
