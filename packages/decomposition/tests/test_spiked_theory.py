"""The limits under the nested matrix-tensor model: known values, limiting cases, agreement of independent ways."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from tensorbench.decomposition.spiked import accuracy_theory, spectra, tensor_theory
from tensorbench.decomposition.spiked import unfolding_theory as theory

SHARES = (1 / 2, 1 / 3, 1 / 6)
DIMS = (150, 300, 60)


def test_alignment_and_spike_at_a_known_point():
    law = theory.SecondUnfolding(SHARES, 1.5, 2.0)
    assert law.alignment == pytest.approx(0.778578737257378, abs=1e-14)
    assert law.spike == pytest.approx(6.902012578616353, abs=1e-13)


@pytest.mark.parametrize(("beta_M", "rho"), [(1.0, 0.8193419067), (1.5, 0.3866344304), (2.0, 0.2289966918)])
def test_threshold_is_where_the_formula_vanishes(beta_M, rho):
    threshold = theory.threshold_rho(SHARES, beta_M)
    assert threshold == pytest.approx(rho, abs=1e-9)
    assert theory.SecondUnfolding(SHARES, beta_M, threshold).alignment_formula == pytest.approx(0, abs=1e-12)
    around = theory.SecondUnfolding(SHARES, beta_M, threshold * np.array([0.99, 1.01])).alignment
    assert around[0] == 0 < around[1]


def test_no_strength_helps_where_the_matrix_hides_the_signal():
    edge = theory.threshold_beta_M(SHARES)
    assert edge**4 == pytest.approx(SHARES[0] * SHARES[1] / (1 - SHARES[2]) ** 2)  # (1 - c3) squared
    assert theory.threshold_rho(SHARES, 0.999 * edge) == np.inf
    assert np.isfinite(theory.threshold_rho(SHARES, 1.001 * edge))
    assert theory.SecondUnfolding(SHARES, 0.999 * edge, 1e9).alignment == 0


@pytest.mark.parametrize("beta_M", [0.8, 1.5, 4.0])
def test_a_strong_tensor_leaves_the_spiked_matrix_model(beta_M):
    """Benaych-Georges and Nadakuditi's alignment of a spike in a rectangular Gaussian matrix."""
    k1, k2 = SHARES[0] / (1 - SHARES[2]), SHARES[1] / (1 - SHARES[2])
    b = beta_M**2
    matrix = max(1 - k2 * (k1 + b) / (b * (k2 + b)), 0)
    assert theory.SecondUnfolding(SHARES, beta_M, 1e8).alignment == pytest.approx(matrix, abs=1e-12)
    assert theory.weighted_mean_alignment((300, 200, 100), beta_M, 1e6) == pytest.approx(matrix, abs=1e-9)


@pytest.mark.parametrize(
    ("shares", "rho"),
    [(SHARES, 2.0), (SHARES, 0.3), ((0.1, 0.6, 0.3), 50.0), ((0.1, 0.6, 0.3), 1e-6), ((0.45, 0.1, 0.45), 5.0)],
)
def test_density_integrates_to_one_and_has_mean_and_edges_of_the_law(shares, rho):
    law = theory.SecondUnfolding(shares, 1.0, rho)
    mass = sum(quad(law.density, low, high, limit=200, epsabs=1e-7)[0] for low, high in law.support)
    assert mass == pytest.approx(1, abs=1e-4)
    low, high = law.support[0][0], law.support[-1][1]
    assert law.density(low - 1e-3) == 0 == law.density(high + 1e-3)
    assert law.density(low + 1e-3) > 0 and law.density(high - 1e-3) > 0
    assert law.distribution(np.array([low - 1, high + 1])) == pytest.approx([0, 1], abs=1e-4)
    # The mean of the rescaled eigenvalues is rho c1 / (1 - c3): what beta_T^2 M^T M adds to the noise's.
    mean = sum(quad(lambda s: s * law.density(s), a, b, limit=200, epsabs=1e-7)[0] for a, b in law.support)
    assert mean == pytest.approx(rho * law.c[0] / (1 - law.c[2]), rel=1e-3, abs=1e-3)


def test_two_bulks_are_found():
    assert len(theory.SecondUnfolding((0.1, 0.6, 0.3), 1.0, 50.0).support) == 2


def test_stieltjes_transform_solves_its_cubic_and_gives_the_density():
    law = theory.SecondUnfolding(SHARES, 1.5, 2.0)
    s = np.array([-1.0, 0.3, 2.0, 4.4, 9.0]) + 1e-9j
    m = law.stieltjes(s)
    c1, c2, c3 = SHARES
    a = 2.0 * c2 / (1 - c3)
    np.testing.assert_allclose(a * m**3 + (1 + s * a) * m**2 + (s + 2.0 * (c2 - c1) / (1 - c3)) * m + 1, 0, atol=1e-12)
    assert (m.imag > 0).all()
    np.testing.assert_allclose(m.imag / np.pi, law.density(s.real), atol=1e-6)


@pytest.mark.parametrize("rho", [0.0, 1e-10])
def test_without_signal_the_law_is_the_semicircle(rho):
    s = np.linspace(-1.99, 1.99, 41)
    law = theory.SecondUnfolding(SHARES, 1.0, rho)
    circle = theory.third_unfolding(DIMS, 0.0, 0.0)
    np.testing.assert_allclose(law.density(s), circle.density(s), atol=1e-4)
    np.testing.assert_allclose(law.distribution(s), circle.distribution(s), atol=1e-4)


def test_third_unfolding_is_a_deformed_wigner_matrix():
    law = theory.ThirdUnfolding(np.array([0.5, 1.0, 4.0]))
    np.testing.assert_allclose(law.alignment, [0, 0, 15 / 16])
    assert law.spike[2] == 4.25
    dims, beta_M, beta_T = (300, 200, 100), 1.5, 0.7
    varrho = 600 / np.sqrt(300 * 200 * 100) * beta_T**2 * (300 * 200 / 500 + beta_M**2)
    assert theory.third_unfolding(dims, beta_M, beta_T).varrho == pytest.approx(varrho)


def test_rank_one_limit_at_a_known_point():
    limit = tensor_theory.solve(DIMS, 1.5, 1.5)
    assert limit.lam[0] == pytest.approx(2.9599, abs=2e-4)
    assert [limit.q_x[0], limit.q_y[0], limit.q_z[0]] == pytest.approx([0.8701, 0.8038, 0.9911], abs=2e-4)
    mu = np.array([1.0, 1.5, 3.0])
    np.testing.assert_allclose(accuracy_theory.tensor_accuracy(DIMS, mu, 1.5), [0.7387, 0.9117, 0.99876], atol=2e-4)
    np.testing.assert_allclose(accuracy_theory.unfolding_accuracy(DIMS, mu, 1.5), [0.5620, 0.8663, 0.99916], atol=2e-4)
    assert accuracy_theory.tensor_accuracy(DIMS, mu, 0.5)[2] == pytest.approx(0.933, abs=5e-4)
    assert accuracy_theory.unfolding_accuracy(DIMS, mu, 0.5)[2] == 0.5


@pytest.mark.parametrize(("dims", "beta_M", "beta_T"), [(DIMS, 1.5, 1.5), (DIMS, 3.0, 0.5), ((30, 20, 70), 2.0, 2.0)])
def test_solution_agrees_with_the_fixed_point(dims, beta_M, beta_T):
    """The complex fixed-point iteration at xi = lambda gives the same alignments and satisfies the last equation."""
    limit = tensor_theory.solve(dims, beta_M, beta_T)
    assert limit.found[0]
    c = np.array(dims) / sum(dims)
    g = tensor_theory.stieltjes(limit.lam[0], dims, beta_T)
    gamma = beta_T**2 * (1 - g[2] ** 2 / c[2]) / (c[0] + c[1])
    q = np.sqrt(1 - np.array([1 + gamma, 1 + gamma, 1]) * g**2 / c)
    np.testing.assert_allclose(q, [limit.q_x[0], limit.q_y[0], limit.q_z[0]], atol=1e-8)
    residual = limit.lam[0] + (1 + gamma) * g.sum() - gamma * g[2] - beta_T * beta_M * q.prod()
    assert residual == pytest.approx(0, abs=1e-8)


def test_edge_of_the_bulk_separates_real_from_complex():
    edge = tensor_theory.bulk_edge(DIMS, 1.5)
    assert np.isrealobj(tensor_theory.stieltjes(edge + 0.01, DIMS, 1.5))
    with pytest.raises(tensor_theory.NoRealSolution, match="inside the bulk"):
        tensor_theory.stieltjes(edge - 0.01, DIMS, 1.5)


def test_below_its_threshold_nothing_is_seen():
    edge = tensor_theory.threshold_beta_M(DIMS, 0.5)
    limit = tensor_theory.solve(DIMS, np.array([0.0, 0.99 * edge, 1.01 * edge]), 0.5)
    assert limit.found.tolist() == [False, False, True]
    np.testing.assert_allclose(limit.lam[:2], tensor_theory.bulk_edge(DIMS, 0.5))
    assert (limit.q_y[:2] == 0).all() and limit.q_y[2] > 0


@pytest.mark.parametrize("strength", [2.0, 3.0])
def test_a_noiseless_matrix_leaves_the_spiked_tensor_model(strength):
    """beta_M -> infinity at fixed beta_T beta_M: the spiked cubic tensor of Seddik, Guillaud and Couillet (2021), here
    from its own equation for lambda."""
    from scipy.optimize import brentq

    c = 1 / 3

    def deficit(xi):  # xi + g = b q^3 with g = 3 g1, g1 = -c / (xi + 2 g1)
        g1 = (-xi + np.sqrt(xi * xi - 8 * c)) / 4
        return xi + 3 * g1 - strength * (1 - g1**2 / c) ** 1.5, np.sqrt(1 - g1**2 / c)

    xi = brentq(lambda at: deficit(at)[0], 2 * np.sqrt(2 / 3) + 1e-9, 2 * strength)
    limit = tensor_theory.solve((1, 1, 1), 1e4, strength / 1e4)
    assert limit.lam[0] == pytest.approx(xi, abs=1e-5)
    np.testing.assert_allclose([limit.q_x[0], limit.q_y[0], limit.q_z[0]], deficit(xi)[1], atol=1e-5)


def test_oracle_bounds_the_rank_one_approximation():
    mu = np.linspace(0.5, 5, 30)
    for h in (0.5, 1.0, 1.5):
        best = accuracy_theory.weighted_mean_accuracy(DIMS, mu, h)
        assert (accuracy_theory.tensor_accuracy(DIMS, mu, h) <= best + 1e-12).all()
        assert (np.diff(best) >= 0).all()


def test_kolmogorov_distance_against_scipy():
    from scipy.stats import kstest

    values = np.random.default_rng(0).uniform(-2, 2, 50)
    law = theory.ThirdUnfolding(0.0)
    assert spectra.kolmogorov_distance(values, law.distribution) == pytest.approx(
        kstest(values, law.distribution).statistic
    )
    with_spike = np.append(values, 9.0)
    assert spectra.kolmogorov_distance(with_spike, law.distribution, spikes=1) == pytest.approx(
        kstest(values, law.distribution).statistic
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.SecondUnfolding((1, 1), 1.0, 1.0), "three positive shares"),
        (lambda: theory.SecondUnfolding((1, -1, 1), 1.0, 1.0), "three positive shares"),
        (lambda: theory.SecondUnfolding(SHARES, -1.0, 1.0), "beta_M"),
        (lambda: theory.SecondUnfolding(SHARES, 1.0, np.array([1.0, -2.0])), "rho"),
        (lambda: theory.SecondUnfolding(SHARES, 1.0, np.ones(3)).support, "need one number"),
        (lambda: theory.SecondUnfolding(SHARES, 1.0, 1.0).stieltjes(1.0), "positive imaginary part"),
        (lambda: theory.third_unfolding((3, 0, 2), 1.0, 1.0), "three positive whole numbers"),
        (lambda: tensor_theory.solve(DIMS, -1.0, 1.0), "beta_M"),
        (lambda: tensor_theory.solve(DIMS, 1.0, 0.0), "beta_T"),
        (lambda: tensor_theory.solve((1, 2), 1.0, 1.0), "three positive shares"),
        (lambda: spectra.kolmogorov_distance(np.ones(3), np.sin, spikes=3), "leaves nothing"),
        (lambda: spectra.esd(np.ones((3, 3)), 1), "order 3"),
    ],
)
def test_bad_input_teaches(call, message):
    with pytest.raises(ValueError, match=message):
        call()
