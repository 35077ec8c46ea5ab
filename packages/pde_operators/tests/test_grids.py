"""Grids, transforms, derivatives and random fields against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tensorbench.pde_operators import grids

BCS = grids.BOUNDARIES


@pytest.mark.parametrize("bc", BCS)
@pytest.mark.parametrize("shape", [(12,), (9,), (6, 10)])
def test_transforms_invert_and_torch_agrees_with_scipy(bc, shape):
    u = np.random.default_rng(0).standard_normal((3, *shape))
    hat = grids.to_spectral(u, bc, len(shape))
    np.testing.assert_allclose(grids.from_spectral(hat, shape, bc), u, atol=1e-13)
    torch_hat = grids.to_spectral(torch.as_tensor(u), bc, len(shape))
    np.testing.assert_allclose(torch_hat.numpy(), hat, atol=1e-12)
    np.testing.assert_allclose(grids.from_spectral(torch_hat, shape, bc).numpy(), u, atol=1e-12)


@pytest.mark.parametrize("bc", BCS)
def test_eigenfunctions_of_the_laplacian_have_one_coefficient(bc):
    n, length, k = 16, 3.0, 3
    x = grids.grid(n, length, bc)
    wave = {
        "periodic": np.cos(2 * np.pi * k * x / length),
        "dirichlet": np.sin(np.pi * k * x / length),
        "neumann": np.cos(np.pi * k * x / length),
    }[bc]
    hat = np.abs(grids.to_spectral(wave, bc, 1))
    place = k - 1 if bc == "dirichlet" else k
    assert hat[place] > 1 and np.delete(hat, place).max() < 1e-12
    expected = (2 if bc == "periodic" else 1) * np.pi * k / length
    assert grids.eigenvalues((n,), length, bc)[place] == pytest.approx(expected**2, rel=1e-13)


@pytest.mark.parametrize("n", [31, 32])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_spectral_derivatives_are_exact(n, order):
    length = 2.5
    x = grids.periodic_grid(n, length)
    kappa = 2 * np.pi / length
    u = np.exp(1j * 5 * kappa * x)
    exact = ((5j * kappa) ** order * u).real
    field = np.stack([u.real, 2 * u.real], axis=1)
    found = grids.spectral_derivative(field, order, axis=0, length=length)
    np.testing.assert_allclose(found, np.stack([exact, 2 * exact], axis=1), atol=1e-9 * max(1, np.abs(exact).max()))
    tensor = grids.spectral_derivative(torch.as_tensor(field), order, axis=0, length=length)
    np.testing.assert_allclose(tensor.numpy(), found, atol=1e-10 * max(1, np.abs(exact).max()))


def test_the_highest_mode_has_no_odd_derivative():
    sawtooth = (-1.0) ** np.arange(8)
    assert np.abs(grids.spectral_derivative(sawtooth)).max() == 0
    second = grids.spectral_derivative(sawtooth, 2)
    np.testing.assert_allclose(second, -((8 * np.pi) ** 2) * sawtooth, rtol=1e-12)


def test_squares_of_dealiased_fields_have_exact_low_modes():
    n, m = 24, 96
    u = grids.dealias(np.random.default_rng(1).standard_normal(n))
    fine = np.fft.irfft(np.fft.rfft(u), m) * m / n  # the same function on a grid where the square has room
    low = grids.dealias_mask((n,))
    square, exact = np.fft.rfft(u**2) / n, np.fft.rfft(fine**2)[: n // 2 + 1] / m
    np.testing.assert_allclose(square[low], exact[low], atol=1e-14)
    assert np.abs(square[~low] - exact[~low]).max() > 1e-4  # the rule is not idle
    assert grids.dealias_mask((64, 64)).sum() == 43 * 22
    twice = grids.dealias(torch.as_tensor(np.tile(u, (2, 1))))
    np.testing.assert_allclose(twice.numpy()[0], u, atol=1e-14)


@pytest.mark.parametrize("bc", BCS)
@pytest.mark.parametrize("shape", [(16,), (8, 12)])
def test_random_fields_have_the_covariance_that_is_asked_for(bc, shape):
    """Variance of every normalised coefficient: chi-square statistics of 4000 draws within five standard errors."""
    count, alpha, tau, sigma, length = 4000, 1.5, 2.0, 0.7, 2.0
    u = grids.grf(shape, count, alpha, tau, sigma, bc, 5, length=length)
    assert u.shape == (count, *shape)
    dims = len(shape)
    hat = grids.to_spectral(u, bc, dims)
    cells = np.prod([(n + (bc == "dirichlet")) / length for n in shape])
    measured = np.mean(np.abs(hat) ** 2, axis=0) / cells / (np.prod(shape) if bc == "periodic" else 1)
    expected = sigma**2 * (grids.eigenvalues(shape, length, bc) + tau**2) ** -alpha
    np.testing.assert_allclose(measured / expected, 1, atol=5 * np.sqrt(2 / count))
    if bc == "periodic":
        at_point = grids.periodic_field_std(shape, alpha, tau, length=length)
        assert u.std() == pytest.approx(sigma * at_point, rel=0.03)


def test_random_fields_do_not_depend_on_the_grid_and_do_on_the_seed():
    coarse = [grids.grf(16, 4000, 2.0, 3.0, bc="dirichlet", generator=g).std() for g in (1, 2)]
    fine = grids.grf(64, 4000, 2.0, 3.0, bc="dirichlet", generator=3).std()
    assert coarse[0] != coarse[1] and fine == pytest.approx(coarse[0], rel=0.05)
    again = grids.grf(16, 4000, 2.0, 3.0, bc="dirichlet", generator=np.random.default_rng(1)).std()
    assert again == coarse[0]
    assert np.abs(grids.grf((8, 8), 3, 2.0, 0.0, zero_mean=True).mean(axis=(1, 2))).max() < 1e-15


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="did you mean 'periodic'"):
        grids.grid(8, 1.0, "periodc")
    with pytest.raises(ValueError, match="whole number of points"):
        grids.periodic_grid(0)
    with pytest.raises(ValueError, match="length of the box"):
        grids.dirichlet_grid(4, -1.0)
    with pytest.raises(ValueError, match="infinite variance; use zero_mean"):
        grids.grf(8, 1, 2.0, 0.0)
    with pytest.raises(ValueError, match="no constant part"):
        grids.grf(8, 1, 2.0, 1.0, bc="dirichlet", zero_mean=True)
    with pytest.raises(ValueError, match="alpha -1"):
        grids.grf(8, 1, -1, 1.0)
    with pytest.raises(ValueError, match="at least one field"):
        grids.grf(8, 0, 1.0, 1.0)
    for bc in grids.BOUNDARIES:
        with pytest.raises(ValueError, match=f"{bc} coefficients of a grid"):
            grids.from_spectral(grids.to_spectral(np.ones(64), bc), (32,), bc)
    with pytest.raises(ValueError, match="order of a derivative"):
        grids.spectral_derivative(np.zeros(4), -1)


def test_spectrum_sums_to_the_mean_square_and_finds_a_wave():
    u = np.random.default_rng(0).standard_normal((5, 16, 16))
    assert grids.radial_spectrum(u).sum() == pytest.approx((u**2).mean(), rel=1e-12)
    x, y = grids.mesh(grids.periodic_grid(16))
    wave = np.cos(2 * np.pi * (3 * x + 4 * y))[None]
    spectrum = grids.radial_spectrum(wave)
    assert spectrum.shape == (9,) and spectrum[5] == pytest.approx(0.5) and np.delete(spectrum, 5).max() < 1e-30


def test_resampling_keeps_what_both_grids_resolve():
    def wave(n):
        x, y = grids.mesh(grids.periodic_grid(n))
        return torch.as_tensor(np.cos(2 * np.pi * (3 * x - 2 * y)) + 0.3)[None, None]

    np.testing.assert_allclose(grids.resample(wave(16), 24, True), wave(24), atol=1e-12)
    np.testing.assert_allclose(grids.resample(wave(24), 16, True), wave(16), atol=1e-12)
    noise = torch.as_tensor(np.random.default_rng(0).standard_normal((2, 1, 12)))
    up = grids.resample(noise, 24, True)
    np.testing.assert_allclose(up[..., ::2], noise, atol=1e-12)  # it interpolates, the highest mode too
    oblong = torch.as_tensor(np.random.default_rng(1).standard_normal((1, 1, 8, 16)))
    np.testing.assert_allclose(grids.resample(oblong, 16, True)[..., ::2, :], oblong, atol=1e-12)
    x, y = grids.mesh(grids.cell_grid(16))
    plane = torch.as_tensor(1 + 2 * x - y)[None, None]
    a, b = grids.mesh(grids.cell_grid(32))
    fine = grids.resample(plane, 32, False)
    np.testing.assert_allclose(fine[..., 1:-1, 1:-1], (1 + 2 * a - b)[None, None, 1:-1, 1:-1], atol=1e-12)
    np.testing.assert_allclose(grids.resample(torch.as_tensor(1 + 2 * a - b)[None, None], 16, False), plane, atol=1e-12)
    assert grids.resample(plane, 16, False) is plane
