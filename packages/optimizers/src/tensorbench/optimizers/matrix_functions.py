"""The orthogonal factor of a matrix, and inverse roots of a positive definite one.

``orthogonalize`` gives the factor U Vᵀ of G = U S Vᵀ: the step of steepest descent under the spectral norm (Bernstein,
Newhouse 2024, arXiv 2409.20325) and the orthonormal-rowed or -columned matrix nearest to G. Besides the singular value
decomposition itself there are odd polynomials iterated on G/‖G‖_F, which need products of matrices alone:

* ``cubic``: X ← 1.5 X − 0.5 X Xᵀ X (Newton and Schulz), which converges to U Vᵀ;
* ``quintic``: X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X with Jordan's (3.4445, −4.7750, 2.0315), which brings singular values
  to about [0.7, 1.2] in five steps and no nearer to 1 with more;
* ``polar_express``: a fixed sequence of such quintics, each the best for the interval that the ones before it leave
  (Amsel et al. 2025, arXiv 2505.16932), which converges.

``inv_root`` gives A^(−1/p), by eigenvalues or by the coupled Newton iteration (Guo, Higham 2006, SIAM J. Matrix Anal.
28(3)): M ← T^p M, X ← X T with T = ((p + 1) I − M)/p.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

from .base import nonnegative, whole

Method = Literal["svd", "cubic", "quintic", "polar_express", "sketch", "eigh"]
METHODS = ("svd", "cubic", "quintic", "polar_express", "sketch", "eigh")
CUBIC = (1.5, -0.5, 0.0)
QUINTIC = (3.4445, -4.7750, 2.0315)
# For singular values in [0.001, 1] of a matrix that was divided by 1.01 of its norm; the last is repeated.
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
_STEPS = {"cubic": 30, "quintic": 5, "polar_express": 8}


def orthogonalize(
    G: Float[Tensor, "*batch out in"],
    method: Method = "svd",
    steps: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    rank: int | None = None,
    damping: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch out in"]:
    """U Vᵀ of G = U S Vᵀ on G's range; of a zero matrix, zero.

    Args:
        steps: iterations of ``cubic`` (30), ``quintic`` (5) and ``polar_express`` (8).
        dtype: of the computation; G's where it is not given. bfloat16 is enough for ``quintic`` and for no other.
        rank: of ``sketch``: U Vᵀ of G restricted to the span of G Ω for a Gaussian Ω of so many columns.
        damping: of ``eigh``: (G Gᵀ + damping I)^(−1/2) G; with 0, the inverse of the part above rounding alone.
        generator: draws Ω.

    Raises:
        ValueError: an unknown method, fewer than two axes, complex or integer numbers, no ``rank`` for ``sketch``.
    """
    if method not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    if G.ndim < 2 or not G.is_floating_point():
        raise ValueError(f"orthogonalize takes real matrices (..., out, in), got {G.dtype} of shape {tuple(G.shape)}")
    if steps is not None:
        whole("steps", steps)
    work = G if dtype is None else G.to(dtype)
    if method in ("svd", "sketch", "eigh") and work.dtype in (torch.bfloat16, torch.float16):
        work = work.float()
    if G.numel() == 0:
        return torch.zeros_like(G)
    if method == "svd":
        result = _by_svd(work)
    elif method == "sketch":
        if rank is None:
            raise ValueError("method 'sketch' needs rank=..., the number of directions that it keeps")
        result = _by_sketch(work, min(whole("rank", rank), *G.shape[-2:]), generator)
    elif method == "eigh":
        result = _wide(work, lambda X: _by_eigenvalues(X, nonnegative("damping", damping)))
    else:
        count = _STEPS[method] if steps is None else steps
        result = _wide(work, lambda X: _by_polynomials(X, method, count))
    return result.to(G.dtype)


def _wide(G: Tensor, function) -> Tensor:
    """``function`` of G, or of its transpose where that is the one with no more rows than columns."""
    return function(G.mT).mT if G.shape[-2] > G.shape[-1] else function(G)


def _by_svd(G: Tensor) -> Tensor:
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    floor = S[..., :1] * max(G.shape[-2:]) * torch.finfo(S.dtype).eps
    kept = torch.gt(S, floor).to(S.dtype)
    return (U * kept[..., None, :]) @ Vh


def _by_sketch(G: Tensor, rank: int, generator: torch.Generator | None) -> Tensor:
    omega = torch.randn(G.shape[-1], rank, generator=generator, dtype=G.dtype).to(G.device)
    Q, _ = torch.linalg.qr(G @ omega)
    return Q @ _by_svd(Q.mT @ G)


def _by_eigenvalues(G: Tensor, damping: float) -> Tensor:
    return inv_root(G @ G.mT, 2, "eigh", damping=damping) @ G


def _by_polynomials(X: Tensor, method: str, steps: int) -> Tensor:
    """Odd polynomials of the singular values, three products of matrices a step (two for the cubic)."""
    norm = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True, dtype=torch.promote_types(X.dtype, torch.float32))
    slack = 1.01 if method == "polar_express" else 1.0
    # A subnormal sum of squares would be a norm of nothing: such a matrix counts as zero.
    X = torch.where(norm > 0, X / (norm * slack).clamp_min(torch.finfo(norm.dtype).tiny), 0.0).to(X.dtype)
    shape = X.shape
    batched = X.ndim > 2
    X = X.reshape(-1, *shape[-2:]) if batched else X
    add = torch.baddbmm if batched else torch.addmm
    for step in range(steps):
        a, b, c = _coefficients(method, step)
        gram = X @ X.mT
        if c:
            gram = add(gram, gram, gram, beta=b, alpha=c)
            X = add(X, gram, X, beta=a)
        else:
            X = add(X, gram, X, beta=a, alpha=b)
    return X.reshape(shape)


def _coefficients(method: str, step: int) -> tuple[float, float, float]:
    if method == "polar_express":
        return POLAR_EXPRESS[min(step, len(POLAR_EXPRESS) - 1)]
    return CUBIC if method == "cubic" else QUINTIC


def inv_root(
    A: Float[Tensor, "*batch n n"],
    p: int,
    method: Literal["eigh", "newton"] = "eigh",
    *,
    damping: float = 0.0,
    steps: int = 100,
    tolerance: float | None = None,
) -> Float[Tensor, "*batch n n"]:
    """(A + damping I)^(−1/p) of a symmetric A with no negative eigenvalue.

    With ``eigh`` and no damping, eigenvalues within rounding of zero are left out, so that the result is the root of
    the pseudo-inverse. ``newton`` needs A + damping I to be invertible, and stops when no entry of M − I is above
    ``tolerance`` (10 times the rounding of the dtype, times n) or after ``steps``.

    Raises:
        ValueError: not square, p below 1, an unknown method, or the iteration that has not converged.
    """
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise ValueError(f"inv_root takes square matrices, got shape {tuple(A.shape)}")
    whole("p", p)
    nonnegative("damping", damping)
    if method == "eigh":
        values, vectors = torch.linalg.eigh(A)
        floor = values[..., -1:].abs() * A.shape[-1] * torch.finfo(A.dtype).eps
        kept = (values > floor) | (damping > 0)
        powers = torch.where(kept, (values.clamp_min(0) + damping).clamp_min(1e-300 if A.dtype == torch.float64
                             else 1e-38) ** (-1.0 / p), 0.0)  # fmt: skip
        return (vectors * powers[..., None, :]) @ vectors.mT
    if method != "newton":
        raise ValueError(unknown("method", method, ("eigh", "newton")))
    return _coupled_newton(A, p, damping, whole("steps", steps), tolerance)


def _coupled_newton(A: Tensor, p: int, damping: float, steps: int, tolerance: float | None) -> Tensor:
    n = A.shape[-1]
    eye = torch.eye(n, dtype=A.dtype, device=A.device)
    A = A + damping * eye
    tolerance = 10 * n * torch.finfo(A.dtype).eps if tolerance is None else tolerance
    # Eigenvalues of M within (0, p + 1) converge; the Frobenius norm bounds the largest.
    scale = (p + 1) / (2 * torch.linalg.matrix_norm(A, keepdim=True))
    M, X = A * scale, eye * scale ** (1 / p)
    best = torch.full(A.shape[:-2], torch.inf, dtype=A.dtype, device=A.device)
    for _ in range(steps):
        T = ((p + 1) * eye - M) / p
        X, M = X @ T, torch.linalg.matrix_power(T, p) @ M
        M = (M + M.mT) / 2
        error = (M - eye).abs().amax(dim=(-2, -1))
        if bool((error <= tolerance).all()):
            return X
        if bool((error >= best).all() and (error < 1e-2).all()):  # rounding is all that is left
            return X
        best = torch.minimum(best, error)
    raise ValueError(
        f"the coupled Newton iteration is at {float(error.max()):.1e} after {steps} steps; A may be singular: use "
        "damping > 0 or method='eigh'"
    )
