"""Derivatives of rounding and of the block quantiser, against quadrature, forward mode and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tensorbench.quantization.blocks import NVFP4, BlockSpec, fake_quantize
from tensorbench.quantization.formats import get_format
from tensorbench.quantization.fp4.block_gradient import (
    BlockPullback,
    full_jacobian_check,
    proposition_1,
    smooth_block,
)
from tensorbench.quantization.fp4.hadamard import Hadamard
from tensorbench.quantization.fp4.relaxations import grid, relaxation

EXACT = {"clipped_ste": {}, "dge": {"k": 1.5, "clip": 1e9}, "spline": {}, "sigmoid": {}}


def blocks(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(x: float) -> torch.Tensor:
    return torch.tensor([x], dtype=torch.float64)


def test_grid_of_e2m1_is_the_one_of_the_paper():
    positive = [0.5, 1, 1.5, 2, 3, 4, 6]
    assert grid("e2m1").tolist() == [-p for p in reversed(positive)] + [0.0] + positive


@pytest.mark.parametrize("name", EXACT)
def test_relaxed_rounding_is_exact_on_the_grid_and_saturates(name):
    points = grid("e2m1")
    what = relaxation(name, **EXACT[name])
    assert torch.allclose(what.value(points), points, atol=1e-12)
    assert what.value(torch.tensor([-9.0, 9.0])).tolist() == [-6.0, 6.0]
    assert what.slope(torch.tensor([-9.0, 9.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", [*EXACT, "tanh", "ste"])
def test_slope_integrates_to_the_relaxed_rounding(name):
    what = relaxation(name, **EXACT.get(name, {}))
    knots = grid("e2m1") if name != "tanh" else torch.linspace(-7, 7, 29, dtype=torch.float64)
    node, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(2000))
    low, high = knots[:-1, None], knots[1:, None]
    integral = (weight * what.slope((low + high) / 2 + (high - low) / 2 * node)).sum(-1) * (high - low)[:, 0] / 2
    rough = name in ("dge", "spline")  # a pole, and jumps
    assert torch.allclose(integral, what.value(knots).diff(), atol=0.02 if rough else 1e-9)


@pytest.mark.parametrize("name", ["dge", "spline", "sigmoid"])
def test_relaxed_roundings_approach_rounding(name):
    sharp = {"dge": {"k": 400.0, "clip": 1e9}, "spline": {"width": 1e-3}, "sigmoid": {"sharpness": 1e3}}[name]
    x = torch.linspace(-6, 6, 999, dtype=torch.float64)
    error = (relaxation(name, **sharp).value(x) - get_format("e2m1").round(x)).abs()
    assert float(error.quantile(0.95)) < 0.02


def test_dge_is_cut_off_and_takes_its_parameters():
    what = relaxation("dge", k=5.0, clip=3.0)
    assert float(what.slope(at(0.25))) == 3.0
    u = 2 * (0.4 - 0.0) / 0.5 - 1
    assert float(what.slope(at(0.4))) == pytest.approx(u ** (1 / 5 - 1) / 5)
    assert float(what.value(at(0.4))) == pytest.approx(0.25 * (1 + u ** (1 / 5)))


@pytest.mark.parametrize("stored", ["factor", "inverse"])
@pytest.mark.parametrize("element", ["tanh", "sigmoid", "dge"])
def test_proposition_1_is_the_jacobian(element, stored):
    options = {"clip": 1e9} if element == "dge" else {}
    smooth = relaxation("tanh", "e4m3", sharpness=4.0)
    for seed in range(3):
        x = blocks(16, seed=seed)
        assert full_jacobian_check(x, relaxation(element, **options), smooth, stored=stored) < 1e-8


def test_proposition_1_against_finite_differences():
    x, element, scale = blocks(8, seed=5), relaxation("tanh"), relaxation("tanh", "e4m3", sharpness=4.0)
    step = 1e-6 * torch.eye(8, dtype=torch.float64)
    numeric = (smooth_block(x + step, element, scale) - smooth_block(x - step, element, scale)) / 2e-6
    assert torch.allclose(numeric.T, proposition_1(x, element, scale), atol=1e-6)


def test_jacobian_is_diagonal_but_for_the_columns_of_the_maximisers():
    x = blocks(16)
    x[3], x[7] = 4.0, -4.0  # a tie
    jacobian = proposition_1(x, relaxation("tanh"), relaxation("ste"))
    off = jacobian - torch.diag(jacobian.diag())
    assert off.abs().sum(0).nonzero().flatten().tolist() == [3, 7]
    assert torch.allclose(off[0, 3], -off[0, 7])
    assert full_jacobian_check(x, relaxation("tanh"), relaxation("ste")) < 1e-8


@pytest.mark.parametrize("stored", ["factor", "inverse"])
def test_a_homogeneous_quantiser_obeys_euler(stored):
    """f(c x) = c f(x) with an exact scale, so that J x = f(x)."""
    x, element, scale = blocks(16), relaxation("sigmoid"), relaxation("ste")
    jacobian = proposition_1(x, element, scale, stored=stored)
    assert torch.allclose(jacobian @ x, smooth_block(x, element, scale, stored=stored), atol=1e-12)


def test_pullback_is_the_product_with_the_jacobian():
    spec = BlockSpec("e2m1", scale="bf16", block=8)
    x, g = blocks(3, 16), blocks(3, 16, seed=1)
    cut = x.reshape(-1, 8)
    z = cut.abs().amax(-1, keepdim=True)
    r = cut / get_format("bf16").round(z / 6)
    slope = relaxation("sigmoid").slope(r)
    column = get_format("e2m1").round(r) - r * slope
    row = (cut.abs() == z) * torch.sign(cut) / 6
    jacobian = torch.diag_embed(slope) + column[..., :, None] * row[..., None, :]
    expected = torch.einsum("bj,bji->bi", g.reshape(-1, 8), jacobian).reshape(3, 16)
    assert torch.allclose(BlockPullback(spec, "sigmoid", "ste")(x, g), expected, atol=1e-10)


def test_diagonal_pullback_is_elementwise():
    spec = BlockSpec("e2m1", scale="e4m3", block=16)
    x, g = blocks(2, 32), blocks(2, 32, seed=1)
    changed = g.clone()
    changed[0, 1] += 1
    half = BlockPullback(spec, "sigmoid", "ste", full=False)
    assert (half(x, changed) - half(x, g)).nonzero().tolist() == [[0, 1]]
    whole = BlockPullback(spec, "sigmoid", "ste")
    assert len((whole(x, changed) - whole(x, g)).nonzero()) == 2  # the element, and the largest of its block


def test_pullback_works_behind_the_transform():
    spec, transform = BlockSpec("e2m1", scale="ue5m3", block=16), Hadamard(16, seed=3)
    x, g = blocks(2, 20), blocks(2, 20, seed=1)
    inner = BlockPullback(spec, "sigmoid", "ste")(transform(x), transform(g))
    expected = transform.inverse(inner, -1, 20)
    assert torch.allclose(BlockPullback(spec, "sigmoid", "ste", transform=transform)(x, g), expected)
    assert torch.allclose(transform.inverse(transform(g), -1, 20), g, atol=1e-12)


def test_gradients_of_the_scale():
    x, g = blocks(4, 16), blocks(4, 16, seed=1)
    spec = BlockSpec("e2m1", scale="e8m0", block=16)
    assert torch.equal(BlockPullback(spec, "ste", "none")(x, g), g)
    ste, log = (BlockPullback(spec, "ste", mode)(x, g) - g for mode in ("ste", "e8m0_log"))
    z = x.abs().amax(-1)
    ratio = 2.0 ** torch.ceil(torch.log2(z / 6)) / (z / 6)
    assert torch.allclose(log.sum(-1), ste.sum(-1) * ratio, rtol=1e-6)
    narrow = BlockSpec("e2m1", scale="e4m3", block=16)
    assert torch.equal(BlockPullback(narrow, "ste", "linear_spline")(x * 1e-5, g), g)  # underflow: a flat interpolant
    assert not torch.equal(BlockPullback(narrow, "ste", "linear_spline")(x, g), g)


def test_quantiser_is_equivariant_for_powers_of_two_and_idempotent():
    x = blocks(8, 64).to(torch.float32)
    for scale in ("e8m0", "ue5m3"):
        spec = BlockSpec("e2m1", scale=scale, block=16)
        assert torch.equal(fake_quantize(4 * x, spec), 4 * fake_quantize(x, spec))
    mx = BlockSpec("e2m1", scale="e8m0", block=16)
    assert torch.equal(fake_quantize(fake_quantize(x, mx), mx), fake_quantize(x, mx))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: relaxation("dgee"), "did you mean 'dge'"),
        (lambda: relaxation("dge", k=0.0), "k 0.0 must be positive"),
        (lambda: relaxation("spline", width=2.0), "must be in"),
        (lambda: relaxation("spline", k=2.0), "it takes width"),
        (lambda: relaxation("ste", k=2.0), "takes no options"),
        (lambda: BlockPullback(NVFP4, "ste", "stee"), "unknown gradient of the scale"),  # type: ignore[arg-type]
        (lambda: proposition_1(torch.zeros(4), relaxation("ste"), relaxation("ste")), "block of zeros"),
        (lambda: BlockPullback(NVFP4, "dge")(torch.ones(4), torch.ones(5)), "differ in shape"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
