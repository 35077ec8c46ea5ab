"""Filtering and smoothing of a Matérn state space is exact Gaussian process regression."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm, solve_continuous_lyapunov
from sklearn.gaussian_process.kernels import Matern

from tensorbench.decomposition.functional.statespace import (
    discretise,
    kalman_filter,
    kernel_nu,
    log_marginal,
    matern_ssm,
    predict,
    rts_smoother,
    sample_prior,
    smooth,
    smooth_modes,
    transitions,
)

NUS = (0.5, 1.5, 2.5)
LENGTH, VARIANCE = 0.3, 1.7


def problem(states: int, rank: int, seed: int = 0, noise: float = 1.0):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.random(states))
    y = rng.normal(size=(states, rank))
    root = rng.normal(size=(states, rank, rank))
    return t, y, noise * (root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(rank))


def gp_regression(nu, t, y, R, t_new, lengthscale=LENGTH, variance=VARIANCE):
    """Dense Gaussian conditioning with scikit-learn's kernel: mean (G, r), covariance (G, r, r), log marginal."""
    rank = y.shape[1]
    kernel = Matern(lengthscale, nu=nu)

    def gram(a, b):
        return np.kron(variance * kernel(a[:, None], b[:, None]), np.eye(rank))

    total = gram(t, t)
    for i in range(len(t)):
        block = slice(i * rank, (i + 1) * rank)
        total[block, block] += R[i]
    weights = np.linalg.solve(total, gram(t, t_new)).T
    cov = gram(t_new, t_new) - weights @ gram(t, t_new)
    blocks = np.stack([cov[i * rank : (i + 1) * rank, i * rank : (i + 1) * rank] for i in range(len(t_new))])
    flat = y.reshape(-1)
    loglik = -0.5 * (flat @ np.linalg.solve(total, flat) + np.linalg.slogdet(total)[1] + y.size * np.log(2 * np.pi))
    return (weights @ flat).reshape(-1, rank), blocks, loglik


@pytest.mark.parametrize("rank", (1, 3))
@pytest.mark.parametrize("nu", NUS)
def test_smoother_is_exact_gp_regression_at_old_and_new_indices(nu, rank):
    t, y, R = problem(12, rank)
    ssm = matern_ssm(nu, LENGTH, VARIANCE, rank)
    post = smooth(ssm, t, y, R)
    new = np.array([1.4, -0.5, 0.5 * (t[3] + t[4]), t[7], t[7], 0.02])  # right, left, inside, on (twice); unsorted
    for mean, cov, where in ((post.mean, post.cov, t), (*predict(ssm, post, new), new)):
        exact_mean, exact_cov, _ = gp_regression(nu, t, y, R, where)
        np.testing.assert_allclose(mean, exact_mean, atol=1e-8)
        np.testing.assert_allclose(cov, exact_cov, atol=1e-8)
    assert post.log_marginal == pytest.approx(gp_regression(nu, t, y, R, t)[2], abs=1e-8)
    assert log_marginal(ssm, t, y, R) == post.log_marginal


@pytest.mark.parametrize("nu", NUS)
def test_smoother_stays_exact_over_hundreds_of_precise_close_observations(nu):
    t, y, R = problem(400, 2, noise=0.01)
    ssm = matern_ssm(nu, 0.05, 5.0, 2)
    post = smooth(ssm, t, y, R)
    mean, cov, loglik = gp_regression(nu, t, y, R, t, 0.05, 5.0)
    np.testing.assert_allclose(post.mean, mean, atol=1e-6)
    np.testing.assert_allclose(post.cov, cov, atol=1e-6)
    assert post.log_marginal == pytest.approx(loglik, rel=1e-9)


@pytest.mark.parametrize("nu", NUS)
def test_stationary_covariance_solves_the_lyapunov_equation(nu):
    ssm = matern_ssm(nu, LENGTH, VARIANCE)
    residual = ssm.F @ ssm.P_inf + ssm.P_inf @ ssm.F.T + ssm.q * ssm.L @ ssm.L.T
    scale = np.abs(ssm.F @ ssm.P_inf).max()
    assert np.abs(residual).max() <= 1e-12 * scale
    oracle = solve_continuous_lyapunov(ssm.F, -ssm.q * ssm.L @ ssm.L.T)
    np.testing.assert_allclose(ssm.P_inf, oracle, atol=1e-12 * np.abs(oracle).max())


@pytest.mark.parametrize("nu", NUS)
def test_two_steps_are_one_long_step(nu):
    ssm = matern_ssm(nu, LENGTH, VARIANCE)
    (a1, a2, a12), (q1, q2, q12) = discretise(ssm, np.array([0.13, 0.4, 0.53]))
    np.testing.assert_allclose(a2 @ a1, a12, atol=1e-12)
    scale = np.abs(ssm.P_inf).max()
    np.testing.assert_allclose(a2 @ q1 @ a2.T + q2, q12, atol=1e-12 * scale)


@pytest.mark.parametrize("nu", NUS)
def test_closed_form_transition_is_the_matrix_exponential(nu):
    ssm = matern_ssm(nu, LENGTH, VARIANCE)
    for dt in (0.0, 1e-7, 0.2, 3.0):
        np.testing.assert_allclose(discretise(ssm, dt)[0], expm(ssm.F * dt), atol=1e-12 * max(1, np.abs(ssm.F).max()))
    assert not discretise(ssm, 0.0)[1].any()


def test_expanded_blocks_follow_the_rank():
    ssm = matern_ssm(1.5, LENGTH, VARIANCE, rank=3)
    F, L, P_inf, H = ssm.expanded()
    assert F.shape == (6, 6) and L.shape == (6, 3) and H.shape == (3, 6)
    np.testing.assert_allclose(F @ P_inf + P_inf @ F.T + ssm.q * L @ L.T, 0, atol=1e-10)


@pytest.mark.parametrize("nu", NUS)
def test_a_missing_observation_is_as_good_as_no_state(nu):
    t, y, R = problem(12, 2)
    ssm = matern_ssm(nu, LENGTH, VARIANCE, 2)
    keep = np.ones(12, dtype=bool)
    keep[[0, 5, 6, 11]] = False
    gappy = smooth(ssm, t, np.where(keep[:, None], y, np.nan), R)
    marked = smooth(ssm, t, y, R, keep)
    short = smooth(ssm, t[keep], y[keep], R[keep])
    np.testing.assert_allclose(gappy.mean[keep], short.mean, atol=1e-12)
    np.testing.assert_allclose(marked.cov[keep], short.cov, atol=1e-12)
    assert gappy.log_marginal == pytest.approx(short.log_marginal, abs=1e-10)
    np.testing.assert_allclose(predict(ssm, short, t[~keep])[0], gappy.mean[~keep], atol=1e-12)


def test_two_observations_of_one_index_are_their_precision_weighted_mean():
    ssm = matern_ssm(1.5, LENGTH, VARIANCE)
    t, y = np.array([0.1, 0.4, 0.4]), np.array([[1.0], [2.0], [-1.0]])
    R = np.array([0.1, 0.2, 0.3])[:, None, None]
    twice = smooth(ssm, t, y, R)
    pooled = 1 / (1 / R[1] + 1 / R[2])
    mean = pooled[0] * (y[1] / R[1, 0] + y[2] / R[2, 0])
    once = smooth(ssm, t[:2], np.stack([y[0], mean]), np.stack([R[0], pooled]))
    np.testing.assert_allclose(twice.mean[:2], once.mean, atol=1e-12)
    np.testing.assert_allclose(twice.mean[1], twice.mean[2], atol=1e-12)


@pytest.mark.parametrize("nu", NUS)
def test_draws_of_the_prior_have_the_kernel_as_covariance(nu):
    t = np.array([0.0, 0.05, 0.05, 0.4, 1.0])
    draws = sample_prior(matern_ssm(nu, LENGTH, VARIANCE, 40_000), t, np.random.default_rng(0))
    gram = VARIANCE * Matern(LENGTH, nu=nu)(t[:, None])
    error = np.sqrt((gram**2 + VARIANCE**2) / draws.shape[1])
    assert np.all(np.abs(draws @ draws.T / draws.shape[1] - gram) < 4.5 * error)
    np.testing.assert_allclose(draws[1], draws[2], atol=1e-12)


@pytest.mark.parametrize("nu", NUS)
def test_reusing_transitions_and_arrays_changes_nothing(nu):
    t, y, R = problem(9, 2)
    seen = np.arange(9) != 4
    ssm = matern_ssm(nu, LENGTH, VARIANCE, 2)
    before = smooth(ssm, t, 3 * y, R, steps=transitions(ssm, t))
    again = smooth(ssm, t, y, R, seen, transitions(ssm, t), before)
    fresh = smooth(ssm, t, y, R, seen)
    np.testing.assert_array_equal(again.mean, fresh.mean)
    np.testing.assert_array_equal(again.cov, fresh.cov)
    assert again.log_marginal == fresh.log_marginal


def test_modes_of_different_length_rank_and_kernel_are_smoothed_together():
    problems = [problem(5, 1, 1), problem(9, 2, 2), problem(7, 3, 3)]
    ssms = [matern_ssm(nu, LENGTH, VARIANCE, rank) for nu, rank in zip(NUS, (1, 2, 3), strict=True)]
    together = smooth_modes(ssms, *zip(*problems, strict=True))
    for ssm, (t, y, R), post in zip(ssms, problems, together, strict=True):
        np.testing.assert_array_equal(post.mean, rts_smoother(ssm, kalman_filter(ssm, t, y, R)).mean)


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: matern_ssm(1.0, 1.0, 1.0), "nu 1.0"),
        (lambda: matern_ssm(0.5, 0.0, 1.0), "lengthscale 0.0"),
        (lambda: matern_ssm(0.5, 1.0, -1.0), "variance -1.0"),
        (lambda: matern_ssm(0.5, 1.0, 1.0, 0), "rank 0"),
        (lambda: kernel_nu("matern23"), "unknown kernel 'matern23'; did you mean 'matern"),
        (lambda: discretise(matern_ssm(0.5, 1.0, 1.0), -0.1), "sorted"),
        (lambda: smooth(matern_ssm(0.5, 1.0, 1.0), np.arange(2.0), np.zeros((2, 2)), np.ones((2, 1, 1))), "do not fit"),
        (
            lambda: smooth(matern_ssm(0.5, 1.0, 1.0), np.arange(2.0), np.zeros((2, 1)), -9 * np.ones((2, 1, 1))),
            "definite",
        ),
        (
            lambda: smooth(matern_ssm(0.5, 1.0, 1.0), np.ones(2) - [0, 1], np.zeros((2, 1)), np.ones((2, 1, 1))),
            "sorted",
        ),
    ),
)
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
