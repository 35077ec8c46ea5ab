"""Higher-order singular values, computed once and used for every budget, and what a Tucker core shape costs and keeps.

Ghadiri, Fahrbach, Fu, Mirrokni (2023), "Approximately Optimal Core Shapes for Tensor Decompositions", arXiv 2302.03886.
With a_i⁽ⁿ⁾ = σ_i(X₍ₙ₎)², a core shape r = (r_1 ... r_N) of a tensor with modes I_1 ... I_N has

    parameters      ∏ r_n + Σ I_n r_n                 (core and factors)
    packing value   Σ_n Σ_{i ≤ r_n} a_i⁽ⁿ⁾
    surrogate loss  S(r) = Σ_n Σ_{i > r_n} a_i⁽ⁿ⁾ = N ‖X‖² - packing value

and the squared error L(r) of the best Tucker decomposition obeys max_n tail_n ≤ L(r) ≤ S(r) ≤ N L(r).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.linalg import COO, as_tensor, squared_norm, squared_singular_values, tails


@dataclass(frozen=True)
class HOSV:
    """Squared higher-order singular values: ``values[n][i]`` = σ_i(X₍ₙ₎)², one array of length I_n per mode.

    ``rest[n]`` is energy of the mode outside ``values[n]`` (randomised computation only). ``seconds``: what it took.
    """

    values: tuple[Float[np.ndarray, " _"], ...]
    norm2: float
    rest: tuple[float, ...]
    method: str = "given"
    seconds: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the modes of the tensor."""
        return tuple(len(values) for values in self.values)

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """Numerical ranks of the unfoldings, at least one: no solver goes beyond them."""
        return tuple(max(1, int(np.count_nonzero(values))) for values in self.values)

    @cached_property
    def prefixes(self) -> tuple[Float[np.ndarray, " _"], ...]:
        """``prefixes[n][r]`` = Σ_{i ≤ r} a_i⁽ⁿ⁾, from r = 0."""
        return tuple(np.concatenate([[0.0], np.cumsum(values)]) for values in self.values)

    @cached_property
    def suffixes(self) -> tuple[Float[np.ndarray, " _"], ...]:
        """``suffixes[n][r]`` = Σ_{i > r} a_i⁽ⁿ⁾."""
        return tuple(tails(values) + rest for values, rest in zip(self.values, self.rest, strict=True))


Spectra = HOSV | Sequence[np.ndarray] | np.ndarray | COO  # what every solver accepts


def hosv(X: Float[np.ndarray, "*_"] | COO, method: str = "gram", rank: int | None = None, seed: int = 0) -> HOSV:
    """Squared singular values of every unfolding of a dense or sparse tensor.

    ``method``: ``"gram"``, ``"svd"`` or ``"rsvd"`` (the leading ``rank`` values of each mode, default 50; ``seed``
    fixes the random projections), see :func:`tensorbench.decomposition.linalg.squared_singular_values`. Raises
    ValueError on fewer than two modes, empty modes and entries that are not finite.
    """
    X = as_tensor(X)
    started = time.perf_counter()
    values = tuple(squared_singular_values(X, mode, method, rank, seed) for mode in range(X.ndim))
    norm2 = squared_norm(X)
    rest = tuple(max(0.0, norm2 - float(a.sum())) if method == "rsvd" else 0.0 for a in values)
    return HOSV(values, norm2, rest, method, time.perf_counter() - started)


def as_hosv(s: Spectra) -> HOSV:
    """``s`` itself, spectra given as one array per mode, or those of a tensor.

    Raises ValueError on spectra that are negative, increasing, not finite or not one-dimensional.
    """
    if isinstance(s, HOSV):
        return s
    if isinstance(s, COO | np.ndarray):
        return hosv(s)
    values = tuple(np.asarray(a, dtype=np.float64) for a in s)
    if len(values) < 2 or any(a.ndim != 1 or a.size == 0 for a in values):
        raise ValueError(f"spectra of shapes {[a.shape for a in values]}: give one array per mode, two modes or more")
    for mode, a in enumerate(values):
        if not np.isfinite(a).all():
            raise ValueError(f"squared singular values of mode {mode} are not finite")
        if (a < 0).any() or (np.diff(a) > 1e-12 * a[0]).any():
            raise ValueError(f"squared singular values of mode {mode} must be >= 0 and in descending order")
    return HOSV(values, float(max(a.sum() for a in values)), (0.0,) * len(values))


def num_params(shape: Sequence[int], core: Sequence[int]) -> int:
    """Numbers a Tucker decomposition stores: ∏ r_n + Σ I_n r_n."""
    return prod(int(r) for r in core) + sum(int(size) * int(r) for size, r in zip(shape, core, strict=True))


def check_core(shape: Sequence[int], core: Sequence[int]) -> tuple[int, ...]:
    """``core`` as a tuple of ints, or an error naming the mode that does not fit."""
    if len(core) != len(shape):
        raise ValueError(f"core shape {tuple(core)} has {len(core)} modes, the tensor {tuple(shape)} has {len(shape)}")
    for mode, (r, size) in enumerate(zip(core, shape, strict=True)):
        if not 1 <= r <= size:
            raise ValueError(f"rank {r} does not fit mode {mode} of a tensor {tuple(shape)}; use 1 to {size}")
    return tuple(int(r) for r in core)


def packing_value(s: Spectra, core: Sequence[int]) -> float:
    """Σ_n Σ_{i ≤ r_n} a_i⁽ⁿ⁾, in squared units of the tensor."""
    s = as_hosv(s)
    return float(sum(prefix[r] for prefix, r in zip(s.prefixes, check_core(s.shape, core), strict=True)))


def surrogate_loss(s: Spectra, core: Sequence[int]) -> float:
    """S(r) = Σ_n Σ_{i > r_n} a_i⁽ⁿ⁾, in squared units of the tensor; summed directly: small losses stay exact."""
    s = as_hosv(s)
    return float(sum(suffix[r] for suffix, r in zip(s.suffixes, check_core(s.shape, core), strict=True)))


@dataclass(frozen=True)
class CoreShapeResult:
    """A core shape and how it was found.

    ``value`` and ``surrogate_loss`` in squared units of the tensor, ``seconds`` of wall time without the singular
    values, ``evaluations``: shapes, integer programs or Tucker fits looked at. ``certificate``: a proven lower bound
    on value over optimal value (1 for exact solvers), None where the solver promises nothing.
    """

    shape: tuple[int, ...]
    params: int
    value: float
    surrogate_loss: float
    seconds: float
    evaluations: int
    certificate: float | None = None


def check_budget(shape: Sequence[int], budget: float) -> int:
    """``budget`` as an int, or an error when not even the core 1 × ... × 1 fits."""
    if not np.isfinite(budget):
        raise ValueError(f"budget {budget} is not a finite number of parameters")
    least = 1 + sum(shape)
    if budget < least:
        raise ValueError(f"budget {budget} is too small for a tensor {tuple(shape)}; the smallest Tucker has {least}")
    return int(budget)
