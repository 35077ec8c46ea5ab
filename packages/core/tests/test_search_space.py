"""Search spaces: the same draws for the same seed, within bounds, fair, and extended rather than changed."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from tensorbench.core.search_space import draw

SPACE = {
    "rank": [1, 2, 3],
    "lengthscale": {"log_uniform": [0.01, 1.0]},
    "noise": {"uniform": [-1.0, 1.0]},
    "width": {"int": [3, 9]},
    "hidden": {"log_int": [8, 512]},
}


@pytest.mark.parametrize("space", [SPACE, {"rank": [1, 2, 3, 4]}, {"a": {"int": [0, 4]}, "b": ["x", "y"]}])
def test_more_trials_extend_the_list(space):
    few, many = draw(space, 4, seed=3), draw(space, 11, seed=3)
    assert few == many[:4] and len(many) == 11
    assert draw(space, 11, seed=3) == many
    assert draw(space, 11, seed=4) != many


def test_another_parameter_does_not_change_the_others():
    wider = {**SPACE, "extra": {"uniform": [0, 1]}}
    without = [{k: v for k, v in trial.items() if k != "extra"} for trial in draw(wider, 6, seed=0)]
    assert without == draw(SPACE, 6, seed=0)


def test_draws_are_the_same_in_another_process():
    code = f"from tensorbench.core.search_space import draw; print(draw({SPACE!r}, 3, seed=5))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == repr(draw(SPACE, 3, seed=5))


def test_a_finite_space_is_enumerated_before_it_repeats():
    space = {"rank": [1, 2, 3], "width": {"int": [3, 4]}}
    points = {tuple(trial.values()) for trial in draw(space, 6, seed=0)}
    assert points == {(rank, width) for rank in (1, 2, 3) for width in (3, 4)}
    trials = draw(space, 9, seed=0)
    assert len(trials) == 9 and trials[6:] == trials[:3]


def test_every_form_stays_in_its_bounds_and_uses_all_of_them():
    trials = draw(SPACE, 4000, seed=0)
    columns = {name: [trial[name] for trial in trials] for name in SPACE}
    assert set(columns["rank"]) == {1, 2, 3} and set(columns["width"]) == set(range(3, 10))
    assert {type(value) for value in columns["width"] + columns["hidden"]} == {int}
    for name, (low, high) in {"lengthscale": (0.01, 1.0), "noise": (-1.0, 1.0), "hidden": (8, 512)}.items():
        assert low <= min(columns[name]) and max(columns[name]) <= high
    # Half of the draws lie below the middle of the scale that the form names (4,000 draws: ± 5 standard deviations).
    for name, middle in {"lengthscale": 0.1, "noise": 0.0, "hidden": 64}.items():
        assert abs(np.mean(np.array(columns[name]) < middle) - 0.5) < 5 * 0.5 / math.sqrt(4000) + 0.01
    counts = np.bincount(columns["width"])[3:]
    assert counts.min() > 4000 / 7 - 5 * math.sqrt(4000 / 7)


def test_drawing_changes_neither_the_space_nor_earlier_draws():
    space = {"shape": [[1, 2], [3, 4]]}
    first = draw(space, 2, seed=0)
    first[0]["shape"] = "mine"
    assert space == {"shape": [[1, 2], [3, 4]]} and draw(space, 2, seed=0)[0]["shape"] != "mine"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "maps parameter names"),
        ({"rank": []}, "'rank': the list of choices is empty"),
        ({"rank": [1, 1]}, "listed twice"),
        ({"rank": 3}, "write choices as a list"),
        ({"rank": {"uniform": [0, 1], "int": [0, 1]}}, "write choices as a list"),
        ({"rank": {"loguniform": [0.1, 1]}}, "did you mean 'log_uniform'"),
        ({"rank": {"uniform": [1]}}, r"takes two numbers, \[low, high\]"),
        ({"rank": {"uniform": [1, "2"]}}, "takes two numbers"),
        ({"rank": {"uniform": [0, math.inf]}}, "takes two numbers"),
        ({"rank": {"uniform": [2, 1]}}, "the first number must be the smaller"),
        ({"rank": {"int": [1, 2.5]}}, "takes whole numbers"),
        ({"rank": {"log_uniform": [0, 1]}}, "needs positive numbers"),
        ({"rank": {"log_int": [0, 8]}}, "needs positive numbers"),
    ],
)
def test_bad_spaces_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        draw(space, 2, seed=0)


@pytest.mark.parametrize("trials", [0, -1, 2.0, True])
def test_bad_trials_are_refused(trials):
    with pytest.raises(ValueError, match="trials"):
        draw(SPACE, trials, seed=0)
