"""Predicted accuracy of two-class multi-view clustering by sign, for the three estimates that have a formula.

dims = (p, n, m): p features of n points in m views; mu_norm = |mu| is the strength of the classes and h_norm = |h| that
of the gains (arXiv 2402.10677, section 5). An accuracy is Phi(sqrt(zeta / (1 - zeta))) for the squared alignment zeta
of the estimate of y.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.spiked import tensor_theory, unfolding_theory
from tensorbench.decomposition.spiked.nested import check_dims

__all__ = ["PREDICTIONS", "tensor_accuracy", "unfolding_accuracy", "weighted_mean_accuracy"]


def unfolding_accuracy(
    dims: Sequence[int], mu_norm: Float[np.ndarray, " points"], h_norm: float
) -> Float[np.ndarray, " points"]:
    """The leading eigenvector of the second unfolding."""
    rho = unfolding_theory.rho_from_beta(check_dims(dims), h_norm)
    return np.asarray(unfolding_theory.accuracy(unfolding_theory.SecondUnfolding(dims, mu_norm, rho).alignment))


def tensor_accuracy(
    dims: Sequence[int], mu_norm: Float[np.ndarray, " points"], h_norm: float
) -> Float[np.ndarray, " points"]:
    """The best rank-one approximation (the global one, wherever an algorithm may end)."""
    return np.asarray(unfolding_theory.accuracy(tensor_theory.solve(check_dims(dims), mu_norm, h_norm).q_y ** 2))


def weighted_mean_accuracy(
    dims: Sequence[int], mu_norm: Float[np.ndarray, " points"], h_norm: float
) -> Float[np.ndarray, " points"]:
    """The oracle that knows the gains."""
    return np.asarray(unfolding_theory.accuracy(unfolding_theory.weighted_mean_alignment(dims, mu_norm, h_norm)))


PREDICTIONS = {"unfolding": unfolding_accuracy, "rank_one": tensor_accuracy, "weighted_mean": weighted_mean_accuracy}
