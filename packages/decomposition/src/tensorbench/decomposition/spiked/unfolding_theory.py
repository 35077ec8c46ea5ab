"""What the leading eigenvector of an unfolding finds under the nested matrix-tensor model, in the large-size limit.

H. Lebeau, M. E. A. Seddik, J. H. de M. Goulart, "Performance Gaps in Multi-view Clustering under the Nested
Matrix-Tensor Model", ICLR 2024, arXiv 2402.10677. The model and its names (dims n1, n2, n3; beta_M, beta_T) are those
of :mod:`tensorbench.decomposition.spiked.nested`. Only shares and one strength matter in the limit:

    c_l = n_l / n_T,   n_T = n1 + n2 + n3,   b = beta_M^2,   rho = beta_T^2 n_T / sqrt(n1 n2 n3).

Eigenvalues of T_(l) T_(l)^T are quoted after (. - mu_l) / sigma, sigma = sqrt(n1 n2 n3) / n_T and mu_l = n1 n2 n3 /
(n_l n_T) (`centring`).

- `SecondUnfolding` (y): limiting density, its edges, the isolated eigenvalue and the squared alignment with y, which
  appears above `threshold_rho`, a transition of the kind of Baik, Ben Arous and Peche.
- `third_unfolding` (z): the semicircle law on [-2, 2] and its spike.
- `weighted_mean_alignment`: the oracle that knows the gains of the views.
- `accuracy`: from an alignment to the share of points that are clustered correctly by sign.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.polynomial import polynomial as poly
from scipy.special import ndtr

from tensorbench.decomposition.spiked.nested import check_dims

__all__ = [
    "SecondUnfolding",
    "ThirdUnfolding",
    "accuracy",
    "centring",
    "rho_from_beta",
    "third_unfolding",
    "threshold_beta_M",
    "threshold_rho",
    "weighted_mean_alignment",
]

Values = float | Float[np.ndarray, "*grid"]


def rho_from_beta(dims: Sequence[int], beta_T: Values) -> Values:
    """rho = beta_T^2 n_T / sqrt(n1 n2 n3), the strength that the second unfolding sees."""
    return np.square(beta_T) * sum(dims) / np.sqrt(np.prod(np.asarray(dims, dtype=float)))


def centring(dims: Sequence[int], mode: int) -> tuple[float, float]:
    """(mu, sigma) of the eigenvalues of T_(mode) T_(mode)^T: eigenvalue = mu + sigma * (rescaled eigenvalue)."""
    n1, n2, n3 = check_dims(dims)
    total = n1 + n2 + n3
    return n1 * n2 * n3 / (total * (n1, n2, n3)[mode]), float(np.sqrt(n1 * n2 * n3) / total)


@dataclass(frozen=True)
class SecondUnfolding:
    """Limits for the second unfolding at shares `c` (any positive multiples of them, such as dims), beta_M and rho.

    `spike` and `alignment` take arrays of beta_M and rho that broadcast; density, edges and distribution need numbers.

    ValueError: shares not three positive numbers, beta_M or rho negative.
    """

    c: Sequence[float]
    beta_M: Values
    rho: Values

    def __post_init__(self) -> None:
        if len(self.c) != 3 or not all(share > 0 for share in self.c):
            raise ValueError(f"c = {self.c} must be three positive shares, such as (1/2, 1/3, 1/6) or the dims")
        total = float(sum(self.c))
        object.__setattr__(self, "c", tuple(float(share) / total for share in self.c))
        for name in ("beta_M", "rho"):
            if not np.all(np.asarray(getattr(self, name)) >= 0):
                raise ValueError(f"{name} = {getattr(self, name)} must not be negative")

    @property
    def _reduced(self) -> tuple[float, float]:
        """c1 / (1 - c3) and c2 / (1 - c3): the shares of the matrix M."""
        c1, c2, c3 = self.c
        return c1 / (1 - c3), c2 / (1 - c3)

    @property
    def spike(self) -> Values:
        """Rescaled place of the isolated eigenvalue (meaningful where `alignment` > 0)."""
        k1, k2 = self._reduced
        b, rho = np.square(self.beta_M), np.asarray(self.rho, dtype=float)
        with np.errstate(divide="ignore", invalid="ignore"):
            return _plain(rho * (k1 + b) * (k2 + b) / b + 1 / (rho * (k2 + b)))

    @property
    def alignment_formula(self) -> Values:
        """zeta as the paper writes it; negative below the threshold."""
        k1, k2 = self._reduced
        b, rho = np.square(self.beta_M), np.asarray(self.rho, dtype=float)
        with np.errstate(divide="ignore", invalid="ignore"):
            return _plain(1 - ((b / (rho * (k2 + b))) ** 2 + k2 * (k1 + b)) / (b * (k2 + b)))

    @property
    def alignment(self) -> Values:
        """Squared scalar product of the leading eigenvector with y: max(zeta, 0)."""
        zeta = np.asarray(self.alignment_formula)
        return _plain(np.where(zeta > 0, zeta, 0.0))

    def _cubic(self) -> list[np.ndarray]:
        """Coefficients of m^0 .. m^3, each a polynomial in s (ascending), of the Stieltjes transform's equation."""
        c1, c2, c3 = self.c
        rho = _number("rho", self.rho)
        lead = rho * c2 / (1 - c3)
        return [
            np.array([1.0]),
            np.array([rho * (c2 - c1) / (1 - c3), 1.0]),
            np.array([1.0, lead]),
            np.array([lead]),
        ]

    def stieltjes(self, s: complex | np.ndarray) -> np.ndarray:
        """m(s) for Im s > 0: the root of the cubic with Im m > 0 (density = Im m / pi just above the real axis)."""
        s = np.asarray(s, dtype=complex)
        if not np.all(s.imag > 0):
            raise ValueError("the Stieltjes transform is evaluated at points s with a positive imaginary part")
        return self._upper_root(s)

    def _upper_root(self, s: np.ndarray) -> np.ndarray:
        """The root in the upper half-plane, by the eigenvalues of companion matrices, all s at once."""
        d, c, b, a = (poly.polyval(s, coefficients) for coefficients in self._cubic())
        a, b, c, d = np.broadcast_arrays(a, b, c, d)
        if a.flat[0] == 0:  # rho = 0: a quadratic, the semicircle law
            root = np.sqrt(c * c - 4 * b * d + 0j)
            both = np.stack([(-c + root) / (2 * b), (-c - root) / (2 * b)])
            return np.take_along_axis(both, both.imag.argmax(axis=0)[None], axis=0)[0]
        # The roots 1/m of the reversed cubic, whose leading coefficient is 1 however small rho is. Im m > 0 is
        # Im 1/m < 0, and the root that goes to infinity with 1 / rho cannot be mistaken for the one that is meant.
        companion = np.zeros((*s.shape, 3, 3), dtype=complex)
        companion[..., 1, 0] = companion[..., 2, 1] = 1
        for row, coefficient in enumerate((a, b, c)):
            companion[..., row, 2] = -coefficient / d
        inverse = np.linalg.eigvals(companion)
        return 1 / np.take_along_axis(inverse, inverse.imag.argmin(axis=-1)[..., None], axis=-1)[..., 0]

    def density(self, s: Values) -> Values:
        """Limiting density of the rescaled eigenvalues at real s: zero where the cubic has three real roots."""
        s = np.asarray(s, dtype=float)
        m = self._upper_root(s.astype(complex))
        inside = np.zeros(s.shape, dtype=bool)
        for low, high in self.support:
            inside |= (s > low) & (s < high)
        return _plain(np.where(inside, m.imag / np.pi, 0.0))

    @cached_property
    def support(self) -> tuple[tuple[float, float], ...]:
        """Intervals of positive density, ascending: between them the discriminant of the cubic is not negative."""
        d, c, b, a = self._cubic()
        terms = (
            18 * poly.polymul(poly.polymul(a, b), poly.polymul(c, d)),
            -4 * poly.polymul(poly.polypow(b, 3), d),
            poly.polymul(poly.polypow(b, 2), poly.polypow(c, 2)),
            -4 * poly.polymul(a, poly.polypow(c, 3)),
            -27 * poly.polymul(poly.polypow(a, 2), poly.polypow(d, 2)),
        )
        discriminant = np.zeros(1)
        for term in terms:
            discriminant = poly.polyadd(discriminant, term)
        discriminant = np.trim_zeros(discriminant, "b")
        roots = poly.polyroots(discriminant)
        real = np.sort(roots.real[np.abs(roots.imag) < 1e-7 * (1 + np.abs(roots.real))])
        pieces = []
        for low, high in itertools.pairwise(real):
            if high - low > 1e-9 and poly.polyval((low + high) / 2, discriminant) < 0:
                pieces.append((float(low), float(high)))
        return tuple(pieces)

    def distribution(self, s: Float[np.ndarray, " points"], nodes: int = 400) -> Float[np.ndarray, " points"]:
        """Share of rescaled eigenvalues below s. Each interval is integrated after s = middle - half cos(t), which
        makes the square-root edges smooth."""
        s = np.asarray(s, dtype=float)
        total = np.zeros(s.shape)
        for low, high in self.support:
            middle, half = (low + high) / 2, (high - low) / 2
            t = np.linspace(0, np.pi, nodes + 1)
            values = np.asarray(self.density(middle - half * np.cos(t))) * half * np.sin(t)
            mass = np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2 * np.diff(t))])
            total += np.interp(np.arccos(np.clip((middle - s) / half, -1, 1)), t, mass)
        return total


def threshold_rho(c: Sequence[float], beta_M: Values) -> Values:
    """Smallest rho at which the second unfolding sees y: b / (v sqrt(b^2 - c1 c2 / (1 - c3)^2)), v = c2 / (1 - c3) + b;
    infinite up to beta_M = `threshold_beta_M(c)`, where no strength of the tensor helps."""
    k1, k2 = SecondUnfolding(c, 0.0, 0.0)._reduced
    b = np.square(np.asarray(beta_M, dtype=float))
    room = b * b - k1 * k2
    with np.errstate(divide="ignore", invalid="ignore"):
        return _plain(np.where(room > 0, b / ((k2 + b) * np.sqrt(np.where(room > 0, room, 1.0))), np.inf))


def threshold_beta_M(c: Sequence[float]) -> float:
    """beta_M at which the matrix M itself starts to show y: beta_M^4 = c1 c2 / (1 - c3)^2."""
    k1, k2 = SecondUnfolding(c, 0.0, 0.0)._reduced
    return float((k1 * k2) ** 0.25)


@dataclass(frozen=True)
class ThirdUnfolding:
    """Semicircle law on [-2, 2] with the spike varrho + 1 / varrho and squared alignment 1 - 1 / varrho^2 with z, both
    for varrho > 1."""

    varrho: Values

    @property
    def spike(self) -> Values:
        with np.errstate(divide="ignore"):
            return _plain(self.varrho + 1 / np.asarray(self.varrho, dtype=float))

    @property
    def alignment(self) -> Values:
        strength = np.asarray(self.varrho, dtype=float)
        return _plain(np.where(strength > 1, 1 - 1 / np.maximum(strength, 1.0) ** 2, 0.0))

    @property
    def support(self) -> tuple[tuple[float, float], ...]:
        return ((-2.0, 2.0),)

    def density(self, s: Values) -> Values:
        return _plain(np.sqrt(np.maximum(4 - np.square(s), 0)) / (2 * np.pi))

    def distribution(self, s: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        s = np.clip(s, -2, 2)
        return 0.5 + s * np.sqrt(4 - s * s) / (4 * np.pi) + np.arcsin(s / 2) / np.pi


def third_unfolding(dims: Sequence[int], beta_M: Values, beta_T: Values) -> ThirdUnfolding:
    """varrho = rho (n1 n2 / n_M + beta_M^2), n_M = n1 + n2. Unlike rho it needs the sizes: the noise Z of the matrix
    carries z too, so that z is seen from beta_T of order n_T^(-1/4) on, long before y is."""
    n1, n2, _ = check_dims(dims)
    return ThirdUnfolding(rho_from_beta(dims, beta_T) * (n1 * n2 / (n1 + n2) + np.square(beta_M)))


def weighted_mean_alignment(dims: Sequence[int], beta_M: Values, beta_T: Values) -> Values:
    """Squared alignment with y of the leading right singular vector of the mean of the views, each weighted by its true
    gain: the spiked matrix model that remains when z is known."""
    n1, n2, n3 = check_dims(dims)
    total = n1 + n2 + n3
    k1, k2 = n1 / (n1 + n2), n2 / (n1 + n2)
    gain = np.square(np.asarray(beta_T, dtype=float))
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.square(beta_M) * gain / (gain + (n1 + n2) / total)
        zeta = 1 - k2 * (r + k1) / (r * (r + k2))
    return _plain(np.where(zeta > 0, zeta, 0.0))


def accuracy(squared_alignment: Values) -> Values:
    """Phi(sqrt(zeta / (1 - zeta))): expected share of points on the right side when labels are read off the signs."""
    zeta = np.clip(np.asarray(squared_alignment, dtype=float), 0, 1)
    with np.errstate(divide="ignore"):
        return _plain(ndtr(np.sqrt(zeta / (1 - zeta))))


def _plain(values: np.ndarray) -> Values:
    """A float from a 0-d array."""
    return float(values) if np.ndim(values) == 0 else values


def _number(name: str, value: Values) -> float:
    if np.ndim(value):
        raise ValueError(f"{name} has shape {np.shape(value)}; density, support and distribution need one number")
    return float(value)
