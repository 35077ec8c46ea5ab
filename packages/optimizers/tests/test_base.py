"""Checks at the door, and the two kinds of closures."""

import math

import pytest
import torch

from tensorbench.optimizers import base


class Descent(base.Optimizer):
    """Gradient descent with a counter and a buffer, to have a state."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": base.positive("lr", lr)})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else base.checked_loss(closure)
        for group in self.param_groups:
            base.check_gradients(group["params"])
            for p in group["params"]:
                state = self.state[p]
                state["sum"] = state.get("sum", torch.zeros_like(p)) + p.grad
                p -= group["lr"] * p.grad
        return loss


def test_numbers_outside_their_interval_are_refused():
    assert base.positive("lr", 0.1) == 0.1 and base.nonnegative("decay", 0) == 0 and base.whole("steps", 3) == 3
    for bad in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="lr"):
            base.positive("lr", bad)
    with pytest.raises(ValueError, match=r"momentum 1.0 must be in \[0, 1\)"):
        base.in_interval("momentum", 1.0, 0, 1)
    assert base.in_interval("power", 1.0, 0, 1, closed="both") == 1.0
    for bad in (0, True, 1.5):
        with pytest.raises(ValueError, match="whole"):
            base.whole("steps", bad)


@pytest.mark.parametrize(
    ("gradient", "error"),
    [
        (torch.tensor([1.0, math.nan]), base.NonFiniteGradientError),
        (torch.tensor([1.0, math.inf]), base.NonFiniteGradientError),
        (torch.tensor([1.0, 0.0]).to_sparse(), ValueError),
        (None, ValueError),
    ],
)
def test_a_bad_gradient_is_refused_and_nothing_changes(gradient, error):
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = Descent([p])
    p.grad = gradient
    with pytest.raises(error):
        optimizer.step()
    assert torch.equal(p, torch.ones(2)) and not optimizer.state


def test_large_finite_gradients_pass():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.full((2,), 3e38)  # their norm is infinite in float32
    base.check_gradients([p])


def test_a_loss_that_is_not_finite_is_refused():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = Descent([p])
    with pytest.raises(base.NonFiniteLossError):
        optimizer.step(lambda: p.sum() * math.nan)
    with pytest.raises(ValueError, match="one number"):
        optimizer.step(lambda: p * 2)
    assert torch.equal(p, torch.ones(2))


def test_the_state_of_another_model_is_refused():
    def used(size):
        p = torch.nn.Parameter(torch.ones(size))
        p.grad = torch.ones(size)
        optimizer = Descent([p])
        optimizer.step()
        return optimizer

    small, other = used(2), used(3)
    with pytest.raises(ValueError, match="another model"):
        other.load_state_dict(small.state_dict())
    again = used(2)
    again.load_state_dict(small.state_dict())
    assert torch.equal(next(iter(again.state.values()))["sum"], torch.ones(2))


def test_gradients_that_can_be_differentiated_again():
    p, q = torch.nn.Parameter(torch.tensor([2.0, 3.0])), torch.nn.Parameter(torch.ones(1))
    loss, (g, h) = base.gradients_with_graph(lambda: (p**3).sum(), [p, q])
    assert loss.item() == 35 and torch.allclose(g, torch.tensor([12.0, 27.0])) and not h.any()
    (second,) = torch.autograd.grad(g.sum(), p)
    assert torch.allclose(second, torch.tensor([12.0, 18.0]))
    with pytest.raises(ValueError, match="closure"):
        base.gradients_with_graph(None, [p])
    with pytest.raises(ValueError, match="no graph"):
        base.gradients_with_graph(lambda: torch.tensor(1.0), [p])
