"""The multilinear Gaussian process: gradients, kernel formula, Woodbury form, predictions against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct

from tensorbench.decomposition.regression import multilinear_gp as gp

NAMES = (*gp.NAMES, "eta")


def problem(n=14, seed=0, ranks=(2, 2, 1)):
    """Images, targets and parameters: A (3, 6), B (2, 5), two channels."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, 2, 6, 5)), rng.normal(size=n)
    A, B = rng.normal(size=(3, 6)), rng.normal(size=(2, 5))
    U = [rng.normal(size=(r, m)) for r, m in zip(ranks, (3, 2, 2), strict=True)]
    return X, y, (A, B, *U, -0.4)


@pytest.mark.parametrize("n", (3, 14))  # below and above q = 4
def test_gradients_equal_autograd(n):
    X, y, parameters = problem(n)
    found = gp.nll_grad(X, y, *parameters)
    leaves = [torch.tensor(np.asarray(p), requires_grad=True) for p in parameters]
    value = gp.nll_torch(torch.tensor(X), torch.tensor(y), *leaves)
    value.backward()
    assert found["nll"] == pytest.approx(value.item(), rel=1e-12)
    for name, leaf in zip(NAMES, leaves, strict=True):
        np.testing.assert_allclose(found[name], leaf.grad.numpy(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_central_differences(name):
    X, y, parameters = problem(seed=1)
    k = NAMES.index(name)
    rng = np.random.default_rng(2)
    direction = rng.normal(size=np.shape(parameters[k]))

    def value(t):
        moved = list(parameters)
        moved[k] = parameters[k] + t * direction
        return gp.nll_grad(X, y, *moved)["nll"]

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    assert float(np.sum(gp.nll_grad(X, y, *parameters)[name] * direction)) == pytest.approx(slope, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("shape", ((1, 1, 1), (3, 2, 2), (3, 3, 3)))
def test_kernel_is_the_kronecker_formula(shape):
    rng = np.random.default_rng(3)
    h, w, c = shape
    Z, Z2 = rng.normal(size=(5, c, h, w)), rng.normal(size=(4, c, h, w))
    U = [rng.normal(size=(min(2, m), m)) for m in shape]
    K1, K2, K3 = (u.T @ u for u in U)
    # vec with the height fastest: the transposed image (C, W, H), flattened row-major.
    flat, flat2 = (T.transpose(0, 1, 3, 2).reshape(len(T), -1) for T in (Z, Z2))
    expected = flat @ np.kron(K3, np.kron(K2, K1)) @ flat2.T
    np.testing.assert_allclose(gp.multilinear_kernel(Z, Z2, *U), expected, rtol=1e-12, atol=1e-12)


def test_both_layouts_of_the_images_agree():
    """The images-last products of the fit against the plain ones."""
    X, _, (A, B, *U, _) = problem()
    Z = gp.latent(X, A, B)
    np.testing.assert_allclose(Z, np.einsum("hi,ncij,wj->nchw", A, X, B), atol=1e-12)
    last = np.ascontiguousarray(Z.transpose(2, 3, 1, 0))
    F = gp.project(last, *U)
    np.testing.assert_allclose(F.reshape(-1, len(X)).T, gp.features(Z, *U), atol=1e-12)


@pytest.mark.parametrize(("n", "q"), ((30, 4), (4, 9)))
def test_woodbury_and_likelihood_equal_the_dense_ones(n, q):
    rng = np.random.default_rng(4)
    F, y, V = rng.normal(size=(n, q)), rng.normal(size=n), rng.normal(size=(n, 3))
    dense = F @ F.T + 0.3 * np.eye(n)
    np.testing.assert_allclose(gp.woodbury_solve(F, 0.3, V), np.linalg.solve(dense, V), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(gp.woodbury_solve(F, 0.3, y), np.linalg.solve(dense, y), rtol=1e-9, atol=1e-9)
    expected = 0.5 * (np.linalg.slogdet(dense)[1] + y @ np.linalg.solve(dense, y))
    assert gp.nll(F, y, np.sqrt(0.3)) == pytest.approx(expected, rel=1e-10)
    found = gp.evidence(np.ascontiguousarray(F.T), y, 0.3)
    assert found.trace == pytest.approx(np.trace(np.linalg.inv(dense)), rel=1e-10)
    np.testing.assert_allclose(found.solved.T, np.linalg.solve(dense, F), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", (5, 25))
def test_predictions_equal_sklearn(n):
    rng = np.random.default_rng(5)
    F, F2, y = rng.normal(size=(n, 6)), rng.normal(size=(7, 6)), rng.normal(size=n)
    oracle = GaussianProcessRegressor(DotProduct(0.0, "fixed"), alpha=0.25, optimizer=None).fit(F, y)
    mean, std = oracle.predict(F2, return_std=True)
    found_mean, found_variance = gp.predict(F, y, F2, 0.5)
    np.testing.assert_allclose(found_mean, mean, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found_variance, std**2, rtol=1e-8, atol=1e-8)


def test_noise_must_be_positive():
    with pytest.raises(ValueError, match="noise"):
        gp.woodbury_solve(np.ones((3, 1)), 0.0, np.ones(3))
