"""EN-T and its rivals: published codes, exhaustive products in digits and in gates, counts, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from tensorbench.quantization.ent import circuits
from tensorbench.quantization.ent.encoders import ENCODERS, get_encoder
from tensorbench.quantization.ent.multiplier import MAC, CompressorTree, Multiplier, PartialProduct, wrap
from tensorbench.quantization.ent.netlist import Netlist, from_words, simulate, to_words, toggles

INT8 = np.arange(-128, 128)
LEFT, RIGHT = np.repeat(INT8, 256), np.tile(INT8, 256)
NORMAL = norm.cdf(INT8 + 0.5, 0, 30) - norm.cdf(INT8 - 0.5, 0, 30)


@pytest.mark.parametrize(
    ("x", "digits", "sign"),
    [
        (127, (-1, 0, 0, 2), 0),
        (-77, (1, -1, 1, 1), 1),
        (-128, (0, 0, 0, 2), 1),
        (91, (-1, -1, 2, 1), 0),
        (0, (0, 0, 0, 0), 0),
    ],
)
def test_ent_codes(x, digits, sign):
    code = get_encoder("ent").encode(np.array(x))
    assert tuple(code.digits.tolist()) == digits
    assert int(code.sign) == sign
    assert int(code.packed) == sum((d % 4) << (2 * i) for i, d in enumerate(digits)) | sign << 8


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("n", (2, 4, 8, 16))
def test_all_codes_decode(kind, n):
    encoder = get_encoder(kind, n)
    x = np.arange(-(2 ** (n - 1)), 2 ** (n - 1))
    code = encoder.encode(x)
    np.testing.assert_array_equal(encoder.decode(code.packed), x)
    assert len(np.unique(code.packed)) == len(x)
    assert int(code.packed.max()) < 2**encoder.width
    value = code.digits @ (encoder.radix ** np.arange(encoder.n_digits))
    np.testing.assert_array_equal(np.where(code.sign == 1, -value, value), x)


@pytest.mark.parametrize("kind", ENCODERS)
def test_wide_operands_agree_with_the_table(kind):
    x = np.random.default_rng(0).integers(-(2**15), 2**15, 500)
    wide, table = get_encoder(kind, 20), get_encoder(kind, 16)
    np.testing.assert_array_equal(wide.decode(wide.encode(x).packed), table.decode(table.encode(x).packed))


def test_digit_sets():
    for kind, allowed in {"ent": {-1, 0, 1, 2}, "mbe": {-2, -1, 0, 1, 2}, "csd": {-1, 0, 1}}.items():
        assert set(np.unique(get_encoder(kind).encode(INT8).digits)) == allowed
    csd = get_encoder("csd").encode(INT8).digits != 0
    assert not (csd[:, 1:] & csd[:, :-1]).any()


def test_widths_cells_and_nonzero_digits():
    ent, mbe = get_encoder("ent"), get_encoder("mbe")
    assert (ent.width, ent.n_cells, mbe.width, mbe.n_cells) == (9, 3, 12, 4)
    assert ent.mean_nonzero(INT8) == pytest.approx(2.918, abs=1e-3)
    assert mbe.mean_nonzero(INT8) == pytest.approx(3.0, abs=1e-12)
    assert ent.mean_nonzero(INT8, NORMAL) == pytest.approx(2.335, abs=1e-3)
    assert mbe.mean_nonzero(INT8, NORMAL) == pytest.approx(2.530, abs=1e-3)
    assert np.mean((mbe.encode(INT8).digits != 0).sum(axis=1) <= 3) == pytest.approx(0.684, abs=1e-3)


def test_sign_magnitude_has_no_most_negative_number():
    encoder = ENCODERS["ent"](8, "sign_magnitude")
    assert int(encoder.decode(encoder.encode(np.array([-127])).packed)[0]) == -127
    with pytest.raises(ValueError, match="-127 to 127"):
        encoder.encode(np.array([-128]))


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("booth", ("factored", "textbook"))
@pytest.mark.parametrize("edge", (False, True))
def test_every_product_of_gates_is_exact(kind, booth, edge):
    encoder = get_encoder(kind)
    net = circuits.multiplier_circuit(kind, 8, edge=edge, booth=booth)
    a = encoder.encode(LEFT).packed if edge else LEFT
    out = simulate(net, {"a": a[None], "b": RIGHT[None]}).outputs["out"][0]
    np.testing.assert_array_equal(wrap(out, 16), LEFT * RIGHT)


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_product_of_digits_is_exact(kind):
    np.testing.assert_array_equal(Multiplier(get_encoder(kind))(LEFT, RIGHT), LEFT * RIGHT)
    rows = PartialProduct(get_encoder(kind))(get_encoder(kind).encode(LEFT).packed, RIGHT)
    np.testing.assert_array_equal(rows.sum(axis=-1), LEFT * RIGHT)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("n", (4, 16))
def test_other_widths(kind, n):
    rng, half = np.random.default_rng(n), 2 ** (n - 1)
    x, y = rng.integers(-half, half, (2, 2000))
    x[:4], y[:4] = (-half, -half, half - 1, 0), (-half, half - 1, -half, -half)
    np.testing.assert_array_equal(Multiplier(get_encoder(kind, n))(x, y), x * y)
    net = circuits.multiplier_circuit(kind, n)
    out = simulate(net, {"a": x[None], "b": y[None]}).outputs["out"][0]
    np.testing.assert_array_equal(wrap(out, 2 * n), x * y)


@pytest.mark.parametrize("kind", ENCODERS)
def test_mac_circuit_adds_modulo_its_width(kind):
    rng = np.random.default_rng(1)
    a, b = rng.integers(-128, 128, (2, 1, 3000))
    acc = rng.integers(-(2**31), 2**31, (1, 3000))
    out = simulate(circuits.mac_circuit(kind), {"a": a, "b": b, "acc": acc}).outputs["out"]
    np.testing.assert_array_equal(wrap(out, 32), wrap(acc + a * b, 32))


@pytest.mark.parametrize("booth", ("factored", "textbook"))
def test_recoder_circuits_give_the_codes(booth):
    for kind in ("ent", "csd"):
        out = simulate(circuits.encoder_circuit(kind), {"a": INT8[None]}).outputs["code"][0]
        np.testing.assert_array_equal(out, get_encoder(kind).encode(INT8).packed)
    out = simulate(circuits.encoder_circuit("mbe", 8, booth), {"a": INT8[None]}).outputs["code"][0]
    np.testing.assert_array_equal(get_encoder("mbe").decode(out), INT8)  # factored: 111 is a negative zero
    assert (out == get_encoder("mbe").encode(INT8).packed).all() == (booth == "textbook")


def test_digit_cells_have_the_papers_gates():
    assert circuits.encoder_circuit("ent", 6).counts("encode") == {"AND2": 5, "OR2": 1, "XOR2": 4}  # first has no carry
    six = circuits.encoder_circuit("ent", 8).counts("encode")
    five = circuits.encoder_circuit("ent", 6).counts("encode")
    assert six - five == {"AND2": 3, "OR2": 1, "XOR2": 2}


@pytest.mark.parametrize("carry_save", (False, True))
@pytest.mark.parametrize("kind", ENCODERS)
def test_mac_wraps_at_every_width(kind, carry_save):
    x, y = np.random.default_rng(2).integers(-128, 128, (2, 5, 40))
    got = MAC(get_encoder(kind), 17, carry_save=carry_save)(x, y)
    np.testing.assert_array_equal(got, wrap((x * y).sum(axis=1), 17))


def test_mac_saturates_step_by_step():
    x, y = np.array([127, 127, 127, -128]), np.array([127, 127, 127, 127])
    assert MAC(get_encoder("ent"), 16, "saturate")(x, y) == 2**15 - 1 - 128 * 127
    with pytest.raises(ValueError, match="carry-save"):
        MAC(get_encoder("ent"), 16, "saturate", carry_save=True)


def test_tree_keeps_the_sum():
    rows = np.random.default_rng(3).integers(-1000, 1000, (50, 9))
    tree = CompressorTree(9, 20)
    total, carry = tree.reduce(rows)
    np.testing.assert_array_equal(wrap(total + carry, 20), rows.sum(axis=1))
    assert (tree.compressors_3_2, tree.compressors_4_2, tree.depth) == (140, 60, 4)


def test_words_and_toggles():
    values = np.random.default_rng(4).integers(0, 2**13, (7, 100))
    words = to_words(values, 13)
    np.testing.assert_array_equal(from_words(words, 100), values)
    flips = sum(toggles(w) for w in words)
    assert flips == sum(int(v).bit_count() for v in (values[1:] ^ values[:-1]).ravel())


def test_constants_leave_no_gates():
    net = Netlist()
    a, b = net.input("a", 1)[0], net.input("b", 1)[0]
    assert net.full_adder(a, 1, 1) == (a, 1)
    assert net.and2(a, 0) == 0 and net.xor2(a, 0) == a and not net.gates
    net.outputs["out"] = list(net.full_adder(a, 1, b))
    out = simulate(net, {"a": np.array([[0, 0, 1, 1]]), "b": np.array([[0, 1, 0, 1]])}).outputs["out"]
    assert out.tolist() == [[1, 2, 2, 3]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: get_encoder("ent", 7), "even n"),
        (lambda: get_encoder("boot"), "unknown encoder 'boot'"),
        (lambda: get_encoder("ent").encode(np.array([1.0])), "expected integers"),
        (lambda: get_encoder("ent").encode(np.array([128])), "do not fit in 8 bits"),
        (lambda: get_encoder("ent").decode(np.array([512])), "9 bits"),
        (lambda: circuits.mac_circuit("ent", 7), "even n"),
        (lambda: circuits.encoder_circuit("mbe", 8, "textbok"), "did you mean 'textbook'"),
        (lambda: MAC(get_encoder("ent"), 12), "accumulator of 12 bits"),
        (lambda: simulate(circuits.encoder_circuit("ent"), {"b": np.zeros((1, 1), dtype=int)}), "inputs"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
