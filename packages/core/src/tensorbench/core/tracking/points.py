"""From ``(metric, value, step)`` to MLflow's points.

MLflow's step is an int64, ours may be any number (an epoch, a budget of 0.05, seconds). The rule, per metric and run:

- whole steps are MLflow steps as they are;
- from the first step that is not whole (or not finite, or beyond int64), the metric's steps are numbered in the order
  of their arrival (0, 1, 2, …, continuing above the whole ones), and a companion metric ``<metric>.step`` holds the
  real step at the same number. In the UI: X axis, Metric, ``<metric>.step``.

MLflow calls "latest" the point with the greatest (step, time). A final value (``step=None``) is therefore put at the
metric's greatest step, later in time, and left out when it is the latest already. NaN is kept by every store;
infinities are kept by MLflow as ±1.797e308, the largest double (records keep them as they are).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from tensorbench.core.tracking.store import metric_name

COMPANION = ".step"
_INT64 = 2**63


class Point(NamedTuple):
    """One point of a metric as MLflow stores it; ``time`` in milliseconds since 1970."""

    key: str
    value: float
    time: int
    step: int


@dataclass
class _Line:
    """What has been sent of one metric."""

    top: int | None = None  # greatest step
    time: int = 0  # time and value of the latest point at `top`
    value: float = math.nan
    whole: set[int] = field(default_factory=set)
    numbers: dict[float, int] | None = None  # real step -> number, once a step was not whole


class Points:
    """The metrics of one run, in the order in which they are logged."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    def add(self, metric: str, value: float, step: float | None, time: int) -> list[Point]:
        """The points to send for one logged value: none when it repeats the latest, more when steps get numbered."""
        key, value = metric_name(metric), float(value)
        line = self._lines.setdefault(key, _Line())
        if step is None:
            if line.top is not None and (line.value == value or (math.isnan(line.value) and math.isnan(value))):
                return []
            return [self._point(line, key, value, line.top or 0, time)]
        step = float(step)
        if line.numbers is None and step.is_integer() and -_INT64 <= step < _INT64:
            line.whole.add(int(step))
            return [self._point(line, key, value, int(step), time)]
        points = []
        if line.numbers is None:
            line.numbers = {float(whole): whole for whole in sorted(line.whole)}
            points = [Point(key + COMPANION, real, time, number) for real, number in line.numbers.items()]
        number = line.numbers.get(step)
        if number is None:
            number = line.numbers[step] = 0 if line.top is None else line.top + 1
            points.append(Point(key + COMPANION, step, time, number))
        return [*points, self._point(line, key, value, number, time)]

    @staticmethod
    def _point(line: _Line, key: str, value: float, step: int, time: int) -> Point:
        if line.top is None or step >= line.top:
            if step == line.top:
                time = max(time, line.time + 1)
            line.top, line.time, line.value = step, time, value
        return Point(key, value, time, step)
