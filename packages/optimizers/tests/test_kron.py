"""Kronecker statistics: against per-sample gradients, singd, and by hand; hooks; the door."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tensorbench.optimizers import kron
from tensorbench.optimizers.kron import KroneckerStatistics

F64 = torch.float64


def collected(model, x, loss=lambda y: y.square().flatten(1).sum(1).mean(), **options):
    with KroneckerStatistics(model, **options) as statistics:
        loss(model(x)).backward()
    return statistics


def test_one_sample_gives_the_exact_product_of_its_gradient():
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).to(F64)
    x = torch.randn(1, 4, generator=g, dtype=F64)
    statistics = collected(model, x)
    for name, layer in statistics.layers.items():
        gradient = kron.to_matrix(layer.weight.grad, layer.bias.grad).flatten()
        assert torch.allclose(kron.dense(statistics)[name], torch.outer(gradient, gradient), atol=1e-14)


def test_independent_inputs_and_gradients_give_the_mean_of_per_sample_products():
    """All pairs (a_i, g_j) once: then the mean of Kronecker products is the product of the means."""
    g = torch.Generator().manual_seed(1)
    a, e = torch.randn(5, 4, generator=g, dtype=F64), torch.randn(6, 3, generator=g, dtype=F64)
    x, targets = a.repeat_interleave(6, 0), e.repeat(5, 1)
    layer = nn.Linear(4, 3).to(F64)

    def one(weight, bias, inputs, direction):
        return (F.linear(inputs, weight, bias) * direction).sum()

    per_sample = torch.func.vmap(torch.func.grad(one, argnums=(0, 1)), (None, None, 0, 0))
    W, b = per_sample(layer.weight.detach(), layer.bias.detach(), x, targets)
    flat = torch.cat([W, b[..., None]], -1).flatten(1)
    with KroneckerStatistics(nn.Sequential(layer)) as statistics:
        (layer(x) * targets).sum(1).mean().backward()
    assert torch.allclose(kron.dense(statistics)["0"], flat.T @ flat / len(flat), atol=1e-12)


CONVOLUTIONS = [
    dict(kernel_size=3, padding=1),
    dict(kernel_size=(3, 2), stride=2, bias=False),
    dict(kernel_size=3, padding=2, dilation=2, stride=(1, 2)),
    dict(kernel_size=3, padding="same"),
]


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_rows_of_a_convolution_times_its_matrix_are_its_output_and_its_gradient(options):
    g = torch.Generator().manual_seed(2)
    layer = nn.Conv2d(4, 5, **options).to(F64)
    x = torch.randn(2, 4, 6, 7, generator=g, dtype=F64)
    y = layer(x)
    rows = kron.rows_in(layer, x)
    expected = kron.rows_out(layer, y)
    assert torch.allclose(rows @ kron.to_matrix(layer.weight, layer.bias).T, expected, atol=1e-12)
    direction = torch.randn(y.shape, generator=g, dtype=F64)
    (y * direction).sum().backward()
    gradient = kron.rows_out(layer, direction).T @ rows
    weight, bias = kron.from_matrix(gradient, layer)
    assert torch.allclose(weight, layer.weight.grad, atol=1e-11)
    assert bias is None or torch.allclose(bias, layer.bias.grad, atol=1e-11)


@pytest.mark.parametrize("shared", ["expand", "reduce"])
@pytest.mark.parametrize("average", ["batch", "batch+positions", "none"])
def test_agrees_with_singd(shared, average):
    utils = pytest.importorskip("singd.optim.utils")
    g = torch.Generator().manual_seed(3)
    cases = [
        (nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2), torch.randn(5, 4, 7, 7, generator=g, dtype=F64)),
        (nn.Linear(4, 6), torch.randn(5, 3, 4, generator=g, dtype=F64)),
    ]
    for layer, x in cases:
        layer = layer.to(F64)
        statistics = collected(nn.Sequential(layer), x, shared=shared, average=average)["0"]
        y = layer(x)
        upstream = torch.autograd.grad(y.square().flatten(1).sum(1).mean(), y)[0]
        a = utils.process_input(x, layer, shared)
        theirs = {"batch": "batch", "batch+positions": "batch+sequence", "none": None}[average]
        e = utils.process_grad_output(upstream, layer, theirs, shared)
        scale = len(x) if average == "none" else 1  # theirs is a sum over samples then, ours stays a mean
        assert torch.allclose(statistics.U, a.T @ a, atol=1e-12)
        assert torch.allclose(scale * statistics.G, e.T @ e, rtol=1e-10)
        U, G = statistics.split()
        assert torch.allclose(torch.kron(G, U), torch.kron(statistics.G, statistics.U))


def test_passes_are_averaged_and_evaluation_does_not_count():
    g = torch.Generator().manual_seed(4)
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(inplace=True)).to(F64)
    x = torch.randn(6, 3, generator=g, dtype=F64)
    whole = collected(model, x)["0"]
    with KroneckerStatistics(model) as statistics:
        for part in (x[:2], x[2:]):
            model(part).square().sum(1).mean().backward()
            with torch.no_grad():
                model(100 * x)
    assert torch.allclose(statistics["0"].U, whole.U, atol=1e-13)
    assert torch.allclose(statistics["0"].G, whole.G, atol=1e-13)
    assert statistics["0"].samples == 6
    model(x).sum().backward()  # outside the block
    assert torch.allclose(statistics["0"].U, whole.U, atol=1e-13)
    assert not model[0]._forward_hooks


def test_a_loss_that_is_summed_gives_the_same_statistics():
    g = torch.Generator().manual_seed(5)
    model, x = nn.Sequential(nn.Linear(3, 2)).to(F64), torch.randn(6, 3, generator=g, dtype=F64)
    mean = collected(model, x)["0"]
    total = collected(model, x, loss=lambda y: y.square().sum(), average="none")["0"]
    assert torch.allclose(total.G, mean.G, rtol=1e-12)


def test_the_door():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    assert kron.unsupported(model) == ["1 (BatchNorm2d)"]
    assert list(kron.layers(model)) == ["0", "3"]
    with pytest.raises(ValueError, match=r"no trained Linear or Conv2d layer.*0 \(LayerNorm\)"):
        KroneckerStatistics(nn.Sequential(nn.LayerNorm(3)))
    with pytest.raises(ValueError, match="did you mean 'expand'"):
        KroneckerStatistics(model, shared="expend")
    with pytest.raises(ValueError, match="shared='expand'"):
        collected(nn.Sequential(nn.Linear(3, 2)), torch.ones(2, 4, 3))
    with pytest.raises(KeyError, match="no statistics yet"):
        KroneckerStatistics(model)["0"]
    with pytest.raises(KeyError, match="unknown layer"):
        KroneckerStatistics(model)["1"]
