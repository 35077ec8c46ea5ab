"""The Pareto front of what has a cost and a score."""

from __future__ import annotations

import math
from collections.abc import Iterable


def pareto_places(points: Iterable[tuple[float, float]]) -> list[int]:
    """Places of the (cost, score) that no other beats in both, by rising cost; of equals the first."""
    points = list(points)
    front, best = [], -math.inf
    for place in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[place][1] > best:
            front.append(place)
            best = points[place][1]
    return front
