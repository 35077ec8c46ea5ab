"""Random projections of well-kept libraries behind the interface of :class:`.sketch.sketches.Sketch`."""

from __future__ import annotations

import numpy as np

from tensorbench.decomposition.sketch.sketches import Sketch


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


class SklearnProjection(Sketch):
    """scikit-learn's very sparse random projection: a share 1/sqrt(n) of the entries is ± sqrt(sqrt(n)/m)."""

    def __init__(self, n: int, m: int, generator: np.random.Generator | int | None = None):
        from sklearn.random_projection import SparseRandomProjection

        super().__init__(n, m, generator)
        model = SparseRandomProjection(n_components=m, random_state=_seed(self.rng))
        self.matrix = model.fit(np.zeros((1, n))).components_

    def _apply(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(self.matrix @ X)


class ScipyCountSketch(Sketch):
    """SciPy's Clarkson-Woodruff transform: the same law as our CountSketch."""

    def __init__(self, n: int, m: int, generator: np.random.Generator | int | None = None):
        super().__init__(n, m, generator)
        self._state = _seed(self.rng)

    def _apply(self, X: np.ndarray) -> np.ndarray:
        from scipy.linalg import clarkson_woodruff_transform

        return np.asarray(clarkson_woodruff_transform(X, self.m, rng=np.random.default_rng(self._state)))
