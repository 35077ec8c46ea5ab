"""Sparse trigonometric functions: algebra against Fourier transforms on a grid, Barron norms, pruning, bad input."""

import math

import numpy as np
import pytest

from tensorbench.pde_operators.barron.tensor_grid import torus_values
from tensorbench.pde_operators.trig import TrigFunction


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_real(rng, terms, d, largest, unit=2 * math.pi):
    freqs = rng.integers(-largest, largest + 1, (terms, d))
    coeffs = rng.standard_normal(terms) + 1j * rng.standard_normal(terms)
    f = TrigFunction(freqs, coeffs, unit)
    return f + f.conjugate()


def test_barron_norm_of_a_product_of_sines():
    f = TrigFunction.sine_product([2, 2])
    assert f.terms == 4
    assert np.allclose(np.abs(f.coeffs), 0.25)
    assert f.barron_norm() == pytest.approx(9.885766, abs=1e-6)
    assert f.barron_norm() == pytest.approx(1 + 2 * math.pi * math.sqrt(2))


def test_square_of_a_cosine():
    g = TrigFunction.cosine([1])
    square = g * g
    found = {int(k[0]): complex(c) for k, c in zip(square.freqs, square.coeffs, strict=True)}
    assert found == {0: 0.5, 2: 0.25, -2: 0.25}


@pytest.mark.parametrize("d, largest", [(1, 7), (2, 4), (3, 2)])
def test_algebra_against_a_grid(rng, d, largest):
    n = 4 * largest + 2
    f, g = random_real(rng, 20, d, largest), random_real(rng, 15, d, largest)
    F, G = torus_values(f, n), torus_values(g, n)
    assert np.abs(torus_values(f * g, n) - F * G).max() < 1e-10
    assert np.abs(torus_values(f + g * 2.0, n) - F - 2 * G).max() < 1e-10
    points = rng.random((7, d))
    assert np.allclose((f * g)(points), f(points) * g(points), atol=1e-10)
    assert (f * g).is_real()
    k = 2 * math.pi * np.fft.fftfreq(n, 1 / n)
    spectrum = np.fft.fftn(F) * 1j * k.reshape([-1] + [1] * (d - 1))
    assert np.abs(torus_values(f.derivative(0), n) - np.fft.ifftn(spectrum).real).max() < 1e-9


def test_inverse_inverts_and_rules_hold(rng):
    f, g = random_real(rng, 30, 4, 5), random_real(rng, 30, 4, 5)
    inverse = f.inverse_shifted_laplacian()
    back = inverse.divergence_form(np.eye(4)) + inverse
    assert (back - f).mass() < 1e-12 * f.mass()
    assert inverse.barron_norm() <= f.barron_norm()
    assert (f * g).barron_norm() <= f.barron_norm() * g.barron_norm()
    assert (f + g).barron_norm() <= f.barron_norm() + g.barron_norm()
    assert f.derivative(2).barron_norm() <= f.band_limit * f.barron_norm()
    assert f.inner(g) == pytest.approx((f * g).coefficient([0] * 4).real, rel=1e-12)


def test_sparse_and_dense_joins_agree(rng, monkeypatch):
    f, g = random_real(rng, 200, 3, 6), random_real(rng, 100, 3, 6)
    dense = f * g
    monkeypatch.setattr("tensorbench.pde_operators.trig._DENSE_RANGE", 0)
    monkeypatch.setattr("tensorbench.pde_operators.trig._CHUNK", 1000)
    sparse = f * g
    assert dense.terms == sparse.terms
    assert (dense - sparse).mass() < 1e-10 * dense.mass()


def test_fifty_dimensions_against_evaluation(rng):
    f, g = random_real(rng, 12, 50, 3), random_real(rng, 12, 50, 3)
    points = rng.random((5, 50))
    assert np.allclose((f * g)(points), f(points) * g(points), atol=1e-9)
    assert (f - f).terms == 0


def test_dropped_mass_bounds_the_error(rng):
    f = random_real(rng, 100, 3, 6) * 0.01
    exact = f * f
    cut = f.times(f, drop=1e-4)
    assert 0 < (exact - cut.function).mass() <= cut.mass * (1 + 1e-12)
    pruned = exact.pruned(0.05)
    assert (exact - pruned.function).mass() == pytest.approx(pruned.mass)
    few = exact.pruned(most=10).function
    assert 9 <= few.terms <= 10 and few.is_real()  # pairs of conjugates stay together


def test_power_is_repeated_product(rng):
    f = random_real(rng, 5, 2, 2)
    assert (f.power(3).function - f * f * f).mass() < 1e-12


def test_sine_coefficients(rng):
    c = np.zeros((3, 3))
    c[0, 0], c[1, 2] = 1.0, 0.3
    f = TrigFunction.from_sine_coefficients(c)
    x, y = rng.random((2, 9))
    want = np.sin(np.pi * x) * np.sin(np.pi * y) + 0.3 * np.sin(2 * np.pi * x) * np.sin(3 * np.pi * y)
    assert np.allclose(f(np.stack([x, y], axis=1)), want)


def test_duplicates_merge_and_bad_input():
    f = TrigFunction(np.array([[1, 0], [1, 0], [0, 1]]), np.array([1.0, 2.0, 0.0]))
    assert f.terms == 1 and f.coeffs[0] == 3
    with pytest.raises(ValueError, match="finite"):
        TrigFunction(np.array([[1]]), np.array([np.nan]))
    assert (TrigFunction.cosine([1, 2]) * 0.0).terms == 0
    with pytest.raises(ValueError, match="must be finite"):
        TrigFunction.cosine([1]) * float("nan")
    with pytest.raises(ValueError, match="integer"):
        TrigFunction(np.array([[1.5]]), np.array([1.0]))
    with pytest.raises(ValueError, match="need as many"):
        TrigFunction(np.array([[1]]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="both must agree"):
        TrigFunction.cosine([1]) + TrigFunction.cosine([1, 0])
    with pytest.raises(ValueError, match="axis"):
        TrigFunction.cosine([1]).derivative(1)
