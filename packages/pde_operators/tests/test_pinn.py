"""Networks, samplers and residual losses of physics-informed learning."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from tensorbench.pde_operators.diffops import allen_cahn, manufactured, poisson, polynomial
from tensorbench.pde_operators.pinn.networks import MLP, FourierNet, HardBoundary, Siren
from tensorbench.pde_operators.pinn.samplers import Box, axes, boundary, grid, interior
from tensorbench.pde_operators.pinn.training import (
    AdaptiveWeight,
    Points,
    losses,
    nested_derivatives,
    residual,
    train_pinn,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points_of(problem, box, n=64):
    inside = interior(box, n, generator(), dtype=torch.float64)
    edge = boundary(box, 8, generator(1), dtype=torch.float64)
    return Points(inside, problem.source(*inside.T), edge, problem.solution(*edge.T))


NETWORKS = {
    "mlp": lambda d, g: MLP(d, hidden=16, depth=2, generator=g, dtype=torch.float64),
    "fourier": lambda d, g: FourierNet(d, scales=[1, 5], features=8, hidden=16, generator=g, dtype=torch.float64),
    "siren": lambda d, g: Siren(d, hidden=16, depth=2, omega=5.0, generator=g, dtype=torch.float64),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_functions_of_their_generator_and_of_each_point(name):
    x = torch.rand(5, 2, dtype=torch.float64)
    first, again, other = (NETWORKS[name](2, generator(s))(x) for s in (0, 0, 1))
    assert first.shape == (5, 1) and torch.equal(first, again) and not torch.equal(first, other)
    alone = NETWORKS[name](2, generator())(x[3:4])
    torch.testing.assert_close(alone, first[3:4])


def test_siren_keeps_the_spread_of_its_activations():
    net = Siren(1, hidden=256, depth=5, generator=generator())
    x = torch.linspace(-1, 1, 2000)[:, None]
    h = torch.sin(net.omega * net.layers[0](x)).detach()
    for layer in net.layers[1:-1]:
        h = torch.sin(layer(h)).detach()
        assert 0.4 < float(h.std()) < 0.8


def test_fourier_features_have_the_asked_scale():
    net = FourierNet(1, scales=[2.0, 50.0], features=4000, hidden=4, generator=generator())
    assert net.frequencies.std(dim=(1, 2)).tolist() == pytest.approx([2.0, 50.0], rel=0.05)


def test_hard_boundaries_hold_for_any_network():
    net = HardBoundary(NETWORKS["mlp"](1, generator()), lambda x: x * (1 - x), lambda x: 3 * x + 1)
    assert net(torch.tensor([[0.0], [1.0]], dtype=torch.float64)).flatten().tolist() == [1.0, 4.0]


def test_nested_derivatives_of_a_known_function():
    problem = manufactured(poisson("xy"), "sin(3*x)*exp(y) + x**3*y**2")
    x = torch.rand(11, 2, dtype=torch.float64)
    operators = [(0, 0), (1, 0), (1, 1), (2, 0), (0, 2), (2, 1), (0, 3)]
    found = nested_derivatives(lambda p: problem.solution(*p.T), x, operators)
    for index in operators:
        torch.testing.assert_close(found[index], problem.derivative(index)(*x.T), rtol=1e-9, atol=1e-9)


def test_derivatives_of_a_linear_function_end_in_zeros():
    found = nested_derivatives(lambda p: 2 * p[:, 0], torch.rand(3, 2), [(1, 0), (2, 0), (1, 1)])
    assert found[(1, 0)].tolist() == [2.0] * 3 and not found[(2, 0)].any() and not found[(1, 1)].any()


def test_residual_against_finite_differences_of_a_network():
    net, pde, h = NETWORKS["siren"](1, generator()), allen_cahn("x"), 1e-4
    x = torch.rand(6, 1, dtype=torch.float64)
    with torch.no_grad():
        u, up, down = (net(x + s).flatten() for s in (0.0, h, -h))
    expected = (up - 2 * u + down) / h**2 + u * (u**2 - 1)
    torch.testing.assert_close(residual(pde, net, x).detach(), expected, rtol=1e-5, atol=1e-5)


def test_derivatives_agree_with_deepxde(monkeypatch):
    monkeypatch.setenv("DDE_BACKEND", "pytorch")
    dde = pytest.importorskip("deepxde")
    before = torch.get_default_dtype()
    net = MLP(2, hidden=8, depth=2, generator=generator(), dtype=before)
    x = torch.rand(5, 2, requires_grad=True, dtype=before)
    found = nested_derivatives(net, x, [(2, 0), (0, 2), (1, 1)])
    for index, (i, j) in {(2, 0): (0, 0), (0, 2): (1, 1), (1, 1): (0, 1)}.items():
        theirs = dde.grad.hessian(net(x), x, i=i, j=j)
        dde.grad.clear()
        torch.testing.assert_close(found[index], theirs.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampling", ("uniform", "sobol"))
def test_samples_fill_the_box_and_its_faces(sampling):
    box = Box((-1.0, 2.0), (1.0, 6.0))
    x = interior(box, 4000, generator(), sampling=sampling, dtype=torch.float64)
    np.testing.assert_allclose(x.mean(0), [0.0, 4.0], atol=0.06)
    np.testing.assert_allclose(x.std(0), [2 / math.sqrt(12), 4 / math.sqrt(12)], atol=0.05)
    assert torch.equal(x, interior(box, 4000, generator(), sampling=sampling, dtype=torch.float64))
    edge = boundary(box, 10, generator(), dtype=torch.float64)
    on_face = (edge == torch.tensor(box.low)) | (edge == torch.tensor(box.high))
    assert edge.shape == (40, 2) and bool(on_face.any(dim=1).all())
    assert boundary(Box.unit(1), 10, generator()).tolist() == [[0.0], [1.0]]
    assert boundary(box, 10, generator(), faces=[(1, 0)])[:, 1].tolist() == [2.0] * 10
    assert grid(box, (3, 2)).tolist()[:2] == [[-1.0, 2.0], [-1.0, 6.0]]
    assert [len(a) for a in axes(box, (3, 2))] == [3, 2]


@pytest.mark.parametrize("weight", (100.0, AdaptiveWeight()))
def test_a_smooth_problem_is_learned(weight):
    problem = manufactured(poisson("x"), "sin(3*x)")
    x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
    truth = problem.solution(x[:, 0])
    net = MLP(1, hidden=24, depth=2, box=([0.0], [1.0]), generator=generator(), dtype=torch.float64)

    def evaluate(net):
        return {"error": float((net(x).flatten() - truth).norm() / truth.norm())}

    before = evaluate(net)["error"]
    points = points_of(problem, Box.unit(1))
    history = train_pinn(
        problem.pde,
        net,
        [points],
        steps=600,
        lr=5e-3,
        schedule="cosine",
        weight=copy.deepcopy(weight),
        evaluate=evaluate,
    )
    assert history.evaluations[-1][1]["error"] < 0.1 < before


def test_the_adaptive_weight_is_the_ratio_of_gradients():
    problem = manufactured(poisson("x"), "sin(9*x)")
    net, points = NETWORKS["mlp"](1, generator()), points_of(problem, Box.unit(1))
    parameters = list(net.parameters())
    inside, edge = losses(problem.pde, net, points)
    value = AdaptiveWeight(memory=0.0).update(inside, edge, parameters)
    options = {"allow_unused": True, "materialize_grads": True}
    top = max(float(g.abs().max()) for g in torch.autograd.grad(inside, parameters, **options))
    flat = torch.cat([g.flatten() for g in torch.autograd.grad(edge, parameters)])
    assert value == pytest.approx(top / float(flat.abs().mean()))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="tanh"):
        MLP(1, activation="tan")
    with pytest.raises(ValueError, match="omega"):
        Siren(1, omega=0)
    with pytest.raises(ValueError, match="scales"):
        FourierNet(1, scales=[])
    with pytest.raises(ValueError, match="lower end"):
        Box((1.0,), (0.0,))
    with pytest.raises(ValueError, match="sobol"):
        interior(Box.unit(1), 3, generator(), sampling="sobal")
    with pytest.raises(ValueError, match="face"):
        boundary(Box.unit(2), 3, generator(), faces=[(2, 0)])
    with pytest.raises(ValueError, match="n 0"):
        boundary(Box.unit(2), 0, generator())
    with pytest.raises(ValueError, match=r"inside: .* give \(n, d\) and \(n,\)"):
        Points(torch.rand(3, 1), torch.ones(3, 1), torch.rand(2, 1), torch.ones(2))
    with pytest.raises(ValueError, match="boundary: "):
        Points(torch.rand(3, 1), torch.ones(3), torch.rand(2, 1), torch.ones(3))
    with pytest.raises(ValueError, match="multi-index"):
        residual(polynomial("u_xx + u_yy", "xy"), MLP(1), torch.rand(3, 1))
    with pytest.raises(ValueError, match="lr"):
        train_pinn(poisson("x"), MLP(1), [], steps=1, lr=0)
