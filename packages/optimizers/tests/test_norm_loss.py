"""Norm loss and the other ways to keep weights in place."""

import copy
import math

import pytest
import torch
from torch import nn

from tensorbench.optimizers.norm_loss import (
    DecoupledNormLoss,
    NormLoss,
    effective_learning_rates,
    layers,
    norm_loss,
    norm_loss_grad,
    norm_loss_step_,
    row_norm_stats,
    rows_loss,
    schedule_factor,
)
from tensorbench.optimizers.tasks.images import resnet8
from tensorbench.optimizers.weight_regularizers import (
    KINDS,
    create,
    gram_excess,
    regularized_step,
    spectral_isometry,
    tangent,
    unit_rows,
)

F64 = torch.float64


def weights(seed=0, dtype=F64):
    g = torch.Generator().manual_seed(seed)
    shapes = [(4, 3, 3, 3), (5, 7), (8, 2, 3)]
    return [torch.randn(shape, generator=g, dtype=F64).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("per", ["output", "input", "tensor"])
@pytest.mark.parametrize("target", [1.0, 2.5])
def test_the_gradient_is_the_closed_form_and_that_of_finite_differences(per, target):
    W = weights()
    value = norm_loss(W, 0.3, target, per=per)
    by_autograd = torch.autograd.grad(value, W)
    for a, b in zip(by_autograd, norm_loss_grad(W, 0.3, target, per=per), strict=True):
        assert (a - b).abs().max() < 1e-12
    for a in torch.autograd.grad(norm_loss(W, 0.0, target, per=per), W):
        assert not a.any()
    assert torch.autograd.gradcheck(lambda w: norm_loss([w], 0.3, target, per=per), W[0], eps=1e-6, atol=1e-6)


def test_the_value_by_hand():
    w = torch.tensor([[3.0, 4.0], [0.0, 0.5]], dtype=F64)
    assert float(norm_loss([w], 2.0, eps=0.0)) == pytest.approx(2 * (16 + 0.25), rel=1e-12)
    assert float(norm_loss({"w": w}, 2.0, eps=0.0, per="tensor")) == pytest.approx(
        2 * float(w.norm() - 1) ** 2, rel=1e-12
    )
    tied = norm_loss([w, w], 2.0, eps=0.0)
    assert tied == norm_loss([w], 2.0, eps=0.0)
    named = [("a", w), ("b", 2 * w)]
    assert norm_loss(named, 2.0, eps=0.0, include=lambda name, _: name == "a") == tied


def test_a_unit_flows_to_norm_one_as_the_solution_says():
    factor, dt, steps = 0.5, 1e-4, 20_000
    w = torch.tensor([[0.3, 0.4], [6.0, 8.0], [1.0, 0.0]], dtype=F64)
    start = w.norm(dim=1)
    for _ in range(steps):
        norm_loss_step_([w], dt * factor, eps=0.0)
    expected = 1 + (start - 1) * math.exp(-2 * factor * dt * steps)
    assert torch.allclose(w.norm(dim=1), expected, atol=1e-3)


def test_permuting_units_changes_nothing_and_unit_rows_are_a_fixed_point():
    w = weights()[0].detach()
    g = torch.Generator().manual_seed(1)
    for axis in (0, 1):
        moved = w.index_select(axis, torch.randperm(w.shape[axis], generator=g))
        assert float(norm_loss([moved], 1.0)) == pytest.approx(float(norm_loss([w], 1.0)), rel=1e-12)
    unit = unit_rows(w)
    assert norm_loss_grad([unit], 1.0, eps=0.0)[0].abs().max() < 1e-12
    assert norm_loss([unit], 1.0, eps=0.0) < 1e-24


def test_grouped_convolutions_have_rows_of_their_group():
    conv = nn.Conv2d(8, 12, 3, groups=4)
    assert conv.weight.shape == (12, 2, 3, 3)
    rows = conv.weight.detach().view(12, 18).norm(dim=1)
    assert float(norm_loss([conv.weight], 1.0).detach()) == pytest.approx(float((1 - rows).square().sum()), rel=1e-5)


def test_the_decoupled_step_is_ranger21s_correction():
    utils = pytest.importorskip("pytorch_optimizer.optimizer.agc")
    if not hasattr(utils, "unit_norm"):
        utils = pytest.importorskip("pytorch_optimizer.optimizer.utils")
    unit_norm = pytest.importorskip("pytorch_optimizer.optimizer.ranger21").unit_norm
    lr, factor = 0.1, 1e-2
    for w, per in zip([*weights(dtype=torch.float32)[:2], torch.randn(9)], ["output", "output", "tensor"], strict=True):
        w = w.detach()
        peer = w * (1 - lr * 2 * factor * (1 - 1 / unit_norm(w).add(1e-8)))
        ours = w.clone()
        norm_loss_step_([ours], lr * factor, per=per)
        assert (ours - peer).abs().max() <= 3e-7 and (ours - w).abs().max() > 1e-5


def test_many_weights_of_one_shape_are_stepped_as_one_by_one():
    many = [torch.randn(4, 3, generator=torch.Generator().manual_seed(k)) for k in range(5)]
    many.append(torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(9)))
    alone = [w.clone() for w in many]
    for w in alone:
        norm_loss_step_([w], 0.05)
    norm_loss_step_(many, 0.05)
    for a, b in zip(many, alone, strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_before_a_batch_norm_the_datas_gradient_is_orthogonal_to_rows():
    torch.manual_seed(0)
    conv, bn = nn.Conv2d(2, 5, 3, bias=False).double(), nn.BatchNorm2d(5, eps=1e-14).double()
    x = torch.randn(8, 2, 6, 6, dtype=F64)
    (bn(conv(x)) ** 3).mean().backward()
    g, w = conv.weight.grad.flatten(1), conv.weight.detach().flatten(1)
    assert ((g * w).sum(1).abs() / (g.norm(dim=1) * w.norm(dim=1))).max() < 1e-6
    moved = (w - 1e-3 * g).norm(dim=1) ** 2 - w.norm(dim=1) ** 2
    assert torch.allclose(moved, 1e-6 * g.square().sum(1), rtol=1e-3)  # the norm grows in second order of the rate


def model():
    return resnet8(torch.Generator().manual_seed(0), width=2)


def test_the_module_reads_all_convolutions_but_no_classifier_and_keeps_its_state():
    net = model()
    reg = NormLoss(net, factor=0.5, target=1.5)
    assert len(reg.names) == 9 and "head" not in reg.names and len(layers(net, classifier=True)) == 10
    assert not list(reg.parameters())
    expected = sum((1.5 - net.get_submodule(n).weight.flatten(1).norm(dim=1)).square().sum() for n in reg.names) / 2
    assert float(reg().detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    other = NormLoss(net, classifier=True)
    other.load_state_dict(reg.state_dict())
    assert (other.factor, other.target, other.names) == (reg.factor, reg.target, reg.names)
    with pytest.raises(ValueError, match="layer"):
        NormLoss(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))).load_state_dict(reg.state_dict())
    hook = schedule_factor(reg, lambda step: 0.5**step)
    hook(2)
    assert reg.factor == 0.125


def test_the_module_reads_weights_after_their_parametrisation():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    nn.utils.parametrizations.orthogonal(net[0])
    assert float(NormLoss(net, 1.0)().detach()) == pytest.approx(
        float((1 - net[0].weight.norm(dim=1)).square().sum().detach()), abs=1e-5
    )


def test_scripted_and_eager_agree():
    w = weights(dtype=torch.float32)[1].detach()
    scripted = torch.jit.script(rows_loss)
    assert float(scripted(w, 1.0, 1e-8)) == pytest.approx(float(norm_loss([w], 1.0)), rel=1e-6)


def test_compiled_and_eager_agree():
    reg = NormLoss(model(), 0.1)
    compiled = torch.compile(reg, backend="eager", fullgraph=True)
    assert float(compiled().detach()) == pytest.approx(float(reg().detach()), rel=1e-6)


def test_decoupled_follows_the_rate_and_leaves_other_weights():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    both = DecoupledNormLoss(optimizer, 0.5, [net[0].weight])
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    both.step()
    expected = before[0].weight - 0.1 * norm_loss_grad([before[0].weight], 0.5)[0]
    assert torch.allclose(net[0].weight, expected) and torch.equal(net[1].weight, before[1].weight)
    other = DecoupledNormLoss(torch.optim.SGD(net.parameters(), lr=0.2), 0.1, [net[0].weight])
    other.load_state_dict(both.state_dict())
    assert other.factor == 0.5 and other.param_groups[0]["lr"] == 0.1
    with pytest.raises(ValueError, match="no parameter"):
        DecoupledNormLoss(optimizer, 0.5, [torch.ones(2, 2)])


def test_statistics_of_rows():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    net[0].weight.data = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    stats = row_norm_stats(net)["0"]
    assert (stats.mean, stats.std, stats.least, stats.largest, stats.deviation) == (3.0, 2.0, 1.0, 5.0, 2.0)
    assert effective_learning_rates(net, 0.1)["0"] == pytest.approx(0.1 / 5)


def test_projection_is_geoopts_and_riemannian_steps_are_too():
    geoopt = pytest.importorskip("geoopt")
    w = weights()[0].detach().flatten(1)
    assert (unit_rows(3 * w) - geoopt.Sphere().projx(w)).abs().max() < 1e-7
    net = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 2, bias=False))
    reg = create("riemannian", net)
    p = geoopt.ManifoldParameter(net[0].weight.detach().clone(), manifold=geoopt.Sphere())
    peer, ours = geoopt.optim.RiemannianSGD([p], lr=0.1), torch.optim.SGD(net[:1].parameters(), lr=0.1)
    for k in range(5):
        g = torch.randn(4, 6, generator=torch.Generator().manual_seed(k))
        p.grad, net[0].weight.grad = g.clone(), g.clone()
        peer.step()
        reg.before_step()
        ours.step()
        reg.after_step(0.1)
        assert torch.allclose(net[0].weight, p, atol=1e-6)
    assert (tangent(p.detach(), g) * p.detach()).sum(1).abs().max() < 1e-6


def test_the_penalties_are_zero_for_orthogonal_rows_and_the_power_method_finds_the_largest():
    Q = torch.linalg.qr(torch.randn(7, 4, generator=torch.Generator().manual_seed(0)))[0].T
    assert gram_excess(Q).abs().max() < 1e-5 and spectral_isometry(Q) < 1e-5
    W = weights()[1].detach()
    exact = float(torch.linalg.eigvalsh(gram_excess(W)).abs().max())
    found = float(spectral_isometry(W, torch.Generator().manual_seed(0), iterations=200))
    assert found == pytest.approx(exact, rel=1e-6)
    assert float(spectral_isometry(W, torch.Generator().manual_seed(0))) <= exact


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_regulariser_trains(kind):
    net = model()
    reg = create(kind, net, 1e-3, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 1, 8, 8, generator=g), torch.randint(10, (16,), generator=g)
    values = [
        float(regularized_step(reg, optimizer, lambda: nn.functional.cross_entropy(net(x), y))) for _ in range(12)
    ]
    assert values[-1] < values[0]
    if kind in ("oblique", "riemannian"):
        assert max(s.deviation for s in row_norm_stats(net).values()) < 1e-5


def test_what_regularisers_do_to_a_weight_without_data():
    net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2))
    w = net[0].weight.detach().clone()
    for kind, factor in (("weight_decay", 0.9), ("decoupled_weight_decay", 0.9)):
        other = copy.deepcopy(net)
        optimizer = torch.optim.SGD(other.parameters(), lr=0.2)
        regularized_step(create(kind, other, 0.5), optimizer, lambda other=other: 0.0 * other[0].weight.sum())
        assert torch.allclose(other[0].weight, factor * w, atol=1e-7)


def test_bad_input():
    w = torch.ones(2, 2)
    for options, words in (({"factor": -1.0}, "factor"), ({"factor": 1.0, "target": 0.0}, "target")):
        with pytest.raises(ValueError, match=words):
            norm_loss([w], **options)
    with pytest.raises(ValueError, match=r"'first' has a unit of zeros"):
        norm_loss([("first", torch.zeros(2, 2))], 1.0, eps=0.0)
    assert torch.isfinite(norm_loss_grad([torch.zeros(2, 2)], 1.0)[0]).all()
    with pytest.raises(ValueError, match="per='tensor'"):
        norm_loss([torch.ones(3)], 1.0)
    with pytest.raises(ValueError, match="real"):
        norm_loss([torch.ones(2, 2).long()], 1.0)
    with pytest.raises(ValueError, match="no weights"):
        norm_loss([], 1.0)
    with pytest.raises(ValueError, match="NaN"):
        norm_loss([w * math.nan], 1.0)
    with pytest.raises(ValueError, match="regulariser"):
        create("weight_decy", model())
    with pytest.raises(ValueError, match="convolution"):
        NormLoss(nn.Sequential(nn.Linear(2, 2)))
