"""Discrete derivatives on polynomials, blocks against numpy's steps, conservation, translation, moments."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from tensorbench.pde_operators import stencils
from tensorbench.pde_operators.stencils import STENCILS, derivative, euler_step, stencil

H = 0.3
Y, X = np.meshgrid(np.arange(8) * H, np.arange(9) * H, indexing="ij")
ONE = np.ones_like(X)
EXACT = {  # fields and their derivatives, exact in the interior
    "dx": [(X, ONE), (Y, 0 * X), (X**2, 2 * X), (X * Y, Y), (Y**2, 0 * X)],
    "dy": [(X, 0 * X), (Y, ONE), (X**2, 0 * X), (X * Y, X), (Y**2, 2 * Y)],
    "sobel_dx": [(X, ONE), (Y, 0 * X), (X**2, 2 * X), (X * Y, Y), (Y**2, 0 * X)],
    "sobel_dy": [(X, 0 * X), (Y, ONE), (X**2, 0 * X), (X * Y, X), (Y**2, 2 * Y)],
    "dxx": [(X, 0 * X), (X**2, 2 * ONE), (X * Y, 0 * X), (X**3, 6 * X)],
    "dyy": [(Y, 0 * X), (Y**2, 2 * ONE), (X * Y, 0 * X), (Y**3, 6 * Y)],
    "dxy": [(X * Y, ONE), (X**2, 0 * X), (X**2 * Y, 2 * X)],
    "laplacian": [(X**2, 2 * ONE), (X * Y, 0 * X), (X**2 + Y**2, 4 * ONE)],
    "gaussian": [(ONE, ONE), (X, X), (X**2, X**2 + H**2 / 2), (X * Y, X * Y)],
    "identity": [(X * Y, X * Y)],
}


@pytest.mark.parametrize("name", STENCILS)
def test_derivatives_of_polynomials(name):
    for field, exact in EXACT[name]:
        found = derivative(torch.from_numpy(field), name, H)[1:-1, 1:-1]
        np.testing.assert_allclose(found, exact[1:-1, 1:-1], atol=1e-12)


def test_sobel_is_the_filter_of_image_processing():
    u = np.random.default_rng(0).normal(size=(12, 13))
    for name, axis in (("sobel_dy", 0), ("sobel_dx", 1)):
        expected = ndimage.sobel(u, axis, mode="wrap") / 8
        np.testing.assert_allclose(derivative(torch.from_numpy(u), name), expected, atol=1e-12)


def field(n: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, n + 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


NUMPY = {"circular": "wrap", "reflect": "reflect", "zeros": "constant"}


def central(u: np.ndarray, padding: str, h: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """∂x, ∂y and the five-point Laplacian by slices."""
    w = np.pad(u, 1, mode=NUMPY[padding])
    right, left, down, up = w[1:-1, 2:], w[1:-1, :-2], w[2:, 1:-1], w[:-2, 1:-1]
    return (right - left) / (2 * h), (down - up) / (2 * h), (right + left + down + up - 4 * u) / h**2


@pytest.mark.parametrize("padding", NUMPY)
def test_blocks_are_the_steps_of_numpy(padding):
    u, dt, h = field(), 0.01, 0.2
    v = u.numpy()
    dx, dy, laplacian = central(v, padding, h)
    flux = central(v**2, padding, h)[0]
    w = np.pad(v, 1, mode=NUMPY[padding])[1:-1]
    dxx = (w[:, 2:] - 2 * v + w[:, :-2]) / h**2
    steps = {
        "burgers": (stencils.burgers_block(dt, h, padding=padding), v - dt * flux / 2),
        "viscous": (stencils.burgers_block(dt, h, 0.05, padding), v - dt * flux / 2 + 0.05 * dt * dxx),
        "advection": (stencils.advection_block((0.7, -0.4), dt, h, padding), v - dt * (0.7 * dx - 0.4 * dy)),
        "heat": (stencils.heat_block(0.3, dt, h, padding), v + 0.3 * dt * laplacian),
    }
    for name, (block, expected) in steps.items():
        np.testing.assert_allclose(block(u[None, None])[0, 0].detach(), expected, atol=1e-12, err_msg=name)


def test_circular_steps_conserve_the_sum():
    for block in (stencils.burgers_block(0.1), stencils.advection_block((0.3, 0.2), 0.1), stencils.heat_block(1, 0.1)):
        u = 0.1 * field()[None, None]
        start = u
        for _ in range(20):
            u = block(u).detach()
        assert (u - start).abs().max() > 0.01
        assert abs(float(u.sum() - start.sum())) < 1e-12


def test_euler_step_with_fields_as_coefficients():
    u, c = field(), field(seed=1)
    found = euler_step(u, {"dx": c, "laplacian": 0.1}, 0.05, 0.5, "reflect")
    dx, _, laplacian = central(u.numpy(), "reflect", 0.5)
    np.testing.assert_allclose(found, u + 0.05 * (c * dx + 0.1 * laplacian), atol=1e-12)


def test_translation_by_one_pixel_a_layer():
    at = torch.arange(40, dtype=torch.float64)
    apart = (at[None] - 12) ** 2 + (at[:, None] - 20) ** 2
    blob = torch.exp(-apart / 8) * (apart <= 64)
    x0, y0 = stencils.centre_of_mass(blob)
    for layer, u in enumerate(stencils.translate(blob, 4)):
        x, y = stencils.centre_of_mass(u)
        assert abs(x - x0 - layer) < 1e-10
        assert abs(y - y0) < 1e-10


def test_moments_are_the_operator():
    filters = torch.stack([stencil(name) for name in ("identity", "dx", "dy", "dxx", "dxy", "dyy")])
    torch.testing.assert_close(stencils.moments(filters), torch.eye(6).double())
    gauss = stencils.moments(stencil("gaussian")[None])[0]
    torch.testing.assert_close(gauss, torch.tensor([1, 0, 0, 0.25, 0, 0.25]).double())


def test_order_shares():
    shares = stencils.order_shares(torch.stack([stencil("dxy"), torch.ones(3, 3).double(), stencil("sobel_dx")]))
    torch.testing.assert_close(shares[0], torch.tensor([0, 0, 1.0, 0, 0]).double())
    torch.testing.assert_close(shares[1], torch.tensor([1.0, 0, 0, 0, 0]).double())
    torch.testing.assert_close(shares.sum(1), torch.ones(3).double())
    assert shares[2, 1] > 0.8
    noise = torch.randn(20_000, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([1, 2, 3, 2, 1]) / 9
    torch.testing.assert_close(stencils.order_shares(noise).mean(0), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: stencil("dxxx"), "unknown stencil"),
        (lambda: stencil("dx", 0.0), "must be positive"),
        (lambda: derivative(field(), "dx", padding="wrap"), "unknown padding"),
        (lambda: derivative(torch.arange(25).reshape(5, 5), "dx"), "convert it, say u.double"),
        (lambda: euler_step(field(), {"dz": 1.0}), "unknown stencil"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()
