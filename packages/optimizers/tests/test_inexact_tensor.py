"""Accelerated tensor methods: the step, the estimating sequence, the oracles, the trajectories, bad input."""

import math

import numpy as np
import pytest
import torch

from tensorbench.core.training import fit
from tensorbench.optimizers.base import NonFiniteLossError
from tensorbench.optimizers.inexact_tensor import torch_optimizers as optimizers
from tensorbench.optimizers.inexact_tensor.ascn import ASCN, Schedule
from tensorbench.optimizers.inexact_tensor.baselines import (
    CubicNewton,
    ExtraNewton,
    GradientDescent,
    NesterovGradient,
    optami_nesterov,
    trust_exact,
)
from tensorbench.optimizers.inexact_tensor.bounds import lower_bound, rate_bound, simple_certificate, worst_case_cubic
from tensorbench.optimizers.inexact_tensor.cubic import cubic_subproblem, dynamic_rule
from tensorbench.optimizers.inexact_tensor.estimating import EstimatingSequence, alpha, product_of_rest
from tensorbench.optimizers.inexact_tensor.oracles import (
    AdditiveNoiseOracle,
    BiasedHessianOracle,
    ExactOracle,
    MiniBatchOracle,
    Oracle,
)
from tensorbench.optimizers.inexact_tensor.restarts import RestartedASCN, stage_length
from tensorbench.optimizers.inexact_tensor.sartem import SARTEM, tensor_subproblem
from tensorbench.optimizers.landscapes.convex import (
    Landscape,
    LogisticLoss,
    cubic_chain,
    log_sum_exp,
    power_chain,
    random_quadratic,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=rng(seed))


def psd(d, seed=0, rank=None):
    A = normal(d, rank or d, seed=seed)
    return A @ A.T / d


# --- the cubic step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 5, 12])
@pytest.mark.parametrize(("M", "delta"), [(1e-3, 0.0), (1.0, 0.3), (100.0, 0.0)])
def test_the_cubic_step_is_stationary(rank, M, delta):
    g, H = normal(12, seed=1), psd(12, 2, rank)
    step = cubic_subproblem(g, H, M, delta)
    stationary = g + (H @ step.h + delta * step.h) + M / 2 * step.h.norm() * step.h
    assert float(stationary.norm()) < 1e-10 * max(1.0, float(g.norm())) and step.accepted
    assert step.residual == pytest.approx(float(stationary.norm()), abs=1e-12)


def test_no_gradient_no_step():
    step = cubic_subproblem(torch.zeros(4, dtype=torch.float64), psd(4), 1.0)
    assert torch.equal(step.h, torch.zeros(4, dtype=torch.float64)) and step.residual == 0


@pytest.mark.parametrize("g", [-3.0, 1e-6, 2.0])
def test_one_dimension_has_a_closed_form(g):
    H, M, delta = 0.7, 2.5, 0.1
    a = H + delta
    r = (-a + math.sqrt(a * a + 2 * M * abs(g))) / M
    h = cubic_subproblem(torch.tensor([g], dtype=torch.float64), torch.tensor([[H]], dtype=torch.float64), M, delta).h
    assert float(h) == pytest.approx(-math.copysign(r, g), rel=1e-12)


@pytest.mark.parametrize("method", ["krylov", "gd"])
def test_krylov_and_descent_reach_the_exact_step(method):
    g, H = normal(30, seed=3), psd(30, 4)
    exact = cubic_subproblem(g, H, 1.0, 0.05)
    for operator in (H, lambda v: H @ v):
        step = cubic_subproblem(g, operator, 1.0, 0.05, method, tau=1e-9)
        assert step.accepted and torch.allclose(step.h, exact.h, atol=1e-7)
        true = g + H @ step.h + 0.05 * step.h + step.h.norm() / 2 * step.h
        assert float(true.norm()) == pytest.approx(step.residual, abs=1e-10)


def test_a_looser_tolerance_needs_fewer_products():
    g, H = normal(200, seed=3), psd(200, 4)
    loose, tight = (cubic_subproblem(g, H, 1.0, method="krylov", tau=tau) for tau in (1e-1, 1e-6))
    assert loose.residual <= 1e-1 and tight.residual <= 1e-6 and loose.products < tight.products
    stopped = cubic_subproblem(g, H, 1.0, method="krylov", tau=1e-12, max_products=3)
    assert not stopped.accepted and stopped.products == 3


def test_agrees_with_optami():
    solver = pytest.importorskip("OPTAMI.utils.subproblem_solver")
    g, H = normal(8, seed=5), psd(8, 6)
    weights = torch.nn.Parameter(torch.zeros(8, dtype=torch.float64))
    theirs = solver.cubic_exact([weights], g, H, 2.0, delta=0.1, precision=1e-12)
    theirs = theirs[0] if isinstance(theirs, list | tuple) else theirs
    ours = cubic_subproblem(g, H, 2.0, 0.1).h
    difference = min(float((theirs.reshape(-1) - sign * ours).norm()) for sign in (1, -1))  # as h or as -h
    assert difference < 1e-6 * float(ours.norm())


def test_negative_eigenvalues_are_projected_or_refused():
    H = torch.diag(torch.tensor([-0.5, 1.0, 2.0], dtype=torch.float64))
    g = torch.ones(3, dtype=torch.float64)
    step = cubic_subproblem(g, H, 1.0)
    assert step.clamped == 0.5
    assert torch.allclose(step.h, cubic_subproblem(g, H.clamp(min=0), 1.0).h)
    with pytest.raises(ValueError, match=r"eigenvalue -0\.5"):
        cubic_subproblem(g, H, 1.0, noisy=False)


def test_the_cubic_step_of_float32_stays_float32():
    step = cubic_subproblem(normal(5).float(), psd(5).float(), 1.0)
    assert step.h.dtype == torch.float32 and step.residual < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"M": 0.0}, "M 0"),
        ({"delta": -1.0}, "delta"),
        ({"method": "kyrlov"}, "did you mean 'krylov'"),
        ({"tau": -1.0}, "tau"),
        ({"H": torch.eye(3, dtype=torch.float64) + torch.triu(torch.ones(3, 3, dtype=torch.float64), 1)}, "differ by"),
        ({"g": torch.tensor([1.0, math.nan, 0.0], dtype=torch.float64)}, "NaN"),
    ],
)
def test_a_bad_subproblem_is_refused(change, message):
    good = {"g": torch.ones(3, dtype=torch.float64), "H": torch.eye(3, dtype=torch.float64), "M": 1.0}
    with pytest.raises(ValueError, match=message):
        cubic_subproblem(**(good | change))


# --- the estimating sequence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights", [(0.3, 2.0, 0.0), (0.0, 1.5, 0.0), (0.3, 0.5, 4.0), (0.0, 0.0, 2.0), (2.0, 0.0, 0.0)]
)
def test_the_minimiser_agrees_with_scipy(weights):
    from scipy.optimize import minimize

    sequence = EstimatingSequence.at(normal(5, seed=1)).add(
        normal(5, seed=2), 3.0, **dict(zip(("c2", "c3", "c4"), weights, strict=True))
    )
    argmin = sequence.argmin()
    assert torch.allclose(argmin, sequence.argmin(closed_form=False), rtol=1e-13, atol=1e-13)

    def value_and_gradient(x):
        at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        value = sequence.value(at)
        value.backward()
        return float(value.detach()), at.grad.numpy()

    found = minimize(value_and_gradient, argmin.numpy() + 0.1, jac=True, method="BFGS", options={"gtol": 1e-11})
    assert np.abs(found.x - argmin.numpy()).max() < 1e-8 and found.fun >= float(sequence.value(argmin)) - 1e-12


def test_weights_never_fall_and_must_not_all_be_zero():
    sequence = EstimatingSequence.at(torch.zeros(2)).add(torch.ones(2), 1.0, c3=2.0)
    with pytest.raises(ValueError, match="never fall"):
        sequence.add(torch.ones(2), 1.0, c3=1.0)
    with pytest.raises(ValueError, match="no minimiser"):
        EstimatingSequence.at(torch.zeros(2)).add(torch.ones(2), 1.0).argmin()


def test_products_of_the_remaining_shares():
    assert alpha(0) == 1 and alpha(0, 3) == 1
    for p in (2, 3):
        product = 1.0
        for t in range(1, 30):
            product *= 1 - alpha(t, p)
            assert product_of_rest(t, p) == pytest.approx(product, rel=1e-13)
    assert product_of_rest(7) == pytest.approx(6 / (8 * 9 * 10), rel=1e-15)


# --- landscapes and oracles ----------------------------------------------------------------------------------------


def landscapes():
    return [
        cubic_chain(6),
        power_chain(5, 4),
        log_sum_exp(4, 9, rng(1)),
        random_quadratic([0.0, 0.5, 3.0], rng(2)),
    ]


@pytest.mark.parametrize("f", landscapes(), ids=lambda f: f.name)
def test_landscapes_know_their_derivatives_and_their_minimum(f: Landscape):
    x, h = normal(len(f.start), seed=3), normal(len(f.start), seed=4)
    auto, closed = ExactOracle(f.value), ExactOracle(f)
    assert torch.allclose(auto.grad(x), closed.grad(x)) and torch.allclose(auto.hess(x), closed.hess(x), atol=1e-12)
    assert torch.allclose(auto.third_vec(x, h), closed.third_vec(x, h), atol=1e-10)
    assert torch.allclose(closed.hvp(x)(h), closed.hess(x) @ h)
    assert f.gap(f.minimiser) == pytest.approx(0, abs=1e-12) and f.grad(f.minimiser).norm() < 1e-12
    assert f.gap(x) > 0 and f.radius == pytest.approx(float((f.start - f.minimiser).norm()))
    if 2 in f.lipschitz:
        for seed in range(5):
            y = x + 0.3 * normal(len(x), seed=seed)
            change = torch.linalg.matrix_norm(f.hess(x) - f.hess(y), 2) / (x - y).norm()
            assert float(change) <= f.lipschitz[2] + 1e-12


def test_the_chain_is_the_hard_instance():
    f = worst_case_cubic(7)
    assert f.minimum == pytest.approx(-2 * 7 / 3) and f.lipschitz[2] == 16
    assert torch.equal(f.minimiser, torch.arange(7, 0, -1, dtype=torch.float64))
    H = f.hess(normal(7))
    assert float(torch.triu(H, 2).abs().max()) == 0 and float(torch.diag(H, 1).abs().min()) > 0


FUNCTIONS = [
    lambda x: (x**4).sum() + x[0] * x[1] ** 2,
    lambda x: torch.sin(x).sum() * x.norm(),
    lambda x: torch.logsumexp(x * x, 0),
    lambda x: torch.exp(x @ x / 10),
    lambda x: (x[:-1] * x[1:]).prod() + torch.cosh(x).sum(),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_third_derivatives_are_jvp_of_jvp(function):
    x, h = normal(4, seed=5), normal(4, seed=6)
    along = lambda s: torch.func.grad(function)(x + s * h)  # noqa: E731
    first = lambda s: torch.func.jvp(along, (s,), (torch.ones_like(s),))[1]  # noqa: E731
    zero = torch.zeros((), dtype=torch.float64)
    second = torch.func.jvp(first, (zero,), (torch.ones_like(zero),))[1]
    assert torch.allclose(ExactOracle(function).third_vec(x, h), second, rtol=1e-10, atol=1e-12)


def logistic(rows=60, d=5, l2=0.01):
    A = normal(rows, d, seed=7)
    A = A / A.norm(dim=1, keepdim=True)
    return LogisticLoss(l2), (A, normal(rows, seed=8).sign())


def test_mini_batches_are_unbiased_and_whole_batches_exact():
    loss, data = logistic()
    exact = ExactOracle(lambda x: loss(x, *data))
    x = normal(5, seed=9)
    whole = MiniBatchOracle(loss, data)
    assert torch.allclose(whole.grad(x), exact.grad(x)) and torch.allclose(whole.hess(x), exact.hess(x))
    part, g = MiniBatchOracle(loss, data, bg=20, bh=20), rng(0)
    gradients = torch.stack([part.grad(x, g) for _ in range(400)])
    error = gradients.mean(0) - exact.grad(x)
    assert float((error.abs() / (gradients.std(0) / 20)).max()) < 4.5
    assert part.gradient_rows == 8000
    hessian = torch.stack([part.hess(x, g) for _ in range(400)]).mean(0)
    assert float((hessian - exact.hess(x)).norm()) < 0.01 and part.hess(x, g).shape == (5, 5)
    plain = MiniBatchOracle(lambda x, A, b: loss(x, A, b), data, bh=20)  # differentiated by torch
    assert torch.allclose(plain.grad(x), exact.grad(x))
    assert torch.allclose(plain.hess(x, rng(3)), part.hess(x, rng(3)))
    v = normal(5, seed=1)
    assert torch.allclose(part.hvp(x, rng(3))(v), part.hess(x, rng(3)) @ v)


def test_noise_has_its_size_and_none_is_bitwise_nothing():
    f = cubic_chain(30)
    base = ExactOracle(f)
    x, g = normal(30), rng(1)
    noisy = AdditiveNoiseOracle(base, s1=2.0, s2=0.5)
    assert (noisy.sigma1, noisy.delta2) == (2.0, 0.5) and isinstance(noisy, Oracle)
    errors = torch.stack([noisy.grad(x, g) - f.grad(x) for _ in range(200)])
    assert float((errors**2).sum(1).mean()) == pytest.approx(4.0, rel=0.1)
    sizes = [float(torch.linalg.matrix_norm(noisy.hess(x, g) - f.hess(x), 2)) for _ in range(20)]
    assert np.mean(sizes) == pytest.approx(0.5, rel=0.15)
    quiet = AdditiveNoiseOracle(base)
    runs = [ASCN(oracle, 16.0, 40.0, 20).run(f.start, rng(0)).x for oracle in (base, quiet)]
    assert torch.equal(*runs)
    biased = BiasedHessianOracle(base, 0.3)
    assert float(torch.linalg.matrix_norm(biased.hess(x) - f.hess(x), 2)) == pytest.approx(0.3)
    assert torch.equal(biased.hess(x), biased.hess(x)) and torch.equal(
        BiasedHessianOracle(base, 0.0).hess(x), f.hess(x)
    )


# --- trajectories --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("M", [16.0, 64.0])
def test_the_certificate_holds_at_every_step(M):
    f = cubic_chain(8)
    gaps = []
    ASCN(ExactOracle(f), M, T=60).run(f.start, record=lambda state: gaps.append(f.gap(state.x)))
    for T, gap in enumerate(gaps, 1):
        assert gap <= simple_certificate(T, M, f.radius) <= rate_bound(T, M, f.radius)


def test_the_certificate_with_a_wrong_hessian_holds():
    f = log_sum_exp(6, 20, rng(1))
    M, oracle = 4 * f.lipschitz[2], BiasedHessianOracle(ExactOracle(f), 0.5)
    gaps = []
    ASCN(oracle, M, f.radius, 60).run(f.start, record=lambda state: gaps.append(f.gap(state.x)))
    assert all(gap <= rate_bound(T, M, f.radius, 0.0, 0.5) for T, gap in enumerate(gaps, 1))


def test_the_third_order_certificate_holds():
    f = power_chain(6, 4)
    M = 6 * f.lipschitz[3]
    gaps = []
    SARTEM(ExactOracle(f), 3, M, T=30).run(f.start, record=lambda state: gaps.append(f.gap(state.x)))
    assert all(gap <= simple_certificate(T, M, f.radius, p=3) for T, gap in enumerate(gaps, 1))
    assert gaps[-1] < gaps[5] < gaps[0]


def test_bounds_have_the_orders_of_the_theorem():
    T = 4000
    for arguments, order in (
        ({"M": 1.0}, 3),
        ({"M": 1e-9, "sigma2": 1.0}, 2),
        ({"M": 1e-9, "sigma1": 1.0}, 0.5),
    ):
        ratio = rate_bound(T, R=1.0, **arguments) / rate_bound(4 * T, R=1.0, **arguments)
        assert ratio == pytest.approx(4**order, rel=0.02)
    assert lower_bound(4, 2.0, 3.0, 5.0, 7.0) == pytest.approx(5 * 3 / 2 + 7 * 9 / 16 + 2 * 27 / 128)
    assert rate_bound(30, 16.0, 2.0) == pytest.approx(12 * 16 * 8 / 32**3)


def test_a_quadratic_takes_three_steps():
    f = random_quadratic([0.1, 1.0, 5.0, 20.0], rng(3))
    state = ASCN(ExactOracle(f), 1e-12, T=3).run(f.start)
    assert f.gap(state.x) < 1e-12


def test_the_first_step_is_at_the_start():
    f = cubic_chain(5)
    method = ASCN(ExactOracle(f), 64.0)
    first = method.step(method.start(f.start))
    expected = f.start + cubic_subproblem(f.grad(f.start), f.hess(f.start), 64.0).h
    assert torch.allclose(first.x, expected, atol=1e-14)


def test_order_two_coincides_with_ascn():
    f = cubic_chain(6)
    oracle = AdditiveNoiseOracle(ExactOracle(f), 0.1, 0.1)
    a = ASCN(oracle, 64.0, f.radius, 40).run(f.start, rng(1))
    b = SARTEM(oracle, 2, 64.0, f.radius, 40).run(f.start, rng(1))
    assert torch.allclose(a.x, b.x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("p", [2, 3])
def test_the_trajectory_moves_and_turns_with_the_function(p):
    f = log_sum_exp(5, 12, rng(2))
    Q, _ = torch.linalg.qr(normal(5, 5, seed=3))
    shift = normal(5, seed=4)
    M = 4 * f.lipschitz[2] if p == 2 else 50.0
    moved = ExactOracle(lambda z: f.value(Q.T @ (z - shift)))
    here, there = [], []
    SARTEM(ExactOracle(f.value), p, M, T=15).run(f.start, record=lambda s: here.append(s.x))
    SARTEM(moved, p, M, T=15).run(Q @ f.start + shift, record=lambda s: there.append(s.x))
    for x, z in zip(here, there, strict=True):
        assert torch.allclose(Q @ x + shift, z, atol=1e-8)


def test_the_third_order_step_is_stationary():
    f = log_sum_exp(5, 12, rng(2))
    x, M = f.start, 80.0
    step = tensor_subproblem(f.grad(x), f.hess(x), lambda h: f.third_vec(x, h), M, 0.1, 0.2)
    h, r = step.h, step.h.norm()
    model = f.grad(x) + f.hess(x) @ h + f.third_vec(x, h) / 2 + (0.1 + 0.1 * r + M * r**2 / 6) * h
    assert (
        float(model.norm()) < 1e-9 and step.accepted and step.residual == pytest.approx(float(model.norm()), abs=1e-12)
    )


def test_krylov_steps_under_the_dynamic_rule_follow_the_exact_ones():
    f = cubic_chain(12)
    exact = ASCN(ExactOracle(f), 64.0, f.radius, 40).run(f.start)
    inexact = ASCN(ExactOracle(f), 64.0, f.radius, 40, solver="krylov", tau=dynamic_rule(1e-3)).run(f.start)
    assert f.gap(inexact.x) <= 1.05 * f.gap(exact.x)


def test_restarts_halve_the_squared_distance():
    f = random_quadratic([0.2, 1.0, 3.0], rng(1), radius=2.0)
    lengths = [stage_length(8.0, R, 0.2) for R in (4.0, 2.0, 1.0)]
    assert lengths == sorted(lengths, reverse=True) and rate_bound(lengths[0], 8.0, 4.0) <= 0.2 * 16 / 4
    assert rate_bound(lengths[0] - 1, 8.0, 4.0) > 0.2 * 16 / 4
    for stage in RestartedASCN(ExactOracle(f), 8.0, 2.0, 0.2, stages=6).run(f.start):
        assert float((stage.x - f.minimiser).norm()) <= stage.R / math.sqrt(2)


def test_baselines_descend():
    loss, data = logistic()
    oracle = MiniBatchOracle(loss, data)
    x0 = torch.zeros(5, dtype=torch.float64)
    best = float(loss(trust_exact(oracle, x0), *data))
    assert float(loss.grad(trust_exact(oracle, x0), *data).norm()) < 1e-9
    for method, within in (
        (CubicNewton(oracle, 0.1, 30), 1e-8),
        (ExtraNewton(oracle, 10.0, 60), 1e-3),
        (GradientDescent(oracle, 4.0, 400), 1e-4),
        (NesterovGradient(oracle, 3.8, 200), 1e-4),
        (ASCN(oracle, 0.4, T=60), 1e-4),
    ):
        gap = float(loss(method.run(x0).x, *data)) - best
        assert -1e-12 <= gap < within, type(method).__name__


def test_nesterov_gradient_keeps_its_rate():
    f = random_quadratic(np.linspace(0.001, 1, 20), rng(2), radius=3.0)
    gaps = []
    NesterovGradient(ExactOracle(f), 1.0, 50).run(f.start, record=lambda s: gaps.append(f.gap(s.x)))
    assert all(gap <= 2 * 9 / (T + 1) ** 2 for T, gap in enumerate(gaps, 1))


def test_optami_descends_the_same_function():
    pytest.importorskip("OPTAMI")
    loss, data = logistic()
    x0 = torch.zeros(5, dtype=torch.float64)
    best = float(loss(trust_exact(MiniBatchOracle(loss, data), x0), *data))
    gaps = []
    optami_nesterov(lambda x: loss(x, *data), x0, 0.1, 20, lambda t, x: gaps.append(float(loss(x, *data)) - best))
    assert len(gaps) == 20 and gaps[-1] < gaps[0] < float(loss(x0, *data)) - best


# --- torch optimizers ----------------------------------------------------------------------------------------------


def two_tensors(f):
    x = f.start.clone()
    return [torch.nn.Parameter(x[:2].clone()), torch.nn.Parameter(x[2:].reshape(1, -1).clone())]


def closure_of(f, parameters):
    return lambda: f.value(torch.cat([p.reshape(-1) for p in parameters]))


@pytest.mark.parametrize("kind", ["ascn", "krylov", "sartem"])
def test_a_torch_optimizer_walks_like_the_method(kind):
    f = log_sum_exp(5, 12, rng(2))
    M = 4 * f.lipschitz[2]
    parameters = two_tensors(f)
    if kind == "sartem":
        optimizer, method = optimizers.SARTEM(parameters, M), SARTEM(ExactOracle(f.value), 3, M, T=8)
    else:
        solver = "exact" if kind == "ascn" else kind
        optimizer = optimizers.ASCN(parameters, M, solver=solver)
        method = ASCN(ExactOracle(f.value), M, T=8, solver=solver)
    losses = [float(optimizer.step(closure_of(f, parameters))) for _ in range(8)]
    x = torch.cat([p.detach().reshape(-1) for p in parameters])
    assert torch.allclose(x, method.run(f.start).x, atol=1e-9)
    assert losses[0] == pytest.approx(float(f.value(f.start))) and losses[-1] < losses[0]
    assert all(p.grad is None for p in parameters)


@pytest.mark.parametrize("make", [optimizers.ASCN, lambda p, M: optimizers.RestartedASCN(p, M, 2.0, 0.5)])
def test_a_saved_state_goes_on_where_it_was(make):
    f = random_quadratic([0.5, 1.0, 2.0, 3.0], rng(2))
    parameters = two_tensors(f)
    optimizer = make(parameters, 4.0)
    for _ in range(30):
        optimizer.step(closure_of(f, parameters))
    others = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    resumed = make(others, 4.0)
    resumed.load_state_dict(optimizer.state_dict())
    for _ in range(5):
        optimizer.step(closure_of(f, parameters))
        resumed.step(closure_of(f, others))
    assert all(torch.equal(p, q) for p, q in zip(parameters, others, strict=True))
    if isinstance(optimizer, optimizers.RestartedASCN):
        assert optimizer.param_groups[0]["stage"] >= 1 and optimizer.param_groups[0]["R"] < 2.0


def test_a_refused_step_changes_nothing():
    f = cubic_chain(4)
    parameters = two_tensors(f)
    optimizer = optimizers.ASCN(parameters, 64.0)
    optimizer.step(closure_of(f, parameters))
    before, state = [p.detach().clone() for p in parameters], repr(optimizer.state_dict())
    calls = []

    def breaks_at_the_second_call():
        calls.append(1)
        return closure_of(f, parameters)() * (math.nan if len(calls) == 2 else 1.0)

    with pytest.raises(NonFiniteLossError):
        optimizer.step(breaks_at_the_second_call)
    assert all(torch.equal(p, q) for p, q in zip(parameters, before, strict=True))
    assert repr(optimizer.state_dict()) == state
    with pytest.raises(ValueError, match="needs curvature"):
        optimizer.step()


# --- bad input -----------------------------------------------------------------------------------------------------


def test_bad_numbers_are_refused():
    oracle = ExactOracle(cubic_chain(3))
    for arguments, message in (
        ({"M": 0.0}, "M 0"),
        ({"M": 1.0, "R": -1.0}, "R -1"),
        ({"M": 1.0, "R": 1.0, "sigma1": -0.1}, "sigma1"),
        ({"M": 1.0, "T": 0}, "T 0"),
        ({"M": 1.0, "solver": "exat"}, "did you mean 'exact'"),
        ({"M": 1.0, "schedule": "never"}, "schedule"),
        ({"M": 1.0, "sigma1": 1.0}, "pass R"),
    ):
        with pytest.raises(ValueError, match=message):
            ASCN(oracle, **arguments)
    for p in (1, 4):
        with pytest.raises(ValueError, match="must be 2 or 3"):
            SARTEM(oracle, p)
        with pytest.raises(ValueError, match="must be 2 or 3"):
            Schedule(M=1.0, p=p)
    with pytest.raises(ValueError, match="T 0"):
        rate_bound(0, 1.0, 1.0)
    with pytest.raises(ValueError, match="more than"):
        RestartedASCN(oracle, 1.0, 1.0, 1e-3, sigma1=100.0)
    with pytest.raises(ValueError, match="larger than the data"):
        MiniBatchOracle(*logistic(rows=10), bg=11)
    MiniBatchOracle(*logistic(rows=10), bg=11, replacement=True).grad(torch.zeros(5, dtype=torch.float64), rng())
    with pytest.raises(ValueError, match="spectrum"):
        random_quadratic([1.0, -1.0], rng())


def test_bad_oracles_are_refused():
    start = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="not convex"):
        ASCN(ExactOracle(lambda x: x[0] - (x**2).sum()), 1.0, T=1).run(start)
    with pytest.raises(ValueError, match="gradient holds NaN or infinity in 1 of 2"):
        ASCN(ExactOracle(lambda x: x[0].sqrt() + x[1]), 1.0, T=1).run(start)

    class Lopsided(ExactOracle):
        def hess(self, x, rng=None):
            return torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64)

    with pytest.raises(ValueError, match=r"not symmetric: entries differ by up to 0\.5"):
        ASCN(Lopsided(lambda x: (x**2).sum() + x[0]), 1.0, T=1).run(start)


def test_the_training_loop_trains_with_it_though_it_has_no_learning_rate():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=generator, dtype=torch.float64)
    batch = x, (x[:, 0] > 0.2 * torch.randn(64, generator=generator, dtype=torch.float64)).double()
    model = torch.nn.Linear(3, 1, dtype=torch.float64)

    def loss(model, batch):
        return torch.nn.functional.binary_cross_entropy_with_logits(model(batch[0])[:, 0], batch[1])

    history = fit(model, [batch], loss, optimizers.ASCN(model.parameters(), M=1.0, R=5.0), steps=10)
    assert not history.diverged and loss(model, batch).item() < 0.5 * history.losses[0]
    with pytest.raises(ValueError, match="ASCN has no learning rate"):
        fit(model, [batch], loss, optimizers.ASCN(model.parameters()), steps=10, schedule="cosine")
