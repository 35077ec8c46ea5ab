"""The optimizer: it descends, keeps its state, and refuses what it cannot do."""

import copy
import math

import pytest
import torch
from torch import nn

from tensorbench.core.training import fit
from tensorbench.optimizers import base
from tensorbench.optimizers.psgd import PSGD

F64 = torch.float64


def rosenbrock(x):
    a, b = x[0::2], x[1::2]
    return (100 * (b - a.square()).square() + (1 - a).square()).sum()


def model(seed=0, dtype=F64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)


def data(dtype=F64):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(64, 4, dtype=F64, generator=g)
    return x.to(dtype), (x[:, :1] * x[:, 1:2] + x[:, 2:3]).to(dtype)


def loss_of(network, batch):
    x, y = batch
    return (network(x) - y).square().mean()


KINDS = [
    {"kind": "kron"},
    {"kind": "kron", "momentum": 0.9, "whiten_momentum": True},
    {"kind": "kron", "geometry": "EQ", "max_skew": math.inf},
    {"kind": "lra", "rank": 3},
    {"kind": "dense"},
    {"kind": "kron", "whiten": False},
    {"kind": "lra", "rank": 3, "whiten": False, "products": "finite_difference"},
    {"kind": "dense", "whiten": False, "update_probability": 0.5},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_the_loss_falls(options):
    network, batch = model(), data()
    before = float(loss_of(network, batch).detach())
    optimizer = PSGD(network.parameters(), 0.02 if options.get("whiten", True) else 0.1, **options)
    history = fit(network, [batch], loss_of, optimizer, steps=150)
    assert not history.diverged
    assert float(loss_of(network, batch).detach()) < 0.5 * before


def test_rosenbrock_of_100_variables_with_a_dense_newton_preconditioner():
    x = nn.Parameter(torch.zeros(100, dtype=F64))
    optimizer = PSGD([x], 1.0, kind="dense", whiten=False, lr_preconditioner=0.5, momentum=0.9)
    for _ in range(2000):
        optimizer.step(lambda: rosenbrock(x))
    assert float(rosenbrock(x).detach()) < 1e-8


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_saved_state_goes_on_as_if_nothing_had_happened(options):
    whiten = options.get("whiten", True)

    def steps(network, optimizer, count):
        for _ in range(count):

            def closure():
                optimizer.zero_grad()
                loss = loss_of(network, data())
                if whiten:
                    loss.backward()
                return loss

            optimizer.step(closure)

    network = model()
    optimizer = PSGD(network.parameters(), 0.01, **options)
    steps(network, optimizer, 5)
    again = copy.deepcopy(network)
    other = PSGD(again.parameters(), 0.01, **options, seed=77)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(network, optimizer, 5)
    steps(again, other, 5)
    for p, q in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


def test_parameter_groups_have_their_own_rates_and_absent_gradients_stay():
    p, q, r = (nn.Parameter(torch.ones(3)) for _ in range(3))
    optimizer = PSGD([{"params": [p, r], "lr": 0.1}, {"params": [q], "lr": 0.01}])
    (p.sum() + q.sum()).backward()
    optimizer.step()
    torch.testing.assert_close((1 - p.detach()) / (1 - q.detach()), torch.full((3,), 10.0), rtol=1e-3, atol=0)
    assert torch.equal(r, torch.ones(3))


def test_steps_are_clipped_and_weights_decay():
    p = nn.Parameter(torch.ones(4))
    optimizer = PSGD([p], 0.1, init_scale=1e3, weight_decay=0.5, lr_preconditioner=1e-6)
    p.grad = torch.tensor([1.0, 0.0, 0.0, 0.0])
    optimizer.step()
    # The step has the root mean square 2: its one entry is 4, and the others decay alone.
    torch.testing.assert_close(p.detach(), torch.tensor([0.95 - 0.4, 0.95, 0.95, 0.95]), rtol=1e-3, atol=1e-5)
    q = nn.Parameter(torch.zeros(2, dtype=F64))
    newton = PSGD([q], 1.0, kind="dense", whiten=False, grad_clip_max_norm=0.1)
    newton.step(lambda: (q - 3).square().sum())
    assert float(torch.linalg.vector_norm(q.detach())) == pytest.approx(0.1)


def test_bfloat16_parameters_stay_finite():
    network, batch = model(dtype=torch.bfloat16), data(torch.bfloat16)
    optimizer = PSGD(network.parameters(), 0.02)
    before = float(loss_of(network, batch).detach())
    fit(network, [batch], loss_of, optimizer, steps=100)
    after = float(loss_of(network, batch).detach())
    assert math.isfinite(after) and after < before


def test_a_scalar_and_a_convolution_are_parameters_too():
    p, q = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(3, 2, 2, 2))
    optimizer = PSGD([p, q], 0.1)
    before = float((p.square() + q.square().sum()).detach())
    for _ in range(20):
        optimizer.zero_grad()
        (p.square() + q.square().sum()).backward()
        optimizer.step()
    assert float((p.square() + q.square().sum()).detach()) < 0.5 * before


def test_what_cannot_be_is_refused_and_nothing_changes():
    p = nn.Parameter(torch.ones(3))
    for bad in ({"lr": 0}, {"lr_preconditioner": 2.5}, {"momentum": 1.0}, {"damping": -1}, {"update_probability": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            PSGD([p], **bad)
    with pytest.raises(ValueError, match="kron"):
        PSGD([p], kind="kronn")
    with pytest.raises(ValueError, match="rank 3"):
        PSGD([p], kind="lra", rank=3)
    with pytest.raises(ValueError, match="momentum"):
        PSGD([p], whiten_momentum=True)
    with pytest.raises(ValueError, match="step\\(closure\\)"):
        PSGD([p], whiten=False).step()
    optimizer = PSGD([p])
    p.grad = torch.tensor([1.0, math.nan, 0.0])
    with pytest.raises(base.NonFiniteGradientError):
        optimizer.step()
    newton = PSGD([p], whiten=False)
    with pytest.raises(base.NonFiniteLossError):
        newton.step(lambda: (p * math.inf).sum())
    assert torch.equal(p, torch.ones(3)) and not optimizer.preconditioners and not newton.preconditioners


def test_the_state_of_another_model_or_kind_is_refused():
    def used(size, **options):
        p = nn.Parameter(torch.ones(size))
        optimizer = PSGD([p], **options)
        p.grad = torch.ones(size)
        optimizer.step()
        return optimizer

    saved = used((3, 4)).state_dict()
    for other in (used((4, 3)), used((3, 4), kind="dense")):
        with pytest.raises(ValueError, match="another model or kind"):
            other.load_state_dict(saved)
