"""The simulated matrix unit against published vectors, a slow model in Python integers, and outputs of real GPUs."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from tensorbench.core import data
from tensorbench.core.data import DataError
from tensorbench.quantization.tensorcore.conversions import to_bf16, to_fp16, to_tf32
from tensorbench.quantization.tensorcore.presets import UNITS, get_unit
from tensorbench.quantization.tensorcore.rounded import FP64, fma
from tensorbench.quantization.tensorcore.unit import MMAUnit

FUSED = [name for name, unit in UNITS.items() if unit.align == "max"]


def call(unit: str | MMAUnit, a: list[float], b: list[float], c: float = 0.0) -> float:
    rows = [torch.tensor([x], dtype=torch.float64) for x in (a, b)]
    return float(get_unit(unit).dot(*rows, torch.tensor([c], dtype=torch.float64))[0])


# --- a slow model, on Python integers ------------------------------------------------------------------------------


def exponent(x: Fraction, lowest: int) -> int:
    e = abs(x).numerator.bit_length() - abs(x).denominator.bit_length()
    e -= abs(x) < Fraction(2) ** e
    return max(e, lowest)


def rounded(x: Fraction, form, mode: str, mantissa: int) -> float:
    if x == 0:
        return 0.0
    step = Fraction(2) ** (exponent(x, form.min_exponent) - mantissa)
    steps = abs(x) / step
    whole = steps.numerator // steps.denominator
    if mode == "RN":
        rest = steps - whole
        whole += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1)
    value = whole * step
    if value > Fraction(form.max):
        return math.inf if x > 0 else -math.inf
    return float(value) if x > 0 else -float(value)


def slow_dot(unit: MMAUnit, a: list[float], b: list[float], c: float) -> float:
    form = unit.accumulator
    if unit.align == "exact":
        total = sum((Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)), Fraction(c))
        return rounded(total, form, unit.out_round, form.mantissa_bits)
    if unit.align == "chain":
        for x, y in zip(a, b, strict=True):
            c = rounded(Fraction(x) * Fraction(y) + Fraction(c), form, unit.out_round, form.mantissa_bits)
        return c
    low = unit.operand.min_exponent
    for k in range(0, len(a), unit.k_step):
        terms = []
        for x, y in zip(a[k : k + unit.k_step], b[k : k + unit.k_step], strict=True):
            if x and y:
                terms.append((Fraction(x) * Fraction(y), exponent(Fraction(x), low) + exponent(Fraction(y), low)))
        if c:
            terms.append((Fraction(c), exponent(Fraction(c), -126)))
        if not terms:
            continue
        anchor = max(e for _, e in terms)
        if unit.min_exponent is not None:
            anchor = max(anchor, unit.min_exponent)
        ulp = Fraction(2) ** (anchor - unit.fraction_bits)
        total = sum(int(value / ulp) for value, _ in terms)  # int() cuts towards zero
        c = rounded(total * ulp, form, unit.out_round, min(form.mantissa_bits, unit.fraction_bits))
    return c


def random_rows(unit: MMAUnit, rows: int, k: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers of many sizes, zeros, subnormals, and sums that cancel."""
    g = torch.Generator().manual_seed(seed)
    form = unit.operand
    reach = {"e4m3": 4, "e5m2": 7, "fp16": 7}.get(form.name, 30)

    def draw(*shape: int) -> torch.Tensor:
        power = torch.randint(-reach, reach + 1, shape, generator=g).double()
        x = torch.randn(*shape, generator=g, dtype=torch.float64) * 2.0**power
        x = torch.where(torch.rand(*shape, generator=g) < 0.05, 0.0, x)
        x = torch.where(torch.rand(*shape, generator=g) < 0.05, form.tiny * 3.0, x)
        return unit.cast(x.clamp(-form.max / 2, form.max / 2))

    a, b = draw(rows, k), draw(rows, k)
    c = torch.randn(rows, generator=g, dtype=torch.float64) * 2.0 ** torch.randint(-reach, reach, (rows,), generator=g)
    near = torch.rand(rows, generator=g) < 0.2
    c = torch.where(near, -(a[:, 0] * b[:, 0]) * (1 + 2.0**-20), c)  # cancels the first product but for the last bits
    c = torch.where(torch.rand(rows, generator=g) < 0.1, 0.0, c)
    return a, b, unit.accumulator.round(c.clamp(-unit.accumulator.max, unit.accumulator.max))


@pytest.mark.parametrize("name", [n for n in UNITS if UNITS[n].align != "integer" and UNITS[n].in_fmt != "fp64"])
def test_equals_the_slow_model_bit_by_bit(name):
    unit = UNITS[name]
    k = min(2 * unit.k_step, 32) if unit.align == "max" else 6
    a, b, c = random_rows(unit, 10_000 // k, k, seed=len(name))
    got, rows = unit.dot(a, b, c).tolist(), zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    want = [slow_dot(unit, *row) if math.isfinite(value) else value for row, value in zip(rows, got, strict=True)]
    assert got == want
    assert np.isfinite(got).mean() > 0.9


def test_fp64_chain_is_the_correctly_rounded_fma():
    unit = UNITS["ampere_fp64"]
    g = torch.Generator().manual_seed(3)
    a, b = (torch.randn(2000, 3, generator=g, dtype=torch.float64) for _ in range(2))
    c = -(a[:, 0] * b[:, 0]) * (1 + 2.0**-51)
    got = unit.dot(a, b, c)
    assert got.tolist() == [slow_dot(unit, a[i].tolist(), b[i].tolist(), float(c[i])) for i in range(len(got))]
    plain = c.clone()
    for j in range(3):
        plain += a[:, j] * b[:, j]
    assert (plain != got).any()  # two roundings differ from one somewhere


# --- outputs of real GPUs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    if not (there := data.get("tensor_core_outputs").available())[0]:
        pytest.skip(f"outputs of GPUs are not at hand: {there[1]}")
    try:
        return data.load("tensor_core_outputs")
    except DataError as error:
        pytest.skip(f"outputs of GPUs are not at hand: {error}")


def dots(unit: MMAUnit, rows) -> np.ndarray:
    a, b, c = (torch.from_numpy(np.ascontiguousarray(x)) for x in (rows.a, rows.b, rows.c))
    return unit.dot(a, b, c).numpy().view(np.int32)


def test_equals_what_gpus_gave(measured):
    assert len(measured) == 12
    for name, rows in measured.items():
        np.testing.assert_array_equal(dots(UNITS[name], rows), rows.d.view(np.int32), err_msg=name)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ampere_fp16", {"extra_bits": 0}),
        ("ampere_fp16", {"extra_bits": 2}),
        ("ampere_fp16", {"k_step": 4}),
        ("ampere_fp16", {"out_round": "RN"}),
        ("hopper_fp16", {"extra_bits": 1}),
        ("hopper_e4m3", {"extra_bits": -9}),
        ("volta_fp16", {"round": "RN"}),
    ],
)
def test_other_parameters_disagree_with_gpus(measured, name, change):
    rows = measured[name]
    assert (dots(replace(UNITS[name], **change), rows) != rows.d.view(np.int32)).any()


# --- published vectors, by hand ------------------------------------------------------------------------------------


def test_published_vectors():
    u24, u23 = 2.0**-24, 2.0**-23
    for name in ("volta_fp16", "turing_fp16", "ampere_fp16", "hopper_fp16"):
        assert call(name, [u24], [4.0]) == 2.0**-22
        assert call(name, [0.0], [0.0], 2.0**-149) == 2.0**-149
        assert call(name, [1 - 2.0**-11], [1 - 2.0**-11]) == (1 - 2.0**-11) ** 2
        assert call(name, [1.0, 1.0], [2.0, u23 + u24]) == 2.0
        assert call(name, [1.0, 1.0], [-2.0, -u23 - u24]) == -2.0
        assert call(name, [1.0] * 4, [1.0] * 4, 1 + 3 * u23) == 5.0
        assert call(name, [1.0] * 4, [1.0, 1.5, 1.75, 1.875], 1.875) == 8.0
        four = call(name, [0.5] * 4, [u24] * 4, 1.0)
        assert four == (1 + u23 if UNITS[name].extra_bits >= 2 else 1.0)
        assert call(name, [1.0], [1.0], -(1 - u24)) == (u23 if name == "volta_fp16" else u24)
    assert call("ampere_fp16_fp16", [u24, u24], [0.5, 0.25]) == u24


def test_a_larger_accumulator_gives_a_smaller_sum():
    products = [0.5] * 4, [2.0**-24] * 3 + [2.0**-23 + 2.0**-24]
    assert call("ampere_fp16", *products, 1 - 2.0**-24) == 1 + 2.0**-23
    assert call("ampere_fp16", *products, 1.0) == 1.0


@pytest.mark.parametrize(
    ("a", "b", "c", "result"),
    [  # measured on an RTX 4090, which has the alignment of Ampere
        ([1.0, 2.0**-24], [1.0, 1.0], 0.0, 1.0),
        ([2.0**-24, -1.0, 1.0], [1.0, 1.0, 1.0], 0.0, 2.0**-24),
        ([1.0, 0.0, -1.0, 2.0**-21], [16.0, 0.0, 16.0, 1.0], 0.0, 0.0),
        ([1.0, 0.0, -1.0, 2.0**-20], [16.0, 0.0, 16.0, 1.0], 0.0, 2.0**-20),
        ([1.0, -1.0], [1.0, 1.0], 2.0**-24, 2.0**-24),
        ([1.0, -1.0], [1.0, 1.0], 2.0**-25, 0.0),
    ],
)
def test_vectors_measured_on_ada(a, b, c, result):
    assert call("ampere_fp16", a, b, c) == result


def test_the_anchor_is_the_sum_of_exponents():
    """1.5 · 1.5 = 2.25 is not normalised before alignment: 2^-24 beside it is kept, beside 2 · 1 it is lost."""
    assert call("ampere_fp16", [1.5, -1.5], [1.5, 1.5], 2.0**-24) == 2.0**-24
    assert call("ampere_fp16", [2.0, -2.0], [1.0, 1.0], 2.0**-24) == 0.0


def test_too_few_carry_bits_wrap():
    narrow = replace(UNITS["ampere_fp16"], carry_bits=1)
    assert call("ampere_fp16", [1.0] * 8, [1.0] * 8) == 8.0
    assert call(narrow, [1.0] * 3, [1.0] * 3) == 3.0
    assert call(narrow, [1.0] * 8, [1.0] * 8) == 0.0


def test_rounding_the_products_first_loses_their_last_bits():
    unit = MMAUnit("fp32", "fp32", k_step=4, extra_bits=16, name="exact products of float32")
    x = 1 + 2.0**-12
    assert call(unit, [x, -1.0], [x, 1 + 2.0**-11]) == 2.0**-24
    assert call(replace(unit, product="rounded"), [x, -1.0], [x, 1 + 2.0**-11]) == 0.0


# --- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUSED)
def test_a_block_has_no_order(name):
    unit = UNITS[name]
    a, b, c = random_rows(unit, 300, unit.k_step, seed=1)
    turned = torch.randperm(unit.k_step, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unit.dot(a, b, c), unit.dot(a[:, turned], b[:, turned], c))


@pytest.mark.parametrize("name", ["volta_fp16", "ampere_fp16", "ieee_fma_chain"])
def test_blocks_have_one(name):
    unit = UNITS[name]
    a, b, c = random_rows(unit, 300, 4 * unit.k_step, seed=2)
    assert not torch.equal(unit.dot(a, b, c), unit.dot(a.flip(1), b.flip(1), c))


def test_integers_have_none():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-127, 128, (50, 96), generator=g) for _ in range(2))
    unit, turned = UNITS["ampere_int8"], torch.randperm(96, generator=g)
    assert torch.equal(unit.dot(a, b), unit.dot(a[:, turned], b[:, turned]))
    assert unit.dot(a, b).tolist() == (a * b).sum(dim=1).tolist()
    assert int(unit.dot(a[0], a[0], 2**31 - 1)) == int((a[0] ** 2).sum()) - 2**31 - 1  # modulo 2^32


# --- shapes, batches, instructions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ampere_fp16", "ieee_fma_chain", "exact", "hopper_e4m3"])
def test_mma_is_a_dot_product_for_each_output(name):
    unit = UNITS[name]
    g = torch.Generator().manual_seed(5)
    A, B = unit.cast(torch.randn(3, 5, 20, generator=g)), unit.cast(torch.randn(3, 20, 4, generator=g))
    C = torch.randn(3, 5, 4, generator=g)
    D = unit.mma(A, B, C)
    for i in range(5):
        for j in range(4):
            assert torch.equal(D[:, i, j], unit.dot(A[:, i], B[:, :, j], C[:, i, j]))
    assert torch.equal(unit.mma(A, B, 0.5), unit.mma(A, B, torch.full_like(C, 0.5)))


def test_large_products_are_done_in_pieces(monkeypatch):
    unit = UNITS["ampere_fp16"]
    g = torch.Generator().manual_seed(8)
    A, B = unit.cast(torch.randn(4, 30, 16, generator=g)), unit.cast(torch.randn(4, 16, 10, generator=g))
    whole = unit.mma(A, B)
    monkeypatch.setattr("tensorbench.quantization.tensorcore.unit._CHUNK", 70)
    assert torch.equal(unit.mma(A, B), whole)


def test_instructions_with_a_shorter_k_add_fewer_at_once():
    unit = UNITS["hopper_fp16"]
    g = torch.Generator().manual_seed(6)
    A, B = unit.cast(torch.randn(16, 32, generator=g)), unit.cast(torch.randn(32, 8, generator=g))
    assert torch.equal(unit.gemm(A, B, tile=(16, 8, 16)), unit.mma(A, B))
    assert torch.equal(unit.gemm(A, B, tile=(16, 8, 8)), replace(unit, k_step=8).mma(A, B))
    assert not torch.equal(unit.gemm(A, B, tile=(16, 8, 8)), unit.mma(A, B))


def test_padding_changes_nothing():
    unit = UNITS["ampere_fp16"]
    g = torch.Generator().manual_seed(7)
    A, B = unit.cast(torch.randn(5, 11, generator=g)), unit.cast(torch.randn(11, 3, generator=g))
    C = torch.randn(5, 3, generator=g)
    assert torch.equal(unit.gemm(A, B, C, pad=True), unit.mma(A, B, C))
    with pytest.raises(ValueError, match="pad=True"):
        unit.gemm(A, B, C)


# --- NaN, infinity, overflow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ampere_fp16", "ieee_fma_chain", "exact", "hopper_fp16_fp16"])
def test_specials(name):
    inf, nan = math.inf, math.nan
    assert call(name, [inf, 1.0], [2.0, 1.0]) == inf
    assert call(name, [inf, 1.0], [-2.0, 1.0], 3.0) == -inf
    assert math.isnan(call(name, [inf, -inf], [1.0, 1.0]))
    assert math.isnan(call(name, [inf, 1.0], [0.0, 1.0]))
    assert math.isnan(call(name, [1.0, 1.0], [nan, 1.0]))
    assert call(name, [1.0, 1.0], [1.0, 1.0], inf) == inf
    assert math.isnan(call(name, [inf, 1.0], [1.0, 1.0], -inf))
    assert call(name, [0.0, -0.0], [1.0, 1.0]) == 0.0


def test_overflow_is_infinite_and_stays():
    assert call("ampere_fp16_fp16", [256.0, 256.0], [256.0, 256.0]) == math.inf
    assert call("ampere_fp16_fp16", [1.0] + [1.0] * 8, [60000.0] + [-1.0] * 8, 30000.0) == math.inf
    assert call("ampere_bf16", [2.0**127], [2.0]) == math.inf
    assert call("ampere_bf16", [-(2.0**127)], [2.0]) == -math.inf


# --- conversions ----------------------------------------------------------------------------------------------------


def test_tf32_on_ties():
    u = 2.0**-10
    x = torch.tensor([1 + u / 2, 1 + 3 * u / 2, -(1 + u / 2), 1 + 0.75 * u])
    assert to_tf32(x, "rz").tolist() == [1.0, 1 + u, -1.0, 1.0]
    assert to_tf32(x, "rna").tolist() == [1 + u, 1 + 2 * u, -(1 + u), 1 + u]
    assert to_tf32(x, "rne").tolist() == [1.0, 1 + 2 * u, -1.0, 1 + u]
    with pytest.raises(ValueError, match="rounding of a conversion"):
        to_tf32(x, "rn")


def test_conversions_are_torchs():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5000, generator=g) * 2.0 ** torch.randint(-30, 18, (5000,), generator=g)
    assert torch.equal(to_bf16(x), x.to(torch.bfloat16).float())
    assert torch.equal(to_fp16(x), x.to(torch.float16).float())
    assert torch.equal(to_tf32(x, "rz").view(torch.int32), x.view(torch.int32) & ~0x1FFF)
    assert to_fp16(torch.tensor([1e6, -math.inf]), "rz").tolist() == [65504.0, -math.inf]


def test_fma_rounds_once():
    a, b, c = (torch.tensor([x], dtype=torch.float64) for x in (1 + 2.0**-30, 1 - 2.0**-30, -1.0))
    assert float(fma(a, b, c, FP64)) == -(2.0**-60)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"in_fmt": "fp17"}, "did you mean"),
        ({"in_fmt": "fp64", "acc_fmt": "fp32"}, "accumulate in fp64"),
        ({"in_fmt": "int8", "acc_fmt": "fp32"}, "int32"),
        ({"in_fmt": "fp16", "k_step": 0}, "k_step"),
        ({"in_fmt": "fp16", "extra_bits": -30}, "extra_bits"),
        ({"in_fmt": "fp16", "carry_bits": -1}, "carry_bits"),
        ({"in_fmt": "fp16", "out_round": "RU"}, "out_round"),
        ({"in_fmt": "fp16", "align": "maximum"}, "alignment"),
        ({"in_fmt": "fp64", "acc_fmt": "fp64"}, "chain"),
    ],
)
def test_a_unit_that_cannot_be(arguments, match):
    with pytest.raises(ValueError, match=match):
        MMAUnit(**arguments)


def test_bad_operands():
    unit = UNITS["ampere_fp16"]
    one = torch.ones(2, 3)
    with pytest.raises(ValueError, match="ampere_fp16"):
        get_unit("ampere_fp61")
    with pytest.raises(ValueError, match="no fp16 number"):
        unit.dot(one * 0.1, one)
    with pytest.raises(ValueError, match="C holds"):
        UNITS["ampere_fp16_fp16"].dot(one, one, torch.full((2,), 0.1))
    with pytest.raises(ValueError, match="same shape"):
        unit.dot(one, torch.ones(2, 4))
    with pytest.raises(ValueError, match="do not multiply"):
        unit.mma(one, one)
    with pytest.raises(ValueError, match="nothing to multiply"):
        unit.mma(torch.ones(2, 0), torch.ones(0, 2))
    with pytest.raises(ValueError, match="integers from -128"):
        UNITS["ampere_int8"].dot(one * 300, one)
    with pytest.raises(ValueError, match="floating-point"):
        unit.dot(one.to(torch.int64), one.to(torch.int64))
