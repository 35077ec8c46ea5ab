"""Measuring time and memory: one section, several rivals on the same work, and how a cost grows.

Nothing here imports torch; where torch is loaded and has used a GPU, the device is synchronised before the clock is
read.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

import numpy as np

_KIB_PER_MIB = 1024.0
_BYTES_PER_MIB = 1024.0**2
_SAMPLING_SECONDS = 0.002
_PLAINLY_SLOW = 20.0  # turns; a first call of something fast may take some, for what it imports or allocates


class Interval(NamedTuple):
    """A value with its 95 % interval (NaN bounds where one observation allows none)."""

    value: float
    low: float
    high: float


class Growth(NamedTuple):
    """The exponent b of cost ≈ a · sizeᵇ with its 95 % interval."""

    exponent: float
    low: float
    high: float


@dataclass
class Measured:
    """What a section cost. NaN until the section has ended.

    ``cpu_seconds`` counts all threads and the child processes that were waited for; ``peak_mib`` is the highest
    resident memory during the section above the one at its start (on Linux without files' pages, such as those of a
    library that is touched for the first time); ``device_peak_mib`` is the same for torch's GPU
    allocations, and NaN where no GPU was used.
    """

    seconds: float = math.nan
    cpu_seconds: float = math.nan
    peak_mib: float = math.nan
    device_peak_mib: float = math.nan


def _cuda() -> Any:
    """``torch.cuda`` where a GPU is in use by this process, else None."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_available() and cuda.is_initialized() else None


def synchronize() -> None:
    """Wait for the GPU where one is in use, so that a clock read next counts the work that was asked for."""
    if (cuda := _cuda()) is not None:
        cuda.synchronize()


def cpu_seconds() -> float:
    """CPU time of this process, all its threads, and its finished children."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


class _Work:
    """The clock behind :func:`work_seconds`: each stretch between two readings counts by one of two clocks."""

    def __init__(self) -> None:
        self.total = 0.0
        self._last = time.perf_counter(), time.process_time()

    def read(self) -> float:
        on_gpu = _cuda() is not None
        synchronize()
        now = time.perf_counter(), time.process_time()
        which = 0 if on_gpu else 1
        self.total += now[which] - self._last[which]
        self._last = now
        return self.total


_work = _Work()


def work_seconds() -> float:
    """A clock for budgets of training, to be read before and after work: CPU time of this process, which other jobs on
    the machine hardly change; once the process uses a GPU, wall time, read when the GPU has done what it was asked for.

    Not for several threads at a time.
    """
    return _work.read()


class WorkClock:
    """Seconds of :func:`work_seconds` since it was made; it stands still while paused."""

    def __init__(self) -> None:
        self._start = work_seconds()

    def elapsed(self) -> float:
        return work_seconds() - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = work_seconds()
        try:
            yield
        finally:
            self._start += work_seconds() - began


# --- peak memory ---------------------------------------------------------------------------------------------------


def _status_kib(field_name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as stream:
        for line in stream:
            if line.startswith(field_name):
                return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field_name}")


def _give_back_free_memory() -> None:
    """Return what the C library keeps for later; work that finds it there would seem to need no memory."""
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class _KernelPeak:
    """Linux keeps the highest resident size (VmHWM) and lets a process reset it: exact, at no cost to the work."""

    # Sections may nest, and a reset by the inner one would make the outer one forget what it saw before.
    _open: ClassVar[list[_KernelPeak]] = []
    start: int
    highest: int
    files: int  # pages of files that came in: in a fork, libraries' pages do so as they are touched

    @staticmethod
    def _reset() -> None:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as stream:
            stream.write("5")

    def __enter__(self) -> _KernelPeak:
        _give_back_free_memory()
        before = _status_kib("VmHWM")
        self._reset()
        for outer in self._open:
            outer.highest = max(outer.highest, before)
        self.start = self.highest = _status_kib("VmRSS")
        self.files = -_status_kib("RssFile")
        self._open.append(self)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.remove(self)
        self.highest = max(self.highest, _status_kib("VmHWM"))
        self.files = max(0, self.files + _status_kib("RssFile"))

    @property
    def mib(self) -> float:
        return (self.highest - self.start - self.files) / _KIB_PER_MIB


class _SampledPeak:
    """Where the kernel does not help: a thread looks at the resident size every 2 ms and may miss a spike."""

    def __enter__(self) -> _SampledPeak:
        import psutil

        _give_back_free_memory()

        self._process = psutil.Process()
        self.start = self.highest = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLING_SECONDS):
            self._look()

    def _look(self) -> None:
        self.highest = max(self.highest, self._process.memory_info().rss)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    @property
    def mib(self) -> float:
        return (self.highest - self.start) / _BYTES_PER_MIB


def _peak() -> _KernelPeak | _SampledPeak:
    try:
        return _KernelPeak().__enter__()
    except OSError:  # not Linux, or a container that forbids the reset
        return _SampledPeak().__enter__()


@contextmanager
def measure() -> Iterator[Measured]:
    """Measure a section: ``with measure() as cost: ...``, then ``cost.seconds`` and the others of :class:`Measured`.

    The numbers are there after the section, also when it raised.
    """
    measured = Measured()
    peak = _peak()
    synchronize()
    cuda = _cuda()
    device_start = 0
    if cuda is not None:
        cuda.reset_peak_memory_stats()
        device_start = cuda.memory_allocated()
    cpu, wall = cpu_seconds(), time.perf_counter()
    try:
        yield measured
    finally:
        try:
            synchronize()  # an asynchronous error of the device surfaces here; the clock is read all the same
        finally:
            measured.seconds, measured.cpu_seconds = time.perf_counter() - wall, cpu_seconds() - cpu
            peak.__exit__(None, None, None)
            measured.peak_mib = max(0.0, peak.mib)
            if (cuda := _cuda()) is not None:
                measured.device_peak_mib = max(0, cuda.max_memory_allocated() - device_start) / _BYTES_PER_MIB


# --- rivals on the same work ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison(Mapping[str, float]):
    """Median seconds per call by name (``result["ours"]``), and ratios of rivals paired by round."""

    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # seconds per call, one a round

    def __getitem__(self, name: str) -> float:
        return float(np.median(self.samples[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def ratio(self, of: str, over: str) -> Interval:
        """Seconds of ``of`` over those of ``over``: geometric mean of the rounds' ratios, t interval on their logs."""
        logs = np.log(self.samples[of]) - np.log(self.samples[over])
        centre = float(logs.mean())
        if len(logs) < 2:
            return Interval(math.exp(centre), math.nan, math.nan)
        half = _t_quantile(len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
        return Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half))

    def speedup(self, of: str, over: str) -> Interval:
        """How many times faster ``of`` is than ``over``."""
        return self.ratio(over, of)


def compare(
    rivals: Mapping[str, Callable[[], object]], *, repeats: int = 5, warmup: int = 1, min_seconds: float = 0.005
) -> Comparison:
    """Time functions of no arguments on the same work in this process.

    Each is called ``warmup`` times first. Then ``repeats`` rounds follow in each of which every rival has its turn, the
    order rotating, so that a machine that slows down slows them all. A turn repeats the call until it lasts about
    ``min_seconds``. The garbage collector rests while the clock runs.

    Raises:
        ValueError: fewer than two rivals, or no repeats.
    """
    names = list(rivals)
    if len(names) < 2:
        raise ValueError(f"compare needs two or more functions, got {names}; use measure() for one")
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats {repeats} must be at least 1 and warmup {warmup} at least 0")
    calls: dict[str, int] = {}
    for name in names:
        took = 0.0
        for _ in range(warmup):
            took = _seconds(rivals[name], 1)
        # What is this slow when it warms up is slow, and need not be called once more to find out.
        calls[name] = 1 if took > _PLAINLY_SLOW * min_seconds else _calls_to_last(rivals[name], min_seconds)
    samples: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            gc.disable()
            try:
                samples[name].append(_seconds(rivals[name], calls[name]) / calls[name])
            finally:
                if collecting:
                    gc.enable()
    return Comparison({name: tuple(values) for name, values in samples.items()})


def _seconds(function: Callable[[], object], calls: int) -> float:
    synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    synchronize()
    return time.perf_counter() - start


def _calls_to_last(function: Callable[[], object], min_seconds: float) -> int:
    if min_seconds <= 0:
        return 1
    calls = 1
    while (took := _seconds(function, calls)) < min_seconds / 2:
        calls = min(2 * calls if took <= 0 else math.ceil(calls * min(10.0, 1.2 * min_seconds / took)), 10**7)
    return calls


# --- growth --------------------------------------------------------------------------------------------------------


def growth(sizes: Sequence[float], values: Sequence[float]) -> Growth:
    """Least-squares slope of log(value) on log(size), with the 95 % Student t interval of the slope.

    Two observations determine the slope but not its interval, which is then (-∞, ∞).

    Raises:
        ValueError: lengths differ, a size or value is not positive and finite, or all sizes are the same.
    """
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"growth needs as many values as sizes, got shapes {x.shape} and {y.shape}")
    for label, numbers in (("size", x), ("value", y)):
        bad = numbers[~(np.isfinite(numbers) & (numbers > 0))]
        if bad.size:
            raise ValueError(f"growth is fitted to logarithms: {label} {bad[0]} is not positive and finite")
    if np.unique(x).size < 2:
        raise ValueError(f"growth needs at least two different sizes, got {np.unique(x).tolist()}")
    x, y = np.log(x), np.log(y)
    x = x - x.mean()
    spread = float(x @ x)
    exponent = float(x @ y) / spread
    freedom = x.size - 2
    if freedom == 0:
        return Growth(exponent, -math.inf, math.inf)
    residual = y - y.mean() - exponent * x
    half = _t_quantile(freedom) * math.sqrt(float(residual @ residual) / freedom / spread)
    return Growth(exponent, exponent - half, exponent + half)


def _t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
