"""Covariances of a product kernel on a grid: Toeplitz factors and Kronecker algebra, exact, no dense matrix formed.

On a grid of N_1 × … × N_d points the covariance of k(x - x') = Π k_k is K_1 ⊗ … ⊗ K_d (row-major order). Then

    log |K| = Σ_k (Π_{j≠k} N_j) log |K_k|,   K^{-1} U = U ×_1 K_1^{-1} … ×_d K_d^{-1},

so that a million points on 1000 × 1000 need two 1000 × 1000 factors. On equispaced coordinates a factor is Toeplitz:
N kernel values instead of N². Saatçi, "Scalable Inference for Structured Gaussian Process Models" (2011).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def toeplitz(values: Float[Tensor, " n"], *, odd: bool = False) -> Float[Tensor, "n n"]:
    """T_ij = c(i - j) from c(0), …, c(n - 1) of an even function, or of an odd one (a derivative of odd order)."""
    after = values[1:]
    line = torch.cat([after.flip(0), values[:1], -after if odd else after])
    return line.unfold(0, len(values), 1).flip(0)


def equispaced(axis: Float[Tensor, " n"]) -> bool:
    """Whether the coordinates rise in equal steps (to rounding)."""
    steps = torch.diff(axis)
    rounding = 100 * torch.finfo(axis.dtype).eps * float(axis.abs().max())
    return bool(len(axis) < 3 or ((steps - steps[0]).abs() <= rounding).all())


def grid_axes(points: Float[Tensor, "n d"]) -> tuple[Tensor, ...]:
    """The coordinates of a full grid that was given as a list of points in any order.

    Raises:
        ValueError: the points are no grid, so that their covariance is no Kronecker product.
    """
    found = tuple(torch.unique(column) for column in points.unbind(-1))
    size = math.prod(len(axis) for axis in found)
    if size != len(points) or len(torch.unique(points, dim=0)) != len(points):
        raise ValueError(
            f"{len(points)} points with {' x '.join(str(len(a)) for a in found)} different coordinates are no grid: "
            "Kronecker algebra needs every combination once; use a grid, or a dense Gaussian process"
        )
    return found


def cholesky(K: Float[Tensor, "n n"], name: str = "the covariance") -> Float[Tensor, "n n"]:
    """The lower factor; the error says how far from positive definite the matrix is."""
    factor, info = torch.linalg.cholesky_ex(K)
    if int(info) != 0:
        if not bool(torch.isfinite(K).all()):
            raise ValueError(f"{name} holds values that are not finite")
        smallest = float(torch.linalg.eigvalsh(K.detach())[0])
        raise ValueError(
            f"{name} is not positive definite: smallest eigenvalue {smallest:.3g}; "
            f"raise the jitter by at least {max(-2 * smallest, 1e-12):.1g}"
        )
    return factor


def mode_product(U: Tensor, matrix: Float[Tensor, "m n"], mode: int) -> Tensor:
    """U ×_mode matrix: every fibre of that mode multiplied by the matrix."""
    if matrix.shape[1] != U.shape[mode]:
        raise ValueError(f"a matrix of shape {tuple(matrix.shape)} does not fit mode {mode} of {tuple(U.shape)}")
    if mode == U.ndim - 1:
        return U @ matrix.T
    if mode == 0:
        return (matrix @ U.reshape(U.shape[0], -1)).reshape(len(matrix), *U.shape[1:])
    return torch.movedim(torch.tensordot(matrix, U, dims=([1], [mode])), 0, mode)


def kron_apply(matrices: Sequence[Tensor | None], U: Tensor) -> Tensor:
    """(M_1 ⊗ … ⊗ M_d) U for U in the shape of the grid; None stands for the identity."""
    if len(matrices) != U.ndim:
        raise ValueError(f"{len(matrices)} matrices for a tensor of order {U.ndim}")
    for mode, matrix in enumerate(matrices):
        if matrix is not None:
            U = mode_product(U, matrix, mode)
    return U


def kron_dense(matrices: Sequence[Tensor]) -> Tensor:
    """The dense Kronecker product, for small sizes."""
    result = matrices[0]
    for matrix in matrices[1:]:
        result = torch.kron(result.contiguous(), matrix.contiguous())
    return result


class KroneckerCov:
    """K_1 ⊗ … ⊗ K_d through the Cholesky factors of its factors; differentiable.

    Raises:
        ValueError: a factor is not positive definite.
    """

    def __init__(self, factors: Sequence[Float[Tensor, "n n"]]):
        self.factors = tuple(factors)
        self.shape = tuple(len(K) for K in self.factors)
        self.roots = tuple(cholesky(K, f"covariance factor {k}") for k, K in enumerate(self.factors))

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def matmul(self, U: Tensor) -> Tensor:
        """K U."""
        return kron_apply(self.factors, U)

    def solve(self, U: Tensor) -> Tensor:
        """K^{-1} U."""
        for mode, root in enumerate(self.roots):
            fibres = torch.movedim(U, mode, 0)
            solved = torch.cholesky_solve(fibres.reshape(self.shape[mode], -1), root)
            U = torch.movedim(solved.reshape(fibres.shape), 0, mode)
        return U

    def logdet(self) -> Tensor:
        """log |K|."""
        parts = [
            2 * self.size / n * root.diagonal().log().sum() for n, root in zip(self.shape, self.roots, strict=True)
        ]
        return torch.stack(parts).sum()

    def quadratic(self, U: Tensor) -> Tensor:
        """U' K^{-1} U."""
        return (U * self.solve(U)).sum()

    def dense(self) -> Tensor:
        """K itself, for small sizes."""
        return kron_dense(self.factors)
