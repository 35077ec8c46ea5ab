"""Sparse trigonometric functions g(x) = Σ_k c_k exp(i τ k·x) in any dimension, with exact algebra and Barron norms.

The frequencies k are integer vectors, ω = τ k with one ``unit`` τ: 2π for period 1, π for odd extensions of functions
on the unit cube that vanish on its boundary (sine series), 1 for period 2π. A function is a list of frequencies and
complex coefficients; sums, products, derivatives and (I - Δ)^{-1} are exact on it, whatever the dimension: a product
joins the keys of all pairs of frequencies in numpy (no loop over pairs), dense where the range of the keys is small
and by sorting where it is not. Products may drop pairs below a threshold and then say how much they dropped.

The spectral Barron norm is that of T. Marwah, Z. C. Lipton, J. Lu, A. Risteski (2023), "Neural network approximations
of PDEs beyond linearity", arXiv 2210.12101: |g|_B = Σ (1 + |ω|_2) |c_ω|, with real sines and cosines written as
exponentials first. Its rules: |f + g| ≤ |f| + |g|, |f g| ≤ |f| |g|, |∂_i g| ≤ W |g| for a band limit W, and |(I -
Δ)^{-1} g| ≤ |g|.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, Int

_DENSE_RANGE = 2**24  # of keys: below, sums go to an array of all of them
_CHUNK = 2**21  # pairs at a time
_MOST_PAIRS = 10**9


class Pruned(NamedTuple):
    """A function with small terms left out, and Σ|c| of what was left out: a bound on the error anywhere."""

    function: TrigFunction
    mass: float


@dataclass(frozen=True, eq=False)
class TrigFunction:
    """g(x) = Σ coeffs_j exp(i unit freqs_j·x). Equal frequencies are merged, exact zeros dropped.

    Raises:
        ValueError: shapes that do not fit, frequencies that are no integers, coefficients that are not finite.
    """

    freqs: Int[np.ndarray, "m d"]
    coeffs: Complex[np.ndarray, " m"]
    unit: float = 2 * math.pi

    def __post_init__(self) -> None:
        given = np.asarray(self.freqs)
        coeffs = np.asarray(self.coeffs, dtype=np.complex128)
        if given.ndim != 2 or coeffs.ndim != 1 or len(given) != len(coeffs) or given.shape[1] < 1:
            raise ValueError(f"frequencies (terms, d) need as many coefficients, got {given.shape} and {coeffs.shape}")
        freqs = given.astype(np.int64)
        if not np.array_equal(freqs, given):
            raise ValueError("frequencies are integer multiples of `unit`; divide yours by it and round")
        if not np.isfinite(coeffs).all():
            bad = int(np.flatnonzero(~np.isfinite(coeffs))[0])
            raise ValueError(f"the coefficient of frequency {freqs[bad].tolist()} is {coeffs[bad]}; all must be finite")
        if not (self.unit > 0 and math.isfinite(self.unit)):
            raise ValueError(f"unit {self.unit} must be positive")
        if len(freqs):
            freqs, coeffs = _merge(freqs, coeffs)
        object.__setattr__(self, "freqs", freqs)
        object.__setattr__(self, "coeffs", coeffs)

    @classmethod
    def _of(cls, freqs: np.ndarray, coeffs: np.ndarray, unit: float) -> TrigFunction:
        """Without the checks: distinct frequencies, finite coefficients."""
        made = object.__new__(cls)
        for name, value in (("freqs", freqs), ("coeffs", coeffs), ("unit", unit)):
            object.__setattr__(made, name, value)
        return made

    @classmethod
    def zero(cls, d: int, unit: float = 2 * math.pi) -> TrigFunction:
        return cls(np.zeros((0, d), dtype=np.int64), np.zeros(0, dtype=complex), unit)

    @classmethod
    def cosine(
        cls, freq: Sequence[int], amplitude: float = 1.0, phase: float = 0.0, unit: float = 2 * math.pi
    ) -> TrigFunction:
        """amplitude · cos(unit freq·x + phase)."""
        half = 0.5 * amplitude * np.exp(1j * phase)
        return cls(np.array([freq, [-k for k in freq]]), np.array([half, np.conj(half)]), unit)

    @classmethod
    def sine_product(cls, freq: Sequence[int], amplitude: float = 1.0, unit: float = math.pi) -> TrigFunction:
        """amplitude · Π_i sin(unit freq_i x_i): 2^d exponentials of modulus amplitude / 2^d."""
        signs = np.array(list(itertools.product([1, -1], repeat=len(freq))))
        coeffs = amplitude * np.prod(signs, axis=1) / (2j) ** len(freq)
        return cls(signs * np.asarray(freq), coeffs, unit)

    @classmethod
    def from_sine_coefficients(cls, coeffs: Float[np.ndarray, "..."], threshold: float = 0.0) -> TrigFunction:
        """Σ_k c_k Π_i sin(π k_i x_i) with k_i = 1, 2, … along each axis; terms up to ``threshold`` are left out."""
        where = np.argwhere(np.abs(coeffs) > threshold)
        d = coeffs.ndim
        signs = np.array(list(itertools.product([1, -1], repeat=d)))
        freqs = (signs[None] * (where + 1)[:, None, :]).reshape(-1, d)
        factors = np.prod(signs, axis=1) / (2j) ** d
        return cls(freqs, (coeffs[tuple(where.T)][:, None] * factors[None]).ravel(), math.pi)

    # --- what it is --------------------------------------------------------------------------------------------------

    @property
    def d(self) -> int:
        return self.freqs.shape[1]

    @property
    def terms(self) -> int:
        return len(self.coeffs)

    @property
    def frequency_norms(self) -> Float[np.ndarray, " m"]:
        """|ω|_2 of each term."""
        return self.unit * np.sqrt((self.freqs.astype(float) ** 2).sum(axis=1))

    @property
    def band_limit(self) -> float:
        """W: the largest |ω|_2."""
        return float(self.frequency_norms.max(initial=0.0))

    def barron_norm(self) -> float:
        """Σ (1 + |ω|_2) |c_ω|."""
        return float(((1 + self.frequency_norms) * np.abs(self.coeffs)).sum())

    def mass(self) -> float:
        """Σ |c_ω|: a bound on |g(x)|."""
        return float(np.abs(self.coeffs).sum())

    def mean_square(self) -> float:
        """The mean of |g|² over a period (Parseval)."""
        return float((np.abs(self.coeffs) ** 2).sum())

    def h1_norm(self) -> float:
        """(mean of |g|² + |∇g|²)^(1/2) over a period."""
        return float(np.sqrt(((1 + self.frequency_norms**2) * np.abs(self.coeffs) ** 2).sum()))

    def inner(self, other: TrigFunction) -> float:
        """The mean of g times the conjugate of ``other`` over a period, its real part."""
        joined = (self * other.conjugate()).coefficient([0] * self.d)
        return float(joined.real)

    def coefficient(self, freq: Sequence[int]) -> complex:
        at = np.flatnonzero((self.freqs == np.asarray(freq)).all(axis=1))
        return complex(self.coeffs[at[0]]) if len(at) else 0j

    def conjugate(self) -> TrigFunction:
        return TrigFunction._of(-self.freqs, np.conj(self.coeffs), self.unit)

    def is_real(self, tolerance: float = 1e-12) -> bool:
        return (self - self.conjugate()).mass() <= tolerance * max(self.mass(), 1e-300)

    def __call__(self, x: Float[np.ndarray, "points d"]) -> Float[np.ndarray, " points"]:
        """Real part of the values at the points."""
        x = np.atleast_2d(np.asarray(x, dtype=float))
        if x.shape[1] != self.d:
            raise ValueError(f"points in {x.shape[1]} dimensions were given to a function of {self.d}")
        result = np.zeros(len(x))
        step = max(1, 4_000_000 // max(self.terms, 1))
        omega = self.unit * self.freqs.T.astype(float)
        for start in range(0, len(x), step):
            phase = x[start : start + step] @ omega
            result[start : start + step] = np.cos(phase) @ self.coeffs.real - np.sin(phase) @ self.coeffs.imag
        return result

    # --- algebra -----------------------------------------------------------------------------------------------------

    def __add__(self, other: TrigFunction) -> TrigFunction:
        self._check(other)
        freqs = np.concatenate([self.freqs, other.freqs])
        coeffs = np.concatenate([self.coeffs, other.coeffs])
        return TrigFunction._of(*_merge(freqs, coeffs), self.unit) if len(freqs) else self

    def __neg__(self) -> TrigFunction:
        return TrigFunction._of(self.freqs, -self.coeffs, self.unit)

    def __sub__(self, other: TrigFunction) -> TrigFunction:
        return self + (-other)

    def __mul__(self, other: TrigFunction | complex) -> TrigFunction:
        if isinstance(other, TrigFunction):
            return self.times(other).function
        if not np.isfinite(other):
            raise ValueError(f"a function times {other} is none; the factor must be finite")
        return self._filter(np.full(self.terms, other))

    __rmul__ = __mul__

    def times(self, other: TrigFunction, drop: float = 0.0) -> Pruned:
        """The product; pairs of terms with |a||b| ≤ ``drop`` are left out, and their mass is returned.

        Raises:
            ValueError: other units or dimensions, or more than 10⁹ pairs (a larger ``drop`` is then needed).
        """
        self._check(other)
        if not self.terms or not other.terms:
            return Pruned(TrigFunction.zero(self.d, self.unit), 0.0)
        a, b = _by_size(self), _by_size(other)
        size_a, size_b = np.abs(a.coeffs), np.abs(b.coeffs)
        # How many of the b, which fall, are large enough for each a.
        counts = np.searchsorted(-size_b, -drop / size_a) if drop > 0 else np.full(a.terms, b.terms)
        below = np.concatenate([[0.0], np.cumsum(size_b)])
        mass = float((size_a * (below[-1] - below[counts])).sum())
        pairs = int(counts.sum())
        if pairs > _MOST_PAIRS:
            raise ValueError(f"a product of {a.terms} and {b.terms} terms joins {pairs} pairs; raise drop, or prune")
        freqs, coeffs = _product(a, b, counts)
        return Pruned(TrigFunction._of(freqs, coeffs, self.unit), max(mass, 0.0) if drop > 0 else 0.0)

    def power(self, exponent: int, drop: float = 0.0) -> Pruned:
        """gᵖ for p = 1, 2, …; the mass bounds what the dropped pairs could have made of it."""
        if exponent < 1:
            raise ValueError(f"exponent {exponent} must be 1 or more")
        result, mass = self, 0.0
        for _ in range(exponent - 1):
            result, dropped = result.times(self, drop)
            mass = mass * self.mass() + dropped
        return Pruned(result, mass)

    def derivative(self, axis: int) -> TrigFunction:
        """∂g/∂x_axis."""
        if not 0 <= axis < self.d:
            raise ValueError(f"axis {axis} of a function of {self.d} variables; axes count from 0")
        return self._filter(1j * self.unit * self.freqs[:, axis])

    def divergence_form(self, diffusion: Float[np.ndarray, "d d"]) -> TrigFunction:
        """-div(A ∇g) for a constant matrix A: multiplies by ω·Aω."""
        omega = self.unit * self.freqs.astype(float)
        return self._filter(np.einsum("mi,ij,mj->m", omega, diffusion, omega))

    def inverse_shifted_laplacian(self) -> TrigFunction:
        """(I - Δ)^{-1} g: divides by 1 + |ω|²."""
        return self._filter(1 / (1 + self.frequency_norms**2))

    def truncated(self, band: float) -> TrigFunction:
        """Without the terms of |ω|_2 above ``band``."""
        keep = self.frequency_norms <= band * (1 + 1e-12)
        return TrigFunction._of(self.freqs[keep], self.coeffs[keep], self.unit)

    def pruned(self, relative: float = 0.0, most: int | None = None) -> Pruned:
        """Without terms below ``relative`` times the largest coefficient; at most the ``most`` largest.

        Terms of one size (conjugates, images under a symmetry) stay or go together where ``most`` cuts.
        """
        size = np.abs(self.coeffs)
        keep = size >= relative * size.max(initial=0.0)
        if most is not None and keep.sum() > most:
            cut = float(np.partition(size, -most)[-most])
            above, tied = size > cut * (1 + 1e-9), size >= cut * (1 - 1e-9)
            keep &= tied if tied.sum() <= most or not above.any() else above
        return Pruned(TrigFunction._of(self.freqs[keep], self.coeffs[keep], self.unit), float(size[~keep].sum()))

    def _filter(self, factors: np.ndarray) -> TrigFunction:
        coeffs = self.coeffs * factors
        keep = coeffs != 0
        return TrigFunction._of(self.freqs[keep], coeffs[keep], self.unit)

    def _check(self, other: TrigFunction) -> None:
        if self.d != other.d or not math.isclose(self.unit, other.unit, rel_tol=1e-12):
            raise ValueError(
                f"functions of {self.d} and {other.d} variables with frequency units {self.unit:g} and {other.unit:g} "
                "do not combine; both must agree"
            )


def _by_size(f: TrigFunction) -> TrigFunction:
    order = np.argsort(-np.abs(f.coeffs), kind="stable")
    return TrigFunction._of(f.freqs[order], f.coeffs[order], f.unit)


def _strides(bounds: np.ndarray) -> tuple[np.ndarray, int]:
    """Strides of a key that is linear in the frequency and one-to-one for |k_i| ≤ bounds_i, and the keys' range.

    Beyond 62 bits no such key exists; then random odd strides (range 0) and keys modulo 2^64, see :func:`_sum_equal`.
    """
    radix = [2 * int(bound) + 1 for bound in bounds]
    total = math.prod(radix)
    if total < 2**62:
        return np.array([math.prod(radix[i + 1 :]) for i in range(len(radix))], dtype=np.int64), total
    rng = np.random.default_rng(20221012)
    return rng.integers(-(2**62), 2**62, size=len(radix), dtype=np.int64) | 1, 0


def _merge(freqs: np.ndarray, coeffs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum the coefficients of equal frequencies; zeros are dropped."""
    strides, _ = _strides(np.abs(freqs).max(axis=0))
    with np.errstate(over="ignore"):
        keys = freqs @ strides
    _, first, summed = _sum_equal(keys, coeffs)
    if not (strides.size and _same(freqs, keys, first)):
        unique, inverse = np.unique(freqs, axis=0, return_inverse=True)
        total = np.zeros(len(unique), dtype=complex)
        np.add.at(total, inverse.ravel(), coeffs)
        freqs, summed, first = unique, total, np.arange(len(unique))
    keep = summed != 0
    return freqs[first][keep], summed[keep]


def _same(freqs: np.ndarray, keys: np.ndarray, first: np.ndarray) -> bool:
    """Whether equal keys are equal frequencies (always so unless keys overflow)."""
    where = np.searchsorted(keys[first], keys)
    return bool((freqs[first][where] == freqs).all())


def _sum_equal(keys: np.ndarray, coeffs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct keys in rising order, the place where each is first seen, and the sums of their coefficients."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[starts], order[starts], np.add.reduceat(coeffs[order], starts)


def _product(a: TrigFunction, b: TrigFunction, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each term of a with its first ``counts`` terms of b, equal sums of frequencies joined."""
    bounds = np.abs(a.freqs).max(axis=0) + np.abs(b.freqs).max(axis=0)
    strides, total = _strides(bounds)
    offset = int(bounds @ strides) if total else 0
    with np.errstate(over="ignore"):
        keys_a, keys_b = a.freqs @ strides + offset, b.freqs @ strides
    dense = 0 < total <= _DENSE_RANGE
    sums = np.zeros((2, total)) if dense else np.zeros((0, 0))
    pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    ends = np.cumsum(counts)
    start = 0
    while start < a.terms and counts[start] > 0:  # the terms of a fall, and with them the counts
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _CHUNK, side="right")))
        n = counts[start:stop]
        i = np.repeat(np.arange(start, stop), n)
        j = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        with np.errstate(over="ignore"):
            keys = keys_a[i] + keys_b[j]
        values = a.coeffs[i] * b.coeffs[j]
        if dense:
            sums[0] += np.bincount(keys, weights=values.real, minlength=total)
            sums[1] += np.bincount(keys, weights=values.imag, minlength=total)
        else:
            distinct, first, summed = _sum_equal(keys, values)
            pieces.append((a.freqs[i[first]] + b.freqs[j[first]], distinct, summed))
        start = stop
    if dense:
        at = np.flatnonzero((sums[0] != 0) | (sums[1] != 0))
        rest, freqs = at, np.empty((len(at), a.d), dtype=np.int64)
        for axis in range(a.d):
            freqs[:, axis], rest = rest // strides[axis] - bounds[axis], rest % strides[axis]
        return freqs, sums[0, at] + 1j * sums[1, at]
    if not pieces:
        return np.zeros((0, a.d), dtype=np.int64), np.zeros(0, dtype=complex)
    freqs = np.concatenate([piece[0] for piece in pieces])
    _, first, summed = _sum_equal(np.concatenate([p[1] for p in pieces]), np.concatenate([p[2] for p in pieces]))
    keep = summed != 0
    return freqs[first][keep], summed[keep]
