"""Kronecker-factored curvature as a Gaussian's covariance: the objective that the inverse-free rule minimises, and the
point where it stops (Lin et al. 2023, arXiv 2302.09738, section 4 and its appendix on inverse-free KFAC).

A layer's preconditioner C ⊗ K, with C = B Bᵀ (d × d, outputs) and K = A Aᵀ (p × p, inputs), minimises

    KL( N(0, C ⊗ K) ‖ N(0, (G ⊗ U + λI)⁻¹) ),

stationary where K⁻¹ = λ tr(C)/d I + tr(CG)/d U and C⁻¹ = λ tr(K)/p I + tr(KU)/p G. In coordinates at A and B the
gradients, per dimension of the other factor, are

    gA = ½ (λ tr(BᵀB)/d AᵀA + tr(BᵀGB)/d AᵀUA − I),   gB = ½ (λ tr(AᵀA)/p BᵀB + tr(AᵀUA)/p BᵀGB − I).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..base import nonnegative, positive, whole
from .structures import Dense, Structure


def gradients(
    A: Tensor,
    B: Tensor,
    U: Float[Tensor, "p p"],
    G: Float[Tensor, "d d"],
    damping: float,
    structures: tuple[Structure, Structure],
) -> tuple[Tensor, Tensor]:
    """(gA, gB) of the module's text, projected on the structures of A and B."""
    inputs, outputs = structures
    vA, vB, AA, BB = inputs.inner(A, U), outputs.inner(B, G), inputs.inner(A), outputs.inner(B)
    gA = damping * mean_trace(BB, outputs) * AA + mean_trace(vB, outputs) * vA
    gB = damping * mean_trace(AA, inputs) * BB + mean_trace(vA, inputs) * vB
    return _less_identity(gA, inputs), _less_identity(gB, outputs)


def mean_trace(X: Tensor, structure: Structure) -> Float[Tensor, ""]:
    """tr/dim of an element that :meth:`Structure.project` made (which keeps the trace)."""
    return structure.trace(X) / structure.dim


def _less_identity(X: Tensor, structure: Structure) -> Tensor:
    return (X - structure.unit_direction(X)) / 2


def fisher_kl(
    A: Float[Tensor, "p p"],
    B: Float[Tensor, "d d"],
    U: Float[Tensor, "p p"],
    G: Float[Tensor, "d d"],
    damping: float,
) -> Float[Tensor, ""]:
    """KL( N(0, BBᵀ ⊗ AAᵀ) ‖ N(0, (G ⊗ U + damping I)⁻¹) ) in nats, over all p·d dimensions.

    Raises:
        ValueError: shapes that do not fit, negative damping, a singular factor.
    """
    nonnegative("damping", damping)
    p, d = len(U), len(G)
    if A.shape != (p, p) or B.shape != (d, d):
        raise ValueError(
            f"A {tuple(A.shape)} and B {tuple(B.shape)} do not fit U {tuple(U.shape)} and G {tuple(G.shape)}"
        )
    trace = (B.T @ G @ B).trace() * (A.T @ U @ A).trace() + damping * A.square().sum() * B.square().sum()
    target = torch.outer(torch.linalg.eigvalsh(G).clamp(min=0), torch.linalg.eigvalsh(U).clamp(min=0)) + damping
    ours = 2 * (d * torch.linalg.slogdet(A)[1] + p * torch.linalg.slogdet(B)[1])
    if not math.isfinite(float(ours)):
        raise ValueError("A or B is singular, so that the Gaussian has no density")
    return (trace - p * d - ours - target.log().sum()) / 2


def fixed_point_residual(
    A: Float[Tensor, "p p"],
    B: Float[Tensor, "d d"],
    U: Float[Tensor, "p p"],
    G: Float[Tensor, "d d"],
    damping: float,
) -> float:
    """How far A and B are from stationary: the larger root mean square of 2gA's and 2gB's eigenvalues.

    It does not change with an affine change of the layer's inputs or outputs (that U and G undergo too).
    """
    found = gradients(A, B, U, G, damping, (Dense(len(U)), Dense(len(G))))
    return max(2 * float(g.norm()) / math.sqrt(len(g)) for g in found)


@dataclass(frozen=True)
class FixedPoint:
    """Where the iteration stopped, the residual after each refresh, and whether the tolerance was reached."""

    A: Float[Tensor, "p p"]
    B: Float[Tensor, "d d"]
    residuals: list[float]
    converged: bool


def fixed_point(
    U: Float[Tensor, "p p"],
    G: Float[Tensor, "d d"],
    damping: float,
    *,
    lr: float = 0.3,
    beta: float = 0.5,
    refreshes: int = 1000,
    tolerance: float = 1e-9,
) -> FixedPoint:
    """Run the inverse-free rule on constant statistics from A = I, B = I until the residual is below ``tolerance``.

    A step is shortened where the momentum's norm would make I − lr·m leave the positive matrices.
    """
    nonnegative("damping", damping)
    positive("lr", lr)
    structures = (Dense(len(U)), Dense(len(G)))
    A, B = (s.identity(U.dtype, U.device) for s in structures)
    mA, mB = torch.zeros_like(A), torch.zeros_like(B)
    residuals: list[float] = []
    for _ in range(whole("refreshes", refreshes)):
        gA, gB = gradients(A, B, U, G, damping, structures)
        residuals.append(max(2 * float(g.norm()) / math.sqrt(len(g)) for g in (gA, gB)))
        if residuals[-1] <= tolerance:
            return FixedPoint(A, B, residuals, True)
        mA, mB = beta * mA + gA, beta * mB + gB
        A, B = (
            X - min(lr, 0.5 / max(float(m.norm()), 1e-300)) * (X @ m) for X, m in ((A, mA), (B, mB))
        )  # the Frobenius norm bounds the largest eigenvalue
    return FixedPoint(A, B, residuals, False)


def damped_kfac(
    U: Float[Tensor, "p p"], G: Float[Tensor, "d d"], damping: float, *, balanced: bool = False
) -> tuple[Float[Tensor, "p p"], Float[Tensor, "d d"]]:
    """Factors (A, B) of KFAC's (U + πsI)⁻¹ and (G + s/π I)⁻¹, s = √damping; π = 1, or the root of the ratio of mean
    eigenvalues where ``balanced`` (Martens and Grosse 2015, section 6.3)."""
    s = math.sqrt(positive("damping", damping))
    pi = math.sqrt(float(U.trace()) / len(U) / (float(G.trace()) / len(G))) if balanced else 1.0

    def factor(M: Tensor, add: float) -> Tensor:
        values, vectors = torch.linalg.eigh(M)
        return vectors / (values.clamp(min=0) + add).sqrt()

    return factor(U, pi * s), factor(G, s / pi)
