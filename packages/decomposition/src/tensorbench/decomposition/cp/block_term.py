"""Symmetric block-term decomposition by the generalised subspace power method.

T = sum_i W_i x_1 A_i x_2 A_i ... x_m A_i with orthonormal bases A_i (d, k_i) of subspaces and symmetric cores W_i, for
even order m = 2n (Kileel, Pereira, arXiv 1912.04007, section on generalised PCA and appendix D). If the flattened cores
have full rank, the range of mat(T) is the sum of the Sym^n(S_i). A global maximum x of |P x^(n)|^2 with value 1 lies in
one subspace S, and S is the kernel of

    I / n + (n-1)/n x x^T - (V x^(n-1)) (V x^(n-1))^T                                        (equation D.3)

because sym(x^(n-1) v) lies in the range exactly for v in S, and has squared norm 1/n (v orthogonal to x) or 1 (v = x).
Core and deflation generalise the rank-one formulas: W = (B^T C B)^-1 with B = V^T Sym^n(A), and the range of C B is
removed from V.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.cp.flattening import flatten, select_rank
from tensorbench.decomposition.cp.inputs import as_generator, check_tensor
from tensorbench.decomposition.cp.power import Side, random_unit, subspace_power
from tensorbench.decomposition.cp.symmetric import asymmetry, compress, expand, khatri_rao_power, symmetric_indices


@dataclass(frozen=True)
class BlockTerms:
    """One orthonormal basis (d, k_i) and one symmetric core (k_i,)*m per block."""

    bases: list[Float[np.ndarray, "d _"]]
    cores: list[Float[np.ndarray, ...]]

    def full(self) -> Float[np.ndarray, ...]:
        total: Any = 0.0
        for basis, core in zip(self.bases, self.cores, strict=True):
            term = core
            for _ in range(core.ndim):  # contract the first mode and append: after m steps the modes are in order
                term = np.tensordot(term, basis, axes=(0, 1))
            total = total + term
        return total


def symmetric_power(basis: Float[np.ndarray, "d k"], order: int) -> Float[np.ndarray, "big small"]:
    """The matrix of Sym^order(basis) between compressed coordinates; orthonormal columns if the basis has them."""
    d, k = basis.shape
    isometry = expand(np.eye(symmetric_indices(k, order).size), k, order)  # k^order rows
    power = np.ones((1, 1))
    for _ in range(order):
        power = np.kron(power, basis)
    return compress(power @ isometry, d, order)


def block_term_spm(
    tensor: Float[Any, ...],
    rank: int | None = None,
    block: int | None = None,
    *,
    maxiter: int = 5000,
    ntries: int = 8,
    gradtol: float = 1e-14,
    ranksel: float = 1e-8,
    kernel_tol: float = 1e-3,
    symmetry_tol: float = 1e-6,
    generator: np.random.Generator | int | None = None,
) -> BlockTerms:
    """Decompose a symmetric tensor of even order m >= 4 into blocks.

    `rank`: rank of the flattening, sum_i C(k_i + n - 1, n) (default: counted with `ranksel`). `block`: dimension of
    every subspace; by default each is read from the eigenvalues of (D.3) below `kernel_tol`. The best of `ntries`
    simultaneous starts is taken for each block. ValueError: odd order, no symmetry, or a rank that `block` does not
    divide into whole blocks.
    """
    array, rng = check_tensor(tensor), as_generator(generator)
    order, dim = array.ndim, array.shape[0]
    if order % 2 or order < 4 or len(set(array.shape)) != 1 or asymmetry(array) > symmetry_tol:
        raise ValueError(
            f"block_term_spm takes symmetric tensors of even order >= 4; got shape {array.shape}, relative asymmetry "
            f"{asymmetry(array) if len(set(array.shape)) == 1 else float('nan'):.1e}"
        )
    half = order // 2
    values, vectors = np.linalg.eigh(flatten(array, (tuple(range(order)),), (half,)))
    by_size = np.argsort(-np.abs(values), kind="stable")
    values, vectors = values[by_size], vectors[:, by_size]
    rank = int(select_rank(np.abs(values), ranksel)) if rank is None else rank
    if block is not None and (block < 1 or rank % comb(block + half - 1, half)):
        raise ValueError(
            f"rank {rank} is not a multiple of {comb(block + half - 1, half)}, that of one block of dimension {block}"
        )
    V, C = vectors[:, :rank], np.diag(1.0 / values[:rank])
    side = Side((0,), (dim,), (half,))
    bases, cores = [], []
    while V.shape[1] > 0:
        starts = [random_unit(dim, ntries, rng)]
        result = subspace_power(
            V, side, starts, maxiter=maxiter, gradtol=gradtol, generator=rng, restol=1e-2 / dim**0.5
        )
        x = result.vectors[0][:, [int(np.argmax(result.objective))]]
        basis = _subspace(V, x, half, block, kernel_tol)
        k = basis.shape[1]
        size = min(comb(k + half - 1, half), V.shape[1])
        B = V.T @ symmetric_power(basis, half)
        inner = B.T @ C @ B
        core = np.linalg.inv((inner + inner.T) / 2)
        cores.append(expand(expand(core, k, half).T, k, half).reshape((k,) * order))
        bases.append(basis)
        rest = np.linalg.qr(C @ B, mode="complete")[0][:, size:]
        V, C = V @ rest, rest.T @ C @ rest
    return BlockTerms(bases, cores)


def _subspace(
    V: np.ndarray, x: Float[np.ndarray, "d 1"], half: int, block: int | None, kernel_tol: float
) -> Float[np.ndarray, "d k"]:
    """Orthonormal basis of the kernel of (D.3) at x."""
    dim = len(x)
    full = expand(V, dim, half).reshape(dim ** (half - 1), dim, V.shape[1])
    contraction = np.einsum("a,adk->dk", khatri_rao_power(x, half - 1)[:, 0], full)
    matrix = np.eye(dim) / half + (half - 1) / half * (x @ x.T) - contraction @ contraction.T
    values, vectors = np.linalg.eigh(matrix)
    k = max(1, int(np.sum(values < kernel_tol))) if block is None else block
    return vectors[:, :k]
