"""Data of the experiments on FP4 training: regressions, and the operands of a weight gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import dataset
from tensorbench.core.errors import unknown

KINDS = ("gaussian", "heavy_tail", "outlier_token", "outlier_in_both")


@dataclass(frozen=True)
class Rows:
    """Standardised features and targets in two parts."""

    features: Float[np.ndarray, "train features"]
    targets: Float[np.ndarray, " train"]
    valid_features: Float[np.ndarray, "valid features"]
    valid_targets: Float[np.ndarray, " valid"]


def _split(features: np.ndarray, targets: np.ndarray, train: int) -> Rows:
    order = np.random.default_rng(0).permutation(len(features))
    x, y = features[order], targets[order]
    mean, spread = x[:train].mean(axis=0), x[:train].std(axis=0)
    x, y = (x - mean) / spread, (y - y[:train].mean()) / y[:train].std()
    return Rows(x[:train], y[:train], x[train:], y[train:])


@dataset(title="Friedman's first regression problem", source="scikit-learn", licence="BSD-3-Clause", library="sklearn")
def friedman(*, seed: int, rows: int = 2560, noise: float = 0.5) -> Rows:
    """Ten uniform features, five of which matter; four fifths train. The same for every seed."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(rows, n_features=10, noise=noise, random_state=0)
    return _split(x, y, rows * 4 // 5)


@dataset(title="Diabetes progression, 442 patients", source="Efron et al. (2004), as in scikit-learn",
         licence="BSD-3-Clause", library="sklearn")  # fmt: skip
def diabetes(*, seed: int) -> Rows:
    """Ten measurements; 354 patients train, 88 validate, under a fixed permutation."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return _split(x, y, 354)


@dataset(title="Operands of a weight gradient", source="generated here", licence="Apache-2.0", generated=True,
         cache=False)  # fmt: skip
def wgrad_operands(
    *, seed: int, kind: str = "gaussian", tokens: int = 256, inputs: int = 64, outputs: int = 64, factor: float = 50.0
) -> tuple[np.ndarray, np.ndarray]:
    """x (tokens x inputs) and dy (tokens x outputs), float32, dy a thousandth of x.

    ``gaussian``: normal; ``heavy_tail``: Student t with 3 degrees of freedom; ``outlier_token``: normal, and one
    token's row of x is ``factor`` times as large.
    """
    if kind not in KINDS:
        raise ValueError(unknown("kind of operands", kind, KINDS))
    rng = np.random.default_rng([seed, 17])
    shapes = ((tokens, inputs), (tokens, outputs))
    x, dy = (rng.standard_t(3, s) if kind == "heavy_tail" else rng.standard_normal(s) for s in shapes)
    token = int(rng.integers(tokens))
    if kind.startswith("outlier"):
        x[token] *= factor
    if kind == "outlier_in_both":
        dy[token] *= factor
    return x.astype(np.float32), (1e-3 * dy).astype(np.float32)
