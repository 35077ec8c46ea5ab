"""The total-variation prox: worked examples, the dual problem as an oracle, limits, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from tensorbench.decomposition.regression.prox import prox_fused_lasso, prox_tv1d

EXAMPLE = np.array([1, 2, 6, 6.5, -1, 0])


def by_the_dual(y, lam):
    """x = y - D^T z with z in the box [-lam, lam] that makes x smallest."""
    D = np.diff(np.eye(len(y)), axis=0)
    return y - D.T @ lsq_linear(D.T, y, bounds=(-lam, lam), tol=1e-14, max_iter=3000).x


def test_worked_example():
    np.testing.assert_allclose(prox_tv1d(EXAMPLE, 1.0), [2, 2, 5.25, 5.25, 0, 0], atol=1e-14)
    np.testing.assert_allclose(prox_fused_lasso(EXAMPLE, 1.0, 0.5), [1.5, 1.5, 4.75, 4.75, 0, 0], atol=1e-14)


@pytest.mark.parametrize("n", (2, 3, 7, 25, 60))
@pytest.mark.parametrize("lam", (0.05, 0.7, 4.0))
def test_agrees_with_the_dual_problem(n, lam):
    rng = np.random.default_rng(n)
    steps = np.cumsum(rng.integers(-1, 2, n)) + 0.3 * rng.normal(size=n)
    np.testing.assert_allclose(prox_tv1d(steps, lam), by_the_dual(steps, lam), atol=1e-6)


@pytest.mark.parametrize("y", (np.array([0.0, 5, 0, 5, 0, 5]), np.ones(9), np.arange(8.0), np.repeat([1.0, -1, 1], 4)))
def test_ties_and_alternation(y):
    for lam in (0.1, 1.0, 2.5):
        np.testing.assert_allclose(prox_tv1d(y, lam), by_the_dual(y, lam), atol=1e-6)


def test_fused_lasso_is_optimal():
    """0 lies in the subdifferential: no random direction improves the objective."""
    rng = np.random.default_rng(1)
    y = rng.normal(size=12) * 2

    def objective(x):
        return 0.5 * np.sum((x - y) ** 2) + 0.8 * np.abs(np.diff(x)).sum() + 1.0 * np.abs(x).sum()

    x = prox_fused_lasso(y, 0.8, 1.0)
    for size in (1e-1, 1e-3, 1e-5):
        assert all(objective(x + size * rng.normal(size=12)) > objective(x) for _ in range(200))
    assert (x == 0).any()


def test_rows_are_independent_and_symmetries_hold():
    Y = np.random.default_rng(2).normal(size=(4, 3, 15))
    X = prox_tv1d(Y, 0.6)
    np.testing.assert_array_equal(X[2, 1], prox_tv1d(Y[2, 1], 0.6))
    np.testing.assert_allclose(prox_tv1d(-Y, 0.6), -X, atol=1e-13)
    np.testing.assert_allclose(prox_tv1d(Y[..., ::-1], 0.6), X[..., ::-1], atol=1e-12)
    np.testing.assert_allclose(prox_tv1d(Y + 3, 0.6), X + 3, atol=1e-12)
    np.testing.assert_allclose(X.sum(-1), Y.sum(-1), atol=1e-12)


def test_limits():
    y = np.random.default_rng(3).normal(size=20)
    np.testing.assert_array_equal(prox_tv1d(y, 0.0), y)
    np.testing.assert_allclose(prox_tv1d(y, np.ptp(y) * 10), np.full(20, y.mean()), atol=1e-12)
    np.testing.assert_allclose(prox_tv1d(y, np.inf), np.full(20, y.mean()), atol=1e-12)
    np.testing.assert_array_equal(prox_tv1d(np.array([3.0]), 2.0), [3.0])
    assert not prox_fused_lasso(y, 100.0, 10.0).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(3), -1.0), "must not be negative"),
        ((np.ones(3), np.nan), "must not be negative"),
        ((np.array([1.0, np.nan]), 1.0), "not finite"),
        ((np.ones((2, 0)), 1.0), "along the last axis"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        prox_tv1d(*arguments)
    if arguments[1] == arguments[1]:
        with pytest.raises(ValueError, match="l1"):
            prox_fused_lasso(np.ones(3), 1.0, -0.1)
