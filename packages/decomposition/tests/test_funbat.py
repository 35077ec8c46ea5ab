"""Functional Bayesian Tucker: moments, conjugacy, symmetries, limits, calibration, bad input."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from tensorbench.decomposition.functional import moments
from tensorbench.decomposition.functional.funbat import FunBaT
from tensorbench.decomposition.functional.funbat_cp import FunBaTCP
from tensorbench.decomposition.functional.moments import EntrySums, hadamard_moments, kron_moments
from tensorbench.decomposition.functional.scaling import IndexScaler
from tensorbench.decomposition.functional.statespace import discretise, matern_ssm


def gaussians(rng, cases, ranks):
    means = [rng.normal(size=(cases, r)) for r in ranks]
    roots = [rng.normal(size=(cases, r, r)) for r in ranks]
    return means, [b @ np.swapaxes(b, 1, 2) for b in roots]


def surface(n, rng, noise=0.0):
    """Scattered values of a rank-one function of two indices in [0, 1]."""
    idx = rng.random((n, 2))
    x, z = idx.T
    clean = np.sin(2 * np.pi * x) ** 2 * np.cos(2 * np.pi * x) * np.exp(-2 * z) * np.sin(1.5 * np.pi * z)
    return idx, clean + noise * rng.normal(size=n)


def gridded(n, rng, dims=(9, 7, 5), rank=2):
    """Values on a coarse grid of indices, so that entries share states."""
    idx = np.stack([rng.integers(0, d, n) / d for d in dims], axis=1)
    factors = [rng.random((d, rank)) + 0.2 for d in dims]
    rows = [f[(idx[:, k] * d).round().astype(int)] for k, (f, d) in enumerate(zip(factors, dims, strict=True))]
    return idx, np.prod(rows, axis=0).sum(1)


# ------------------------------------------------------------------ moments


@pytest.mark.parametrize("product", (kron_moments, hadamard_moments))
def test_product_moments_match_monte_carlo(product):
    rng = np.random.default_rng(0)
    means, covs = gaussians(rng, 1, (2, 2, 2))
    first, second = product(means, covs)
    draws = [rng.multivariate_normal(m[0], v[0], size=200_000) for m, v in zip(means, covs, strict=True)]
    z = moments.kron_rows(draws) if product is kron_moments else moments.hadamard(draws)
    pairs = np.einsum("na,nb->nab", z, z)
    for estimate, exact in ((z, first[0]), (pairs, second[0])):
        error = estimate.std(0) / np.sqrt(len(z))
        assert np.all(np.abs(estimate.mean(0) - exact) <= 4 * error + 1e-12)


def test_product_moments_of_two_pairs_in_closed_form():
    rng = np.random.default_rng(1)
    (a, b), (va, vb) = gaussians(rng, 3, (2, 2))
    first, second = kron_moments([a, b], [va, vb])
    had_first, had_second = hadamard_moments([a, b], [va, vb])
    for n in range(3):
        sa, sb = va[n] + np.outer(a[n], a[n]), vb[n] + np.outer(b[n], b[n])
        np.testing.assert_allclose(first[n], np.kron(a[n], b[n]))
        np.testing.assert_allclose(second[n], np.kron(sa, sb))
        np.testing.assert_allclose(had_first[n], a[n] * b[n])
        np.testing.assert_allclose(had_second[n], sa * sb)


@pytest.mark.parametrize("product", ("kron", "hadamard"))
@pytest.mark.parametrize("chunk", (1, 40, 1 << 17))
def test_streamed_sums_equal_a_loop_over_entries(product, chunk, monkeypatch):
    monkeypatch.setattr(moments, "CHUNK", chunk)
    rng = np.random.default_rng(2)
    ranks, dims, n = ((2, 2, 2) if product == "hadamard" else (2, 1, 3)), (4, 3, 5), 30
    states = [rng.integers(0, d, n) for d in dims]
    y = rng.normal(size=n)
    means = [rng.normal(size=(d, r)) for d, r in zip(dims, ranks, strict=True)]
    seconds = [rng.normal(size=(d, r, r)) for d, r in zip(dims, ranks, strict=True)]
    mode, others = 1, (0, 2)
    multiply = (lambda a, b: np.kron(a, b)) if product == "kron" else (lambda a, b: a * b)
    size = len(multiply(means[0][0], means[2][0]))
    first, second = np.zeros((3, size)), np.zeros((3, size, size))
    got_first, got_second = np.zeros_like(first), np.zeros_like(second)
    for i in range(n):
        a, b = (means[j][states[j][i]] for j in others)
        first[states[mode][i]] += y[i] * multiply(a, b)
        second[states[mode][i]] += multiply(*(seconds[j][states[j][i]] for j in others))
    for where, part, square in EntrySums(states, y, mode, size * size)(product, means, seconds):
        got_first[where] += part
        got_second[where] += square
    np.testing.assert_allclose(got_first, first, atol=1e-12)
    np.testing.assert_allclose(got_second, second, atol=1e-12)


# ------------------------------------------------------------------ inference


def test_one_informative_entry_gives_the_conjugate_gaussian_posterior():
    """The other mode is deterministic and the second entry has factor zero: y = a u(0.2) + noise, u ~ GP."""
    a, y, tau, prior_var, variance = 1.3, 0.8, 4.0, 2.0, 1.5
    model = FunBaTCP(1, "matern32", 0.3, variance, prior_var=prior_var, damping_u=0.0, max_epochs=1)
    model.fit(np.array([[0.2, 0.0], [0.7, 1.0]]), np.array([y, 0.0]))
    model.noise_precision = tau
    model._modes[1].mean, model._modes[1].cov = np.array([[a], [0.0]]), np.zeros((2, 1, 1))
    model._refresh_messages(0)
    model._update_factor(0)
    # Gaussian conditioning with the weak prior N(0, prior_var) that the method puts at every state
    transition = discretise(matern_ssm(1.5, 0.3, variance), 0.5)[0][0, 0]
    gram = variance * np.array([[1.0, transition], [transition, 1.0]])
    precision = np.diag([tau * a * a, 0.0]) + np.eye(2) / prior_var
    cov = np.linalg.inv(np.linalg.inv(gram) + precision)
    np.testing.assert_allclose(model._modes[0].mean[:, 0], cov @ [tau * a * y, 0.0], atol=1e-12)
    np.testing.assert_allclose(model._modes[0].cov[:, 0, 0], np.diag(cov), atol=1e-12)


@pytest.mark.parametrize("rank", (1, 2, 3))
def test_tucker_with_a_fixed_superdiagonal_core_is_the_cp_form(rank):
    rng = np.random.default_rng(3)
    idx, y = gridded(300, rng)
    eye = np.zeros((rank,) * 3)
    eye[(np.arange(rank),) * 3] = 1.0
    settings = {"kernel": "matern12", "lengthscale": 0.3, "max_epochs": 12, "seed": 5}
    tucker = FunBaT(rank, core=eye, update_core=False, **settings).fit(idx, y)
    cp = FunBaTCP(rank, **settings).fit(idx, y)
    new = rng.random((20, 3))
    for got, expected in zip(tucker.predict(new, return_std=True), cp.predict(new, return_std=True), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-10)
    assert tucker.noise_precision == pytest.approx(cp.noise_precision, rel=1e-10)
    np.testing.assert_array_equal(cp.core.mean, eye)


@pytest.mark.parametrize("form", (FunBaT, FunBaTCP))
def test_the_order_of_entries_does_not_matter(form):
    rng = np.random.default_rng(4)
    idx, y = gridded(200, rng)
    shuffle = rng.permutation(len(y))
    settings = {"lengthscale": 0.3, "max_epochs": 8, "seed": 1}
    one = form(2, **settings).fit(idx, y)
    other = form(2, **settings).fit(idx[shuffle], y[shuffle])
    np.testing.assert_allclose(one.predict(idx), other.predict(idx), atol=1e-9)


@pytest.mark.parametrize("form", (FunBaT, FunBaTCP))
def test_the_order_of_modes_does_not_matter_in_the_outer_schedule(form):
    rng = np.random.default_rng(5)
    idx, y = gridded(200, rng)
    turn = [2, 0, 1]
    lengths, variances = np.array([0.2, 0.4, 0.3]), np.array([1.0, 2.0, 0.5])
    init = [rng.random((len(np.unique(idx[:, k])), 2)) for k in range(3)]
    core = rng.random((2, 2, 2))
    settings = {"schedule": "outer", "max_epochs": 8, "max_restarts": 0}
    fixed = {"core": core, "update_core": False} if form is FunBaT else {}
    moved = {"core": core.transpose(turn), "update_core": False} if form is FunBaT else {}
    one = form(2, "matern12", lengths, variances, init=init, **fixed, **settings).fit(idx, y)
    other = form(2, "matern12", lengths[turn], variances[turn], init=[init[k] for k in turn], **moved, **settings)
    other.fit(idx[:, turn], y)
    np.testing.assert_allclose(one.predict(idx), other.predict(idx[:, turn]), atol=1e-9)


def test_damping_the_sums_is_damping_every_entry():
    """Two epochs of CP messages by a literal loop over entries, each with its own damped message."""
    rng = np.random.default_rng(6)
    idx, y = gridded(40, rng, dims=(4, 3, 2))
    model = FunBaTCP(
        2, "matern12", 0.3, damping_u=0.4, max_epochs=1, init=[np.ones((4, 2)), np.ones((3, 2)), np.ones((2, 2))]
    )
    model.fit(idx, y)
    states = [np.unique(idx[:, k], return_inverse=True)[1] for k in range(3)]
    before = model._modes[0].precision.copy()
    share = before[states[0]] / np.bincount(states[0])[states[0], None, None]
    model._refresh_messages(0)
    expected = np.zeros_like(before)
    for n in range(len(y)):
        parts = [
            model._modes[k].cov[states[k][n]] + np.outer(u, u)
            for k in (1, 2)
            for u in [model._modes[k].mean[states[k][n]]]
        ]
        expected[states[0][n]] += 0.4 * share[n] + 0.6 * model.noise_precision * parts[0] * parts[1]
    np.testing.assert_allclose(model._modes[0].precision, expected, atol=1e-12)


@pytest.mark.parametrize("schedule", ("inner", "outer"))
@pytest.mark.parametrize("form", (FunBaT, FunBaTCP))
def test_a_smooth_rank_one_surface_is_recovered(form, schedule):
    """Every index occurs once, as in truly continuous data; the values are scaled to unit variance."""
    rng = np.random.default_rng(7)
    idx, y = surface(400, rng)
    new, truth = surface(200, rng)
    model = form(1, "matern32", 0.2, 1.0, init="prior", prior_var=np.inf, schedule=schedule, max_epochs=60)
    model.fit(idx, y / y.std())
    assert np.sqrt(np.mean((y.std() * model.predict(new) - truth) ** 2)) < 0.1 * truth.std()
    assert model.history[-1].train_rmse < model.history[0].train_rmse


def test_intervals_cover_data_drawn_from_the_model():
    rng = np.random.default_rng(8)
    idx = rng.random((900, 2))
    functions = []
    for k in range(2):
        gap = np.abs(idx[:, k, None] - idx[None, :, k]) * np.sqrt(3) / 0.3
        gram = (1 + gap) * np.exp(-gap) + 1e-10 * np.eye(len(idx))
        functions.append(np.linalg.cholesky(gram) @ rng.normal(size=(len(idx), 2)))
    y = (functions[0] * functions[1]).sum(1) + 0.1 * rng.normal(size=len(idx))
    model = FunBaTCP(2, "matern32", 0.3, 1.0, max_epochs=80).fit(idx[:600], y[:600])
    mean, std = model.predict(idx[600:], return_std=True)
    assert 0.88 <= np.mean(np.abs(mean - y[600:]) < 1.96 * std) <= 0.99
    assert np.all(model.predict(idx[600:], return_std=True, noise=False)[1] < std)


def test_core_covariance_in_the_messages_is_the_exact_expectation():
    """E over W and z of (W_(k) z)(W_(k) z)' by brute-force enumeration of the Gaussian moments."""
    rng = np.random.default_rng(9)
    idx, y = gridded(60, rng, dims=(4, 3, 2))
    model = FunBaT((2, 1, 2), "matern12", 0.3, core_cov=True, max_epochs=3).fit(idx, y)
    second = rng.normal(size=(1, 2, 2))
    second = second + np.swapaxes(second, 1, 2)
    part, _ = model._through_core(1, np.zeros((1, 4)), np.kron(second, np.eye(2)[None]))
    joint = (np.outer(model._w, model._w) + model._w_cov).reshape(2, 1, 2, 2, 1, 2)
    zz = np.kron(second[0], np.eye(2)).reshape(2, 2, 2, 2)
    np.testing.assert_allclose(part[0], np.einsum("arbcsd,abcd->rs", joint, zz), atol=1e-12)


def test_the_fixed_point_at_zero_is_left_by_a_restart_with_a_warning(caplog):
    """Sparse mean-free data and a small prior variance: the first attempt stays at std(y)."""
    rng = np.random.default_rng(10)
    idx = rng.random((500, 3))
    y = 2 * np.sign(np.sin(9 * idx[:, 0])) * np.sin(7 * idx[:, 1]) * np.cos(8 * idx[:, 2])
    model = FunBaTCP(1, "matern12", 0.2, 2.0, max_epochs=60)
    with caplog.at_level(logging.WARNING):
        model.fit(idx, y)
    assert "restarting with variance" in caplog.text
    assert model.history[-1].attempt > 0 and model.fitted_variance[0] > 2.0
    assert model.history[-1].train_rmse < 0.95 * y.std()


def test_messages_of_low_rank_are_no_obstacle_without_the_weak_prior():
    """A state with one entry whose other factors are certain has a message of rank one."""
    model = FunBaTCP(2, "matern12", 0.3, prior_var=np.inf, damping_u=0.0, max_epochs=1)
    model.fit(np.array([[0.2, 0.0], [0.7, 1.0]]), np.array([1.0, 2.0]))
    model._modes[1].mean, model._modes[1].cov = np.ones((2, 2)), np.zeros((2, 2, 2))
    model._refresh_messages(0)
    assert np.linalg.matrix_rank(model._modes[0].precision[0]) == 1
    model._update_factor(0)
    assert np.all(np.linalg.eigvalsh(model._modes[0].cov) > 0)


def test_stopping_waits_for_the_plateau_to_end():
    rng = np.random.default_rng(11)
    idx, y = surface(150, rng)
    stopped = FunBaTCP(1, "matern32", 0.1, 0.5, tol=1e-3, max_epochs=200).fit(idx, y)
    assert len(stopped.history) < 200
    zeros = FunBaTCP(1, "matern32", 0.1, 1e-6, prior_var=1e-6, tol=1e-3, max_epochs=40, max_restarts=0).fit(idx, y)
    assert len(zeros.history) == 40


def test_results_have_the_promised_shapes_and_repeat_with_the_seed():
    rng = np.random.default_rng(12)
    idx, y = gridded(150, rng)
    heard = []
    model = FunBaT([2, 3, 1], lengthscale=0.3, max_epochs=5, seed=3).fit(
        idx, y, callback=lambda e, r: heard.append((e, r))
    )
    assert model.core.mean.shape == (2, 3, 1) and model.core.cov.shape == (6, 6)
    mean, std = model.latent(1, np.linspace(-1, 2, 11))
    assert mean.shape == std.shape == (11, 3) and np.all(std > 0)
    assert [r for _, r in heard] == [h.train_rmse for h in model.history]
    assert model.parameters == sum(len(np.unique(idx[:, k])) * r for k, r in enumerate((2, 3, 1))) + 6
    again = FunBaT([2, 3, 1], lengthscale=0.3, max_epochs=5, seed=3).fit(idx, y)
    np.testing.assert_array_equal(model.predict(idx), again.predict(idx))


def test_index_scaler_maps_training_indices_onto_the_interval():
    idx = np.array([[3.0, -1.0], [5.0, 9.0], [4.0, 4.0]])
    scaler = IndexScaler(10.0)
    np.testing.assert_allclose(scaler.fit_transform(idx), [[0, 0], [10, 10], [5, 5]])
    np.testing.assert_allclose(scaler.transform(np.array([[6.0, 0.0]])), [[15, 1]])


GOOD = np.array([[0.0, 0.0], [1.0, 0.5], [0.5, 1.0]])
VALUES = np.array([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: FunBaTCP().fit(GOOD[:, 0], VALUES), "idx has shape"),
        (lambda: FunBaTCP().fit(GOOD[:, :1], VALUES), "idx has shape"),
        (lambda: FunBaTCP().fit(np.where(GOOD == 0.5, np.nan, GOOD), VALUES), "idx has 2 NaN"),
        (lambda: FunBaTCP().fit(np.where(GOOD == 0.5, np.inf, GOOD), VALUES), "infinite"),
        (lambda: FunBaTCP().fit([["a", "b"]], VALUES), "real numbers"),
        (lambda: FunBaTCP().fit(GOOD, VALUES[:2]), "y has shape"),
        (lambda: FunBaTCP().fit(GOOD, VALUES * np.nan), "y has NaN"),
        (lambda: FunBaTCP().fit(GOOD * [1, 0], VALUES), "mode 1; at least 2"),
        (lambda: FunBaTCP(lengthscale=0.0), "lengthscale 0"),
        (lambda: FunBaTCP(lengthscale=[0.1, -1.0]), "lengthscale -1"),
        (lambda: FunBaTCP(variance=np.nan), "variance nan"),
        (lambda: FunBaT(rank=0), "rank 0"),
        (lambda: FunBaTCP(rank=[1, 2]), "one number"),
        (lambda: FunBaT(rank=[1, 2, 3]).fit(GOOD, VALUES), "rank has 3 items"),
        (lambda: FunBaT(rank=65).fit(GOOD, VALUES), "4225 entries, more than 4096; lower the rank or use FunBaTCP"),
        (lambda: FunBaT(damping_u=1.0), r"damping_u 1.0 must lie in \[0, 1\)"),
        (lambda: FunBaT(damping_tau=-0.1), "damping_tau"),
        (lambda: FunBaT(damping_core=1.5), "damping_core"),
        (lambda: FunBaT(prior_var=0.0), "prior_var 0"),
        (lambda: FunBaT(max_epochs=0), "max_epochs 0"),
        (lambda: FunBaT(kernel="matern"), "unknown kernel 'matern'"),
        (lambda: FunBaT(schedule="iner"), "unknown schedule 'iner'; did you mean 'inner'"),
        (lambda: FunBaT(init="randn"), "unknown init 'randn'"),
        (lambda: FunBaTCP(init=[np.ones((3, 1))]).fit(GOOD, VALUES), "init has 1 arrays"),
        (lambda: FunBaTCP(init=[np.ones((3, 1)), np.ones((2, 1))]).fit(GOOD, VALUES), r"init\[1\] has shape"),
        (lambda: FunBaT(2, core=np.ones((2, 1))).fit(GOOD, VALUES), "core has shape"),
        (lambda: FunBaTCP(core=np.eye(2)), "no meaning for the CP form"),
        (lambda: FunBaT().predict(GOOD), "call fit before"),
        (lambda: FunBaT().latent(0, VALUES), "call fit before"),
        (lambda: FunBaT(1, max_epochs=1).fit(GOOD, VALUES).predict(np.ones((2, 3))), "fitted on 2"),
        (lambda: FunBaT(1, max_epochs=1).fit(GOOD, VALUES).latent(2, VALUES), "mode 2"),
        (lambda: IndexScaler(0.0), "must be positive"),
        (lambda: IndexScaler().fit(GOOD * [1, 0]), "mode 1 has one distinct"),
        (lambda: IndexScaler().transform(GOOD), "call fit"),
    ),
)
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
