"""Estimators: exact where everything is drawn, unbiased with the stated variance otherwise; problems, losses,
baselines."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tensorbench.pde_operators import stde, taylor
from tensorbench.pde_operators.stde import baselines, low_order, parabolic
from tensorbench.pde_operators.stde.sampling import coordinates

F64 = torch.float64


def network(d, width=8, **options):
    return stde.TanhNet(d, width=width, generator=torch.Generator().manual_seed(0), dtype=F64, **options)


def hessians(f, x):
    return torch.func.vmap(torch.func.hessian(lambda z: f(z[None])[0]))(x)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(1)


@pytest.fixture
def case(generator):
    d = 6
    f = stde.OnBall(network(d))
    x = stde.ball(5, d, generator, dtype=F64)
    return f, x, hessians(f, x)


def test_every_laplacian_is_exact_with_all_coordinates(case, generator):
    f, x, H = case
    exact = H.diagonal(dim1=-2, dim2=-1).sum(-1)
    everything = torch.arange(6)
    for value in (
        stde.sparse_stde(f, x, 6, generator), stde.Local(f, x).laplacian(), stde.Local(f, x).sum(stde.Local(f, x).d(2)),
        baselines.hessian_trace(f, x), baselines.sdgd(f, x, everything), baselines.sdgd_vmapped(f, x, everything),
        baselines.forward_laplacian(f, x), baselines.hutchinson(f, x, 6**0.5 * torch.eye(6, dtype=F64)),
        baselines.hvp_vmapped(f, x, 6**0.5 * torch.eye(6, dtype=F64)),
    ):  # fmt: skip
        assert torch.allclose(value, exact, atol=1e-10)


def test_baselines_agree_on_a_subset_and_in_parameter_gradients(case):
    f, x, _ = case
    index = torch.tensor([4, 1])
    ours = stde.Local(f, x, index).laplacian()
    gradients = []
    for value in (ours, baselines.sdgd(f, x, index), baselines.sdgd_vmapped(f, x, index)):
        assert torch.allclose(value, ours, atol=1e-10)
        gradients.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(value.square().sum(), f.net.layers[:-1].parameters())])
        )
    assert torch.allclose(gradients[1], gradients[0], atol=1e-10)
    assert torch.allclose(gradients[2], gradients[0], atol=1e-10)


def test_sparse_draws_average_to_the_laplacian_with_the_stated_variance(case):
    f, x, H = case
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    for replace in (False, True):
        generator = torch.Generator().manual_seed(2)
        draws = torch.stack([coordinates(6, 2, generator, replace=replace) for _ in range(4000)])
        values = 3 * diagonal[:, draws].sum(-1)  # what the estimator is, shown below, without 4000 networks
        variance = stde.sparse_variance(diagonal, 2, replace=replace)
        assert torch.all((values.mean(-1) - diagonal.sum(-1)).abs() < 4 * (variance / 4000).sqrt())
        assert torch.allclose(values.var(-1), variance, rtol=0.1)
    again = torch.Generator().manual_seed(2)
    drawn = coordinates(6, 2, torch.Generator().manual_seed(2))
    assert torch.allclose(stde.sparse_stde(f, x, 2, again), 3 * diagonal[:, drawn].sum(-1), atol=1e-10)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian", "sphere"])
def test_dense_draws_have_the_stated_mean_and_variance(distribution, case):
    f, x, H = case
    v = stde.probes(6, 40_000, torch.Generator().manual_seed(3), distribution, dtype=F64)
    values = torch.einsum("pij,si,sj->ps", H, v, v)
    variance = stde.dense_variance(H, 1, distribution)
    trace = H.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert torch.all((values.mean(-1) - trace).abs() < 4.5 * (variance / 40_000).sqrt())
    assert torch.allclose(values.var(-1), variance, rtol=0.06)
    drawn = stde.probes(6, 3, torch.Generator().manual_seed(4), distribution, dtype=F64)
    estimate = stde.dense_stde(f, x, 3, torch.Generator().manual_seed(4), distribution=distribution)
    assert torch.allclose(estimate, torch.einsum("pij,si,sj->p", H, drawn, drawn) / 3, atol=1e-10)


def test_few_of_many_coordinates_are_drawn_uniformly_and_differ(generator):
    draws = torch.stack([coordinates(30, 4, generator) for _ in range(3000)])
    assert all(len(set(row.tolist())) == 4 for row in draws)
    counts = torch.bincount(draws.flatten(), minlength=30).to(F64)
    assert float(((counts - 400) ** 2 / 400).sum()) < 60  # chi-squared with 29 degrees: 99.9 % below 58.3


def test_biharmonic_of_the_fourth_power_of_the_radius_is_64(generator):
    f = lambda z: taylor.squared_norm(z) ** 2  # noqa: E731
    value = stde.biharmonic_stde(f, torch.tensor([[0.3, -0.4]], dtype=F64), 200_000, generator)
    assert float(value) == pytest.approx(64, rel=0.01)


def test_general_second_order_operators_are_exact_with_all_columns(case, generator):
    f, x, H = case
    A = torch.randn(6, 6, generator=generator, dtype=F64)
    positive, indefinite = A @ A.T, A + A.T
    exact = torch.einsum("ij,pij->p", positive, H)
    assert torch.allclose(stde.second_order_stde(f, x, positive, 6, generator), exact, atol=1e-9)
    for C in (positive, indefinite):
        exact = torch.einsum("ij,pij->p", C, H)
        assert torch.allclose(stde.second_order_stde(f, x, C, 6, generator, method="split"), exact, atol=1e-9)
    with pytest.raises(ValueError, match="method='split'"):
        stde.second_order_stde(f, x, indefinite, 6, generator)
    with pytest.raises(ValueError, match="symmetric"):
        stde.second_order_stde(f, x, A, 6, generator)


def test_high_order_diagonals(generator):
    x = torch.randn(3, 5, generator=generator, dtype=F64)
    f = lambda z: (z.sin() * 2).sum(-1) + (z[..., :-1] * z[..., 1:]).sum(-1)  # noqa: E731
    assert torch.allclose(stde.high_order_diagonal(f, x, 4, 5, generator), 2 * x.sin().sum(-1))
    assert torch.allclose(stde.high_order_diagonal(f, x, 3, 5, generator), -2 * x.cos().sum(-1))
    for order in (3, 4):
        with pytest.raises(ValueError, match="kind='sparse'"):
            stde.high_order_diagonal(f, x, order, 5, generator, kind="dense")


@pytest.mark.parametrize(("unbiased", "times"), [(True, 1), (False, 3)])
def test_the_gradient_enhanced_term_is_unbiased_too(unbiased, times, generator):
    """u = Σ cᵢ xᵢ³ in 3 dimensions: ∂ⱼΔu = 6 cⱼ, and its estimate is three times that or, twice as often, 0."""
    c, x = torch.tensor([1.0, 2.0, -1.5], dtype=F64), torch.zeros(2, 3, dtype=F64)
    options = {"batch": 2, "gpinn": 1.0, "reaction": lambda u: 0 * u, "unbiased": unbiased}
    scheme = stde.StochasticPinn(lambda u: u.sum(u.d(2)), **options)
    values = torch.stack([scheme.gradient_term(lambda z: (c * z**3).sum(-1), x, generator) for _ in range(500)])
    true, error = (6 * c).square().mean(), values.std() / 500**0.5
    assert abs(values.mean() - times * true) < 4.5 * error < true


@pytest.mark.parametrize("bodies", [2, 3])
@pytest.mark.parametrize("equation", ["poisson", "allen_cahn", "sine_gordon"])
def test_sources_equal_differentiation_of_the_solution(equation, bodies, generator):
    problem = stde.problem(equation, 5, bodies, generator, dtype=F64)
    x = stde.ball(4, 5, generator, dtype=F64)
    H = hessians(problem.solution, x)
    u = problem.solution(x)
    expected = H.diagonal(dim1=-2, dim2=-1).sum(-1) + problem.reaction(u)
    assert torch.allclose(problem.source(x), expected, atol=1e-8)
    assert torch.allclose(problem.operator(stde.Local(problem.solution, x)), expected, atol=1e-8)


def test_the_unbiased_loss_is_unbiased_and_the_biased_one_is_off_by_the_variance(case, generator):
    f, x, H = case
    problem = stde.problem("sine_gordon", 6, 2, generator, dtype=F64)
    true = (H.diagonal(dim1=-2, dim2=-1).sum(-1) + problem.reaction(f(x)) - problem.source(x)).square().mean()
    variance = stde.sparse_variance(H.diagonal(dim1=-2, dim2=-1), 3).mean()
    means = {}
    with torch.no_grad():
        for unbiased in (True, False):
            scheme = stde.StochasticPinn(problem.operator, problem.source, batch=3, unbiased=unbiased)
            values = torch.stack([scheme.loss(f, x, generator) for _ in range(600)])
            means[unbiased], error = values.mean(), values.std() / 600**0.5
            expected = true if unbiased else true + variance
            assert abs(means[unbiased] - expected) < 4.5 * error


def test_all_samplings_agree_with_the_full_operator_when_everything_is_drawn(case, generator):
    f, x, _ = case
    problem = stde.problem("allen_cahn", 6, 3, generator, dtype=F64)
    full = stde.StochasticPinn(problem.operator, problem.source, sampling="full").loss(f, x, generator)
    sparse = stde.StochasticPinn(problem.operator, problem.source, batch=6).loss(f, x, generator)
    assert torch.allclose(full, sparse)
    known = stde.StochasticPinn(problem.operator, solution=problem.solution, batch=6).loss(f, x, generator)
    assert torch.allclose(full, known)
    assert full.requires_grad
    assert known.requires_grad
    solved = stde.StochasticPinn(problem.operator, solution=problem.solution, batch=2)
    assert (
        float(solved.loss(problem.solution, x, generator)) == 0
    )  # the same draw acts on both: no noise at the solution
    dense = stde.StochasticPinn(problem.operator, problem.source, sampling="dense", batch=2, unbiased=False)
    assert float(dense.loss(f, x, generator).detach()) > 0


def test_the_gradient_enhanced_term_is_the_squared_slope_of_the_residual(generator):
    problem = stde.problem("allen_cahn", 2, 2, generator, dtype=F64)
    f, x = stde.OnBall(network(2)), stde.ball(3, 2, generator, dtype=F64)
    given = {"batch": 2, "gpinn": 0.1, "reaction": problem.reaction}

    def parts(z, i):  # d times the i-th term of the Laplacian, plus what is not sampled
        H = torch.func.hessian(lambda y: f(y[None])[0])(z)
        u = f(z[None])[0]
        return 2 * H[i, i] + problem.reaction(u) - problem.source(z[None])[0]

    slopes = torch.stack([torch.func.vmap(torch.func.grad(lambda z, i=i: parts(z, i)))(x) for i in range(2)])
    slopes = slopes.detach()
    pairings = {float((slopes[0, :, j].square().mean() + slopes[1, :, 1 - j].square().mean()) / 2) for j in range(2)}
    biased = stde.StochasticPinn(problem.operator, problem.source, unbiased=False, **given)
    value = float(biased.gradient_term(f, x, generator).detach())
    assert any(value == pytest.approx(p, rel=1e-8) for p in pairings)
    products = {float((slopes[i, :, j] * slopes[k, :, j]).mean()) for i in range(2) for k in range(2) for j in range(2)}
    scheme = stde.StochasticPinn(problem.operator, problem.source, **given)
    for _ in range(8):
        value = float(scheme.gradient_term(f, x, generator).detach())
        assert any(value == pytest.approx(p, rel=1e-8) for p in products)
    with pytest.raises(ValueError, match="gpinn needs reaction"):
        stde.StochasticPinn(problem.operator, gpinn=0.1)
    with pytest.raises(ValueError, match="source=… in place of solution"):
        stde.StochasticPinn(problem.operator, solution=problem.solution, gpinn=0.1, reaction=problem.reaction)


def test_shared_blocks_have_fewer_weights_and_the_same_derivatives(generator):
    plain, shared = network(12), network(12, block=3)
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert count(plain) - count(shared) == 8 * 8 - 4
    x = torch.randn(4, 12, generator=generator, dtype=F64)
    exact = hessians(shared, x).diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(stde.Local(shared, x).d(2).t(), exact, atol=1e-12)
    in_time = network(12, block=3, extra=1)
    xt = torch.randn(4, 13, generator=generator, dtype=F64)
    H = hessians(in_time, xt).diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(stde.Local(in_time, xt, dims=12).laplacian(), H[:, :12].sum(-1), atol=1e-12)
    assert torch.allclose(stde.Local(in_time, xt).partial(-1, -1), H[:, 12], atol=1e-12)
    with pytest.raises(ValueError, match="do not divide"):
        network(12, block=5)


@pytest.mark.parametrize("dense", [False, True])
def test_draws_of_one_pass_equal_draws_apart(case, generator, dense):
    f, x, _ = case
    probes = stde.probes(6, 4, generator, dtype=F64) if dense else None
    index = torch.tensor([0, 3, 3, 5])
    parts = stde.Local(f, x, index, probes=probes).split(2)
    for k, part in enumerate(parts):
        apart = stde.Local(f, x, index[2 * k : 2 * k + 2], probes=None if probes is None else probes[2 * k : 2 * k + 2])
        assert torch.allclose(part.laplacian(), apart.laplacian(), atol=1e-12)
        assert torch.allclose(part.value, f(x), atol=1e-12)
        assert torch.allclose(part.partial(1), apart.partial(1), atol=1e-12)
        if not dense:
            assert torch.allclose(part.sum(part.x * part.d(1)), apart.sum(apart.x * apart.d(1)), atol=1e-12)
    with pytest.raises(ValueError, match="do not split"):
        stde.Local(f, x, index).split(3)


def test_an_operator_of_the_users_own(case):
    f, x, H = case

    def operator(u):
        return u.sum((1 + u.x**2) * u.d(2) - u.x * u.d(1)) + u.partial(0, 1) + u.value**2

    gradient = torch.func.vmap(torch.func.grad(lambda z: f(z[None])[0]))(x)
    expected = ((1 + x**2) * H.diagonal(dim1=-2, dim2=-1) - x * gradient).sum(-1) + H[:, 0, 1] + f(x) ** 2
    assert torch.allclose(operator(stde.Local(f, x)), expected, atol=1e-10)


@pytest.mark.parametrize("equation", ["kdv2d", "kp2d", "gkdv1d"])
def test_low_order_equations_by_jets_equal_nested_autograd(equation, generator):
    d = len(low_order.EQUATIONS[equation][0].coordinates)
    f, x = network(d), torch.randn(6, d, generator=generator, dtype=F64)
    ours, theirs = (low_order.residuals(equation, f, x, method) for method in ("jets", "nested"))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-9)
    with pytest.raises(ValueError, match="coordinates"):
        low_order.residuals(equation, f, x[:, :1])


def test_the_korteweg_de_vries_soliton_solves_its_equation(generator):
    a, c = 0.5, 0.05  # u = 3 c sech²(a (x - c t)) with c = 4 · 0.0025 a²
    c = 4 * 0.0025 * a**2
    f = lambda z: 3 * c / torch.cosh(a * (z[..., 0] - c * z[..., 1])) ** 2  # noqa: E731
    x = torch.randn(5, 2, generator=generator, dtype=F64)
    for residual in low_order.residuals("gkdv1d", f, x):
        assert torch.all(residual.abs() < 1e-12)


def test_references_of_the_parabolic_problems(generator):
    for name in ("semilinear_heat", "sine_gordon"):
        problem = parabolic.parabolic(name)
        for d in (10, 100):
            assert parabolic.radial_reference(problem, d) == pytest.approx(parabolic.PUBLISHED[name][d], rel=2e-3)
    ours = [parabolic.multilevel_picard(parabolic.parabolic("allen_cahn"), 10, 4, generator) for _ in range(5)]
    assert sum(ours) / 5 == pytest.approx(0.8906, rel=0.03)
    still = parabolic.Parabolic(lambda u: 0 * u, parabolic.PROBLEMS["sine_gordon"].terminal, True)
    mean, error = parabolic.feynman_kac(still, 10, 20_000, generator)
    assert parabolic.radial_reference(still, 10) == pytest.approx(mean, abs=4 * error)
    # Of exp(-|x|²), without a reaction: (1 + 4 T)^(-d/2).
    bell = parabolic.Parabolic(lambda u: 0 * u, lambda x: torch.exp(-x.square().sum(-1)), True)
    assert parabolic.radial_reference(bell, 4) == pytest.approx((1 + 4 * 0.3) ** -2, rel=1e-3)
    with pytest.raises(ValueError, match="multilevel_picard"):
        parabolic.radial_reference(parabolic.parabolic("allen_cahn"), 10)


def test_the_parabolic_loss_is_small_at_a_solution(generator):
    # u = |x|² + 2 d (T - t) solves u_t + Δu = 0 with terminal |x|².
    problem = parabolic.Parabolic(lambda u: 0 * u, lambda x: x.square().sum(-1), True)
    f = lambda z: taylor.squared_norm(z[..., :4]) + 8 * (0.3 - z[..., 4])  # noqa: E731
    for unbiased in (True, False):
        assert float(parabolic.parabolic_loss(problem, f, 16, 4, generator, batch=2, unbiased=unbiased)) < 1e-9


@pytest.mark.parametrize("bodies", [2, 3])
def test_problems_and_baselines_work_where_their_points_are(bodies, generator):
    problem = stde.problem("allen_cahn", 5, bodies, generator)
    x, index = torch.empty(4, 5, device="meta"), torch.tensor([0, 2], device="meta")
    for found in (problem.solution(x), problem.source(x), baselines.sdgd_vmapped(problem.solution, x, index)):
        assert found.shape == (4,) and found.device.type == "meta"


def test_bad_input_is_refused(case, generator):
    f, x, _ = case
    with pytest.raises(ValueError, match="7 of 6 dimensions"):
        stde.sparse_stde(f, x, 7, generator)
    assert stde.sparse_stde(f, x, 7, generator, replace=True).shape == (5,)
    with pytest.raises(ValueError, match="order 0"):
        stde.sparse_stde(f, x, 2, generator, order=0)
    with pytest.raises(ValueError, match="did you mean 'gaussian'"):
        stde.dense_stde(f, x, 2, generator, distribution="gausian")
    with pytest.raises(ValueError, match="sparse sampling"):
        stde.Local(f, x, probes=torch.ones(2, 6, dtype=F64)).d(2)
    with pytest.raises(ValueError, match="coordinate 6 is not one of 6"):
        stde.Local(f, x).partial(0, 6)
    with pytest.raises(ValueError, match="coordinate -7"):
        stde.Local(f, x).partial(-7)
    with pytest.raises(ValueError, match="did you mean 'allen_cahn'"):
        stde.problem("allencahn", 5, 2, generator)
    with pytest.raises(ValueError, match="interactions of 2 or 3"):
        stde.problem("poisson", 9, 4, generator)
    with pytest.raises(ValueError, match="did you mean 'sparse'"):
        stde.StochasticPinn(lambda u: u.laplacian(), sampling="spars")
    with pytest.raises(NotImplementedError, match="'sort'"):
        stde.sparse_stde(lambda z: z.sort(-1)[0].sum(-1), x, 2, generator)


def test_networks_start_from_their_generator():
    a, b = (stde.TanhNet(4, width=6, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert all(bool((layer.weight.abs() <= 1 / layer.in_features**0.5).all()) for layer in a.layers)


@pytest.mark.parametrize("kind", ["jet", "folx"])
def test_jax_peers_do_the_same_work(kind, generator):
    jax = pytest.importorskip("jax")
    pytest.importorskip("folx")
    f, x = stde.OnBall(network(6)), stde.ball(3, 6, generator, dtype=F64)
    with jax.enable_x64(True):
        weights = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in f.net.layers]
        run = baselines.jax_laplacian(baselines.jax_mlp(), kind)
        _, values = run(weights, x.numpy(), torch.arange(6).numpy())
        values = torch.tensor(values.tolist(), dtype=F64)
    assert torch.allclose(values, stde.Local(f, x).laplacian(), atol=1e-9)


def test_modules_train():
    model = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 1))
    value = stde.sparse_stde(lambda z: model(z)[..., 0], torch.randn(4, 3), 2, torch.Generator().manual_seed(0))
    value.square().mean().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model[0].parameters())
