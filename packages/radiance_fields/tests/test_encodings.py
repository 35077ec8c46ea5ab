"""Encodings: harmonics orthonormal and equal to SciPy's, grids exact at nodes, hashes by their formula, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tensorbench.radiance_fields.encodings import (
    HashGrid,
    corners,
    dense_index,
    positional,
    spherical_harmonics,
    trunc_exp,
)

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def directions(n, seed=0):
    d = torch.randn(n, 3, generator=seeded(seed), dtype=F64)
    return d / d.norm(dim=-1, keepdim=True)


def test_harmonics_are_orthonormal_by_quadrature():
    # Gauss-Legendre in z, equidistant angles: exact for polynomials of degree 8, the products of two of order 4.
    z, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(6))
    angle = torch.arange(12, dtype=F64) * (2 * math.pi / 12)
    r = (1 - z * z).sqrt()
    d = torch.stack((r[:, None] * angle.cos(), r[:, None] * angle.sin(), z[:, None].expand(-1, 12)), dim=-1)
    weights = (w[:, None] * (2 * math.pi / 12)).expand(-1, 12).reshape(-1)
    basis = spherical_harmonics(d.reshape(-1, 3), 4)
    assert torch.allclose(basis.T @ (weights[:, None] * basis), torch.eye(25, dtype=F64), atol=1e-12)


def test_harmonics_equal_those_of_scipy():
    from scipy.special import sph_harm_y

    d = directions(50)
    polar, azimuth = d[:, 2].arccos().numpy(), torch.atan2(d[:, 1], d[:, 0]).numpy()
    ours = spherical_harmonics(d, 4)
    for order in range(5):
        for m in range(-order, order + 1):
            value = sph_harm_y(order, abs(m), polar, azimuth)  # with Condon and Shortley's sign
            expected = torch.from_numpy(value.imag if m < 0 else value.real) * (math.sqrt(2) if m else 1)
            assert torch.allclose(ours[:, order * order + order + m], expected, atol=1e-12)


def test_lower_degrees_are_the_first_columns():
    d = directions(10)
    assert all(torch.equal(spherical_harmonics(d, k), spherical_harmonics(d, 4)[:, : (k + 1) ** 2]) for k in range(5))
    with pytest.raises(ValueError, match="0 to 4"):
        spherical_harmonics(d, 5)
    with pytest.raises(ValueError, match="3 components"):
        spherical_harmonics(d[:, :2], 1)


def test_positional_waves():
    x = torch.tensor([[0.3, -1.1]], dtype=F64)
    expected = torch.cat([x, *(f(2.0**k * x) for k in range(3) for f in (torch.sin, torch.cos))], dim=-1)
    assert torch.allclose(positional(x, 3), expected)
    assert torch.allclose(positional(x, 3, include_input=False), expected[:, 2:])
    assert torch.equal(positional(x, 0), x)
    with pytest.raises(ValueError, match="leaves nothing"):
        positional(x, 0, include_input=False)


def test_trunc_exp_is_exp_with_a_bounded_gradient():
    x = torch.tensor([-30.0, -12.0, 0.0, 3.0, 12.0, 40.0], dtype=F64, requires_grad=True)
    y = trunc_exp(x)
    assert torch.equal(y, x.detach().exp())
    y.sum().backward()
    assert torch.equal(x.grad, x.detach().clamp(-12, 12).exp())


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_node_gives_its_row(dims):
    grid = HashGrid(dims, levels=1, features=3, base=5, finest=5, log2_table=10, generator=seeded())
    numbers = torch.cartesian_prod(*[torch.arange(6)] * dims).reshape(-1, dims)
    rows = sum(numbers[:, k] * 6 ** (dims - 1 - k) for k in range(dims))
    assert torch.allclose(grid(numbers / 5), grid.tables[0][rows], atol=1e-9)


def test_linear_between_nodes():
    grid = HashGrid(3, levels=1, features=1, base=4, finest=4, log2_table=10, generator=seeded())
    axes = torch.linspace(0, 1, 5)
    x, y, z = torch.meshgrid(axes, axes, axes, indexing="ij")
    with torch.no_grad():
        grid.tables[0].copy_((2 * x - 3 * y + z + 0.5).reshape(-1, 1))
    points = torch.rand(50, 3, generator=seeded())
    assert torch.allclose(grid(points)[:, 0], points @ torch.tensor([2.0, -3.0, 1.0]) + 0.5, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_rows_of_a_hashed_level_follow_the_formula(dims):
    grid = HashGrid(dims, levels=1, features=2, base=600, finest=600, log2_table=8, generator=seeded())
    assert not grid.is_dense(0)
    points = torch.rand(20, dims, generator=seeded(1))
    nodes, _ = corners(points, (600,) * dims)
    index = grid.index(nodes, 0)
    primes = (1, 2654435761, 805459861)
    for first, row in zip(torch.stack([pair[:, 0] for pair in nodes], dim=-1).tolist(), index, strict=True):
        for corner in range(2**dims):
            expected = 0
            for axis in range(dims):
                bit = corner >> (dims - 1 - axis) & 1
                expected ^= (first[axis] + bit) * primes[axis] % 2**32
            assert int(row[corner]) == expected % 2**8


def test_dense_and_hashed_levels_by_size():
    grid = HashGrid(3, levels=4, features=2, base=4, finest=32, log2_table=10, generator=seeded())
    assert grid.resolutions == [4, 8, 16, 32]
    assert [len(table) for table in grid.tables] == [125, 729, 1024, 1024]
    assert [grid.is_dense(level) for level in range(4)] == [True, True, False, False]
    assert grid(torch.rand(2, 5, 3)).shape == (2, 5, grid.width)


def test_gradients_in_table_and_position():
    grid = HashGrid(2, levels=2, features=2, base=3, finest=9, log2_table=5, generator=seeded(), scale=1.0).double()
    x = torch.rand(7, 2, generator=seeded(2), dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *tables: grid(x), (x, *grid.tables), atol=1e-6)


def test_sides_and_beyond():
    grid = HashGrid(1, levels=1, features=1, base=4, finest=4, log2_table=8, generator=seeded())
    assert torch.allclose(grid(torch.tensor([[1.0], [1.5], [-0.2], [0.0]])), grid.tables[0][[4, 4, 0, 0]])


def test_dense_index_is_row_major():
    nodes, _ = corners(torch.tensor([[0.0, 0.0, 0.0]]), (2, 3, 4))
    assert dense_index(nodes, (2, 3, 4)).tolist() == [[0, 1, 5, 6, 20, 21, 25, 26]]


@pytest.mark.parametrize(
    "wrong", [{"dims": 4}, {"levels": 0}, {"base": 9, "finest": 8}, {"log2_table": 30}, {"features": 0}]
)
def test_bad_grids(wrong):
    with pytest.raises(ValueError):
        HashGrid(**({"dims": 3} | wrong))
    with pytest.raises(ValueError, match="axes"):
        HashGrid(2, levels=1, base=2, finest=2)(torch.rand(3, 3))
