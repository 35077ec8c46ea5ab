"""AdaHessian against closed forms, the library's AdaHessian and brute force, and what it refuses."""

import gc
import math

import pytest
import torch
from torch import nn

from tensorbench.core.training import fit
from tensorbench.optimizers.adahessian import (
    AdaHessian,
    RMSHessianAverage,
    exact_diag,
    hessian_trace,
    hutchinson_diag,
    spatial_average,
)
from tensorbench.optimizers.base import NonFiniteGradientError, NonFiniteLossError
from tensorbench.optimizers.landscapes.planar import PLANES, plane, rosenbrock, trajectory
from tensorbench.optimizers.probes import rademacher, replay, source


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadratic(n: int = 6, seed: int = 0):
    a = torch.randn(n, n, generator=generator(seed), dtype=torch.float64)
    h = a @ a.T / n
    x = nn.Parameter(torch.randn(n, generator=generator(seed + 1), dtype=torch.float64))
    return h, x, lambda: 0.5 * x @ h @ x


# --- the estimate -----------------------------------------------------------------------------------------------------


def test_one_probe_is_exact_on_a_diagonal_quadratic():
    c = torch.tensor([0.5, 2.0, 7.0, -3.0], dtype=torch.float64)
    x = nn.Parameter(torch.ones(4, dtype=torch.float64))
    found = hutchinson_diag((c * x**2).sum() / 2, [x], 1, source("rademacher", generator()))
    assert torch.allclose(found.values[0], c, atol=1e-14) and found.errors[0].isnan().all()
    assert hessian_trace(found) == pytest.approx(float(c.sum()))


def test_the_mean_and_the_variance_of_probes_are_those_of_theory():
    h, x, loss = quadratic()
    draw = source("rademacher", generator(3))
    gradients = torch.autograd.grad(loss(), [x], create_graph=True)
    found = hutchinson_diag(gradients, [x], 10_000, draw)
    assert ((found.values[0] - h.diagonal()).abs() <= 4 * found.errors[0]).all()
    variance = (h**2).sum(1) - h.diagonal() ** 2
    assert torch.allclose(found.errors[0] ** 2 * 10_000, variance, rtol=0.05)


def test_the_exact_diagonal_is_the_hessians():
    h, x, loss = quadratic()
    assert torch.allclose(exact_diag(loss, [x])[0], h.diagonal(), atol=1e-12)


def test_blocks_hold_their_mean():
    d = torch.arange(2 * 3 * 3 * 3, dtype=torch.float64).reshape(2, 3, 3, 3)
    averaged = spatial_average(d)
    assert averaged.shape == d.shape
    assert torch.equal(averaged, d.mean((2, 3), keepdim=True).expand_as(d))
    assert torch.equal(spatial_average(d[0]), d[0].mean(2, keepdim=True).expand(3, 3, 3))
    assert torch.equal(spatial_average(d[0, 0]), d[0, 0]) and torch.equal(spatial_average(d, None), d)
    assert torch.equal(spatial_average(d[0, 0], "row"), d[0, 0].mean(1, keepdim=True).expand(3, 3))
    assert torch.equal(spatial_average(d[0, 0, 0], "row"), d[0, 0, 0])
    runs = spatial_average(torch.tensor([[1.0, 3.0], [5.0, 9.0]]), 2)
    assert runs.tolist() == [[2.0, 2.0], [7.0, 7.0]]
    with pytest.raises(ValueError, match="does not divide"):
        spatial_average(d, 5)
    with pytest.raises(ValueError, match="row"):
        spatial_average(d, "rows")


def test_the_moving_mean_is_the_root_of_bias_corrected_squares():
    average = RMSHessianAverage(0.9)
    first = average.update(torch.tensor([3.0, -4.0]))
    assert torch.allclose(first, torch.tensor([3.0, 4.0]))
    second = average.update(torch.tensor([1.0, 0.0]))
    expected = ((0.9 * torch.tensor([9.0, 16.0]) + torch.tensor([1.0, 0.0])) / 1.9).sqrt()
    assert torch.allclose(second, expected)


# --- the step ---------------------------------------------------------------------------------------------------------


def test_the_first_step_is_newtons_on_a_diagonal_quadratic():
    c = torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64)
    x = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    start = x.detach().clone()
    AdaHessian([x], lr=1.0, eps=1e-4).step(lambda: (c * x**2).sum() / 2)
    assert torch.allclose(x.detach(), start - c * start / (c + 1e-4), atol=1e-12) and x.abs().max() < 1e-3


def test_power_zero_is_momentum():
    _, x, loss = quadratic()
    y, mean = x.detach().clone(), torch.zeros(6, dtype=torch.float64)
    optimizer = AdaHessian([x], lr=0.1, hessian_power=0.0, eps=0.25, betas=(0.8, 0.99))
    for t in range(1, 6):
        h, _, _ = quadratic()
        mean = 0.8 * mean + 0.2 * (h @ y)
        y = y - 0.1 * mean / (1 - 0.8**t) / 1.25
        optimizer.step(loss)
    assert torch.allclose(x.detach(), y, atol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_is_the_librarys_on_the_same_probes(weight_decay, monkeypatch):
    library = pytest.importorskip("pytorch_optimizer")

    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()

    x, y = torch.randn(8, 5, generator=generator(1)).double(), torch.randint(3, (8,), generator=generator(2))
    ours, theirs = network(), network()
    probes = [rademacher(list(ours.parameters()), generator(10 + k)) for k in range(10)]
    mine = AdaHessian(ours.parameters(), 0.1, weight_decay=weight_decay, block=None, draw=replay(probes))
    options = {"lr": 0.1, "eps": 1e-4, "weight_decay": weight_decay, "weight_decouple": True, "fixed_decay": False}
    other = library.AdaHessian(theirs.parameters(), **options)
    stored = iter(probes)

    def same(self, *args, **kwargs):
        """The library's own product, with our probe instead of its."""
        params = [p for group in self.param_groups for p in group["params"]]
        z = next(stored)
        products = torch.autograd.grad([p.grad for p in params], params, grad_outputs=z, retain_graph=True)
        for p, h, v in zip(params, products, z, strict=True):
            self.state[p]["hessian"] = h * v

    name = "compute_hutchinson_hessian"
    assert hasattr(library.AdaHessian, name)
    monkeypatch.setattr(library.AdaHessian, name, same)
    monkeypatch.setattr(library.AdaHessian, "zero_hessian", lambda *a, **k: None, raising=False)
    for _ in range(10):
        mine.step(lambda: nn.functional.cross_entropy(ours(x), y))
        other.zero_grad()
        nn.functional.cross_entropy(theirs(x), y).backward(create_graph=True)
        other.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_a_delayed_refresh_reuses_the_curvature():
    c = torch.tensor([1.0, 4.0], dtype=torch.float64)
    x = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
    optimizer = AdaHessian([x], lr=0.1, update_every=3)
    seen = []
    for _ in range(5):
        optimizer.step(lambda: (c * x**4).sum())
        seen.append(optimizer.state[x]["exp_hessian"].clone())
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2]) and not torch.equal(seen[2], seen[3])
    assert optimizer.refreshes == 2


def test_clipping_bounds_the_preconditioned_step():
    x = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
    start = x.detach().clone()
    # no curvature: without clipping the step would be gradient / eps
    AdaHessian([x], lr=0.1, clip=1.0).step(lambda: (3 * x).sum() + 0 * (x**2).sum())
    assert (x.detach() - start).norm().item() == pytest.approx(0.1)


def test_groups_have_their_own_blocks_and_rates():
    conv, linear = nn.Conv2d(2, 3, 3), nn.Linear(27, 2)
    groups = [{"params": conv.parameters()}, {"params": linear.parameters(), "block": "row", "lr": 0.01}]
    optimizer = AdaHessian(groups, lr=0.1)
    x = torch.randn(4, 2, 5, 5, generator=generator())
    optimizer.step(lambda: linear(torch.tanh(conv(x)).flatten(1)).square().mean())
    kernel = optimizer.state[conv.weight]["exp_hessian"]
    row = optimizer.state[linear.weight]["exp_hessian"]
    assert (kernel == kernel[:, :, :1, :1]).all() and (row == row[:, :1]).all() and row.std() > 0


def test_it_trains_through_fit_and_frees_its_graph():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
    x = torch.randn(64, 8, generator=generator())
    y = (x[:, 0] > 0).long()
    loss = lambda m, batch: nn.functional.cross_entropy(m(batch[0]), batch[1])  # noqa: E731
    history = fit(model, [(x, y)], loss, AdaHessian(model.parameters(), 0.1), steps=60)
    assert history.losses[-1] < 0.3 * history.losses[0] and all(p.grad is None for p in model.parameters())
    gc.collect()
    before = sum(isinstance(o, torch.Tensor) for o in gc.get_objects())
    gc.disable()
    try:
        fit(model, [(x, y)], loss, AdaHessian(model.parameters(), 0.1), steps=50)
        grown = sum(isinstance(o, torch.Tensor) for o in gc.get_objects()) - before
    finally:
        gc.enable()
    assert grown < 50  # a graph kept alive by a cycle would leave dozens of tensors a step


def test_the_state_goes_on_where_it_was():
    def train(optimizer, x, steps):
        for _ in range(steps):
            optimizer.step(lambda: (torch.tensor([[1.0, 0.3], [0.3, 2.0]]) @ x.tanh()).square().sum())
        return x.detach().clone()

    def fresh():
        return nn.Parameter(torch.tensor([1.0, -0.5]))

    whole_way = train(AdaHessian([(x := fresh())], 0.1, seed=5), x, 8)
    optimizer = AdaHessian([(x := fresh())], 0.1, seed=5)
    train(optimizer, x, 3)
    again = AdaHessian([(y := nn.Parameter(x.detach().clone()))], 0.1, seed=99)
    again.load_state_dict(optimizer.state_dict())
    assert torch.equal(train(again, y, 5), whole_way)


def test_rosenbrock_is_descended():
    points, values = trajectory(rosenbrock(), lambda params: AdaHessian(params, lr=1.0), 2000)
    assert values[-1] <= 1e-2 and len(points) == 2001
    _, slow = trajectory(rosenbrock(), lambda params: AdaHessian(params, lr=0.15), 2000)
    assert slow[-1] > 0.5


@pytest.mark.parametrize("name", list(PLANES))
def test_landscapes_are_least_at_their_minimisers(name):
    land = plane(name)
    at = torch.tensor(land.minimiser, dtype=torch.float64)
    assert float(land.value(at)) == pytest.approx(0, abs=1e-12)
    around = at + 0.05 * torch.randn(200, 2, generator=generator(), dtype=torch.float64)
    assert all(float(land.value(x)) > 0 for x in around)
    with pytest.raises(ValueError, match="beale"):
        plane("beal")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"lr": 0.0}, {"eps": -1e-8}, {"hessian_power": 1.5}, {"betas": (1.0, 0.9)}, {"n_probes": 0}, {"update_every": 0},
     {"weight_decay": -1.0}, {"averaging": "mean"}, {"distribution": "uniform"}, {"clip": 0.0}],
)  # fmt: skip
def test_bad_settings_are_refused(options):
    with pytest.raises(ValueError):
        AdaHessian([nn.Parameter(torch.ones(2))], **options)


def test_missing_curvature_is_explained():
    x = nn.Parameter(torch.ones(2))
    optimizer = AdaHessian([x])
    (x**2).sum().backward()
    with pytest.raises(ValueError, match="create_graph"):
        optimizer.step()
    x.grad = None
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        optimizer.step()
    (g,) = torch.autograd.grad((x**2).sum(), [x], create_graph=True)
    x.grad = g
    optimizer.step()
    assert (x < 1).all() and x.grad is None


def test_what_is_not_finite_changes_nothing():
    x = nn.Parameter(torch.ones(2))
    optimizer = AdaHessian([x])
    with pytest.raises(NonFiniteLossError):
        optimizer.step(lambda: (x * math.inf).sum())
    with pytest.raises(NonFiniteGradientError):
        optimizer.step(lambda: (x - 1).abs().sqrt().sum())
    assert torch.equal(x, torch.ones(2)) and optimizer.steps == 0 and not optimizer.state[x]


def test_an_operation_without_second_derivative_is_named():
    q = nn.Parameter(torch.randn(1, 1, 4, 8, generator=generator()))
    loss = lambda: nn.functional.scaled_dot_product_attention(q, q, q).square().sum()  # noqa: E731
    with pytest.raises(ValueError, match=r"scaled_dot_product.*second derivative"):
        AdaHessian([q]).step(loss)
