"""One look per method across the whole paper: colour, marker and line style.

``set_methods`` colours the graph "these methods share an experiment" greedily, so that methods that meet in a figure
never share colour and marker, and share neither as long as there are enough of both. Palette: Okabe and Ito's (2008)
without its yellow, which is lost on white, completed by three of Paul Tol's colours: distinguishable with any colour
vision.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tensorbench.core.plotting.labels import label

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#7F7F2A", "#404040")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))

_looks: dict[str, tuple[int, int, int]] = {}


def set_methods(groups: Mapping[str, Iterable[str]]) -> None:
    """Give every method its look: ``groups`` maps each experiment to the names of its methods.

    Deterministic in the order of the mapping; a method keeps one look in all its experiments. Replaces earlier looks.
    """
    neighbours: dict[str, set[str]] = {}
    for names in groups.values():
        names = list(names)
        for name in names:
            neighbours.setdefault(name, set()).update(other for other in names if other != name)
    _looks.clear()
    used: Counter[tuple[str, int]] = Counter()
    for name in neighbours:
        near = [_looks[other] for other in neighbours[name] if other in _looks]
        colour = _least(len(COLOURS), Counter(look[0] for look in near), used, "colour")
        # Methods of the same colour must differ in the marker; beyond that, any marker not seen nearby is best.
        twins = [look for look in near if look[0] == colour]
        clash = Counter(look[1] for look in near)
        for look in twins:
            clash[look[1]] += len(near) + 1
        marker = _least(len(MARKERS), clash, used, "marker")
        line = _least(len(LINES), Counter(look[2] for look in twins), Counter(), "line")
        _looks[name] = (colour, marker, line)
        used[("colour", colour)] += 1
        used[("marker", marker)] += 1


def _least(count: int, nearby: Counter[int], used: Counter[tuple[str, int]], kind: str) -> int:
    """The choice that clashes least nearby, then is used least overall, then comes first."""
    return min(range(count), key=lambda i: (nearby[i], used[(kind, i)], i))


def style(method: str) -> dict[str, Any]:
    """Keyword arguments ``color, marker, linestyle, label`` for one method, the same in every figure.

    A method that :func:`set_methods` was not told of gets a look by the hash of its name: as stable, but not unique.
    """
    if method in _looks:
        look = _looks[method]
    else:
        digest = hashlib.sha256(str(method).encode()).digest()
        look = (digest[0] % len(COLOURS), digest[1] % len(MARKERS), 0)
    return _arguments(look, method)


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Looks for things that are not methods (datasets, ranks): by position, so distinct within one figure."""
    return {name: _arguments((i % len(COLOURS), i % len(MARKERS), i // len(COLOURS) % len(LINES)), name)
            for i, name in enumerate(names)}  # fmt: skip


def _arguments(look: tuple[int, int, int], name: str) -> dict[str, Any]:
    colour, marker, line = look
    return {"color": COLOURS[colour], "marker": MARKERS[marker], "linestyle": LINES[line], "label": label(name)}
