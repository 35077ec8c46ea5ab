"""Krylov methods and estimates against dense linear algebra."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tensorbench.optimizers import curvature, linops, probes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def symmetric(d, seed=0):
    a = torch.randn(d, d, generator=generator(seed), dtype=torch.float64)
    return (a + a.T) / 2


LINE = torch.diag(torch.arange(1, 201, dtype=torch.float64))


def test_probes_do_not_depend_on_how_the_tensors_are_cut():
    whole = torch.zeros(257, dtype=torch.float64)
    parts = list(whole.split([3, 54, 200]))
    for draw in (probes.rademacher, probes.gaussian):
        one, many = draw(whole, generator(5)), draw(parts, generator(5))
        assert torch.equal(one, torch.cat(many)) and not torch.equal(one, draw(whole, generator(6)))
    signs = probes.rademacher(torch.zeros(20_000), generator())
    normal = probes.gaussian(torch.zeros(20_000, dtype=torch.float64), generator())
    assert set(signs.tolist()) == {1.0, -1.0} and abs(signs.mean()) < 0.03
    assert abs(normal.mean()) < 0.03 and abs(normal.var() - 1) < 0.05 and abs((normal**4).mean() - 3) < 0.3
    again = probes.replay([one])
    assert again(whole) is one
    with pytest.raises(ValueError, match="used up"):
        again(whole)
    with pytest.raises(ValueError, match="shapes"):
        probes.replay([one])(parts)
    with pytest.raises(ValueError, match="rademacher"):
        probes.source("rademacer", generator())


def test_lanczos_finds_all_eigenvalues_of_a_diagonal_matrix():
    op, start = linops.dense(LINE), probes.gaussian(torch.zeros(200, dtype=torch.float64), generator())
    run = linops.lanczos(op, 200, start)
    assert torch.allclose(run.values, torch.arange(1, 201, dtype=torch.float64), atol=1e-8)
    assert torch.allclose(run.basis.T @ run.basis, torch.eye(200, dtype=torch.float64), atol=1e-10)
    assert run.weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.allclose(run.weights, (start / start.norm()).square(), atol=1e-8)


def test_thirty_steps_find_extremes_that_stand_off_by_a_hundredth():
    spectrum = torch.cat([torch.linspace(0, 1, 198, dtype=torch.float64), torch.tensor([-0.2, 1.3]).double()])
    low, high = linops.extreme_eigenvalues(linops.dense(torch.diag(spectrum)), 30, generator())
    assert abs(low + 0.2) < 1e-6 and abs(high - 1.3) < 1e-6
    run = linops.lanczos(linops.dense(torch.diag(spectrum)), 30, torch.ones(200, dtype=torch.float64))
    matrix, u = torch.diag(spectrum), run.vectors()
    left = (matrix @ u - u * run.values).norm(dim=0)
    assert torch.allclose(left, run.residuals, atol=1e-9)


def test_two_vectors_find_the_extremes_and_make_ghosts():
    d = 200
    spectrum = torch.cat([torch.linspace(0, 1, d - 1, dtype=torch.float64), torch.tensor([20.0]).double()])
    start = probes.gaussian(spectrum, generator())
    kept = linops.lanczos(linops.dense(torch.diag(spectrum)), 80, start)
    short = linops.lanczos(linops.dense(torch.diag(spectrum)), 80, start, reorthogonalise=False)
    assert short.basis is None and short.values[-1].item() == pytest.approx(20, abs=1e-9)
    assert (kept.values > 19).sum() == 1 and (short.values > 19).sum() > 1
    with pytest.raises(ValueError, match="reorthogonalise"):
        short.vectors()


def test_an_invariant_space_ends_lanczos_early():
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1.0, 4.0, 4.0], dtype=torch.float64))
    run = linops.lanczos(linops.dense(matrix), 5, torch.ones(5, dtype=torch.float64))
    assert torch.allclose(run.values, torch.tensor([1.0, 4.0]).double()) and run.residuals.max() == 0
    same = linops.LinearOperator((4, 4), lambda block: block, torch.float64)  # a view of what it is given
    assert linops.lanczos(same, 3, torch.ones(4)).values.tolist() == [1.0]
    density = linops.slq_density(linops.dense(matrix), 5, 3, generator())
    assert density.values.shape == (3, 5) and torch.allclose(density.weights.sum(1), torch.ones(3).double())


def test_quadrature_has_the_moments_of_the_spectrum():
    matrix = symmetric(120) / math.sqrt(120)
    density = linops.slq_density(linops.dense(matrix), 12, 60, generator(1))
    values = torch.linalg.eigvalsh(matrix)
    for power in range(5):
        estimate, exact = density.moment(power), float((values**power).mean())
        assert abs(estimate.value - exact) <= 3 * estimate.error + 1e-12
    at = torch.linspace(-3, 3, 601, dtype=torch.float64)
    assert torch.trapezoid(density.pdf(at, 0.1), at).item() == pytest.approx(1, abs=1e-3)
    assert density.cdf(torch.tensor([-3.0, 0.0, 3.0]))[2] == pytest.approx(1)
    with pytest.raises(ValueError, match="width"):
        density.pdf(at, 0)


def test_traces_diagonals_and_norms():
    matrix = symmetric(60, 2)
    op = linops.dense(matrix)
    trace = linops.hutchinson_trace(op, 300, generator())
    assert abs(trace.value - matrix.trace()) < 4 * trace.error and trace.error < 5
    norm = linops.frobenius_squared(op, 300, generator())
    assert abs(norm.value - matrix.square().sum()) < 4 * norm.error
    basis = list(torch.eye(60, dtype=torch.float64))
    assert linops.hutchinson_trace(op, basis).value * 60 == pytest.approx(float(matrix.trace()))
    diagonal = torch.diag(torch.arange(1.0, 6.0))
    assert torch.equal(linops.hutchinson_diagonal(linops.dense(diagonal), 1, generator()), torch.arange(1.0, 6.0))
    many = linops.hutchinson_diagonal(op, 4000, generator())
    assert (many - matrix.diagonal()).abs().max() < 0.7


def test_power_iteration_keeps_the_sign():
    matrix = torch.diag(torch.tensor([-5.0, 1.0, 3.0], dtype=torch.float64))
    value, vector = linops.power_iteration(linops.dense(matrix), generator(), 200, 1e-12)
    assert value == pytest.approx(-5, abs=1e-8) and abs(vector[0]) == pytest.approx(1)
    assert linops.power_iteration(linops.dense(torch.zeros(3, 3)), generator())[0] == 0


def test_conjugate_gradient_solves_and_meets_negative_curvature():
    a = symmetric(40, 3)
    positive = a @ a.T / 40 + torch.eye(40, dtype=torch.float64)
    b = torch.randn(40, generator=generator(4), dtype=torch.float64)
    exact = torch.linalg.solve(positive + 0.5 * torch.eye(40, dtype=torch.float64), b)
    for start in (None, torch.ones(40, dtype=torch.float64)):
        found = linops.conjugate_gradient(linops.dense(positive), b, start, damping=0.5, steps=60, tolerance=1e-12)
        assert found.converged and torch.allclose(found.x, exact, atol=1e-9) and found.curvature > 0
    scaled = torch.diag(torch.logspace(0, 6, 40, dtype=torch.float64))
    plain = linops.conjugate_gradient(linops.dense(scaled), b, steps=10)
    helped = linops.conjugate_gradient(linops.dense(scaled), b, steps=10, precondition=lambda r: r / scaled.diagonal())
    assert helped.converged and not plain.converged
    saddle = linops.conjugate_gradient(linops.dense(torch.diag(torch.tensor([1.0, -2.0]))), torch.ones(2))
    assert not saddle.converged and saddle.curvature < 0
    assert linops.conjugate_gradient(linops.dense(positive), torch.zeros(40)).converged


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda op: linops.lanczos(op, 201, torch.ones(200)), "between 1 and the dimension, 200"),
        (lambda op: linops.lanczos(op, 5, torch.zeros(200)), "length 0"),
        (lambda op: linops.lanczos(op, 5, torch.ones(199)), "shape"),
        (lambda op: linops.slq_density(op, 5, 0, generator()), "at least 1"),
        (lambda op: linops.slq_density(op, 5, 2), "generator"),
        (lambda op: linops.hutchinson_trace(op, []), "at least one"),
        (lambda op: linops.conjugate_gradient(op, torch.ones(3)), "right-hand side"),
        (lambda op: op @ torch.ones(3), "cannot be multiplied"),
        (lambda op: op @ torch.full((200,), math.nan), "NaN"),
        (lambda op: linops.LinearOperator((2, 3), lambda x: x), "square"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(linops.dense(LINE))


def test_extremes_of_a_network_are_pyhessians():
    pyhessian = pytest.importorskip("pyhessian")
    g = generator()
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.5, generator=g)
    batch = (torch.randn(50, 5, generator=g), torch.randint(0, 3, (50,), generator=g))
    op = curvature.hessian_of(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batch)
    _, high = linops.extreme_eigenvalues(op, 40, g)
    theirs = pyhessian.hessian(model, nn.CrossEntropyLoss(), data=batch, cuda=False).eigenvalues(500, 1e-7)[0][0]
    assert high == pytest.approx(theirs, rel=1e-4)
