"""Choosing dimensions at query time, on an index that was not built for it.

AdANNS-D (Rege, Kusupati et al., 2023, arXiv 2305.19435, section 4.1 and appendix): an IVF built on full Matryoshka
vectors is searched with prefixes of its centroids and of its vectors. The cascade ranks the whole database by a short
prefix and re-ranks ever fewer candidates by longer ones ("funnel retrieval" of Kusupati et al., 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from .ivf import IVF
from .vectors import Found, check_vectors, nearest, prefix, squared_distances


class AdaptiveQuery:
    """Search a trained and filled :class:`~.ivf.IVF` by prefixes of what it holds.

    Slices are kept, so that the second search of one size costs no more than a search. Assignments stay those of the
    full vectors.
    """

    def __init__(self, index: IVF) -> None:
        if index.centroids is None or index._fine is None:
            raise ValueError("the index is empty; train it and add vectors before adapting it")
        self.index = index
        self._sliced: dict[tuple[int, int], IVF] = {}

    def search(self, xq: Float[np.ndarray, "m D"], k: int, *, d_c: int, d_s: int, n_probe: int = 1) -> Found:
        """Choose cells by ``d_c`` dimensions, compare members by ``d_s``.

        Raises:
            ValueError: more dimensions than the index was built with.
        """
        view = self.view(d_c, d_s)
        x = check_vectors(xq, "queries")
        _, probes = nearest(squared_distances(prefix(x, d_c), view.centroids), n_probe)
        return view.search_preassigned(prefix(x, d_s), k, probes)

    def view(self, d_c: int, d_s: int) -> IVF:
        """An IVF of prefixes that shares the index's lists."""
        for name, d, most in (("d_c", d_c, self.index.centroids.shape[1]), ("d_s", d_s, self.index._fine.shape[1])):
            if not 1 <= d <= most:
                raise ValueError(f"{name} = {d} dimensions are no prefix of the {most} that the index was built with")
        if (d_c, d_s) not in self._sliced:
            self._sliced[d_c, d_s] = self.index.sliced(d_c, d_s)
        return self._sliced[d_c, d_s]


def cascade(
    database: Float[np.ndarray, "n D"],
    queries: Float[np.ndarray, "m D"],
    dims: Sequence[int],
    shortlists: Sequence[int],
    k: int,
) -> Found:
    """Rank all by ``dims[0]`` and keep the best ``shortlists[0]``, re-rank these by ``dims[1]``, and so on.

    The last size ranks the ``k`` that are returned; so there is one shortlist fewer than sizes, each at least k.

    Raises:
        ValueError: sizes that do not grow, or shortlists that do.
    """
    x, q = check_vectors(database, "database vectors"), check_vectors(queries, "queries", database.shape[1])
    if len(shortlists) != len(dims) - 1 or any(a >= b for a, b in pairwise(dims)):
        raise ValueError(f"dims {list(dims)} must ascend, with one shortlist fewer than sizes; got {list(shortlists)}")
    if any(a < b for a, b in zip([len(x), *shortlists], [*shortlists, k], strict=True)):
        raise ValueError(f"candidates may only shrink: {len(x)} vectors, shortlists {list(shortlists)}, k {k}")
    distances = squared_distances(prefix(q, dims[0]), prefix(x, dims[0]))
    macs, evaluations = float(len(x) * dims[0]), float(len(x))
    keep = [*shortlists, k]
    values, ids = nearest(distances, keep[0])
    for d, size in zip(dims[1:], keep[1:], strict=True):
        fine, part = prefix(x, d), prefix(q, d)
        exact = 2.0 - 2.0 * np.einsum("md,mcd->mc", part, fine[ids])
        macs, evaluations = macs + ids.shape[1] * d, evaluations + ids.shape[1]
        values, order = nearest(np.maximum(exact, 0), size)
        ids = np.take_along_axis(ids, order, axis=1)
    return Found(values, ids, np.full(len(q), macs), np.full(len(q), evaluations))
