"""Coordinate checks, exponents, and how far the best learning rate moves."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tensorbench.optimizers import widths


def perceptron(width, generator):
    model = nn.Sequential(nn.Linear(5, width, bias=False), nn.Tanh(), nn.Linear(width, 1, bias=False))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, p.shape[1] ** -0.5, generator=generator)
    return model


INPUTS = torch.randn(16, 5, generator=torch.Generator().manual_seed(9))


def advance(lr):
    return widths.steps_of(
        lambda model: torch.optim.SGD(model.parameters(), lr=lr),
        lambda model, x: (model(x) - 1).square().mean(),
        INPUTS,
    )


def test_a_coordinate_check_has_a_row_for_each_width_seed_layer_and_step():
    check = widths.coordinate_check(
        perceptron, [8, 16, 32], advance(0.1), widths.layer_outputs(INPUTS, ["0", "2"]), steps=2, seeds=2
    )
    assert len(check) == 3 * 2 * 2 * 3
    assert (check.loc[check.step == 0, ["change", "mean_abs_change"]] == 0).all(axis=None)
    assert (check.loc[check.step > 0, "change"] > 0).all()
    assert (check["mean_abs"] <= check["size"] + 1e-7).all()


def test_exponents_of_the_standard_parametrisation_under_sgd():
    # An entry of W1 moves as W2 does at the start, n^-1/2; W2 moves by order 1, and its n terms add up.
    check = widths.coordinate_check(
        perceptron, [256, 1024, 4096, 16384], advance(1e-5), widths.layer_outputs(INPUTS), steps=1, seeds=4
    )
    found = widths.fit_exponents(check).set_index(["layer", "step"])
    assert abs(found.loc[("0", 1), "exponent"] + 0.5) < 0.1
    assert abs(found.loc[("2", 1), "exponent"] - 1.0) < 0.1
    assert found.loc[("0", 1), "low"] < found.loc[("0", 1), "exponent"] < found.loc[("0", 1), "high"]
    assert math.isnan(found.loc[("0", 0), "exponent"])
    sizes = widths.fit_exponents(check, "size").set_index(["layer", "step"])
    assert abs(sizes.loc[("0", 0), "exponent"]) < 0.1


def test_any_model_can_be_checked():
    check = widths.coordinate_check(
        lambda width, generator: {"x": torch.full((width,), width**-0.25)},
        [10, 100, 1000],
        lambda model: lambda: model["x"].mul_(2),
        lambda model: model,
        steps=2,
        seeds=[7],
    )
    found = widths.fit_exponents(check)
    assert np.allclose(found.loc[found.step > 0, "exponent"], -0.25, atol=1e-6)
    assert set(check["seed"]) == {7}


def test_the_interval_of_an_exponent_covers_it():
    rng = np.random.default_rng(0)
    n = np.repeat([32, 64, 128, 256], 3)
    hits = 0
    for _ in range(200):
        found = widths.fit_exponent(n, n**-0.5 * np.exp(0.1 * rng.standard_normal(n.size)))
        hits += found.low <= -0.5 <= found.high
    assert 180 <= hits <= 199


def test_both_kinds_of_closures_step():
    class Graph(torch.optim.SGD):
        needs_graph = True

        def step(self, closure):
            loss = closure()
            parameters = self.param_groups[0]["params"]
            with torch.no_grad():
                for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    p -= self.param_groups[0]["lr"] * g
            return loss

    models = [perceptron(16, torch.Generator().manual_seed(0)) for _ in range(2)]
    for model, rule in zip(models, (torch.optim.SGD, Graph), strict=True):
        step = widths.steps_of(
            lambda model, rule=rule: rule(model.parameters(), lr=0.1),
            lambda m, x: m(x).square().mean(),
            lambda: [INPUTS] * 2,
        )(model)
        step(), step()
        with pytest.raises(StopIteration):
            step()
    assert all(
        torch.allclose(a, b, atol=1e-7) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True)
    )


def test_the_best_learning_rate():
    lrs = 2.0 ** np.arange(-8, 0)
    losses = (np.log2(lrs) + 4.3) ** 2 + 1
    assert widths.best_lr(lrs, losses) == 2**-4
    assert math.isclose(math.log2(widths.best_lr(lrs, losses, refine=True)), -4.3, abs_tol=1e-9)
    losses[4] = math.nan  # the best diverged
    assert widths.best_lr(lrs[::-1], losses[::-1], refine=True) == 2**-5
    uneven = np.array([0.5, 1.0, 8.0])
    assert math.isclose(widths.best_lr(uneven, (np.log2(uneven) - 0.4) ** 2, refine=True), 2**0.4, rel_tol=1e-9)
    assert widths.best_lr([1, 2, 4], [1.0, 1.0, 1.0], refine=True) == 1


def test_the_shift_is_in_octaves_and_over_seeds():
    sweep = widths.transfer_sweep(
        lambda width, lr, seed: (math.log2(lr) + math.log2(width) + 0.1 * seed) ** 2,
        [32, 64, 128],
        [2.0**-k for k in range(10)],
        seeds=3,
    )
    shift = widths.lr_shift(sweep)
    assert shift.octaves.mean == 2.0 and not shift.at_edge and len(shift.best) == 9
    still = widths.lr_shift(sweep.assign(loss=np.log2(sweep.lr) ** 2))
    assert still.octaves.mean == 0.0 and still.at_edge


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: widths.fit_exponent([1, 2, 2], [1, 2, 2]), "3 different widths"),
        (lambda: widths.fit_exponent([1, 2, 4], [1, 0, 2]), "positive"),
        (lambda: widths.best_lr([1, 2], [math.nan, math.inf]), "smaller"),
        (lambda: widths.best_lr([1, 2], [1.0]), "one for each loss"),
        (lambda: widths.lr_shift(pd.DataFrame({"width": [1, 1], "lr": [1, 2], "loss": [1, 2]})), "two widths"),
        (lambda: widths.lr_shift(pd.DataFrame({"width": [1], "rate": [1], "loss": [1]})), "lr"),
        (lambda: widths.coordinate_check(perceptron, [], advance(0.1), widths.layer_outputs(INPUTS)), "widths"),
        (lambda: widths.layer_outputs(INPUTS, ["1x"])(perceptron(4, torch.Generator())), "layer"),
        (
            lambda: widths.fit_exponents(pd.DataFrame({"width": [1], "layer": ["a"], "step": [1], "size": [1.0]})),
            "change",
        ),
    ],
)
def test_bad_input_is_told(call, words):
    with pytest.raises(ValueError, match=words):
        call()
