"""Random-matrix laws against sampled matrices, the noise estimate against exact matrices, stability against descent."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tensorbench.optimizers import autodiff, curvature, flat, hessian_noise, linops
from tensorbench.optimizers import lr_batch_size as rules
from tensorbench.optimizers import random_matrices as rmt
from tensorbench.optimizers.slq_tuner import SLQTuner


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def small_task(samples=40):
    g = generator()
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.7, generator=g)
    data = torch.randn(samples, 4, generator=g, dtype=torch.float64), torch.randint(0, 3, (samples,), generator=g)
    return model, data


def test_noise_alone_is_a_semicircle():
    values = np.linalg.eigvalsh(rmt.spiked_wigner(1000, [], math.sqrt(2.0 / 1000), 1, np.random.default_rng(0)))
    share = np.arange(1, 1001) / 1000
    assert np.abs(rmt.semicircle_cdf(values, rmt.bulk_edge(2.0, 1)) - share).max() <= 0.02
    x = np.linspace(-2, 2, 20001)
    assert np.trapezoid(rmt.semicircle_pdf(x, 2.0), x) == pytest.approx(1, abs=1e-5)
    assert rmt.semicircle_cdf(np.array([0.5]), 2.0) == pytest.approx(
        np.trapezoid(rmt.semicircle_pdf(x[x <= 0.5], 2.0), x[x <= 0.5]), abs=1e-4
    )


def test_a_spike_moves_and_turns_as_the_theory_says():
    rng, P, spikes = np.random.default_rng(1), 500, (4.0, -3.0, 0.4)
    values, overlaps = [], []
    for _ in range(4):
        w, u = np.linalg.eigh(rmt.spiked_wigner(P, spikes, math.sqrt(8 / P), 4, rng))
        values.append((w[-1], w[0], w[-2]))
        overlaps.append((u[0, -1] ** 2, u[1, 0] ** 2))
    top, low, edge = np.mean(values, axis=0)
    assert top == pytest.approx(rmt.batch_eigenvalue(4.0, 8, 4), rel=0.02)
    assert low == pytest.approx(rmt.batch_eigenvalue(-3.0, 8, 4), rel=0.02)
    assert edge == pytest.approx(rmt.bulk_edge(8, 4), rel=0.03) == pytest.approx(rmt.batch_eigenvalue(0.4, 8, 4))
    expected = [rmt.spike_overlap(lam, 8, 4) for lam in (4.0, -3.0)]
    assert np.mean(overlaps, axis=0) == pytest.approx(expected, abs=0.05)
    assert rmt.spike_overlap(0.4, 8, 4) == 0


def test_multiplicative_noise_follows_marchenko_and_pastur():
    rng, P, n = np.random.default_rng(2), 300, 600
    found = [np.linalg.eigh(rmt.spiked_wishart(P, n, (6.0,), rng, scale=0.5)) for _ in range(4)]
    low, high = rmt.mp_edges(P / n, 0.5)
    assert np.mean([w[-1] for w, _ in found]) == pytest.approx(rmt.mp_spike(6.0, P / n, 0.5), rel=0.05)
    assert np.mean([u[0, -1] ** 2 for _, u in found]) == pytest.approx(rmt.mp_overlap(6.0, P / n, 0.5), abs=0.05)
    assert np.mean([w[-2] for w, _ in found]) == pytest.approx(high, rel=0.03)
    assert np.mean([w[0] for w, _ in found]) == pytest.approx(low, rel=0.1)
    x = np.linspace(low, high, 20001)
    assert np.trapezoid(rmt.mp_pdf(x, P / n, 0.5), x) == pytest.approx(1, abs=1e-3)
    assert rmt.mp_spike(0.6, P / n, 0.5) == high and rmt.mp_overlap(0.6, P / n, 0.5) == 0


def test_the_whole_data_set_moves_nothing():
    assert rmt.spike_shift(1.5, 7.0, 100, 100) == 0 and rmt.spike_overlap(1.5, 7.0, 100, 100) == 1
    assert rmt.spike_shift(-3, 2.0, 4) == pytest.approx(-1 / 6)


def test_the_variance_of_synthetic_noise_is_found():
    P, m, sigma = 60, 30, 0.3
    a = torch.randn(m, P, P, generator=generator(3), dtype=torch.float64) * sigma
    matrices = (a + a.transpose(1, 2)) / math.sqrt(2)
    exact = float((matrices - matrices.mean(0)).square().sum() / (m - 1) / P)
    found = hessian_noise.noise_of_products(lambda v: matrices @ v, torch.zeros(P).double(), 200, generator())
    assert found.value == pytest.approx(exact, rel=0.03) and exact == pytest.approx(P * sigma**2, rel=0.05)
    assert abs(found.value - exact) < 4 * found.error


def test_the_variance_of_a_networks_hessians_is_found():
    model, data = small_task()
    params = flat.trainable(model)
    singles = torch.stack(
        [autodiff.full_hessian(autodiff.objective(model, cross_entropy, tuple(t[i : i + 1] for t in data)), params)
         for i in range(40)]
    )  # fmt: skip
    d = singles.shape[1]
    v = torch.randn(d, generator=generator(5), dtype=torch.float64)
    products = hessian_noise.sample_products(model, cross_entropy, data)
    assert torch.allclose(products(v), singles @ v, atol=1e-12)
    exact = float((singles - singles.mean(0)).square().sum() / 39 / d)
    every = hessian_noise.hessian_noise(model, cross_entropy, data, 300, generator())
    assert abs(every.value - exact) < 4 * every.error and every.error < 0.1 * exact
    paired = hessian_noise.hessian_noise(model, cross_entropy, data, 100, generator(), pairs=30)
    assert abs(paired.value - exact) < 4 * paired.error and paired.error < 0.2 * exact
    # Batches of 8 out of 40 without replacement: the finite-population factor makes it the same number.
    full, parts = linops.dense(singles.mean(0)), []
    for seed in range(60):
        chosen = torch.randperm(40, generator=generator(seed))[:8]
        parts.append(linops.dense(singles[chosen].mean(0)))
    batches = hessian_noise.noise_from_batches(full, parts, 8, 40, 100, generator())
    assert batches.value == pytest.approx(exact, rel=0.1)
    with pytest.raises(ValueError, match="say nothing"):
        hessian_noise.noise_from_batches(full, parts, 40, 40, 10, generator())


@pytest.mark.parametrize(("momentum", "factor", "stable"), [(0, 0.98, 1), (0, 1.02, 0), (0.9, 0.98, 1), (0.9, 1.02, 0)])
def test_descent_is_stable_up_to_the_largest_rate(momentum, factor, stable):
    spectrum = torch.tensor([1.7, 0.5, 0.1], dtype=torch.float64)
    x = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.SGD([x], lr=factor * rules.max_lr("sgd", 1.7, 0.0, 8, momentum), momentum=momentum)
    for _ in range(1500):
        optimizer.zero_grad()
        (spectrum * x.square()).sum().div(2).backward()
        optimizer.step()
    assert (float(x.detach().abs().max()) < 1e-3) == bool(stable)


def test_heavy_ball_has_its_optimal_rate():
    lr, momentum = rules.heavy_ball(10.0, 0.1)
    spectrum = torch.tensor([10.0, 3.0, 0.1], dtype=torch.float64)
    # The error's growth a step is the spectral radius of the two-step recursion.
    radius = max(
        np.abs(np.linalg.eigvals([[1 + momentum - lr * lam, -momentum], [1, 0]])).max() for lam in spectrum.tolist()
    )
    known = (math.sqrt(10) - math.sqrt(0.1)) / (math.sqrt(10) + math.sqrt(0.1))
    assert radius == pytest.approx(known, abs=1e-3) and math.sqrt(momentum) == pytest.approx(known)
    assert rules.heavy_ball(2.0, 2.0) == pytest.approx((0.5, 0.0))


def test_rates_grow_and_saturate():
    lam, noise = 2.0, 400.0  # b* = 100
    assert rules.critical_batch(lam, noise) == 100
    assert rules.max_lr("sgd", lam, noise, 100) == pytest.approx(0.5 * 2 / lam)
    for kind, power in (("sgd", 1), ("adam", 0.5)):
        small = [rules.max_lr(kind, lam, noise, b) for b in (1, 2)]
        assert small[1] / small[0] == pytest.approx(2**power, rel=0.02)
        assert rules.lr_schedule_for_batch(0.1, 32, 128, kind) == pytest.approx(0.1 * 4**power)
    assert rules.max_lr("sgd", lam, noise, 10**6) == pytest.approx(1, rel=1e-3)
    assert rules.max_lr("sgd", lam, noise, 4, bulk=True) == pytest.approx(2 / (2 * math.sqrt(noise / 4)))
    assert rules.lr_schedule_for_batch(0.1, 32, 1024, "sgd", cap=0.5) == 0.5
    assert rules.damping_rule(0.1, 50, 3.0) == pytest.approx(0.006)


def test_bisection_finds_the_threshold():
    grid = [2.0**k for k in range(-8, 4)]
    tried = []
    found = rules.find_max_lr(lambda lr: tried.append(lr) or lr <= 0.3, grid)
    assert (found.stable, found.unstable) == (0.25, 0.5) and found.runs == len(tried) <= 4
    assert math.isnan(rules.find_max_lr(lambda lr: True, grid).unstable)
    with pytest.raises(ValueError, match="lower"):
        rules.find_max_lr(lambda lr: False, grid)
    with pytest.raises(ValueError, match="rise"):
        rules.find_max_lr(lambda lr: True, [1.0, 0.5])
    read = iter([1.0, 5.0, 1.0])
    assert rules.diverged(read, 1.0) and next(read) == 1.0
    assert rules.diverged([math.nan], 1.0) and not rules.diverged([3.9], 1.0)


def test_the_tuner_sets_what_the_spectrum_asks_for():
    spectrum = torch.tensor([4.0, 1.0, 0.5, -0.25], dtype=torch.float64)
    x = nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer = torch.optim.SGD([x], lr=1e-3, momentum=0.0)

    def operator():
        return curvature.hessian_operator(lambda: (spectrum * x.square()).sum() / 2, [x])

    tuner = SLQTuner(optimizer, operator, generator(), every=3, steps=10)
    assert tuner(1) is None and not tuner.settings
    tuner(3)
    expected = rules.heavy_ball(4.0, 0.25)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == pytest.approx(expected)
    state = tuner.state_dict()
    group["lr"] = 0.7
    again = SLQTuner(optimizer, operator, generator(9), every=3, steps=10)
    again.load_state_dict(state)
    assert group["lr"] == pytest.approx(expected[0]) and again.look(6) == tuner.look(6)
    concave = SLQTuner(optimizer, lambda: curvature.hessian_operator(lambda: -x.square().sum(), [x]), generator())
    assert concave.look(0).lr == pytest.approx(expected[0])  # left as it was
    with pytest.raises(ValueError, match="momentum"):
        SLQTuner(torch.optim.Adagrad([x]), operator, generator())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rmt.bulk_edge(1.0, 0.5), "between 1"),
        (lambda: rmt.bulk_edge(1.0, 11, 10), "number of samples, 10"),
        (lambda: rmt.bulk_edge(-0.1, 2), "more probes"),
        (lambda: rmt.spiked_wigner(3, [1] * 4, 1.0, 1, np.random.default_rng(0)), "do not fit"),
        (lambda: rmt.mp_edges(0.0), "positive"),
        (lambda: rules.max_lr("lion", 1.0, 1.0, 2), "valid: adam, sgd"),
        (lambda: rules.max_lr("sgd", -1.0, 1.0, 2), "lam1"),
        (lambda: rules.heavy_ball(1.0, 2.0), "in this order"),
        (lambda: rules.lr_schedule_for_batch(0.1, 32, 64, "sgd", cap=0), "cap"),
        (lambda: hessian_noise.hessian_noise(nn.Linear(1, 1), F.mse_loss, (torch.ones(1),), 5, generator()), "least"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
