"""Fidelity, recipes, products, reports and the character model."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tensorbench.core.data import load
from tensorbench.core.tasks import char_lm
from tensorbench.core.training import fit
from tensorbench.quantization.blocks import MX, NVFP4, BlockSpec, fake_quantize, quantize
from tensorbench.quantization.fidelity import capture, compare, fidelity, weight_gradients
from tensorbench.quantization.layers import GemmSpec, QuantLinear, convert
from tensorbench.quantization.recipes import (
    RECIPES,
    divergence_monitor,
    mx_matmul,
    recipe,
    scale_study,
    train_parity,
)
from tensorbench.quantization.report import layer_report, number_formats


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_fidelity_by_hand():
    x = torch.tensor([[4.0, 3.4, 0.1, -0.1]])
    lost = fidelity(x, BlockSpec("e2m1", block=4))  # scale 1: 4, 3 (3.4 is nearer to it), 0, 0
    noise = 0.4**2 + 2 * 0.1**2
    assert lost.sqnr_db == pytest.approx(10 * math.log10((16 + 3.4**2 + 0.02) / noise), abs=1e-5)
    assert (lost.saturated, lost.underflowed) == (0.0, 0.5)
    assert lost.bias == pytest.approx(-0.6 / 7.6, abs=1e-6)
    assert lost.slack.tolist() == pytest.approx([math.log2(1.5)])
    q = fake_quantize(x, BlockSpec("e2m1", block=4)).double()
    cosine = torch.nn.functional.cosine_similarity(x.double(), q).item()
    assert lost.cosine_error == pytest.approx(1 - cosine, abs=1e-7)


def test_floor_saturates_where_slack_is_negative_and_round_up_never_does():
    x = normal(512, 64)
    floor, up = (fidelity(x, BlockSpec("e4m3", scale_mode=mode)) for mode in ("floor", "rceil"))
    assert up.saturated == 0 and up.slack.min() >= 0 and up.slack.max() < 1
    assert floor.saturated > 0 and floor.slack.min() < 0
    histogram = floor.slack_histogram(np.linspace(-0.5, 1.0, 7))
    assert histogram.sum() == pytest.approx(1) and histogram[0] == pytest.approx(np.mean(floor.slack < -0.25))


@pytest.mark.parametrize("size", [1e-9, 1e-4, 1.0, 30.0])
def test_cosine_error_keeps_its_digits(size):
    a, b = normal(1000).double(), normal(1000, seed=1).double()
    b = b - (a @ b) / (a @ a) * a
    b = b * (a.norm() / b.norm())
    assert compare(a, a + size * b)[1] == pytest.approx(1 - 1 / math.sqrt(1 + size**2) if size > 1e-3 else size**2 / 2)
    assert compare(a, 3 * a)[1] == pytest.approx(0, abs=1e-15)
    assert compare(a, 0 * a)[1] == 1.0


def test_a_lossless_copy_and_what_cannot_be_compared():
    x = normal(4, 32)
    assert compare(x, x) == (math.inf, 0.0, 0.0)
    with pytest.raises(ValueError, match="no signal"):
        compare(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        compare(x, x / 0)
    with pytest.raises(ValueError, match="shape"):
        compare(x, x[:2])


@pytest.mark.parametrize("spec", [MX["mxfp8_e4m3"], MX["mxint8"], NVFP4], ids=["mxfp8", "mxint8", "nvfp4"])
def test_products_of_blocks(spec):
    a, b = normal(24, 100), normal(100, 40, seed=1)
    qa, qb = quantize(a, spec, 1), quantize(b, spec, 0)
    exact = qa.dequantize(torch.float64) @ qb.dequantize(torch.float64)
    for blockwise in (False, True):
        product = mx_matmul(qa, qb, blockwise=blockwise).double()
        assert float((product - exact).norm() / exact.norm()) < 1e-6


def test_products_explain_what_does_not_match():
    a, b = normal(8, 64), normal(64, 8)
    spec = MX["mxfp4"]
    with pytest.raises(ValueError, match="axis=0"):
        mx_matmul(quantize(a, spec), quantize(b, spec))
    with pytest.raises(ValueError, match="of 32 and of 16"):
        mx_matmul(quantize(a, spec), quantize(b, BlockSpec("e2m1", block=16), 0))
    with pytest.raises(ValueError, match="64 against 8"):
        mx_matmul(quantize(a, spec), quantize(a, spec, 0))
    with pytest.raises(ValueError, match="two matrices"):
        mx_matmul(quantize(a[None], spec), quantize(b, spec, 0))


def test_recipes_are_found_by_name():
    assert recipe("mxfp8_e5m2_grad").dgrad_dy.elem == "e5m2" and recipe("mxfp8_e5m2_grad").dgrad_w.elem == "e4m3"
    assert recipe("mxfp8_ocp_floor").forward_x.scale_mode == "floor" and recipe("fp32").is_float
    assert all(spec.name == name for name, spec in RECIPES.items())
    with pytest.raises(ValueError, match="mxfp8_e4m3"):
        recipe("mxfp8_e4m2")


def test_bf16_operands_are_torchs():
    x = normal(7, 9)
    assert torch.equal(recipe("bf16").forward_x(x, -1), x.bfloat16().float())


def test_scale_study_has_a_row_for_each_choice():
    table = scale_study({"normal": normal(64, 64)}, ["e4m3", "e2m1"])
    assert len(table) == 8 and set(table["mode"]) == {"floor", "rceil", "ceil", "even"}
    assert (table.loc[table["mode"].isin(["rceil", "ceil"]), "saturated"] == 0).all()
    assert (
        table.loc[table["mode"] == "ceil", "mean_slack"] >= table.loc[table["mode"] == "rceil", "mean_slack"].min()
    ).all()


def test_the_monitor_stops_where_training_turns():
    watch = divergence_monitor(window=3, rise=0.5)
    assert [watch(k, loss) for k, loss in enumerate([3, 2, 1, 1, 1, 1.2, 1.4, 2.6])] == [False] * 7 + [True]
    assert divergence_monitor()(1, math.nan)
    with pytest.raises(ValueError, match="positive"):
        divergence_monitor(rise=0)


SHAPE = char_lm.CharLMShape(vocabulary=32, context=16, width=32, depth=1)


def small_model(seed=0):
    return char_lm.CharLM(SHAPE, torch.Generator().manual_seed(seed))


def batch_of(seed=0):
    text = load("markov_text", seed=0, characters=2000)
    return text, next(char_lm.batches(text.train, torch.Generator().manual_seed(seed), batch=4, context=16))


def test_capture_gives_what_makes_the_weights_gradient_and_changes_nothing():
    model, (_, batch) = small_model(), batch_of()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    tensors = capture(model, char_lm.loss, batch)
    gradients = weight_gradients(model, char_lm.loss, batch)
    assert set(tensors) == {"blocks.0.qkv", "blocks.0.proj", "blocks.0.up", "blocks.0.down", "head"}
    for name, t in tensors.items():
        torch.testing.assert_close(t.gradient.T @ t.activation, gradients[name], rtol=1e-4, atol=1e-6)
    assert all(bool((p.grad == 1).all()) for p in model.parameters())
    with pytest.raises(ValueError, match="no linear layer"):
        capture(nn.Sequential(nn.Embedding(3, 3)), lambda m, b: m(b).sum(), torch.tensor([1]))


def test_the_report_after_two_lines():
    model, (_, batch) = small_model(), batch_of()
    with pytest.raises(ValueError, match="convert"):
        layer_report(model, char_lm.loss, batch)
    convert(model, recipe("mxfp4"), keep=char_lm.OUTPUT)
    table = layer_report(model, char_lm.loss, batch)
    assert len(table) == 4 and table["output_db"].is_monotonic_increasing
    assert ((table["bytes_fp32"] / table["bytes"]) == 32 / 4.25).all()
    assert table[["weight_db", "activation_db", "gradient_db", "output_db"]].to_numpy().min() > 10
    layer = next(m for m in model.modules() if isinstance(m, QuantLinear))
    for module in model.modules():
        if isinstance(module, QuantLinear):
            module.spec = GemmSpec()
    assert np.isinf(layer_report(model, char_lm.loss, batch)["output_db"]).all() and layer.spec.is_float


def test_number_formats_table():
    table = number_formats().set_index("name")
    assert table.loc["e4m3", ["bits", "max", "tiny", "codes"]].tolist() == [8, 448.0, 2.0**-9, 254]
    assert table.loc["fp32", "codes"] == 2**32 - 2**24 and table.loc["fp32", "max"] == np.finfo(np.float32).max
    assert isinstance(table, pd.DataFrame) and table["bits"].is_monotonic_increasing


def test_the_character_model_is_causal_and_repeatable():
    model, (_, (inputs, _)) = small_model(), batch_of()
    changed = inputs.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 32
    assert torch.allclose(model(inputs)[:, :10], model(changed)[:, :10], atol=1e-6)
    assert not torch.allclose(model(inputs)[:, 10:], model(changed)[:, 10:])
    state = torch.random.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), small_model().parameters(), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())  # nothing is drawn from the global generator
    with pytest.raises(ValueError, match="context"):
        model(torch.zeros(1, 17, dtype=torch.int64))
    with pytest.raises(ValueError, match="multiple"):
        char_lm.CharLMShape(32, width=30)
    with pytest.raises(ValueError, match="no window"):
        next(char_lm.batches(np.arange(10), torch.Generator()))


def test_training_lowers_the_loss_and_parity_is_paired():
    text, _ = batch_of()

    def train(model, seed):
        batches = char_lm.batches(text.train, torch.Generator().manual_seed(seed), batch=8, context=16)
        fit(model, batches, char_lm.loss, torch.optim.AdamW(model.parameters(), lr=0.01), steps=40)
        return char_lm.evaluate(model, text.valid, windows=4, context=16)

    table = train_parity(small_model, train, ["mxfp8_e4m3"], seeds=[0], keep=char_lm.OUTPUT)
    assert table["recipe"].tolist() == ["bf16", "mxfp8_e4m3"] and table["gap"].iloc[0] == 0
    untrained = char_lm.evaluate(small_model(), text.valid, windows=4, context=16)
    assert (table["loss"] < untrained - 0.3).all() and table["gap"].abs().max() < 0.1
