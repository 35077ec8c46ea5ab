"""The fitting criterion c(P) = E[hᵀ P h + vᵀ P⁻¹ v] for h = H v, v ~ N(0, I): its minimum, gradients and curvature.

Source: X.-L. Li, Stochastic Hessian Fittings with Lie Groups (2024, arXiv 2402.11858).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

Geometry = Literal["euclid", "spd", "gl", "triangular"]


def criterion(P: Float[Tensor, "n n"], H: Float[Tensor, "n n"]) -> float:
    """c(P) = tr(P H²) + tr(P⁻¹) for symmetric H, definite or not."""
    return float(torch.trace(P @ H @ H) + torch.trace(torch.linalg.inv(P)))


def minimum(H: Float[Tensor, "n n"]) -> float:
    """min c = 2 Σ |λᵢ(H)|."""
    return 2 * float(torch.linalg.eigvalsh(H).abs().sum())


def minimiser(H: Float[Tensor, "n n"], noise: float = 0.0) -> Float[Tensor, "n n"]:
    """(H² + ε² I)^(-1/2): |H|⁻¹ for clean products, with noise of standard deviation ε in h what is fitted then."""
    values, vectors = torch.linalg.eigh(H)
    return (vectors * (values.square() + noise**2).rsqrt()) @ vectors.T


def gradient(at: Float[Tensor, "n n"], H: Float[Tensor, "n n"], geometry: Geometry) -> Float[Tensor, "n n"]:
    """The gradient of c in a geometry.

    ``at`` is P for ``euclid`` (H² - P⁻²) and ``spd`` (P (H² - P⁻²) P, of the affine-invariant metric). For ``gl`` it is
    a factor Q of P = QᵀQ: with dQ = 𝓔 Q, dc = ⟨gradient, 𝓔⟩ and the gradient is 2 (Q H² Qᵀ - (Q Qᵀ)⁻¹); its upper part
    is that of ``triangular``.
    """
    if geometry not in ("euclid", "spd", "gl", "triangular"):
        raise ValueError(unknown("geometry", geometry, ["euclid", "spd", "gl", "triangular"]))
    if geometry in ("euclid", "spd"):
        inverse = torch.linalg.inv(at)
        slope = H @ H - inverse @ inverse
        return slope if geometry == "euclid" else at @ slope @ at
    slope = 2 * (at @ H @ H @ at.T - torch.linalg.inv(at @ at.T))
    return slope if geometry == "gl" else slope.triu()


class Convexity(NamedTuple):
    """Second derivatives of c along Q(t) = exp(t 𝓔) Q with ‖𝓔‖_F = 1."""

    smallest: float  # over the symmetric directions tried
    bound: float  # 4 (λ_min(Q H² Qᵀ) + λ_min((Q Qᵀ)⁻¹)), which no symmetric direction undercuts
    rotations: float  # largest absolute value over the skew-symmetric directions tried, along which P does not change


def strong_convexity_probe(
    Q: Float[Tensor, "n n"], H: Float[Tensor, "n n"], generator: torch.Generator, directions: int = 20
) -> Convexity:
    """Second derivatives by central differences along random directions, against the bound."""
    n, step = len(Q), 1e-3
    H2 = H @ H

    def along(E: Tensor) -> float:
        def c(t: float) -> Tensor:
            moved = torch.linalg.matrix_exp(t * E) @ Q
            return torch.trace(moved @ H2 @ moved.T) + torch.trace(torch.linalg.inv(moved @ moved.T))

        return float((c(step) - 2 * c(0.0) + c(-step)) / step**2)

    symmetric: list[float] = []
    skew: list[float] = []
    for _ in range(directions):
        E = torch.randn(n, n, dtype=Q.dtype, generator=generator)
        for part, found in ((E + E.T, symmetric), (E - E.T, skew)):
            found.append(along(part / torch.linalg.matrix_norm(part)))
    low = [float(torch.linalg.eigvalsh(M)[0]) for M in (Q @ H2 @ Q.T, torch.linalg.inv(Q @ Q.T))]
    return Convexity(min(symmetric), 4 * sum(low), max(map(abs, skew)))
