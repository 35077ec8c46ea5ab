"""The optimizer, loss scaling, the small tasks and the simulator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tensorbench.quantization.fp4.loss_scale import LossScaler
from tensorbench.quantization.fp4.recipes import COMBINED, Recipe
from tensorbench.quantization.fp4.simulator import Task, diffusion_task, regression_task, simulate, sweep
from tensorbench.quantization.fp4.stable_spam import StableSPAM
from tensorbench.quantization.recipes import RECIPES
from tensorbench.quantization.tasks import diffusion
from tensorbench.quantization.tasks.classify import PatchConv, SmallCNN


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_stable_spam_steps_like_adam_on_a_constant_gradient():
    p = nn.Parameter(torch.zeros(4))
    optimizer = StableSPAM([p], lr=0.1)
    for _ in range(3):
        p.grad = torch.tensor([1.0, -2.0, 3.0, 4.0])
        optimizer.step()
    assert torch.allclose(p.detach(), -0.3 * torch.tensor([1.0, -1.0, 1.0, 1.0]), atol=1e-4)


def test_stable_spam_follows_its_equations():
    """Written out in NumPy for one tensor; ``theta`` low, so that elements are clipped."""
    lr, beta1, beta2, gamma1, gamma2, theta, eps = 0.1, 0.9, 0.999, 0.7, 0.9, 0.3, 1e-8
    p = nn.Parameter(torch.zeros(6, dtype=torch.float64))
    optimizer = StableSPAM([p], lr=lr, theta=theta, weight_decay=0.01)
    w, m, v, top, norm, square = np.zeros(6), np.zeros(6), np.zeros(6), 0.0, 0.0, 0.0
    for t in range(1, 9):
        g = np.random.default_rng(t).standard_normal(6) * t**2
        p.grad = torch.from_numpy(g.copy())
        optimizer.step()
        top = theta * top + (1 - theta) * np.abs(g).max()
        bound = top / (1 - theta**t)
        g = np.where(np.abs(g) > bound, g / np.abs(g).max() * bound, g)
        size = np.linalg.norm(g)
        norm, square = gamma1 * norm + (1 - gamma1) * size, gamma2 * square + (1 - gamma2) * size**2
        g = g / size * (norm / (1 - gamma1**t)) / (np.sqrt(square / (1 - gamma2**t)) + eps)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        w = w * (1 - lr * 0.01)
        w = w - lr * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    assert np.allclose(p.detach().numpy(), w, rtol=1e-10)


def test_stable_spam_is_hardly_moved_by_a_spike():
    def moment(factor: float) -> torch.Tensor:
        p = nn.Parameter(torch.zeros(8))
        optimizer = StableSPAM([p], lr=0.01, theta=0.9)
        for step in range(12):
            p.grad = normal(8) * (factor if step == 11 else 1.0)
            optimizer.step()
        return optimizer.state[p]["m"].clone()

    calm, spiked = moment(1.0), moment(1e4)
    assert float((spiked - calm).norm() / calm.norm()) < 0.5


def test_stable_spam_resets_its_moments_and_refuses_bad_decays():
    p = nn.Parameter(torch.zeros(2))
    optimizer = StableSPAM([p], lr=0.1, reset=2)
    for _ in range(2):
        p.grad = torch.ones(2)
        optimizer.step()
    assert optimizer.state[p]["age"] == 1
    with pytest.raises(ValueError, match="gamma1"):
        StableSPAM([p], gamma1=1.0)
    with pytest.raises(ValueError, match="out of range"):
        StableSPAM([p], lr=0.0)


def test_stable_spam_minimises():
    p = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = StableSPAM([p], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        p.square().sum().backward()
        optimizer.step()
    assert float(p.detach().abs().max()) < 0.2


def test_loss_scale_leaves_gradients_and_drops_overflow():
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    scaler = LossScaler([p], 1024.0, patience=1)
    loss = scaler(p.square().sum())
    loss.backward()
    assert float(loss) == 5.0 and torch.equal(p.grad, torch.tensor([2.0, 4.0]))
    p.grad = None
    scaler(p.sum() * 1e37).backward()
    assert scaler.overflowed and torch.equal(p.grad, torch.zeros(2))
    before = scaler.factor
    scaler(p.sum())
    assert scaler.factor == before / 2
    scaler.remove()
    p.grad = None
    scaler(p.sum()).backward()
    assert float(p.grad[0]) == scaler.factor
    with pytest.raises(ValueError, match="must be positive"):
        LossScaler([p], 0.0)


def test_convolution_by_patches_is_a_convolution():
    conv = PatchConv(3, 5, torch.Generator().manual_seed(0), kernel=3, stride=2)
    x = normal(2, 3, 11, 8)
    expected = nn.functional.conv2d(x, conv.weights.weight.reshape(5, 3, 3, 3), conv.weights.bias, stride=2, padding=1)
    assert torch.allclose(conv(x), expected, atol=1e-5)
    assert SmallCNN(10, torch.Generator().manual_seed(0))(torch.zeros(2, 28, 28)).shape == (2, 10)


def test_diffusion_mixes_signal_into_noise():
    a = diffusion.signal()
    assert a[0] > 0.99 and a[-1] < 1e-3 and bool((a.diff() < 0).all())
    zero = diffusion.Denoiser(64, torch.Generator().manual_seed(0))
    with torch.no_grad():
        zero.last.weight.zero_()
    assert diffusion.evaluate(zero, torch.zeros(512, 64)) == pytest.approx(1.0, abs=0.02)  # the power of the noise


def toy(seed: int) -> Task:
    x = normal(256, 10).numpy()
    y = x[:, 0] * x[:, 1] + x[:, 2]
    return regression_task(x[:192], y[:192], x[192:], y[192:], seed)


def test_simulation_repeats_and_pairs_seeds():
    first, again = (simulate(toy(1), COMBINED, steps=5, seed=1) for _ in range(2))
    assert first.metrics == again.metrics
    other = simulate(toy(1), None, steps=5, seed=1)
    assert other.losses[0] == pytest.approx(first.losses[0], rel=0.3)  # the same weights and batch, only rounded
    assert other.cost.operations == 0 < first.cost.relative
    with pytest.raises(ValueError, match="unknown optimizer"):
        simulate(toy(1), None, steps=1, optimizer="adam")


def test_loss_scale_rescues_gradients_from_a_narrow_scale():
    """E4M3 scales without the tensor's: small gradients round to zero unless the loss is scaled."""

    def moved(recipe: Recipe) -> float:
        task = toy(2)
        before = task.model.hidden[1].weight.detach().clone()
        task.loss = lambda model, batch, inner=task.loss: 1e-3 * inner(model, batch)
        simulate(task, recipe, steps=3, seed=2)
        return float((task.model.hidden[1].weight.detach() - before).norm())

    assert moved(Recipe()) == 0.0 < moved(Recipe(loss_scale=2.0**14))


def test_tasks_train_in_every_precision():
    images = torch.rand(40, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
    rows = sweep(
        {"regression": toy, "diffusion": lambda seed: diffusion_task(images, images[:8], seed)},
        {"fp32": None, "bf16": RECIPES["bf16"], "fp4": Recipe(tensor_scale="absmax")},
        [0],
        steps=40,
    )
    losses = {(row["task"], row["recipe"]): row["valid_loss"] for row in rows}
    assert len(losses) == 6 and not any(row["diverged"] for row in rows)
    assert losses["regression", "fp32"] < 1.2 and losses["regression", "fp4"] < 1.5
    assert losses["regression", "bf16"] == pytest.approx(losses["regression", "fp32"], rel=0.1)
    assert losses["regression", "bf16"] != losses["regression", "fp32"]
