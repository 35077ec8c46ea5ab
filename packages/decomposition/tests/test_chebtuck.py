"""The Chebyshev-Tucker object and its construction: the numbers of the paper's functions, exactness on polynomials,
calculus against symbols, equivalence of the constructions, bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import sympy

from tensorbench.decomposition.datasets.functions import FUNCTIONS
from tensorbench.decomposition.functional import chebyshev as ch
from tensorbench.decomposition.functional.chebtuck import ChebTucker
from tensorbench.decomposition.functional.chebtuck_build import (
    choose_degree,
    column_coefficients,
    from_columns,
    from_cp,
    from_function,
    from_grid,
    function_values,
    vals2coeffs_all,
)
from tensorbench.decomposition.functional.truncation import hosvd_tol, rhosvd_tol, tucker_als
from tensorbench.decomposition.linalg import multiply

X, Y, Z = sympy.symbols("x y z")
POLYNOMIAL = 3 * X**5 * Y**2 - X * Y * Z**4 + 2 * Z**3 - X**2 * Z + sympy.Rational(1, 3)
BOX = np.array([[-1.0, 2.0], [0.5, 1.5], [-3.0, -1.0]])


def polynomial(m=9) -> ChebTucker:
    return from_function(sympy.lambdify((X, Y, Z), POLYNOMIAL), m, BOX, tol=1e-14)


def points_in(box, count=200, seed=0):
    return np.random.default_rng(seed).uniform(box[:, 0], box[:, 1], (count, len(box)))


def random_function(d, m=7, r=3, seed=0, box=None):
    rng = np.random.default_rng(seed)
    core = rng.standard_normal((r,) * d)
    return ChebTucker(core, tuple(rng.standard_normal((m + k, r)) for k in range(d)), box)


def coefficients(f):
    return multiply(f.core, f.coeffs)


# --- the numbers of the paper's functions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ranks", "error", "slack"),
    [
        ("runge", (11, 11, 11), 2.0e-6, 0.2),
        ("slater", (11, 11, 11), 8.1e-4, 0.2),
        ("shifted_newton", (8, 7, 7), 2.9e-7, 0.2),
        ("exponential", (12, 10, 7), 3.9e-8, 0.2),
    ],
)
def test_ranks_and_errors_of_the_known_functions(name, ranks, error, slack):
    f = FUNCTIONS[name]
    model = from_function(f, 65, tol=1e-7)
    x = np.linspace(-1, 1, 41)
    exact = f(x[:, None, None], x[:, None], x)
    assert model.ranks == ranks
    assert np.abs(model.grid(x, x, x) - exact).max() / np.abs(exact).max() == pytest.approx(error, rel=slack)


def test_the_cosine_has_ranks_two():
    model = from_function(FUNCTIONS["cosine"], 33)
    points = points_in(model.domain)
    assert model.ranks == (2, 2, 2)
    np.testing.assert_allclose(model(points), np.cos(points.sum(axis=1)), atol=1e-13)


@pytest.mark.parametrize("d", [2, 3, 4, 5])
def test_other_numbers_of_variables(d):
    def f(*x):
        return np.exp(0.5 * sum(x[1:], x[0])) + x[0] * x[-1]

    model = from_function(f, 10, [[-1, 1]] * d, tol=1e-10)
    points = points_in(model.domain)
    np.testing.assert_allclose(model(points), f(*points.T), rtol=1e-8)
    assert model.d == d and max(model.ranks) <= 3


# --- exactness, calculus ---


def test_polynomials_are_exact_and_so_are_integral_and_gradient():
    model = polynomial()
    points = points_in(BOX)
    f = sympy.lambdify((X, Y, Z), POLYNOMIAL)
    scale = np.abs(f(*points.T)).max()
    np.testing.assert_allclose(model(points), f(*points.T), atol=1e-12 * scale)
    limits = [(v, sympy.Rational(str(a)), sympy.Rational(str(b))) for v, (a, b) in zip((X, Y, Z), BOX, strict=True)]
    assert model.integral() == pytest.approx(float(sympy.integrate(POLYNOMIAL, *limits)), rel=1e-12)
    for k, variable in enumerate((X, Y, Z)):
        exact = sympy.lambdify((X, Y, Z), sympy.diff(POLYNOMIAL, variable))(*points.T)
        np.testing.assert_allclose(model.gradient(points)[:, k], exact, atol=1e-11 * scale)


def test_contraction_integrates_some_variables():
    model = polynomial()
    left = model.contract([0, 2])
    exact = sympy.lambdify(Y, sympy.integrate(POLYNOMIAL, (X, -1, 2), (Z, -3, -1)))
    y = np.linspace(0.5, 1.5, 7)
    np.testing.assert_allclose(left(y[:, None]), exact(y), rtol=1e-12)
    assert left.d == 1 and model.contract(range(3)) == pytest.approx(model.integral())


def test_inner_product_is_the_integral_of_the_product():
    f, g = polynomial(), from_function(lambda x, y, z: x * y + z**2, 5, BOX, tol=1e-14)
    product = sympy.integrate(POLYNOMIAL * (X * Y + Z**2), (X, -1, 2), (Y, 0.5, 1.5), (Z, -3, -1))
    assert f.inner(g) == pytest.approx(float(product), rel=1e-11)
    assert f.inner(g) == pytest.approx(g.inner(f), rel=1e-12)
    assert f.norm() ** 2 == pytest.approx(f.inner(f))


def test_values_on_a_grid_are_those_at_its_points():
    model = random_function(3)
    axes = [np.linspace(-1, 1, n) for n in (4, 5, 6)]
    points = np.array(list(itertools.product(*axes)))
    np.testing.assert_allclose(model.grid(*axes).ravel(), model(points), atol=1e-12)


def test_many_points_are_evaluated_in_chunks(monkeypatch):
    model, points = random_function(4), points_in(np.array([[-1.0, 1.0]] * 4), 101)
    whole = model(points)
    monkeypatch.setattr("tensorbench.decomposition.functional.chebtuck._CHUNK", 200)
    np.testing.assert_allclose(model(points), whole, atol=1e-13)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_the_grid_tucker_tensor_is_the_function_on_cell_centres(orthogonal):
    import tensorly as tl

    model = random_function(3, box=BOX)
    tucker = model.to_grid_tucker([12, 13, 14], orthogonal)
    axes = [ch.midpoints(n, *ends) for n, ends in zip((12, 13, 14), BOX, strict=True)]
    np.testing.assert_allclose(tucker.full().numpy(), model.grid(*axes), atol=1e-12)
    np.testing.assert_allclose(tl.tucker_to_tensor(tucker.to_tensorly()), model.grid(*axes), atol=1e-12)
    if orthogonal:
        for F in tucker.factors:
            np.testing.assert_allclose((F.T @ F).numpy(), np.eye(F.shape[1]), atol=1e-12)


# --- arithmetic, compression ---


@pytest.mark.parametrize("d", [2, 3, 4])
def test_sums_and_multiples(d):
    f, g = random_function(d, m=7), random_function(d, m=9, r=2, seed=1)
    points = points_in(f.domain)
    total = f + 3.0 * g - g
    np.testing.assert_allclose(total(points), f(points) + 2 * g(points), atol=1e-11)
    back = total.round(1e-12)
    assert back.ranks == (5,) * d
    np.testing.assert_allclose(back(points), total(points), atol=1e-9)
    assert (f - f).norm() <= 1e-12 * f.norm()


def test_rounding_keeps_its_promise_and_lowers_ranks():
    f = from_function(FUNCTIONS["exponential"], 33, tol=1e-12)
    for tol in (1e-3, 1e-6):
        g = f.round(tol)
        assert np.linalg.norm(coefficients(f) - coefficients(g)) <= tol * np.linalg.norm(f.core)
        assert max(g.ranks) < max(f.ranks)
    assert f.round(1.0, ranks=(2, 3, 4)).ranks == (2, 3, 4)


def test_rounding_sees_what_the_reduced_hosvd_cannot():
    """Two components that cancel to 1e-6: the columns are of rank two, the tensor of rank one to 1e-4."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((20, 2))
    columns = np.stack([a[:, 0], a[:, 1], a[:, 1] * (1 + 1e-6)], axis=1)
    model = from_columns(np.array([1.0, 1.0, -1.0]), [columns] * 3, tol=1e-10)
    assert model.ranks == (2, 2, 2) and model.round(1e-4).ranks == (1, 1, 1)


def test_bases_are_orthonormal_and_the_core_has_the_norm_of_the_coefficients():
    tol = 1e-5
    C = vals2coeffs_all(function_values(FUNCTIONS["runge"], (33,) * 3, np.array([[-1.0, 1.0]] * 3)))
    core, bases = hosvd_tol(C, tol)
    for V in bases:
        np.testing.assert_allclose(V.T @ V, np.eye(V.shape[1]), atol=1e-12)
    norm = np.linalg.norm(C)
    assert norm * (1 - tol) <= np.linalg.norm(core) <= norm * (1 + 1e-12)
    assert np.linalg.norm(C - multiply(core, bases)) <= tol * norm
    for k, V in enumerate(bases):  # one rank fewer would be too few, by the tail rule of that mode
        tail = np.linalg.norm(np.linalg.svd(np.moveaxis(C, k, 0).reshape(33, -1), compute_uv=False)[V.shape[1] - 1 :])
        assert tail > tol * norm / math.sqrt(3)


def test_hooi_never_raises_the_error_and_beats_truncation():
    A = np.random.default_rng(0).standard_normal((8, 9, 10))
    fits = [hosvd_tol(A, 1.0, (3, 3, 3)), *(tucker_als(A, (3, 3, 3), sweeps) for sweeps in (1, 3, 10))]
    errors = [np.linalg.norm(A - multiply(*fit)) for fit in fits]
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(errors)) and errors[-1] < errors[0]


def test_the_reduced_hosvd_is_exact_up_to_its_bound():
    rng = np.random.default_rng(0)
    factors = [np.linalg.qr(rng.standard_normal((n, 6)))[0] @ np.diag(10.0 ** -np.arange(6)) for n in (9, 10, 11, 12)]
    factors = [F / np.linalg.norm(F, axis=0) @ rng.standard_normal((6, 15)) for F in factors]
    factors = [F / np.linalg.norm(F, axis=0) for F in factors]
    weights, tol = rng.standard_normal(15), 1e-3
    core, bases = rhosvd_tol(weights, factors, tol)
    full = np.einsum("r,ar,br,cr,dr->abcd", weights, *factors)
    assert np.linalg.norm(full - multiply(core, bases)) <= tol * np.linalg.norm(weights)


# --- the constructions agree ---


def grid_cp(n=64, box=((-1.0, 1.0),) * 3):
    """A sum of three products of smooth functions on cell centres, and the function itself."""
    rates = np.array([[0.5, 1.0, 1.7], [1.2, 0.3, 0.8], [0.9, 1.5, 0.4]])
    axes = [ch.midpoints(n, *ends) for ends in box]
    factors = [np.cos(x[:, None] * row) for x, row in zip(axes, rates, strict=True)]
    weights = np.array([1.0, -2.0, 0.5])

    def f(*x):
        columns = [np.cos(v[..., None] * row) for v, row in zip(x, rates, strict=True)]
        return (weights * columns[0] * columns[1] * columns[2]).sum(axis=-1)

    return weights, factors, f


def test_full_and_reduced_construction_and_the_function_agree():
    weights, factors, f = grid_cp(256)
    tol = 1e-6
    points = points_in(np.array([[-1.0, 1.0]] * 3))
    built = {
        "full": from_cp(weights, factors, 33, tol=tol, mode="full"),
        "reduced": from_cp(weights, factors, 33, tol=tol),
        "function": from_function(f, 33, tol=tol),
        "grid": from_grid(np.einsum("r,ir,jr,kr->ijk", weights, *grid_cp(64)[1]), 33, tol=tol),
    }
    for name, model in built.items():
        assert np.abs(model(points) - f(*points.T)).max() <= 10 * tol * np.abs(weights).sum(), name


def test_many_columns_and_few_are_the_same_spline():
    """More columns than grid points take another way through the spline; column by column they are what they were."""
    columns = np.random.default_rng(0).standard_normal((12, 30))
    single = np.hstack([column_coefficients(columns[:, [r]], 17, (0.0, 2.0)) for r in range(30)])
    np.testing.assert_allclose(column_coefficients(columns, 17, (0.0, 2.0)), single, atol=1e-12)


def test_a_scaled_box_is_the_scaled_function():
    weights, _, f = grid_cp()
    half, centre = np.diff(BOX, axis=1)[:, 0] / 2, BOX.mean(axis=1)
    wide = from_function(f, 21, BOX, tol=1e-9)
    unit = from_function(lambda *x: f(*(c + h * v for c, h, v in zip(centre, half, x, strict=True))), 21, tol=1e-9)
    points = points_in(BOX)
    np.testing.assert_allclose(wide(points), unit((points - centre) / half), atol=1e-12)
    on_cells = from_cp(weights, grid_cp(256, BOX)[1], 21, BOX)
    np.testing.assert_allclose(on_cells(points), f(*points.T), atol=1e-5)


def test_scalar_functions_work_with_a_warning():
    def f(x, y, z):
        return math.exp(x) * y * (1.0 if z * z >= 0 else math.nan)  # math and `if` take numbers only

    with pytest.warns(UserWarning, match="does not take arrays"):
        model = from_function(f, 9)
    np.testing.assert_allclose(model(np.array([[0.3, 0.4, 0.1]])), [math.exp(0.3) * 0.4], rtol=1e-6)


def test_complex_values_are_refused():
    with pytest.raises(ValueError, match="complex values"):
        from_function(lambda x, y, z: np.exp(1j * x) * y * z, 5)


def test_the_degree_is_found_by_lines():
    found = choose_degree(lambda x, y, z: np.cos(12 * x) + y**4 + 0 * z, 1e-10)
    assert found.resolved and found.m[1] in (5, 6) and found.m[2] <= 3 and 25 <= found.m[0] <= 45
    assert from_function(FUNCTIONS["runge"], choose_degree(FUNCTIONS["runge"], 1e-5).m).degrees[0] >= 50
    assert not choose_degree(lambda x, y, z: np.abs(x - 0.1) + y + z, 1e-10, largest=65).resolved


# --- bad input ---


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda f: from_function(f, 1), "m >= 2"),
        (lambda f: from_function(f, 9, [[1, 0]] * 3), "not an interval"),
        (lambda f: from_function(f, 9, tol=0.0), "tol 0.0 must be a positive"),
        (lambda f: from_function(f, 9, tol=-1.0), "tol -1.0"),
        (lambda f: from_function(f, 9, ranks=(10, 2, 2)), "rank 10 of mode 0 must lie between 1 and its size 9"),
        (lambda f: from_function(f, [9, 9], [[0, 1]] * 3), "one number of nodes for each of the 3 variables"),
        (lambda f: from_function(f, 9, [[0, 1]] * 6), "6 variables"),
        (lambda f: from_function(f, 9, [[0, 1, 2]] * 3), "does not bound 3 variables"),
        (lambda f: from_grid(np.full((5, 5, 5), np.nan), 9), "125 entries that are not finite"),
        (lambda f: from_grid(np.ones((3, 3, 3)), 9), "at least 4"),
        (lambda f: from_cp(np.ones(2), [np.ones((8, 2)), np.ones((8, 3)), np.ones((8, 2))], 9), "one column per"),
        (lambda f: from_cp(np.ones(1), [np.ones((8, 1))] * 3, 9, mode="quick"), "valid: full, reduced"),
        (lambda f: ChebTucker(np.ones((3, 2)), (np.ones((2, 3)), np.ones((4, 2))), None), "exceeds its 2 coefficients"),
        (lambda f: ChebTucker(np.ones((3, 2)), (np.ones((4, 3)),), None), "as many coefficient matrices"),
        (lambda f: ChebTucker(np.array([np.nan]), (np.ones((4, 1)),), None), "must be finite"),
        (lambda f: random_function(3) + random_function(3, box=BOX), "differ"),
        (lambda f: random_function(3)(np.zeros((4, 2))), "one column per variable"),
        (lambda f: random_function(3)(np.full((1, 3), np.nan)), "lies outside"),
        (lambda f: random_function(3).grid(np.zeros(2)), "1 axes were given for 3 variables"),
        (lambda f: random_function(3).differentiate(3), "not one of 0..2"),
        (lambda f: random_function(3).contract([0, 3]), "not all among 0..2"),
        (lambda f: random_function(3).round(0.0), "tol 0.0"),
    ],
)
def test_bad_input_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build(lambda x, y, z: x + y + z)


def test_a_value_that_is_not_finite_names_its_node():
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=r"node \(4, 4, 4\), x = \[0.0, 0.0, 0.0\]"):
        from_function(lambda x, y, z: 1 / (x**2 + y**2 + z**2), 9)


def test_points_outside_the_box_need_permission():
    model = polynomial()
    outside = np.array([[2.5, 1.0, -2.0]])
    with pytest.raises(ValueError, match=r"x_0 = 2.5 lies outside \[-1, 2\]"):
        model(outside)
    exact = sympy.lambdify((X, Y, Z), POLYNOMIAL)(*outside[0])
    assert model(outside, extrapolate=True)[0] == pytest.approx(exact, rel=1e-10)


def test_ranks_saved_by_compressing_the_core_are_counted_per_seed():
    import pandas as pd

    from tensorbench.decomposition.experiments.function_tensors import ranks_saved

    assert ranks_saved(pd.DataFrame({"max_rank": [47.0, 30.0], "rounded_rank": [45.0, 30.0]})) == [2, 0]
