"""Graphs to walk instead of cells to scan: a Vamana graph with codes in memory, and HNSW by the libraries.

AdANNS-DiskANN (Rege, Kusupati et al., 2023, arXiv 2305.19435, section 4.4) keeps the graph and the full vectors on disk
and short OPQ codes in memory: the walk compares codes, the vectors of the final beam re-rank exactly. The graph is
Vamana (Subramanya et al., 2019). ``VamanaLite`` stands in for DiskANN: all of it is in memory, but ``bytes_per_vector``
counts the codes alone and ``macs`` the walk and the re-ranking.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from tensorbench.core.errors import unknown

from .graph_kernels import beams_by_codes, build
from .pq import OPQ
from .vectors import Found, check_vectors, nearest, prefix, squared_distances

_LIBRARIES = ("faiss", "hnswlib", "usearch")


class VamanaLite:
    """A graph over prefixes of ``d`` dimensions, walked by OPQ codes of prefixes of ``d_pq``; ``d`` re-ranks exactly.

    ``degree`` is the largest number of neighbours after pruning, ``width`` the beam while building, ``alpha`` how much
    farther a neighbour may be that is kept for long steps.
    """

    def __init__(
        self,
        d: int,
        d_pq: int,
        M: int,
        *,
        nbits: int = 8,
        degree: int = 24,
        width: int = 40,
        alpha: float = 1.2,
        rounds: int = 8,
        seed: int = 0,
    ) -> None:
        if degree < 1 or width < 1 or alpha < 1:
            raise ValueError(f"degree {degree} and width {width} must be at least 1, alpha {alpha} too")
        self.d, self.degree, self.width, self.alpha, self.seed = d, degree, width, alpha, seed
        self.codes = OPQ(d_pq, M, nbits, rounds=rounds, seed=seed)
        self._x: np.ndarray | None = None

    def train(self, x: Float[np.ndarray, "n D"]) -> Self:
        self.codes.train(x)
        return self

    def add(self, x: Float[np.ndarray, "n D"]) -> Self:
        """Builds the graph; all vectors at once.

        Raises:
            ValueError: the index holds vectors already.
        """
        if self._x is not None:
            raise ValueError("the graph is built once over all vectors; make a new index for more of them")
        self.codes.add(x)
        return self.build(x)

    def with_codes(self, codes: OPQ) -> Self:
        """The same graph over codes that hold the same vectors (to compare code lengths, it is built once)."""
        if self._x is None or len(codes.codes) != len(self._x):
            raise ValueError(
                f"{len(codes.codes)} codes for a graph of {0 if self._x is None else len(self._x)} vectors"
            )
        other = copy.copy(self)
        other.codes = codes
        return other

    def build(self, x: Float[np.ndarray, "n D"]) -> Self:
        """The graph alone; :meth:`with_codes` gives it codes to walk by."""
        self._x = prefix(check_vectors(x, "database vectors"), self.d)
        n = len(self._x)
        rng = np.random.default_rng(self.seed)
        mean = self._x.mean(axis=0, keepdims=True)
        self.start = int(squared_distances(mean, self._x).argmin())
        links = min(self.degree, n - 1)
        self.neighbours = np.zeros((n, max(1, int(1.5 * self.degree))), dtype=np.int64)
        self.counts = np.full(n, links, dtype=np.int64)
        if links:
            steps = rng.integers(1, n, size=(n, links))
            self.neighbours[:, :links] = (np.arange(n)[:, None] + steps) % n
        for alpha in (1.0, self.alpha):
            build(self._x, self.neighbours, self.counts, rng.permutation(n), self.start, self.width, alpha, self.degree)
        return self

    def search(self, xq: Float[np.ndarray, "m D"], k: int, beam: int = 32) -> Found:
        """Walk with a beam of ``beam`` codes (at least k), then compare its vectors exactly."""
        return self.walk(self.codes.tables(xq), prefix(check_vectors(xq, "queries"), self.d), k, beam)

    def walk(self, table: Float[np.ndarray, "M m K"], q: Float[np.ndarray, "m d"], k: int, beam: int = 32) -> Found:
        """The same for tables and prefixes that are there already (of two encoders, say)."""
        if self._x is None:
            raise ValueError("the index is empty; add vectors before searching")
        width = max(beam, k)
        table = np.ascontiguousarray(table.transpose(1, 0, 2))
        walked = np.empty((len(table), width), dtype=np.int64)
        looked = beams_by_codes(table, self.codes.codes, self.neighbours, self.counts, self.start, width, walked)
        exact = np.maximum(2.0 - 2.0 * np.einsum("md,mcd->mc", q, self._x[np.maximum(walked, 0)]), 0)
        exact[walked < 0] = np.inf
        values, at = nearest(exact, k)
        ids = np.where(np.isinf(values), -1, np.take_along_axis(walked, np.maximum(at, 0), axis=1))
        fixed = self.codes.rotation.size + self.codes.codebooks.size
        macs = fixed + looked * self.codes.M + (walked >= 0).sum(axis=1) * self.d
        return Found(values, ids, macs, looked)

    def cost(self, beam: int = 32) -> float:
        """Not a formula for a graph: look at ``macs`` of a search."""
        return float("nan")

    @property
    def bytes_per_vector(self) -> float:
        """The codes; graph and vectors are on disk in DiskANN."""
        return self.codes.bytes_per_vector


class HNSW:
    """A hierarchical graph (Malkov and Yashunin, 2018) on prefixes of ``d`` dimensions: faiss, hnswlib or usearch."""

    def __init__(
        self, d: int, *, links: int = 16, ef_construction: int = 100, library: str = "faiss", seed: int = 0
    ) -> None:
        if library not in _LIBRARIES:
            raise ValueError(unknown("library", library, _LIBRARIES))
        self.d, self.links, self.ef_construction = d, links, ef_construction
        self.library, self.seed = library, seed
        self._index: Any = None
        self._size = 0

    def train(self, x: Float[np.ndarray, "n D"]) -> Self:
        return self

    def add(self, x: Float[np.ndarray, "n D"]) -> Self:
        part = prefix(check_vectors(x, "database vectors"), self.d)
        if self.library == "faiss":
            import faiss

            if self._index is None:
                self._index = faiss.IndexHNSWFlat(self.d, self.links)
                self._index.hnsw.efConstruction = self.ef_construction
            self._index.add(part)
        elif self.library == "usearch":
            from usearch.index import Index

            if self._index is None:  # its levels are drawn without a seed
                self._index = Index(
                    ndim=self.d,
                    metric="l2sq",
                    dtype="f32",
                    connectivity=self.links,
                    expansion_add=self.ef_construction,
                )
            self._index.add(np.arange(self._size, self._size + len(part)), part, threads=1)
        else:
            import hnswlib

            if self._index is None:
                self._index = hnswlib.Index(space="l2", dim=self.d)
                self._index.init_index(
                    max_elements=len(part), M=self.links, ef_construction=self.ef_construction, random_seed=self.seed
                )
                self._index.set_num_threads(1)
            elif self._size + len(part) > self._index.get_max_elements():
                self._index.resize_index(self._size + len(part))
            self._index.add_items(part, np.arange(self._size, self._size + len(part)))
        self._size += len(part)
        return self

    def search(self, xq: Float[np.ndarray, "m D"], k: int, ef: int = 64) -> Found:
        """``macs`` are known from faiss only (NaN otherwise), as a mean over the queries."""
        q = prefix(check_vectors(xq, "queries"), self.d)
        if not self._size:
            raise ValueError("the index is empty; add vectors before searching")
        here = min(k, self._size)
        evaluations = np.full(len(q), np.nan)
        if self.library == "faiss":
            import faiss

            faiss.cvar.hnsw_stats.reset()
            self._index.hnsw.efSearch = max(ef, k)
            values, ids = self._index.search(q, here)
            evaluations[:] = faiss.cvar.hnsw_stats.ndis / len(q)
        elif self.library == "usearch":
            self._index.expansion_search = max(ef, k)
            matches = self._index.search(q, here, threads=1)
            many = len(q) > 1  # one query gets no axis of its own
            ids, values = (x if many else x[None] for x in (matches.keys, matches.distances))
            ids = ids.astype(np.int64)
        else:
            self._index.set_ef(max(ef, k))
            ids, values = self._index.knn_query(q, k=here)
            ids = ids.astype(np.int64)
        short = ((0, 0), (0, k - here))
        values = np.pad(np.where(ids < 0, np.inf, values), short, constant_values=np.inf)
        return Found(values, np.pad(ids, short, constant_values=-1), evaluations * self.d, evaluations)

    def cost(self, ef: int = 64) -> float:
        """Not a formula for a graph: look at ``macs`` of a search."""
        return float("nan")

    @property
    def bytes_per_vector(self) -> float:
        """The vector, and the links of the lowest layer (4 bytes each)."""
        return 4.0 * self.d + 8.0 * self.links
