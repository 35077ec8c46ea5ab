"""Indices of several parts: cells over codes, and a graph over codes.

AdANNS-IVFOPQ (Rege, Kusupati et al., 2023, arXiv 2305.19435, section 4.3) makes and chooses cells with prefixes of d_c
dimensions and compares OPQ codes of prefixes of d_s. Codes here are of the vector, not of its difference from a cell's
centroid as in faiss's IVFPQ, because that would tie d_s to d_c. HNSWOPQ walks faiss's graph over OPQ codes.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from jaxtyping import Float

from .ivf import IVF, scan
from .pq import OPQ, look_up
from .vectors import Found, check_vectors, nearest, prefix, squared_distances


class IVFOPQ:
    """Cells from ``d_c`` dimensions, OPQ codes of ``M`` parts of prefixes of ``d_s``.

    ``IVFOPQ.of(cells, codes)`` puts together an index of each kind that hold the same vectors already.
    """

    def __init__(
        self, d_c: int, d_s: int, M: int, n_list: int = 64, *, nbits: int = 8, rounds: int = 8, seed: int = 0
    ) -> None:
        self.cells = IVF(d_c, d_c, n_list, seed=seed)
        self.codes = OPQ(d_s, M, nbits, rounds=rounds, seed=seed)

    @classmethod
    def of(cls, cells: IVF, codes: OPQ) -> Self:
        """ValueError where the two hold different numbers of vectors."""
        if len(cells.lists.members) != len(codes.codes):
            raise ValueError(f"{len(cells.lists.members)} vectors in the cells but {len(codes.codes)} codes")
        made = cls.__new__(cls)
        made.cells, made.codes, made._listed = cells, codes, codes.codes[cells.lists.members]
        return made

    def train(self, x: Float[np.ndarray, "n D"]) -> Self:
        self.cells.train(x)
        self.codes.train(x)
        return self

    def add(self, x: Float[np.ndarray, "n D"]) -> Self:
        self.cells.add(x)
        self.codes.add(x)
        self._listed = self.codes.codes[self.cells.lists.members]
        return self

    def search(self, xq: Float[np.ndarray, "m D"], k: int, n_probe: int = 1) -> Found:
        coarse = prefix(check_vectors(xq, "queries"), self.cells.centroids.shape[1])
        return self.search_coarse(coarse, self.codes.tables(xq), k, n_probe)

    def search_coarse(
        self, coarse: Float[np.ndarray, "m d_c"], table: Float[np.ndarray, "M m K"], k: int, n_probe: int = 1
    ) -> Found:
        """The same for prefixes and tables that are there already (of two encoders, say)."""
        if not 1 <= n_probe <= self.cells.n_list:
            raise ValueError(f"n_probe {n_probe} must be between 1 and n_list {self.cells.n_list}")
        _, probes = nearest(squared_distances(coarse, self.cells.centroids), n_probe)
        values, ids = scan(self.cells.lists, probes, k, lambda rows, part: look_up(table[:, rows], self._listed[part]))
        members = self.cells.lists.sizes[probes].sum(axis=1).astype(np.float64)
        macs = self.cells.centroids.size + self._fixed + self.codes.M * members
        return Found(values, ids, macs, self.cells.n_list + members)

    @property
    def _fixed(self) -> float:
        """Rotation and table of a query."""
        return float(self.codes.rotation.size + self.codes.codebooks.size)

    def cost(self, n_probe: int = 1) -> float:
        share = n_probe / self.cells.n_list
        return self.cells.centroids.size + self._fixed + share * self.codes.M * len(self._listed)

    @property
    def bytes_per_vector(self) -> float:
        return self.codes.bytes_per_vector


class HNSWOPQ:
    """faiss's HNSW over OPQ codes trained here; needs faiss."""

    def __init__(
        self,
        d: int,
        M: int,
        *,
        nbits: int = 8,
        links: int = 32,
        ef_construction: int = 40,
        rounds: int = 8,
        seed: int = 0,
    ) -> None:
        self.codes = OPQ(d, M, nbits, rounds=rounds, seed=seed)
        self.links, self.ef_construction = links, ef_construction
        self._index: Any = None

    def train(self, x: Float[np.ndarray, "n D"]) -> Self:
        import faiss

        from .faiss_tools import copy_codebooks

        self.codes.train(x)
        d = self.codes.rotation.shape[0]
        self._index = faiss.IndexHNSWPQ(d, self.codes.M, self.links, self.codes.nbits)
        storage = faiss.downcast_index(self._index.storage)
        copy_codebooks(self.codes.codebooks, storage.pq)
        storage.pq.compute_sdc_table()  # distances between codes, which building the graph needs
        storage.is_trained = self._index.is_trained = True
        self._index.hnsw.efConstruction = self.ef_construction
        return self

    def add(self, x: Float[np.ndarray, "n D"]) -> Self:
        if self._index is None:
            raise ValueError("there are no codebooks yet; train the index first")
        self._index.add(self._rotated(x))
        return self

    def search(self, xq: Float[np.ndarray, "m D"], k: int, ef: int = 64) -> Found:
        import faiss

        stats = faiss.cvar.hnsw_stats
        stats.reset()
        self._index.hnsw.efSearch = max(ef, k)
        values, ids = self._index.search(self._rotated(xq), k)
        evaluations = np.full(len(ids), stats.ndis / len(ids))  # faiss counts over all queries together
        fixed = self.codes.rotation.size + self.codes.codebooks.size
        return Found(np.where(ids < 0, np.inf, values), ids, fixed + evaluations * self.codes.M, evaluations)

    def _rotated(self, x: np.ndarray) -> np.ndarray:
        return self.codes.rotate(prefix(check_vectors(x), self.codes.rotation.shape[0]))

    def cost(self, ef: int = 64) -> float:
        """Not a formula for a graph: look at ``macs`` of a search."""
        return float("nan")

    @property
    def bytes_per_vector(self) -> float:
        """Codes, and the links of the lowest layer (4 bytes each)."""
        return self.codes.bytes_per_vector + 8.0 * self.links
