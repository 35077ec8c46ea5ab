"""Probes, summation orders, profiles, the throughput model, the GPU's layouts, and products on any unit."""

from __future__ import annotations

import json
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch

from tensorbench.quantization.gemm import int_matmul, matmul, on_unit
from tensorbench.quantization.tensorcore import gpu, order, perf, probes, profile
from tensorbench.quantization.tensorcore.legacy_fp8 import LegacyFp8
from tensorbench.quantization.tensorcore.presets import UNITS
from tensorbench.quantization.tensorcore.unit import MMAUnit

FUSED = [name for name, unit in UNITS.items() if unit.align == "max"]

# --- probes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUSED)
def test_parameters_are_found_again(name):
    unit = UNITS[name]
    found = probes.infer_parameters(unit)
    assert (found.k_step, found.extra_bits, found.rounding) == (unit.k_step, unit.extra_bits, unit.out_round)
    assert found.subnormal_operands
    assert found.carry_bits >= 3


def test_parameters_of_units_that_nobody_built():
    odd = MMAUnit("bf16", "fp32", 5, 3, 4, out_round="RN", name="odd")
    found = probes.infer_parameters(odd)
    assert (found.k_step, found.extra_bits, found.rounding) == (5, 3, "RN")
    narrow = replace(UNITS["ampere_fp16"], carry_bits=2)
    assert probes.infer_parameters(narrow).carry_bits == 2 < probes.infer_parameters(UNITS["ampere_fp16"]).carry_bits


def test_a_chain_shows_as_one():
    found = probes.infer_parameters(UNITS["ieee_fma_chain"])
    assert (found.k_step, found.fraction_bits, found.rounding, found.non_monotonic) == (1, 23, "RN", False)


@pytest.mark.parametrize(
    ("name", "edition", "failed"),
    [
        ("volta_fp16", "volta", set()),
        ("turing_fp16", "turing", set()),
        ("ampere_fp16", "turing", set()),
        ("ampere_bf16", "turing", set()),
        ("ampere_tf32", "turing", set()),
        ("ampere_fp16_fp16", "turing", set()),
        ("ampere_fp64", "fp64", set()),
        # As measured on an A10 and an RTX 3080 with Volta's edition.
        ("ampere_fp16", "volta", {"sum in fp32", "anchored at the largest", "bits below fp32",
                                  "no normalising, subtraction", "not monotonic"}),
        ("ieee_fma_chain", "turing", {"anchored at the largest", "down for positive", "up for negative",
                                      "no normalising, addition", "carry bits", "not monotonic"}),
    ],
)  # fmt: skip
def test_suite(name, edition, failed):
    results = probes.run_suite(UNITS[name], edition)
    assert {probe.name for probe in results if not probe.passed} == failed


def test_probes_at_the_door():
    with pytest.raises(ValueError, match="did you mean 'volta'"):
        probes.run_suite(UNITS["ampere_fp16"], "volt")
    with pytest.raises(ValueError, match="does not probe"):
        probes.run_suite(UNITS["hopper_e4m3"], "turing")
    with pytest.raises(ValueError, match="nothing to infer"):
        probes.infer_parameters(UNITS["ampere_int8"])


# --- summation orders ----------------------------------------------------------------------------------------------


def sequential(x: torch.Tensor) -> float:
    total = x[0]
    for value in x[1:]:
        total = total + value
    return float(total)


def pairwise(x: torch.Tensor) -> float:
    while len(x) > 1:
        x = x[0::2] + x[1::2]
    return float(x[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_orders_of_known_sums(dtype):
    assert order.as_text(order.reveal_reduction(sequential, 6, dtype)) == "(((((0 1) 2) 3) 4) 5)"
    assert order.as_text(order.reveal_reduction(pairwise, 8, dtype)) == "(((0 1) (2 3)) ((4 5) (6 7)))"
    assert order.shape_of(order.reveal_reduction(sequential, 9, dtype)) == "sequential"
    assert order.shape_of(order.reveal_reduction(pairwise, 16, dtype)) == "pairwise"


def test_orders_of_units():
    assert order.as_text(order.reveal_order(UNITS["ampere_fp16"], 16)) == "((0 1 2 3 4 5 6 7) 8 9 10 11 12 13 14 15)"
    assert order.shape_of(order.reveal_order(UNITS["ampere_tf32"], 16)) == "blocks of 4"
    assert order.shape_of(order.reveal_order(UNITS["ieee_fma_chain"], 8)) == "sequential"
    assert order.shape_of(order.reveal_order(UNITS["exact"], 8)) == "one node"
    assert order.shape_of(order.reveal_order(UNITS["ampere_int8"], 8)) == "one node"
    assert order.shape_of(order.reveal_order(UNITS["hopper_fp16"], 16)) == "one node"


@pytest.mark.parametrize("function", [torch.sum, lambda x: x.numpy().sum()], ids=["torch", "numpy"])
def test_adding_along_a_revealed_tree_gives_the_librarys_bits(function):
    n = 24
    tree = order.reveal_reduction(function, n)
    assert nx.is_arborescence(tree)

    def add(node, x: np.ndarray) -> np.float32:
        children = list(tree.successors(node))
        assert len(children) in (0, 2)
        return x[node] if not children else np.float32(add(children[0], x) + add(children[1], x))

    rng = np.random.default_rng(0)
    plain = 0
    for _ in range(20):
        x = (rng.standard_normal(n) * 2.0 ** rng.integers(-10, 10, n)).astype(np.float32)
        assert add(tree.graph[order.ROOT], x) == np.float32(function(torch.from_numpy(x)))
        plain += sequential(torch.from_numpy(x)) != float(function(torch.from_numpy(x)))
    assert plain > 0  # another order gives other bits


def test_orders_at_the_door():
    with pytest.raises(ValueError, match="at least two"):
        order.reveal_order(UNITS["ampere_fp16"], 1)
    with pytest.raises(ValueError, match="dtype"):
        order.reveal_reduction(torch.sum, 4, torch.int64)
    with pytest.raises(ValueError, match="fit no summation tree"):  # {0, 1, 2} and {1, 2, 3} overlap
        order.reveal_tree(lambda i, j: np.array([1, 1, 0, 2, 1, 1]), 4)


# --- profiles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ampere_fp16", "ampere_bf16", "ampere_tf32", "hopper_fp16"])
def test_products_have_no_error_and_casts_have(name):
    low, full = (profile.profile_ops(name, init, 256) for init in ("low", "fp32"))
    assert low["multiplication"] == 0
    assert 0 < low["accumulation"] < 2.0**-22
    u = 2.0 ** -(UNITS[name].operand.mantissa_bits + 1)
    assert 0.1 * u < full["multiplication"] < 2 * u


def test_chains():
    errors = profile.chain_error("ampere_bf16", [1, 4], chains=20)
    assert errors.shape == (20, 2)
    assert errors[:, 0].max() < 1e-6 < 2.0**-9 < errors[:, 1].mean() < 0.05
    assert profile.chain_error("exact_fp32", [6], chains=5).max() < 1e-6
    assert not torch.isfinite(profile.chain_error("ampere_fp16", [14], chains=20)).all()


def test_truncation_makes_positive_sums_too_small():
    cut = profile.sum_error("ampere_fp16", 1024)
    nearest = profile.sum_error("ieee_fma_chain", 1024)
    assert (cut < 0).all()
    assert cut.mean().abs() > 5 * nearest.mean().abs()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: profile.profile_ops("ampere_fp16", "high"), "init"),
        (lambda: profile.profile_ops("ampere_int8"), "integers"),
        (lambda: profile.profile_ops("ampere_fp16", n=0), "n = 0"),
        (lambda: profile.chain_error("ampere_fp16", [3, 2]), "rise"),
        (lambda: profile.chain_error("ampere_fp16", [2], chains=0), "chains"),
        (lambda: profile.sum_error("ampere_fp16", 0), "length 0"),
    ],
)
def test_profiles_at_the_door(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# --- throughput ----------------------------------------------------------------------------------------------------


def test_throughput_rises_to_the_peak():
    model = perf.PerfModel.of("a100")
    shape = "fp16.m16n8k16"
    assert model.peak(shape) == 1024
    rates = [model.throughput(shape, ilp, 4) for ilp in range(1, 12)]
    assert rates == sorted(rates) and rates[-1] == 1024
    least = model.min_parallelism_for_peak(shape)
    assert model.throughput(shape, least, 4) >= 0.95 * 1024 > model.throughput(shape, least - 1, 4)
    assert model.throughput(shape, 1, 1) == model.throughput(shape, 1, 4) / 4  # a lone warp keeps one scheduler busy
    assert model.throughput(shape, 2, 8) == model.throughput(shape, 4, 4)
    assert model.sparse_speedup(shape, "fp16.sp.m16n8k32", 8, 4) == 2


def test_bank_conflicts():
    assert perf.ldmatrix_cycles(perf.row_addresses(16)) == 1
    assert perf.ldmatrix_cycles(perf.row_addresses(128)) == 8  # all rows in the same four banks
    assert perf.ldmatrix_cycles(perf.row_addresses(144)) == 1  # padded by one row
    assert perf.ldmatrix_cycles(perf.row_addresses(128, swizzle=True)) == 1
    assert perf.ldmatrix_cycles(perf.row_addresses(128, 4)) == 32
    assert perf.ldmatrix_cycles([0] * 8) == 1  # the same words are read once


def test_measured_tables(tmp_path):
    path = tmp_path / "table.json"
    perf.PerfModel.of("a100").save(path)
    assert perf.PerfModel.load(path) == perf.PerfModel.of("a100")
    path.write_text(json.dumps({"name": "x", "instructions": {"mma": {"macs": 1}}}))
    with pytest.raises(ValueError, match="no table"):
        perf.PerfModel.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="no table"):
        perf.PerfModel.load(path)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m: perf.PerfModel.of("a10"), "architecture"),
        (lambda m: m.throughput("fp16.m16n8k61", 1, 1), "did you mean"),
        (lambda m: m.throughput("fp16.m16n8k16", 0, 1), "at least 1"),
        (lambda m: m.min_parallelism_for_peak("fp16.m16n8k16", 1.5), "share"),
        (lambda m: perf.Instruction(1, 8.0, 4.0), "issue <= latency"),
        (lambda m: perf.ldmatrix_cycles([0] * 7), "8 per matrix"),
        (lambda m: perf.ldmatrix_cycles([8] * 8), "multiple of 16"),
        (lambda m: perf.row_addresses(20), "stride"),
        (lambda m: perf.row_addresses(144, swizzle=True), "128 bytes"),
    ],
)
def test_throughput_at_the_door(call, match):
    with pytest.raises(ValueError, match=match):
        call(perf.PerfModel.of("a100"))


# --- a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "accumulator"), list(gpu.INSTRUCTIONS))
def test_fragments_hold_every_element_once(form, accumulator):
    shape = gpu.instruction(form, accumulator)
    m, n, k = shape.m, shape.n, shape.k
    for where, size in zip(gpu.fragment_rows(form, accumulator), ((m, k), (k, n), (m, n)), strict=True):
        flat = where[..., 0] * size[1] + where[..., 1]
        assert sorted(flat.flatten().tolist()) == list(range(size[0] * size[1]))
    text = gpu.source(form, accumulator)
    assert f"m{m}n{n}k{k}.row.col.{shape.types} {{%0,%1" in text
    registers = [
        count * size // 4
        for count, size in ((m * k // 32, shape.operand.itemsize), (m * n // 32, shape.result.itemsize))
    ]
    words = 2 if form == "fp64" else 1
    assert text.count('"(A[') == registers[0] // words and text.count('"(C[') == registers[1] // words


def test_source_of_a_kernel_as_written_by_hand():
    assert (
        '"mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%8,%9};"'
        in gpu.source("fp16", "fp16")
    )
    assert "double r0, r1;" in gpu.source(
        "fp64", "fp64"
    ) and '"d"(A[0]), "d"(B[0]), "d"(C[0]), "d"(C[1])' in gpu.source("fp64", "fp64")


def test_fragments_of_fp16_as_documented():
    a, b, d = gpu.fragment_rows("fp16")
    assert a[0].tolist() == [[0, 0], [0, 1], [8, 0], [8, 1], [0, 8], [0, 9], [8, 8], [8, 9]]
    assert a[5, 0].tolist() == [1, 2]
    assert b[0].tolist() == [[0, 0], [1, 0], [8, 0], [9, 0]]
    assert b[5].tolist() == [[2, 1], [3, 1], [10, 1], [11, 1]]
    assert d[5].tolist() == [[1, 2], [1, 3], [9, 2], [9, 3]]


class Simulated:
    """A backend that is another simulated unit."""

    def __init__(self, unit: MMAUnit) -> None:
        self.unit = unit

    def mma(self, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor) -> torch.Tensor:
        return self.unit.mma(A, B, C)


def test_comparison_finds_a_difference():
    unit = UNITS["ampere_fp16"]
    same = gpu.compare(unit, Simulated(unit), 20)
    assert same.equal and same.outputs == 20 * 128 and same.first is None
    other = gpu.compare(unit, Simulated(UNITS["hopper_fp16"]), 20)
    assert not other.equal and other.first is not None and other.ours != other.theirs
    with pytest.raises(ValueError, match="blocks"):
        gpu.compare(unit, Simulated(unit), 0)
    with pytest.raises(ValueError, match="operand format of mma"):
        gpu.compare(UNITS["ampere_int8"], Simulated(unit), 1)


@pytest.mark.parametrize(
    ("form", "accumulator"), [("fp16", "fp32"), ("fp16", "fp16"), ("bf16", "fp32"), ("tf32", "fp32"), ("fp64", "fp64")]
)
def test_simulator_equals_this_machines_gpu(form, accumulator):
    if reason := gpu.unavailable():
        with pytest.raises(RuntimeError, match="no matrix unit to ask"):
            gpu.MmaBackend(form, accumulator)
        pytest.skip(reason)
    if not (generation := gpu.generation()):
        pytest.skip("no simulated units of this GPU")
    name = "ampere_fp64" if form == "fp64" else f"{generation}_{form}" + ("_fp16" if accumulator == "fp16" else "")
    unit, real = UNITS[name], gpu.MmaBackend(form, accumulator)
    assert gpu.compare(unit, real, 800).equal
    assert probes.infer_parameters(real) == probes.infer_parameters(unit)
    assert order.as_text(order.reveal_order(real, 40)) == order.as_text(order.reveal_order(unit, 40))


@pytest.mark.parametrize("form", ["e4m3", "e5m2"])
def test_fp8_by_mma_sync_equals_an_h100(form):
    if gpu.generation() != "hopper":
        pytest.skip(gpu.unavailable() or "not a Hopper GPU")
    unit, real = LegacyFp8(form), gpu.MmaBackend(form)
    assert gpu.compare(unit, real, 800).equal
    assert probes.infer_parameters(real) == probes.infer_parameters(unit)


def test_fp8_by_mma_sync_as_probed_on_an_h100():
    assert order.as_text(order.reveal_order(LegacyFp8("e5m2"), 16)) == "((0 1 4 5 8 9 12 13) 2 3 6 7 10 11 14 15)"
    inferred = probes.infer_parameters(LegacyFp8("e5m2"))
    assert (inferred.k_step, inferred.fraction_bits, inferred.rounding, inferred.non_monotonic) == (32, 62, "RN", False)
    unit, fp8 = LegacyFp8("e4m3"), UNITS["hopper_e4m3"]
    a, b = (fp8.cast(torch.randn(50, 32, generator=torch.Generator().manual_seed(i))) for i in range(2))
    exact = (a.double() * b.double()).sum(1)
    ours, theirs = (abs(u.dot(a, b, torch.zeros(50)).double() - exact).max() for u in (unit, fp8))
    assert ours < 2e-5 and theirs > 20 * ours  # 25 fractional bits beside 13
    with pytest.raises(ValueError, match="no e4m3 number"):
        unit.dot(a + 0.01, b, torch.zeros(50))
    second = torch.stack([a[0], a[1] + 0.01])[None]  # not the first row
    with pytest.raises(ValueError, match="no e4m3 number"):
        unit.mma(second, b[0].view(1, 32, 1), torch.zeros(1, 2, 1))
    with pytest.raises(ValueError, match="do not multiply"):
        unit.mma(a[None], b[None], torch.zeros(1, 50, 32))
    with pytest.raises(ValueError, match="e5m2"):
        LegacyFp8("e5m3")


# --- products on any unit ------------------------------------------------------------------------------------------


def test_matmul_on_units():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 6, 32, generator=g), torch.randn(32, 5, generator=g)
    exact = a.double() @ b.double()
    for name, bound in {"exact_fp32": 2e-6, "ampere_tf32": 1e-2, "ampere_bf16": 8e-2, "ampere_int8": 0.3}.items():
        got = matmul(a, b, name)
        assert got.shape == (2, 6, 5) and got.dtype == torch.float32
        assert 0 < (got.double() - exact).abs().max() < bound
    assert torch.equal(matmul(a, b, "ampere_fp64"), matmul(a.double(), b.double(), UNITS["ampere_fp64"]))


def test_int8_products_are_the_integers_scaled():
    g = torch.Generator().manual_seed(1)
    a, b = (torch.randint(-126, 127, s, generator=g) for s in ((7, 40), (40, 3)))
    a[0, 0], b[0, 0] = 127, -127
    assert torch.equal(matmul(a * 0.25, b * 2.0, "ampere_int8"), int_matmul(a, b).float() * 0.5)
    assert torch.equal(int_matmul(a, b), (a @ b).to(torch.int32))


def test_int32_wraps_only_when_asked():
    a = torch.full((1, 4), 2**15 - 1)
    assert int(int_matmul(a[:, :1], a[:, :1].T)) == (2**15 - 1) ** 2
    with pytest.raises(ValueError, match="wrap=True"):
        int_matmul(a, a.T)
    assert int(int_matmul(a, a.T, wrap=True)) == (4 * (2**15 - 1) ** 2 + 2**31) % 2**32 - 2**31


def test_a_network_on_a_unit_and_back():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    x = torch.randn(4, 8)
    plain = model(x)
    with on_unit(model, "exact_fp32") as changed:
        assert torch.allclose(changed(x), plain, atol=1e-6)
    with on_unit(model, "ampere_bf16"):
        rough = model(x)
    assert 1e-4 < (rough - plain).abs().max() < 0.1
    assert torch.equal(model(x), plain)
    with pytest.raises(ValueError, match="no nn"), on_unit(torch.nn.ReLU(), "exact"):
        pass


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: matmul(torch.ones(2, 3), torch.ones(4, 2), "exact"), "do not multiply"),
        (lambda: matmul(torch.full((2, 3), float("nan")), torch.ones(3, 2), "ampere_int8"), "NaN"),
        (lambda: int_matmul(torch.ones(2, 2), torch.ones(2, 2)), "integer matrices"),
        (lambda: int_matmul(torch.full((2, 2), 70000), torch.ones(2, 2, dtype=torch.int64)), "16 bits"),
    ],
)
def test_products_at_the_door(call, match):
    with pytest.raises(ValueError, match=match):
        call()
