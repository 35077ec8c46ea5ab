"""How good a list of neighbours is, and how hard the search for them.

The definitions are those of the reference code of AdANNS (Rege, Kusupati et al., 2023, arXiv 2305.19435): average
precision is divided by k, not by the number of relevant vectors; recall by the number of vectors of the query's class
in the database; relative contrast (He et al., 2012) is the ratio of mean distances, not the mean of ratios. Ids of -1
count as wrong.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from .ivf import Lists
from .vectors import check_vectors, prefix, squared_distances


def matches(
    ids: Int[np.ndarray, "m N"], labels: Int[np.ndarray, " n"], query_labels: Int[np.ndarray, " m"], k: int
) -> Bool[np.ndarray, "m k"]:
    """Whether each of the first ``k`` neighbours is of its query's class.

    Raises:
        ValueError: labels that are no vectors of integers, do not pair with the queries, or ``k`` above the list.
    """
    for name, y in (("labels", labels), ("query_labels", query_labels)):
        if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
            raise ValueError(f"{name} must be a vector of integers; got {y.dtype} of shape {y.shape}")
    if len(ids) != len(query_labels):
        raise ValueError(f"{len(ids)} lists of neighbours for {len(query_labels)} query labels")
    if not 1 <= k <= ids.shape[1]:
        raise ValueError(f"k = {k} of lists of {ids.shape[1]} neighbours")
    part = ids[:, :k]
    return (labels[np.maximum(part, 0)] == query_labels[:, None]) & (part >= 0)


def top1(ids: np.ndarray, labels: np.ndarray, query_labels: np.ndarray) -> float:
    """Share of queries whose nearest neighbour is of their class."""
    return float(matches(ids, labels, query_labels, 1).mean())


def top_k(ids: np.ndarray, labels: np.ndarray, query_labels: np.ndarray, k: int) -> float:
    """Share of queries with any of their class among the first ``k``."""
    return float(matches(ids, labels, query_labels, k).any(axis=1).mean())


def mean_average_precision(ids: np.ndarray, labels: np.ndarray, query_labels: np.ndarray, k: int) -> float:
    """mAP@k: Σ over the hits among the first k of the precision at that rank, divided by k."""
    hits = matches(ids, labels, query_labels, k)
    precision_at = np.cumsum(hits, axis=1) / np.arange(1, k + 1)
    return float(((precision_at * hits).sum(axis=1) / k).mean())


def precision(ids: np.ndarray, labels: np.ndarray, query_labels: np.ndarray, k: int) -> float:
    """Share of the first ``k`` neighbours that are of the query's class."""
    return float(matches(ids, labels, query_labels, k).mean())


def recall(ids: np.ndarray, labels: np.ndarray, query_labels: np.ndarray, k: int) -> float:
    """Share of the vectors of the query's class that are among the first ``k``; absent classes are left out."""
    hits = matches(ids, labels, query_labels, k).sum(axis=1)
    sizes = np.bincount(labels, minlength=int(query_labels.max()) + 1)[query_labels]
    if not (sizes > 0).any():
        raise ValueError("no query is of a class that the database holds")
    return float((hits[sizes > 0] / sizes[sizes > 0]).mean())


def k_recall_at_n(exact: Int[np.ndarray, "m K"], ids: Int[np.ndarray, "m N"], k: int, n: int | None = None) -> float:
    """Share of the ``k`` exact neighbours that are among the first ``n`` (None: all) that were found."""
    if not 1 <= k <= exact.shape[1] or len(exact) != len(ids):
        raise ValueError(f"k = {k} of exact lists of shape {exact.shape}, against lists of shape {ids.shape}")
    found = np.sort(ids[:, :n], axis=1)
    shift = np.arange(len(ids))[:, None] * (max(int(found.max()), int(exact.max())) + 2)
    return float(np.isin(exact[:, :k] + shift, np.where(found < 0, -1, found + shift)).mean())


def relative_contrast(database: Float[np.ndarray, "n D"], queries: Float[np.ndarray, "m D"], d: int) -> float:
    """Mean distance of a query to the database over the mean distance to its nearest: near one, search is hard."""
    x, q = prefix(check_vectors(database), d), prefix(check_vectors(queries), d)
    distances = np.sqrt(squared_distances(q, x))
    return float(distances.mean() / distances.min(axis=1).mean())


def imbalance(lists: Lists) -> float:
    """n_list · Σ_c (share of cell c)²: one for cells of equal size, n_list if one cell has all. It is the factor by
    which a visit to the cell of a random member costs more than the balanced model says."""
    share = lists.sizes / lists.sizes.sum()
    return float(len(share) * (share**2).sum())
