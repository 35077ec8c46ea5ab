"""Every optimizer by name: trains, keeps its state, and refuses what is wrong."""

import copy

import pytest
import torch
from torch import nn

from tensorbench.core.training import fit
from tensorbench.optimizers.baselines import BASELINES, matrices_apart
from tensorbench.optimizers.experiments.comparison import state_bytes
from tensorbench.optimizers.methods import METHODS, create
from tensorbench.optimizers.together import Together

RATES = {
    "sgd": 0.1, "adam": 1e-2, "adamw": 1e-2, "lbfgs": 0.3, "muon": 0.03, "shampoo": 0.03, "shampoo_averaged": 3e-3,
    "soap": 1e-2, "prodigy": 1.0, "psgd_library": 1e-2, "modular": 0.1, "sign": 3e-3, "adahessian": 0.15, "m_fac": 1e-3,
    "ingd": 1e-2, "kfac": 1e-2, "kfac_eig": 1e-2, "psgd_kron": 1e-2, "psgd_lra": 1e-2, "psgd_newton": 0.1,
    "sgd_norm_loss": 0.1,
}  # fmt: skip


def problem():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(128, 6, generator=generator)
    return model, (x, (x[:, 0] + x[:, 1] > 0).long())


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_every_method_has_a_rate_here():
    assert set(RATES) == set(METHODS)


@pytest.mark.parametrize("name", list(METHODS))
def test_it_lowers_the_loss(name):
    if name in BASELINES and name in ("shampoo", "soap", "prodigy", "psgd_library"):
        pytest.importorskip("pytorch_optimizer")
    model, batch = problem()
    torch.manual_seed(0)  # some libraries draw from the global generator
    optimizer = create(name, model, RATES[name])
    history = fit(model, [batch], loss, optimizer, steps=60)
    assert not history.diverged and loss(model, batch).item() < 0.85 * history.losses[0]
    assert state_bytes(optimizer) >= 0


def test_the_state_is_counted_once_and_in_bytes():
    model, batch = problem()
    size = sum(p.numel() for p in model.parameters()) * 4
    for name, copies in (("sgd", 1), ("adam", 2), ("adahessian", 2)):
        optimizer = create(name, model, 1e-3)
        fit(model, [batch], loss, optimizer, steps=1)
        assert copies * size <= state_bytes(optimizer) <= copies * size + 200 * len(list(model.parameters())), name


def test_hidden_matrices_are_told_from_the_rest():
    model, _ = problem()
    matrices, rest = matrices_apart(model)
    assert [tuple(p.shape) for p in matrices] == [(12, 6), (8, 12)] and len(rest) == 4


def test_two_optimizers_step_as_one_and_remember():
    model, batch = problem()
    first, second = model[0].parameters(), list(model[2].parameters()) + list(model[4].parameters())
    both = Together(torch.optim.SGD(first, 0.1, momentum=0.9), torch.optim.Adam(second, 1e-2))
    before = [p.detach().clone() for p in model.parameters()]
    fit(model, [batch], loss, both, steps=2, schedule="linear")
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    again = Together(torch.optim.SGD(model[0].parameters(), 0.1, momentum=0.9), torch.optim.Adam(second, 1e-2))
    again.load_state_dict(both.state_dict())
    assert state_bytes(again) == state_bytes(both) > 0
    with pytest.raises(ValueError, match="two of the optimizers"):
        Together(torch.optim.SGD(second, 0.1), torch.optim.SGD(second, 0.1))
    with pytest.raises(ValueError, match="at least one"):
        Together()
    with pytest.raises(ValueError, match="differentiates the loss itself"):
        Together(create("adahessian", model, 0.1))


@pytest.mark.parametrize("kind", ["together", "norm_loss"])
def test_torchs_schedules_hold_for_optimizers_made_of_others(kind):
    def make(model):
        if kind == "norm_loss":
            return create("sgd_norm_loss", model, 0.1)
        return Together(torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.Adam(model[2:].parameters(), 1e-2))

    model, batch = problem()
    optimizer = make(model)
    starts = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    fit(model, [batch], loss, optimizer, steps=2, schedule=schedule)
    inner = [group for member in optimizer.members for group in member.param_groups]
    assert [group["lr"] for group in inner] == [start / 4 for start in starts]
    optimizer.load_state_dict(make(model).state_dict())  # makes new groups in the members
    schedule.step()
    assert [group["lr"] for member in optimizer.members for group in member.param_groups] == [s / 2 for s in starts]
    copied = copy.deepcopy(make(model))
    assert [group["lr"] for group in copied.param_groups] == starts and isinstance(copied, torch.optim.Optimizer)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="no groups of its own"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


def test_bad_requests_are_refused():
    model, _ = problem()
    with pytest.raises(ValueError, match="adahessian"):
        create("adahesian", model, 0.1)
    with pytest.raises(ValueError, match="lr"):
        create("sgd", model, 0.0)
    with pytest.raises(TypeError):
        create("adamw", model, 0.1, momentum=0.9)


def test_a_gradient_that_is_not_finite_counts_as_divergence_in_a_comparison():
    from tensorbench.optimizers.experiments.comparison import train_once
    from tensorbench.optimizers.tasks import Task

    def make(generator):
        model = nn.Linear(2, 1)
        # finite at 0, where its derivative is not
        loss = lambda m, batch: (m(batch) * 0).abs().sqrt().sum()  # noqa: E731
        return Task(model, iter([torch.ones(1, 2)] * 10), loss, lambda m: {"valid_loss": 0.0})

    history, final, _ = train_once(make, 0, "modular", 0.1, {}, 3)
    assert history.diverged and not final
