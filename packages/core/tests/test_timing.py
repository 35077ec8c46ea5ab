"""Timing and memory on work of known cost, comparisons and growth on known answers."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from tensorbench.core import timing
from tensorbench.core.timing import compare, growth, measure, work_seconds

MIB = 2**20


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def touch(mib: float) -> None:
    """Make resident, and free again, so much memory: above 32 MiB, which the allocator always gives back."""
    np.ones(int(mib * MIB) // 8)


@pytest.fixture(params=["kernel", "sampled"])
def peak_by(request, monkeypatch):
    if request.param == "sampled":
        monkeypatch.setattr(timing._KernelPeak, "__enter__", lambda self: (_ for _ in ()).throw(PermissionError()))
    return request.param


def test_sleeping_takes_wall_time_and_working_takes_cpu_time():
    with measure() as asleep:
        time.sleep(0.1)
    with measure() as awake:
        burn(0.1)
    assert asleep.seconds >= 0.1 and asleep.cpu_seconds < 0.05
    assert awake.seconds >= 0.09 and 0.09 <= awake.cpu_seconds < 0.3


def test_children_that_ended_count():
    with measure() as cost:
        code = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
        subprocess.run([sys.executable, "-c", code], check=True)
    assert cost.cpu_seconds >= 0.2


def test_peak_memory_is_seen_though_it_was_freed(peak_by):
    touch(100)  # an earlier, higher peak must not count
    with measure() as cost:
        touch(48)
        if peak_by == "sampled":  # a sampler needs time to look
            held = np.ones(48 * MIB // 8)
            time.sleep(0.05)
            del held
    assert 40 <= cost.peak_mib <= 60
    with measure() as nothing:
        pass
    assert nothing.peak_mib < 4


def test_sections_nest():
    with measure() as outer:
        touch(80)
        with measure() as inner:
            touch(40)
    assert 72 <= outer.peak_mib <= 92 and 36 <= inner.peak_mib <= 50
    assert outer.seconds >= inner.seconds


def test_memory_that_the_allocator_kept_is_not_taken_for_free():
    for _ in range(3):  # the same work needs the same memory each time, say for one seed after the other
        with measure() as cost:
            pieces = [np.ones(2**14) for _ in range(200)]  # 128 KiB each: from the heap, which is kept after use
            del pieces
        assert 20 <= cost.peak_mib <= 40


def test_a_section_that_raises_is_measured_too():
    with pytest.raises(KeyError), measure() as cost:
        time.sleep(0.02)
        raise KeyError
    assert cost.seconds >= 0.02 and math.isfinite(cost.peak_mib)
    assert not timing._KernelPeak._open


def test_numbers_are_nan_until_the_end():
    with measure() as cost:
        assert math.isnan(cost.seconds) and math.isnan(cost.peak_mib)
    assert math.isnan(cost.device_peak_mib)  # no GPU was used


def test_the_gpu_is_waited_for_and_its_memory_measured(monkeypatch):
    calls: list[str] = []
    cuda = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        synchronize=lambda: calls.append("synchronize"),
        reset_peak_memory_stats=lambda: calls.append("reset"),
        memory_allocated=lambda: 10 * MIB,
        max_memory_allocated=lambda: 35 * MIB,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with measure() as cost:
        calls.append("work")
    assert calls == ["synchronize", "reset", "work", "synchronize"]
    assert cost.device_peak_mib == 25.0


def test_the_clock_of_work_is_cpu_time_until_a_gpu_is_used(monkeypatch):
    started = work_seconds()
    time.sleep(0.2)
    assert work_seconds() - started < 0.1
    calls: list[str] = []
    cuda = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, synchronize=lambda: calls.append("s")
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    on_gpu = work_seconds()
    time.sleep(0.2)
    assert 0.2 <= work_seconds() - on_gpu < 5 and calls == ["s", "s"]
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    back = work_seconds()
    assert back >= on_gpu + 0.2  # it never goes back
    while work_seconds() - back < 0.05:
        pass


def test_timing_imports_neither_torch_nor_scipy():
    code = "import sys; from tensorbench.core import timing\nwith timing.measure(): pass\n"
    subprocess.run(
        [sys.executable, "-c", code + "assert not {'torch', 'scipy', 'mlflow'} & set(sys.modules)"], check=True
    )


def test_measuring_costs_little():
    began = time.perf_counter()
    for _ in range(50):
        with measure():
            pass
    assert (time.perf_counter() - began) / 50 < 0.02


# --- compare -------------------------------------------------------------------------------------------------------


def test_rivals_take_turns_after_warming_up():
    order: list[str] = []
    rivals = {name: (lambda name=name: order.append(name)) for name in "abc"}
    compare(rivals, repeats=3, warmup=2, min_seconds=0)
    assert order == list("aabbcc") + list("abc") + list("bca") + list("cab")


def test_known_costs_give_the_known_ratio(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def work(seconds):
        def advance():
            clock[0] += seconds

        return advance

    result = compare({"ours": work(0.02), "peer": work(0.06)}, repeats=4)
    assert dict(result) == pytest.approx({"ours": 0.02, "peer": 0.06})
    assert result.ratio("ours", "peer") == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert result.speedup("ours", "peer") == pytest.approx((3, 3, 3))
    quick = compare({"ours": work(1e-6), "peer": work(1e-5)}, repeats=2)
    assert dict(quick) == pytest.approx({"ours": 1e-6, "peer": 1e-5})


def test_only_what_is_plainly_slow_is_not_called_again_to_see_how_slow_it_is(monkeypatch):
    clock, called = [0.0], {"slow": 0, "quick": 0}
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def work(name, first, then):
        def advance():
            clock[0] += then if called[name] else first
            called[name] += 1

        return advance

    # The first call of the quick one imports something.
    result = compare({"slow": work("slow", 1.0, 1.0), "quick": work("quick", 0.08, 1e-5)}, repeats=2)
    assert dict(result) == pytest.approx({"slow": 1.0, "quick": 1e-5})
    assert called["slow"] == 1 + 2 and called["quick"] > 500


def test_the_ratio_is_paired_and_its_interval_is_students():
    ours, peer = (1.0, 2.0, 4.0, 3.0), (2.1, 3.9, 8.4, 6.0)  # drifting together: the pairs say "half"
    result = timing.Comparison({"ours": ours, "peer": peer})
    logs = np.log(ours) - np.log(peer)
    low, high = stats.t.interval(0.95, 3, loc=logs.mean(), scale=stats.sem(logs))
    assert result.ratio("ours", "peer") == pytest.approx((np.exp(logs.mean()), np.exp(low), np.exp(high)))
    assert result["ours"] == 2.5
    inverse = result.ratio("peer", "ours")
    assert inverse.value == pytest.approx(1 / result.ratio("ours", "peer").value)


def test_one_repeat_has_no_interval():
    ratio = timing.Comparison({"a": (1.0,), "b": (2.0,)}).ratio("a", "b")
    assert ratio.value == pytest.approx(0.5) and math.isnan(ratio.low) and math.isnan(ratio.high)


@pytest.mark.parametrize(
    ("rivals", "options", "message"),
    [
        ({"a": int}, {}, "two or more functions"),
        ({"a": int, "b": int}, {"repeats": 0}, "repeats 0 must be at least 1"),
        ({"a": int, "b": int}, {"warmup": -1}, "warmup -1 at least 0"),
    ],
)
def test_bad_comparisons_are_refused(rivals, options, message):
    with pytest.raises(ValueError, match=message):
        compare(rivals, **options)


# --- growth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 1.0, 2.5])
def test_an_exact_power_law_is_found(exponent):
    sizes = np.array([10, 30, 100, 1000])
    found = growth(sizes, 7.0 * sizes**exponent)
    assert found == pytest.approx((exponent, exponent, exponent), abs=1e-9)


def test_the_interval_agrees_with_scipy():
    rng = np.random.default_rng(0)
    sizes = np.repeat([1.0, 2.0, 5.0, 20.0], 2)
    values = sizes**1.5 * np.exp(0.2 * rng.standard_normal(8))
    line = stats.linregress(np.log(sizes), np.log(values))
    half = stats.t.ppf(0.975, 6) * line.stderr
    assert growth(sizes, values) == pytest.approx((line.slope, line.slope - half, line.slope + half))


def test_the_exponent_does_not_depend_on_units():
    sizes, values = [3.0, 9.0, 40.0, 90.0], [0.1, 0.35, 1.4, 4.4]
    scaled = growth([1000 * size for size in sizes], [60 * value for value in values])
    assert scaled == pytest.approx(growth(sizes, values))


def test_two_points_leave_the_interval_open():
    assert growth([1, 10], [1, 100]) == pytest.approx((2.0, -math.inf, math.inf))


@pytest.mark.parametrize(
    ("sizes", "values", "message"),
    [
        ([1, 2], [1], "as many values as sizes"),
        ([1, 0], [1, 2], r"size 0\.0 is not positive"),
        ([1, 2], [1, math.nan], "value nan is not positive"),
        ([1, 2], [1, -3], r"value -3\.0"),
        ([5, 5], [1, 2], r"two different sizes, got \[5\.0\]"),
        ([], [], "two different sizes"),
    ],
)
def test_bad_growth_data_are_refused(sizes, values, message):
    with pytest.raises(ValueError, match=message):
        growth(sizes, values)
