"""Inverted files whose cells and whose distances use prefixes of different length.

AdANNS-IVF (Rege, Kusupati et al., 2023, arXiv 2305.19435, section 4.1): k-means on the first d_c coordinates makes the
cells and chooses those a query visits; the members of these cells are compared by the first d_s coordinates. Either may
be the longer one. A query costs n_list·d_c + (n_probe/n_list)·N·d_s multiply-adds when the cells are equally full. The
rigid IVF is d_c = d_s on a rigid embedding; MG-IVF takes the two stages' vectors from different encoders.

The members of a cell lie together in memory; all queries that visit a cell are compared with it by one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int

from .kmeans import assign, kmeans
from .vectors import Found, check_vectors, nearest, pad, prefix, squared_distances, squared_norms

Pair = tuple[Float[np.ndarray, "n d_c"], Float[np.ndarray, "n d_s"]]


@dataclass(frozen=True)
class Lists:
    """Which vectors are in which cell: those of cell c are ``members[starts[c]:starts[c + 1]]``."""

    members: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " cells_and_one"]

    @property
    def sizes(self) -> Int[np.ndarray, " cells"]:
        return np.diff(self.starts)


def invert(cells: Int[np.ndarray, " n"], n_list: int) -> Lists:
    """The lists of an assignment, members ascending within a cell."""
    sizes = np.bincount(cells, minlength=n_list)
    return Lists(np.argsort(cells, kind="stable"), np.concatenate([[0], np.cumsum(sizes)]))


def scan(
    lists: Lists,
    probes: Int[np.ndarray, "m n_probe"],
    k: int,
    distances: Callable[[np.ndarray, slice], np.ndarray],
) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
    """The k nearest members of the cells that each query visits.

    ``distances(rows, part)`` returns the distances of the queries ``rows`` to the members ``part`` of the lists.
    """
    m, n_probe = probes.shape
    values = np.full((m * n_probe, k), np.inf, dtype=np.float32)
    ids = np.full((m * n_probe, k), -1, dtype=np.int64)
    for cell, visits in _visits(probes, len(lists.starts) - 1):
        part = slice(int(lists.starts[cell]), int(lists.starts[cell + 1]))
        if part.start == part.stop:
            continue
        value, column = nearest(distances(visits // n_probe, part), min(k, part.stop - part.start))
        values[visits, : value.shape[1]] = value
        ids[visits, : value.shape[1]] = lists.members[part][column]
    values, ids = values.reshape(m, -1), ids.reshape(m, -1)
    best, at = nearest(values, k)
    return pad(best, np.take_along_axis(ids, np.maximum(at, 0), axis=1), k)


def _visits(probes: np.ndarray, n_list: int) -> Iterator[tuple[int, np.ndarray]]:
    """Each visited cell with the positions in ``probes.ravel()`` that name it."""
    flat = probes.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(flat, minlength=n_list))])
    for cell in np.flatnonzero(np.diff(starts)):
        yield int(cell), order[starts[cell] : starts[cell + 1]]


class IVF:
    """Cells from prefixes of ``d_c`` dimensions, distances by prefixes of ``d_s`` (None: ``d_c``; both None: all).

    ``centroids`` given: they are used as they are and ``train`` only learns the number of dimensions.
    """

    def __init__(
        self,
        d_c: int | None = None,
        d_s: int | None = None,
        n_list: int = 64,
        *,
        iterations: int = 25,
        seed: int = 0,
        centroids: Float[np.ndarray, "n_list d_c"] | None = None,
    ) -> None:
        self.d_c, self.d_s = d_c, d_s or d_c
        self.iterations, self.seed = iterations, seed
        self.centroids = None if centroids is None else check_vectors(centroids, "centroids")
        self.n_list = n_list if self.centroids is None else len(self.centroids)
        self._dims: Any = None
        self._cells = np.zeros(0, dtype=np.int64)
        self._fine: np.ndarray | None = None

    def _views(self, x: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of the first and of the second stage, of length one."""
        x = check_vectors(x, name, self._dims)
        self._dims = x.shape[1]
        return prefix(x, self.d_c or self._dims), prefix(x, self.d_s or self._dims)

    def train(self, x: Float[np.ndarray, "n D"]) -> Self:
        return self._fit(self._views(x, "training vectors")[0])

    def _fit(self, coarse: np.ndarray) -> Self:
        if self.centroids is None:
            self.centroids = kmeans(coarse, self.n_list, seed=self.seed, iterations=self.iterations)
        elif self.centroids.shape[1] != coarse.shape[1]:
            raise ValueError(f"centroids of {self.centroids.shape[1]} dimensions for prefixes of {coarse.shape[1]}")
        return self

    def add(self, x: Float[np.ndarray, "n D"]) -> Self:
        return self._put(*self._views(x, "database vectors"))

    def _put(self, coarse: np.ndarray, fine: np.ndarray) -> Self:
        if self.centroids is None:
            raise ValueError("the index has no cells yet; train it before adding vectors")
        self._cells = np.concatenate([self._cells, assign(coarse[None], self.centroids[None])[0]])
        before = [] if self._fine is None else [self._fine[np.argsort(self.lists.members)]]
        self.lists = invert(self._cells, self.n_list)
        self._fine = np.concatenate([*before, fine])[self.lists.members]
        self._norms = squared_norms(self._fine)
        return self

    def search(self, xq: Float[np.ndarray, "m D"], k: int, n_probe: int = 1) -> Found:
        """Visit the ``n_probe`` nearest cells of each query."""
        return self._find(*self._views(xq, "queries"), k, n_probe)

    def _find(self, coarse: np.ndarray, fine: np.ndarray, k: int, n_probe: int) -> Found:
        self._check(n_probe)
        _, probes = nearest(squared_distances(coarse, self.centroids), n_probe)
        return self.search_preassigned(fine, k, probes)

    def search_preassigned(
        self, fine: Float[np.ndarray, "m d_s"], k: int, probes: Int[np.ndarray, "m n_probe"]
    ) -> Found:
        """The same with the cells to visit given; ``fine`` are prefixes of length one."""
        self._check(probes.shape[1])
        stored, norms, own = self._fine, self._norms, squared_norms(fine)

        def distances(rows: np.ndarray, part: slice) -> np.ndarray:
            out = fine[rows] @ stored[part].T
            out *= -2.0
            out += norms[part]
            out += own[rows, None]
            return np.maximum(out, 0.0, out=out)

        values, ids = scan(self.lists, probes, k, distances)
        members = self.lists.sizes[probes].sum(axis=1).astype(np.float64)
        n_list, d_c = self.centroids.shape
        return Found(values, ids, n_list * d_c + members * fine.shape[1], n_list + members)

    def sliced(self, d_c: int, d_s: int) -> IVF:
        """The same lists with the centroids and the vectors cut to prefixes and scaled to length one anew.

        Centroids in full length stay as they are, so that the cells chosen are those of the index itself.
        """
        whole = d_c == self.centroids.shape[1]
        other = IVF(d_c, d_s, centroids=self.centroids if whole else prefix(self.centroids, d_c))
        other.lists, other._cells, other._dims = self.lists, self._cells, self._dims
        other._fine = prefix(self._fine, d_s)
        other._norms = squared_norms(other._fine)
        return other

    def _check(self, n_probe: int) -> None:
        if self._fine is None:
            raise ValueError("the index is empty; add vectors before searching")
        if not 1 <= n_probe <= self.n_list:
            raise ValueError(f"n_probe {n_probe} must be between 1 and n_list {self.n_list}")

    def cost(self, n_probe: int = 1) -> float:
        self._check(n_probe)
        return float(self.centroids.size + n_probe / self.n_list * self._fine.size)

    @property
    def bytes_per_vector(self) -> float:
        """Of the second stage's float32 vectors; the centroids are shared by all."""
        return 4.0 * self._fine.shape[1]


class MGIVF(IVF):
    """Multi-granular IVF: vectors come as a pair (for the cells, for the distances) from encoders of their own.

    Wherever :class:`IVF` takes a matrix this takes two with the same number of rows, used in full length.
    """

    def __init__(self, n_list: int = 64, *, iterations: int = 25, seed: int = 0) -> None:
        super().__init__(None, None, n_list, iterations=iterations, seed=seed)

    def _views(self, x: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
        coarse, fine = x
        known = self._dims or (None, None)
        coarse, fine = check_vectors(coarse, name, known[0]), check_vectors(fine, name, known[1])
        if len(coarse) != len(fine):
            raise ValueError(f"{name}: {len(coarse)} vectors for the cells but {len(fine)} for the distances")
        self._dims = coarse.shape[1], fine.shape[1]
        return prefix(coarse, coarse.shape[1]), prefix(fine, fine.shape[1])

    def train(self, x: Pair) -> Self:
        return self._fit(self._views(x, "training vectors")[0])

    def add(self, x: Pair) -> Self:
        return self._put(*self._views(x, "database vectors"))

    def search(self, xq: Pair, k: int, n_probe: int = 1) -> Found:
        """Visit the ``n_probe`` nearest cells of each query."""
        return self._find(*self._views(xq, "queries"), k, n_probe)
