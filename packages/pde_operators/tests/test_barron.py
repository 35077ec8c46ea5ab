"""The Barron construction: energies and their derivatives, rates, bounds, flows against Newton, networks, bad input."""

import math

import numpy as np
import pytest
import torch

from tensorbench.pde_operators.barron import networks, rates
from tensorbench.pde_operators.barron.descent import descend, descend_sparse
from tensorbench.pde_operators.barron.energy import (
    Energy,
    SineProblem,
    TrigProblem,
    linear,
    minimal_surface,
    power_perturbation,
    semilinear,
)
from tensorbench.pde_operators.barron.ritz import RitzNet, train_ritz
from tensorbench.pde_operators.barron.tensor_grid import torus_differences, torus_values
from tensorbench.pde_operators.solvers import elliptic_sine
from tensorbench.pde_operators.solvers.elliptic_sine import SineGrid
from tensorbench.pde_operators.trig import TrigFunction

ENERGIES = {
    "linear": linear(((1.0, 0.2), (0.2, 1.5)), reaction=0.3),
    "semilinear": semilinear(),
    "minimal_surface": minimal_surface(0.8),
    "power": power_perturbation(0.8, 1.5),
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def solution_of(grid):
    return grid.mode((1, 1)) + grid.mode((2, 3), 0.3)


# --- energies


@pytest.mark.parametrize("name", ENERGIES)
def test_derivative_is_that_of_the_energy_and_convex(name, rng):
    grid = SineGrid(5, 2)
    problem = SineProblem(ENERGIES[name], grid, rng.standard_normal((5, 5)))
    u = 0.3 * rng.standard_normal((5, 5))
    for _ in range(10):
        v = rng.standard_normal((5, 5))
        h = 1e-5
        difference = (problem.value(u + h * v) - problem.value(u - h * v)) / (2 * h)
        assert problem.slope(u, v) == pytest.approx(difference, rel=1e-6, abs=1e-6)
        assert problem.value(u + 0.5 * v) <= 0.5 * (problem.value(u) + problem.value(u + v)) + 1e-12
    ENERGIES[name].check_convex(2, rng)


@pytest.mark.parametrize("name", ["linear", "minimal_surface", "power"])
def test_bounds_hold_for_sampled_hessians(name, rng):
    energy = ENERGIES[name]
    lower, upper = energy.bounds()
    for _ in range(50):
        H = energy.hessian(float(rng.standard_normal()), 3 * rng.standard_normal(2))
        eigenvalues = np.linalg.eigvalsh(H[1:, 1:])
        assert lower - 1e-12 <= eigenvalues[0] and eigenvalues[-1] <= upper + 1e-12
        assert 0 <= H[0, 0] <= upper


def test_hessian_is_the_second_derivative_of_the_density(rng):
    energy = Energy("all", ((1.0, 0.2), (0.2, 1.5)), 0.3, ((4, 0.25),), 0.8, 1.3)
    x, h = rng.standard_normal(3), 1e-4

    def density(z):
        return float(energy.density(np.array(z[0]), z[1:]))

    def second(a, b):
        return (density(x + a + b) - density(x + a - b) - density(x - a + b) + density(x - a - b)) / (4 * h * h)

    numeric = [[second(a, b) for b in h * np.eye(3)] for a in h * np.eye(3)]
    assert np.allclose(energy.hessian(x[0], x[1:]), numeric, atol=1e-5)


def test_grid_and_sparse_operators_agree():
    grid = SineGrid(9, 2)
    energy = Energy("both", 1.3, 0.5, ((4, 0.25),))
    u = solution_of(grid)
    dense = SineProblem(energy, grid, np.zeros_like(u))
    sparse = TrigProblem(energy, TrigFunction.zero(2, math.pi))
    operator, mass = sparse.operator(TrigFunction.from_sine_coefficients(u))
    assert mass == 0
    assert (operator - TrigFunction.from_sine_coefficients(dense.operator(u), 1e-13)).mass() < 1e-10
    assert sparse.value(TrigFunction.from_sine_coefficients(u)) == pytest.approx(dense.value(u), rel=1e-12)


# --- rates and bounds


def test_rates_of_the_sheet():
    found = rates.rates(1, 1.5, 1 / math.pi**2)
    assert found.eta == pytest.approx(0.269037, abs=1e-6)
    assert 1 - found.factor == pytest.approx(0.179358, abs=1e-6)
    assert found.steps(1e-3, 1.0) == 39
    assert rates.poincare_constant("cube", 2) == pytest.approx(1 / (2 * math.pi**2))


def test_closed_bounds_are_their_recursion():
    logs = rates.log10_closed_bounds(3, 0.5, 2.0, 2, 0.5, 3.0, 3.0, 3.0)
    by_hand, W = 0.5, 2.0
    for t in range(3):
        assert rates.log10_closed_step(by_hand, W, 2, 0.5, 3.0, 3.0, 3.0) == pytest.approx(logs[t + 1])
        by_hand = math.log10(1 + 0.5 * 2 * (3 * W) ** 2 * 3.0) + 3 * by_hand
        W *= 3
    assert by_hand == pytest.approx(logs[-1])
    total = rates.log10_closed_total(4, 0.5, 2.0, 2, 0.5, 3.0, 3.0, 1.0)
    assert total == pytest.approx(5 * math.log10(1 + 0.5 * 2 * 36 * 3) + 4 * 0.5)


def test_polynomial_bound_bounds_norms():
    f = TrigFunction.cosine([1, 2], 3.0) + TrigFunction.cosine([2, 0], 1.0)
    polynomial = f * 0.5 + f.power(3).function * 0.25
    assert polynomial.barron_norm() <= rates.polynomial_bound(3, [0.5, 0.25], 2) * f.barron_norm() ** 3


def test_drift_bound_sums_its_recursion():
    e = 0.0
    for _ in range(7):
        e = (1 + 0.3 * (1.5 + 0.1)) * e + 0.3 * 0.1 * 2.0
    assert rates.drift_bound_summed(7, 0.1, 1.5, 0.3, 2.0) == pytest.approx(e)


# --- flows


def test_one_step_on_a_mode():
    grid = SineGrid(3, 2)
    f = grid.mode((1, 1), 5.0)
    u = grid.mode((1, 1), 0.7)
    flow = descend(SineProblem(linear(), grid, f), 1.0, 1, start=u)
    mu = 2 * math.pi**2
    assert abs(flow.solution[0, 0] - (0.7 - (mu * 0.7 - 5.0) / (1 + mu))) < 1e-12
    trig = TrigProblem(linear(), TrigFunction.from_sine_coefficients(f))
    sparse = descend_sparse(trig, 1.0, 1, start=TrigFunction.from_sine_coefficients(u))
    assert (sparse.solution - TrigFunction.from_sine_coefficients(flow.solution, 1e-14)).mass() < 1e-12


@pytest.mark.parametrize("name", ["linear", "minimal_surface", "power"])
def test_energy_gap_stays_under_the_bound(name):
    grid = SineGrid(15, 2)
    u = solution_of(grid)
    problem = SineProblem.manufactured(ENERGIES[name], grid, u)
    promise = rates.rates(*ENERGIES[name].bounds(), rates.poincare_constant("cube", 2))
    flow = descend(problem, promise.eta, 25, truth=u)
    gaps = np.array(flow.energy) - problem.value(u)
    bound = promise.factor ** np.arange(26) * gaps[0]
    assert (gaps <= bound + 1e-12 * abs(problem.value(u))).all()
    assert flow.error_h1[-1] < flow.error_h1[0]
    source = grid.barron_norm(problem.source)
    allowed = [
        rates.step_bound(b, o, source, promise.eta) for b, o in zip(flow.barron, flow.operator_barron, strict=True)
    ]
    assert (np.array(flow.barron[1:]) <= np.array(allowed[:-1]) * (1 + 1e-12)).all()


def test_flow_reaches_newtons_solution():
    grid = SineGrid(31, 2)
    x, y = elliptic_sine.interior_points(31, 2)
    f = 30 * np.sin(np.pi * x) * np.sin(np.pi * y) + 20 * np.sin(2 * np.pi * x) * np.sin(3 * np.pi * y)
    source = grid.mode((1, 1), 30.0) + grid.mode((2, 3), 20.0)
    flow = descend(SineProblem(semilinear(), grid, source), 0.5, 60, tolerance=1e-12)
    newton, _ = elliptic_sine.semilinear(f, lambda u: 0.5 * u + u**3, lambda u: 0.5 + 3 * u**2)
    assert np.abs(grid.values(flow.solution)[1::2, 1::2] - newton).max() < 1e-8


def test_sparse_flow_agrees_with_differences_on_the_torus():
    source = TrigFunction.cosine([1, 0], unit=1.0) + TrigFunction.cosine([0, 1], unit=1.0)
    problem = TrigProblem(semilinear(1.0, 0.025), source, drop=1e-9)
    flow = descend_sparse(problem, 0.5, 60, relative=1e-8, most=2000, tolerance=1e-6)
    assert flow.certificate[-1] <= 1e-6
    errors = []
    for n in (16, 32):
        u, _ = torus_differences(source, n, reaction=1.0, quartic=0.025)
        errors.append(float(np.abs(u - torus_values(flow.solution, n)).max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_preconditioning_matters():
    grid = SineGrid(15, 2)
    u = solution_of(grid)
    problem = SineProblem.manufactured(linear(), grid, u)
    plain = descend(problem, 1 / grid.eigenvalues.max(), 20, truth=u, preconditioner="none")
    flow = descend(problem, 0.5, 20, truth=u)
    assert flow.error_h1[-1] < 1e-3 * plain.error_h1[-1]


# --- networks


@pytest.fixture
def target():
    grid = SineGrid(4, 2)
    return TrigFunction.from_sine_coefficients(solution_of(grid) + grid.mode((4, 1), 0.2))


def test_maurey_is_unbiased_with_its_variance(target, rng):
    draws, k = 400, 16
    nets = [networks.maurey_sample(target, k, rng) for _ in range(draws)]
    points = rng.random((50, 2))
    values = np.array([net(points) for net in nets])
    bias = values.mean(axis=0) - target(points)
    assert (np.abs(bias) <= 4 * values.std(axis=0, ddof=1) / math.sqrt(draws)).all()
    errors = np.mean([networks.mean_square_error(net, target) for net in nets])
    assert errors == pytest.approx(networks.maurey_variance(target, k), rel=0.1)
    # The textbook's C² - |g|² is the variance of sampled exponentials; real cosines do better.
    assert networks.maurey_variance(target, k, "exponential") > 1.9 * networks.maurey_variance(target, k)


@pytest.mark.parametrize("activation, tolerance", [("relu", 1e-9), ("sigmoid", 0.01)])
def test_ridge_units_average_to_the_target(target, rng, activation, tolerance):
    points = rng.random((40, 2))
    draws = [networks.maurey_sample(target, 2000, rng, activation)(points) for _ in range(60)]
    error = np.mean(draws, axis=0) - target(points)
    spread = np.std(draws, axis=0, ddof=1) / math.sqrt(60)
    assert (np.abs(error) <= 4.5 * spread + tolerance).all()


def test_greedy_cosines_are_the_best_terms(target):
    net = networks.greedy_cosines(target, 3)
    assert net.units == 3
    half = np.sort(np.abs(target.coeffs))[::-1][::2]
    assert networks.mean_square_error(net, target) == pytest.approx(float(2 * (half[3:] ** 2).sum()))
    assert networks.mean_square_error(networks.greedy_cosines(target, 100), target) < 1e-28


def test_greedy_fit_is_least_squares_on_its_choice(rng):
    atoms, values = rng.standard_normal((80, 40)), rng.standard_normal(80)
    found = networks.greedy_fit(atoms, values, 12)
    weights, residual, *_ = np.linalg.lstsq(atoms[:, found.chosen], values, rcond=None)
    assert np.allclose(weights, found.weights)
    assert found.errors[-1] == pytest.approx(float(residual[0]) / 80)
    assert (np.diff(found.errors) <= 1e-12).all()
    planted = networks.greedy_fit(atoms, 2.0 * atoms[:, 3], 5)
    assert planted.chosen == [3] and planted.weights[0] == pytest.approx(2.0)


def test_random_features_fit(target, rng):
    points = rng.random((500, 2))
    net = networks.random_features(points, target(points), 200, rng, scale=6.0)
    fresh = rng.random((200, 2))
    assert networks.l2_error(net, target(fresh), fresh) < 0.05 * np.std(target(fresh))


def test_ritz_gradient_and_training():
    generator = torch.Generator().manual_seed(0)
    net = RitzNet(2, 32, generator)
    x = torch.rand(6, 2, generator=generator, requires_grad=True)
    u, p = net.with_gradient(x)
    (auto,) = torch.autograd.grad(u.sum(), x)
    assert torch.allclose(p, auto, atol=1e-5)
    assert torch.allclose(u, net(x), atol=1e-6)

    def truth(y):
        return torch.sin(math.pi * y[:, 0]) * torch.sin(math.pi * y[:, 1])

    def source(y):
        return (2 * math.pi**2 + 0.5) * truth(y) + truth(y) ** 3

    x = x.detach()
    before = float((net(x) - truth(x)).norm().detach())
    history = train_ritz(net, source, reaction=0.5, quartic=0.25, steps=200, generator=generator, points=256, lr=0.02)
    assert not history.diverged
    assert float((net(x) - truth(x)).norm().detach()) < 0.2 * before


# --- bad input


def test_bad_input(target, rng):
    with pytest.raises(ValueError, match="λ"):
        rates.rates(0.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="λ"):
        rates.rates(2.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="λ"):
        rates.rates(*semilinear().bounds(), 0.1)
    with pytest.raises(ValueError, match="positive definite"):
        linear(((1.0, 2.0), (2.0, 1.0)))
    with pytest.raises(ValueError, match="L is not convex enough at u"):
        semilinear(0.0, -0.25).check_convex(2, rng)
    with pytest.raises(ValueError, match="L is not convex enough at u = 0"):
        semilinear(-1e-3, 0.25).check_convex(2, rng)
    with pytest.raises(ValueError, match="L is not convex enough at u = 3e"):
        semilinear(1.0, -1e-4).check_convex(2, rng)
    with pytest.raises(ValueError, match="L is not convex enough at u = 0"):
        descend(SineProblem(semilinear(-30, 0.25), SineGrid(5, 2), np.ones((5, 5))), 0.1, 3)
    with pytest.raises(ValueError, match="L is not convex enough at u = 0"):
        descend_sparse(TrigProblem(semilinear(-30, 0.25), target), 0.1, 3)
    with pytest.raises(ValueError, match="not a polynomial"):
        TrigProblem(minimal_surface(), target)
    with pytest.raises(ValueError, match="even and at least 4"):
        Energy("cubic", powers=((3, 1.0),))
    with pytest.raises(ValueError, match="left the numbers at step"):
        descend_sparse(TrigProblem(semilinear(1.0, 1.0), target), 50.0, 60, relative=1e-6, most=50)
    with pytest.raises(ValueError, match="real function"):
        networks.greedy_cosines(TrigFunction(np.array([[1], [-2]]), np.array([1, 1j])), 5)
    with pytest.raises(ValueError, match="terms exceed the cap"):
        descend_sparse(TrigProblem(semilinear(), target), 0.5, 10, memory=150)
    grid = SineGrid(7, 2)
    problem = SineProblem.manufactured(linear(), grid, solution_of(grid))
    with pytest.warns(UserWarning, match="above the stable"):
        descend(problem, 2.5, 2)
    wave = TrigFunction.cosine([1, 0], unit=1.0)
    with pytest.warns(UserWarning, match="above the stable 2 of the linear part"):
        descend_sparse(TrigProblem(linear(reaction=1.0), wave), 3.0, 10)
    with pytest.warns(UserWarning, match="above the stable range: the certificate rose"):
        descend_sparse(TrigProblem(semilinear(1.0, 5.0), 3 * wave), 1.5, 4, relative=1e-6, most=100)
    with pytest.raises(ValueError, match="did you mean 'I-Lap'"):
        descend(problem, 0.5, 2, preconditioner="I-Lapl")
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        networks.maurey_sample(target, 5, rng, "relu6")
    with pytest.raises(ValueError, match="not zero"):
        networks.maurey_sample(target * 0.0, 5, rng)
    with pytest.raises(ValueError, match="unknowns are too many"):
        torus_differences(TrigFunction.cosine([1] * 10), 16, reaction=1.0, quartic=0.0)
