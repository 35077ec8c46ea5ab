"""Moves of a factor without any inverse or solve, and the fitters that they make of vectors.

With D = (P h)(P h)ᵀ - v vᵀ (for QEP: of Q P h and Q v) and a step r = lr / L, L tracking a bound of the sum of the two:

- QUAD: Q ← (I - r D/2) Q (I - r D/2), which keeps Q symmetric;
- QEQ (dQ = Q 𝓔 Q): Q ← Q - r Q D;
- Q0p5EQ1p5 (dQ = Q^½ 𝓔 Q^(3/2)): Q ← Q - r D Q, then a rotation towards a symmetric Q;
- QEP (dQ = Q 𝓔 P): Q ← Q - r D Q;
- PRO4P: as Q0p5EQ1p5 for P itself, rotated until it is symmetric;
- EQ (dQ = 𝓔 Q): the triangular group, whose D is that of Q h and Q⁻ᵀ v and needs a solve; here to compare.

Source: X.-L. Li, Stochastic Hessian Fittings with Lie Groups (2024, arXiv 2402.11858), section on inverse-free fitting.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from tensorbench.core.errors import unknown

from ..base import in_interval, nonnegative, positive
from .fitter import NonFinite, VectorFitter, check_step, damped
from .norm_bounds import lift, norm_lower_bound, track

Geometry = Literal["QUAD", "QEQ", "Q0p5EQ1p5", "QEP", "PRO4P", "EQ"]
GEOMETRIES: tuple[str, ...] = get_args(Geometry)
_ROTATIONS = 10  # at most, of PRO4P in one update
_SYMMETRIC = 1e-3  # largest entry of Q - Qᵀ over that of Q


def check_geometry(name: str) -> Geometry:
    if name not in GEOMETRIES:
        raise ValueError(unknown("geometry", name, GEOMETRIES))
    return name  # type: ignore[return-value]


def procrustes_step(
    Q: Inexact[Tensor, "*stack n n"], max_step: float | None = None, order: Literal[2, 3] = 2
) -> Inexact[Tensor, "*stack n n"]:
    """exp(a R) Q with R = (Qᵀ - Q) / ‖Qᵀ - Q‖: one step of min ‖U Q - I‖_F over rotations U, towards a symmetric Q.

    The exponential is I + aR + (aR)²/2, for ``order`` 3 with (aR)³/8 more, which makes ‖UᵀU - I‖ at most ‖aR‖⁴/4 or
    ‖aR‖⁶/64. The step a maximises tr(U Q) on the line, up to ``max_step`` (1/8 or 1/3). A real Q with a negative
    determinant cannot become positive definite by rotations.
    """
    if max_step is None:
        max_step = 1 / 8 if order == 2 else 1 / 3
    R = Q.mH - Q
    bound = norm_lower_bound(R, skew=True)[..., None, None]
    R = R / bound.clamp(min=torch.finfo(Q.dtype).tiny)
    RQ = R @ Q
    RRQ = R @ RQ
    first, second = _trace(R, Q), _trace(R, RQ)
    if order == 2:
        # tr(UQ) = tr Q + a first + a²/2 second, and first >= 0.
        best = torch.where(second < 0, first / (-second).clamp(min=torch.finfo(first.dtype).tiny), max_step)
        a = best.clamp(0, max_step)[..., None, None].to(Q.dtype)
        return torch.addcmul(torch.addcmul(Q, a, RQ), a * a / 2, RRQ)
    third = _trace(R, RRQ)  # <= 0; where it is zero, Q is symmetric already
    safe = torch.where(third < 0, third, -torch.ones_like(third))
    root = (-second - (second.square() - 1.5 * first * safe).clamp(min=0).sqrt()) / (0.75 * safe)
    a = torch.where((first > 0) & (third < 0), root.clamp(0, max_step), 0)[..., None, None].to(Q.dtype)
    return Q + a * (RQ + (0.5 * a) * (RRQ + (0.25 * a) * (R @ RRQ)))


def _trace(R: Tensor, B: Tensor) -> Tensor:
    """Re tr(R B) of a skew-Hermitian R without the product, in single precision at least."""
    return -torch.linalg.vecdot(lift(R).flatten(-2), lift(B).flatten(-2)).real


def move(
    geometry: Geometry, q: Inexact[Tensor, "*stack n n"], D: Inexact[Tensor, "*stack n n"], step: Tensor
) -> Inexact[Tensor, "*stack n n"]:
    """The factor after one update; ``step`` has the dimensions of the stack."""
    step = step[..., None, None].to(q.dtype)
    if geometry == "QUAD":
        D = (step / 2) * D
        q = q - D @ q
        q = q - q @ D
        return (q + q.mH) / 2
    if geometry == "QEQ":
        return q - step * (q @ D)
    if geometry == "EQ":
        return q - step * (D.triu() @ q)
    q = q - step * (D @ q)
    if geometry == "Q0p5EQ1p5":
        return procrustes_step(q)
    if geometry == "PRO4P":
        for _ in range(_ROTATIONS):
            q = procrustes_step(q, order=3)
            if bool(((q.mH - q).abs().amax((-2, -1)) < _SYMMETRIC * q.abs().amax((-2, -1))).all()):
                break
    return q


def move_diagonal(geometry: Geometry, q: Tensor, D: Tensor, step: Tensor) -> Tensor:
    """The same for a diagonal factor, ``q`` and ``D`` of shape (*stack, n)."""
    change = step[..., None].to(q.dtype) * D
    return q * (1 - change / 2).square() if geometry == "QUAD" else q - change * q


class InverseFree(VectorFitter):
    """Fits a dense factor of P for vectors of n numbers by one of the moves.

    Args:
        geometry: ``QUAD``, ``QEQ``, ``Q0p5EQ1p5``, ``QEP`` or ``PRO4P``.
        lr: normalised step in (0, 2].
        beta: how slowly the Lipschitz constant forgets, in [0, 1).
        damping: noise added to h, an upper bound 1/damping on P.
    """

    def __init__(
        self,
        n: int,
        geometry: Geometry = "Q0p5EQ1p5",
        lr: float = 0.1,
        *,
        init_scale: float = 1.0,
        beta: float = 0.9,
        damping: float = 0.0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        nonfinite: NonFinite = "raise",
    ) -> None:
        super().__init__(n, nonfinite=nonfinite)
        self.geometry = check_geometry(geometry)
        if geometry == "EQ":
            raise ValueError("EQ needs an inverse; use Triangular, or Kron, which takes it")
        self.lr, self.generator = check_step("lr", lr), generator
        self.beta, self.damping = in_interval("beta", beta, 0, 1), nonnegative("damping", damping)
        scale = positive("init_scale", init_scale) ** (2 if geometry == "PRO4P" else 1)
        self.state["Q"] = scale * torch.eye(n, dtype=dtype, device=device)
        self.state["L"] = lift(torch.zeros((), dtype=dtype, device=device))

    def _update(self, v: Tensor, h: Tensor) -> None:
        Q = self.state["Q"]
        a, b = self.apply(damped(h, self.damping, self.generator)), v
        if self.geometry == "QEP":
            a, b = Q @ a, Q @ b
        L = track(self.state["L"], a @ a + b @ b, self.beta)
        self.state["L"] = L
        self.state["Q"] = move(self.geometry, Q, torch.outer(a, a) - torch.outer(b, b), self.lr / L)

    def apply(self, g: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        Q = self.state["Q"]
        return Q @ g if self.geometry == "PRO4P" else Q.T @ (Q @ g)

    @property
    def P(self) -> Float[Tensor, "n n"]:
        Q = self.state["Q"]
        return Q if self.geometry == "PRO4P" else Q.T @ Q


def QUAD(n: int, lr: float = 0.1, **options) -> InverseFree:
    """Symmetric Q by a quadratic form."""
    return InverseFree(n, "QUAD", lr, **options)


def QEQ(n: int, lr: float = 0.1, **options) -> InverseFree:
    """dQ = Q 𝓔 Q."""
    return InverseFree(n, "QEQ", lr, **options)


def Q0p5EQ1p5(n: int, lr: float = 0.1, **options) -> InverseFree:
    """dQ = Q^½ 𝓔 Q^(3/2), the paper's default."""
    return InverseFree(n, "Q0p5EQ1p5", lr, **options)


def QEP(n: int, lr: float = 0.1, **options) -> InverseFree:
    """dQ = Q 𝓔 P."""
    return InverseFree(n, "QEP", lr, **options)


def PRO4P(n: int, lr: float = 0.1, **options) -> InverseFree:
    """dP = P^½ 𝓔 P, P fitted directly."""
    return InverseFree(n, "PRO4P", lr, **options)
