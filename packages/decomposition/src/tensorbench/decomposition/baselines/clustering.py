"""Two-class clustering of points that are seen in several views, by scikit-learn on the concatenated views.

Tensors are features x points x views; labels are +1 and -1.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.linalg import unfold


def kmeans_views(T: Float[np.ndarray, "p n m"], *, seed: int = 0, restarts: int = 10) -> Float[np.ndarray, " n"]:
    """`sklearn.cluster.KMeans` with two clusters, a point being its features in all views."""
    from sklearn.cluster import KMeans

    return 2.0 * KMeans(2, n_init=restarts, random_state=seed).fit_predict(unfold(T, 1)) - 1


def spectral_views(T: Float[np.ndarray, "p n m"], *, seed: int = 0, neighbours: int = 10) -> Float[np.ndarray, " n"]:
    """`sklearn.cluster.SpectralClustering` with two clusters on the graph of nearest neighbours (the library's default
    number). A graph that falls into pieces is completed by the library, which warns; that is part of the baseline."""
    import warnings

    from sklearn.cluster import SpectralClustering

    model = SpectralClustering(2, affinity="nearest_neighbors", n_neighbors=neighbours, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return 2.0 * model.fit_predict(unfold(T, 1)) - 1
