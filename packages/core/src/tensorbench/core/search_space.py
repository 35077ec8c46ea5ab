"""Search spaces of tuning: the same number of trials for every method, drawn from a seed.

A space maps parameter names to a list of choices or to one of the ranges ``{uniform: [a, b]}``,
``{log_uniform: [a, b]}``, ``{int: [a, b]}`` and ``{log_int: [a, b]}`` (whole numbers, both ends included).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .errors import unknown

RANGES = ("uniform", "log_uniform", "int", "log_int")
# Beyond this a grid is not worth listing: draws from it will hardly repeat.
_LARGEST_GRID = 100_000


def check(space: Mapping[str, Any]) -> None:
    """ValueError, naming the parameter and what is allowed, where ``space`` is not a search space."""
    if not isinstance(space, Mapping) or not space:
        raise ValueError(f"a search space maps parameter names to choices or ranges, got {space!r}")
    for name, entry in space.items():
        _check_entry(name, entry)


def _check_entry(name: str, entry: Any) -> None:
    if isinstance(entry, list | tuple):
        if not entry:
            raise ValueError(f"search of {name!r}: the list of choices is empty")
        written = [json.dumps(choice, sort_keys=True, default=repr) for choice in entry]
        if len(set(written)) < len(written):
            raise ValueError(f"search of {name!r}: a choice is listed twice in {list(entry)}")
        return
    example = "write choices as a list, [1, 2, 4], or a range, {log_uniform: [0.01, 1.0]}"
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ValueError(f"search of {name!r} is {entry!r}; {example}")
    ((form, bounds),) = entry.items()
    if form not in RANGES:
        raise ValueError(f"search of {name!r}: {unknown('range', form, RANGES)}")
    if not isinstance(bounds, list | tuple) or len(bounds) != 2 or not all(map(_is_number, bounds)):
        raise ValueError(f"search of {name!r}: {form} takes two numbers, [low, high], got {bounds!r}")
    low, high = bounds
    if not low < high:
        raise ValueError(f"search of {name!r}: {form}: [{low}, {high}] is empty; the first number must be the smaller")
    if form in ("int", "log_int") and not all(float(bound).is_integer() for bound in bounds):
        raise ValueError(f"search of {name!r}: {form} takes whole numbers, got [{low}, {high}]; use uniform for others")
    if form.startswith("log_") and low <= 0:
        raise ValueError(f"search of {name!r}: {form} needs positive numbers, got [{low}, {high}]")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def draw(space: Mapping[str, Any], trials: int, seed: int) -> list[dict[str, Any]]:
    """``trials`` parameter settings, the same for the same seed; more trials extend the list without changing it.

    A space with finitely many points is gone through in a random order, so that none repeats before all were tried
    (when trials exceed its points, the order starts again: every method gets the same number of trials).

    Raises:
        ValueError: not a search space, or fewer than one trial.
    """
    check(space)
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise ValueError(f"trials {trials!r} must be a whole number of at least 1")
    points = _grid_size(space)
    if points is not None and points <= _LARGEST_GRID:
        grid = list(_grid(space))
        order = np.random.default_rng(_stream(seed, "grid")).permutation(len(grid))
        return [dict(grid[order[trial % len(grid)]]) for trial in range(trials)]
    # A generator for each trial and parameter: neither more trials nor another parameter changes what is drawn here.
    return [
        {name: _one(entry, np.random.default_rng(_stream(seed, name, trial))) for name, entry in space.items()}
        for trial in range(trials)
    ]


def _stream(seed: int, *names: str | int) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps([seed, *names]).encode()).digest()[:8], "big")


def _values(entry: Any) -> list[Any] | None:
    """All values of a finite entry; None for a continuous one."""
    if isinstance(entry, list | tuple):
        return list(entry)
    ((form, (low, high)),) = entry.items()
    if form != "int":  # whole numbers on a log scale are not equally likely: drawn, not listed
        return None
    return list(range(int(low), int(high) + 1)) if high - low < _LARGEST_GRID else None


def _grid_size(space: Mapping[str, Any]) -> int | None:
    sizes = [_values(entry) for entry in space.values()]
    return None if any(values is None for values in sizes) else math.prod(len(values or ()) for values in sizes)


def _grid(space: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*(_values(entry) or () for entry in space.values())):
        yield dict(zip(space, values, strict=True))


def _one(entry: Any, rng: np.random.Generator) -> Any:
    if isinstance(entry, list | tuple):
        return entry[int(rng.integers(len(entry)))]
    ((form, (low, high)),) = entry.items()
    match form:
        case "uniform":
            return float(rng.uniform(low, high))
        case "log_uniform":
            return min(max(math.exp(rng.uniform(math.log(low), math.log(high))), float(low)), float(high))
        case "int":
            return int(rng.integers(int(low), int(high), endpoint=True))
        case _:  # log_int: half a step beyond both ends, so that the end values get their share
            value = math.exp(rng.uniform(math.log(low - 0.5), math.log(high + 0.5)))
            return min(max(round(value), int(low)), int(high))
