"""The Gaussian-process solver: algebra against dense matrices, exact inner solves, Newton, prediction, bad input."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import solve_banded

from tensorbench.pde_operators.diffops import advection, allen_cahn, manufactured, poisson, polynomial
from tensorbench.pde_operators.gp_high_freq.inner import _System, _Whitened, inner_solve
from tensorbench.pde_operators.gp_high_freq.model import HighFreqGP
from tensorbench.pde_operators.gp_high_freq.problem import GridProblem, faces, from_functions, from_points, on_grid
from tensorbench.pde_operators.gp_high_freq.solver import GPHMSolver
from tensorbench.pde_operators.kernels import MixtureKernel, gaussian_mixture, plain, student_mixture
from tensorbench.pde_operators.kronecker import KroneckerCov, kron_dense

PROBLEMS = {
    "poisson_1d": (poisson("x"), "sin(9*x)", (24,)),
    "allen_cahn_1d": (allen_cahn("x"), "sin(9*x)", (24,)),
    "poisson_2d": (poisson("xy"), "sin(6*x)*cos(5*y)", (8, 7)),
    "allen_cahn_2d": (allen_cahn("xy"), "sin(6*x)*cos(5*y)", (8, 7)),
    "advection": (advection(3.0), "sin(x - 3*y)", (8, 7)),
    "variable": (polynomial("x*u_xx + u_x", "x"), "sin(9*x)", (24,)),
    "poisson_3d": (poisson("xyz"), "sin(4*x)*y*cos(z)", (5, 4, 6)),
}


def model_of(name, radial="matern52", components=4, freq_scale=3.0, log_v=2.0, log_tau=1.0, jitter=1e-4):
    pde, solution, shape = PROBLEMS[name]
    problem = on_grid(manufactured(pde, solution), shape)
    model = HighFreqGP(
        problem, [MixtureKernel(components, radial=radial, freq_scale=freq_scale) for _ in shape], jitter=jitter
    )
    with torch.no_grad():
        model.log_v.fill_(log_v)
        model.log_tau.fill_(log_tau)
    return model


def by_dense_matrices(model, U):
    """The objective from dense Kronecker products, written out as the reference has it."""
    factors = model.factors()
    K = kron_dense(factors.covariances)
    flat = U.reshape(-1)
    alpha = torch.linalg.solve(K, flat)
    found = {
        index: (kron_dense([m[n] for m, n in zip(factors.matrices, index, strict=True)]) @ alpha).reshape(U.shape)
        for index in model.operators
    }
    inside = model.problem.pde.residual(found, model.problem.source, model.problem.points()).square().sum()
    edge = (U[model.problem.boundary] - model.problem.values).square().sum()
    likelihood = model.boundary_weight * (
        len(model.problem.values) * model.log_tau / 2 - model.log_tau.exp() / 2 * edge
    )
    likelihood = likelihood + U.numel() * model.log_v / 2 - model.log_v.exp() / 2 * inside
    return torch.logdet(K) / 2 + flat @ alpha / 2 - likelihood


@pytest.mark.parametrize("name", PROBLEMS)
def test_objective_is_that_of_dense_matrices(name):
    model = model_of(name)
    U = torch.randn(model.problem.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = float(by_dense_matrices(model, U))
    assert float(model.objective_of_values(U)) == pytest.approx(expected, rel=1e-8)
    alpha = KroneckerCov(model.factors().covariances).solve(U)
    assert float(model.objective(alpha)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("name", ("allen_cahn_1d", "poisson_2d"))
def test_gradient_by_finite_differences(name):
    model = model_of(name)
    generator = torch.Generator().manual_seed(1)
    U = torch.randn(model.problem.shape, dtype=torch.float64, generator=generator).requires_grad_(True)
    parameters = [U, *(p for p in model.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(model.objective_of_values(U), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        size, values = 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * size * direction)
                values.append(float(model.objective_of_values(U)))
                parameter.sub_(sign * size * direction)
        slope = float((gradient * direction).sum())
        assert (values[0] - values[1]) / (2 * size) == pytest.approx(slope, rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("method", ("dense", "cg"))
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_inner_solution_is_stationary(name, method):
    model = model_of(name)
    alpha = inner_solve(model, method=method, newton_steps=30, tolerance=1e-13).alpha
    white = _Whitened(model, model.factors(), by_eigenvectors=False)
    beta = white.of_alpha(alpha).requires_grad_(True)
    value = beta.square().sum() / 2 + model.data_terms(white.derivatives(beta))
    (gradient,) = torch.autograd.grad(value, beta)
    scale = _System(white, torch.zeros_like(beta)).right.norm()  # the gradient at zero
    assert float(gradient.norm() / scale) < 1e-8


@pytest.mark.parametrize("name", ("poisson_2d", "allen_cahn_2d", "advection", "poisson_3d"))
def test_products_and_diagonal_are_those_of_the_matrix(name):
    model = model_of(name)
    with torch.no_grad():
        white = _Whitened(model, model.factors(), by_eigenvectors=True)
        system = _System(white, torch.randn(model.problem.shape, dtype=torch.float64))
        matrix = system.matrix()
        x = torch.randn(model.problem.shape, dtype=torch.float64)
        torch.testing.assert_close(system.product(x).reshape(-1), matrix @ x.reshape(-1), rtol=1e-8, atol=1e-6)
        if model.problem.pde.linear:
            torch.testing.assert_close(system.diagonal().reshape(-1), matrix.diagonal(), rtol=1e-8, atol=1e-6)


def test_the_profile_has_the_gradient_at_fixed_alpha():
    model, size = model_of("poisson_1d"), 1e-5
    parameters = [p for p in model.parameters() if p.requires_grad]
    alpha = inner_solve(model).alpha
    gradients = torch.autograd.grad(model.objective(alpha), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * size)
                values.append(float(model.objective(inner_solve(model).alpha)))
                parameter.sub_(sign * size)
        assert (values[0] - values[1]) / (2 * size) == pytest.approx(float(gradient.sum()), rel=1e-4, abs=1e-3)


def test_adam_on_the_values_comes_down_to_the_exact_minimum():
    model = model_of("poisson_1d", log_v=-6.0, log_tau=-3.0, jitter=1e-2)
    for p in model.parameters():
        p.requires_grad_(False)
    floor = float(model.objective(inner_solve(model).alpha))
    U = torch.zeros(model.problem.shape, dtype=torch.float64, requires_grad=True)
    optimizer, values = torch.optim.Adam([U], lr=0.02), []
    for _ in range(1500):
        optimizer.zero_grad()
        value = model.objective_of_values(U)
        value.backward()
        optimizer.step()
        values.append(float(value))
    assert min(values) >= floor - 1e-9 * abs(floor)
    assert values[-1] - floor < 1e-3 * (values[0] - floor)


def test_newton_stays_at_a_solution_of_the_discrete_equation():
    pde, solution, shape = PROBLEMS["allen_cahn_1d"]
    problem = on_grid(manufactured(pde, solution), shape)
    model = HighFreqGP(problem, [student_mixture(4, 3.0)], jitter=1e-4)
    with torch.no_grad():
        factors = model.factors()
        truth = manufactured(pde, solution).solution(*problem.points())
        alpha = KroneckerCov(factors.covariances).solve(truth)
        found = model.derivatives(alpha, factors)
        source = problem.source + model.residual(found)  # of the interpolant of the solution
        problem = GridProblem(pde, problem.axes, source, problem.boundary, problem.values)
        solver = GPHMSolver(problem, [student_mixture(4, 3.0)], jitter=1e-4)
        solver.model.log_v.fill_(30.0)
        solver.model.log_tau.fill_(20.0)
    solver.values = truth
    result = solver.newton(newton_steps=5)
    inside = ~problem.boundary
    assert float(solver.residual()[inside].abs().max()) < 1e-8 * float(source.abs().max())
    torch.testing.assert_close(solver.predict(problem.axes), truth, rtol=0, atol=1e-2)
    assert result.newton_steps <= 5


@pytest.mark.parametrize("radial", ("matern52", "squared_exponential"))
def test_a_wave_is_solved_and_its_frequency_found(radial):
    problem = manufactured(poisson("x"), "sin(20*x)")
    solver = GPHMSolver(on_grid(problem, [60]), [MixtureKernel(8, radial=radial, freq_scale=6.0)])
    before = solver.objective()
    history = solver.fit_exact(150)
    x = torch.linspace(0, 1, 101, dtype=torch.float64)
    error = (solver.predict([x]) - problem.solution(x)).norm() / problem.solution(x).norm()
    assert float(error) < 5e-3
    assert solver.spectrum()[0].frequency == pytest.approx(20 / (2 * math.pi), rel=0.1)
    assert history.losses[-1] < history.losses[0] and solver.objective() < before
    slope = solver.predict([x], (1,))
    exact = problem.derivative((1,))(x)
    assert float((slope - exact).norm() / exact.norm()) < 2e-2


def test_the_paper_s_descent_lowers_the_same_objective():
    problem = manufactured(poisson("x"), "sin(20*x)")
    solver = GPHMSolver(on_grid(problem, [40]), [student_mixture(8, 6.0)])
    calls = []
    history = solver.fit(
        60, 1e-2, evaluate=lambda s: calls.append(s) or {"objective": s.objective()}, evaluate_every=30
    )
    assert history.losses[-1] < history.losses[0]
    assert calls == [solver] * 2
    assert solver.objective() == pytest.approx(history.evaluations[-1][1]["objective"])


def test_the_second_process_solves_what_the_first_left():
    problem = manufactured(poisson("x"), "sin(20*x) - 2*(x - 0.5)**2")
    solver = GPHMSolver(on_grid(problem, [60]), [gaussian_mixture(8, 6.0)])
    solver.fit_exact(20)
    x = torch.linspace(0, 1, 101, dtype=torch.float64)

    def error():
        return float((solver.predict([x]) - problem.solution(x)).norm() / problem.solution(x).norm())

    first, residual = error(), float(solver.residual().norm())
    solver.refine([plain("matern52")])
    assert error() == pytest.approx(first) and float(solver.residual().norm()) == pytest.approx(residual)
    solver.fit_exact(60)
    assert error() < first and float(solver.residual().norm()) < residual
    assert len(solver.spectrum(stage=0)) == 8 and len(solver.spectrum(stage=1)) == 1


def test_a_second_process_that_is_refused_leaves_the_first_as_it_was():
    solver = GPHMSolver(on_grid(manufactured(poisson("x"), "sin(20*x)"), [40]), [gaussian_mixture(4, 6.0)])
    solver.fit_exact(3)
    x = torch.linspace(0, 1, 11, dtype=torch.float64)
    before = solver.predict([x])
    with pytest.raises(ValueError, match="0 kernels for 1"):
        solver.refine([])
    with pytest.raises(ValueError, match="trained again"):
        solver.refine(list(solver.model.kernels))
    assert solver.before == [] and torch.equal(solver.predict([x]), before)


def test_variance_is_that_of_the_dense_posterior():
    model = model_of("poisson_2d")
    solver = GPHMSolver(model.problem, list(model.kernels), jitter=model.jitter)
    with torch.no_grad():
        solver.model.log_v.fill_(-4.0)
        solver.model.log_tau.fill_(-5.0)
    solver.newton()
    points = torch.rand(5, 2, dtype=torch.float64)
    with torch.no_grad():
        factors = solver.model.factors()
        K = kron_dense(factors.covariances)
        L = kron_dense([factors.matrices[0][2], factors.matrices[1][0]])
        L = L + kron_dense([factors.matrices[0][0], factors.matrices[1][2]])
        rows = K[model.problem.boundary.reshape(-1)]
        tau, v = 200 * solver.model.log_tau.exp(), solver.model.log_v.exp()
        precision = K + tau * rows.T @ rows + v * L.T @ L  # of alpha
        for index in ((0, 0), (1, 0), (0, 2)):
            lags = [points[:, i, None] - axis for i, axis in enumerate(model.problem.axes)]
            cross = [kernel(lag, n) for kernel, lag, n in zip(model.kernels, lags, index, strict=True)]
            k = (cross[0][:, :, None] * cross[1][:, None, :]).reshape(5, -1)
            zero = torch.zeros((), dtype=torch.float64)
            prior = math.prod(
                (-1) ** n * float(kern(zero, 2 * n)) for kern, n in zip(model.kernels, index, strict=True)
            )
            expected = (
                prior
                - (k @ torch.linalg.solve(K, k.T)).diagonal()
                + (k @ torch.linalg.solve(precision, k.T)).diagonal()
            )
            mean, variance = solver.predict_at(points, index)
            torch.testing.assert_close(variance, expected, rtol=1e-5, atol=1e-6 * prior)
            torch.testing.assert_close(mean, k @ solver.alpha.reshape(-1), rtol=1e-8, atol=1e-8)


def test_scattered_and_grid_predictions_agree_in_three_dimensions():
    model = model_of("poisson_3d")
    solver = GPHMSolver(model.problem, list(model.kernels), jitter=model.jitter)
    solver.newton()
    axes = [torch.rand(3, dtype=torch.float64) for _ in range(3)]
    on = solver.predict(axes, (0, 1, 0))
    points = torch.stack([m.reshape(-1) for m in torch.meshgrid(*axes, indexing="ij")], dim=-1)
    torch.testing.assert_close(on.reshape(-1), solver.predict_at(points, (0, 1, 0))[0], rtol=1e-9, atol=1e-9)


def test_points_in_any_order_make_the_same_problem():
    pde, solution, shape = PROBLEMS["poisson_2d"]
    problem = on_grid(manufactured(pde, solution), shape)
    points = torch.stack([m.reshape(-1) for m in problem.points()], dim=-1)
    order = torch.randperm(len(points))
    again = from_points(pde, points[order], problem.source.reshape(-1)[order], problem.values)
    torch.testing.assert_close(again.source, problem.source)
    with pytest.raises(ValueError, match="no grid"):
        from_points(pde, points[1:], problem.source.reshape(-1)[1:], problem.values)


@pytest.mark.parametrize("name", ["variable", "allen_cahn_2d", "poisson_3d"])
def test_an_equation_of_ones_own_makes_the_same_problem(name):
    pde, solution, shape = PROBLEMS[name]
    truth = manufactured(pde, solution)
    problem = on_grid(truth, shape)
    again = from_functions(pde, [axis.numpy() for axis in problem.axes], truth.source, truth.solution)
    for one, other in zip((*problem.axes, problem.source, problem.values), (*again.axes, again.source, again.values),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)
    assert torch.equal(problem.boundary, again.boundary)


def test_numbers_stand_for_constant_functions():
    problem = from_functions(poisson("xy"), [[0, 1, 3], [-1, 0, 1, 2]], 2, lambda x, y: x)
    assert torch.equal(problem.source, torch.full((3, 4), 2.0, dtype=torch.float64))
    assert problem.values.tolist() == [0, 0, 0, 0, 1, 1, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda x: on_grid(polynomial("u_xx", "x"), [50]), "'u_xx' comes without a solution: from_functions"),
        (lambda x: from_functions(poisson("x"), [x], torch.sin), "needs its boundary: a function of x, or a number"),
        (lambda x: from_functions(poisson("xy"), [x, x], boundary=0), "needs its source: a function of x, y"),
        (lambda x: from_functions(poisson("xy"), [x], 0, 0), "1 axes for an equation in 2 coordinates"),
        (lambda x: from_functions(poisson("x"), [0.5], 0, 0), "axis 0 must hold rising"),
        (lambda x: from_functions(poisson("x"), [-x], 0, 0), "axis 0 must hold at least 3 rising"),
        (lambda x: from_functions(poisson("x"), [x], lambda x: 1 / (x - x), 0), "source holds 9 values that are not"),
        (lambda x: from_functions(poisson("x"), [x], 0, math.nan), "boundary values holds 2 values that are not"),
        (lambda x: from_functions(poisson("x"), [x], lambda x: x[:3], 0), r"source gives shape \(3,\) for points of"),
    ],
)
def test_an_equation_that_is_not_whole_is_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build(torch.linspace(0, 1, 9))


def test_the_example_of_the_readme_solves_its_equation():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = [block.split("```")[0] for block in text.split("```python\n")[1:] if "from_functions" in block]
    names = {}
    exec(code, names)  # u'' - u' + 4u = sin(40 x), u(-1) = 0 and u(1) = 1, by finite differences
    x = np.linspace(-1, 1, 4001)
    h, free = x[1] - x[0], len(x) - 2
    bands = np.array([[1 / h**2 - 1 / (2 * h)] * free, [4 - 2 / h**2] * free, [1 / h**2 + 1 / (2 * h)] * free])
    right = np.sin(40 * x[1:-1])
    right[-1] -= bands[0, -1]
    truth = np.interp(names["x"].numpy(), x, np.r_[0, solve_banded((1, 1), bands, right), 1])
    np.testing.assert_allclose(names["u"].numpy(), truth, atol=5e-3 * np.abs(truth).max())


def test_too_coarse_a_grid_is_told_with_the_smallest_that_does():
    problem = on_grid(manufactured(poisson("x"), "sin(100*x)"), [30])
    with pytest.warns(UserWarning, match="at least 41 points"):
        GPHMSolver(problem, [student_mixture(5, 20.0)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GPHMSolver(on_grid(manufactured(poisson("x"), "sin(100*x)"), [41]), [student_mixture(5, 20.0)])


def test_bad_input_is_refused():
    pde, axis = poisson("x"), torch.linspace(0, 1, 9, dtype=torch.float64)
    source, mask = torch.zeros(9, dtype=torch.float64), faces([9])
    values = torch.zeros(2, dtype=torch.float64)
    problem = GridProblem(pde, (axis,), source, mask, values)
    with pytest.raises(ValueError, match=r"3,.*boundary values for 2"):
        GridProblem(pde, (axis,), source, mask, torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="source holds 1 values"):
        GridProblem(pde, (axis,), source.index_fill(0, torch.tensor([4]), math.nan), mask, values)
    with pytest.raises(ValueError, match="rising"):
        GridProblem(pde, (axis.flip(0),), source, mask, values)
    for jitter in (0.0, -1e-6):
        with pytest.raises(ValueError, match="jitter"):
            HighFreqGP(problem, [student_mixture(3, 2.0)], jitter=jitter)
    with pytest.raises(ValueError, match="kernels for 1"):
        HighFreqGP(problem, [])
    with pytest.raises(ValueError, match="dense"):
        inner_solve(HighFreqGP(problem, [student_mixture(3, 2.0)]), method="dens")
    kernel = student_mixture(3, 2.0)
    square = on_grid(manufactured(poisson("xy"), "x*y"), [5, 5])
    with pytest.raises(ValueError, match="a new one for each"):
        HighFreqGP(square, [kernel, kernel])
    with pytest.raises(ValueError, match="lr"):
        GPHMSolver(problem, [student_mixture(3, 2.0)]).fit_exact(1, lr=0.0)
    assert np.isfinite(GPHMSolver(problem, [student_mixture(3, 2.0)]).objective())


@pytest.mark.parametrize("inner", ("dense", "cg"))
def test_evaluation_on_the_way_does_not_change_the_fit(inner):
    results = []
    for every in (None, 2):
        problem = on_grid(manufactured(poisson("xy"), "sin(6*x)*cos(5*y)"), [9, 8])
        solver = GPHMSolver(problem, [student_mixture(3, 3.0) for _ in "xy"], inner=inner, tolerance=1e-3)
        solver.fit_exact(7, evaluate=lambda s: {"objective": s.objective()}, evaluate_every=every)
        results.append(solver.values)
    assert torch.equal(*results)
