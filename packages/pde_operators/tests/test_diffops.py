"""Operators as polynomials of derivatives: against sympy, autograd and finite differences; bad input."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
import torch

from tensorbench.pde_operators.diffops import advection, allen_cahn, manufactured, poisson, polynomial

SOLUTIONS = {"x": "sin(6*x)*cos(100*x)", "xy": "(sin(x) + cos(20*x))*exp(-y)*sin(3*y)"}


@pytest.mark.parametrize("make", (poisson, allen_cahn))
@pytest.mark.parametrize("coordinates", ("x", "xy"))
def test_source_is_the_operator_applied_by_hand(make, coordinates):
    problem = manufactured(make(coordinates), SOLUTIONS[coordinates])
    symbols = [sympy.Symbol(c, real=True) for c in coordinates]
    u = sympy.sympify(SOLUTIONS[coordinates], locals=dict(zip(coordinates, symbols, strict=True)))
    by_hand = sum(sympy.diff(u, s, 2) for s in symbols) + (u**3 - u if make is allen_cahn else 0)
    points = np.random.default_rng(0).random((len(coordinates), 7))
    expected = np.array([float(by_hand.evalf(30, subs=dict(zip(symbols, p, strict=True)))) for p in points.T])
    np.testing.assert_allclose(problem.source(*points), expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


def test_a_travelling_wave_solves_advection_exactly():
    assert sympy.simplify(advection(200).apply("sin(x - 200*y)")) == 0


def test_residual_of_the_solution_vanishes_with_exact_derivatives():
    pde = polynomial("x*u_xy**2 + 3*u*u_yy - u_x", "xy")
    problem = manufactured(pde, SOLUTIONS["xy"])
    points = torch.rand(2, 50, dtype=torch.float64)
    derivatives = {index: problem.derivative(index)(*points) for index in pde.operators}
    residual = pde.residual(derivatives, problem.source(*points), points)
    assert float(residual.abs().max()) < 1e-10 * float(problem.source(*points).abs().max())


def test_linearisation_is_the_derivative_of_the_residual():
    pde = polynomial("x*u_xy**2 + 3*u**2*u_yy - u_x", "xy")
    rng = np.random.default_rng(1)
    points, size = rng.random((2, 9)), 1e-6
    at = {index: rng.normal(size=9) for index in pde.operators}
    direction = {index: rng.normal(size=9) for index in pde.operators}
    slopes = pde.linearise(at, points)
    predicted = sum(slopes[index] * direction[index] for index in pde.operators)
    moved = [pde.residual({i: at[i] + s * size * direction[i] for i in at}, 0.0, points) for s in (1, -1)]
    np.testing.assert_allclose((moved[0] - moved[1]) / (2 * size), predicted, rtol=1e-6, atol=1e-6)


def test_facts_about_an_operator():
    assert poisson("xyz").linear and not allen_cahn("x").linear
    assert not polynomial("u*u_x", "xt").linear
    assert set(allen_cahn("xy").operators) == {(2, 0), (0, 2), (0, 0)}
    assert polynomial("u_xxyy + u", "xy").order == 4


def test_a_constant_source_has_the_shape_of_its_points():
    problem = manufactured(poisson("xy"), "x**2")
    assert problem.source(np.zeros((3, 1)), np.zeros((1, 4))).shape == (3, 4)
    assert problem.source(torch.zeros(5), torch.zeros(5)).tolist() == [2.0] * 5


@pytest.mark.parametrize("text", ("atan(3*x)", "asinh(x)", "acos(x/2)", "sin(sqrt(2)*x)", "Abs(x - 1/2)"))
def test_tensors_and_arrays_give_the_same_numbers(text):
    problem = manufactured(poisson("x"), text)
    x = np.linspace(0.1, 0.9, 5)
    given = torch.tensor(x, requires_grad=True)
    np.testing.assert_allclose(problem.solution(given).detach().numpy(), problem.solution(x), rtol=1e-14)
    torch.testing.assert_close(torch.func.grad(lambda z: problem.solution(z).sum())(given[:1]).item(),
                               float(problem.derivative((1,))(x[:1])[0]))  # fmt: skip


def test_constants_are_no_obstacle_for_tensors():
    problem = manufactured(poisson("x"), "sqrt(2)*sin(x)*exp(1) + cos(1)")
    x = np.linspace(0, 1, 5)
    for ours in (problem.solution, problem.source):
        np.testing.assert_allclose(ours(torch.from_numpy(x)).numpy(), ours(x), rtol=1e-14)
        assert ours(torch.zeros(2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "coordinates", "message"),
    (
        ("sin(u) + u_xx", "x", "polynomial"),
        ("u_xx + u_yy", "x", "coordinate"),
        ("u_xx + 1", "x", "source"),
        ("u_xx + q", "x", "name"),
        ("u_xx", "xx", "different letters"),
        ("u_xx +* u", "x", "expression"),
    ),
)
def test_what_is_no_operator_is_refused(text, coordinates, message):
    with pytest.raises(ValueError, match=message):
        polynomial(text, coordinates)


def test_missing_derivatives_and_points_are_named():
    with pytest.raises(ValueError, match=r"\(2,\)"):
        allen_cahn("x").residual({(0,): np.ones(3)})
    with pytest.raises(ValueError, match="points"):
        polynomial("x*u_x", "x").residual({(1,): np.ones(3)})
