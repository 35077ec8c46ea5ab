"""The learnt simulator: an exact step is recognised as one, batches, training, checkpoints, bad input."""

import math

import pytest
import torch
from torch import nn

from tensorbench.pde_operators.baselines.unet import UNet
from tensorbench.pde_operators.baselines.wave_steps import Persistence, UniformMedium
from tensorbench.pde_operators.wave_unet import (
    WaveSimulator,
    field_energy,
    one_step_error,
    relative_error,
    rollout,
    rollout_errors,
    train,
    windows,
)


@pytest.mark.parametrize("waves", [(1, 2), (3, 4)])
def test_a_uniform_medium_is_exact_on_waves_between_walls(waves):
    """The sum of four plane waves that the walls turn into each other, sin(kx) sin(ly) cos(ωt), steps of any length."""
    n, interval, spacing, speed = 12, 0.37, 0.25, 1.3
    side = (n - 1) * spacing
    x = torch.linspace(0, side, n, dtype=torch.float64)
    k, m = (math.pi * wave / side for wave in waves)
    omega, times = speed * math.hypot(k, m), interval * torch.arange(12, dtype=torch.float64)
    u = torch.cos(omega * times + 0.4)[:, None, None] * torch.sin(k * x)[:, None] * torch.sin(m * x)
    u, c = u[None], torch.full((1, n, n), speed, dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        step = UniformMedium(n, interval=interval, spacing=spacing, speed=speed)
    finally:
        torch.set_default_dtype(torch.float32)
    model = WaveSimulator(step, scale=2.0, base="none").double()
    torch.testing.assert_close(rollout(model, u[:, 0], u[:, 1], c, 10), u[:, 2:], rtol=0, atol=1e-12)
    slower = WaveSimulator(UniformMedium(n, interval=interval, spacing=spacing), base="none").double()
    assert rollout_errors(slower, u, c)[0].max() > 0.1
    still = rollout(WaveSimulator(Persistence()).double(), u[:, 0], u[:, 1], c, 3)
    torch.testing.assert_close(still, u[:, 1:2].expand_as(still), rtol=0, atol=1e-15)


def test_uniform_medium_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="at least 3"):
        UniformMedium(2, interval=0.1, spacing=1.0)
    with pytest.raises(ValueError, match="must be positive"):
        UniformMedium(8, interval=0.0, spacing=1.0)
    with pytest.raises(ValueError, match=r"expected fields \(batch, 3, 8, 8\)"):
        UniformMedium(8, interval=0.1, spacing=1.0)(torch.zeros(1, 3, 9, 9))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def standing(runs=3, times=12, n=16):
    """Standing waves cos(ω t + φ) sin(πx) sin(πy): u_{t+1} = 2 cos(ω) u_t − u_{t−1}."""
    line = torch.linspace(0, 1, n)
    shape = torch.sin(math.pi * line)[:, None] * torch.sin(math.pi * line)
    phase = torch.arange(runs)[:, None] + 0.3 * torch.arange(times)
    return torch.cos(phase)[..., None, None] * shape, torch.ones(runs, n, n)


class Exact(nn.Module):
    """The step of the standing wave, in the network's units and beyond the base."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        last, now = x[:, :1], x[:, 1:2]
        step = 2 * math.cos(0.3) * now - last
        return step - {"none": 0, "last": now, "extrapolated": 2 * now - last}[self.base]


@pytest.mark.parametrize("base", ["none", "last", "extrapolated"])
def test_an_exact_step_has_no_error(base):
    u, c = standing()
    model = WaveSimulator.of(Exact(base), u, c, base=base)
    assert one_step_error(model, u, c) < 1e-5
    errors, predicted = rollout_errors(model, u, c)
    assert errors.shape == (10,) and errors.max() < 1e-4
    assert predicted.shape == (3, 10, 16, 16)


def test_errors_by_hand():
    u, c = standing()
    still = WaveSimulator.of(Zero(), u, c)  # predicts the last snapshot
    expected = ((u[:, 1:-1] - u[:, 2:]).norm(dim=(2, 3)) / u[:, 2:].norm(dim=(2, 3))).mean().item()
    assert math.isclose(one_step_error(still, u, c), expected, rel_tol=1e-5)
    errors, _ = rollout_errors(still, u, c)
    assert math.isclose(errors[4], relative_error(u[:, 1], u[:, 6]).mean(), rel_tol=1e-5)


class Zero(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x[:, :1])


def test_a_rollout_that_blows_up_stays_finite():
    class Doubling(nn.Module):
        def forward(self, x):
            return 99 * x[:, 1:2]

    u, c = standing()
    model = WaveSimulator.of(Doubling(), u, c)
    predicted = rollout(model, u[:, 0], u[:, 1], c, 40)
    assert torch.isfinite(predicted).all()
    assert math.isclose(predicted.abs().max().item(), 1e3 * model.scale.item(), rel_tol=1e-5)


def test_walls():
    u, c = standing()
    for walls in (True, False):
        model = WaveSimulator.of(nn.Conv2d(3, 1, 1), u, c, walls=walls)
        assert (not model(u[:, 0], u[:, 1], c)[:, 0].any()) == walls


def test_energy_of_a_standing_wave():
    n = 64
    line = torch.linspace(0, 1, n, dtype=torch.float64)
    shape = torch.sin(math.pi * line)[:, None] * torch.sin(math.pi * line)
    omega, interval = math.pi * math.sqrt(2), 0.01
    u = torch.cos(omega * interval * torch.arange(50, dtype=torch.float64))[:, None, None] * shape
    found = field_energy(u[:-1], u[1:], torch.ones_like(u[1:]), interval=interval, spacing=1 / (n - 1))
    torch.testing.assert_close(found, torch.full_like(found, math.pi**2 / 4), rtol=2e-3, atol=0)


def test_windows_are_pieces_of_runs():
    u, c = standing(runs=4)
    u = u + 10 * torch.arange(4)[:, None, None, None]
    c = c * torch.arange(4)[:, None, None]
    stream = windows(u, c, 8, generator(), lambda number: 1 + 3 * (number > 0))
    for times in (3, 6, 6):
        piece, speed = next(stream)
        assert piece.shape == (8, times, 16, 16)
        for fields, k in zip(piece, speed, strict=True):
            whole = u[int(k[0, 0])]
            starts = [t for t in range(12 - times + 1) if torch.equal(whole[t : t + times], fields)]
            assert len(starts) == 1


def network():
    return UNet(3, 1, width=4, depth=1, generator=generator())


def test_training_learns_and_is_reproducible():
    u, c = standing(runs=4, times=20)
    states = []
    for _ in range(2):
        model = WaveSimulator.of(network(), u, c)
        before = one_step_error(model, u, c)
        history = train(model, u, c, steps=60, lr=1e-2, batch=4, unrolled=3, generator=generator(1))
        assert history.steps == 60 and not history.diverged
        states.append(model.state_dict())
    assert one_step_error(model, u, c) < 0.7 * before  # the field itself passes through zero, so that errors are large
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_the_best_state_on_validation_is_kept():
    u, c = standing(runs=4, times=20)
    model = WaveSimulator.of(network(), u, c)
    history = train(model, u, c, steps=20, lr=3e-2, batch=4, generator=generator(1), valid=(u, c), evaluate_every=2)
    assert math.isclose(one_step_error(model, u, c), min(v for _, v in history.curve("valid_error")), rel_tol=1e-5)


def test_checkpoints_carry_the_normaliser():
    u, c = standing()
    model = WaveSimulator.of(network(), 7 * u, c)
    other = WaveSimulator(network())
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(u[:, 0], u[:, 1], c), model(u[:, 0], u[:, 1], c))
    assert math.isclose(other.scale.item(), (7 * u).std().item(), rel_tol=1e-6)


def test_noise_changes_training_but_not_the_target():
    u, c = standing(runs=4, times=20)
    errors = []
    for noise in (0.0, 0.5):
        model = WaveSimulator.of(network(), u, c)
        train(model, u, c, steps=10, lr=1e-2, batch=4, noise=noise, generator=generator(1))
        errors.append(one_step_error(model, u, c))
    assert errors[0] != errors[1]


def test_bad_input():
    u, c = standing()
    model = WaveSimulator.of(network(), u, c)
    with pytest.raises(ValueError, match="not finite"):
        train(model, u * torch.nan, c, steps=1, generator=generator())
    with pytest.raises(ValueError, match="expected runs"):
        one_step_error(model, u[:, :2], c)
    with pytest.raises(ValueError, match="snapshots a run"):
        train(model, u, c, steps=1, unrolled=11, unrolled_share=1, generator=generator())
    with pytest.raises(ValueError, match="did you mean 'last'"):
        WaveSimulator(network(), base="lst")
    with pytest.raises(ValueError, match="positive"):
        WaveSimulator(network(), scale=0)
    with pytest.raises(ValueError, match="differ in shape"):
        model(u[:, 0], u[:, 1], c[:1])
    with pytest.raises(ValueError, match="noise"):
        train(model, u, c, steps=1, noise=-1, generator=generator())
    with pytest.raises(ValueError, match="steps 0"):
        rollout(model, u[:, 0], u[:, 1], c, 0)
