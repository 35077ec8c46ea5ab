"""Steepest descent: its predicted decrease, its equivalences, roles, and the door."""

import copy
import math

import pytest
import torch
from torch import nn

from tensorbench.core.tasks import char_lm
from tensorbench.optimizers.base import NonFiniteGradientError
from tensorbench.optimizers.datasets.gradients import conditioned_gradients
from tensorbench.optimizers.equivalence import PAIRS, equivalence_report
from tensorbench.optimizers.norm_descent import (
    ModularNorm,
    SignDescent,
    SpectralDescent,
    SteepestDescent,
    dualize,
    modular,
    norm_init,
    role_map,
    spectral_map,
)
from tensorbench.optimizers.norms import RMS, ConvSpectral, L1ToRMS, MaxEntry, RMSToRMS, Spectral, Transposed
from tensorbench.optimizers.prodigy import Prodigy, ProdigyNoEMA
from tensorbench.optimizers.roles import growing, roles
from tensorbench.optimizers.shampoo import Shampoo

F64 = torch.float64


def lm(width=16):
    return char_lm.CharLM(char_lm.CharLMShape(11, 8, width, 1, 2), torch.Generator().manual_seed(0))


def two_layers(seed=0):
    g = torch.Generator().manual_seed(seed)
    weights = {"a": torch.randn(4, 3, generator=g, dtype=F64), "b": torch.randn(2, 4, generator=g, dtype=F64)}
    return weights, {name: torch.randn(w.shape, generator=g, dtype=F64) for name, w in weights.items()}


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.5, 3.0)])
def test_the_step_decreases_the_quadratic_bound_as_predicted_and_no_step_decreases_it_more(scales):
    _, G = two_layers()
    norm = ModularNorm([("a", RMSToRMS(), scales[0]), ("b", MaxEntry(), scales[1])])
    sharpness = 1.7

    def bound(D):
        return sum(float((G[k] * D[k]).sum()) for k in G) + sharpness / 2 * float(norm.value(D)) ** 2

    D = norm.steepest(G, sharpness)
    assert bound(D) == pytest.approx(-(float(norm.dual(G)) ** 2) / (2 * sharpness), rel=1e-9)
    g = torch.Generator().manual_seed(1)
    for _ in range(300):
        assert bound({k: D[k] + 0.1 * torch.randn(D[k].shape, generator=g, dtype=F64) for k in D}) >= bound(D)


def test_the_optimizer_makes_the_modular_norms_step():
    W, G = two_layers()
    norm_map, scales = {"a": RMSToRMS(), "b": Spectral()}, {"a": 2.0, "b": 0.5}
    norm = ModularNorm([(k, norm_map[k], scales[k]) for k in W])
    params = [(k, nn.Parameter(w.clone())) for k, w in W.items()]
    optimizer = SteepestDescent(params, norm_map, sharpness=3.0, scales=scales)
    for k, p in params:
        p.grad = G[k].clone()
    optimizer.step()
    D = norm.steepest(G, 3.0)
    for k, p in params:
        assert torch.allclose(p, W[k] + D[k])


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_and_decay_by_hand(nesterov):
    p = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=F64))
    optimizer = SteepestDescent([p], RMS(), lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.5)
    w, m = p.detach().clone(), torch.zeros(1, 2, dtype=F64)
    for k in range(4):
        p.grad = torch.tensor([[1.0, k - 1.0]], dtype=F64)
        optimizer.step()
        m = 0.9 * m + 0.1 * p.grad
        d = 0.9 * m + 0.1 * p.grad if nesterov else m
        w = (1 - 0.05) * w - 0.1 * d / d.pow(2).mean().sqrt()
        assert torch.allclose(p, w)


@pytest.mark.parametrize("pair", list(PAIRS))
@pytest.mark.parametrize(("out", "into"), [(12, 8), (5, 9)])
def test_without_averages_they_are_steepest_descent(pair, out, into):
    gradients = conditioned_gradients(seed=3, out=out, into=into).of_steps
    gap = equivalence_report(gradients)[pair]
    assert gap.relative <= (1e-8 if pair.startswith("shampoo") else 1e-12)


def test_equivalences_are_of_the_optimizers_without_averages_only():
    w, v = nn.Parameter(torch.ones(3, dtype=F64)), nn.Parameter(torch.ones(3, dtype=F64))
    adam, sign = torch.optim.Adam([w], lr=0.01), SignDescent([v], lr=0.01)
    for k in range(3):
        w.grad = v.grad = torch.tensor([1.0, -1.0, 3.0 - 2 * k], dtype=F64)
        adam.step()
        sign.step()
    assert (w - v).abs().max() > 1e-3


def test_the_escape_velocity_by_hand():
    c = torch.tensor([2.0, -1.0, 0.5], dtype=F64)
    p = nn.Parameter(torch.ones(3, dtype=F64))
    optimizer, w, eta, rates = ProdigyNoEMA([p], d0=1e-3), torch.ones(3, dtype=F64), 1e-3, []
    for _ in range(8):
        optimizer.zero_grad()
        (c @ p).backward()
        optimizer.step()
        w, bound = w - eta * c.sign(), float(c @ (torch.ones(3, dtype=F64) - w) / c.abs().sum())
        eta = max(eta, bound)
        rates.append(eta)
        assert torch.allclose(p, w, atol=1e-15) and optimizer.param_groups[0]["d"] == pytest.approx(eta, rel=1e-12)
    # While gradients do not turn, the rate is the sum of those before the last: Fibonacci's numbers.
    assert rates[-1] == pytest.approx(rates[-2] + rates[-3], rel=1e-9) and rates[-1] > 10 * rates[0]


def test_prodigy_is_its_authors():
    prodigyopt = pytest.importorskip("prodigyopt")
    g = torch.Generator().manual_seed(0)
    A, start = torch.randn(6, 6, generator=g, dtype=F64), torch.randn(6, generator=g, dtype=F64)
    for options in ({}, {"d_coef": 0.5, "growth_rate": 1.5, "weight_decay": 0.1}, {"lr": 0.5, "betas": (0.8, 0.99)}):
        paths = []
        for cls in (prodigyopt.Prodigy, Prodigy):
            w = nn.Parameter(start.clone())
            optimizer = cls([w], **{"betas": (0.9, 0.99), **options})
            for _ in range(40):
                optimizer.zero_grad()
                (A @ w).pow(2).sum().backward()
                optimizer.step()
            paths.append(w.detach().clone())
        assert (paths[1] - start).abs().max() > 1e-3  # it has left the start
        assert torch.allclose(paths[0], paths[1], rtol=1e-9, atol=1e-12)


def test_the_authors_prodigy_without_averages_is_sign_descent_at_escape_velocity():
    prodigyopt = pytest.importorskip("prodigyopt")
    gradients = conditioned_gradients(seed=5, steps=15).of_steps
    # With beta1 = 0 the library takes another branch; so small a one leaves no average either.
    options = {"betas": (1e-300, 0.0), "beta3": 0.0, "eps": 1e-300, "d0": 1e-3}
    pair = (lambda p: prodigyopt.Prodigy(p, **options), lambda p: ProdigyNoEMA(p, d0=1e-3))
    assert equivalence_report(gradients, pairs={"library": pair})["library"].relative < 1e-12


def test_shampoo_with_sums_is_its_formula_and_roots_wait():
    g = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.zeros(3, 4, dtype=F64))
    optimizer = Shampoo([p], lr=0.5, update_every=2)
    L, R = 1e-6 * torch.eye(3, dtype=F64), 1e-6 * torch.eye(4, dtype=F64)
    w, roots = torch.zeros(3, 4, dtype=F64), None
    for k in range(4):
        p.grad = G = torch.randn(3, 4, generator=g, dtype=F64)
        optimizer.step()
        L, R = L + G @ G.T, R + G.T @ G
        if k % 2 == 0:
            roots = [torch.linalg.matrix_power(_sqrt(_sqrt(torch.linalg.inv(M))), 1) for M in (L, R)]
        w = w - 0.5 * roots[0] @ G @ roots[1]
        assert torch.allclose(p, w, atol=1e-7)


def _sqrt(A):
    values, vectors = torch.linalg.eigh(A)
    return (vectors * values.sqrt()) @ vectors.T


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 2, 3, padding=1)], (5,)),
        ([nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 2, 3, padding=1)], (3, 4, 3)),
        ([nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 2, 3, groups=2)], (5, 5)),
    ],
    ids=["conv1d", "conv3d", "conv_transpose2d"],
)
def test_convolutions_of_any_kind_move_by_the_learning_rate_in_their_norm(layers, shape):
    model = nn.Sequential(layers[0], nn.Tanh(), layers[1])
    x = torch.randn(8, 2, *shape, generator=torch.Generator().manual_seed(0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    norms = role_map(model, method="svd")
    optimizer = modular(model, lr=0.01, method="svd", steps=None)
    loss = (model(x) - x).square().mean()
    loss.backward()
    optimizer.step()
    assert (model(x) - x).square().mean() < loss
    for name, p in model.named_parameters():
        assert float(norms[name].value(p.detach() - before[name])) == pytest.approx(0.01, rel=1e-3), name
    assert norms["2.weight"].transposed == isinstance(layers[1], nn.ConvTranspose2d)


def test_roles_of_the_character_model_and_their_norms():
    model = lm()
    found = roles(model)
    assert found["tokens.weight"] == found["positions.weight"] == "embedding" and found["head.weight"] == "output"
    assert found["blocks.0.qkv.weight"] == "hidden" and found["blocks.0.norm_attention.weight"] == "norm"
    norms = role_map(model, norms={"output": Spectral()})
    assert norms["tokens.weight"] == Transposed(L1ToRMS()) and norms["head.weight"] == Spectral()
    assert spectral_map(model)["tokens.weight"] == RMSToRMS(flatten=True)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 5), nn.Linear(5, 2))
    assert list(roles(net).values()) == ["conv", "bias", "norm", "norm", "hidden", "bias", "output", "bias"]
    assert isinstance(role_map(net)["0.weight"], ConvSpectral)
    mlp = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    assert [roles(mlp)[f"{k}.weight"] for k in range(3)] == ["input", "hidden", "output"]


def test_tied_weights_appear_once_and_unknown_modules_ask():
    model = lm()
    model.head.weight = model.tokens.weight
    assert roles(model)["tokens.weight"] == "embedding" and "head.weight" not in roles(model)
    odd = nn.ParameterDict({"w": nn.Parameter(torch.ones(2, 2))})
    with pytest.raises(ValueError, match="overrides"):
        roles(odd)
    assert roles(odd, {"w": "hidden"}) == {"w": "hidden"}
    with pytest.raises(ValueError, match="hidden"):
        roles(odd, {"w": "hiden"})


def test_axes_that_grow():
    axes = growing(lm(16), lm(32))
    assert axes["tokens.weight"] == (False, True) and axes["head.weight"] == (False, True)
    assert axes["blocks.0.up.weight"] == (True, True) and axes["norm.bias"] == (True,)


@pytest.mark.parametrize("norm", [RMSToRMS(), RMSToRMS(flatten=True), L1ToRMS(), Transposed(L1ToRMS()), RMS()])
def test_initial_weights_have_norm_one_and_directions_come_in_batches(norm):
    g = torch.Generator().manual_seed(0)
    W = norm_init(torch.empty(6, 4), norm, g)
    assert float(norm.value(W)) == pytest.approx(1, abs=1e-5)
    if isinstance(norm, RMSToRMS):
        assert torch.allclose(W.T @ W, torch.eye(4) * 6 / 4, atol=1e-5)
    gradients = [torch.randn(6, 4, generator=g) for _ in range(3)] + [torch.randn(2, 4, generator=g)]
    for found, G in zip(dualize(gradients, [norm] * 4), gradients, strict=True):
        assert torch.allclose(found, norm.lmo(G), atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda model: modular(model, 0.05),
        lambda model: SteepestDescent(model.named_parameters(), role_map(model), 0.05),
        lambda model: SignDescent(model.parameters(), 0.01),
        lambda model: SpectralDescent(model.parameters(), 0.05, momentum=0.9),
        lambda model: Shampoo(model.parameters(), 0.05),
        lambda model: Prodigy(model.parameters(), d0=1e-3),
        lambda model: ProdigyNoEMA(model.parameters(), d0=1e-3),
    ],
)
def test_training_goes_on_from_a_saved_state(make):
    g = torch.Generator().manual_seed(0)
    batch = torch.randint(11, (4, 8), generator=g), torch.randint(11, (4, 8), generator=g)
    model = lm()
    optimizer = make(model)

    def train(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            char_lm.loss(model, batch).backward()
            optimizer.step()
        return float(char_lm.loss(model, batch).detach())

    before = float(char_lm.loss(model, batch).detach())
    train(model, optimizer, 4)
    again = copy.deepcopy(model)
    other = make(again)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(model, optimizer, 4) == train(again, other, 4) < before


def test_bad_input():
    model = lm()
    p = nn.Parameter(torch.ones(2, 2))
    for options, words in (
        ({"momentum": 1.0}, "momentum"), ({"sharpness": 0.0}, "sharpness"), ({"lr": -1.0}, "lr"),
        ({"nesterov": True}, "nesterov"), ({"lr": math.nan}, "lr"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            SteepestDescent([p], Spectral(), **options)
    with pytest.raises(ValueError, match="named_parameters"):
        SteepestDescent([p], {"w": Spectral()})
    with pytest.raises(ValueError, match="heed"):
        SteepestDescent([("heed", p)], {"head": Spectral()})
    with pytest.raises(ValueError, match="matrix"):
        SteepestDescent([nn.Parameter(torch.ones(3))], Spectral())
    with pytest.raises(ValueError, match="scale"):
        ModularNorm([("w", Spectral(), 0.0)])
    with pytest.raises(ValueError, match="scale"):
        SteepestDescent([("w", p)], Spectral(), scales={"w": -1.0})
    with pytest.raises(ValueError, match="role"):
        role_map(model, norms={"embeding": Spectral()})
    optimizer = SteepestDescent([p], Spectral(), momentum=0.5)
    p.grad = torch.full((2, 2), math.nan)
    with pytest.raises(NonFiniteGradientError):
        optimizer.step()
    assert not optimizer.state and torch.equal(p, torch.ones(2, 2))
    p.grad = torch.eye(2).to_sparse()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()
