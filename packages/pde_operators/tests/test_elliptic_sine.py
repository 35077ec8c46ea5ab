"""Sine solvers: exact transposes, measured orders, SciPy's boundary-value solver as oracle, bad input."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_bvp

from tensorbench.core.timing import growth
from tensorbench.pde_operators.solvers.elliptic_sine import (
    SineGrid,
    interior_points,
    poisson,
    poisson_differences,
    semilinear,
)


@pytest.mark.parametrize("d, n", [(1, 7), (2, 6), (3, 4)])
def test_maps_and_their_transposes(d, n):
    rng = np.random.default_rng(d)
    grid = SineGrid(n, d)
    u, v = rng.standard_normal((2,) + (n,) * d)
    assert np.allclose(grid.project(grid.values(u)), u)
    # ∫ ∇u·∇v and ∫ u v, by coefficients, by quadrature and by the transposes.
    energy = float((grid.eigenvalues * u * v).sum()) / 2**d
    p, q = grid.gradient(u), grid.gradient(v)
    assert grid.integral(sum(a * b for a, b in zip(p, q, strict=True))) == pytest.approx(energy)
    assert float((grid.project_gradient(p) * v).sum()) / 2**d == pytest.approx(energy)
    assert grid.integral(grid.values(u) * grid.values(v)) == pytest.approx(float((u * v).sum()) / 2**d)


def test_values_and_gradient_of_a_mode():
    grid = SineGrid(5, 2)
    c = grid.mode((2, 3), 0.7)
    x, y = grid.points()
    inner = (0.7 * np.sin(2 * np.pi * x) * np.sin(3 * np.pi * y))[1:-1, 1:-1]
    assert np.allclose(grid.values(c), inner)
    assert np.allclose(grid.gradient(c)[1], 0.7 * 3 * np.pi * np.sin(2 * np.pi * x) * np.cos(3 * np.pi * y))
    assert grid.barron_norm(c) == pytest.approx(0.7 * (1 + math.pi * math.sqrt(13)))
    assert np.allclose(grid.coefficients(0.7 * np.sin(2 * np.pi * x) * np.sin(3 * np.pi * y)), c)


def _smooth(x):
    """u = sin(πx)/(1.2 - cos(2πx)) and -u'': analytic and odd about both ends."""
    s, w = np.pi, 2 * np.pi
    N, D = np.sin(s * x), 1.2 - np.cos(w * x)
    N1, D1 = s * np.cos(s * x), w * np.sin(w * x)
    N2, D2 = -s * s * N, w * w * np.cos(w * x)
    second = (N2 * D - N * D2) / D**2 - 2 * D1 * (N1 * D - N * D1) / D**3
    return N / D, -second


def test_orders_of_accuracy():
    def errors(solver, sizes):
        for n in sizes:
            (x,) = interior_points(n, 1)
            u, f = _smooth(x)
            yield float(np.abs(solver(f) - u).max())

    sizes = [63, 127, 255, 511]
    slow = list(errors(poisson_differences, sizes))
    assert growth([n + 1 for n in sizes], slow).exponent == pytest.approx(-2, abs=0.1)
    fast = list(errors(poisson, [15, 31, 63]))
    # Spectral: each doubling squares the error, where order two divides it by four.
    assert fast[1] < 1e-2 * fast[0]
    assert fast[2] < 20 * fast[1] ** 2 + 1e-12


def test_one_dimension_against_solve_bvp():
    (x,) = interior_points(127, 1)
    f = 20 * np.sin(np.pi * x) + 10 * np.sin(3 * np.pi * x)
    u, updates = semilinear(f, lambda u: u + u**3, lambda u: 1 + 3 * u**2)
    assert updates[-1] < 1e-12

    def right(t, y):
        return np.stack([y[1], y[0] + y[0] ** 3 - 20 * np.sin(np.pi * t) - 10 * np.sin(3 * np.pi * t)])

    start, zero = np.linspace(0, 1, 200), np.zeros((2, 200))
    oracle = solve_bvp(right, lambda a, b: np.array([a[0], b[0]]), start, zero, tol=1e-9, max_nodes=50_000)
    assert oracle.success
    assert np.abs(oracle.sol(x)[0] - u).max() < 1e-6


def test_three_dimensions_and_quadratic_convergence():
    x, y, z = interior_points(15, 3)
    u = np.sin(np.pi * x) * np.sin(np.pi * y) * np.sin(2 * np.pi * z)
    found, updates = semilinear(6 * np.pi**2 * u + u**3, lambda v: v**3, lambda v: 3 * v**2)
    assert np.abs(found - u).max() < 1e-10
    assert updates[2] < 10 * updates[1] ** 2 + 1e-14


def test_bad_input():
    with pytest.raises(ValueError, match="1 to 3"):
        SineGrid(5, 4)
    grid = SineGrid(5, 1)
    with pytest.raises(ValueError, match="subtract a lift"):
        grid.coefficients(np.ones(13))
    with pytest.raises(ValueError, match="mode"):
        grid.mode((6,))
    with pytest.raises(ValueError, match="falls"):
        semilinear(np.ones(7), lambda u: -u, lambda u: -np.ones_like(u))
