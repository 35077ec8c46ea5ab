"""Chebyshev series along an axis: transforms, calculus, agreement with numpy.polynomial, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.polynomial import chebyshev as npcheb

from tensorbench.decomposition.functional import chebyshev as ch

SIZES = [2, 3, 4, 17, 64, 129]


@pytest.mark.parametrize("m", SIZES)
def test_nodes_are_ascending_symmetric_and_have_both_ends(m):
    x = ch.chebpts(m, -1, 1)
    assert np.all(np.diff(x) > 0) and x[0] == -1 and x[-1] == 1
    np.testing.assert_array_equal(x, -x[::-1])
    np.testing.assert_allclose(x, -np.cos(np.pi * np.arange(m) / (m - 1)), atol=1e-15)
    y = ch.chebpts(m, 0.3, 7.1)
    assert y[0] == 0.3 and y[-1] == 7.1
    np.testing.assert_allclose(y, 0.3 + 6.8 * (x + 1) / 2, rtol=1e-14)


def test_midpoints_are_cell_centres():
    np.testing.assert_allclose(ch.midpoints(4, 0, 2), [0.25, 0.75, 1.25, 1.75])


@pytest.mark.parametrize("m", SIZES)
def test_values_of_a_chebyshev_polynomial_become_a_unit_vector(m):
    values = np.cos(np.arange(m) * np.arccos(ch.chebpts(m))[:, None])
    np.testing.assert_allclose(ch.vals2coeffs(values), np.eye(m), atol=1e-13)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_transforms_are_inverse_along_any_axis(axis):
    values = np.random.default_rng(0).standard_normal((5, 8, 13))
    coeffs = ch.vals2coeffs(values, axis)
    np.testing.assert_allclose(ch.coeffs2vals(coeffs, axis), values, atol=1e-13)
    np.testing.assert_allclose(np.moveaxis(coeffs, axis, 0), ch.vals2coeffs(np.moveaxis(values, axis, 0)), atol=1e-14)


def test_transforms_leave_their_argument_alone():
    values = np.random.default_rng(0).standard_normal((6, 3))
    before = values.copy()
    ch.vals2coeffs(values), ch.coeffs2vals(values)
    np.testing.assert_array_equal(values, before)


def test_coefficients_agree_with_numpy_polynomial():
    x = ch.chebpts(33)
    values = np.stack([np.exp(x), np.sin(5 * x), 1 / (2 + x)], axis=1)
    np.testing.assert_allclose(ch.vals2coeffs(values), npcheb.chebfit(x, values, 32), atol=1e-13)


def test_the_vandermonde_matrix_is_the_cosine_and_tolerates_rounding_at_the_border():
    x = np.linspace(-1, 1, 201)
    np.testing.assert_allclose(ch.chebvander(x, 129), np.cos(np.arange(129) * np.arccos(x)[:, None]), atol=1e-12)
    np.testing.assert_array_equal(ch.chebvander(np.array([1 + 1e-13]), 65), np.ones((1, 65)))


def test_derivative_and_antiderivative_on_an_interval():
    a, b, m = -0.5, 3.0, 40
    x = ch.chebpts(m, a, b)
    coeffs = ch.vals2coeffs(np.stack([np.exp(x), np.sin(x)], axis=1))
    np.testing.assert_allclose(
        ch.coeffs2vals(ch.diff_coeffs(coeffs, a, b)), np.stack([np.exp(x), np.cos(x)], 1), atol=1e-11
    )
    anti = ch.integrate_coeffs(coeffs, a, b)
    assert anti.shape == (m + 1, 2)
    points = np.linspace(a, b, 9)
    exact = np.stack([np.exp(points) - np.exp(a), np.cos(a) - np.cos(points)], axis=1)
    np.testing.assert_allclose(ch.chebvander(ch.to_unit(points, a, b), m + 1) @ anti, exact, atol=1e-13)
    np.testing.assert_allclose(ch.integral_weights(m, a, b) @ coeffs, exact[-1], atol=1e-13)
    np.testing.assert_allclose(ch.diff_coeffs(coeffs.T, a, b, axis=1), ch.diff_coeffs(coeffs, a, b).T, atol=0)


def test_gram_matrix_is_the_integral_of_products():
    nodes, weights = np.polynomial.legendre.leggauss(40)
    T = ch.chebvander(nodes, 9)
    np.testing.assert_allclose(ch.gram_matrix(9, 6, 2, 7), 2.5 * (T.T * weights) @ T[:, :6], atol=1e-13)


@pytest.mark.parametrize("m", [1, 0, -3, 2.5, True])
def test_fewer_than_two_nodes_are_refused(m):
    with pytest.raises(ValueError, match="m >= 2"):
        ch.chebpts(m)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 1), (0, np.inf), (np.nan, 1)])
def test_empty_intervals_are_refused(a, b):
    with pytest.raises(ValueError, match="not an interval"):
        ch.chebpts(4, a, b)


def test_one_value_is_no_series():
    with pytest.raises(ValueError, match="m >= 2"):
        ch.vals2coeffs(np.ones((1, 3)))
