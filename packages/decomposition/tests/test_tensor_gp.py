"""Tensor-GPST and Tensor-GP: descent, invariances, limits, cross-validation, the data, bad input."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from sklearn.base import clone

from tensorbench.core import data
from tensorbench.decomposition.baselines import regression as baselines
from tensorbench.decomposition.datasets.regression import flares, simulate
from tensorbench.decomposition.regression import multilinear_gp as gp
from tensorbench.decomposition.regression.metrics import true_skill
from tensorbench.decomposition.regression.proximal import Descent, Images, Parameters, Plan, tv_penalty
from tensorbench.decomposition.regression.tensor_gp import Path, TensorGP, TensorGPST, _HeldOut


@pytest.fixture(scope="module")
def blocks():
    X, y, A = simulate(60, 0.5, seed=0, size=12)
    return X, y, A


def start(rng, h=2, w=3, c=3, size=12, ranks=(2, 2, 2)):
    A, B = rng.normal(size=(h, size)), rng.normal(size=(w, size))
    U = [rng.normal(size=(r, m)) for r, m in zip(ranks, (h, w, c), strict=True)]
    return Parameters(A / np.linalg.norm(A), B, *U, -1.0)


@pytest.mark.parametrize("bounded", (True, False))
@pytest.mark.parametrize("lr", (1e-4, 1e-1))  # the second is far too long a step
def test_objective_never_increases(blocks, lr, bounded):
    X, y, _ = blocks
    state = Descent(Images(X, y), start(np.random.default_rng(1)), Plan(1.0, lr=lr, bounded=bounded))
    values = [state.value]
    for _ in range(40):
        state.iterate()
        values.append(state.value)
    assert np.all(np.diff(values) <= 1e-9 * np.abs(values[:-1]) + 1e-9)
    assert values[-1] < values[0] - 1.0
    expected = gp.nll_grad(X, y, *(getattr(state.p, k) for k in gp.NAMES), state.p.eta)["nll"]
    assert state.value == pytest.approx(expected + tv_penalty(state.p.A, state.p.B, 1.0), rel=1e-9)


def test_penalty_is_the_total_variation_of_all_maps():
    rng = np.random.default_rng(2)
    A, B = rng.normal(size=(2, 5)), rng.normal(size=(3, 4))
    maps = np.einsum("si,tj->stij", A, B)
    expected = np.abs(np.diff(maps, axis=2)).sum() + np.abs(np.diff(maps, axis=3)).sum()
    assert tv_penalty(A, B, 0.7) == pytest.approx(0.7 * expected)


def test_objective_has_no_minimiser_unless_the_kernel_is_bounded(blocks):
    """B times t and U2 divided by t: the likelihood stays, the penalty goes to zero."""
    X, y, _ = blocks
    p = start(np.random.default_rng(3))
    values = []
    for t in (1.0, 1e-3):
        likelihood = gp.nll_grad(X, y, p.A, t * p.B, p.U1, p.U2 / t, p.U3, p.eta)["nll"]
        values.append((likelihood, tv_penalty(p.A, t * p.B)))
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-8)
    assert values[1][1] < 0.002 * values[0][1]
    state = Descent(Images(X, y), p, Plan(1.0, lr=1e-2)).run(30)
    for name in ("U1", "U2", "U3"):
        assert np.linalg.norm(getattr(state.p, name)) <= np.linalg.norm(getattr(p, name)) * (1 + 1e-12)


def test_scale_between_the_contractions_is_free(blocks):
    X, y, _ = blocks
    model = TensorGPST((2, 2), (2, 2, 2), max_iter=20, seed=1).fit(X[:40], y[:40])
    mean, std = model.predict(X[40:], return_std=True)
    p = model.parameters_
    moved = [gp.features(gp.latent(part, p.A / 3.7, p.B * 3.7), *p.kernel) for part in (X[:40], X[40:])]
    again, variance = gp.predict(moved[0], y[:40], moved[1], p.sigma)
    np.testing.assert_allclose(again, mean, atol=1e-9)
    np.testing.assert_allclose(np.sqrt(variance + p.sigma**2), std, atol=1e-9)
    assert np.linalg.norm(model.A) == pytest.approx(1.0)


def test_identity_contraction_is_tensor_gp(blocks):
    """The same kernel factors, with A = B = I: the same likelihood, the same gradients, the same predictions."""
    X, y, _ = blocks
    plain = TensorGP((2, 2, 2), max_iter=15, seed=2).fit(X[:40], y[:40])
    U, eye = plain.U, np.eye(12)
    F, F2 = (gp.features(part, *U) for part in (X[:40], X[40:]))
    contracted = [gp.features(gp.latent(part, eye, eye), *U) for part in (X[:40], X[40:])]
    np.testing.assert_allclose(
        plain.predict(X[40:]), gp.predict(*contracted[:1], y[:40], contracted[1], plain.sigma)[0]
    )
    assert plain.objective_ == pytest.approx(gp.nll(F, y[:40], plain.sigma), rel=1e-9)
    np.testing.assert_allclose(F2, contracted[1])
    one = gp.nll_grad(X, y, eye, eye, *U, -1.0)
    two = gp.nll_grad(X, y, U[0], U[1], np.eye(2), np.eye(2), U[2], -1.0)
    np.testing.assert_allclose(one["U1"], two["A"], atol=1e-8 * np.abs(two["A"]).max())
    fixed = TensorGPST((12, 12), (2, 2, 2), init="fixed", contraction=(eye, eye), max_iter=5, restarts=1)
    fixed.fit(X[:40], y[:40])
    np.testing.assert_array_equal(fixed.A, eye)


def test_huge_penalty_predicts_nothing(blocks, caplog):
    X, y, _ = blocks
    with caplog.at_level(logging.WARNING):
        model = TensorGPST((2, 2), (2, 2, 2), lam=1e9, max_iter=50).fit(X, y)
    assert "too large" in caplog.text
    assert model.collapsed_
    assert not model.A.any()
    mean, std = model.predict(X[:5], return_std=True)
    np.testing.assert_array_equal(mean, 0.0)
    np.testing.assert_allclose(std, np.sqrt(np.mean(y**2)))
    centred = clone(model).set_params(center=True).fit(X, y + 7)
    np.testing.assert_allclose(centred.predict(X[:5]), (y + 7).mean())


def test_collapsed_starts_are_replaced(blocks, monkeypatch):
    """Starts that end in zero maps lose to any other, however small their objective."""
    X, y, _ = blocks
    model = TensorGPST((2, 2), (2, 2, 2), lam=0.1, restarts=2, max_iter=40, seed=3)
    made = []
    original = TensorGPST._start

    def sometimes_zero(self, images, rng):
        made.append(1)
        p = original(self, images, rng)
        return p if len(made) > 2 else Parameters(0 * p.A, 0 * p.B, p.U1, p.U2, p.U3, p.eta)

    monkeypatch.setattr(TensorGPST, "_start", sometimes_zero)
    model.fit(X, y)
    assert len(made) == 3
    assert not model.collapsed_


def test_the_held_out_history_is_that_of_the_start_that_is_kept(blocks, monkeypatch):
    X, y, _ = blocks
    model = TensorGPST((2, 2), (2, 2, 2), restarts=1)
    p = start(np.random.default_rng(0), w=2)
    zero = Parameters(0 * p.A, 0 * p.B, p.U1, p.U2, p.U3, p.eta)
    seen = []
    for starts in ([zero, p], [p]):
        monkeypatch.setattr(model, "_start", lambda images, rng, left=starts: left.pop(0))
        watch = _HeldOut(X[:40], y[:40], X[40:], y[40:], patience=50)
        model._descend(Images(X[:40], y[:40]), X[:40], Plan(0.1, max_iter=30, tol=0.0), [0], watch)
        seen.append(watch.seen)
    assert seen[0] == seen[1]


def test_hard_masks_and_sparsity(blocks):
    X, y, A = blocks
    hard = TensorGPST((3, 3), (2, 2, 2), init="hard", masks=(A > 0, A > 0), max_iter=30).fit(X, y)
    assert not hard.A[A == 0].any()
    assert hard.A[A > 0].all()
    zeros = [np.mean(TensorGPST((3, 3), (2, 2, 2), lam=lam, max_iter=80).fit(X, y).A == 0) for lam in (0.01, 1.0)]
    assert zeros[0] < zeros[1]
    maps = hard.feature_maps()
    np.testing.assert_allclose(maps[1, 2], np.outer(hard.A[1], hard.B[2]))


def test_cross_validated_fit_predicts_and_repeats(blocks):
    X, y, _ = blocks
    model = TensorGPST((2, 2), (2, 2, 2), lam_path=(0.1, 1.0), cv=2, max_iter=60, seed=5)
    model.fit(X[:45], y[:45])
    assert model.score(X[45:], y[45:]) > 0.6
    again = clone(model).fit(X[:45], y[:45])
    np.testing.assert_array_equal(model.predict(X), again.predict(X))
    assert model.lam_ in (0.1, 1.0)
    assert model.n_iter_ <= 60
    assert model.contract(X).shape == (60, 3, 2, 2)
    with_noise, without = (model.predict(X, return_std=True, include_noise=b)[1] for b in (True, False))
    np.testing.assert_allclose(with_noise**2 - without**2, model.sigma**2)


def test_path_rules():
    error = np.array([[[4.0, 4], [2, 2.4], [3, 3]], [[4, 4], [2.1, 2.5], [2, 2.2]]])
    path = Path(np.array([1.0, 10.0]), np.array([10, 20, 30]), error)
    assert path.best("min") == (10.0, 30)
    assert path.best("one_se") == (1.0, 20)  # 2.2 is within 2.1 + 0.1, the other at 20 is not


def test_interval_covers():
    """Data drawn from the model itself, contraction known: 95 % intervals cover about that."""
    X, y, A = simulate(400, 0.5, seed=7)
    model = TensorGPST(init="fixed", contraction=(A, A), max_iter=150, restarts=1).fit(X[:300], y[:300])
    mean, std = model.predict(X[300:], return_std=True)
    assert 0.89 <= np.mean(np.abs(mean - y[300:]) < 1.96 * std) <= 1.0
    assert np.mean((mean - y[300:]) ** 2) < 0.4


def test_simulation_is_the_papers():
    X, y, A = simulate(300, 0.5, seed=1)
    assert X.shape == (300, 3, 25, 25)
    assert [np.flatnonzero(row).tolist() for row in A] == [list(range(a, a + 5)) for a in (2, 10, 18)]
    np.testing.assert_allclose(A.sum(1), 1.0)
    strong = (A @ X @ A.T) > 2.0  # exactly one block per image
    np.testing.assert_array_equal(strong.sum(axis=(1, 2, 3)), 1)
    assert strong[:, 1, 1, 1].mean() == pytest.approx(1 / 3, abs=0.1)
    assert not strong[:, 1][:, [0, 0, 2, 2], [0, 2, 0, 2]].any()
    np.testing.assert_array_equal(y, simulate(300, 0.5, seed=1)[1])


def test_patches_do_not_overlap():
    first = data.load("stained_patches", seed=0, images=50, test_images=30)
    assert first.train_X.shape == (50, 3, 25, 25)
    assert first.test_y.shape == (30,)
    np.testing.assert_allclose(first.train_X.mean(axis=(0, 2, 3)), 0, atol=1e-12)
    assert np.isclose(first.train_y.std(), 1)
    held = first.validation(1)
    assert len(held.train_y) + len(held.test_y) == 50


def test_flares_split_by_time():
    rng = np.random.default_rng(8)
    X, intensity = rng.random((8, 10, 4, 5)), 10.0 ** np.arange(1, 9)
    prepared = flares(X, intensity)
    np.testing.assert_allclose(prepared.train_y, np.arange(1, 7) - 3.5)
    assert len(prepared.test_y) == 2
    with pytest.raises(ValueError, match="positive"):
        flares(X, -intensity)


def test_true_skill():
    y = np.array([-1.0, -1, 1, 1])
    assert true_skill(y, y) == 1.0
    assert true_skill(y, -y) == -1.0
    assert true_skill(y, np.array([1.0, -1, 1, -1])) == 0.0


def test_baselines_beat_the_mean(blocks):
    X, y, _ = blocks
    models = (
        baselines.CPRegression(rank=3, reg=3.0, iterations=20),
        baselines.TuckerRegression([2, 2, 2], reg=3.0, iterations=20),
        baselines.Ridge(10.0),
        baselines.GPRBF(10.0, 0.05),
    )
    for model in models:
        error = model.fit(X[:45], y[:45]).predict(X[45:]) - y[45:]
        assert np.mean(error**2) < 0.7 * np.var(y[45:]), type(model).__name__
    mean, std = models[-1].predict(X[45:], return_std=True)
    assert mean.shape == std.shape == (15,)


def test_gpytorch_baseline(blocks):
    pytest.importorskip("gpytorch")
    X, y, _ = blocks
    model = baselines.GPyTorchGP(length_scale=10.0, steps=40).fit(X[:45], y[:45])
    mean, std = model.predict(X[45:], return_std=True)
    assert np.mean((mean - y[45:]) ** 2) < 0.7 * np.var(y[45:])
    assert (std > 0).all()


X0, Y0 = np.random.default_rng(9).normal(size=(8, 2, 6, 5)), np.arange(8.0)


@pytest.mark.parametrize(
    ("settings", "X", "y", "message"),
    [
        ({}, X0[:, 0], Y0, r"\(N, C, H, W\)"),
        ({}, X0.transpose(0, 2, 3, 1), Y0, "channels last"),
        ({}, X0, Y0[:5], "as many targets"),
        ({}, np.where(X0 > 2, np.nan, X0), Y0, "not finite"),
        ({}, X0, np.where(Y0 > 6, np.nan, Y0), "not finite"),
        ({}, X0, np.ones(8), "all the same"),
        ({"latent": (7, 2)}, X0, Y0, "latent size h = 7"),
        ({"latent": (2, 6)}, X0, Y0, "latent size w = 6"),
        ({"rank": (3, 2, 2)}, X0, Y0, "r1 = 3"),
        ({"rank": (2, 2, 3)}, X0, Y0, "r3 = 3"),
        ({"lam": -1.0}, X0, Y0, "negative"),
        ({"lam_path": (1.0, -2.0)}, X0, Y0, "negative"),
        ({"init": "hard"}, X0, Y0, "masks must be a pair"),
        ({"init": "hard", "masks": (np.ones((2, 6)), np.ones((2, 6)))}, X0, Y0, "shape"),
        ({"init": "hard", "masks": (np.zeros((2, 6)), np.ones((2, 5)))}, X0, Y0, "zero everywhere"),
        ({"init": "warm"}, X0, Y0, "init"),
        ({"rule": "best"}, X0, Y0, "rule"),
        ({"restarts": 0}, X0, Y0, "restarts"),
        ({"cv": 9, "lam_path": (1.0,)}, X0, Y0, "folds"),
    ],
)
def test_bad_input(settings, X, y, message):
    model = TensorGPST(**{"latent": (2, 2), "rank": (2, 2, 2), "max_iter": 5} | settings)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)


def test_bad_prediction_input():
    model = TensorGPST((2, 2), (2, 2, 2), max_iter=3, restarts=1)
    with pytest.raises(ValueError, match="call fit"):
        model.predict(X0)
    model.fit(X0, Y0)
    with pytest.raises(ValueError, match="fitted to"):
        model.predict(X0[..., :4])
    with pytest.raises(ValueError, match="scale"):
        TensorGP((2, 2, 2), scale=0.0).fit(X0, Y0)
