"""What the theory promises of accelerated tensor methods, and what no method can beat, as numbers.

Upper bound, for a convex f with |x₀ - x*| ≤ R and the weights of :class:`~.ascn.Schedule`. The estimating function lies
below f/A_{T-1} plus its powers at x*, and above f(x_T)/A_{T-1}, so that

    f(x_T) - f* ≤ A_{T-1} ((k₂ + λ) R²/2 + c₃ R³/6 + c₄ R⁴/24) + noise,

all weights at T - 1. With an exact gradient, a Hessian within ``sigma2`` and exact steps the noise is 0 and the bound a
certificate: (8/3) (p+1)^(p+1)/(p+1)! · M R^(p+1)/(T+p)^(p+1), that is 12 M R³/(T+2)³ for p = 2, plus
9 σ₂ R²/(T+2)². The weight 8/3 in front of M suffices because a step of a model with M ≥ 4 L₂ (p = 2) or 6 L₃ (p = 3)
has <∇f(x₊), v - x₊> ≥ K |∇f(x₊)|^((p+1)/p) / M^(1/p) with K = 1.22 and 1.58, and 2^(p-1) p! (p/((p+1)K))^p is 1.19 and
2.57. Gradient noise adds, in expectation, σ₁²/(2λ_t) for each gradient in the sequence and at most 2σ₁²/(A_t δ_t)
for each step; both sums are σ₁R/√T up to a constant, as in the rate of Agafonov et al. (2024, arXiv 2309.01570).

Lower bound (there, too): no method that sees such derivatives is faster than
σ₁R/√T + σ₂R²/T² + L₂R³/T^(7/2) up to a constant.
"""

from __future__ import annotations

import math

from tensorbench.optimizers.base import nonnegative, positive, whole
from tensorbench.optimizers.inexact_tensor.ascn import Schedule
from tensorbench.optimizers.inexact_tensor.estimating import alpha, product_of_rest
from tensorbench.optimizers.landscapes.convex import Landscape, power_chain


def rate_bound(T: int, M: float, R: float, sigma1: float = 0.0, sigma2: float = 0.0, *, p: int = 2) -> float:
    """An upper bound of f(x_T) - f* (in expectation where sigma1 > 0) after T steps of ASCN or S-ARTEM.

    Raises:
        ValueError: T < 1, M or R not positive, a negative sigma, p outside {2, 3}.
    """
    whole("T", T)
    schedule = Schedule(M=positive("M", M), R=positive("R", R), sigma1=sigma1, delta2=sigma2, p=p)
    last = T - 1
    weights = schedule.weights(last)
    bound = sum(weights[f"c{i}"] * R**i / math.factorial(i) for i in (2, 3, 4))
    if sigma1 > 0:
        for t in range(T):
            A = product_of_rest(t, p)
            bound += (alpha(t, p) / A * sigma1) ** 2 / (2 * schedule.lam(t))
            bound += 2 * sigma1**2 / (A * schedule.delta(t))
    return product_of_rest(last, p) * bound


def simple_certificate(T: int, M: float, R: float, *, p: int = 2) -> float:
    """(8/3) (p+1)^(p+1)/(p+1)! · M R^(p+1)/(T+p+1)^(p+1), 12 M R³/(T+3)³ for p = 2: a little below what is proved."""
    whole("T", T)
    q = p + 1
    return 8 / 3 * q**q / math.factorial(q) * positive("M", M) * positive("R", R) ** q / (T + q) ** q


def lower_bound(
    T: int, L2: float, R: float, sigma1: float = 0.0, sigma2: float = 0.0, *, constant: float = 1.0
) -> float:
    """constant · (σ₁R/√T + σ₂R²/T² + L₂R³/T^(7/2)); the theorem leaves the constant open."""
    whole("T", T)
    for name, value in (("sigma1", sigma1), ("sigma2", sigma2), ("L2", L2)):
        nonnegative(name, value)
    positive("R", R)
    return constant * (sigma1 * R / math.sqrt(T) + sigma2 * R**2 / T**2 + L2 * R**3 / T**3.5)


def worst_case_cubic(k: int) -> Landscape:
    """The hard instance for second-order methods: the cubic chain of k coordinates, L₂ ≤ 16."""
    return power_chain(k, 3)
