"""Fast Walsh-Hadamard transforms, and Kronecker regression, against what a plain implementation costs.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/decomposition/benchmarks/hadamard.py

Prints seconds of the transform of 65536 x 64 float64 (targets: 0.25 s in NumPy, 0.08 s compiled), the ratio to the
textbook's loop over levels, and of the SRHT to SciPy's CountSketch (Clarkson-Woodruff) and scikit-learn's sparse
projection on the same matrix.
"""

from __future__ import annotations

import numpy as np

from tensorbench.core.timing import compare
from tensorbench.decomposition.baselines.sketching import ScipyCountSketch, SklearnProjection
from tensorbench.decomposition.sketch.hadamard import fwht
from tensorbench.decomposition.sketch.structured import SRHT

N, K, M = 65536, 64, 1024


def textbook(X: np.ndarray) -> np.ndarray:
    """One pass of additions per level."""
    h = 1
    while h < len(X):
        view = X.reshape(-1, 2, h, X.shape[1])
        view[:, 0], view[:, 1] = view[:, 0] + view[:, 1], view[:, 0] - view[:, 1]
        h *= 2
    return X


def main() -> None:
    X = np.random.default_rng(0).standard_normal((N, K))
    work = {
        "numpy": lambda: fwht(X.copy()),
        "numba": lambda: fwht(X.copy(), implementation="numba"),
        "textbook": lambda: textbook(X.copy()),
    }
    reference = work["textbook"]()
    worst = max(float(np.abs(work[name]() - reference).max()) for name in ("numpy", "numba"))
    seconds = compare(work, repeats=3)
    for name, value in seconds.items():
        print(f"{name:10s} {value:7.4f} s   textbook takes {seconds.speedup(name, 'textbook').value:5.1f}x")
    print(f"largest difference {worst:.1e}")

    peers = {"srht": SRHT, "scipy": ScipyCountSketch, "scikit-learn": SklearnProjection}
    seconds = compare({name: (lambda kind=kind: kind(N, M, 0).apply(X)) for name, kind in peers.items()}, repeats=3)
    for name, value in seconds.items():
        print(f"{name:13s} {value:7.4f} s")


if __name__ == "__main__":
    main()
