"""Cheap lower bounds of the spectral norm, which set the step of a preconditioner's update.

Source: the Lipschitz constants of X.-L. Li, Stochastic Hessian Fittings with Lie Groups (2024, arXiv 2402.11858). All
functions take stacks of matrices in the leading dimensions and wait for no device.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Inexact
from torch import Tensor


def lift(x: Tensor) -> Tensor:
    """``x`` in single precision where its own is less; factorisations exist for no less."""
    return x.float() if torch.finfo(x.dtype).eps > 1e-6 else x


def norm_lower_bound(A: Inexact[Tensor, "*stack m n"], *, skew: bool = False) -> Float[Tensor, "*stack"]:
    """‖A‖₂ from below by two products with vectors from the longest row and two from the longest column.

    ‖A‖₂ is seldom more than 1.5 times the bound. A zero matrix gives zero. ``skew`` says that A is skew-symmetric:
    columns then tell what rows do.
    """
    largest = A.abs().amax((-2, -1), keepdim=True)
    A = A / largest.clamp(min=torch.finfo(A.dtype).tiny)  # so that squares neither overflow nor vanish
    rows = _from_longest_row(A)
    return largest[..., 0, 0] * (rows if skew else torch.maximum(rows, _from_longest_row(A.mH)))


def _from_longest_row(A: Tensor) -> Tensor:
    tiny = torch.finfo(A.dtype).tiny
    place = torch.linalg.vector_norm(A, dim=-1).argmax(-1)
    row = A.take_along_dim(place[..., None, None], dim=-2)
    x = row.conj() @ A.mT
    x = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=tiny)
    return torch.linalg.vector_norm(x.conj() @ A, dim=(-2, -1))


def norm_lower_bound_spd(
    A: Inexact[Tensor, "*stack n n"], k: int = 32, half_iters: int = 2, *, generator: torch.Generator | None = None
) -> Float[Tensor, "*stack"]:
    """‖A‖₂ of positive semi-definite A from below, by 2 ``half_iters`` products with ``k`` vectors.

    The vectors lie around the longest row, which has a component along the leading eigenvectors of a matrix of low rank
    where independent vectors miss them. They are not made orthogonal: a rough value is enough.
    """
    tiny = torch.finfo(A.dtype).tiny
    largest = A.diagonal(dim1=-2, dim2=-1).abs().amax(-1)[..., None, None]
    A = A / largest.clamp(min=tiny)
    place = torch.linalg.vector_norm(A, dim=-1).argmax(-1)
    row = A.take_along_dim(place[..., None, None], dim=-2)
    V = torch.randn(*A.shape[:-2], k, A.shape[-1], dtype=A.dtype, device=A.device, generator=generator)
    V = row + torch.sgn((row * V.conj()).sum(-1, keepdim=True)) * V
    for _ in range(half_iters):
        V = V @ A
        V = V / torch.linalg.vector_norm(V, dim=-1, keepdim=True).clamp(min=tiny)
        V = V @ A
    return largest[..., 0, 0] * torch.linalg.vector_norm(V, dim=-1).amax(-1)


def track(L: Float[Tensor, "*stack"], ell: Float[Tensor, "*stack"], beta: float) -> Float[Tensor, "*stack"]:
    """The Lipschitz constant after one more local one: max(β L + (1 - β) ℓ, ℓ) rises at once and forgets slowly."""
    return torch.maximum(torch.lerp(ell.to(L.dtype), L, beta), ell.to(L.dtype))
