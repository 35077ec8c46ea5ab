"""What the experiments on Fourier operators rest on: counted bytes, units, patches as a map of whole fields."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tensorbench.pde_operators.datasets.operators import OperatorData
from tensorbench.pde_operators.experiments.operator_training import Operator, error, prepare
from tensorbench.pde_operators.layer_costs import kept_bytes
from tensorbench.pde_operators.patching import MultigridPatching2D


def test_kept_bytes_counts_each_storage_once_and_no_parameters():
    x = torch.randn(10, 4, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(4, 3))
    assert kept_bytes(lambda: x @ weight, [weight]) == x.numel() * 4
    assert kept_bytes(lambda: x @ weight) == (x.numel() + weight.numel()) * 4
    # exp keeps its result, and so does the square of it: one storage
    assert kept_bytes(lambda: (x @ weight).exp().square(), [weight]) == (x.numel() + 30) * 4


def data(samples=6):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(3, 2, (samples, 1, 8, 8)).astype(np.float32) for _ in range(2))
    return OperatorData(x[:4], y[:4], x[4:], y[4:], {8: (x[:2], y[:2])})


def test_fields_are_scaled_by_the_samples_in_use():
    fields = prepare(data(), torch.device("cpu"), 3)
    assert len(fields.train[0]) == 3
    assert fields.train[0].mean().abs() < 1e-5 and abs(fields.train[0].std(correction=0) - 1) < 1e-5
    assert fields.target_scale.mean.item() == pytest.approx(data().train_y[:3].mean(), abs=1e-5)
    with pytest.raises(ValueError, match="9 training samples"):
        prepare(data(), torch.device("cpu"), 9)


@pytest.mark.parametrize("patching", [MultigridPatching2D(0), MultigridPatching2D(1, 0.125)])
def test_a_patched_model_maps_whole_fields(patching):
    fields = prepare(data(), torch.device("cpu"))

    class First(torch.nn.Module):
        def forward(self, x):
            return x[:, :1]

    operator = Operator(First(), patching, fields.target_scale)
    x, y = fields.valid
    torch.testing.assert_close(operator(x), fields.target_scale.decode(x))
    expected = (operator(x) - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)
    assert error(operator, fields.valid, batch=1) == pytest.approx(expected.mean().item(), rel=1e-5)
