"""The constants and bounds of the construction, each as a function.

Source of every formula: the ICLR 2023 submission (openreview 70BaDC5ceIO) of T. Marwah, Z. C. Lipton, J. Lu, A.
Risteski, "Neural network approximations of PDEs beyond linearity: a representational perspective", arXiv 2210.12101,
whose energy is ∫ L(∇u) - f u. The ICML 2023 version (L(x, u, ∇u)) was not read beyond its abstract: its constants may
differ, and none of these is to be quoted as its own. Labels: [S] as in the submission, [A] from the algebra of norms
alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tensorbench.core.errors import unknown


class Rates(NamedTuple):
    """[S] What λ, Λ and the Poincaré constant promise: E(u_t) - E* ≤ factor^t (E(u_0) - E*) at step size ``eta``."""

    eta: float
    factor: float
    lower: float

    def gap(self, steps: int, gap: float) -> float:
        """The bound on the energy gap after so many steps."""
        return self.factor**steps * gap

    def steps(self, eps: float, gap: float) -> int:
        """T(ε) = ⌈log(2 gap / (λ ε)) / log(1 / factor)⌉ for a gap E(u_0) - E*."""
        if not (eps > 0 and gap > 0):
            raise ValueError(f"eps {eps} and the energy gap {gap} must be positive")
        if self.factor == 0:
            return 1
        return max(1, math.ceil(math.log(2 * gap / (self.lower * eps)) / -math.log(self.factor)))


def rates(lower: float, upper: float, poincare: float) -> Rates:
    """[S] eta = λ³/((1+C_p)Λ³), factor = 1 - λ⁵/((1+C_p)Λ⁴).

    Raises:
        ValueError: unless 0 < λ ≤ Λ < ∞ and C_p ≥ 0.
    """
    if not 0 < lower <= upper or not math.isfinite(upper):
        raise ValueError(f"0 < λ ≤ Λ < ∞ is needed, got λ = {lower:g} and Λ = {upper:g}")
    if not poincare >= 0:
        raise ValueError(f"the Poincaré constant {poincare:g} must not be negative")
    eta = lower**3 / ((1 + poincare) * upper**3)
    return Rates(eta, 1 - lower**5 / ((1 + poincare) * upper**4), lower)


def poincare_constant(domain: str, d: int, side: float = 1.0) -> float:
    """C_p of ∫u² ≤ C_p ∫|∇u|²: the cube with zero boundary values, or the torus for functions of mean zero."""
    if d < 1 or side <= 0:
        raise ValueError(f"d {d} must be at least 1 and side {side:g} positive")
    constants = {"cube": (side / math.pi) ** 2 / d, "torus": (side / (2 * math.pi)) ** 2}
    if domain not in constants:
        raise ValueError(unknown("domain", domain, constants))
    return constants[domain]


def step_bound(norm: float, operator_norm: float, source_norm: float, eta: float) -> float:
    """[A] |u_{t+1}| ≤ |u_t| + η (|-div L_p + L_u| + |f|), with the norm of the operator as it is measured."""
    return norm + eta * (operator_norm + source_norm)


def rules_bound(
    norm: float, band: float, d: int, eta: float, source_norm: float, *, upper: float = 1.0, reaction: float = 0.0,
    powers: Sequence[tuple[int, float]] = (),
) -> float:  # fmt: skip
    """[A] The same with the operator bounded by the rules, d Λ W² |u| + c |u| + Σ m a |u|^{m-1}, from |u_t| and W_t."""
    power = sum(m * abs(a) * norm ** (m - 1) for m, a in powers)
    return step_bound(norm, d * upper * band**2 * norm + reaction * norm + power, source_norm, eta)


def polynomial_bound(degree: int, coefficients: Sequence[float], d: int) -> float:
    """[S] B = d^{P/2} (Σ_α |A_α|²)^{1/2} of a polynomial of degree P; then |L(g)| ≤ B |g|^P for |g| ≥ 1."""
    if degree < 0 or d < 1:
        raise ValueError(f"degree {degree} must not be negative and d {d} at least 1")
    return d ** (degree / 2) * math.sqrt(sum(abs(a) ** 2 for a in coefficients))


def log10_closed_step(log10_norm: float, band: float, d: int, eta: float, B: float, k: float, p: float) -> float:
    """[S] log10 of (1 + η d (k W_t)² B) |u_t|^p. For norms of at least 1; the source is absorbed."""
    return _log10_growth(math.log10(max(band, 1e-300)), d, eta, B, k) + p * log10_norm


def log10_closed_bounds(
    steps: int, log10_norm: float, band: float, d: int, eta: float, B: float, k: float, p: float
) -> list[float]:
    """[S] log10 of the per-step bound iterated from |u_0| and W_0, with W_{t+1} = k W_t, for t = 0 … steps."""
    logs, log_band = [log10_norm], math.log10(max(band, 1e-300))
    for _ in range(steps):
        logs.append(_log10_growth(log_band, d, eta, B, k) + p * logs[-1])
        log_band += math.log10(k)
    return logs


def log10_closed_total(
    steps: int, log10_norm: float, band: float, d: int, eta: float, B: float, k: float, p: float
) -> float:
    """[S] log10 of (1 + η d k² W_0² B)^{pT+1} |u_0|^{pT}, as printed; it differs from the iterated one where p > 1."""
    growth = _log10_growth(math.log10(max(band, 1e-300)), d, eta, B, k)
    return (p * steps + 1) * growth + p * steps * log10_norm


def log10_headline(eps: float, d: int, B: float, p: float) -> float:
    """[S] log10 of (d B)^{max(p log(1/ε), p^{log(1/ε)})}, without the constant of the O."""
    rounds = math.log(1 / eps)
    return math.log10(d * B) * max(p * rounds, p**rounds)


def _log10_growth(log10_band: float, d: int, eta: float, B: float, k: float) -> float:
    exponent = math.log10(eta * d * B * k**2) + 2 * log10_band
    return exponent if exponent > 300 else math.log10(1 + 10**exponent)


def drift_bound(steps: int, eps: float, upper: float, eta: float, radius: float) -> float:
    """[S] ε_L η R/(Λ + ε_L) ((1 + η(Λ + ε_L))^t - 1): how far flows of L and of an L within ε_L part in t steps.

    As printed. The recursion |e_{t+1}| ≤ (1 + η(Λ + ε_L)) |e_t| + η ε_L R sums to this without the factor η: see
    :func:`drift_bound_summed`, which is what the argument gives.
    """
    return eta * drift_bound_summed(steps, eps, upper, eta, radius)


def drift_bound_summed(steps: int, eps: float, upper: float, eta: float, radius: float) -> float:
    """[A] ε_L R/(Λ + ε_L) ((1 + η(Λ + ε_L))^t - 1), the sum of the recursion."""
    if eps < 0 or upper <= 0 or eta <= 0 or radius < 0 or steps < 0:
        raise ValueError("steps, eps and radius must not be negative, upper and eta positive")
    return eps * radius / (upper + eps) * ((1 + eta * (upper + eps)) ** steps - 1)
