"""Spectral-mixture kernels and Kronecker algebra: closed forms, oracles, dense matrices, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tensorbench.pde_operators.kernels import (
    MixtureKernel,
    ProductKernel,
    gaussian_mixture,
    periodic,
    plain,
    student_mixture,
)
from tensorbench.pde_operators.kronecker import (
    KroneckerCov,
    cholesky,
    equispaced,
    grid_axes,
    kron_apply,
    kron_dense,
    mode_product,
    toeplitz,
)

WEIGHT, RATE, FREQUENCY = [0.4, 1.3, 0.2], [0.3, -0.5, 1.1], [0.0, 2.5, 7.0]
RADIALS = ("matern52", "squared_exponential", "constant")


def mixture(radial):
    return MixtureKernel(3, radial=radial).set(WEIGHT, RATE, FREQUENCY)


def with_mpmath(mp, radial, d, order):
    """The derivative by mpmath, on the side of d (of the even function at 0: from the right)."""

    def k(x):
        total = mp.mpf(0)
        for w, rate, f in zip(WEIGHT, RATE, FREQUENCY, strict=True):
            r, a = abs(x), mp.sqrt(5) * mp.exp(rate)
            shape = {
                "matern52": (1 + a * r + a**2 * r**2 / 3) * mp.exp(-a * r),
                "squared_exponential": mp.exp(-mp.exp(rate) * x**2),
                "constant": mp.mpf(1),
            }[radial]
            total += w * shape * mp.cos(2 * mp.pi * f * x)
        return total

    return float(mp.diff(k, mp.mpf(d), order))


@pytest.mark.parametrize("radial", RADIALS)
@pytest.mark.parametrize("d", (0.0, 0.013, -0.2))
def test_values_and_derivatives_against_mpmath(radial, d):
    mp = pytest.importorskip("mpmath")
    with mp.workdps(40):
        found = mixture(radial).derivatives(torch.tensor([d], dtype=torch.float64), range(5))
        # The Matérn kernel has a kink in its fifth derivative at 0; below that, differences there need small steps.
        for order in range(3 if d == 0 else 5):
            expected = with_mpmath(mp, radial, d, order)
            assert float(found[order]) == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_curvature_at_zero_is_there():
    w, rate, f = (torch.tensor(v, dtype=torch.float64) for v in (WEIGHT, RATE, FREQUENCY))
    zero = torch.zeros((), dtype=torch.float64)
    matern = (w * (-5 / 3 * torch.exp(2 * rate) - (2 * math.pi * f) ** 2)).sum()
    se = (w * (-2 * torch.exp(rate) - (2 * math.pi * f) ** 2)).sum()
    assert float(mixture("matern52")(zero, 2)) == pytest.approx(float(matern), rel=1e-12)
    assert float(mixture("squared_exponential")(zero, 2)) == pytest.approx(float(se), rel=1e-12)
    # Fourth moment of the Matérn's spectrum: a^4, plus the products with the cosine's.
    assert float(plain("matern52")(zero, 4)) == pytest.approx(25.0, rel=1e-12)


def test_parity_of_the_derivatives():
    d = torch.linspace(0.01, 1, 30, dtype=torch.float64)
    for radial in RADIALS:
        for order in range(5):
            sign = (-1) ** order
            torch.testing.assert_close(mixture(radial)(-d, order), sign * mixture(radial)(d, order))


@pytest.mark.parametrize("radial", ("matern52", "squared_exponential"))
def test_the_stated_spectrum_is_the_fourier_transform(radial):
    kernel = mixture(radial)
    with torch.no_grad():
        d = torch.linspace(-40, 40, 320_001, dtype=torch.float64)
        k = kernel(d)
        for f in (0.0, 0.4, 2.5, 7.1):
            transform = torch.trapezoid(k * torch.cos(2 * math.pi * f * d), d)
            density = float(kernel.spectral_density(torch.tensor(f, dtype=torch.float64)))
            assert float(transform) == pytest.approx(density, abs=1e-6)


def test_the_matern_bump_is_a_student_t_of_five_degrees_of_freedom():
    from scipy.stats import t

    kernel = plain("matern52").set([1.0], [0.7], [0.0])
    f = np.linspace(-3, 3, 13)
    scale = math.exp(0.7) / (2 * math.pi)  # cycles per unit
    found = kernel.spectral_density(torch.tensor(f)).detach().numpy()
    np.testing.assert_allclose(found, t(df=5, scale=scale).pdf(f), rtol=1e-12)


def test_gpytorch_agrees_on_the_gaussian_mixture():
    gpytorch = pytest.importorskip("gpytorch")
    kernel = gaussian_mixture(3).set(WEIGHT, RATE, FREQUENCY)
    theirs = gpytorch.kernels.SpectralMixtureKernel(num_mixtures=3).double()
    theirs.mixture_weights = torch.tensor(WEIGHT, dtype=torch.float64)
    theirs.mixture_means = torch.tensor(FREQUENCY, dtype=torch.float64).reshape(3, 1, 1).clamp(min=1e-12)
    # exp(-2π²σ²d²) there, exp(-c d²) here
    sigma = torch.sqrt(torch.tensor(RATE, dtype=torch.float64).exp() / (2 * math.pi**2))
    theirs.mixture_scales = sigma.reshape(3, 1, 1)
    x = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    torch.testing.assert_close(kernel(x - x.T), theirs(x).to_dense(), rtol=1e-6, atol=1e-6)


def test_a_product_kernel_multiplies_and_differentiates_by_coordinate():
    product = ProductKernel([mixture("matern52"), mixture("squared_exponential")])
    d = torch.rand(6, 2, dtype=torch.float64)
    expected = mixture("matern52")(d[:, 0], 2) * mixture("squared_exponential")(d[:, 1], 1)
    torch.testing.assert_close(product(d, (2, 1)), expected)


def test_weights_priors_and_what_they_penalise():
    log, linear = student_mixture(4), MixtureKernel(4, weights="linear")
    torch.testing.assert_close(log.weight, linear.weight)
    assert float(log.log_prior()) == 0.0
    d = torch.rand(5, dtype=torch.float64)
    torch.testing.assert_close(log(d), linear(d))
    given = [1, 2, 3, 4], [0] * 4, [0] * 4
    kernels = {name: MixtureKernel(4, prior=name).set(*given) for name in ("uniform", "exponential")}
    assert float(kernels["uniform"].log_prior()) == pytest.approx(math.log(24))
    assert float(kernels["exponential"].log_prior()) == pytest.approx(math.log(24) - 10)


def test_keep_takes_components_along():
    kernel = mixture("matern52").keep([1])
    assert (
        kernel.components == 1 and kernel.frequency.tolist() == [2.5] and kernel.weight.tolist() == pytest.approx([1.3])
    )


@pytest.mark.parametrize("odd", (False, True))
def test_toeplitz_is_the_dense_matrix_and_so_is_its_gradient(odd):
    kernel, order = mixture("matern52"), 1 if odd else 2
    axis = torch.linspace(0, 1, 17, dtype=torch.float64)
    dense = kernel(axis[:, None] - axis[None, :], order)
    fast = toeplitz(kernel(axis - axis[0], order), odd=odd)
    torch.testing.assert_close(fast, dense, rtol=1e-9, atol=1e-9)
    probe = torch.randn(17, 17, dtype=torch.float64)
    gradients = [torch.autograd.grad((M * probe).sum(), kernel.frequency)[0] for M in (dense, fast)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-8)


def factors(*sizes):
    result = []
    for n in sizes:
        axis = torch.linspace(0, 1, n, dtype=torch.float64)
        result.append(toeplitz(mixture("matern52")(axis).detach()) + 1e-3 * torch.eye(n, dtype=torch.float64))
    return result


@pytest.mark.parametrize("sizes", ((7,), (6, 5), (4, 3, 5)))
def test_kronecker_algebra_is_dense_algebra(sizes):
    parts = factors(*sizes)
    covariance = KroneckerCov(parts)
    K = kron_dense(parts)
    U = torch.randn(sizes, dtype=torch.float64)
    flat = U.reshape(-1)
    assert float(covariance.logdet()) == pytest.approx(float(torch.logdet(K)), rel=1e-9)
    assert float(covariance.quadratic(U)) == pytest.approx(float(flat @ torch.linalg.solve(K, flat)), rel=1e-9)
    torch.testing.assert_close(covariance.matmul(U).reshape(-1), K @ flat, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(covariance.solve(covariance.matmul(U)), U, rtol=1e-8, atol=1e-8)
    rectangular = [torch.randn(n + 2, n, dtype=torch.float64) for n in sizes]
    torch.testing.assert_close(kron_apply(rectangular, U).reshape(-1), kron_dense(rectangular) @ flat)


def test_a_grid_is_recognised_in_any_order_and_scattered_points_are_not():
    axes = torch.tensor([0.0, 0.5, 2.0]), torch.tensor([1.0, 3.0])
    points = torch.cartesian_prod(*axes)[torch.randperm(6)]
    found = grid_axes(points)
    assert all(torch.equal(a, b) for a, b in zip(found, axes, strict=True))
    assert equispaced(torch.linspace(0, 3, 50)) and not equispaced(axes[0])
    with pytest.raises(ValueError, match="no grid"):
        grid_axes(torch.rand(6, 2))
    with pytest.raises(ValueError, match="no grid"):
        grid_axes(torch.cat([points[:5], points[:1]]))


def test_bad_input_is_refused_with_advice():
    K = torch.diag(torch.tensor([1.0, -0.25, 2.0], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"smallest eigenvalue -0.25.*jitter by at least 0.5"):
        cholesky(K)
    with pytest.raises(ValueError, match="not finite"):
        cholesky(torch.full((2, 2), math.nan))
    with pytest.raises(ValueError, match="at least one component"):
        student_mixture(0)
    with pytest.raises(ValueError, match="matern52"):
        MixtureKernel(3, radial="matern5")
    with pytest.raises(ValueError, match="freq_scale"):
        MixtureKernel(3, freq_scale=-1.0)
    with pytest.raises(ValueError, match="flat prior"):
        MixtureKernel(3, weights="linear", prior="uniform")
    with pytest.raises(ValueError, match="orders"):
        student_mixture(2).derivatives(torch.zeros(1, dtype=torch.float64), [5])
    with pytest.raises(ValueError, match="density"):
        periodic(2).spectral_density(torch.zeros(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="does not fit mode 1"):
        mode_product(torch.zeros(2, 3), torch.zeros(4, 2), 1)
