"""Two-class data with rows of norm 1, for convex classification."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import File, dataset


@dataclass(frozen=True)
class TwoClasses:
    """Rows of norm 1 with labels -1 and 1, the weight of the squared norm to be added to the loss, and batch sizes.

    ``gradient_rows`` and ``hessian_rows`` are the rows that one gradient or Hessian may read; None means all.
    """

    features: Float[np.ndarray, "rows features"]
    labels: Float[np.ndarray, " rows"]
    l2: float = 0.0
    gradient_rows: int | None = None
    hessian_rows: int | None = None


def _unit_rows(features: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1.0)


@dataset(
    title="Adult incomes, 16,281 people with 123 binary features (a9a, test part)",
    source="UCI Adult, as in LIBSVM's a9a.t",
    licence="CC BY 4.0",
    files=[
        File(
            repository="UltramanGaia/ML2017-lab-02",
            commit="a83899df9c288a04fb7047dbcbdf1d2eafb28e70",
            path="data/a9a.t",
            sha256="1f448a153f0320399a7e40836eb207655b0bde0f21fc941cc472193daa9f5de9",
            bytes=1164628,
            licence="CC BY 4.0",
        )
    ],
)
def logistic_a9a(
    files: list[Path], *, seed: int, l2: float = 0.0, gradient_rows: int | None = None, hessian_rows: int | None = None
) -> TwoClasses:
    """Rows divided by their norm (dense float64); the label says whether the income is above 50,000 dollars."""
    from sklearn.datasets import load_svmlight_file

    features, labels = load_svmlight_file(str(files[0]), n_features=123)
    return TwoClasses(_unit_rows(features.toarray()), np.sign(labels), l2, gradient_rows, hessian_rows)


@dataset(
    title="Breast cancer, 569 tumours with 30 features",
    source="UCI breast cancer Wisconsin (diagnostic), as in scikit-learn",
    licence="CC BY 4.0",
    library="sklearn",
)
def logistic_breast_cancer(
    *, seed: int, l2: float = 0.0, gradient_rows: int | None = None, hessian_rows: int | None = None
) -> TwoClasses:
    """Rows divided by their norm; 1 is benign, -1 malignant."""
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return TwoClasses(_unit_rows(features), 2.0 * labels - 1.0, l2, gradient_rows, hessian_rows)


@dataset(
    title="Random rows with two classes",
    source="generated here",
    licence="Apache-2.0",
    generated=True,
)
def random_classes(*, seed: int, rows: int = 2000, features: int = 124, l2: float = 1e-4) -> TwoClasses:
    """Gaussian rows of norm 1; labels are the signs of a random linear function with logistic noise."""
    rng = np.random.default_rng(seed)
    A = _unit_rows(rng.standard_normal((rows, features)))
    truth = 5 * rng.standard_normal(features)
    labels = np.where(A @ truth + rng.logistic(size=rows) > 0, 1.0, -1.0)
    return TwoClasses(A, labels, l2)
