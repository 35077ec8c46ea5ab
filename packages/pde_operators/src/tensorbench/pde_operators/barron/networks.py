"""Two-layer networks for functions of finite Barron norm: sampled (Maurey), greedy, and with random features.

A. R. Barron (1993), "Universal approximation bounds for superpositions of a sigmoidal function": a function with
Fourier mass C = Σ|c_ω| is the mean of units drawn with probability |c_ω|/C, so that k of them miss it by at most C²/k
in mean square. Here in the form used by Marwah, Lipton, Lu, Risteski (2023), arXiv 2210.12101, for the last iterate
of their flow. Convention for cosine units: the norm is Σ|c_ω| without the factor 1 + |ω|.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from tensorbench.core.errors import unknown

from ..trig import TrigFunction

Array = np.ndarray
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "cos": np.cos,
    "relu": lambda z: np.maximum(z, 0.0),
    "sigmoid": lambda z: 0.5 * (1 + np.tanh(0.5 * z)),
}
_STEEPNESS = 200.0  # of sigmoids that stand for steps
_CUMULATIVE = 400  # points of a numerical inverse distribution function


@dataclass(frozen=True, eq=False)
class TwoLayerNet:
    """x ↦ offset + slope·x + Σ_j outer_j σ(inner_j·x + bias_j)."""

    inner: Float[Array, "k d"]
    bias: Float[Array, " k"]
    outer: Float[Array, " k"]
    activation: str = "cos"
    offset: float = 0.0
    slope: Float[Array, " d"] | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(unknown("activation", self.activation, ACTIVATIONS))

    @property
    def units(self) -> int:
        return len(self.outer)

    def __call__(self, x: Float[Array, "points d"]) -> Float[Array, " points"]:
        function = ACTIVATIONS[self.activation]
        total = np.full(len(x), self.offset)
        if self.slope is not None:
            total += x @ self.slope
        step = max(1, 4_000_000 // max(len(x), 1))
        for start in range(0, self.units, step):
            part = slice(start, start + step)
            total += function(x @ self.inner[part].T + self.bias[part]) @ self.outer[part]
        return total

    def to_trig(self, unit: float) -> TrigFunction:
        """A network of cosines with frequencies on the lattice, exactly as a trigonometric function."""
        if self.activation != "cos" or self.slope is not None:
            raise ValueError("only a network of cosine units without a linear part is a trigonometric function")
        freqs = np.round(self.inner / unit)
        if not np.allclose(freqs * unit, self.inner, atol=1e-8):
            raise ValueError(f"its frequencies are not multiples of {unit:g}")
        half = 0.5 * self.outer * np.exp(1j * self.bias)
        d = self.inner.shape[1]
        freqs = np.concatenate([freqs, -freqs, np.zeros((1, d))]).astype(np.int64)
        return TrigFunction(freqs, np.concatenate([half, np.conj(half), [self.offset]]), unit)


def mean_square_error(net: TwoLayerNet, target: TrigFunction) -> float:
    """Mean of (net - target)² over a period, exactly; for cosine units on the target's lattice."""
    return (net.to_trig(target.unit) - target).mean_square()


def l2_error(net: TwoLayerNet, values: Float[Array, " points"], points: Float[Array, "points d"]) -> float:
    """Root mean square of net - values over the points."""
    return float(np.sqrt(np.mean((net(points) - values) ** 2)))


# --- Maurey's sampling ----------------------------------------------------------------------------------------------


def maurey_sample(
    target: TrigFunction,
    k: int,
    rng: np.random.Generator,
    activation: str = "cos",
    box: tuple[Float[Array, " d"], Float[Array, " d"]] | None = None,
) -> TwoLayerNet:
    """k units drawn by their weight in the target, whose mean they are.

    Cosines: frequency ω with probability |c_ω|/C, unit C cos(ω·x + arg c_ω). ReLU and sigmoid units: each cosine is an
    integral of ramps or steps over the range of ω·x in the ``box`` (lower and upper corner, the unit cube); ramps leave
    a linear part, kept as it is, and a sigmoid of steepness 200 stands for a step.

    Raises:
        ValueError: k below 1, a target that is zero or not real, an unknown activation.
    """
    if k < 1:
        raise ValueError(f"k {k} must be at least 1")
    if activation not in ACTIVATIONS:
        raise ValueError(unknown("activation", activation, ACTIVATIONS))
    size, phase = np.abs(target.coeffs), np.angle(target.coeffs)
    if not size.sum() > 0 or not target.is_real(1e-9):
        raise ValueError("the target must be a real function that is not zero")
    omega = target.unit * target.freqs.astype(float)
    if activation == "cos":
        drawn = rng.choice(len(size), size=k, p=size / size.sum())
        return TwoLayerNet(omega[drawn], phase[drawn], np.full(k, size.sum() / k), "cos")
    lower, upper = box if box is not None else (np.zeros(target.d), np.ones(target.d))
    return _sample_ridges(omega, size, phase, k, rng, activation, np.asarray(lower), np.asarray(upper))


def _sample_ridges(
    omega: Array,
    size: Array,
    phase: Array,
    k: int,
    rng: np.random.Generator,
    activation: str,
    lower: Array,
    upper: Array,
) -> TwoLayerNet:
    """Ridge units for cos(z + θ), z in [a, b] with centre m, by Taylor's formula from m in both directions.

    ReLU: cos(m + θ) - sin(m + θ)(z - m) - ∫_m^b cos(t + θ)(z - t)₊ dt - ∫_a^m cos(t + θ)(t - z)₊ dt.
    Steps H: cos(m + θ) - ∫_m^b sin(t + θ) H(z - t) dt + ∫_a^m sin(t + θ) H(t - z) dt.
    From the centre ramps are half as high as from an end.
    """
    speed = np.linalg.norm(omega, axis=1)
    moving = speed > 0
    offset = float((size[~moving] * np.cos(phase[~moving])).sum())
    omega, size, phase = omega[moving], size[moving], phase[moving]
    ends = np.stack([omega * lower, omega * upper])
    first, last = ends.min(axis=0).sum(axis=1), ends.max(axis=0).sum(axis=1)
    centre = 0.5 * (first + last)
    offset += float((size * np.cos(centre + phase)).sum())
    slope = None
    if activation == "relu":
        steep = size * np.sin(centre + phase)
        slope = -(steep @ omega)
        offset += float((steep * centre).sum())
    weight = np.cos if activation == "relu" else np.sin
    share = np.linspace(0, 1, _CUMULATIVE + 1)
    total = _mass(weight, first + phase, last + phase)
    p = size * total
    drawn = rng.choice(len(size), size=k, p=p / p.sum())
    t = first[drawn, None] + share * (last - first)[drawn, None]
    density = np.abs(weight(0.5 * (t[:, 1:] + t[:, :-1]) + phase[drawn, None]))
    cumulative = np.cumsum(density, axis=1)
    cumulative /= cumulative[:, -1:]
    u = rng.random(k)
    bin_ = np.minimum((cumulative < u[:, None]).sum(axis=1), _CUMULATIVE - 1)
    at = t[np.arange(k), bin_] + rng.random(k) * (last - first)[drawn] / _CUMULATIVE
    direction = np.where(at > centre[drawn], 1.0, -1.0)
    sign = -np.sign(weight(at + phase[drawn])) * (1.0 if activation == "relu" else direction)
    steepness = direction * (1.0 if activation == "relu" else _STEEPNESS)
    inner = steepness[:, None] * omega[drawn]
    return TwoLayerNet(inner, -steepness * at, sign * p.sum() / k, activation, offset, slope)


def _mass(weight: np.ufunc, a: Array, b: Array) -> Array:
    """∫_a^b |weight|, exactly: 2 for each half wave."""

    def upto(x: Array) -> Array:  # ∫_0^x |sin|
        waves = np.floor(x / math.pi)
        return 2 * waves + 1 - np.cos(x - math.pi * waves)

    shift = math.pi / 2 if weight is np.cos else 0.0
    return upto(b + shift) - upto(a + shift)


def maurey_variance(target: TrigFunction, k: int, unit: str = "cosine") -> float:
    """The expected mean-square error of k sampled units, exactly.

    Complex exponentials: (C² - |g|²)/k. Real cosines have mean square ½ where the exponential has 1, hence
    (C²/2 - |g|²)/k, but for what the zero frequency holds.
    """
    if unit not in ("cosine", "exponential"):
        raise ValueError(unknown("unit", unit, ["cosine", "exponential"]))
    size, C = np.abs(target.coeffs), target.mass()
    if unit == "exponential":
        return (C**2 - target.mean_square()) / k
    zero = (target.freqs == 0).all(axis=1)
    square = np.where(zero, np.cos(np.angle(target.coeffs)) ** 2, 0.5)
    return (C * float((size * square).sum()) - target.mean_square()) / k


# --- greedy ---------------------------------------------------------------------------------------------------------


def greedy_cosines(target: TrigFunction, k: int) -> TwoLayerNet:
    """Orthogonal greedy over the dictionary of all cosines of the lattice: the k largest pairs of coefficients.

    The atoms are orthogonal over a period, so that the greedy choice is the best k-term approximation.
    """
    if k < 1:
        raise ValueError(f"k {k} must be at least 1")
    if not target.is_real(1e-9):
        raise ValueError("the target must be a real function: half of its coefficients stand for all")
    zero = (target.freqs == 0).all(axis=1)
    signs = np.array([next((np.sign(x) for x in row if x), 0) for row in target.freqs])
    half = np.flatnonzero((signs > 0) | zero)
    amplitude = np.abs(target.coeffs[half]) * np.where(zero[half], 1.0, 2.0)
    gain = amplitude**2 * np.where(zero[half], 1.0, 0.5)
    chosen = half[np.argsort(-gain, kind="stable")[:k]]
    outer = np.abs(target.coeffs[chosen]) * np.where(zero[chosen], 1.0, 2.0)
    return TwoLayerNet(target.unit * target.freqs[chosen].astype(float), np.angle(target.coeffs[chosen]), outer, "cos")


class Greedy(NamedTuple):
    """Chosen columns in order, their final weights, and the mean-square error after each."""

    chosen: list[int]
    weights: Float[Array, " k"]
    errors: Float[Array, " k"]


def greedy_fit(atoms: Float[Array, "points dictionary"], values: Float[Array, " points"], k: int) -> Greedy:
    """Orthogonal greedy fit of values by columns of ``atoms``, with the Gram matrix of the dictionary computed once.

    Each step takes the column with the largest normalised correlation with the residual and projects on all chosen
    ones (progressive Cholesky): O(dictionary · k) per step beyond the Gram matrix. Stops early when nothing correlates.
    """
    points, dictionary = atoms.shape
    if not 1 <= k <= dictionary or len(values) != points:
        raise ValueError(f"k {k} of {dictionary} atoms and {len(values)} values at {points} points do not fit")
    gram = atoms.T @ atoms
    scale = np.diag(gram).copy()
    correlation = atoms.T @ values
    floor = 1e-10 * scale.max()
    energy, left = float(values @ values), scale.copy()
    V = np.zeros((dictionary, k), order="F")  # atoms times the orthonormal basis
    chosen, projections, errors = [], [], []
    free = scale > floor
    for step in range(k):
        score = np.where(free & (left > floor), np.abs(correlation) / np.sqrt(np.maximum(scale, floor)), -1.0)
        best = int(score.argmax())
        if score[best] <= 1e-14 * math.sqrt(max(values @ values, 1e-300)):
            break
        column = gram[:, best] - V[:, :step] @ V[best, :step]
        column /= math.sqrt(left[best])
        projection = correlation[best] / math.sqrt(left[best])
        V[:, step] = column
        correlation = correlation - column * projection
        left = left - column**2
        free[best] = False
        energy -= projection**2
        chosen.append(best)
        projections.append(projection)
        errors.append(max(energy, 0.0) / points)
    triangle = V[chosen, : len(chosen)]
    weights = solve_triangular(triangle.T, np.array(projections), lower=False) if chosen else np.zeros(0)
    return Greedy(chosen, weights, np.array(errors))


def ridge_dictionary(
    target: TrigFunction, size: int, rng: np.random.Generator, activation: str = "relu"
) -> tuple[Float[Array, "size d"], Float[Array, " size"]]:
    """Inner weights and biases of ridge units on the unit cube: directions by Maurey's weights, kinks uniform."""
    size_of = np.abs(target.coeffs) * (1 + target.frequency_norms)
    size_of = np.where(target.frequency_norms > 0, size_of, 0.0)
    drawn = rng.choice(len(size_of), size=size, p=size_of / size_of.sum())
    inner = target.freqs[drawn].astype(float)
    inner /= np.linalg.norm(inner, axis=1, keepdims=True)
    low, high = np.minimum(inner, 0).sum(axis=1), np.maximum(inner, 0).sum(axis=1)
    kink = low + rng.random(size) * (high - low)
    factor = 1.0 if activation == "relu" else 20.0
    return factor * inner, -factor * kink


def random_features(
    points: Float[Array, "points d"], values: Float[Array, " points"], k: int, rng: np.random.Generator,
    *, scale: float = 5.0, ridge: float = 1e-8,
) -> TwoLayerNet:  # fmt: skip
    """Random Fourier features, the baseline: k cosines of Gaussian frequencies, outer weights by ridge regression."""
    inner = scale * rng.standard_normal((k, points.shape[1]))
    bias = rng.uniform(0, 2 * math.pi, k)
    design = np.cos(points @ inner.T + bias)
    gram = design.T @ design + ridge * len(points) * np.eye(k)
    return TwoLayerNet(inner, bias, np.linalg.solve(gram, design.T @ values), "cos")
