"""Norms of known functions, oracles, and scaling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tensorbench.pde_operators.losses import H1Loss, LpLoss, difference, relative_l2
from tensorbench.pde_operators.normalizers import UnitGaussianNormalizer


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 3])
def test_sobolev_norm_of_a_sine(axes, k):
    n, length = 16, 2 * math.pi
    x = torch.arange(n, dtype=torch.float64) * length / n
    field = torch.sin(k * x).reshape(1, 1, n, *(1,) * (axes - 1)).expand(1, 1, *(n,) * axes)
    size = length**axes
    l2 = LpLoss(size=size).norm(field)
    assert l2.item() == pytest.approx(math.sqrt(size / 2), rel=1e-12)
    h1 = H1Loss(derivative="spectral", lengths=length).norm(field)
    assert (h1 / l2).item() == pytest.approx(math.sqrt(1 + k * k), rel=1e-12)
    seen = math.sin(k * length / n) / (length / n)  # the wave number that central differences see
    assert (H1Loss(lengths=length).norm(field) / l2).item() == pytest.approx(math.sqrt(1 + seen**2), rel=1e-12)


@pytest.mark.parametrize("derivative", ["central", "spectral"])
def test_relative_losses_ignore_scale_and_absolute_ones_do_not(derivative):
    a, b = noise(3, 2, 8, 8), noise(3, 2, 8, 8, seed=1)
    for loss in (LpLoss, H1Loss):
        options = {"derivative": derivative} if loss is H1Loss else {}
        assert loss(**options)(5 * a, 5 * b).item() == pytest.approx(loss(**options)(a, b).item())
        absolute = loss(relative=False, **options)
        assert absolute(5 * a, 5 * b).item() == pytest.approx(5 * absolute(a, b).item())
        assert loss(**options)(b, b).item() == 0


def test_reductions_are_over_samples():
    a, b = noise(3, 2, 8), noise(3, 2, 8, seed=1)
    each = LpLoss(reduction="none")(a, b)
    expected = (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)
    torch.testing.assert_close(each, expected)
    assert relative_l2(a, b).item() == pytest.approx(expected.mean().item())
    assert LpLoss(reduction="sum")(a, b).item() == pytest.approx(expected.sum().item())
    largest = LpLoss(p=math.inf, relative=False, reduction="none")(a, b)
    torch.testing.assert_close(largest, (a - b).flatten(1).abs().amax(1))


def test_differences_without_period_are_numpys():
    x = noise(2, 1, 9, 7)
    expected = np.gradient(x.numpy(), 0.5, axis=2, edge_order=2)
    np.testing.assert_allclose(difference(x, 2, 0.5, False).numpy(), expected, atol=1e-12)
    k = torch.arange(6.0, dtype=torch.float64)
    torch.testing.assert_close(difference(k.square().reshape(1, 1, 6), 2, 1.0, False).flatten(), 2 * k)


def test_sobolev_loss_is_neuraloperators_on_one_channel():
    theirs = pytest.importorskip("neuralop.losses").H1Loss(d=2, reduction="mean")
    a, b = noise(3, 1, 8, 6), noise(3, 1, 8, 6, seed=1)
    assert H1Loss()(a, b).item() == pytest.approx(theirs(a, b).item(), rel=1e-6)


@pytest.mark.parametrize("loss", [LpLoss(), H1Loss(), H1Loss(relative=False, derivative="spectral")])
def test_a_sample_without_error_has_gradient_zero(loss):
    target = noise(2, 1, 8)
    prediction = torch.stack([target[0], target[1] + 1]).requires_grad_()
    loss(prediction, target).backward()
    assert prediction.grad[0].abs().max() == 0 and prediction.grad[1].abs().min() > 0


def test_normalizer_goes_there_and_back():
    x = 3 + 2 * noise(20, 2, 6, 5)
    for per in ("channel", "point"):
        scale = UnitGaussianNormalizer.fit(x, per=per)
        z = scale.encode(x)
        over = (0, 2, 3) if per == "channel" else (0,)
        assert z.mean(over).abs().max() < 1e-12 and (z.std(over, correction=0) - 1).abs().max() < 1e-12
        torch.testing.assert_close(scale.decode(z), x)
    coarse = UnitGaussianNormalizer.fit(x)
    assert coarse.encode(noise(1, 2, 12, 12)).shape == (1, 2, 12, 12)
    constant = UnitGaussianNormalizer.fit(torch.full((4, 1, 3), 7.0))
    assert constant.encode(torch.full((1, 1, 3), 7.0)).abs().max() == 0
    assert set(coarse.state_dict()) == {"mean", "std"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LpLoss(reduction="median"), "unknown reduction"),
        (lambda: LpLoss(p=0.5), "at least 1"),
        (lambda: H1Loss(derivative="upwind"), "unknown derivative"),
        (lambda: H1Loss(periodic=False, derivative="spectral"), "need periodic"),
        (lambda: H1Loss(periodic=False)(noise(1, 1, 2), noise(1, 1, 2)), "at least 3"),
        (lambda: relative_l2(noise(1, 1, 4), noise(1, 1, 5)), "one shape"),
        (lambda: relative_l2(noise(1, 1, 4), torch.zeros(1, 1, 4)), "0 everywhere"),
        (lambda: LpLoss()(noise(0, 1, 4), noise(0, 1, 4)), "empty"),
        (lambda: UnitGaussianNormalizer.fit(noise(0, 1, 4)), "no fields"),
        (lambda: UnitGaussianNormalizer.fit(torch.tensor([[[math.nan]]])), "NaN"),
        (lambda: UnitGaussianNormalizer.fit(noise(1, 1, 4), per="point"), "one sample"),
        (lambda: UnitGaussianNormalizer.fit(noise(2, 1, 4), per="field"), "unknown per"),
    ],
)
def test_errors_teach(build, message):
    with pytest.raises(ValueError, match=message):
        build()
