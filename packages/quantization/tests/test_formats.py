"""Formats and rounding against ml_dtypes, torch's casts and gfloat."""

import math

import numpy as np
import pytest
import torch

from tensorbench.quantization.formats import FORMATS, get_format
from tensorbench.quantization.rounding import ROUNDINGS, to_grid

ELEMENTS = {
    "e5m2": "float8_e5m2",
    "e4m3": "float8_e4m3fn",
    "e3m4": "float8_e3m4",
    "e3m2": "float6_e3m2fn",
    "e2m3": "float6_e2m3fn",
    "e2m1": "float4_e2m1fn",
    "e8m0": "float8_e8m0fnu",
}
SMALL = [name for name, form in FORMATS.items() if form.bits <= 16]


def same(a, b):
    """Equal as numbers, NaN to NaN, and zeros with their sign."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a[a == 0]), np.signbit(b[b == 0]))


def many(n=1_000_000, seed=0):
    """Floats of all magnitudes that formats tell apart, halfway points and zeros among them."""
    rng = np.random.default_rng(seed)
    wide = rng.standard_normal(n) * 2.0 ** rng.integers(-20, 18, n)
    short = np.round(rng.standard_normal(n // 8) * 64) / 64 * 2.0 ** rng.integers(-8, 8, n // 8)
    return np.concatenate([wide, short, [0.0, -0.0, 2.0**-130, -(2.0**-149)]]).astype(np.float32)


@pytest.mark.parametrize("name", ELEMENTS)
def test_every_code_decodes_as_in_ml_dtypes(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    form = get_format(name)
    codes = np.arange(2**form.bits, dtype=np.uint8)
    assert same(form.values(), codes.view(getattr(ml_dtypes, ELEMENTS[name])).astype(np.float64))


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_every_code_decodes_as_in_torch(name, dtype):
    codes = torch.arange(2**16, dtype=torch.int32)
    assert same(get_format(name).decode(codes), codes.to(torch.int16).view(dtype).double())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_rounding_is_torchs_cast(name, dtype):
    form = get_format(name)
    x = torch.from_numpy(many())
    inside = x.clamp(-form.max, form.max)
    assert same(form.round(x), inside.to(dtype).float())


@pytest.mark.parametrize("name", [name for name in ELEMENTS if name != "e8m0"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_ml_dtypes_cast(name, dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    form = get_format(name)
    x = many(200_000).astype(dtype)
    inside = np.clip(x, -form.max, form.max)
    assert same(form.round(torch.from_numpy(x)), inside.astype(getattr(ml_dtypes, ELEMENTS[name])).astype(np.float64))


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "bf16", "fp16"])
def test_overflow_to_special_values_as_ieee_and_ocp_say(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    form = get_format(name)
    kind = {**ELEMENTS, "bf16": "bfloat16"}.get(name)
    with np.errstate(over="ignore"):
        x = np.array([form.max, form.max * 1.01, form.max * 1.2, np.inf, -np.inf, np.nan, 1.0], dtype=np.float32)
        expected = x.astype(getattr(ml_dtypes, kind) if kind else np.float16).astype(np.float64)
    assert same(form.round(torch.from_numpy(x), overflow="special"), expected)


@pytest.mark.parametrize("name", ["e5m2", "e4m3", "e3m2", "e2m3", "e2m1"])
@pytest.mark.parametrize("mode", ["even", "away", "zero", "floor", "ceil"])
def test_every_rounding_is_gfloats(name, mode):
    gfloat = pytest.importorskip("gfloat")
    formats = pytest.importorskip("gfloat.formats")
    info = getattr(formats, {"e5m2": "format_info_ocp_e5m2", "e4m3": "format_info_ocp_e4m3"}.get(
        name, f"format_info_ocp_{name}"))  # fmt: skip
    modes = {"even": "TiesToEven", "away": "TiesToAway", "zero": "TowardZero", "floor": "TowardNegative",
             "ceil": "TowardPositive"}  # fmt: skip
    x = many(3000).astype(np.float64)
    expected = gfloat.round_ndarray(info, x, getattr(gfloat.RoundMode, modes[mode]), sat=True)
    assert np.array_equal(get_format(name).round(torch.from_numpy(x), mode).numpy(), expected)


@pytest.mark.parametrize("name", SMALL)
def test_codes_go_to_values_and_back(name):
    form = get_format(name)
    values = form.values()
    codes = torch.arange(len(values), dtype=torch.int32)
    kept = torch.isfinite(values) & (values >= -form.max)  # the most negative integer is not written
    assert torch.equal(form.encode(values[kept]), codes[kept])
    assert same(form.decode(codes[kept], torch.float64), values[kept])
    assert values[kept].abs().max() == form.max
    assert values[kept & (values > 0)].min() == form.tiny


@pytest.mark.parametrize("name", SMALL)
def test_even_rounding_finds_the_nearest_value(name):
    form = get_format(name)
    values = form.values()
    grid = values[values.abs() <= form.max].unique()  # integers leave out the most negative
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2000, generator=generator, dtype=torch.float64) * min(form.max / 2, 1e4)
    x = x if form.signed else x.abs() + form.tiny
    place = torch.searchsorted(grid, x).clamp(1, len(grid) - 1)
    best = torch.minimum((x - grid[place - 1]).abs(), (x - grid[place]).abs())
    assert torch.equal((form.round(x) - x).abs(), best)


def test_the_unsigned_scale_of_the_fp4_paper():
    form = get_format("ue5m3")
    values = form.values()
    assert (values[1], values[8], values[247]) == (2.0**-17, 2.0**-14, 61440.0)
    assert bool((values[:248].diff() > 0).all()) and bool(values[248:].isnan().all())


def test_infinity_and_nan():
    x = torch.tensor([math.inf, -math.inf, math.nan])
    assert same(get_format("e4m3").round(x), [448.0, -448.0, math.nan])
    assert same(get_format("e5m2").round(x, overflow="special"), [math.inf, -math.inf, math.nan])
    assert get_format("e5m2").encode(x, overflow="special").tolist() == [0x7C, 0xFC, 0x7E]
    assert same(get_format("e2m1").round(x[:2]), [6.0, -6.0])


def test_stochastic_rounding_is_unbiased():
    generator = torch.Generator().manual_seed(0)
    for value in (0.3, -1.7, 5.1, 2.0**-9 * 1.3):
        x = torch.full((100_000,), value, dtype=torch.float64)
        q = get_format("e4m3").round(x, "stochastic", generator=generator)
        assert len(q.unique()) == 2
        assert abs(float(q.mean()) - value) <= 4 * float(q.std()) / len(q) ** 0.5


@pytest.mark.parametrize(("midpoint", "expected"), [(False, 76 / 256), (True, 77 / 256)])
def test_few_random_bits_give_probabilities_of_their_own_grid(midpoint, expected):
    generator = torch.Generator().manual_seed(0)
    x = torch.full((400_000,), 0.3, dtype=torch.float64)  # 0.3 · 256 = 76.8
    q = to_grid(x, 1.0, "stochastic", generator=generator, random_bits=8, midpoint=midpoint)
    assert abs(float(q.mean()) - expected) <= 4 * (0.21 / len(q)) ** 0.5


@pytest.mark.parametrize("mode", [mode for mode in ROUNDINGS if mode != "stochastic"])
def test_modes_by_hand(mode):
    x = torch.tensor([-2.5, -1.2, -0.5, 0.5, 1.5, 2.7])
    by_hand = {
        "even": [-2, -1, 0, 0, 2, 3],
        "away": [-3, -1, -1, 1, 2, 3],
        "zero": [-2, -1, 0, 0, 1, 2],
        "floor": [-3, -2, -1, 0, 1, 2],
        "ceil": [-2, -1, 0, 1, 2, 3],
    }
    assert to_grid(x, 1.0, mode).tolist() == by_hand[mode]


def test_bad_input_is_explained():
    form = get_format("e2m1")
    with pytest.raises(ValueError, match="e4m3"):
        get_format("e4m4")
    with pytest.raises(ValueError, match="unknown rounding"):
        form.round(torch.ones(2), "nearest")
    with pytest.raises(ValueError, match="Generator"):
        form.round(torch.ones(2), "stochastic")
    with pytest.raises(ValueError, match="NaN has no code"):
        form.round(torch.tensor([math.nan]))
    with pytest.raises(ValueError, match=r"\.float"):
        form.round(torch.ones(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="0 to 15"):
        form.decode(torch.tensor([16]))
    with pytest.raises(ValueError, match="too many"):
        get_format("fp32").values()


def test_overflow_without_a_code_for_it_is_refused():
    with pytest.raises(ValueError, match="neither infinity nor NaN"):
        get_format("e2m1").encode(torch.tensor([100.0]), overflow="special")
    assert torch.equal(get_format("ue5m3").round(torch.tensor([-1.0, -1e9]), overflow="special"), torch.zeros(2))
