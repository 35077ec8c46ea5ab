"""Block quantisers against torchao and against their own definitions."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tensorbench.quantization import kernels
from tensorbench.quantization.blocks import (
    MX,
    NVFP4,
    BlockSpec,
    _scales,
    fake_quantize,
    quantize,
    scale_blocks,
    scale_target,
)
from tensorbench.quantization.formats import get_format
from tensorbench.quantization.packing import pack, unpack
from tensorbench.quantization.scales import POWER_MODES, block_scale, power_exponent

SPECS = {
    **MX,
    "nvfp4": NVFP4,
    "ue5m3": BlockSpec("e2m1", "ue5m3", 16),
    "int4": BlockSpec("int4", "fp32", 16),
    "bf16_scale": BlockSpec("int8", "bf16", 32, scale_mode="up"),
    "fp4_row": BlockSpec("e2m1", "fp32", None),
    "tile": BlockSpec("e4m3", block=(8, 16)),
}


def blocks(rows=3200, width=1024, seed=0):
    """Blocks of all magnitudes that float32 has, subnormals and zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width // 32, 32, generator=generator, dtype=torch.float64)
    power = torch.randint(-150, 125, (rows, width // 32, 1), generator=generator)
    x = torch.ldexp(x, power).float()
    x[0] = 0.0
    x[1, :, ::2] = 0.0
    x[2, 0] = torch.ldexp(torch.ones(32), torch.arange(-20, 12))  # powers of two
    return x.reshape(rows, width)


def as_torchao(x, elem, mode):
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    modes = pytest.importorskip("torchao.prototype.mx_formats.config").ScaleCalculationMode
    kinds = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "e2m1": torch.float4_e2m1fn_x2,
             "e2m3": mx.DTYPE_FP6_E2M3, "e3m2": mx.DTYPE_FP6_E3M2}  # fmt: skip
    scale, data = mx.to_mx(x, kinds[elem], 32, modes[mode.upper()])
    data = data.view(torch.uint8)
    if elem == "e2m1":
        data = torch.stack([data & 15, data >> 4], -1).flatten(-2)
    return scale.view(torch.uint8), data.reshape(x.shape)


@pytest.mark.parametrize("mode", POWER_MODES)
@pytest.mark.parametrize("elem", ["e4m3", "e5m2", "e2m3", "e3m2", "e2m1"])
def test_codes_and_scales_are_torchaos(elem, mode):
    """All scales; and the elements of blocks whose scale is a normal number (torchao 0.18 takes another for 2^-127)."""
    x = blocks()
    ours = quantize(x, BlockSpec(elem, scale_mode=mode))
    scales, codes = as_torchao(x, elem, mode)
    assert torch.equal(ours.scales, scales)
    normal = scales > 0
    assert normal.float().mean() > 0.8
    assert torch.equal(ours.codes[normal], codes.reshape(ours.codes.shape)[normal])


def test_elements_below_the_smallest_normal_scale_are_exact():
    x = torch.ldexp(torch.arange(-16.0, 16.0)[None], torch.tensor(-134))
    q = quantize(x, BlockSpec("e4m3"))
    assert int(q.scales) == 0 and torch.equal(q.dequantize(), x)


@pytest.mark.parametrize("mode", POWER_MODES)
def test_blocks_with_nan_are_nan_as_in_torchao_and_those_with_infinity_too(mode):
    x = torch.ones(4, 32)
    x[0, 3], x[1, 5], x[2, 7] = math.nan, math.inf, -math.inf
    ours = quantize(x, BlockSpec("e4m3", scale_mode=mode))
    theirs = as_torchao(x, "e4m3", mode)[0]  # what it makes of infinity changed after 0.18
    assert torch.equal(ours.scales[::3], theirs[::3])
    assert ours.scales[:3].flatten().tolist() == [255] * 3
    assert bool(ours.dequantize()[:3].isnan().all()) and torch.equal(ours.dequantize()[3], x[3])


def test_infinity_may_saturate_instead():
    x = torch.ones(2, 32)
    x[0, 0], x[1, 1] = -math.inf, math.nan
    q = fake_quantize(x, BlockSpec("e4m3", infinity="saturate"))
    assert q[0, 0] == -448 * 2.0**-8 and bool((q[0, 1:] == 1).all()) and bool(q[1].isnan().all())


@pytest.mark.parametrize(
    ("amax", "mode", "byte"),
    [(150.0, "rceil", 126), (150.0, "ceil", 127), (449.0, "floor", 127), (449.0, "rceil", 128), (448.0, "rceil", 127),
     (0.0, "rceil", 0), (2.0**-149, "floor", 0), (3e38, "floor", 246), (496.0, "even", 128), (479.0, "even", 127)],
)  # fmt: skip
def test_scale_bytes_by_hand(amax, mode, byte):
    assert int(power_exponent(torch.tensor([amax]), get_format("e4m3"), mode)) + 127 == byte


@pytest.mark.parametrize("elem", ["e4m3", "e5m2", "e2m3", "e3m2", "e2m1", "mxint8"])
def test_rceil_is_the_smallest_power_that_saturates_nothing(elem):
    """At the float next to max · 2^k too, where a quotient in float32 is rounded to the wrong side."""
    form = get_format(elem)
    exact = form.max * 2.0 ** torch.arange(-100.0, 100.0)
    for amax, off in ((exact, 0), (torch.nextafter(exact, torch.tensor(math.inf)), 1)):
        e = power_exponent(amax, form, "rceil")
        assert torch.equal(e, torch.arange(-100, 100, dtype=torch.int32) + off)


@pytest.mark.parametrize("name", SPECS)
def test_quantising_twice_changes_nothing(name):
    """Exact for scales that are powers of two; the others move by a rounding of the scale."""
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    once = fake_quantize(x, SPECS[name])
    twice = fake_quantize(once, SPECS[name])
    if SPECS[name].scale == "e8m0":
        assert torch.equal(once, twice)
    else:
        assert float((once - twice).norm() / once.norm()) < 0.02


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_codes_decode_to_the_fake_values(name, axis):
    x = torch.randn(40, 3, 72, generator=torch.Generator().manual_seed(1)).movedim(1, 0)  # ragged, not contiguous
    assert torch.equal(quantize(x, SPECS[name], axis).dequantize(), fake_quantize(x, SPECS[name], axis))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_loops_do_what_the_plain_way_does(name, axis, monkeypatch):
    x = torch.randn(37, 48, 20, generator=torch.Generator().manual_seed(2))
    x = x * torch.logspace(-6, 3, 48)[:, None]
    x[0, 0, 0] = math.nan if SPECS[name].scale != "ue5m3" else 0.0
    if name == "nvfp4":
        x[0, 0, 0] = 0.0
    fast, codes = fake_quantize(x, SPECS[name], axis), quantize(x, SPECS[name], axis)
    monkeypatch.setattr(kernels.Grid, "of", classmethod(lambda cls, form: None))
    plain, others = fake_quantize(x, SPECS[name], axis), quantize(x, SPECS[name], axis)
    assert torch.equal(fast.view(torch.int32)[~fast.isnan()], plain.view(torch.int32)[~fast.isnan()])
    assert torch.equal(fast.isnan(), plain.isnan())
    assert torch.equal(codes.codes, others.codes) and torch.equal(codes.scales, others.scales)
    assert codes.layout == others.layout


@pytest.mark.parametrize("name", list(MX))
@pytest.mark.parametrize("power", [-7, 5])
def test_a_power_of_two_shifts_the_scales_alone(name, power):
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(3))
    a, b = quantize(x, MX[name]), quantize(x * 2.0**power, MX[name])
    assert torch.equal(a.codes, b.codes)
    assert torch.equal(a.scales.int() + power, b.scales.int())


@pytest.mark.parametrize("name", list(MX))
def test_round_up_never_saturates_and_errs_by_half_a_step(name):
    x = blocks(64)
    scaled = scale_blocks(x, MX[name])
    form = get_format(MX[name].elem)
    assert float((scaled.blocks / scaled.scale).abs().max()) <= form.max
    ratio = (scaled.blocks.double() / scaled.scale).abs()
    bits = getattr(form, "mantissa_bits", None)
    step = form.tiny if bits is None else torch.clamp(
        2.0 ** (torch.floor(torch.log2(ratio.clamp(min=1e-30))) - bits), min=form.tiny)  # fmt: skip
    error = (ratio - form.round(ratio)).abs()
    assert bool((error <= step / 2).all())


def test_mxint8_has_a_grid_of_64ths():
    q = quantize(torch.linspace(-1.98, 1.98, 32)[None], dataclasses.replace(MX["mxint8"], scale_mode="floor"))
    assert get_format("mxint8").max == 127 / 64 and int(q.scales) == 127
    assert torch.equal((q.dequantize() * 64).round(), q.dequantize() * 64)
    equal = torch.full((1, 32), 0.7371)
    assert abs(float(fake_quantize(equal, MX["mxint8"])[0, 0]) / 0.7371 - 1) < 1 / 64


@pytest.mark.parametrize("power", [0, -12, 9])
def test_nvfp4_is_torchaos(power):
    nv = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    x = torch.randn(128, 256, generator=torch.Generator().manual_seed(4)) * 2.0**power
    ours = quantize(x, NVFP4)
    theirs = nv.NVFP4Tensor.to_nvfp4(x, 16, per_tensor_scale=nv.per_tensor_amax_to_scale(x.abs().amax()))
    assert torch.equal(ours.scales.flatten(), theirs.scale.view(torch.uint8).flatten())
    assert torch.equal(ours.pack()[0], theirs.qdata.view(torch.uint8).flatten())
    torch.testing.assert_close(ours.dequantize(), theirs.dequantize(torch.float32), rtol=1e-6, atol=0)


def test_rows_and_columns_differ_and_tiles_do_not():
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(5))
    spec = MX["mxfp4"]  # of eight bits a random matrix may have no element that is subnormal in one of them alone
    assert not torch.equal(fake_quantize(x, spec, 0), fake_quantize(x, spec, 1))
    assert torch.equal(fake_quantize(x, spec, 0), fake_quantize(x.T, spec, 1).T)
    tile = BlockSpec("e2m1", "e4m3", (16, 16))
    assert torch.equal(fake_quantize(x, tile), fake_quantize(x.T, tile).T)


def test_blocks_do_not_cross_rows_and_padding_does_not_count():
    x = torch.ones(3, 40)
    x[:, 32:] = 1e-3
    assert torch.allclose(fake_quantize(x, MX["mxfp8_e4m3"]), x, rtol=0.04)
    with pytest.raises(ValueError, match="pad=True"):
        fake_quantize(x, BlockSpec("e4m3", pad=False))


def test_bytes():
    x = torch.randn(64, 64)
    for name, bits in [("mxfp8_e4m3", 8.25), ("mxfp6_e2m3", 6.25), ("mxfp4", 4.25), ("mxint8", 8.25)]:
        q = quantize(x, MX[name])
        elements, scales = q.pack()
        assert 8 * (len(elements) + len(scales)) / x.numel() == bits == MX[name].bits_per_element
        assert q.nbytes == len(elements) + len(scales)
        assert torch.equal(unpack(elements, q.spec.element_format.bits, x.numel()), q.codes.flatten().int())
    assert quantize(x, NVFP4).nbytes * 8 / x.numel() == 4.5


@pytest.mark.parametrize("bits", [1, 3, 4, 6, 8, 13, 32])
def test_packing_round_trip(bits):
    rng = np.random.default_rng(bits)
    codes = torch.from_numpy(rng.integers(0, 2**bits, 1001).astype(np.uint32).view(np.int32))
    packed = pack(codes, bits)
    assert len(packed) == -(-1001 * bits // 8)
    assert torch.equal(unpack(packed, bits, 1001), codes)
    with pytest.raises(ValueError, match="hold"):
        unpack(packed, bits, 1010 + 8 // bits)


def test_packing_two_codes_a_byte_as_torchao_does():
    kernels = pytest.importorskip("torchao.prototype.mx_formats.kernels")
    codes = torch.arange(16, dtype=torch.uint8)
    assert torch.equal(pack(codes, 4), kernels.pack_uint4(codes).flatten())
    with pytest.raises(ValueError, match="do not fit"):
        pack(codes, 3)


def test_bad_specs_and_input_are_explained():
    with pytest.raises(ValueError, match="rceil"):
        BlockSpec("e4m3", scale_mode="recil")
    with pytest.raises(ValueError, match="does not fit"):
        BlockSpec("e4m3", scale="e4m3", scale_mode="rceil")
    with pytest.raises(ValueError, match="positive"):
        BlockSpec("e4m3", block=0)
    with pytest.raises(ValueError, match="no sign"):
        BlockSpec("ue5m3")
    with pytest.raises(ValueError, match="out of range"):
        quantize(torch.ones(4, 4), MX["mxfp4"], 2)
    with pytest.raises(ValueError, match="no elements"):
        quantize(torch.ones(0, 4), MX["mxfp4"])
    with pytest.raises(ValueError, match=r"\.float"):
        quantize(torch.ones(4, 4, dtype=torch.int32), MX["mxfp4"])
    with pytest.raises(ValueError, match="no code for it"):
        quantize(torch.full((1, 16), math.nan), BlockSpec("int4", "int8", 16))
    with pytest.raises(ValueError, match="Generator"):
        fake_quantize(torch.ones(4, 32), BlockSpec("e2m1", rounding="stochastic"))


@pytest.mark.parametrize("scale", ["e8m0", "bf16", "fp32", "e5m2", "ue5m3", "e4m3"])
@pytest.mark.parametrize("rounding", ["even", "stochastic"])
def test_a_scale_of_the_tensor_fits_every_format_of_block_scales(scale, rounding):
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    spec = BlockSpec("e2m1", scale, 16, tensor_scale="absmax", rounding=rounding)
    q = fake_quantize(x, spec, generator=torch.Generator().manual_seed(1))
    assert float((q - x).norm() / x.norm()) < 0.25


@pytest.mark.parametrize("mode", ["floor", "rceil", "ceil", "even"])
@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "mxint8"])
def test_compiled_power_scales_are_the_plain_ones(name, mode):
    form = get_format(name)
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(5000, generator=generator).abs() * 2.0 ** torch.randint(
        -149, 125, (5000,), generator=generator
    )
    powers = 2.0 ** torch.arange(-149, 128).float()
    edges = torch.cat([form.max * powers[40:200], torch.nextafter(form.max * powers[40:200], torch.tensor(torch.inf))])
    amax = torch.cat([spread, powers, edges, torch.zeros(1)])
    amax = amax[torch.isfinite(amax)]
    assert np.array_equal(
        kernels.power_scales(amax.numpy(), form, mode), block_scale(amax, form, get_format("e8m0"), mode)
    )
    bad = np.array([np.nan, np.inf], dtype=np.float32)
    assert np.isnan(kernels.power_scales(bad, form, mode)).all()


@pytest.mark.parametrize("scale", ["e4m3", "ue5m3", "e3m4", "e5m2"])
@pytest.mark.parametrize("elem", ["e2m1", "e4m3", "int4"])
def test_compiled_float_scales_are_the_plain_ones(elem, scale):
    generator = torch.Generator().manual_seed(0)
    exponents = torch.randint(-40, 30, (4000,), generator=generator)
    amax = torch.cat([torch.randn(4000, generator=generator).abs() * 2.0**exponents, torch.zeros(3)])
    amax = torch.cat([amax, torch.tensor([torch.nan, torch.inf])])
    form, scale_form = get_format(elem), get_format(scale)
    for tensor_scale in (None, "absmax"):
        spec = BlockSpec(elem, scale, 16, tensor_scale=tensor_scale)
        target = scale_target(spec) if tensor_scale else 0.0
        for part in (amax, amax[:7], torch.zeros(4)):
            plain, whole = _scales(part, spec)
            made = kernels.float_scales(part.numpy(), form, scale_form, target)
            assert made is not None and made[1] == float(whole)
            np.testing.assert_array_equal(made[0], plain.numpy())
    assert kernels.float_scales(amax.numpy(), form, get_format("bf16"), 0.0) is None
