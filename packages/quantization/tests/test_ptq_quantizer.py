"""Quantisers, observers, wrapping, folding and calibration."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tensorbench.core.tasks.resnet import ResNet8
from tensorbench.quantization.blocks import MX, NVFP4, fake_quantize
from tensorbench.quantization.ptq.attention import ExplicitAttention
from tensorbench.quantization.ptq.calibrate import calibrate, refine_scales
from tensorbench.quantization.ptq.folding import fold_batch_norm
from tensorbench.quantization.ptq.observers import OBSERVERS, Seen, choose_range
from tensorbench.quantization.ptq.quantizer import Quantizer, QuantSpec
from tensorbench.quantization.ptq.wrap import QuantModel
from tensorbench.quantization.tasks.classifiers import PatchTransformer, digits_mlp


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ready(bits, x, **spec):
    quantizer = Quantizer(QuantSpec(bits=bits, **spec))
    rows = quantizer.grouped(x)
    quantizer.set_range(rows.amin(1), rows.amax(1))
    return quantizer


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_idempotent_and_within_half_a_step(bits, granularity, symmetric):
    x = normal(6, 32) + (0.0 if symmetric else 0.7)
    q = ready(bits, x, granularity=granularity, symmetric=symmetric, group=8 if granularity == "group" else None)
    y = q(x).detach()
    torch.testing.assert_close(q(y).detach(), y, rtol=1e-6, atol=1e-7)
    step = q.scale.detach().reshape(-1, 1)
    error = (q.grouped(y) - q.grouped(x)).abs()
    # A zero point rounds, too, so that half a step more may be cut off at an end of the range.
    assert bool((error <= (0.5 if symmetric else 1.0) * step * (1 + 1e-5)).all())
    assert len(torch.unique(q.grouped(y)[0])) <= 2**bits


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("symmetric", [True, False])
def test_torch_gives_the_same_bits(bits, symmetric):
    x = normal(1000) * 3
    q = ready(bits, x * 0.6, symmetric=symmetric)  # part of x saturates
    theirs = torch.fake_quantize_per_tensor_affine(x, q.scale.detach(), q.zero_point, *q.code_range)
    assert torch.equal(q(x).detach(), theirs)
    with torch.no_grad():
        assert torch.equal(q(x), theirs)


def test_channels_agree_with_torch():
    w = normal(5, 7, 3, 3)
    q = ready(4, w, granularity="channel")
    theirs = torch.fake_quantize_per_channel_affine(w, q.scale.detach(), q.zero_point, 0, *q.code_range)
    torch.testing.assert_close(q(w).detach(), theirs, rtol=1e-6, atol=0)


def test_sixteen_bits_are_bfloat16_and_32_nothing():
    x = normal(100)
    assert torch.equal(Quantizer(QuantSpec(16))(x), x.bfloat16().float())
    assert Quantizer(QuantSpec(32))(x) is x


def test_float_formats_are_torch_floats_and_block_formats_those_of_the_package():
    x = normal(4, 64)
    q = ready(8, x, fmt="fp8_e4m3")
    s = q.scale.detach()
    torch.testing.assert_close(q(x).detach(), (x * (1 / s)).to(torch.float8_e4m3fn).float() * s, rtol=0, atol=0)
    assert torch.equal(Quantizer(QuantSpec(fmt="nvfp4"))(x), fake_quantize(x, NVFP4))
    assert torch.equal(Quantizer(QuantSpec(fmt="mxfp8_e4m3"), axis=0)(x), fake_quantize(x, MX["mxfp8_e4m3"], 0))


def test_gradients_are_straight_through_and_that_of_the_scale_is_of_the_smoothed_rounding():
    x = torch.tensor([-2.0, -0.31, 0.0, 0.12, 0.77, 5.0], dtype=torch.float64, requires_grad=True)
    q = Quantizer(QuantSpec(4))
    q.set_range(-1.0, 1.0)
    q.double()
    weights = torch.arange(1.0, 7.0, dtype=torch.float64)
    (q(x) * weights).sum().backward()
    assert torch.equal(x.grad, weights * (x.detach().abs() <= 1))
    s0 = q.scale.detach()
    residual = torch.round(x.detach() / s0) - x.detach() / s0

    def smoothed(s):
        return float((weights * s * (x.detach() / s + residual).clamp(-7, 7)).sum())

    assert float(q.scale.grad) == pytest.approx((smoothed(s0 + 1e-6) - smoothed(s0 - 1e-6)) / 2e-6, rel=1e-6)


def test_an_all_zero_weight_stays_zero_and_warns():
    x = torch.zeros(3, 4)
    with pytest.warns(UserWarning, match="all zero"):
        q = ready(4, x)
    assert torch.equal(q(x).detach(), x)


def seen_of(*batches):
    seen = Seen()
    for x in batches:
        seen.add(x.reshape(1, -1))
    return seen


def test_observers():
    x = normal(4000)
    x[0] = 100.0
    high = {name: float(choose_range(seen_of(x), QuantSpec(4), name)[1]) for name in OBSERVERS}
    assert high["max"] == high["moving_average"] == 100
    assert high["percentile"] == pytest.approx(float(np.quantile(x.abs(), 0.999, method="nearest")), rel=0.05)
    assert 1 < high["entropy"] < 50  # the outlier does not decide
    mild = normal(4000, seed=2)

    def error(name):
        q = Quantizer(QuantSpec(4))
        q.set_range(*choose_range(seen_of(mild), q.spec, name))
        return float((q(mild).detach() - mild).square().mean())

    assert error("mse") <= min(error(name) for name in OBSERVERS)
    assert error("mse") < 0.9 * error("max")


def test_moving_average_forgets_and_asymmetric_ranges_follow_the_data():
    seen = seen_of(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 3.0]))
    assert float(choose_range(seen, QuantSpec(8), "moving_average", momentum=0.75)[1]) == pytest.approx(1.5)
    uniform = torch.linspace(2, 3, 501)
    low, high = choose_range(seen_of(uniform), QuantSpec(8, symmetric=False), "percentile", percentile=90)
    assert float(low) == pytest.approx(2.05) and float(high) == pytest.approx(2.95)


@pytest.mark.parametrize("make", [lambda: ResNet8(8), digits_mlp])
def test_folding_changes_nothing_but_the_layers(make):
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    model.eval()
    x = normal(4, 1, 14, 14) if isinstance(model, ResNet8) else normal(4, 8, 8)
    folded = fold_batch_norm(model)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())


def wrapped(precisions=(16, 8, 4)):
    torch.manual_seed(0)
    x = normal(32, 8, 8)
    model = QuantModel.wrap(digits_mlp(), x[:1], precisions)
    calibrate(model, [x[:16], x[16:]])
    return model, x


def test_at_32_bits_the_model_is_the_model_and_the_original_is_left_alone():
    torch.manual_seed(0)
    original = PatchTransformer()
    x = normal(3, 28, 28)
    before = copy.deepcopy(original.state_dict())
    model = QuantModel.wrap(original, x[:1], (8,))
    torch.testing.assert_close(model(x), original.eval()(x), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in original.state_dict().items())
    assert [info.kind for info in model.layers()].count("matmul") == 4


def test_a_quantised_linear_layer_is_the_product_of_quantised_operands():
    model, x = wrapped()
    model.set_config({"1": 4})
    layer, flat = model.layer("1"), x.flatten(1)
    w, b = layer.inner.weight, layer.inner.bias
    qx = torch.fake_quantize_per_tensor_affine(flat, float(flat.abs().max()) / 7, 0, -7, 7)
    qw = torch.fake_quantize_per_tensor_affine(w, float(w.abs().max()) / 7, 0, -7, 7)
    with torch.no_grad():
        torch.testing.assert_close(layer(flat), F.linear(qx, qw, b), rtol=1e-6, atol=1e-6)


def test_the_kept_weight_follows_the_weight():
    model, x = wrapped()
    with torch.no_grad(), model.at(4):
        before = model(x)
        model.layer("1").inner.weight.mul_(-1)
        assert not torch.allclose(model(x), before)


def test_counts():
    infos = {i.name: i for i in QuantModel.wrap(ResNet8(8), torch.zeros(1, 1, 14, 14)).layers()}
    assert (infos["stem"].weights, infos["stem"].parameters, infos["stem"].macs) == (72, 72, 14 * 14 * 72)
    assert (infos["head"].weights, infos["head"].parameters, infos["head"].macs) == (320, 330, 320)
    assert all(i.rows * i.inner * i.columns == i.macs for i in infos.values())
    two = QuantModel.wrap(PatchTransformer(), torch.zeros(2, 28, 28)).layers()
    assert QuantModel.wrap(PatchTransformer(), torch.zeros(1, 28, 28)).layers() == two
    assert {i.macs for i in two if i.kind == "matmul"} == {4 * 16 * 16 * 8}


@pytest.mark.parametrize("batch_first", [True, False])
def test_explicit_attention_is_torch_attention(batch_first):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
    x, mask = normal(5, 5, 16), torch.ones(5, 5, dtype=torch.bool).triu(1)
    for options in ({}, {"attn_mask": mask}, {"attn_mask": normal(5, 5, seed=3)}):
        expected = theirs(x, x, x, need_weights=False, **options)[0]
        torch.testing.assert_close(ExplicitAttention(theirs)(x, x, x, **options)[0], expected, rtol=1e-5, atol=1e-6)


def test_torch_encoder_layers_cannot_pass_the_quantisers_by():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = normal(2, 5, 16)
    model = QuantModel.wrap(layer, x, (2,))
    calibrate(model, [x])
    with torch.no_grad():
        torch.testing.assert_close(model(x), layer(x), rtol=1e-5, atol=1e-5)
        model.set_config({"self_attn.scores": 2})
        assert not torch.allclose(model(x), layer(x), atol=1e-3)


def test_refined_scales_lower_the_loss_and_leave_weights_alone():
    model, x = wrapped((2, 4))
    y = model(x).argmax(1)  # the labels that the float model gives
    weights = [model.layer(n).inner.weight.clone() for n in model.names]
    model.set_config(4)
    losses = refine_scales(model, [(x, y)], lr=0.03, epochs=12)
    assert losses[-1] < losses[0]
    assert all(torch.equal(w, model.layer(n).inner.weight) for w, n in zip(weights, model.names, strict=True))
    with torch.no_grad():  # what evaluation uses is what was refined
        assert float(F.cross_entropy(model(x), y)) < losses[0]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m, x: m.set_config({"fc": 4}), "unknown layer 'fc'"),
        (lambda m, x: m.set_config({"1": 5}), "unknown precision '5'"),
        (lambda m, x: calibrate(m, []), "empty"),
        (lambda m, x: calibrate(m, [x * torch.nan]), "layer '1' holds NaN"),
        (lambda m, x: calibrate(m, [x], "maxi"), "did you mean 'max'"),
        (lambda m, x: refine_scales(m, []), "nothing to refine"),
        (lambda m, x: QuantModel.wrap(nn.Sequential(nn.ReLU()), x), "no layer that can be quantised"),
        (lambda m, x: QuantModel.wrap(digits_mlp(), x, keep=["2"]), "unknown layer to keep"),
        (lambda m, x: QuantSpec(9), "2 to 8"),
        (lambda m, x: QuantSpec(fmt="nvfp5"), "did you mean 'nvfp4'"),
        (lambda m, x: QuantSpec(granularity="group"), "do not go together"),
        (lambda m, x: Quantizer(QuantSpec(4))(x), "no range yet"),
        (lambda m, x: Quantizer(QuantSpec(4)).set_range(1.0, -1.0), "low <= high"),
        (lambda m, x: Quantizer(QuantSpec(4, granularity="group", group=7)).grouped(torch.ones(3, 8)), "divisor"),
    ],
)
def test_bad_input(call, says):
    model, x = wrapped()
    with pytest.raises(ValueError, match=says):
        call(model, x)
