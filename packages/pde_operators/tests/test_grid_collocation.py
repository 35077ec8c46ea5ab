"""Chebyshev collocation and finite differences: orders of convergence, Newton, interpolation, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from tensorbench.pde_operators.baselines.grid_collocation import chebyshev, solve_on_grid
from tensorbench.pde_operators.datasets.high_frequency import PROBLEMS, high_frequency_equations
from tensorbench.pde_operators.diffops import allen_cahn, manufactured, poisson, polynomial


def error(problem, shape, kind, lengths=None):
    solution = solve_on_grid(problem, shape, lengths or [1.0] * len(shape), kind)
    axes = [np.linspace(0, length, 47) for length in lengths or [1.0] * len(shape)]
    truth = problem.solution(*np.meshgrid(*axes, indexing="ij"))
    return np.linalg.norm(solution(axes) - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("make", (poisson, allen_cahn))
def test_collocation_converges_spectrally(make):
    line, plane = manufactured(make("x"), "sin(20*x) + x"), manufactured(make("xy"), "sin(7*x)*exp(-y)")
    assert error(line, [40], "chebyshev") < 1e-9
    assert error(plane, [18, 16], "chebyshev", [1.0, 2.0]) < 1e-6


@pytest.mark.parametrize("make", (poisson, allen_cahn))
def test_finite_differences_are_of_second_order(make):
    problem = manufactured(make("x"), "sin(9*x)")
    errors = [error(problem, [n], "finite_differences") for n in (51, 101, 201)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 2, atol=0.1)
    plane = manufactured(make("xy"), "sin(5*x)*cos(4*y)")
    ratio = error(plane, [17, 17], "finite_differences") / error(plane, [33, 33], "finite_differences")
    assert 3.4 < ratio < 4.6


def test_the_differentiation_matrix_is_exact_on_polynomials():
    x, D = chebyshev(9, 2.0)
    np.testing.assert_allclose(D @ x**7, 7 * x**6, atol=1e-9)
    np.testing.assert_allclose((x[0], x[-1]), (0, 2))


def test_every_problem_is_there_and_unknown_ones_are_refused():
    items = high_frequency_equations(seed=0, names=list(PROBLEMS), points={"sin100": 50})
    assert [item.name for item in items] == list(PROBLEMS)
    assert items[0].points == 50 and items[0].frequencies == pytest.approx((15.915494,))
    for item in items:
        axes = [np.linspace(0, 1, 3)] * item.dimension
        assert np.isfinite(item.problem.source(*np.meshgrid(*axes, indexing="ij"))).all()
    with pytest.raises(ValueError, match="sin100"):
        high_frequency_equations(seed=0, names=["sin10"])


def test_newton_says_when_it_has_not_converged():
    problem = manufactured(allen_cahn("x"), "5*sin(30*x)")
    with pytest.warns(UserWarning, match="not converged in 2 steps"):
        solve_on_grid(problem, [40], [1.0], newton_steps=2)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="chebyshev"):
        solve_on_grid(manufactured(poisson("x"), "x"), [9], [1.0], "chebychev")
    with pytest.raises(ValueError, match="order 3"):
        solve_on_grid(manufactured(polynomial("u_xxx", "x"), "x"), [9], [1.0], "finite_differences")
    with pytest.raises(ValueError, match="at least 3"):
        chebyshev(2)
