"""Prefixes for indexes of faiss that are there already.

A user's IndexIVFFlat over full Matryoshka vectors is searched with shorter ones in two ways:

- :class:`PrefixSearch` leaves the index as it is. The cells a query visits are chosen by the first d_c coordinates of
  the query and of the centroids; the scan is faiss's own (preassigned search).
- :func:`cut` makes an IndexIVFFlat of prefixes of d_s dimensions with the same cells and the same ids, so that the scan
  gets cheaper too: ``PrefixSearch(cut(index, d_s), d_c, centroids=centroids_of(index))``.

:func:`cut_flat` does the same for a flat index. All adapters take the vectors to be of length one, as AdANNS (Rege,
Kusupati et al., 2023, arXiv 2305.19435) does, and scale prefixes to length one anew. faiss is imported when needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .vectors import check_vectors, prefix


def centroids_of(index: Any) -> Float[np.ndarray, "n_list D"]:
    """The centroids of an IVF index of faiss.

    Raises:
        TypeError: not an IVF index.
    """
    _ivf(index)
    return index.quantizer.reconstruct_n(0, index.nlist)


class PrefixSearch:
    """Searches an IVF index of faiss, the cells chosen by prefixes of ``d_c`` dimensions.

    ``index`` holds vectors of its own size d_s; queries are cut to it. ``centroids``: those that the cells were made
    with, where they are longer than the index's own (see :func:`cut`). With d_c the size of the index a search returns
    what ``index.search`` does.

    Raises:
        TypeError: not an IVF index.
        ValueError: ``d_c`` out of range, another number of centroids than of lists, or an IndexIVFPQ whose
            precomputed tables assume full coarse distances.
    """

    def __init__(self, index: Any, d_c: int, *, centroids: Float[np.ndarray, "n_list D"] | None = None) -> None:
        import faiss

        _ivf(index)
        self.index, self.d_c = index, d_c
        full = centroids_of(index) if centroids is None else centroids
        if len(full) != index.nlist:
            raise ValueError(f"{len(full)} centroids for an index of {index.nlist} lists")
        if getattr(index, "use_precomputed_table", 0) > 0 and d_c != index.d:
            raise ValueError(
                "precomputed tables need full coarse distances: set index.use_precomputed_table = -1 first"
            )
        if centroids is None and d_c == index.d:
            self.quantizer = index.quantizer
        else:
            self.quantizer = faiss.IndexFlatL2(d_c)
            self.quantizer.add(_cut(full, d_c))

    def search(
        self, xq: Float[np.ndarray, "m D"], k: int, n_probe: int = 1
    ) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
        """Squared distances and ids, as faiss returns them.

        Raises:
            ValueError: ``n_probe`` out of range, bad queries, or queries shorter than a prefix that is needed.
        """
        if not 1 <= n_probe <= self.index.nlist:
            raise ValueError(f"n_probe {n_probe} must be between 1 and nlist {self.index.nlist}")
        xq = check_vectors(xq, "queries")
        distances, cells = self.quantizer.search(_cut(xq, self.d_c), n_probe)
        before, self.index.nprobe = self.index.nprobe, n_probe  # faiss reads the width of ``cells`` there
        try:
            return self.index.search_preassigned(_cut(xq, self.index.d), k, cells, distances)
        finally:
            self.index.nprobe = before


def search_prefix(
    index: Any, xq: Float[np.ndarray, "m D"], k: int, *, d_c: int, n_probe: int = 1
) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
    """One search of :class:`PrefixSearch`; keep the object where there are several, it keeps the cut centroids."""
    return PrefixSearch(index, d_c).search(xq, k, n_probe)


def cut(index: Any, d_s: int) -> Any:
    """An IndexIVFFlat of prefixes of ``d_s`` dimensions with the lists and ids of ``index``, an IndexIVFFlat."""
    import faiss

    _ivf(index)
    if not hasattr(index, "code_size") or index.code_size != 4 * index.d:
        raise TypeError(f"{type(index).__name__} does not keep plain vectors in its lists; an IndexIVFFlat does")
    quantizer = faiss.IndexFlatL2(d_s)
    quantizer.add(_cut(centroids_of(index), d_s))
    out = faiss.IndexIVFFlat(quantizer, d_s, index.nlist)
    out.own_fields = True
    quantizer.this.disown()
    out.is_trained = True
    lists = index.invlists
    for cell in range(index.nlist):
        size = lists.list_size(cell)
        if not size:
            continue
        ids = faiss.rev_swig_ptr(lists.get_ids(cell), size).copy()
        bytes_ = faiss.rev_swig_ptr(lists.get_codes(cell), size * index.code_size)
        part = _cut(bytes_.view(np.float32).reshape(size, index.d), d_s)
        cells = np.full(size, cell, dtype=np.int64)
        out.add_core(size, faiss.swig_ptr(part), faiss.swig_ptr(ids), faiss.swig_ptr(cells))
    return out


def cut_flat(index: Any, d: int) -> Any:
    """An IndexFlatL2 of prefixes of ``d`` dimensions of what a flat index holds."""
    import faiss

    out = faiss.IndexFlatL2(d)
    out.add(_cut(index.reconstruct_n(0, index.ntotal), d))
    return out


def copy_codebooks(codebooks: Float[np.ndarray, "M K part"], pq: Any) -> None:
    """Give a faiss ProductQuantizer codebooks that were trained here."""
    import faiss

    shape = (pq.M, pq.ksub, pq.dsub)
    if codebooks.shape != shape:
        raise ValueError(f"codebooks of shape {codebooks.shape} for a quantiser of {shape} (M, 2^nbits, d / M)")
    faiss.copy_array_to_vector(np.ascontiguousarray(codebooks, dtype=np.float32).ravel(), pq.centroids)


def _cut(x: np.ndarray, d: int) -> np.ndarray:
    """A prefix of length one; whole vectors stay bit for bit as they are."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    return x if d == x.shape[1] else prefix(x, d)


def _ivf(index: Any) -> None:
    if not hasattr(index, "nlist") or not hasattr(index, "quantizer"):
        raise TypeError(f"{type(index).__name__} has no cells; an IVF index of faiss is needed (see extract_index_ivf)")
