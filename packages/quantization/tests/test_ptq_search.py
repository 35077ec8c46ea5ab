"""Sensitivities, searches, journals, costs and reports."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tensorbench.core.tasks.resnet import ResNet8
from tensorbench.quantization.front import pareto_places
from tensorbench.quantization.ptq import cost as costs
from tensorbench.quantization.ptq.calibrate import calibrate
from tensorbench.quantization.ptq.journal import Journal
from tensorbench.quantization.ptq.latency import measure_table
from tensorbench.quantization.ptq.report import evaluate_again, load_report, report
from tensorbench.quantization.ptq.search import (
    allocate,
    bisection_search,
    exhaustive,
    greedy_search,
    ilp_search,
    uniform_search,
)
from tensorbench.quantization.ptq.sensitivity import METRICS, hessian_traces, noise, order_by, sensitivity
from tensorbench.quantization.ptq.wrap import QuantModel
from tensorbench.quantization.tasks.classifiers import PatchTransformer, digits_mlp

NAMES = tuple("abcde")
BITS = (8, 4)


def additive(losses):
    """Accuracy 1 minus what each lowered layer loses, a quarter of it at eight bits."""
    share = {16: 0.0, 8: 0.25, 4: 1.0}
    return lambda config: 1 - sum(losses[name] * share[b] for name, b in config.items())


def mean_bits(config):
    return sum(config.values()) / len(config)


@pytest.mark.parametrize("seed", range(8))
def test_exhaustive_is_never_beaten_and_every_search_meets_the_target(seed):
    rng = np.random.default_rng(seed)
    losses = dict(zip(NAMES, rng.exponential(0.01, 5), strict=True))
    table = {tuple(c): float(additive(losses)(dict(zip(NAMES, c, strict=True))) + rng.normal(0, 0.003))
             for c in itertools.product((16, 8, 4), repeat=5)}  # fmt: skip
    evaluate = lambda config: table[tuple(config[n] for n in NAMES)]  # noqa: E731
    order = sorted(NAMES, key=losses.get)
    target = 0.98
    best = exhaustive(NAMES, BITS, target, evaluate, mean_bits)
    scores = {n: {8: losses[n] / 4, 4: losses[n]} for n in NAMES}
    found = [
        greedy_search(order, BITS, target, evaluate),
        bisection_search(order, BITS, target, evaluate),
        ilp_search(scores, BITS, target, evaluate, mean_bits),
        uniform_search(NAMES, BITS, target, evaluate),
    ]
    cheapest = min(mean_bits(dict(zip(NAMES, c, strict=True))) for c, a in table.items()
                   if a >= target * table[(16,) * 5])  # fmt: skip
    assert mean_bits(best.config) == pytest.approx(cheapest)
    for result in (best, *found):
        assert result.accuracy == evaluate(result.config) >= result.threshold
        assert mean_bits(result.config) >= cheapest - 1e-12


@pytest.mark.parametrize("k", range(8))
def test_bisection_finds_the_exact_prefix(k):
    names = [f"l{i}" for i in range(7)]
    # k layers of weight 1 fit below a loss of k; the next would be too many.
    evaluate = lambda config: 1 - 0.01 * sum(b == 8 for b in config.values())  # noqa: E731
    result = bisection_search(names, (8,), 1 - 0.01 * k - 1e-9, evaluate)
    assert [n for n, b in result.config.items() if b == 8] == names[:k]
    assert result.evaluations <= 3
    assert greedy_search(names, (8,), 1 - 0.01 * k - 1e-9, evaluate).config == result.config


def test_greedy_asks_layers_times_widths_and_bisection_lowers_only_what_came_down():
    evaluate = additive(dict(zip(NAMES, (0.001, 0.002, 0.004, 0.03, 0.2), strict=True)))
    greedy = greedy_search(NAMES, BITS, 0.98, evaluate)
    assert greedy.evaluations == 10
    assert greedy_search(NAMES, BITS, 0.98, evaluate, give_up=True).evaluations == 9
    assert greedy.config == {"a": 4, "b": 4, "c": 4, "d": 8, "e": 16}
    found = bisection_search(NAMES, BITS, 0.98, evaluate)
    assert found.config == greedy.config and found.evaluations <= 6


def test_an_order_for_each_width():
    evaluate = additive(dict.fromkeys(NAMES, 0.01))
    result = greedy_search({8: NAMES, 4: NAMES[::-1]}, BITS, 0.98, evaluate)
    assert [n for n in NAMES if result.config[n] == 4] == ["e"]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("find", [greedy_search, bisection_search])
def test_an_interrupted_search_goes_on(find, tmp_path):
    evaluate = additive(dict(zip(NAMES, (0.001, 0.002, 0.004, 0.03, 0.2), strict=True)))
    whole = find(NAMES, BITS, 0.98, evaluate)
    path = tmp_path / "log" / "search.json"
    asked = []

    def interrupted(after):
        def call(config):
            if len(asked) == after:
                raise Stopped
            asked.append(config)
            return evaluate(config)

        return call

    for after in (2, 5):
        with pytest.raises(Stopped):
            find(NAMES, BITS, 0.98, interrupted(after), journal=Journal(path, {"seed": 1}))
        assert len(json.loads(path.read_text())["evaluations"]) == after
    resumed = find(NAMES, BITS, 0.98, interrupted(None), journal=Journal(path, {"seed": 1}))
    assert resumed == whole
    assert len(asked) == len(whole.visited)  # nothing was asked twice
    assert [p.name for p in path.parent.iterdir()] == ["search.json"]
    with pytest.raises(ValueError, match="is about"):
        Journal(path, {"seed": 2})
    path.write_text("{")
    with pytest.raises(ValueError, match="no journal"):
        Journal(path)


def test_a_write_that_fails_leaves_the_old_journal(tmp_path, monkeypatch):
    path = tmp_path / "search.json"
    journal = Journal(path)
    journal({"a": 8}, lambda c: 1.0)
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        journal({"a": 4}, lambda c: 0.5)
    assert path.read_text() == before and list(tmp_path.iterdir()) == [path]


def test_allocation_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(10):
        scores, prices = rng.exponential(size=(4, 3)), rng.exponential(size=(4, 3))
        budget = float(prices.mean(1).sum())
        picked = allocate(scores, prices, budget)
        rows = np.arange(4)
        assert prices[rows, picked].sum() <= budget * (1 + 1e-6)
        best = min(scores[rows, c].sum() for c in map(list, itertools.product(range(3), repeat=4))
                   if prices[rows, c].sum() <= budget)  # fmt: skip
        assert scores[rows, picked].sum() == pytest.approx(best, rel=1e-6)


def test_pareto_against_its_definition():
    points = [tuple(p) for p in np.random.default_rng(0).integers(0, 6, (40, 2))]
    front = [points[i] for i in pareto_places(points)]
    beaten = lambda p: any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)  # noqa: E731
    assert front == sorted({p for p in points if not beaten(p)})


def bench(kind=digits_mlp, bits=(16, 8, 4, 2)):
    torch.manual_seed(0)
    shape = {digits_mlp: (8, 8), ResNet8: (1, 14, 14), PatchTransformer: (28, 28)}[kind]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, *shape, generator=generator)
    model = QuantModel.wrap(kind().eval(), x[:1], bits)
    calibrate(model, [x])
    return model, (x, torch.randint(0, 10, (16,), generator=generator))


@pytest.mark.parametrize("kind", [digits_mlp, ResNet8, PatchTransformer])
def test_noise_over_all_draws_at_once_is_noise_draw_by_draw(kind):
    model, batch = bench(kind)
    one, other = (
        noise(model, batch, (4,), generator=torch.Generator().manual_seed(3), draws=3, vectorised=v)
        for v in (True, False)
    )
    for name in model.names:
        assert one[name][4] == pytest.approx(other[name][4], rel=1e-3, abs=2e-6)
    assert max(abs(v[4]) for v in one.values()) > 1e-4


class Quadratic(nn.Module):
    """Half the sum of c w², whatever comes in: Hessian c on the weight."""

    def __init__(self, curvature):
        super().__init__()
        self.one, self.two = nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)
        self.curvature = curvature

    def forward(self, x):
        # Rows of the identity: the layers' outputs are their weights.
        a, b = self.one(x), self.two(x)
        return 0.5 * (self.curvature[0] * a.square().sum() + self.curvature[1] * b.square().sum())


def test_hessian_trace_is_exact_on_a_quadratic_and_orders_as_the_true_loss():
    torch.manual_seed(0)
    model = QuantModel.wrap(Quadratic((5.0, 0.5)), torch.eye(8), (4,))
    calibrate(model, [torch.eye(8)])
    batch = (torch.eye(8), torch.zeros(8))
    first = lambda out, y: out  # noqa: E731
    traces = hessian_traces(model, batch, generator=torch.Generator().manual_seed(0), loss=first, draws=2)
    assert traces["one"] == (pytest.approx(5.0 * 32), 32) and traces["two"] == (pytest.approx(0.5 * 32), 32)
    scores = sensitivity("hessian", model, batch, (4,), generator=torch.Generator().manual_seed(0), loss=first)
    # An isotropic shift of the same size raises the loss by half the curvature times its square.
    with torch.no_grad():
        shift = torch.randn(4, 8)
        rises = {}
        for name in ("one", "two"):
            weight = model.layer(name).inner.weight
            up, down = (
                float(model(batch[0])) for s in (1, -1) if weight.add_(s * shift if s == 1 else -2 * shift) is not None
            )
            weight.add_(shift)
            rises[name] = (up + down) / 2 - float(model(batch[0]))
    assert order_by(scores, (4,))[4] == tuple(sorted(rises, key=rises.get)) == ("two", "one")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [digits_mlp, PatchTransformer])
def test_every_sensitivity_scores_every_layer_and_leaves_the_model_as_it_was(metric, kind):
    model, batch = bench(kind)
    model.set_config(8)
    scores = sensitivity(metric, model, batch, (8, 2), generator=torch.Generator().manual_seed(0))
    assert tuple(scores) == model.names and all(np.isfinite(list(v.values())).all() for v in scores.values())
    assert set(model.config.values()) == {8} and all(model.layer(n).noise is None for n in model.names)
    if metric in ("quant_error", "sqnr"):
        assert all(v[2] > v[8] for v in scores.values())


def test_the_loss_score_is_the_increase_of_the_loss():
    model, (x, y) = bench()
    score = sensitivity("loss", model, (x, y), (2,))["3"][2]
    with torch.no_grad():
        plain = float(F.cross_entropy(model(x), y))
        model.set_config({"3": 2})
        assert score == pytest.approx(float(F.cross_entropy(model(x), y)) - plain, abs=1e-6)


def test_costs():
    model, _ = bench()
    layers, names = model.layers(), model.names
    at = lambda b: dict.fromkeys(names, b)  # noqa: E731
    assert costs.relative(costs.model_bytes, layers, at(16)) == 1
    assert costs.relative(costs.model_bytes, layers, at(8)) == 0.5
    assert costs.relative(costs.bit_operations, layers, at(4)) == 1 / 16
    assert costs.bit_operations(layers[:1], {names[0]: 8}) == 64 * 96 * 8 * 8
    assert costs.mean_weight_bits(layers, at("nvfp4")) == 4.5
    assert costs.energy(layers, at(8), {8: 2.0}) == 2 * sum(i.macs for i in layers)


def test_latency_pays_for_every_border():
    model, _ = bench()
    layers, names = model.layers(), model.names
    roofline = costs.Roofline({16: 1e9, 8: 2e9, 4: 4e9}, bandwidth=1e30)
    table = costs.LatencyTable.of_roofline(roofline, layers, (16, 8, 4))
    plain = costs.latency(layers, dict.fromkeys(names, 16), table)
    assert plain == pytest.approx(sum(i.macs for i in layers) / 1e9)
    table = costs.LatencyTable(table.seconds, dict.fromkeys(names, 1.0))
    mixed = dict.fromkeys(names, 16) | {names[1]: 8}
    assert costs.latency(layers, mixed, table) == pytest.approx(2.0, abs=1e-3)
    assert costs.latency(layers, dict.fromkeys(names, 8), table) == pytest.approx(1.0, abs=1e-3)
    slow = costs.Roofline({8: 1e30}, bandwidth=10.0)
    assert slow.seconds(layers[0], 8) == pytest.approx((64 * 96 + 64 + 2 * 96) / 10)


def test_a_measured_table_has_every_layer_and_width():
    model, _ = bench()
    table = measure_table(model.layers()[:2], (16, 8, 4), 32, repeats=1, min_seconds=0)
    assert set(table.seconds) == set(model.names[:2])
    assert all(row[8] == row[4] > 0 and row[16] > 0 for row in table.seconds.values())
    with pytest.raises(ValueError, match="know no 'nvfp4'"):
        measure_table(model.layers(), ("nvfp4",), 32)


def test_a_report_survives_the_file_and_is_evaluated_again(tmp_path):
    model, (x, y) = bench()

    def evaluate(config):
        with torch.no_grad(), model.at(config):
            return float((model(x).argmax(1) == y).float().mean()) + 1

    result = greedy_search(model.names, (8, 4), 0.9, evaluate)
    saved = report(model, result)
    saved.save(tmp_path / "config.json")
    again = load_report(tmp_path / "config.json")
    assert again == saved and evaluate_again(model, again, evaluate) == 0
    assert all(name in saved.text() for name in model.names)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="no report"):
        load_report(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda f: greedy_search(NAMES, BITS, 0, f), "target 0"),
        (lambda f: greedy_search(NAMES, BITS, 1.2, f), "target 1.2"),
        (lambda f: greedy_search((), BITS, 0.9, f), "every layer once"),
        (lambda f: greedy_search(("a", "a"), BITS, 0.9, f), "every layer once"),
        (lambda f: bisection_search(NAMES, (), 0.9, f), "no widths"),
        (lambda f: bisection_search({8: NAMES}, BITS, 0.9, f), "none for 4 bits"),
        (lambda f: bisection_search(NAMES, BITS, 0.9, lambda c: np.ones(2)), "one number"),
        (lambda f: bisection_search(NAMES, BITS, 0.9, lambda c: float("nan")), "finite"),
        (lambda f: bisection_search(NAMES, BITS, 1.0, f, reference=2.0), "already misses"),
        (lambda f: exhaustive([*NAMES, "f", "g"], BITS, 0.9, f, mean_bits), "takes 1 to 6"),
        (lambda f: allocate(np.ones((2, 2)), np.ones((2, 2)), 1.0), "below the cheapest"),
        (lambda f: sensitivity("hesian", *bench(), (4,)), "did you mean 'hessian'"),
        (lambda f: sensitivity("loss", *bench(), (5,)), "unknown width '5'"),
        (lambda f: costs.model_bytes(bench()[0].layers(), {"x": 8}), "unknown layer 'x'"),
        (lambda f: costs.model_bytes(bench()[0].layers(), {}), "says nothing"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call(additive(dict.fromkeys(NAMES, 0.01)))
