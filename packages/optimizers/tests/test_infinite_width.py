"""abc-parametrisations, arc-cosine expectations, the linear limit, kernel learners: closed forms, oracles, errors."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad

from tensorbench.core.timing import growth
from tensorbench.optimizers.infinite_width.abc import ABC, classify, equivalent, preset, uniform_sweep
from tensorbench.optimizers.infinite_width.abc_mlp import ABCMLP
from tensorbench.optimizers.infinite_width.arccosine import lin_kernel, relu_F00, relu_F02, relu_F11
from tensorbench.optimizers.infinite_width.kernel_learners import InfGP1LP, InfNTK1LP, PoolLearner, kernel_matrix
from tensorbench.optimizers.infinite_width.limit_gap import limit_gap
from tensorbench.optimizers.infinite_width.linear_limit import FinLinear1LP, InfLinear1LP


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- parametrisations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hidden", "kind", "r"),
    [
        ("mup", 1, "feature_learning", 0),
        ("mup", 3, "feature_learning", 0),
        ("mean_field", 1, "feature_learning", 0),
        ("ntk", 1, "kernel", 0.5),
        ("ntk", 3, "kernel", 0.5),
        ("standard", 3, "kernel", 0.5),
        ("standard", 1, "kernel", 1.5),
    ],
)
def test_presets_are_of_the_kind_that_the_paper_says(name, hidden, kind, r):
    found = classify(preset(name, hidden))
    assert found.kind == kind and found.r == pytest.approx(r) and found.reasons


def test_standard_parametrisation_with_a_constant_learning_rate_is_unstable_and_says_why():
    base = preset("standard", 2)
    found = classify(ABC(base.a, base.b, 0.0))
    assert found.kind == "unstable" and any("2a_3 + c = 0 < 1" in reason for reason in found.reasons)


def test_small_learning_rates_are_trivial():
    base = preset("mup", 2)
    assert classify(ABC(base.a, base.b, 1.0)).kind == "trivial"


def test_no_parametrisation_of_a_fine_grid_is_on_both_sides_and_features_need_r_0():
    sweep = uniform_sweep(np.arange(0, 17) / 16, np.arange(-16, 33) / 16)
    for row in range(17):
        for column in range(49):
            found = classify(sweep.at(row, column))
            assert not (found.feature_learning and found.kernel)
            assert found.feature_learning == (found.nontrivial and abs(found.r) < 1e-9)
            assert found.kind == sweep.kinds[row, column]
    assert {"unstable", "trivial", "kernel", "feature_learning"} == set(np.unique(sweep.kinds))


@pytest.mark.parametrize("by", [-0.5, 0.25, 1.0])
@pytest.mark.parametrize("bias", [False, True])
def test_shifted_exponents_are_equivalent_and_train_identically(by, bias):
    first = preset("mup", 2)
    second = first.shifted(by)
    assert equivalent(first, second) and classify(second).kind == classify(first).kind
    assert not equivalent(first, ABC(first.a, first.b, 0.1)) and not equivalent(first, preset("mup", 3))
    x, y = torch.randn(8, 5, generator=seeded(1)).double(), torch.randn(8, 2, generator=seeded(2)).double()
    nets = [ABCMLP((5, 64, 64, 2), abc, bias=bias, generator=seeded(3), dtype=torch.float64) for abc in (first, second)]
    start = nets[0](x).detach()
    for net in nets:
        optimizer = torch.optim.SGD(net.parameters(), lr=net.learning_rate(0.3))
        for _ in range(10):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(nets[0](x), nets[1](x), rtol=1e-6, atol=1e-9)
    assert float((nets[0](x) - start).detach().abs().max()) > 1e-2


def test_mean_field_is_mup_of_one_hidden_layer():
    assert equivalent(preset("mean_field"), preset("mup", 1))


def test_bad_exponents_and_widths_are_refused():
    for make, message in [
        (lambda: ABC((0.0,), (0.0, 0.5), 0.0), "one a layer"),
        (lambda: ABC((0.0, math.nan), (0.0, 0.5), 0.0), "finite"),
        (lambda: preset("mupp"), "did you mean 'mup'"),
        (lambda: preset("mean_field", 2), "one hidden layer"),
        (lambda: preset("mup", 0), "at least 1"),
        (lambda: ABCMLP((3, 0, 1), preset("mup"), generator=seeded()), "widths"),
        (lambda: ABCMLP((3, 4, 5, 1), preset("mup", 2), generator=seeded()), "equal"),
        (lambda: ABCMLP((3, 4, 1), preset("mup", 2), generator=seeded()), "exponents for 2"),
        (lambda: ABCMLP((3, 4, 1), preset("mup"), act="tahn", generator=seeded()), "did you mean 'tanh'"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


# --- expectations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [-0.95, -0.3, 0.0, 0.6, 0.99])
def test_expectations_agree_with_quadrature(c):
    s1, s2 = 1.3, 0.7
    root = math.sqrt(1 - c * c)

    def density(u, v):
        return math.exp(-0.5 * (u * u + v * v)) / (2 * math.pi)

    # z1 = s1 u, z2 = s2 (c u + root v); both positive where u > 0 and v > -c u / root.
    low = lambda u: -c * u / root  # noqa: E731
    f00, _ = dblquad(lambda v, u: s1 * u * s2 * (c * u + root * v) * density(u, v), 0, 12, low, 12, epsabs=1e-11)
    f11, _ = dblquad(lambda v, u: density(u, v), 0, 12, low, 12, epsabs=1e-11)
    correlation = torch.tensor(c, dtype=torch.float64)
    assert float(relu_F00(correlation, s1, s2)) == pytest.approx(f00, abs=1e-8)
    assert float(relu_F11(correlation)) == pytest.approx(f11, abs=1e-8)
    # relu'' is the derivative of relu': d F01 / d mean, here as a limit of narrow steps.
    z = np.linspace(0, 12, 200_001) * s1 * root
    mass = np.exp(-0.5 * (z / (s1 * root)) ** 2) / (s1 * root * math.sqrt(2 * math.pi))
    f02 = np.trapezoid(z * mass, z) / (s2 * math.sqrt(2 * math.pi))
    assert float(relu_F02(correlation, s1, s2)) == pytest.approx(f02, abs=1e-8)


def test_expectations_agree_with_samples():
    c = 0.4
    z = torch.randn(2, 1_000_000, generator=seeded(5), dtype=torch.float64)
    first, second = z[0], c * z[0] + math.sqrt(1 - c * c) * z[1]
    correlation = torch.tensor(c, dtype=torch.float64)
    assert float((first.relu() * second.relu()).mean()) == pytest.approx(float(relu_F00(correlation)), abs=3e-3)
    assert float(((first > 0) & (second > 0)).double().mean()) == pytest.approx(float(relu_F11(correlation)), abs=3e-3)


@pytest.mark.parametrize("beyond", [0.0, 1e-7])
def test_expectations_are_exact_at_the_ends_and_safe_beyond(beyond):
    ends = torch.tensor([1.0 + beyond, -1.0 - beyond])
    torch.testing.assert_close(relu_F00(ends), torch.tensor([0.5, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(relu_F11(ends), torch.tensor([0.5, 0.0]), atol=1e-6, rtol=0)
    assert torch.equal(relu_F02(ends), torch.zeros(2))


# --- the linear limit -----------------------------------------------------------------------------------------------


def test_one_step_by_hand():
    sigma_u, sigma_v, eta, x, y = 0.8, 1.7, 0.05, 1.3, -0.6
    net = InfLinear1LP(1, 1, sigma_u, sigma_v, dtype=torch.float64)
    X, Y = torch.tensor([[x]], dtype=torch.float64), torch.tensor([[y]], dtype=torch.float64)
    assert float(net(X).detach()) == 0.0
    (0.5 * (net(X) - Y).square().sum()).backward()
    with torch.no_grad():
        for p in net.parameters():
            p -= eta * p.grad
    assert float(net(X).detach()) == pytest.approx(eta * y * x**2 * (sigma_u**2 + sigma_v**2), abs=1e-12)


def trained_limit():
    net = InfLinear1LP(4, 2, 1.0, 0.5, alpha=1.5, bias_alpha=0.7, dtype=torch.float64)
    x, y = torch.randn(16, 4, generator=seeded(1)).double(), torch.randn(16, 2, generator=seeded(2)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    return net, x


def test_samples_have_the_limit_as_their_mean_and_a_variance_that_falls_as_1_over_width():
    net, x = trained_limit()
    target = net(x).detach()
    assert float(target.abs().mean()) > 0.1
    variances = []
    for width in (64, 256, 1024):
        outputs = torch.stack([net.sample(width, seed)(x).detach() for seed in range(200)])
        error = outputs.mean(0) - target
        deviation = outputs.std(0) / math.sqrt(200)
        assert float((error / deviation).abs().max()) < 4.5
        variances.append(float(outputs.var(0).mean()))
    assert growth([64, 256, 1024], variances).exponent == pytest.approx(-1, abs=0.1)


def test_a_sample_trained_on_follows_the_limit_closer_the_wider_it_is():
    x, y = torch.randn(16, 4, generator=seeded(1)).double(), torch.randn(16, 2, generator=seeded(2)).double()
    found = limit_gap([32, 128, 512, 2048], x, y, x, steps=20, draws=6, bias_alpha=1.0, seed=3)
    assert -0.7 < found.fit.exponent < -0.3 and list(found.gaps) == sorted(found.gaps, reverse=True)


def test_independent_networks_have_the_stated_deviations():
    net = FinLinear1LP(400, 50, 300, 2.0, 0.5, seed=1)
    assert float(net.U.detach().std()) * 300**0.5 == pytest.approx(2.0, rel=0.02)
    assert float(net.V.detach().std()) * 300**0.5 == pytest.approx(0.5, rel=0.02)
    assert net.b is None


def test_bad_linear_networks_are_refused():
    for make in (
        lambda: InfLinear1LP(0, 1),
        lambda: InfLinear1LP(2, 1, sigma_u=-1.0),
        lambda: FinLinear1LP(2, 1, 0, seed=0),
        lambda: limit_gap([0, 4], torch.ones(2, 2), torch.ones(2, 1), torch.ones(2, 2)),
        lambda: limit_gap([4, 8], torch.ones(2, 2), torch.ones(2, 1), torch.ones(2, 2), steps=0),
    ):
        with pytest.raises(ValueError, match=r"at least 1|not negative|two or more"):
            make()


# --- kernel learners ------------------------------------------------------------------------------------------------

X = torch.randn(40, 6, generator=seeded(7)).double()


@pytest.mark.parametrize("kind", [InfGP1LP, InfNTK1LP])
def test_kernel_matrices_are_symmetric_and_positive(kind):
    K = kind(6, 1, 1.3, 0.4, dtype=torch.float64).kernel(X, X)
    torch.testing.assert_close(K, K.T)
    assert float(torch.linalg.eigvalsh(K).min()) > -1e-10


def test_the_ntk_has_the_stated_diagonal():
    net = InfNTK1LP(6, 1, varw=1.3, varb=0.4, varw2=0.6, dtype=torch.float64)
    s2 = 1.3 * X.square().sum(1) + 0.4
    torch.testing.assert_close(net.kernel(X, X).diagonal(), s2 / 2 + 0.6 * X.square().sum(1) / 2, rtol=1e-7, atol=1e-7)


def test_kernels_are_those_of_a_wide_network():
    varw, varb, varw2, n = 1.3, 0.4, 0.6, 200_000
    W = math.sqrt(varw) * torch.randn(n, 6, generator=seeded(1)).double()
    b = math.sqrt(varb) * torch.randn(n, 1, generator=seeded(2)).double()
    v = math.sqrt(varw2) * torch.randn(n, 1, generator=seeded(3)).double()
    x = X[:5]
    h = W @ x.T + b
    gp = h.relu().T @ h.relu() / n
    gates = v * (h > 0)
    ntk = gp + (gates.T @ gates / n) * (x @ x.T)
    scale = float(gp.diagonal().mean())
    assert float((InfGP1LP(6, 1, varw, varb, dtype=x.dtype).kernel(x, x) - gp).abs().max()) < 0.02 * scale
    assert float((InfNTK1LP(6, 1, varw, varb, varw2, dtype=x.dtype).kernel(x, x) - ntk).abs().max()) < 0.03 * scale


@pytest.mark.parametrize("kind", [InfGP1LP, InfNTK1LP])
def test_steps_are_kernel_gradient_descent_and_restore_forgets(kind):
    net = kind(6, 3, 1.0, 0.5, dtype=torch.float64)
    delta = torch.randn(40, 3, generator=seeded(9)).double()
    net.step(net.backward(X[:10], delta[:10]), lr=0.2)
    net.checkpoint()
    net.step(net.backward(X[10:30], delta[10:30]), lr=0.1)
    expected = -0.2 * net.kernel(X, X[:10]) @ delta[:10] - 0.1 * net.kernel(X, X[10:30]) @ delta[10:30]
    torch.testing.assert_close(net(X), expected)
    net.restore()
    assert len(net) == 10
    torch.testing.assert_close(net(X), -0.2 * net.kernel(X, X[:10]) @ delta[:10])
    net.step(net.backward(X[:5], torch.zeros(5, 3).double()), lr=0.1, weight_decay=1.0)
    torch.testing.assert_close(net(X), -0.18 * net.kernel(X, X[:10]) @ delta[:10])


def test_gradient_norm_is_that_of_the_weights_and_clipping_bounds_it():
    # A ReLU network of finite width: the gradient in all its weights, whose norm tends to that of the limit.
    n, x, delta = 50_000, X[:7], torch.randn(7, 2, generator=seeded(4)).double()
    W = torch.randn(n, 6, generator=seeded(1)).double().requires_grad_()
    b = torch.randn(n, generator=seeded(2)).double()
    v = torch.randn(2, n, generator=seeded(3)).double().requires_grad_()
    f = torch.relu(x @ W.T + b) @ v.T / math.sqrt(n)
    norms = torch.stack([g.square().sum() for g in torch.autograd.grad((f * delta).sum(), [W, v])])
    net = InfNTK1LP(6, 2, 1.0, 1.0, 1.0, dtype=torch.float64)
    gradient = net.backward(x, delta)
    assert net.gradient_norm(gradient) == pytest.approx(float(norms.sum().sqrt()), rel=0.03)
    assert net.gradient_norm(net.clip(gradient, 0.5)) == pytest.approx(0.5)
    assert net.clip(gradient, 1e9) is gradient


def test_a_limit_keeps_the_newest_samples():
    net = InfGP1LP(6, 1, limit=12, dtype=torch.float64)
    for k in range(0, 40, 5):
        net.step(net.backward(X[k : k + 5], torch.ones(5, 1).double()), lr=1.0)
    assert len(net) == 12
    torch.testing.assert_close(net(X), -net.kernel(X, X[28:]).sum(1, keepdim=True))
    with pytest.raises(ValueError, match="limit=None"):
        net.checkpoint()


@pytest.mark.parametrize("kernel", ["relu_gp", "relu_ntk", "linear"])
def test_a_pool_learner_is_the_learner_with_repeats_added_up(kernel):
    K = kernel_matrix(X, X, kernel, 1.0, 0.5, 0.7)
    pool = PoolLearner(K[:20, :20], 2)
    stored = {
        "relu_gp": InfGP1LP(6, 2, 1.0, 0.5, dtype=torch.float64),
        "relu_ntk": InfNTK1LP(6, 2, 1.0, 0.5, 0.7, dtype=torch.float64),
    }.get(kernel)
    weights, bias = torch.zeros(6, 2).double(), torch.zeros(2).double()
    for seed in range(4):
        index = torch.randint(20, (9,), generator=seeded(seed))
        delta = torch.randn(9, 2, generator=seeded(seed)).double()
        pool.step(index, delta, 0.1)
        if stored is not None:
            stored.step(stored.backward(X[index], delta), 0.1)
        weights -= 0.1 * 1.7 * X[index].T @ delta
        bias -= 0.1 * 0.5 * delta.sum(0)
    expected = stored(X) if stored is not None else X @ weights + bias
    torch.testing.assert_close(pool.forward(torch.arange(20)), expected[:20])
    moved = pool.elsewhere(K[20:, 20:], K[20:, :20])
    torch.testing.assert_close(moved.forward(torch.arange(20)), expected[20:])


def test_bad_learners_are_refused():
    for make, message in [
        (lambda: InfGP1LP(3, 1, varw=-1.0), "variance"),
        (lambda: InfNTK1LP(3, 1, varw2=-1.0), "variance"),
        (lambda: InfGP1LP(3, 0), "at least 1"),
        (lambda: InfGP1LP(3, 1).restore(), "checkpoint"),
        (lambda: InfGP1LP(6, 2).backward(X.float(), torch.zeros(40, 1)), "delta"),
        (lambda: kernel_matrix(X, X, "relu_nkt"), "did you mean 'relu_ntk'"),
        (lambda: lin_kernel(X, X, -1.0), "negative"),
        (lambda: PoolLearner(torch.ones(2, 3), 1), "square"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
