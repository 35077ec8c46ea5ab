"""A refused step or state leaves weights, statistics, windows and generators as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tensorbench.optimizers.adahessian import AdaHessian
from tensorbench.optimizers.base import NonFiniteGradientError, NonFiniteLossError, check_state
from tensorbench.optimizers.m_fac import MFAC
from tensorbench.optimizers.norm_descent import SignDescent
from tensorbench.optimizers.norm_loss import DecoupledNormLoss
from tensorbench.optimizers.prodigy import Prodigy, ProdigyNoEMA
from tensorbench.optimizers.psgd import PSGD
from tensorbench.optimizers.shampoo import Shampoo, ShampooNoEMA
from tensorbench.optimizers.structured_ngd.ingd import INGD
from tensorbench.optimizers.structured_ngd.kfac import KFAC
from tensorbench.optimizers.together import Together


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def filled(p: nn.Parameter, value: float) -> nn.Parameter:
    p.grad = torch.full_like(p, value)
    return p


@pytest.mark.parametrize(
    "make",
    [
        Shampoo, ShampooNoEMA, Prodigy, ProdigyNoEMA, SignDescent,
        lambda params: Together(torch.optim.SGD(params, 0.1)),
        lambda params: DecoupledNormLoss(torch.optim.SGD(params, 0.1), 1.0, params),
    ],
    ids=["shampoo", "shampoo_no_ema", "prodigy", "prodigy_no_ema", "sign", "together", "norm_loss"],
)  # fmt: skip
def test_a_loss_that_is_nan_is_refused_though_gradients_are_finite(make):
    p = parameter(3, 4)
    before = p.detach().clone()
    optimizer = make([p])

    def closure():
        filled(p, 1.0)
        return torch.tensor(float("nan"))

    with pytest.raises(NonFiniteLossError):
        optimizer.step(closure)
    assert torch.equal(p, before)


def test_members_step_together_or_not_at_all():
    p, q = filled(parameter(3, 4), 1.0), filled(parameter(2, 2), float("nan"))
    before = p.detach().clone()
    with pytest.raises(NonFiniteGradientError):
        Together(SignDescent([p]), SignDescent([q])).step()
    assert torch.equal(p, before)


def test_weights_are_not_pulled_to_norm_one_where_the_optimizer_refuses():
    p = filled(parameter(3, 4), float("nan"))
    before = p.detach().clone()
    with pytest.raises(NonFiniteGradientError):
        DecoupledNormLoss(SignDescent([p]), 1.0, [p]).step()
    assert torch.equal(p, before)
    with pytest.raises(ValueError, match="differentiates the loss itself"):
        DecoupledNormLoss(AdaHessian([p]), 1.0, [p])


@pytest.mark.parametrize("shape", [(5, 6), (3, 5), (5, 4), (4,)])
def test_shampoo_refuses_the_statistics_of_another_shape(shape):
    p = filled(parameter(3, 4), 1.0)
    saved = Shampoo([p])
    saved.step()
    with pytest.raises(ValueError, match="another model"):
        Shampoo([parameter(*shape)]).load_state_dict(saved.state_dict())


@pytest.mark.parametrize("shape", [(3, 4), (3,), (), (2, 3, 2, 2)])
def test_shampoo_goes_on_from_its_state(shape):
    p, q = parameter(*shape), parameter(*shape)
    first = Shampoo([p], momentum=0.9, update_every=2)
    for seed in range(3):
        p.grad = parameter(*shape, seed=seed).detach()
        first.step()
    second = Shampoo([q], momentum=0.9, update_every=2)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # torch's load keeps the tensors themselves
    q.data.copy_(p.data)
    for seed in range(3, 6):
        for w, optimizer in ((p, first), (q, second)):
            w.grad = parameter(*shape, seed=seed).detach()
            optimizer.step()
    assert torch.equal(p, q)


@pytest.mark.parametrize("kind", [KFAC, INGD])
@pytest.mark.parametrize("with_closure", [True, False])
def test_statistics_of_a_refused_pass_are_not_averaged_with_the_next(kind, with_closure):
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    start = parameter(2, 3).detach()

    def trained(*batches):
        model = nn.Linear(3, 2, bias=False)
        model.weight.data.copy_(start)
        optimizer = kind(model, 1e-2)
        for batch in batches:

            def closure(batch=batch):
                optimizer.zero_grad()
                loss = model(batch).square().mean()
                loss.backward()
                return loss

            refused = bool(batch.isnan().any())
            given = closure if with_closure else None
            if given is None:
                closure()
            if refused:
                with pytest.raises((NonFiniteLossError, NonFiniteGradientError)):
                    optimizer.step(given)
            else:
                optimizer.step(given)
        return model.weight.detach()

    bad = inputs.clone()
    bad[0, 0] = float("nan")
    assert torch.equal(trained(bad, inputs), trained(inputs))


@pytest.mark.parametrize("whiten", [True, False])
def test_psgd_draws_the_same_after_a_refused_step(whiten):
    p = parameter(3)
    optimizer = PSGD([p], whiten=whiten, update_probability=0.5)
    before = optimizer._generator.get_state()
    with pytest.raises(NonFiniteLossError):
        optimizer.step(lambda: p.sum() * float("nan"))
    assert torch.equal(optimizer._generator.get_state(), before)


def test_adahessian_draws_the_same_after_a_refused_step():
    p = nn.Parameter(torch.zeros(3))
    optimizer = AdaHessian([p])
    before = optimizer.generator.get_state()
    with pytest.raises(
        ValueError, match="NaN"
    ):  # the gradient of |p|^1.5 at 0 is 0, its second derivative is not finite
        optimizer.step(lambda: p.abs().pow(1.5).sum())
    assert torch.equal(optimizer.generator.get_state(), before)


def test_mfac_keeps_which_weights_are_trained():
    start = parameter(6)
    start.data[:3] = 0
    saved = MFAC([start], sparse=True, ngrads=2)
    other = parameter(6)
    other.data[3:] = 0
    loaded = MFAC([other], sparse=True, ngrads=2)
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(loaded.live, saved.live)


@pytest.mark.parametrize("shapes", [[(6,)], [(3, 1), (3,)]])
def test_mfac_that_refuses_a_state_keeps_its_window(shapes):
    first = [filled(parameter(3), 1.0), filled(parameter(3), 1.0)]
    saved = MFAC(first, lr=0.5, ngrads=2)
    saved.step()
    optimizer = MFAC([parameter(*shape) for shape in shapes], ngrads=2)
    with pytest.raises(ValueError, match="another model"):
        optimizer.load_state_dict(saved.state_dict())
    assert optimizer.window.count == 0 and optimizer.param_groups[0]["lr"] == 1e-3


JOINT = {
    "together": lambda p, q, inner: Together(inner([p]), torch.optim.SGD([q], 0.1, momentum=0.9)),
    "norm_loss": lambda p, q, inner: DecoupledNormLoss(inner([p, q]), 0.5, [p]),
}


@pytest.mark.parametrize("make", JOINT.values(), ids=JOINT)
def test_torchs_own_inside_do_not_step_to_nan(make):
    p, q = filled(parameter(3, 4), 1.0), filled(parameter(2, 2), float("nan"))
    optimizer = make(p, q, lambda params: torch.optim.Adam(params, 0.1))
    before = [w.detach().clone() for w in (p, q)]
    with pytest.raises(NonFiniteGradientError):
        optimizer.step()
    assert torch.equal(p, before[0]) and torch.equal(q, before[1]) and not optimizer.state
    q.grad = None  # which torch's own may lack
    optimizer.step()
    assert not torch.equal(p, before[0]) and torch.equal(q, before[1])


@pytest.mark.parametrize(
    "inner",
    [torch.optim.Adam, lambda params, lr: torch.optim.SGD(params, lr, momentum=0.9), torch.optim.Adafactor],
    ids=["adam", "sgd", "adafactor"],
)
@pytest.mark.parametrize("make", JOINT.values(), ids=JOINT)
def test_torchs_own_inside_refuse_the_state_of_another_model(make, inner):
    def used(*shapes, lr):
        p, q = (filled(parameter(*shape), 1.0) for shape in shapes)
        optimizer = make(p, q, lambda params: inner(params, lr))
        optimizer.step()
        return optimizer

    saved = used((3, 4), (2, 2), lr=0.2).state_dict()
    for shapes in ([(3, 5), (2, 2)], [(3, 4), (2, 3)]):
        optimizer = used(*shapes, lr=0.1)
        before = {id(w): dict(kept) for w, kept in optimizer.state.items()}
        with pytest.raises(ValueError, match="another model"):
            optimizer.load_state_dict(saved)
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert all(kept[key] is before[id(w)][key] for w, kept in optimizer.state.items() for key in kept)
    again = used((3, 4), (2, 2), lr=0.1)
    again.load_state_dict(saved)
    assert again.param_groups[0]["lr"] == 0.2


@pytest.mark.parametrize("make", JOINT.values(), ids=JOINT)
def test_lbfgs_is_no_member(make):
    with pytest.raises(ValueError, match="L-BFGS"):
        make(parameter(3, 4), parameter(2, 2), torch.optim.LBFGS)


def test_lbfgs_is_refused_the_state_of_another_model():
    def used(size):
        p = filled(parameter(size), 1.0)
        optimizer = torch.optim.LBFGS([p], 0.1)
        optimizer.step(lambda: torch.ones(()))
        return optimizer

    check_state(used(3), used(3).state_dict())
    with pytest.raises(ValueError, match="another model"):
        check_state(used(4), used(3).state_dict())


def test_a_state_that_the_second_of_two_refuses_is_not_loaded_into_the_first():
    def used(shape, lr):
        p, q = filled(parameter(3, 4), 1.0), filled(parameter(*shape), 1.0)
        optimizer = Together(SignDescent([p], lr, momentum=0.9), MFAC([q], lr, ngrads=2))
        optimizer.step()
        return optimizer

    optimizer = used((2, 3), 0.1)
    with pytest.raises(ValueError, match="another model"):
        optimizer.load_state_dict(used((2, 2), 0.2).state_dict())
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]
