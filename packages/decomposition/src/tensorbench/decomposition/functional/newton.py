"""The Newton kernel 1/|x - y| as a short sum of Gaussians, split into long and short range, for many particles.

Gauss's integral, substituted by t = sinh u and summed by the trapezoidal rule with step 𝔥 (sinc quadrature),

    1/ρ = 1/√π ∫ exp(-ρ² t²) dt ≈ Σ_{k=0}^{M} w_k exp(-t_k² ρ²),   t_k = sinh(k𝔥),  w_k = (2 - δ_{k0}) 𝔥 cosh(k𝔥)/√π,

converges exponentially in M on any [ρ_min, ρ_max] (Hackbusch and Khoromskij 2006). With ρ² = x² + y² + z² every
Gaussian is a product of functions of one variable: the kernel has a canonical (CP) form of M + 1 terms, the widest
first. Benner, Khoromskaia and Khoromskij (2018) call the wide terms long range: summed over the particles of a system
they stay smooth and of low Tucker rank, while the narrow ones are local and need one reference copy. Benner,
Khoromskij, Khoromskaia and Sun (2025, arXiv:2503.01696) put the long-range part into the Chebyshev-Tucker format.

Lengths are in units of the box, charges in units of the elementary charge; 4πε₀ = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from tensorbench.decomposition.formats import CP
from tensorbench.decomposition.functional import chebyshev
from tensorbench.decomposition.functional.chebtuck import ChebTucker, as_domain
from tensorbench.decomposition.functional.chebtuck_build import from_columns
from tensorbench.decomposition.functional.truncation import check_truncation, rhosvd_tol
from tensorbench.decomposition.linalg import rank_for_tail

MOST_TERMS = 400
_PAIRS = 2**22  # distances held at once


@dataclass(frozen=True, eq=False)
class GaussianSum:
    """A radial function Σ_k w_k exp(-t_k² ρ²), the widest Gaussian (smallest t_k) first."""

    weights: Float[np.ndarray, " terms"]
    exponents: Float[np.ndarray, " terms"]  # t_k, ascending

    def __len__(self) -> int:
        return len(self.weights)

    def __call__(self, distance: Float[np.ndarray, "*_"]) -> Float[np.ndarray, "*_"]:
        """Values at distances ρ."""
        rho2 = np.asarray(distance, dtype=np.float64) ** 2
        total = np.zeros_like(rho2)
        for w, t in zip(self.weights, self.exponents, strict=True):
            total += w * np.exp(-(t**2) * rho2)
        return total

    def columns(self, x: Float[np.ndarray, " n"], centres: Float[np.ndarray, " count"]) -> Float[np.ndarray, "n _"]:
        """exp(-t_k² (x - c)²) for every centre c (slow index) and every term k (fast index) as columns."""
        offset = np.asarray(x)[:, None] - np.asarray(centres)[None, :]
        return np.exp(-(self.exponents**2) * offset[:, :, None] ** 2).reshape(len(x), -1)

    def split(self, long_terms: int | None = None) -> tuple[GaussianSum, GaussianSum]:
        """Long range (the ``long_terms`` widest terms, default :func:`default_long_terms`) and short range."""
        cut = _check_split(long_terms, len(self))
        return (
            GaussianSum(self.weights[:cut], self.exponents[:cut]),
            GaussianSum(self.weights[cut:], self.exponents[cut:]),
        )

    def potential(
        self, charges: Float[np.ndarray, " count"], positions: Float[np.ndarray, "count d"], axes: Sequence[np.ndarray]
    ) -> CP:
        """Σ_i q_i K(|x - x_i|) on the tensor grid of ``axes``, in CP format with one column per particle and term."""
        charges, positions = _particles(charges, positions)
        weights = (charges[:, None] * self.weights[None, :]).ravel()
        return CP(weights, tuple(self.columns(x, positions[:, k]) for k, x in enumerate(axes)))


def newton_quadrature(rho_min: float, rho_max: float, M: int | None = None, eps: float = 1e-7) -> GaussianSum:
    """1/ρ on [ρ_min, ρ_max] by M + 1 Gaussians; without M, by the fewest whose relative error is at most ``eps``.

    The step balances the error of the rule, exp(-π²/(2𝔥)), with that of ending the sum, exp(-ρ_min² t_M²).
    """
    if not 0 < rho_min < rho_max:
        raise ValueError(f"distances from {rho_min} to {rho_max} are no range; 1/ρ needs 0 < rho_min < rho_max")
    if M is not None:
        if M < 2:
            raise ValueError(f"M = {M} is too few terms for a quadrature; use M >= 2")
        return _quadrature(rho_min, M)
    if not eps > 1e-14:
        raise ValueError(f"eps {eps} cannot be reached in double precision; use eps > 1e-14")
    rho = np.geomspace(rho_min, rho_max, 600)
    for terms in range(3, MOST_TERMS):
        kernel = _quadrature(rho_min, terms)
        if np.abs(kernel(rho) * rho - 1).max() <= eps:
            return kernel
    raise ValueError(f"{MOST_TERMS} terms do not reach eps {eps} on [{rho_min}, {rho_max}]; raise eps or rho_min")


def _quadrature(rho_min: float, M: int) -> GaussianSum:
    def balance(step: float) -> float:
        return rho_min * np.sinh(min(M * step, 300.0)) - np.pi / np.sqrt(2 * step)

    step = float(brentq(balance, 1e-6, 20.0))
    u = step * np.arange(M + 1)
    weights = 2 * step * np.cosh(u) / np.sqrt(np.pi)
    weights[0] /= 2
    return GaussianSum(weights, np.sinh(u))


def sinc_quadrature_newton(
    n: int, M: int | None = None, box: tuple[float, float] = (-1.0, 1.0), eps: float = 1e-7, d: int = 3
) -> CP:
    """1/|x - c|, c the centre of the box, on its n^d cell centres: CP with M + 1 columns, the widest first.

    ``n`` must be even, so that the centre is a corner of cells and not a cell's centre, where 1/ρ is infinite. Accurate
    to ``eps`` (relatively) from the nearest cell to the corners, or as accurate as a given M allows.
    """
    if n < 2 or n % 2:
        raise ValueError(f"n = {n} must be even and positive: the kernel is infinite at the centre of the middle cell")
    a, b = box
    x = chebyshev.midpoints(n, a, b)
    half = (b - a) / (2 * n)
    kernel = newton_quadrature(half * np.sqrt(d), np.sqrt(d) * (b - a) / 2, M, eps)
    return CP(kernel.weights, (kernel.columns(x, np.array([(a + b) / 2])),) * d)


def default_long_terms(terms: int) -> int:
    """How many of ``terms`` Gaussians the authors' code counts as long range: ⌈R/2⌉ - 3, but at least one."""
    return max(1, -(-terms // 2) - 3)


def range_split(cp: CP, long_terms: int | None = None) -> tuple[CP, CP]:
    """A reference CP tensor (widest columns first) as long range + short range."""
    cut = _check_split(long_terms, cp.rank)
    return (
        CP(cp.weights[:cut], tuple(F[:, :cut] for F in cp.factors)),
        CP(cp.weights[cut:], tuple(F[:, cut:] for F in cp.factors)),
    )


def assemble_potential(
    charges: Float[np.ndarray, " count"],
    positions: Float[np.ndarray, "count d"],
    reference: CP,
    box: tuple[float, float] = (-1.0, 1.0),
) -> CP:
    """Σ_i q_i K(x - x_i) on n^d cell centres, from K on the doubled grid (2n cells, doubled box), by shifting columns.

    Every particle is moved to the nearest corner of cells, so that its copy of the reference is a window of it; where
    that is too coarse use :meth:`GaussianSum.potential`. One column per particle and column of ``reference``.
    """
    charges, positions = _particles(charges, positions)
    a, b = box
    sizes = [size // 2 for size in reference.shape]
    if any(size % 2 for size in reference.shape) or len(sizes) != positions.shape[1]:
        raise ValueError(
            f"a reference of shape {reference.shape} does not fit {positions.shape[1]} coordinates on a doubled grid"
        )
    factors = []
    for k, n in enumerate(sizes):
        corner = np.rint((positions[:, k] - a) / (b - a) * n).astype(int)
        if ((corner < 0) | (corner > n)).any():
            raise ValueError(f"particles lie outside [{a}, {b}] in coordinate {k}")
        window = np.arange(n)[:, None] + n - corner[None, :]  # cell × particle -> row of the reference
        factors.append(reference.factors[k].numpy()[window].reshape(n, -1))
    weights = charges[:, None] * reference.weights.numpy()[None, :]
    return CP(weights.ravel(), tuple(factors))


def reduce_cp_rank(cp: CP, tol: float) -> CP:
    """Canonical to Tucker to canonical: fewer columns, error about ``tol`` relative to the tensor's norm.

    A reduced HOSVD (with room to spare) leaves a small core; its slices along the shortest mode are cut by SVDs. Where
    columns cancel to less than 1e-8 of their weights the norm is rounding noise, and that part stands for it.
    """
    check_truncation(tol, None, cp.shape)
    unit = cp.normalized()
    weights = unit.weights.numpy()
    factors = [F.numpy() for F in unit.factors]
    square = float(weights @ prod(F.T @ F for F in factors) @ weights)  # of the tensor's norm
    total = float(np.abs(weights).sum())
    part = np.sqrt(max(square / total**2, np.finfo(np.float64).eps)) if total else 1.0
    core, bases = rhosvd_tol(weights, factors, tol * min(float(part), 1.0))
    scales, small = _core_to_cp(core, tol * float(np.linalg.norm(core)))
    return CP(scales, tuple(U @ S for U, S in zip(bases, small, strict=True)))


def _core_to_cp(core: np.ndarray, tail: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """A small full tensor as CP with an error of at most ``tail`` (Frobenius)."""
    if core.ndim == 1:
        return np.ones(1), [core[:, None]]
    if core.ndim == 2:
        U, s, Vt = np.linalg.svd(core, full_matrices=False)
        rank = rank_for_tail(s**2, tail**2)
        return s[:rank], [U[:, :rank], Vt[:rank].T]
    mode = int(np.argmin(core.shape))
    slices = [_core_to_cp(part, tail / np.sqrt(core.shape[mode])) for part in np.moveaxis(core, mode, 0)]
    counts = [len(weights) for weights, _ in slices]
    factors = [np.hstack(list(columns)) for columns in zip(*(columns for _, columns in slices), strict=True)]
    factors.insert(mode, np.repeat(np.eye(core.shape[mode]), counts, axis=1))
    return np.concatenate([weights for weights, _ in slices]), factors


@dataclass(frozen=True, eq=False)
class RangeSeparated:
    """The potential of charged particles: a smooth long-range function and one short-range kernel for all."""

    charges: Float[np.ndarray, " count"]
    positions: Float[np.ndarray, "count d"]
    long: ChebTucker
    short: GaussianSum
    cutoff: float  # beyond this distance the short-range kernel is taken as zero

    @classmethod
    def from_particles(
        cls,
        charges: Float[np.ndarray, " count"],
        positions: Float[np.ndarray, "count d"],
        kernel: GaussianSum,
        m: int = 129,
        domain: object = None,
        tol: float = 1e-7,
        long_terms: int | None = None,
    ) -> RangeSeparated:
        """Mesh-free: the Gaussians of the long range are evaluated at the Chebyshev nodes themselves.

        The cutoff is where the widest short-range Gaussian has fallen to ``tol``.
        """
        charges, positions = _particles(charges, positions)
        long, short = kernel.split(long_terms)
        box = as_domain(domain, positions.shape[1])
        nodes = [chebyshev.chebpts(m, *ends) for ends in box]
        cp = long.potential(charges, positions, nodes).normalized()
        function = from_columns(cp.weights.numpy(), [F.numpy() for F in cp.factors], box, tol)
        cutoff = float(np.sqrt(-np.log(tol)) / short.exponents[0]) if len(short) else 0.0
        return cls(charges, positions, function, short, cutoff)

    def __call__(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """The potential at points (away from the particles, where it is infinite but for the quadrature)."""
        points = np.asarray(points, dtype=np.float64)
        return self.long(points) + self.short_range(points)

    def short_range(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Σ_i q_i K_short(|x - x_i|) over the particles within the cutoff."""
        values = np.empty(len(points))
        step = max(1, _PAIRS // len(self.charges))
        for start in range(0, len(points), step):
            part = slice(start, start + step)
            gaps = np.linalg.norm(points[part, None, :] - self.positions[None, :, :], axis=2)
            near = gaps <= self.cutoff
            kernel = np.zeros_like(gaps)
            kernel[near] = self.short(gaps[near])
            values[part] = kernel @ self.charges
        return values

    @property
    def storage(self) -> int:
        """Numbers stored: the long-range function, the particles, and one short-range reference."""
        return self.long.storage + self.charges.size + self.positions.size + 2 * len(self.short)


def _check_split(long_terms: int | None, terms: int) -> int:
    cut = default_long_terms(terms) if long_terms is None else int(long_terms)
    if not 1 <= cut <= terms:
        raise ValueError(f"long_terms {cut} must lie between 1 and the number of terms, {terms}")
    return cut


def _particles(charges: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    charges, positions = np.asarray(charges, dtype=np.float64), np.asarray(positions, dtype=np.float64)
    if positions.ndim != 2 or charges.shape != positions.shape[:1] or charges.size == 0:
        raise ValueError(f"charges {charges.shape} and positions {positions.shape} must be (count,) and (count, d)")
    if not (np.isfinite(charges).all() and np.isfinite(positions).all()):
        raise ValueError("charges and positions must be finite")
    return charges, positions
