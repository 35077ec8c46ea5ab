"""abcd-parametrisations: how initial values, multipliers, step sizes and gradients scale with the width n.

Layer l has the weights W = n^-a w with w ~ N(0, n^-2b), and a step is w <- w - lr n^-c Q(n^d g), where g is the
gradient for w and Q acts on each entry (sign, Adam, ...). Which regime a choice of exponents is in follows from

- ``r_l = a_l + c_l - [l is not the input layer]``: an update moves the layer's own outputs by n^-r_l,
- features of layer l change by n^-min(r_1, ..., r_l), the network's output by n^-min(r_out, a_out + b_out - 1 + r),
  with r the smallest of the r_l below the output and r_out = a_out + c_out - 1.

All of this holds if d is *faithful*: Q sees entries of order 1 (no matter where Q is scale invariant).

Yang, Littwin: Tensor Programs IVb (2023, arXiv 2308.01814), the dynamical dichotomy for entrywise updates; for SGD,
Yang, Hu: Tensor Programs IV (2020, arXiv 2011.14522).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from tensorbench.core.errors import unknown

Kind = Literal["entrywise", "sgd"]
Role = Literal["input", "hidden", "output", "fixed"]
_EXACT = 1e-9


@dataclass(frozen=True)
class ABCD:
    """Four exponents a layer, from the input layer to the output layer."""

    a: tuple[float, ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    d: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in "abcd"}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"a, b, c and d need one exponent a layer each, got {lengths}")
        if len(self.a) < 2:
            raise ValueError(f"a network has at least an input and an output layer, got {len(self.a)} exponent(s)")
        for name in "abcd":
            values = tuple(float(v) for v in getattr(self, name))
            if not all(map(math.isfinite, values)):
                raise ValueError(f"the exponents {name} = {values} must be finite")
            object.__setattr__(self, name, values)

    @property
    def layers(self) -> int:
        """How many weight matrices there are."""
        return len(self.a)

    def of_role(self, role: str) -> tuple[float, float, float, float]:
        """(a, b, c, d) of the ``input``, a ``hidden`` (the first) or the ``output`` layer."""
        if role not in ("input", "hidden", "output"):
            raise ValueError(unknown("role", role, ["input", "hidden", "output"]))
        if role == "hidden" and self.layers < 3:
            raise ValueError("two layers have no hidden one; use a parametrisation of at least three")
        place = {"input": 0, "hidden": 1, "output": self.layers - 1}[role]
        return self.a[place], self.b[place], self.c[place], self.d[place]

    def shift(self, t: float | Sequence[float]) -> ABCD:
        """The same training in other coordinates: (a + t, b - t, c - t, d + t), one t for all layers or one each."""
        by = [float(t)] * self.layers if isinstance(t, (int, float)) else [float(v) for v in t]
        if len(by) != self.layers:
            raise ValueError(f"{len(by)} shifts for {self.layers} layers")
        signs = {"a": 1, "b": -1, "c": -1, "d": 1}
        return ABCD(
            **{k: tuple(v + s * u for v, u in zip(getattr(self, k), by, strict=True)) for k, s in signs.items()}
        )

    def with_d(self, d: float | Sequence[float]) -> ABCD:
        """The same with other scales of the gradients."""
        return replace(self, d=(float(d),) * self.layers if isinstance(d, (int, float)) else tuple(d))


def _three(layers: int, first: tuple, middle: tuple, last: tuple) -> ABCD:
    if layers < 2:
        raise ValueError(f"layers {layers} must be at least 2, an input and an output layer")
    rows = [first, *[middle] * (layers - 2), last]
    return ABCD(*(tuple(column) for column in zip(*rows, strict=True)))


def mup_adam(layers: int = 3) -> ABCD:
    """The maximal update parametrisation: every layer learns features at learning rates that do not depend on n."""
    return _three(layers, (0, 0, 0, 1), (0, 0.5, 1, 1), (1, 0, 0, 1))


def ntp_adam(layers: int = 3) -> ABCD:
    """The parametrisation of the neural tangent kernel with steps small enough for Adam: the operator regime."""
    return _three(layers, (0, 0, 0.5, 0.5), (0.5, 0, 1, 1), (0.5, 0, 0.5, 0.5))


def standard_adam(layers: int = 3, c: float = 1.0) -> ABCD:
    """What frameworks do (no multipliers, variance 1 / inputs), with the learning rate n^-c in all layers.

    Unstable for c < 3/2, the operator regime at 3/2, trivial above. Frameworks' own default is c = 0.
    """
    return _three(layers, (0, 0, c, 0.5), (0, 0.5, c, 0.5), (0, 0.5, c, 0))


PRESETS = {"mup_adam": mup_adam, "ntp_adam": ntp_adam, "standard_adam": standard_adam}


def preset(name: str, layers: int = 3, **options: float) -> ABCD:
    """A parametrisation by name."""
    if name not in PRESETS:
        raise ValueError(unknown("parametrisation", name, PRESETS))
    return PRESETS[name](layers, **options)


def faithful_d(abcd: ABCD) -> tuple[float, ...]:
    """The d with which Q sees entries of order 1, during the first steps and later."""
    *lower, out = range(abcd.layers)
    backward = abcd.a[out] + min(abcd.b[out], abcd.c[out])  # the gradient for the last features is n^-backward
    return (*(abcd.a[layer] + backward for layer in lower), abcd.a[out])


@dataclass(frozen=True)
class Regime:
    """What a parametrisation does in the limit.

    ``features``: exponent of the change of each layer's outputs, the network's last. A predicted exponent above 0 is a
    change that grows with the width. ``r``: the r_l of the input and hidden layers. ``reasons``: conditions that fail.
    """

    name: Literal["unstable", "trivial", "operator", "feature learning"]
    r: tuple[float, ...]
    features: tuple[float, ...]
    reasons: tuple[str, ...]

    @property
    def stable(self) -> bool:
        return self.name != "unstable"

    @property
    def nontrivial(self) -> bool:
        return self.name in ("operator", "feature learning")

    @property
    def feature_learning(self) -> bool:
        return self.name == "feature learning"


def classify(abcd: ABCD, kind: Kind = "entrywise") -> Regime:
    """The regime of ``abcd`` under entrywise updates or SGD (for which d only changes c).

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in ("entrywise", "sgd"):
        raise ValueError(unknown("kind", kind, ["entrywise", "sgd"]))
    a, b, c = abcd.a, abcd.b, abcd.c
    out, lower = abcd.layers - 1, range(abcd.layers - 1)
    if kind == "entrywise":
        moved = [a[k] + c[k] for k in range(abcd.layers)]  # an entry of W moves by n^-moved
    else:
        step = [2 * a[k] + c[k] - abcd.d[k] for k in range(abcd.layers)]
        backward = min(a[out] + b[out], step[out])
        moved = [*(step[k] + backward for k in lower), step[out]]
    r = [moved[k] - (k > 0) for k in lower]
    r_out, through = moved[out] - 1, a[out] + b[out] - 1 + min(r)
    reasons = []
    for k in lower:
        want = 0.0 if k == 0 else 0.5
        if abs(a[k] + b[k] - want) > _EXACT:
            reasons.append(
                f"layer {k + 1}: a + b = {a[k] + b[k]:g}, its outputs are of order 1 at the start only at {want:g}"
            )
        if r[k] < -_EXACT:
            reasons.append(f"layer {k + 1}: r = {r[k]:g} < 0, its outputs move by n^{-r[k]:g}")
    if a[out] + b[out] < 0.5 - _EXACT:
        reasons.append(f"output: a + b = {a[out] + b[out]:g} < 1/2, it explodes at the start")
    if r_out < -_EXACT:
        reasons.append(f"output: its own update moves it by n^{-r_out:g}")
    if through < -_EXACT:
        reasons.append(f"output: the change of the features moves it by n^{-through:g}")
    features = tuple(-min(r[: k + 1]) for k in lower)
    moves = -min(r_out, through)
    if reasons:
        name = "unstable"
    elif moves < -_EXACT:
        name = "trivial"
        reasons.append(f"the output moves by n^{moves:g}, which vanishes")
    else:
        name = "feature learning" if min(r) < _EXACT else "operator"
    return Regime(name, tuple(r), (*(v + 0.0 for v in features), moves + 0.0), tuple(reasons))  # type: ignore[arg-type]


def equivalent(one: ABCD, other: ABCD, *, scale_invariant: bool = False) -> bool:
    """Whether the two train identically up to a shift in each layer; d plays no part where Q is scale invariant."""
    if one.layers != other.layers:
        return False
    moved = one.shift([v - u for u, v in zip(one.a, other.a, strict=True)])
    names = "abc" if scale_invariant else "abcd"
    return all(
        math.isclose(u, v, abs_tol=_EXACT)
        for name in names
        for u, v in zip(getattr(moved, name), getattr(other, name), strict=True)
    )


@dataclass(frozen=True)
class Scaled:
    """How a parameter scales: its role, its exponents under mup_adam, and its width over the base's."""

    role: Role
    a: float
    b: float
    c: float
    d: float
    width_mult: float


def from_mup(model: nn.Module, base: nn.Module | None = None) -> dict[str, Scaled]:
    """The role and exponents of each parameter, as microsoft/mup derives them from shapes.

    Dimensions in which ``model`` and ``base`` (the same model at the base width) differ are widths: a parameter with
    two is ``hidden``; with one, ``output`` where it is the inputs of a matrix that is no embedding, else ``input``
    (biases and norms too); with none, ``fixed``. Without ``base`` the shapes are those that ``mup.set_base_shapes``
    left on the parameters.

    Raises:
        ValueError: no base shape for a parameter, different numbers of dimensions, more than two widths.
    """
    shapes = {} if base is None else {name: tuple(p.shape) for name, p in base.named_parameters()}
    tables = {f"{n}.weight" if n else "weight" for n, m in model.named_modules() if isinstance(m, nn.Embedding)}
    found: dict[str, Scaled] = {}
    for name, p in model.named_parameters():
        if base is None:
            if not hasattr(p, "infshape"):
                raise ValueError(f"parameter {name!r} has no base shape; pass base=, or call mup.set_base_shapes first")
            small = tuple(dim.dim if dim.base_dim is None else dim.base_dim for dim in p.infshape)
        else:
            if name not in shapes:
                raise ValueError(
                    f"the base model has no parameter {name!r}; it must be the same model at another width"
                )
            small = shapes[name]
        if len(small) != p.ndim:
            raise ValueError(f"parameter {name!r} has shape {tuple(p.shape)}, its base {small}")
        wide = [k for k in range(p.ndim) if small[k] != p.shape[k]]
        if len(wide) > 2:
            raise ValueError(
                f"parameter {name!r} has {len(wide)} widths, of {tuple(p.shape)} against {small}; at most 2"
            )
        role: Role = "fixed" if not wide else "hidden" if len(wide) == 2 else "input"
        if wide == [1] and p.ndim == 2 and name not in tables:
            role = "output"
        mult = p.shape[wide[-1]] / small[wide[-1]] if wide else 1.0
        exponents = (0.0, 0.0, 0.0, 0.0) if role == "fixed" else mup_adam().of_role(role)
        found[name] = Scaled(role, *exponents, mult)
    return found
