"""The quantised linear layer and the conversion of models."""

import pytest
import torch
from torch import nn

from tensorbench.quantization.blocks import MX, BlockSpec, fake_quantize
from tensorbench.quantization.layers import GemmSpec, QuantLinear, convert, restore


def gradients(layer, x, dy):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(dy)
    return y.detach(), x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()


def problem(seed=0):
    g = torch.Generator().manual_seed(seed)
    layer = nn.Linear(64, 96)
    with torch.no_grad():
        layer.weight.normal_(generator=g)
        layer.bias.normal_(generator=g)
    return layer, torch.randn(2, 32, 64, generator=g), torch.randn(2, 32, 96, generator=g)


def test_without_quantisation_it_is_nn_linear():
    layer, x, dy = problem()
    for a, b in zip(gradients(layer, x, dy), gradients(QuantLinear.of(layer, GemmSpec()), x, dy), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-5)


def test_each_product_is_quantised_along_the_axis_that_is_summed():
    layer, x, dy = problem()
    a, b, c = BlockSpec("e4m3"), BlockSpec("e2m1"), BlockSpec("e5m2")
    spec = GemmSpec(a, b, c, a, b, c)
    y, dx, dw, db = gradients(QuantLinear.of(layer, spec), x, dy)
    w, flat, d = layer.weight.detach(), x.reshape(-1, 64), dy.reshape(-1, 96)
    torch.testing.assert_close(y.reshape(-1, 96), fake_quantize(flat, a) @ fake_quantize(w, b).T + layer.bias)
    torch.testing.assert_close(dx.reshape(-1, 64), fake_quantize(d, c) @ fake_quantize(w, a, 0))
    torch.testing.assert_close(dw, fake_quantize(d, b, 0).T @ fake_quantize(flat, c, 0))
    torch.testing.assert_close(db, d.sum(0))


def test_an_orthonormal_transform_leaves_the_exact_product():
    layer, x, dy = problem()
    reverse = lambda t, axis: -t.flip(axis)  # noqa: E731
    spec = GemmSpec(forward_transform=reverse, dgrad_transform=reverse, wgrad_transform=reverse)
    for a, b in zip(gradients(layer, x, dy), gradients(QuantLinear.of(layer, spec), x, dy), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_pullbacks_and_functions_as_operands():
    layer, x, dy = problem()
    spec = GemmSpec(
        forward_x=lambda t, axis, generator: t * 2, pullback_x=lambda value, g: g * 3, pullback_w=lambda value, g: g * 5
    )
    y, dx, dw, _ = gradients(QuantLinear.of(layer, spec), x, dy)
    plain = gradients(layer, x, dy)
    torch.testing.assert_close(y - layer.bias, 2 * (plain[0] - layer.bias), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dx, 3 * plain[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dw, 5 * plain[2], rtol=1e-4, atol=1e-4)


def model():
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8)), nn.Linear(8, 2))


def test_conversion_keeps_parameters_names_and_what_it_is_told():
    net = model()
    before, optimizer = dict(net.named_parameters()), torch.optim.SGD(net.parameters(), lr=0.1)
    assert convert(net, GemmSpec.uniform(MX["mxfp4"], name="mxfp4"), keep=["3"]) == ["0", "2.0"]
    assert isinstance(net[0], QuantLinear) and not isinstance(net[3], QuantLinear) and "mxfp4" in repr(net)
    assert all(before[name] is p for name, p in net.named_parameters())
    net(torch.ones(4, 8)).sum().backward()
    optimizer.step()
    net.load_state_dict(model().state_dict())
    restore(net)
    assert not any(isinstance(m, QuantLinear) for m in net.modules())
    assert all(before[name] is p for name, p in net.named_parameters())


def test_tied_weights_stay_tied():
    net = model()
    net[2][0].weight = net[0].weight
    convert(net, GemmSpec())
    assert net[2][0].weight is net[0].weight


def test_bad_conversions_are_explained():
    with pytest.raises(ValueError, match="head"):
        convert(model(), GemmSpec(), keep=["head"])
    with pytest.raises(ValueError, match=r"QuantLinear\.of"):
        convert(nn.Linear(2, 2), GemmSpec())
    with pytest.raises(ValueError, match="no linear layer"):
        convert(nn.Sequential(nn.ReLU()), GemmSpec())
    with pytest.raises(ValueError, match="no linear layer"):
        convert(nn.Sequential(nn.Linear(2, 2)), GemmSpec(), keep=["0"])


def test_a_layer_in_two_places_is_converted_in_both_and_attention_is_refused():
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    assert convert(net, GemmSpec.uniform(MX["mxfp4"])) == ["0", "2"]
    assert isinstance(net[0], QuantLinear) and net[0] is net[2]
    restore(net)
    assert not isinstance(net[0], QuantLinear) and net[0] is net[2]
    encoder = nn.TransformerEncoderLayer(8, 2, 16)
    with pytest.raises(ValueError, match=r"self_attn: nn\.MultiheadAttention"):
        convert(encoder, GemmSpec.uniform(MX["mxfp4"]))
    assert convert(encoder, GemmSpec.uniform(MX["mxfp4"]), keep=["self_attn"]) == ["linear1", "linear2"]
