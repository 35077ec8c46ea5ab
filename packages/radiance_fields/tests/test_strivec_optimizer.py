"""MaskedAdam: Adam where there is a gradient, nothing where there is none."""

from __future__ import annotations

import pytest
import torch

from tensorbench.radiance_fields.strivec import MaskedAdam


def trajectory(optimizer, parameter, gradients):
    values = []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        values.append(parameter.detach().clone())
    return torch.stack(values)


@pytest.mark.parametrize("masked", [True, False])
def test_equals_adam_where_gradients_are_not_zero(masked):
    gradients = torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = torch.linspace(-1, 1, 7, dtype=torch.float64)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    found = trajectory(MaskedAdam([ours], lr=0.1, eps=1e-14, masked=masked), ours, gradients)
    expected = trajectory(torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99), eps=1e-14), theirs, gradients)
    assert torch.allclose(found, expected, atol=1e-10)


def test_entries_without_gradient_keep_value_and_moments():
    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = MaskedAdam([parameter], lr=0.1)
    trajectory(optimizer, parameter, torch.ones(3, 4))
    state = {key: value.clone() for key, value in optimizer.state[parameter].items() if key != "step"}
    value = parameter.detach().clone()
    trajectory(optimizer, parameter, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    assert torch.equal(parameter[:2], value[:2]) and (parameter[2:] < value[2:]).all()
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state[parameter][key][:2], state[key][:2])
    plain = torch.nn.Parameter(torch.ones(4))
    adam = torch.optim.Adam([plain], lr=0.1)
    trajectory(adam, plain, torch.ones(3, 4))
    before = plain.detach().clone()
    trajectory(adam, plain, torch.zeros(1, 4))
    assert (plain < before).all()  # old momentum moves them


def test_groups_choose_and_a_closure_is_called():
    first, second = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = MaskedAdam([{"params": [first]}, {"params": [second], "masked": False}], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (first[0] + second[0]) ** 2
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 4.0
    assert first[1] == 1 and first[0] < 1 and second[0] < 1


@pytest.mark.parametrize(("options", "message"), [({"lr": -1.0}, "negative"), ({"betas": (0.9, 1.0)}, "betas")])
def test_bad_input_is_told(options, message):
    with pytest.raises(ValueError, match=message):
        MaskedAdam([torch.nn.Parameter(torch.ones(1))], **options)
