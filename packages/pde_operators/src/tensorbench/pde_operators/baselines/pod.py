"""Proper orthogonal decomposition with ridge regression: the linear baseline of operator learning.

The outputs are written in the r leading singular vectors of the training outputs (Sirovich 1987), the inputs in those
of the training inputs, and a ridge regression (scikit-learn's) maps one kind of coefficients to the other. Where the
map depends on parameters p, the features are the products of input coefficients and monomials of p: then the prediction
is linear in the input at fixed parameters, as the solution of a linear PDE is in its boundary data.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Basis:
    """``mean`` and orthonormal columns ``vectors`` with the singular values of the (centred) samples that gave them."""

    mean: Float[np.ndarray, " p"]
    vectors: Float[np.ndarray, "p r"]
    singular_values: Float[np.ndarray, " all"]

    def encode(self, samples: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n r"]:
        """Coefficients of samples."""
        return (samples - self.mean) @ self.vectors

    def decode(self, coefficients: Float[np.ndarray, "n r"]) -> Float[np.ndarray, "n p"]:
        """Samples with these coefficients."""
        return coefficients @ self.vectors.T + self.mean

    def project(self, samples: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
        """The nearest samples in the span of the basis: no prediction in it is closer."""
        return self.decode(self.encode(samples))


def pod_basis(samples: Float[np.ndarray, "n p"], rank: int, center: bool = True) -> Basis:
    """The ``rank`` leading right singular vectors of the samples, centred at their mean or not.

    A rank above the smaller side of ``samples`` is lowered to it.
    """
    if samples.ndim != 2:
        raise ValueError(f"samples of shape {samples.shape}: one row per sample is expected; flatten the fields first")
    if rank < 1:
        raise ValueError(f"rank {rank} must be at least 1")
    if not np.isfinite(samples).all():
        raise ValueError("samples hold NaN or infinity")
    mean = samples.mean(axis=0) if center else np.zeros(samples.shape[1], dtype=samples.dtype)
    _, values, vectors = np.linalg.svd(samples - mean, full_matrices=False)
    return Basis(mean, vectors[:rank].T, values)


def monomials(p: Float[np.ndarray, "n q"], degree: int) -> Float[np.ndarray, "n terms"]:
    """1 and all products of up to ``degree`` columns of ``p``."""
    if degree < 0:
        raise ValueError(f"degree {degree} must be at least 0")
    columns = [np.ones(len(p), dtype=p.dtype)]
    for d in range(1, degree + 1):
        columns += [np.prod(p[:, list(which)], axis=1) for which in combinations_with_replacement(range(p.shape[1]), d)]
    return np.stack(columns, axis=1)


class PODRidge:
    """Ridge regression between POD coefficients.

    Args:
        out_rank: basis vectors of the outputs.
        in_rank: basis vectors of the inputs; None keeps the inputs as they are.
        alpha: ridge penalty, as in ``sklearn.linear_model.Ridge``.
        degree: of the monomials of the parameters, where ``fit`` is given some.
        center: subtract the means and fit an intercept; without, prediction is linear in the input.
    """

    def __init__(
        self, out_rank: int, in_rank: int | None = None, *, alpha: float = 1e-6, degree: int = 2, center: bool = True
    ) -> None:
        if alpha < 0:
            raise ValueError(f"alpha {alpha} must not be negative")
        self.out_rank, self.in_rank, self.alpha, self.degree, self.center = out_rank, in_rank, alpha, degree, center
        self._inputs: Basis | None = None
        self._outputs: Basis | None = None
        self._ridge: Any = None

    def fit(
        self,
        x: Float[np.ndarray, "n p"],
        y: Float[np.ndarray, "n s"],
        parameters: Float[np.ndarray, "n q"] | None = None,
    ) -> PODRidge:
        """Bases by SVD, then one ridge regression for all output coefficients."""
        from sklearn.linear_model import Ridge

        if len(x) != len(y) or (parameters is not None and len(parameters) != len(x)):
            raise ValueError("inputs, outputs and parameters must have the same number of samples")
        self._inputs = None if self.in_rank is None else pod_basis(x, self.in_rank, self.center)
        self._outputs = pod_basis(y, self.out_rank, self.center)
        self._ridge = Ridge(alpha=self.alpha, fit_intercept=self.center)
        self._ridge.fit(self._features(x, parameters), self._outputs.encode(y))
        return self

    def predict(
        self, x: Float[np.ndarray, "n p"], parameters: Float[np.ndarray, "n q"] | None = None
    ) -> Float[np.ndarray, "n s"]:
        """Outputs for inputs (and their parameters)."""
        return self.outputs.decode(self._ridge.predict(self._features(x, parameters)).reshape(len(x), -1))

    @property
    def outputs(self) -> Basis:
        """The basis of the outputs."""
        if self._outputs is None:
            raise ValueError("the model is not fitted yet; call fit(x, y) first")
        return self._outputs

    @property
    def num_parameters(self) -> int:
        """Numbers that a prediction needs: both bases and the regression."""
        inputs = 0 if self._inputs is None else self._inputs.vectors.size + self.center * self._inputs.mean.size
        basis = self.outputs.vectors.size + self.center * self.outputs.mean.size
        return int(inputs + basis + self._ridge.coef_.size + self.center * np.size(self._ridge.intercept_))

    def _features(self, x: np.ndarray, parameters: np.ndarray | None) -> np.ndarray:
        z = x if self._inputs is None else self._inputs.encode(x)
        if parameters is None:
            return z
        return (z[:, :, None] * monomials(parameters, self.degree)[:, None, :]).reshape(len(x), -1)
