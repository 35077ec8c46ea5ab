"""Inverse-free natural gradient descent and KFAC: formulas, singd, fixed points, checkpoints, the door."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tensorbench.optimizers.structured_ngd import INGD, KFAC, fisher_kl, fixed_point, fixed_point_residual
from tensorbench.optimizers.structured_ngd.fisher_kl import damped_kfac, gradients
from tensorbench.optimizers.structured_ngd.structures import Dense, Diagonal

F64 = torch.float64


def network(seed=0, dtype=F64, conv=False):
    torch.manual_seed(seed)
    if conv:
        layers = [nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4, bias=False)]
    else:
        layers = [nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)]
    return nn.Sequential(*layers).to(dtype)


def data(dtype=F64, conv=False, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 2, 4, 4, generator=g, dtype=dtype) if conv else torch.randn(16, 5, generator=g, dtype=dtype)
    return x, torch.randint(4, (16,), generator=g)


def train(model, optimizer, steps, conv=False, dtype=F64):
    losses = []
    for k in range(steps):
        x, y = data(dtype, conv, seed=k)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def spectrum(n, seed):
    g = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=F64))[0]
    return Q @ torch.diag(torch.logspace(-2, 1, n, dtype=F64)) @ Q.T


def test_one_step_is_the_formula_in_numpy():
    model = network()
    optimizer = INGD(model, lr=0.1, damping=0.01, T=1, warmup=(), lr_cov=0.05)
    for repeat in range(2):
        before = {k: copy.deepcopy({n: v.numpy() for n, v in optimizer.state[m.weight].items()}) for k, m in enumerate(model) if hasattr(m, "weight")}  # noqa: E501  # fmt: skip
        old = {k: torch.cat([m.weight, m.bias[:, None]], 1).detach().numpy().copy() for k, m in enumerate(model) if hasattr(m, "weight")}  # noqa: E501  # fmt: skip
        x, y = data(seed=repeat)
        optimizer.zero_grad()
        hidden = model[1](model[0](x))
        scores = model[2](hidden)
        scores.retain_grad()
        F.cross_entropy(scores, y).backward()
        a = np.c_[hidden.detach().numpy(), np.ones(16)]
        g = scores.grad.numpy()
        U, G = a.T @ a / 16, 16 * g.T @ g
        s = before[2]
        A, B, p, d, lam = s["A"], s["B"], 8, 4, 0.01
        vA, vB = A.T @ U @ A, B.T @ G @ B
        gA = (lam * np.trace(B.T @ B) / d * A.T @ A + np.trace(vB) / d * vA - np.eye(p)) / 2
        gB = (lam * np.trace(A.T @ A) / p * B.T @ B + np.trace(vA) / p * vB - np.eye(d)) / 2
        mA, mB = 0.5 * s["mA"] + (gA + gA.T) / 2, 0.5 * s["mB"] + (gB + gB.T) / 2
        A, B = A - 0.05 * A @ mA, B - 0.05 * B @ mB
        gradient = np.c_[model[2].weight.grad.numpy(), model[2].bias.grad.numpy()]
        momentum = np.c_[s["momentum_buffer"], np.zeros(4)] if "momentum_buffer" in s else 0
        step = B @ B.T @ gradient @ A @ A.T
        optimizer.step()
        after = optimizer.state[model[2].weight]
        for name, expected in {"A": A, "B": B, "mA": mA, "mB": mB}.items():
            assert np.allclose(after[name].numpy(), expected, atol=1e-12)
        expected = old[2][:, :-1] - 0.1 * (step + 0.9 * momentum)[:, :-1]
        assert np.allclose(model[2].weight.detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("conv", [False, True])
def test_the_faster_path_is_the_standard_one(conv):
    models = [network(conv=conv) for _ in range(2)]
    for model, faster in zip(models, (True, False), strict=True):
        train(
            model, INGD(model, lr=0.05, T=2, warmup=((3, 0.01),), lr_cov=0.1, weight_decay=0.1, faster=faster), 9, conv
        )
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(first, second, atol=1e-10)


STRUCTURES = {"dense": ("dense", {}), "diagonal": ("diagonal", {}), "triltoeplitz": ("toeplitz_triangular", {}),
              "block30diagonal": ("block_diagonal", {"block": 30})}  # fmt: skip


@pytest.mark.parametrize("theirs", STRUCTURES)
@pytest.mark.parametrize("conv", [False, True])
def test_agrees_with_singd(theirs, conv):
    SINGD = pytest.importorskip("singd.optim.optimizer").SINGD
    ours, sizes = STRUCTURES[theirs]
    models = [network(conv=conv, dtype=torch.float32) for _ in range(2)]
    options = {"damping": 1e-3, "momentum": 0.9, "T": 2}
    mine = INGD(models[0], 0.05, **options, warmup=(), lr_cov=0.01, structure=ours, sizes=sizes, split_positions=False)
    peer = SINGD(models[1], lr=0.05, **options, alpha1=0.5, lr_cov=0.01, structures=(theirs, theirs))
    train(models[0], mine, 6, conv, torch.float32)
    train(models[1], peer, 6, conv, torch.float32)
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(first, second, atol=1e-5)


def test_the_fixed_point_is_stationary_and_a_minimum():
    U, G, damping = spectrum(6, 0), spectrum(4, 1), 0.1
    found = fixed_point(U, G, damping, refreshes=3000)
    assert found.converged
    A, B = found.A, found.B
    K, C = A @ A.T, B @ B.T
    eye = torch.eye(6, dtype=F64)
    expected = damping * C.trace() / 4 * eye + (C @ G).trace() / 4 * U
    assert torch.allclose(torch.linalg.inv(K), expected, rtol=1e-7, atol=1e-7)
    assert fixed_point_residual(A, B, U, G, damping) <= 1e-8
    best = float(fisher_kl(A, B, U, G, damping))
    g = torch.Generator().manual_seed(3)
    for _ in range(20):
        change = 1e-2 * torch.randn(6, 6, generator=g, dtype=F64)
        assert float(fisher_kl(A @ (eye + change), B, U, G, damping)) >= best
    for lam in torch.logspace(-3, 1, 20):
        for balanced in (False, True):
            assert float(fisher_kl(*damped_kfac(U, G, float(lam), balanced=balanced), U, G, damping)) > best


def test_the_gradients_are_the_objectives():
    U, G, lam = spectrum(5, 0), spectrum(3, 1), 0.05
    g = torch.Generator().manual_seed(2)
    A = torch.eye(5, dtype=F64) + 0.2 * torch.randn(5, 5, generator=g, dtype=F64)
    B = torch.eye(3, dtype=F64) + 0.2 * torch.randn(3, 3, generator=g, dtype=F64)
    gA, gB = gradients(A, B, U, G, lam, (Dense(5), Dense(3)))
    m = torch.zeros(5, 5, dtype=F64, requires_grad=True)
    (dA,) = torch.autograd.grad(fisher_kl(A @ torch.matrix_exp(m), B, U, G, lam), m)
    assert torch.allclose((dA + dA.T) / 2 / 3, 2 * gA, atol=1e-12)
    m = torch.zeros(3, 3, dtype=F64, requires_grad=True)
    (dB,) = torch.autograd.grad(fisher_kl(A, B @ torch.matrix_exp(m), U, G, lam), m)
    assert torch.allclose((dB + dB.T) / 2 / 5, 2 * gB, atol=1e-12)


def test_the_divergence_is_that_of_the_dense_gaussians():
    U, G, lam = spectrum(4, 0), spectrum(3, 1), 0.2
    A, B = spectrum(4, 5), spectrum(3, 6)
    ours = torch.distributions.MultivariateNormal(torch.zeros(12, dtype=F64), torch.kron(B @ B.T, A @ A.T))
    precision = torch.kron(G, U) + lam * torch.eye(12, dtype=F64)
    target = torch.distributions.MultivariateNormal(torch.zeros(12, dtype=F64), precision_matrix=precision)
    expected = torch.distributions.kl_divergence(ours, target)
    assert torch.allclose(fisher_kl(A, B, U, G, lam), expected, rtol=1e-8)


def test_diagonal_factors_on_diagonal_statistics_are_dense():
    U, G = torch.diag(torch.arange(1.0, 6, dtype=F64)), torch.diag(torch.arange(1.0, 4, dtype=F64))
    a, b = torch.rand(5, dtype=F64) + 0.5, torch.rand(3, dtype=F64) + 0.5
    thin = gradients(a, b, U, G, 0.1, (Diagonal(5), Diagonal(3)))
    full = gradients(torch.diag(a), torch.diag(b), U, G, 0.1, (Dense(5), Dense(3)))
    for one, other in zip(thin, full, strict=True):
        assert torch.allclose(torch.diag(one), other, atol=1e-12)


def test_kfac_inverts_what_it_averaged():
    for eig in (False, True):
        model = network()
        optimizer = KFAC(model, 0.1, eig=eig, damping=0.05, T=1, momentum=0.0)
        old = model[2].weight.detach().clone()
        train(model, optimizer, 1)
        s = optimizer.state[model[2].weight]
        gradient = torch.cat([model[2].weight.grad, model[2].bias.grad[:, None]], 1)
        if eig:
            full = torch.linalg.inv(torch.kron(s["G"], s["U"]) + 0.05 * torch.eye(32, dtype=F64))
            step = (full @ gradient.flatten()).view(4, 8)
        else:
            step = torch.linalg.solve(s["G"] + 0.05 * torch.eye(4), gradient)
            step = torch.linalg.solve(s["U"] + 0.05 * torch.eye(8), step.T).T
        assert torch.allclose(model[2].weight, old - 0.1 * step[:, :-1], atol=1e-10)


@pytest.mark.parametrize("structure", ["dense", "diagonal", "lower_triangular", "upper_hierarchical"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_checkpoint_goes_on_as_the_run_does(structure, dtype, tmp_path):
    def make(model):
        return INGD(model, 0.02, T=2, structure=structure, dtype=dtype, warmup=(), lr_cov=0.05)

    model = network()
    optimizer = make(model)
    first = train(model, optimizer, 6)
    assert all(np.isfinite(first))
    if dtype is not None:
        assert optimizer.state[model[0].weight]["A"].dtype is torch.bfloat16
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "checkpoint")
    other = network(seed=5)
    resumed = make(other)
    weights, state = torch.load(tmp_path / "checkpoint")
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    for module in (0, 2):
        for name, value in optimizer.state[model[module].weight].items():
            assert torch.equal(value, resumed.state[other[module].weight][name])
            assert value.dtype is resumed.state[other[module].weight][name].dtype
    assert train(model, optimizer, 3) == train(other, resumed, 3)
    with pytest.raises(ValueError, match="another model"):
        INGD(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 4)), structure=structure).load_state_dict(state)


def test_no_refresh_calls_lapack(monkeypatch):
    for name in ("inv", "eigh", "cholesky", "solve", "qr", "svd", "matrix_exp"):
        monkeypatch.setattr(torch.linalg, name, lambda *_, **__: pytest.fail("a factorisation was called"))
    model = network()
    train(model, INGD(model, T=1), 3)
    with pytest.raises(pytest.fail.Exception):
        model = network()
        train(model, KFAC(model, T=1), 1)


def test_a_refresh_is_eight_products_and_four_matrices():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            shapes = [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]
            if "mm" in str(function) and shapes[:2] == [(24, 24), (24, 24)]:
                self.count += 1
            return function(*args, **(kwargs or {}))

    layer = nn.Sequential(nn.Linear(24, 24, bias=False))
    for faster in (True, False):
        optimizer = INGD(layer, faster=faster)
        x = torch.randn(10, 24)
        layer(x).square().mean().backward()
        state = optimizer.state[layer[0].weight]
        with Products() as products:
            optimizer._refresh(state, optimizer.statistics["0"], optimizer.param_groups[0])
        assert products.count == 8
        assert len(state) == (6 if faster else 4)
        optimizer.statistics.detach()


def test_the_reference_schedule():
    model = network()
    optimizer = INGD(model, T=1)
    group = optimizer.param_groups[0]
    for steps, expected in ((0, 2e-4), (100, 2e-4), (101, 2e-3), (499, 2e-3), (500, 1e-2)):
        group["steps"] = steps
        assert optimizer._lr_cov(group) == expected


def test_other_parameters_are_refused_or_trained_by_sgd():
    model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 4)).to(F64)
    with pytest.raises(ValueError, match=r"no Kronecker factors for 1 \(LayerNorm\)"):
        INGD(model)
    optimizer = INGD(model, 0.1, others="sgd", momentum=0.0)
    before = model[1].weight.detach().clone()
    train(model, optimizer, 1)
    assert torch.allclose(model[1].weight, before - 0.1 * model[1].weight.grad)


def test_the_door():
    model = network()
    for options, message in [
        ({"damping": -1.0}, "damping -1"),
        ({"lr": 0.0}, "lr 0"),
        ({"T": 0}, "T 0"),
        ({"structure": "kronecker"}, "cannot be kronecker"),
        ({"structure": "tril"}, "unknown structure 'tril'"),
        ({"others": "adam"}, "unknown choice"),
        ({"average": "bach"}, "did you mean 'batch'"),
    ]:
        with pytest.raises(ValueError, match=message):
            INGD(model, **options)
    x, y = data()
    F.cross_entropy(model(x), y).backward()
    late = INGD(model)
    with pytest.raises(ValueError, match="no statistics of layers"):
        late.step()
    assert late.param_groups[0]["steps"] == 0
    with torch.no_grad():
        model(100 * x)
    assert "0" not in late.statistics
    late.acc_stats = False
    late.zero_grad()
    F.cross_entropy(model(x), y).backward()
    with pytest.raises(ValueError, match="acc_stats"):
        late.step()
    late.acc_stats = True
    late.zero_grad()
    F.cross_entropy(model(x), y).backward()
    late.step()
    model[0].weight.grad[0, 0] = torch.nan
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match="parameter 0"):
        late.step()
    assert torch.equal(before, model[0].weight)
    with pytest.raises(ValueError, match="in no parameter group"):
        INGD(model, params=model[0].parameters())
    with pytest.raises(ValueError, match="do not fit"):
        fisher_kl(torch.eye(3), torch.eye(3), torch.eye(4), torch.eye(3), 0.1)
    with pytest.raises(RuntimeError, match=r"(?i)bfloat16"):
        low = network()
        train(low, KFAC(low, dtype=torch.bfloat16, cast=False), 1)
