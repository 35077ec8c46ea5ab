"""Claims: how they are written, and each verdict on records with known answers."""

import dataclasses
import json
import math
import re
import types

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy import stats

from tensorbench.core.claims import Claim
from tensorbench.core.claims.decide import COLUMNS, decide, ledger
from tensorbench.core.claims.models import Verdict
from tensorbench.core.records import Paths
from tensorbench.core.report import write_ledger

METRICS = {"rmse": "minimize", "score": "maximize", "exact": "maximize"}


def claim(**form):
    extra = {key: form.pop(key) for key in ("deterministic", "note", "paper_value") if key in form}
    return Claim(id="p.claim", paper="p", says="It is better.", **form, **extra)


def frame(values, metric="rmse", **columns):
    """Records from {(dataset, method): [value per seed]}; ``columns`` adds {name: {dataset or method: value}}."""
    rows = []
    for (dataset, method), per_seed in values.items():
        for seed, value in enumerate(per_seed):
            row = {"dataset": dataset, "method": method, "seed": seed, "trial": None, metric: value, "_history": {}}
            for name, by in columns.items():
                row[name.replace("__", ".")] = by.get(dataset, by.get(method))
            rows.append(row)
    return pd.DataFrame(rows)


def with_history(values, metric="rmse"):
    """Records from {(dataset, method, seed): {step: value}}."""
    rows = [
        {"dataset": d, "method": m, "seed": s, metric: list(points.values())[-1],
         "_history": {metric: (list(points), list(points.values()))}}
        for (d, m, s), points in values.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


RATIO = {"metric": "rmse", "of": "ours", "over": "peer"}


# --- how a claim is written -------------------------------------------------------------------------------------------


def test_a_claim_knows_its_form_bound_and_names():
    c = claim(ratio=RATIO | {"over": ["a", "b"], "datasets": ["x", "y"], "at_most": 0.75})
    assert (c.form, c.bound) == ("ratio", "≤ 0.75")
    assert (c.methods(), c.dataset_names(), c.metric_names()) == ({"ours", "a", "b"}, {"x", "y"}, {"rmse"})
    assert claim(value={"metric": "rmse", "of": "m", "at_least": 2}).bound == "≥ 2"
    assert claim(slope={"metric": "t", "of": "m", "against": "n", "between": [0.8, 1.2]}).bound == "in [0.8, 1.2]"
    assert claim(holds={"metric": "exact"}).bound == "true in every run"
    custom = claim(custom={"function": "gain", "unit": "dB", "at_least": 3})
    assert (custom.bound, custom.methods(), custom.metric_names()) == ("≥ 3 dB", set(), set())


def test_a_bound_in_yaml_1_1_exponent_spelling_is_a_number():
    assert claim(value={"metric": "e", "of": "m", "at_most": "1e-10"}).spec.at_most == 1e-10


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({}, "needs exactly one form .* it has none"),
        ({"holds": {"metric": "m"}, "value": {"metric": "m", "of": "a", "at_most": 1}}, "it has value and holds"),
        ({"value": {"metric": "m", "of": "a"}}, "exactly one bound is needed.*none is given"),
        ({"value": {"metric": "m", "of": "a", "at_most": 1, "at_least": 0}}, "`at_most` and `at_least` are given"),
        ({"value": {"metric": "m", "of": "a", "between": [2, 1]}}, "low < high; got \\[2, 1\\]"),
        ({"value": {"metric": "m", "of": "a", "at_most": True}}, "got the boolean true"),
        ({"value": {"metric": "m", "of": "a", "at_most": math.nan}}, "finite"),
        ({"value": {"metric": "m", "of": "a", "at_most": 1, "dataset": "x", "datasets": ["y"]}}, "both `dataset` and"),
        ({"value": {"metric": "m", "of": "a", "at_most": 1, "datasets": ["y", "y"]}}, "'y' more than once"),
        ({"value": {"metric": "m", "of": "a", "at_most": 1, "datasets": []}}, "at least 1 item"),
        ({"value": {"metric": "m", "of": "a", "at_most": 1, "statistic": "max"}}, "needs `steps: true`"),
        ({"value": {"metric": "m", "of": "a", "at_most": 1, "steps": True, "where": {"step": 3}}}, "keep one of them"),
        ({"value": {"metric": "m", "of": "a", "at_most": 1, "datset": "x"}}, "Extra inputs"),
        ({"ratio": RATIO | {"over": "ours", "at_most": 1}}, "cannot be compared with itself"),
        ({"ratio": RATIO | {"over": ["a", "a"], "at_most": 1}}, "'a' more than once"),
        ({"ratio": RATIO | {"at_most": 0}}, "a ratio is positive.*≤ 0"),
        ({"custom": {"function": "not a name", "at_most": 1}}, "pattern"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused_with_the_reason(form, message):
    with pytest.raises(ValidationError, match=message):
        claim(**form)


# --- verdicts on known answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "verdict"),
    [
        ({"at_most": 0.6}, "reproduced"), ({"at_most": 0.5}, "inconclusive"), ({"at_most": 0.4}, "not reproduced"),
        ({"at_least": 0.4}, "reproduced"), ({"at_least": 0.5}, "inconclusive"), ({"at_least": 0.6}, "not reproduced"),
        ({"between": [0.4, 0.6]}, "reproduced"), ({"between": [0.499, 0.501]}, "inconclusive"),
        ({"between": [0.1, 0.2]}, "not reproduced"), ({"between": [0.7, 0.8]}, "not reproduced"),
    ],
)  # fmt: skip
def test_the_whole_interval_decides(bound, verdict):
    records = frame({("d", "ours"): [0.49, 0.5, 0.51]})
    result = decide(claim(value={"metric": "rmse", "of": "ours", **bound}), records, METRICS)
    assert result.verdict == verdict
    half = stats.t.ppf(0.975, 2) * 0.01 / 3**0.5
    assert (result.measured, result.low, result.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert result.seeds == 3


def test_a_value_is_averaged_over_datasets_within_a_seed():
    # Seed means are 2 and 4 whatever the datasets are: the spread between datasets is no uncertainty over seeds.
    records = frame({("x", "ours"): [1.0, 3.0], ("y", "ours"): [3.0, 5.0]})
    result = decide(claim(value={"metric": "rmse", "of": "ours", "at_most": 9}), records, METRICS)
    expected = stats.ttest_1samp([2.0, 4.0], 0).confidence_interval()
    assert (result.measured, result.low, result.high) == pytest.approx((3, expected.low, expected.high))


def test_a_ratio_is_the_paired_geometric_mean():
    peer = np.array([1.0, 10.0, 100.0])  # seeds differ wildly, the ratio hardly
    factors = np.array([0.48, 0.5, 0.52])
    records = frame({("d", "ours"): peer * factors, ("d", "peer"): peer})
    result = decide(claim(ratio=RATIO | {"at_most": 0.6}), records, METRICS)
    expected = stats.ttest_1samp(np.log(factors), 0).confidence_interval()
    assert result.verdict == "reproduced"
    assert result.measured == pytest.approx(stats.gmean(factors))
    assert (result.low, result.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))


def test_pairing_is_by_seed_not_by_row():
    records = frame({("d", "ours"): [1.0, 2.0, 3.0], ("d", "peer"): [2.0, 4.0, 6.0]}).sample(frac=1, random_state=3)
    result = decide(claim(ratio=RATIO | {"at_most": 0.5}), records, METRICS)
    assert (result.verdict, result.low, result.high) == ("reproduced", pytest.approx(0.5), pytest.approx(0.5))


def test_a_difference_is_paired_too():
    records = frame({("d", "ours"): [1.0, 11.0, 21.1], ("d", "peer"): [2.0, 12.0, 22.0]})
    result = decide(claim(difference=RATIO | {"at_most": 0}), records, METRICS)
    assert (result.verdict, result.measured) == ("reproduced", pytest.approx(np.mean([-1, -1, -0.9])))


@pytest.mark.parametrize(("metric", "best"), [("rmse", "a"), ("score", "b")])
def test_the_best_baseline_is_chosen_by_the_metrics_direction(metric, best):
    values = {("d", "ours"): [1.0, 1.0], ("d", "a"): [2.0, 2.0], ("d", "b"): [4.0, 4.0]}
    spec = {"metric": metric, "of": "ours", "over": ["a", "b"], "at_least": 0.01}
    result = decide(claim(ratio=spec), frame(values, metric), METRICS)
    assert result.measured == pytest.approx(0.5 if best == "a" else 0.25)
    assert result.note == f"best of the baselines: {best}"


def test_the_best_baseline_is_chosen_for_each_dataset_by_its_mean_and_then_paired():
    values = {
        ("x", "ours"): [1.0, 1.0], ("x", "a"): [2.0, 2.0], ("x", "b"): [1.9, 3.0],
        ("y", "ours"): [1.0, 1.0], ("y", "a"): [9.0, 9.0], ("y", "b"): [8.0, 8.0],
    }  # fmt: skip
    result = decide(claim(ratio=RATIO | {"over": ["a", "b"], "at_most": 1}), frame(values), METRICS)
    assert result.measured == pytest.approx(math.sqrt(1 / 2 * 1 / 8))
    assert result.note == "best of the baselines: a on x, b on y"


def test_no_spread_collapses_the_interval_to_a_point():
    result = decide(
        claim(value={"metric": "rmse", "of": "ours", "at_most": 0.3}), frame({("d", "ours"): [0.3, 0.3]}), METRICS
    )
    assert (result.verdict, result.measured, result.low, result.high) == ("reproduced", 0.3, 0.3, 0.3)


def test_one_seed_of_something_random_is_inconclusive_however_far_from_the_bound():
    for bound in ({"at_most": 100}, {"at_least": 100}):
        result = decide(claim(value={"metric": "rmse", "of": "ours", **bound}), frame({("d", "ours"): [1.0]}), METRICS)
        assert (result.verdict, result.measured, result.low, result.high) == ("inconclusive", 1.0, None, None)
        assert "one seed" in result.note


def test_a_deterministic_claim_is_decided_by_its_value():
    spec = {"metric": "rmse", "of": "ours", "at_most": 0.5}
    for values in ([0.5], [0.5, 0.5 * (1 + 1e-12)]):
        result = decide(claim(value=spec, deterministic=True), frame({("d", "ours"): values}), METRICS)
        assert (result.verdict, result.measured, result.low, result.seeds) == ("reproduced", 0.5, None, len(values))
    result = decide(claim(value=spec, deterministic=True), frame({("d", "ours"): [0.6]}), METRICS)
    assert result.verdict == "not reproduced"
    result = decide(claim(value=spec, deterministic=True), frame({("d", "ours"): [0.4, 0.41]}), METRICS)
    assert (result.verdict, result.measured) == ("not measured", None)
    assert "its seeds give 0.4 … 0.41" in result.note


def test_holds_wants_every_run_true():
    spec = {"metric": "exact", "of": ["a", "b"]}
    good = frame({("x", "a"): [True, True], ("x", "b"): [True, True], ("x", "other"): [False, False]}, "exact")
    result = decide(claim(holds=spec), good, METRICS)
    assert (result.verdict, result.measured, result.low, result.seeds) == ("reproduced", 1.0, None, 2)
    bad = frame({("x", "a"): [True, False], ("x", "b"): [True, True]}, "exact")
    result = decide(claim(holds=spec), bad, METRICS)
    assert (result.verdict, result.measured) == ("not reproduced", 0.75)
    assert "false in 1 of 4 runs: x/a seed 1" in result.note
    result = decide(claim(holds=spec), frame({("x", "a"): [0.7], ("x", "b"): [1.0]}, "exact"), METRICS)
    assert (result.verdict, "not a boolean" in result.note) == ("not measured", True)


def test_tuning_runs_are_no_evidence():
    records = frame({("d", "ours"): [1.0, 1.0]})
    trial = frame({("d", "ours"): [50.0]}).assign(trial=3)
    both = pd.concat([records, trial], ignore_index=True)
    result = decide(claim(value={"metric": "rmse", "of": "ours", "at_most": 2}), both, METRICS)
    assert (result.verdict, result.measured, result.seeds) == ("reproduced", 1.0, 2)


# --- slopes -----------------------------------------------------------------------------------------------------------


def test_slope_against_a_parameter_of_the_datasets():
    sizes = {"s1": 10, "s2": 20, "s3": 40}
    rng = np.random.default_rng(0)
    values = {(d, "ours"): [n**1.5 * (1 + s) * rng.lognormal(0, 0.01) for s in range(3)] for d, n in sizes.items()}
    records = frame(values, dataset__points=sizes)
    for against in ("points", "dataset.points"):
        spec = {"metric": "rmse", "of": "ours", "against": against, "between": [1.3, 1.7]}
        result = decide(claim(slope=spec), records, METRICS)
        assert (result.verdict, result.seeds) == ("reproduced", 3)
        assert result.low < 1.5 < result.high or result.measured == pytest.approx(1.5, abs=0.05)


def test_slope_against_a_parameter_of_the_methods():
    ranks = {"r2": 2, "r4": 4, "r8": 8}
    values = {("d", m): [100 * r**-2.0, 7 * r**-2.0] for m, r in ranks.items()}
    spec = {"metric": "rmse", "of": list(ranks), "against": "rank", "at_most": -1.9}
    result = decide(claim(slope=spec), frame(values, method__rank=ranks), METRICS)
    assert (result.verdict, result.measured) == ("reproduced", pytest.approx(-2))


def test_one_seed_of_a_slope_shows_the_fits_interval_and_decides_nothing_unless_deterministic():
    steps = [1, 2, 4, 8, 16]
    noise = np.random.default_rng(1).lognormal(0, 0.05, 5)
    records = with_history({("d", "ours", 0): {k: k**2 * e for k, e in zip(steps, noise, strict=True)}})
    spec = {"metric": "rmse", "of": "ours", "against": "step", "between": [1.5, 2.5]}
    result = decide(claim(slope=spec), records, METRICS)
    fit = stats.linregress(np.log(steps), np.log(np.square(steps) * noise))
    half = stats.t.ppf(0.975, 3) * fit.stderr
    assert (result.verdict, result.seeds) == ("inconclusive", 1)
    assert (result.low, result.high) == pytest.approx((fit.slope - half, fit.slope + half))
    assert result.note == "one seed of a random quantity decides nothing; the interval is the fit's own"
    far = decide(claim(slope=spec | {"between": [8, 9]}), records, METRICS)
    assert far.verdict == "inconclusive"
    exact = decide(claim(slope=spec, deterministic=True), records, METRICS)
    assert (exact.verdict, exact.low, exact.note) == ("reproduced", None, "")
    far = decide(claim(slope=spec | {"between": [8, 9]}, deterministic=True), records, METRICS)
    assert far.verdict == "not reproduced"


@pytest.mark.parametrize(
    ("records", "against", "reason"),
    [
        (frame({("s1", "ours"): [1.0], ("s2", "ours"): [2.0]}, dataset__points={"s1": 1, "s2": 2}), "point", "did you"),
        (
            frame({("s1", "ours"): [1.0], ("s2", "ours"): [0.0]}, dataset__points={"s1": 1, "s2": 2}),
            "points",
            "positive",
        ),
        (frame({("s1", "ours"): [1.0], ("s2", "ours"): [2.0]}, dataset__points={"s1": 3, "s2": 3}), "points", "2 diff"),
        (
            frame({("s1", "ours"): [1.0], ("s2", "ours"): [2.0]}, dataset__points={"s1": 3, "s2": "a"}),
            "points",
            "not a n",
        ),
        (frame({("s1", "ours"): [1.0], ("s2", "ours"): [2.0]}), "step", "no history"),
        (frame({("s", "ours"): [1.0]}, dataset__n={"s": 1}, method__n={"s": 2}), "n", "write dataset.n or method.n"),
    ],
)
def test_a_slope_that_cannot_be_fitted_says_why(records, against, reason):
    result = decide(claim(slope={"metric": "rmse", "of": "ours", "against": against, "at_most": 1}), records, METRICS)
    assert result.verdict == "not measured"
    assert reason in result.note


# --- histories --------------------------------------------------------------------------------------------------------


def test_where_takes_the_history_at_a_step():
    records = with_history({("d", "ours", s): {100: 5.0 + s, 200: 1.0} for s in range(2)})
    spec = {"metric": "rmse", "of": "ours", "at_most": 9}
    assert decide(claim(value=spec | {"where": {"step": 100}}), records, METRICS).measured == 5.5
    assert decide(claim(value=spec), records, METRICS).measured == 1.0
    result = decide(claim(value=spec | {"where": {"step": 150}}), records, METRICS)
    assert (result.verdict, "no step 150 in d/ours seed 0; its steps: 100, 200" in result.note) == (
        "not measured",
        True,
    )


@pytest.mark.parametrize(
    ("statistic", "expected"), [("mean", (2 * 4 * 9) ** (1 / 3)), ("median", 4), ("max", 9), ("min", 2)]
)
def test_steps_are_pairs_of_their_own(statistic, expected):
    ours, peer = {1: 2.0, 2: 12.0, 3: 90.0}, {1: 1.0, 2: 3.0, 3: 10.0}
    records = with_history({("d", "ours", 0): ours, ("d", "peer", 0): peer})
    spec = RATIO | {"steps": True, "statistic": statistic, "at_most": 10}
    result = decide(claim(ratio=spec, deterministic=True), records, METRICS)
    assert (result.verdict, result.measured) == ("reproduced", pytest.approx(expected))


def test_over_steps_the_best_baseline_is_that_of_each_step():
    records = with_history(
        {("d", "ours", 0): {1: 1.0, 2: 1.0}, ("d", "a", 0): {1: 2.0, 2: 8.0}, ("d", "b", 0): {1: 6.0, 2: 4.0}}
    )
    spec = RATIO | {"over": ["a", "b"], "steps": True, "statistic": "max", "at_most": 1}
    result = decide(claim(ratio=spec, deterministic=True), records, METRICS)
    assert result.measured == pytest.approx(0.5)
    assert result.note == "best of the baselines: a or b"


def test_steps_that_do_not_pair_are_no_pairs():
    records = with_history({("d", "ours", 0): {1: 1.0, 2: 1.0}, ("d", "peer", 0): {1: 1.0, 3: 1.0}})
    result = decide(claim(ratio=RATIO | {"steps": True, "at_most": 2}), records, METRICS)
    assert (result.verdict, "steps do not pair" in result.note) == ("not measured", True)


# --- functions --------------------------------------------------------------------------------------------------------


def _custom(function, records, **extra):
    spec = {"function": "gain", "at_least": 1} | extra.pop("spec", {})
    module = types.SimpleNamespace(gain=function)
    return decide(claim(custom=spec, **extra), records, METRICS, module=module, missing=extra.pop("missing", {}))


def test_a_custom_claim_takes_one_value_per_seed():
    records = frame({("d", "ours"): [2.0, 2.1, 2.2]})
    result = _custom(lambda r: r.sort_values("seed")["rmse"].to_numpy(), records)
    assert (result.verdict, result.measured, result.seeds) == ("reproduced", pytest.approx(2.1), 3)
    assert _custom(lambda r: 2.0, records, deterministic=True).verdict == "reproduced"
    assert _custom(lambda r: [2.0] * 3, records, deterministic=True).verdict == "reproduced"
    assert _custom(lambda r: 2.0, frame({("d", "ours"): [2.0]})).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("returned", "deterministic", "reason"),
    [
        (2.0, False, r"one value for all needs `deterministic: true`\); it returned 1 value for 3 seeds"),
        ([2.0, 2.1], False, "one value per seed; it returned 2 values for 3 seeds"),
        ([2.0, 2.0], True, "it returned 2 values for 3 seeds"),
        ([2.0] * 4, False, "it returned 4 values for 3 seeds"),
        ([], True, "one value per seed"),
    ],
)
def test_a_custom_function_must_return_as_many_values_as_there_are_seeds(returned, deterministic, reason):
    result = _custom(lambda r: returned, frame({("d", "ours"): [2.0, 2.1, 2.2]}), deterministic=deterministic)
    assert (result.verdict, result.measured) == ("not measured", None)
    assert re.search(reason, result.note)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda r: 1 / 0, "raised ZeroDivisionError"), (lambda r: [], "one value per seed"), (None, "no function gain"),
        (lambda r: [1.0, math.nan], "returned nan"), (lambda r: np.ones((2, 2)), "shape \\(2, 2\\)"),
        (lambda r: "much", "raised ValueError"),
    ],
)  # fmt: skip
def test_a_custom_function_that_fails_is_a_reason_not_a_crash(function, reason):
    result = _custom(function, frame({("d", "ours"): [2.0]}))
    assert result.verdict == "not measured"
    assert re.search(reason, result.note)


def test_a_custom_claim_is_not_asked_while_a_run_is_missing_unless_it_does_not_need_it():
    records = frame({("d", "ours"): [2.0, 2.0]})
    missing = {"d/peer": "failed: ValueError: rank"}
    module = types.SimpleNamespace(gain=lambda r: r["rmse"])
    spec = {"function": "gain", "at_least": 1}
    result = decide(claim(custom=spec), records, METRICS, module=module, missing=missing)
    assert (result.verdict, result.note) == ("not measured", "d/peer: failed: ValueError: rank")
    assert (
        decide(claim(custom=spec | {"of": "ours"}), records, METRICS, module=module, missing=missing).verdict
        == "reproduced"
    )


# --- missing and broken data: never a verdict -------------------------------------------------------------------------

GOOD = {("x", "ours"): [1.0, 1.0], ("x", "peer"): [2.0, 2.0], ("y", "ours"): [1.0, 1.0], ("y", "peer"): [2.0, 2.0]}


def _without(*keys, **changes):
    return frame({key: value for key, value in (GOOD | changes.get("put", {})).items() if key not in keys})


@pytest.mark.parametrize(
    ("records", "missing", "reason"),
    [
        (pd.DataFrame(), {}, "no records at this scale"),
        (pd.DataFrame(columns=["dataset", "method", "seed", "trial"]), {}, "no records at this scale"),
        (pd.DataFrame(), {"x/ours": "not run", "x/peer": "not run"}, "x/ours, x/peer: not run"),
        (_without(("y", "peer")), {"y/peer": "failed: ValueError: rank 12"}, "y/peer: failed: ValueError: rank 12"),
        (_without(("y", "peer")), {}, "y/peer: no record at this scale"),
        (_without(("y", "peer"), ("y", "ours")), {"y/ours": "dataset y skipped: offline", "y/peer": "not run"},
         "y/ours: dataset y skipped: offline; y/peer: not run"),
        (_without(("y", "peer")), {"peer": "failed: MemoryError"}, "failed: MemoryError"),
        (_without(("y", "peer")), {"y": "dataset y skipped"}, "dataset y skipped"),
        (frame(GOOD, "rmsee"), {}, "no run logs it: unknown metric 'rmse'; did you mean 'rmsee'?"),
        (_without(put={("y", "peer"): [2.0, math.nan]}), {}, "rmse is NaN or not logged in y/peer seed 1"),
        (_without(put={("y", "peer"): [2.0, math.inf]}), {}, "rmse is not finite in y/peer seed 1"),
        (frame({key: [math.nan] * 2 for key in GOOD}), {}, "NaN or not logged in any of the 8 runs"),
        (_without(put={("y", "peer"): [2.0]}), {}, "the seeds do not pair: x/ours has 0, 1, y/peer has 0"),
        (_without(put={("x", "ours"): [1.0, -1.0]}), {}, "a ratio needs positive values; rmse is -1 in x/ours seed 1"),
        (_without(put={("x", "ours"): [1.0, 0.0]}), {}, "a ratio needs positive values"),
        (frame(GOOD).assign(rmse="big"), {}, "rmse is not a number"),
        (pd.concat([frame(GOOD), frame({("x", "ours"): [1.0]})]), {}, "x/ours has several records of seed 0"),
    ],
)  # fmt: skip
def test_no_verdict_is_drawn_from_missing_or_broken_data(records, missing, reason):
    result = decide(claim(ratio=RATIO | {"at_most": 100}, note="Known."), records, METRICS, missing=missing)
    assert (result.verdict, result.measured, result.low, result.high) == ("not measured", None, None, None)
    assert reason in result.note
    assert result.note.endswith("; Known.")


def test_what_a_claim_does_not_need_may_be_missing_or_broken():
    records = _without(("y", "peer"), put={("x", "other"): [math.nan, math.nan]})
    missing = {"y/peer": "failed: ValueError", "z/ours": "dataset z skipped"}
    result = decide(claim(ratio=RATIO | {"dataset": "x", "at_most": 1}), records, METRICS, missing=missing)
    assert result.verdict == "reproduced"


def test_all_datasets_means_also_those_that_were_skipped():
    missing = {"z/ours": "dataset z skipped: offline", "z/peer": "dataset z skipped: offline"}
    result = decide(claim(ratio=RATIO | {"at_most": 1}), frame(GOOD), METRICS, missing=missing)
    assert (result.verdict, result.note) == ("not measured", "z/ours, z/peer: dataset z skipped: offline")


# --- the ledger -------------------------------------------------------------------------------------------------------


def test_the_ledger_shows_the_whole_field():
    papers = {"q": {"package": "a", "title": "Q, a paper"}, "p": types.SimpleNamespace(package="b", title="P")}
    c = claim(value={"metric": "rmse", "of": "ours", "at_most": 1}, paper_value=0.4, note="Tried.")
    table = ledger([decide(c, frame({("d", "ours"): [0.5, 0.5]}), METRICS)], papers)
    assert list(table.columns) == COLUMNS
    assert list(table["verdict"]) == ["not implemented yet", "reproduced"]
    assert list(table["paper"]) == ["q", "p"]
    assert table.loc[0, "says"] == "Q, a paper"
    assert table.loc[1, ["claim", "package", "seeds", "paper_value", "note"]].tolist() == [
        "p.claim",
        "b",
        2,
        0.4,
        "Tried.",
    ]
    assert math.isnan(table.loc[0, "measured"])


def test_the_ledger_file_keeps_every_digit_and_says_what_the_paper_prints(tmp_path):
    tiny = Verdict(
        "p.tiny", "p", "Exact.", "value", "≤ 1e-11", "reproduced", 6e-15, -1.234567890123456e-15, 9.996e-5, 5
    )
    absent = Verdict("p.absent", "p", "Later.", "value", "≤ 1", "not measured")
    experiment = types.SimpleNamespace(key="b/e")
    papers = {"p": {"package": "b", "title": "P"}, "q": {"package": "b", "title": "Q"}}
    workspace = types.SimpleNamespace(scale="desk", experiments={"b/e": experiment}, papers=papers)
    collected = Paths(tmp_path, "desk").collected("b/e", ".claims.json")
    collected.parent.mkdir(parents=True)
    collected.write_text(json.dumps([dataclasses.asdict(verdict) for verdict in (tiny, absent)]))
    write_ledger(workspace, tmp_path)
    text = Paths(tmp_path, "desk").ledger(".json").read_text()
    first, second, third = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (first["measured"], first["low"], first["high"], first["seeds"]) == (6e-15, tiny.low, tiny.high, 5)
    assert (first["measured_text"], first["interval_text"]) == ("6.00×10⁻¹⁵", "[−1.23×10⁻¹⁵, 1.00×10⁻⁴]")
    for row, verdict in ((second, "not measured"), (third, "not implemented yet")):
        assert (row["verdict"], row["measured"], row["low"], row["paper_value"]) == (verdict, None, None, None)
        assert (row["measured_text"], row["interval_text"]) == ("–", "")
    table = pd.read_csv(Paths(tmp_path, "desk").ledger(), float_precision="round_trip")
    assert table.loc[0, ["measured", "low", "high"]].tolist() == [6e-15, tiny.low, tiny.high]


def test_an_empty_field_has_an_empty_ledger():
    assert list(ledger([], {}).columns) == COLUMNS


def test_ten_seeds_or_more_use_the_bootstrap_and_keep_their_verdict():
    values = np.random.default_rng(5).exponential(size=25)
    result = decide(
        claim(value={"metric": "rmse", "of": "ours", "at_most": 5}), frame({("d", "ours"): values}), METRICS
    )
    assert result.verdict == "reproduced"
    assert result.high - result.measured > result.measured - result.low  # skewed as the values are
