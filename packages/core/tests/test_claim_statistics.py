"""Intervals over seeds: known answers, honest coverage, and what they refuse."""

import numpy as np
import pytest
from scipy import stats

from tensorbench.core.claims.statistics import equal, exponent, mean_interval


def test_two_to_nine_values_have_the_students_t_interval_of_scipy():
    for n in range(2, 10):
        values = np.random.default_rng(n).normal(size=n)
        interval = mean_interval(values)
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert interval.mean == pytest.approx(values.mean())
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_a_known_answer_by_hand():
    # mean 2, standard error 1/sqrt(3), t quantile for 2 degrees of freedom 4.302653
    interval = mean_interval([1.0, 2.0, 3.0])
    assert (interval.low, interval.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rel=1e-6)


def _coverage(n, simulations, draw, truth):
    rng = np.random.default_rng(n)
    hits = 0
    for _ in range(simulations):
        interval = mean_interval(draw(rng, n))
        hits += interval.low <= truth <= interval.high
    return hits / simulations


@pytest.mark.parametrize(("seeds", "simulations"), [(3, 4000), (5, 4000), (20, 1500)])
def test_the_interval_covers_the_mean_of_normal_values_as_often_as_it_says(seeds, simulations):
    assert 0.935 <= _coverage(seeds, simulations, lambda rng, n: rng.normal(3, 2, n), 3.0) <= 0.97


@pytest.mark.parametrize("seeds", [10, 20])
def test_the_bootstrap_also_holds_on_skewed_values(seeds):
    """Where a t interval of 10 exponential values covers 90 % and a BCa bootstrap 87 %."""
    assert 0.92 <= _coverage(seeds, 1200, lambda rng, n: rng.exponential(size=n), 1.0) <= 0.98


@pytest.mark.parametrize("n", [3, 12])
def test_the_interval_follows_shift_and_scale(n):
    values = np.random.default_rng(1).normal(size=n)
    plain, moved = mean_interval(values), mean_interval(1e3 * values - 7)
    assert (moved.low, moved.high) == pytest.approx((1e3 * plain.low - 7, 1e3 * plain.high - 7))
    flipped = mean_interval(-values)
    assert flipped.mean == pytest.approx(-plain.mean)
    if n < 10:  # the resampling of mirrored values draws the same indices, so only t is exactly symmetric
        assert (flipped.low, flipped.high) == pytest.approx((-plain.high, -plain.low))


def test_the_same_values_give_the_same_interval():
    values = np.random.default_rng(2).gamma(1, size=15)
    assert mean_interval(values) == mean_interval(values.copy())


def test_one_value_has_no_interval_and_equal_values_collapse_to_a_point():
    assert mean_interval([3.5])[1:] == (None, None, 1)
    for n in (2, 5, 30):
        assert mean_interval([0.1] * n)[:3] == pytest.approx((0.1, 0.1, 0.1))
    assert mean_interval([0.0, 0.0])[:3] == (0, 0, 0)


def test_ten_values_with_hardly_any_distinct_ones_fall_back_to_t():
    values = np.array([1.0] * 9 + [2.0])
    interval = mean_interval(values)
    expected = stats.t.interval(0.95, 9, values.mean(), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_values_that_mean_nothing_are_refused(values):
    with pytest.raises(ValueError, match="an interval needs"):
        mean_interval(values)


def test_equal_is_relative():
    assert equal([1e-12, 1e-12 * (1 + 1e-10)])
    assert not equal([1e-12, 1.001e-12])
    assert equal([0.0, 0.0])


def test_exponent_recovers_a_power_and_agrees_with_linregress():
    x = np.array([10.0, 20, 50, 100, 400])
    exact = exponent(x, 7 * x**2.5)
    assert exact.mean == pytest.approx(2.5)
    assert exact.high - exact.low < 1e-6
    y = 3 * x**1.2 * np.random.default_rng(0).lognormal(0, 0.1, x.size)
    fit = stats.linregress(np.log(x), np.log(y))
    half = stats.t.ppf(0.975, x.size - 2) * fit.stderr
    assert exponent(x, y)[:3] == pytest.approx((fit.slope, fit.slope - half, fit.slope + half))


def test_exponent_of_several_curves_is_that_within_the_curves():
    x = np.tile([1.0, 2, 4, 8], 2)
    y = np.concatenate([x[:4] ** 0.5, 1000 * x[4:] ** 0.5])
    assert exponent(x, y, ["a"] * 4 + ["b"] * 4).mean == pytest.approx(0.5)
    # Curves over different ranges, where one common line would see the jump between them as growth.
    x[4:] *= 100
    assert exponent(x, y, ["a"] * 4 + ["b"] * 4).mean == pytest.approx(0.5)
    assert exponent(x, y).mean > 1


def test_two_points_give_an_exponent_without_an_interval():
    assert exponent([1, 10], [1, 100])[:3] == (pytest.approx(2), None, None)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [([1, 2], [0, 1], "positive"), ([-1, 2], [1, 1], "positive"), ([1, 2], [1, np.nan], "positive"),
     ([2, 2], [1, 3], "2 different"), ([], [], "2 different")],
)  # fmt: skip
def test_exponent_refuses_what_has_no_slope(x, y, message):
    with pytest.raises(ValueError, match=message):
        exponent(x, y)
