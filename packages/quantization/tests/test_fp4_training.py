"""Transforms, operands, recipes and costs of FP4 training."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from tensorbench.quantization.blocks import NVFP4 as NVFP4_BLOCKS
from tensorbench.quantization.blocks import BlockSpec, fake_quantize
from tensorbench.quantization.formats import get_format
from tensorbench.quantization.fp4 import recipes
from tensorbench.quantization.fp4.hadamard import Hadamard, hadamard_matrix, hadamard_transform
from tensorbench.quantization.fp4.operands import (
    ClampCompensate,
    DelayedScale,
    MovingAbsmax,
    Percentile,
    clamp_outliers,
)
from tensorbench.quantization.fp4.overhead import overhead, pareto, total
from tensorbench.quantization.fp4.recipes import COMBINED, Recipe, install
from tensorbench.quantization.layers import GemmSpec, QuantLinear
from tensorbench.quantization.rounding import to_grid

E4M3 = BlockSpec("e2m1", scale="e4m3", block=16)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the Hadamard transform ---


@pytest.mark.parametrize("n", [1, 2, 16, 128])
def test_fast_transform_is_the_orthonormal_matrix(n):
    h = hadamard_matrix(n)
    assert torch.allclose(h @ h.T, torch.eye(n, dtype=torch.float64), atol=1e-12)
    x = normal(5, n).double()
    assert torch.allclose(hadamard_transform(x), x @ h, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [16, None])
def test_products_are_preserved_and_the_inverse_is_one(axis, size):
    a, b = normal(64, 64).double(), normal(64, 64, seed=1).double()
    transform = Hadamard(size, seed=5)
    product = torch.tensordot(transform(a, axis), transform(b, axis), dims=([axis], [axis]))
    assert torch.allclose(product, torch.tensordot(a, b, dims=([axis], [axis])), atol=1e-10)
    assert torch.allclose(transform.inverse(transform(a, axis), axis, 64), a, atol=1e-12)


def test_ragged_chunks_are_padded_and_products_still_preserved():
    a, b = normal(37, 4).double(), normal(37, 3, seed=1).double()
    transform = Hadamard(16)
    assert transform(a, 0).shape == (48, 4)
    assert torch.allclose(transform(a, 0).T @ transform(b, 0), a.T @ b, atol=1e-10)
    with pytest.raises(ValueError, match="does not divide"):
        Hadamard(16, pad=False)(a, 0)
    with pytest.raises(ValueError, match="power of two"):
        Hadamard(24)
    with pytest.raises(ValueError, match="power of two"):
        hadamard_transform(torch.ones(2, 12))


def test_random_signs_keep_a_constant_from_becoming_an_outlier():
    assert float(Hadamard(64, seed=None)(torch.ones(64), 0).abs().max()) == pytest.approx(8.0)
    assert float(Hadamard(64, seed=0)(torch.ones(64), 0).abs().max()) < 5


# --- stochastic rounding ---


def test_stochastic_rounding_is_unbiased():
    x = torch.full((100_000,), 2.3)
    q = get_format("e2m1").round(x, "stochastic", generator=torch.Generator().manual_seed(0))
    assert set(q.tolist()) == {2.0, 3.0}
    assert abs(float(q.mean()) - 2.3) < 4 * math.sqrt(0.3 * 0.7 / 1e5)


@pytest.mark.parametrize("fraction", [1 / 1024, 1 / 512, 0.3, 0.5, 1 - 1 / 1024])
def test_eight_bit_midpoints_round_the_probability_to_256ths(fraction):
    """Up where fraction + (2 r + 1) / 512 >= 1: counted over all bytes, then drawn."""
    share = sum(fraction + (2 * r + 1) / 512 >= 1 for r in range(256)) / 256
    assert share == math.floor(fraction * 256 + 0.5) / 256
    x = torch.full((100_000,), fraction)
    generator = torch.Generator().manual_seed(1)
    up = float(to_grid(x, 1.0, "stochastic", generator=generator, random_bits=8, midpoint=True).mean())
    assert abs(up - share) <= 4.5 * math.sqrt(share * (1 - share) / 1e5)


# --- operands ---


def test_delayed_scale_holds_its_maximum():
    x = normal(64, 64)
    operand = DelayedScale(E4M3, every=3)
    assert torch.equal(operand(x, -1), fake_quantize(x, NVFP4_BLOCKS))  # a fresh sample is the tensor's own scale
    held = operand.held.clone()
    operand(2 * x, -1)
    operand(3 * x, -1)
    assert torch.equal(operand.held, held)
    operand(2 * x, -1)
    assert torch.equal(operand.held, 2 * held)
    assert torch.equal(DelayedScale(E4M3)(torch.zeros(4, 16), -1), torch.zeros(4, 16))


def test_a_stale_maximum_saturates_e4m3_and_leaves_ue5m3_room():
    x, errors = normal(32, 64), {}
    for scale in ("e4m3", "ue5m3"):
        operand = DelayedScale(BlockSpec("e2m1", scale=scale, block=16), every=10)
        operand(x, -1)
        errors[scale] = float((operand(20 * x, -1) - 20 * x).norm() / (20 * x).norm())
    assert errors["ue5m3"] < 0.12 < 0.5 < errors["e4m3"]


def test_percentile_and_moving_mean_reduce_to_absmax():
    x = normal(8, 64)
    plain = fake_quantize(x, E4M3)
    assert torch.equal(Percentile(E4M3, 1.0)(x, -1), plain)
    assert float(Percentile(E4M3, 0.5)(x, -1).abs().max()) < float(plain.abs().max())
    moving = MovingAbsmax(E4M3, 0.5)
    assert torch.equal(moving(x, -1), plain)
    moving(3 * x, -1)
    largest = x.reshape(8, 4, 16).abs().amax(-1)
    assert torch.allclose(moving.mean.flatten(), 2 * largest.flatten())
    with pytest.raises(ValueError, match="fixed places"):
        moving(normal(4, 64), -1)


def test_clamped_outliers_come_back_exactly():
    x = normal(64, 64)
    x[3, 5] = 1000.0
    clamped, rest = clamp_outliers(x, 0.999)
    assert torch.equal(clamped + rest, x)
    assert 0 < int((rest != 0).sum()) <= 10
    with_rest, without = ClampCompensate(NVFP4_BLOCKS)(x, -1), fake_quantize(x, NVFP4_BLOCKS)
    assert float(with_rest[3, 5]) == pytest.approx(1000.0, abs=0.5)
    others = torch.ones_like(x, dtype=torch.bool)
    others[3, 5] = False
    assert (with_rest - x)[others].norm() < 0.95 * (without - x)[others].norm()


def test_bad_operands():
    for make, message in (
        (lambda: DelayedScale(E4M3, every=0), "at least 1"),
        (lambda: DelayedScale(E4M3, target=1e4), "at most 448"),
        (lambda: Percentile(E4M3, 0.0), "share"),
        (lambda: MovingAbsmax(E4M3, 1.0), "decay"),
        (lambda: ClampCompensate(E4M3, 0.3), "share"),
        (lambda: DelayedScale(E4M3)(torch.tensor([float("nan")]), 0), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_torchao_agrees_on_nvfp4():
    torchao = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    x = normal(32, 64)
    whole = x.abs().amax() / (6.0 * 448.0)
    theirs = torchao.NVFP4Tensor.to_nvfp4(x, block_size=16, per_tensor_scale=whole).dequantize(torch.float32)
    assert torch.allclose(fake_quantize(x, NVFP4_BLOCKS), theirs, rtol=1e-6, atol=0)


# --- recipes and layers ---


def test_a_layer_of_float_formats_is_nn_linear():
    layer, x = nn.Linear(32, 16), normal(24, 32)
    copied = QuantLinear.of(copy.deepcopy(layer), GemmSpec())
    for module in (layer, copied):
        module(x).square().sum().backward()
    assert torch.equal(layer.weight.grad, copied.weight.grad)


def test_combined_recipe_rounds_only_dy_stochastically_and_transforms_only_wgrad():
    spec = COMBINED.build(seed=3)
    nearest = (spec.forward_x, spec.forward_w, spec.wgrad_x, spec.dgrad_w)
    assert {operand.rounding for operand in nearest} == {"even"}
    assert spec.dgrad_dy.rounding == spec.wgrad_dy.rounding == "stochastic"
    assert spec.forward_transform is None and spec.dgrad_transform is None
    assert spec.wgrad_transform == Hadamard(16, 3)
    later = recipes.UE5M3.build()
    assert later.forward_w is not later.dgrad_w and later.forward_w.spec.block == (16, 16)
    assert later.dgrad_dy.spec.midpoint and later.dgrad_dy.spec.random_bits == 8


def test_square_tiles_quantise_the_transpose_alike():
    w, spec = normal(48, 32), recipes.UE5M3.spec(tiles=True)
    assert torch.equal(fake_quantize(w, spec, 0), fake_quantize(w, spec, -1))


def test_installed_layers_share_no_state_and_gradients_come_near():
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    plain, x = copy.deepcopy(model), normal(128, 32)
    assert install(model, recipes.UE5M3, keep=["4"], generator=torch.Generator().manual_seed(0)) == ["0", "2"]
    assert model[0].spec.forward_x is not model[2].spec.forward_x
    for module in (plain, model):
        module(x).square().mean().backward()
    cosine = nn.functional.cosine_similarity(plain[2].weight.grad.flatten(), model[2].weight.grad.flatten(), dim=0)
    assert float(cosine) > 0.9
    with pytest.raises(ValueError, match=r"needs a torch\.Generator"):
        install(nn.Sequential(nn.Linear(4, 4)), COMBINED)


@pytest.mark.parametrize("gradient", ["dge", "spline", "sigmoid", "clipped_ste"])
def test_every_gradient_of_rounding_trains(gradient):
    layer, x = nn.Linear(32, 32), normal(64, 32)
    recipe = Recipe(tensor_scale="absmax", rounding_gradient=gradient, scale_gradient="ste")
    QuantLinear.of(layer, recipe.build())(x).square().sum().backward()
    assert torch.isfinite(layer.weight.grad).all() and float(layer.weight.grad.norm()) > 0


@pytest.mark.parametrize(
    "options",
    [
        {"outliers": 0.99},
        {"absmax": "percentile"},
        {"absmax": "ema"},
        {"tensor_scale": 2},
        {"scale": "e5m2"},
        {"scale": "bf16"},
    ],
    ids=str,
)
def test_every_choice_keeps_the_product_and_its_gradients(options):
    layer, x = nn.Linear(64, 32, bias=False), normal(96, 64)
    quantised = QuantLinear.of(layer, Recipe(**options).build())
    for _ in range(2):
        y = quantised(x)
    (dw,) = torch.autograd.grad(y.square().sum(), layer.weight)
    (exact,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    for ours, theirs in ((y, layer(x)), (dw, exact)):
        assert float(nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)) > 0.97


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "e4m4"}, "unknown number format"),
        ({"rounding_gradient": "dgee"}, "did you mean 'dge'"),
        ({"scale_gradient": "log"}, "unknown gradient of the scale"),
        ({"absmax": "quantile"}, "unknown statistic"),
        ({"tensor_scale": True}, "number of steps"),
        ({"random_bits": 8}, "set stochastic=True"),
        ({"absmax": "ema", "tensor_scale": "absmax"}, "leave tensor_scale out"),
    ],
)
def test_bad_recipes(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


# --- cost ---


def test_operations_counted_by_hand():
    """64 tokens, 32 inputs, 48 outputs: x 2048, w 1536, dy 3072 elements; each is quantised twice."""
    plain = overhead(Recipe(), (64, 32, 48))
    n = 2 * (2048 + 1536 + 3072)
    assert plain.gemm_operations == 6 * 64 * 32 * 48
    assert plain.comparisons == n
    assert plain.multiplications == n + n / 16
    assert plain.additions == plain.random_numbers == 0
    assert plain.bits == 16 * n + 4 * n + 8 * n / 16
    everything = overhead(COMBINED, (64, 32, 48))
    assert everything.random_numbers == 2 * 3072
    assert everything.additions == 2 * 3072 + 4 * (2048 + 3072)
    assert everything.comparisons == n + n / 16
    assert everything.multiplications == n + 2 * n / 16 + (2048 + 3072)
    assert everything.bits == plain.bits + 16 * n


def test_overhead_shrinks_with_the_layer_and_adds_up():
    small, large = (overhead(COMBINED, (t, t, t)).relative for t in (64, 512))
    assert large == pytest.approx(small / 8)
    parts = [overhead(COMBINED, (8, 16, 32)), overhead(COMBINED, (16, 16, 32))]
    assert total(parts).operations == sum(p.operations for p in parts)
    assert overhead(None, (8, 8, 8)).operations == 0
    assert overhead(Recipe(weight_tiles=True), (64, 32, 48)).comparisons == 2 * (2048 + 3072) + 1536
    held, fresh = (overhead(Recipe(tensor_scale=t), (64, 32, 48)).bits for t in (50, "absmax"))
    assert held < fresh
    with pytest.raises(ValueError, match="all positive"):
        overhead(None, (8, 0, 8))


def test_pareto_front():
    points = {"a": (0.0, 3.0), "b": (1.0, 1.0), "c": (1.0, 2.0), "d": (2.0, 1.0), "e": (3.0, math.nan), "f": (2.0, 0.5)}
    assert pareto(points) == ["a", "b", "f"]


def test_other_statistics_keep_the_policy_for_nan_and_do_not_see_the_filling():
    x = torch.full((1, 17), 5.0)
    assert torch.equal(Percentile(BlockSpec("e2m1", "fp32", block=16, scale_mode="nearest"), 0.95)(x, -1), x)
    broken = torch.ones(2, 32)
    broken[0, 3] = torch.inf
    for operand in (MovingAbsmax(E4M3), Percentile(E4M3)):
        bad = torch.isnan(operand(broken, -1))
        assert bad[0, :16].all() and not bad[0, 16:].any() and not bad[1].any()


@pytest.mark.parametrize(
    "choices",
    [
        {"outliers": 0.999, "tensor_scale": 50},
        {"rounding_gradient": "dge", "tensor_scale": 50},
        {"scale_gradient": "ste", "absmax": "percentile"},
    ],
)
def test_recipes_that_contradict_themselves_are_refused(choices):
    with pytest.raises(ValueError, match="plain"):
        Recipe(**choices)
