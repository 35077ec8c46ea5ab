"""Lloyd's k-means, for the cells of an inverted file and for the codebooks of product quantisation.

Several clusterings of equal shape run at once (the subspaces of a product quantiser), each step one batched product.
Starts from distinct points drawn at random; an empty cluster takes over half of a large one (as faiss does), so that no
centroid is ever lost.
"""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

POINTS_PER_CENTROID = 39  # below, faiss warns too
_NUDGE = 1.0 / 1024  # relative distance of the two halves of a split cluster


def kmeans(x: Float[np.ndarray, "n d"], k: int, *, seed: int = 0, iterations: int = 25) -> Float[np.ndarray, "k d"]:
    """Centroids of ``k`` clusters.

    Raises:
        ValueError: fewer points than clusters.
    """
    warn_if_few(len(x), k)
    points = x[None]
    start = initial_centroids(points, k, np.random.default_rng(seed))
    return lloyd(points, start, iterations)[0]


def warn_if_few(n: int, k: int) -> None:
    """ValueError below one point a centroid, a warning below 39."""
    if not 1 <= k <= n:
        raise ValueError(f"{k} centroids need at least as many training points; got {n}")
    if n < POINTS_PER_CENTROID * k:
        warnings.warn(
            f"{n} training points for {k} centroids; at least {POINTS_PER_CENTROID * k} are advised", stacklevel=3
        )


def initial_centroids(x: Float[np.ndarray, "b n d"], k: int, rng: np.random.Generator) -> Float[np.ndarray, "b k d"]:
    """``k`` distinct points, the same rows in every batch."""
    return x[:, rng.permutation(x.shape[1])[:k]].copy()


def assign(x: Float[np.ndarray, "b n d"], centroids: Float[np.ndarray, "b k d"]) -> Int[np.ndarray, "b n"]:
    """The nearest centroid of each point (the lower number of two equally near)."""
    scores = x @ centroids.transpose(0, 2, 1)
    scores -= 0.5 * np.einsum("bkd,bkd->bk", centroids, centroids)[:, None, :]
    return scores.argmax(axis=2)


def lloyd(
    x: Float[np.ndarray, "b n d"], centroids: Float[np.ndarray, "b k d"], iterations: int
) -> Float[np.ndarray, "b k d"]:
    """``iterations`` rounds of assigning points and moving centroids to the means of theirs."""
    b, n, d = x.shape
    k = centroids.shape[1]
    flat = np.ascontiguousarray(x).reshape(b * n, d)
    offsets = k * np.arange(b)[:, None]
    for _ in range(iterations):
        labels = (assign(x, centroids) + offsets).ravel()
        sizes = np.bincount(labels, minlength=b * k)
        small = labels.astype(np.uint16) if b * k < 2**16 else labels  # 16 bits are sorted by radix
        members = np.argsort(small, kind="stable")
        belongs = sparse.csr_matrix(
            (np.ones(b * n, dtype=x.dtype), members, np.concatenate([[0], np.cumsum(sizes)])), shape=(b * k, b * n)
        )
        sums = belongs @ flat
        centroids = (sums / np.maximum(sizes, 1)[:, None]).reshape(b, k, d).astype(x.dtype)
        if (sizes == 0).any():
            for batch, counts in enumerate(sizes.reshape(b, k)):
                _split_large(centroids[batch], counts)
    return centroids


def _split_large(centroids: Float[np.ndarray, "k d"], sizes: Int[np.ndarray, " k"]) -> None:
    """Each empty cluster becomes a copy of the largest, the two moved a little apart (in place)."""
    sizes = sizes.copy()
    signs = np.where(np.arange(centroids.shape[1]) % 2 == 0, 1.0, -1.0) * _NUDGE
    for empty in np.flatnonzero(sizes == 0):
        largest = int(sizes.argmax())
        if sizes[largest] < 2:
            break  # fewer distinct points than clusters: the copies stay empty
        centroids[empty] = centroids[largest] * (1 + signs)
        centroids[largest] = centroids[largest] * (1 - signs)
        sizes[empty] = sizes[largest] // 2
        sizes[largest] -= sizes[empty]
