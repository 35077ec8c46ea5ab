"""Designs for least squares: generated families, and real ones that come with scikit-learn and TensorLy.

Real designs are standardised columns without the constant ones, as (A, b) with b centred.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from tensorbench.core.data import dataset

Problem = tuple[np.ndarray, np.ndarray]


@dataset(title="Designs for sketched least squares", source="generated here", licence="Apache-2.0", generated=True,
         cache=False)  # fmt: skip
def sketching_designs(
    *, seed: int, n: int = 4096, d: int = 64, kinds: list[str] | tuple[str, ...] = ("gaussian",)
) -> dict[str, Problem]:
    """One problem per kind of :mod:`tensorbench.decomposition.sketch.instances`, all n x d."""
    from tensorbench.decomposition.sketch.instances import instance

    return {kind: instance(kind, n, d, [seed, n, d, place]) for place, kind in enumerate(kinds)}  # type: ignore


@dataset(
    title="Real designs: diabetes, breast cancer, digits, Indian Pines",
    source="scikit-learn and tensorly (Baumgardner, Biehl, Landgrebe 2015)",
    licence="BSD-3-Clause; CC-BY for UCI's and Indian Pines",
    library="scikit-learn",
)
def real_designs(*, seed: int, pixels: int = 5) -> dict[str, Problem]:
    """The same for every seed.

    - diabetes: the ten measurements and their products of degree 2 (442 x 64 or so); progression.
    - breast_cancer: 30 measurements (569 x 30); ±1 for the class.
    - digits: pixels (1797 x 61); the digit.
    - indian_pines: bands 1 to 199 of every ``pixels``-th pixel (4205 x 199); band 0.
    """
    return _real(pixels)


@cache
def _real(pixels: int) -> dict[str, Problem]:
    from sklearn import datasets as sk
    from sklearn.preprocessing import PolynomialFeatures
    from tensorly.datasets import load_indian_pines

    diabetes, cancer, digits = (
        load(return_X_y=True) for load in (sk.load_diabetes, sk.load_breast_cancer, sk.load_digits)
    )
    scene = np.asarray(load_indian_pines().tensor, dtype=np.float64).reshape(-1, 200)[::pixels]
    products = PolynomialFeatures(2, include_bias=False).fit_transform(_standard(diabetes[0]))
    found = {
        "diabetes": (products, diabetes[1]),
        "breast_cancer": (cancer[0], 2.0 * cancer[1] - 1.0),
        "digits": (digits[0], digits[1]),
        "indian_pines": (scene[:, 1:], scene[:, 0]),
    }
    return {name: (_independent(_standard(X)), y - y.mean()) for name, (X, y) in found.items()}


def _standard(X: np.ndarray) -> np.ndarray:
    X = np.asarray(X, dtype=np.float64)
    X = X[:, np.ptp(X, axis=0) > 0]
    return (X - X.mean(axis=0)) / X.std(axis=0)


def _independent(X: np.ndarray) -> np.ndarray:
    """Without columns that the ones before them already span (the square of a binary measurement, say)."""
    R = np.linalg.qr(X, mode="r")
    return X[:, np.abs(np.diag(R)) > 1e-8 * np.abs(np.diag(R)).max()]


@dataset(title="Kronecker design of two blocks of digits", source="scikit-learn (UCI)", licence="CC-BY-4.0",
         library="scikit-learn")  # fmt: skip
def kronecker_digits(*, seed: int, n: int = 256, d: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A1, A2 (n x d): the d leading principal components of two disjoint blocks of n digits, scaled to unit variance;
    b = (A1 (x) A2) x + unit noise, n^2 entries."""
    from sklearn.datasets import load_digits

    if not (1 <= d <= 60 and d <= n <= 898):
        raise ValueError(f"need 1 <= d <= 60 and d <= n <= 898 (1797 digits make two blocks); got n = {n}, d = {d}")
    rng = np.random.default_rng([seed, n])
    X = load_digits().data[rng.permutation(1797)[: 2 * n]]
    U = [np.linalg.svd(part - part.mean(axis=0), full_matrices=False)[0][:, :d] for part in (X[:n], X[n:])]
    A1, A2 = (np.sqrt(n) * u for u in U)
    clean = A1 @ rng.standard_normal((d, d)) @ A2.T
    return A1, A2, (clean + rng.standard_normal((n, n))).ravel()
