"""abc-parametrisations: how weights, initial weights and learning rate scale with width, and what limit that has.

Layer l of a perceptron with L hidden layers of width n has the weight n^-a_l w_l, w_l is drawn with standard deviation
n^-b_l, and SGD has the learning rate eta n^-c. Yang, Hu (2021), arXiv 2011.14522, Section 3: abc-parametrisations,
their symmetry, r, the theorems on stability and nontriviality, and the dynamical dichotomy: a stable nontrivial one
learns features or is a kernel method, never both.
Numbers hold for SGD, tanh or (smoothed) ReLU, and a fixed number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tensorbench.core.errors import unknown

PRESETS = ("standard", "ntk", "mean_field", "mup")
_SAME = 1e-9  # exponents that differ by less are the same


@dataclass(frozen=True)
class ABC:
    """Exponents ``a`` and ``b`` of layers 1 to L + 1, and ``c`` of the learning rate; width n to the *minus* these.

    Raises:
        ValueError: ``a`` and ``b`` differ in length, fewer than two layers, or an exponent that is not finite.
    """

    a: tuple[float, ...]
    b: tuple[float, ...]
    c: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "a", tuple(float(x) for x in self.a))
        object.__setattr__(self, "b", tuple(float(x) for x in self.b))
        if len(self.a) != len(self.b) or len(self.a) < 2:
            raise ValueError(
                f"a has {len(self.a)} and b {len(self.b)} exponents; both need one a layer, hidden and last (>= 2)"
            )
        if not all(map(math.isfinite, (*self.a, *self.b, self.c))):
            raise ValueError(f"exponents must be finite numbers, got a={self.a}, b={self.b}, c={self.c}")

    @property
    def hidden(self) -> int:
        """L, the number of hidden layers."""
        return len(self.a) - 1

    @property
    def r(self) -> float:
        """The features of the last hidden layer change by Theta(n^-r) in a stable parametrisation."""
        a, b, c = self.a, self.b, self.c
        hidden = min(2 * a_l + (layer == 0) for layer, a_l in enumerate(a[:-1]))
        return min(a[-1] + b[-1], 2 * a[-1] + c) + c - 1 + hidden

    def shifted(self, by: float) -> ABC:
        """The same training in other exponents: (a + t, b - t, c - 2t)."""
        return ABC(tuple(x + by for x in self.a), tuple(x - by for x in self.b), self.c - 2 * by)


def preset(name: str, hidden: int = 1) -> ABC:
    """``standard`` (learning rate 1/n, so that it is stable), ``ntk``, ``mean_field`` (one hidden layer), ``mup``.

    Raises:
        ValueError: an unknown name, ``hidden`` below 1, or ``mean_field`` with more than one hidden layer.
    """
    if name not in PRESETS:
        raise ValueError(unknown("parametrisation", name, PRESETS))
    if isinstance(hidden, bool) or not isinstance(hidden, int) or hidden < 1:
        raise ValueError(f"hidden {hidden!r} must be a whole number of layers, at least 1")
    if name == "mean_field" and hidden != 1:
        raise ValueError(f"mean_field is defined for one hidden layer, not {hidden}; its extension to more is 'mup'")
    if name == "standard":
        return ABC((0.0,) * (hidden + 1), (0.0,) + (0.5,) * hidden, 1.0)
    if name == "ntk":
        return ABC((0.0,) + (0.5,) * hidden, (0.0,) * (hidden + 1), 0.0)
    if name == "mean_field":
        return ABC((0.0, 1.0), (0.0, 0.0), -1.0)
    return ABC((-0.5,) + (0.0,) * (hidden - 1) + (0.5,), (0.5,) * (hidden + 1), 0.0)


def equivalent(first: ABC, second: ABC) -> bool:
    """Whether one is the other shifted by (t, -t, -2t): then both train identically."""
    if first.hidden != second.hidden:
        return False
    by = second.a[0] - first.a[0]
    moved = first.shifted(by)
    pairs = zip((*moved.a, *moved.b, moved.c), (*second.a, *second.b, second.c), strict=True)
    return all(abs(x - y) < _SAME for x, y in pairs)


@dataclass(frozen=True)
class Classification:
    """``kind`` is ``unstable``, ``trivial``, ``kernel`` or ``feature_learning``; ``reasons`` say by which condition.

    ``r`` is the exponent of the feature change: for stable parametrisations features move by Theta(n^-r).
    """

    stable: bool
    nontrivial: bool
    feature_learning: bool
    kernel: bool
    r: float
    reasons: tuple[str, ...]

    @property
    def kind(self) -> str:
        if not self.stable:
            return "unstable"
        if not self.nontrivial:
            return "trivial"
        return "feature_learning" if self.feature_learning else "kernel"


def classify(abc: ABC) -> Classification:
    """Stability, triviality and the side of the dichotomy, from the exponents alone."""
    a, b, c, r = abc.a, abc.b, abc.c, abc.r
    last, update = a[-1] + b[-1], 2 * a[-1] + c
    broken = []
    if abs(a[0] + b[0]) > _SAME:
        broken.append(f"a_1 + b_1 = {a[0] + b[0]:g} is not 0: the first layer's activations do not stay of order 1")
    for k in range(1, abc.hidden):
        if abs(a[k] + b[k] - 0.5) > _SAME:
            broken.append(f"a_{k + 1} + b_{k + 1} = {a[k] + b[k]:g} is not 1/2: activations do not stay of order 1")
    if last < 0.5 - _SAME:
        broken.append(f"a_{abc.hidden + 1} + b_{abc.hidden + 1} = {last:g} < 1/2: the first output grows with width")
    if r < -_SAME:
        broken.append(f"r = {r:g} < 0: features blow up in training")
    if update < 1 - _SAME:
        broken.append(f"2a_{abc.hidden + 1} + c = {update:g} < 1: the last layer's update makes the output blow up")
    if last + r < 1 - _SAME:
        broken.append(
            f"a_{abc.hidden + 1} + b_{abc.hidden + 1} + r = {last + r:g} < 1: the features' change makes it blow up"
        )
    if broken:
        return Classification(False, False, False, False, r, tuple(broken))
    by_last, by_features = abs(update - 1) <= _SAME, abs(last + r - 1) <= _SAME
    if not (by_last or by_features):
        why = f"2a + c = {update:g} > 1 and a + b + r = {last + r:g} > 1 in the last layer: the function never moves"
        return Classification(True, False, False, False, r, (why,))
    reasons = []
    if by_last:
        reasons.append("2a + c = 1 in the last layer: its update moves the function by order 1")
    if by_features:
        reasons.append("a + b + r = 1 in the last layer: the features' change moves the function by order 1")
    learns = abs(r) <= _SAME
    reasons.append("r = 0: features change by order 1" if learns else f"r = {r:g} > 0: features freeze, a kernel limit")
    return Classification(True, True, learns, not learns, r, tuple(reasons))


@dataclass(frozen=True)
class PhaseDiagram:
    """Kinds and r on a grid of the last layer's ``a`` (rows) and the learning rate's ``c`` (columns)."""

    a_out: Float[np.ndarray, " rows"]
    c: Float[np.ndarray, " columns"]
    kinds: np.ndarray
    r: Float[np.ndarray, "rows columns"]

    def at(self, row: int, column: int, hidden: int = 2) -> ABC:
        """The parametrisation of a cell (see :func:`uniform_sweep`)."""
        return _cell(float(self.a_out[row]), float(self.c[column]), hidden)


def _cell(a_out: float, c: float, hidden: int) -> ABC:
    base = preset("mup", hidden)
    return ABC((*base.a[:-1], a_out), base.b, c)


def uniform_sweep(
    a_out: Sequence[float] | np.ndarray, c: Sequence[float] | np.ndarray, hidden: int = 2
) -> PhaseDiagram:
    """Classify a grid around muP: hidden layers as in muP (all uniformly updated), b = 1/2, last layer's a and c vary.

    Standard and NTK parametrisation lie on it (shifted): (0, 1) is standard's last layer with hidden layers as fast.

    Raises:
        ValueError: an axis is empty.
    """
    if not len(a_out) or not len(c):
        raise ValueError("a_out and c need at least one value each")
    found = [[classify(_cell(float(x), float(y), hidden)) for y in c] for x in a_out]
    kinds = np.array([[one.kind for one in row] for row in found])
    r = np.array([[one.r for one in row] for row in found])
    return PhaseDiagram(np.asarray(a_out, dtype=float), np.asarray(c, dtype=float), kinds, r)
