"""Compress a trained Fourier neural operator: decompose its dense spectral weights, or rebuild dense from factored.

What training in factored form (Kossaifi et al., TMLR 2024, arXiv 2310.00120) is to be compared with. Complex tensors
are decomposed by truncated singular values: Tucker by higher-order orthogonal iteration (De Lathauwer, De Moor,
Vandewalle, 2000), TT by successive truncation (Oseledets, 2011), CP by alternating least squares from the singular
vectors of the unfoldings.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import reduce
from typing import cast

import torch
from jaxtyping import Complex
from torch import Tensor

from tensorbench.pde_operators.factored import (
    CP,
    TT,
    Dense,
    Form,
    Rank,
    SpectralWeights,
    Tucker,
    _mode_products,
    khatri_rao,
)
from tensorbench.pde_operators.fno import FNO


def unfold(tensor: Tensor, mode: int) -> Tensor:
    """The matrix (size of the mode, all others)."""
    return tensor.movedim(mode, 0).flatten(1)


def tucker(tensor: Complex[Tensor, "..."], rank: Sequence[int], sweeps: int = 5) -> Tucker:
    """Orthonormal factors of the given ranks and the core they leave; columns of 0 where a rank is too large."""
    factors = [_leading(unfold(tensor, k), r) for k, r in enumerate(rank)]
    for _ in range(sweeps):
        for mode, r in enumerate(rank):
            others = [
                torch.eye(n, dtype=tensor.dtype) if k == mode else f.mH for k, (f, n) in _numbered(factors, tensor)
            ]
            factors[mode] = _leading(unfold(_mode_products(tensor, others, 0), mode), r)
    return Tucker(_mode_products(tensor, [f.mH for f in factors], 0), tuple(factors))


def _numbered(factors: list[Tensor], tensor: Tensor) -> list[tuple[int, tuple[Tensor, int]]]:
    return list(enumerate(zip(factors, tensor.shape, strict=True)))


def _leading(matrix: Tensor, rank: int) -> Tensor:
    left = torch.linalg.svd(matrix, full_matrices=False)[0][:, :rank]
    missing = rank - left.shape[1]
    return torch.cat([left, left.new_zeros(left.shape[0], missing)], dim=1) if missing > 0 else left


def tensor_train(tensor: Complex[Tensor, "..."], rank: Sequence[int]) -> TT:
    """Truncated singular values mode by mode; zeros where a rank exceeds what the tensor has."""
    cores, rest, left = [], tensor, 1
    for size, wanted in zip(tensor.shape[:-1], rank[1:-1], strict=True):
        u, s, v = torch.linalg.svd(rest.reshape(left * size, -1), full_matrices=False)
        kept = min(wanted, s.numel())
        u, rest = u[:, :kept], s[:kept, None] * v[:kept]
        core = u.new_zeros(left, size, wanted)
        core[..., :kept] = u.reshape(left, size, kept)
        rest = torch.cat([rest, rest.new_zeros(wanted - kept, rest.shape[1])])
        cores.append(core)
        left = wanted
    return TT((*cores, rest.reshape(left, tensor.shape[-1], 1)))


def canonical(tensor: Complex[Tensor, "..."], rank: int, sweeps: int = 30, ridge: float = 1e-6, seed: int = 0) -> CP:
    """Alternating least squares, started at leading singular vectors (random ones beyond the size of a mode).

    ``ridge`` times the mean of the Gram matrix's diagonal is added to it, since ranks may exceed what the modes can
    tell apart. Factors come out with columns of norm 1.
    """
    generator = torch.Generator().manual_seed(seed)
    factors = []
    for mode, size in enumerate(tensor.shape):
        start = _leading(unfold(tensor, mode), min(rank, size))
        more = torch.randn(size, max(rank - size, 0), dtype=tensor.dtype, generator=generator) / math.sqrt(size)
        factors.append(torch.cat([start, more], dim=1))
    weights = torch.ones(rank, dtype=tensor.dtype)
    for _ in range(sweeps):
        for mode in range(tensor.ndim):
            others = [f for k, f in enumerate(factors) if k != mode]
            gram = reduce(torch.mul, [f.mH @ f for f in others])
            shift = ridge * gram.diagonal().real.mean() * torch.eye(rank, dtype=tensor.dtype)
            target = unfold(tensor, mode) @ khatri_rao(others).conj()
            solved = torch.linalg.solve(gram + shift, target.mT).mT
            norms = solved.norm(dim=0).clamp_min(torch.finfo(tensor.real.dtype).tiny)
            factors[mode], weights = solved / norms, norms.to(tensor.dtype)
    return CP(weights, tuple(factors))


def decompose(tensor: Complex[Tensor, "..."], factorization: str, rank: int | Sequence[int]) -> Form:
    """The form of whole ranks that approximates ``tensor``; in double precision, and on the CPU, inside."""
    wide = tensor.detach().to("cpu", torch.complex128)
    if factorization == "cp":
        assert isinstance(rank, int)
        return canonical(wide, rank)
    assert not isinstance(rank, int)
    return tucker(wide, rank) if factorization == "tucker" else tensor_train(wide, rank)


def factorize(model: FNO, factorization: str, rank: Rank = 0.1) -> FNO:
    """A copy of a trained model with dense layers whose spectral weights are replaced by factored ones (joint: as one).

    Raises:
        ValueError: a model that is factored already (``reconstruct`` it first), an unknown format or unfit rank.
    """
    compact = copy.deepcopy(model)
    holders = _holders(compact)
    if any(holder.factorization is not None for holder in holders):
        raise ValueError("the weights are factored already; factorize(reconstruct(model), ...) changes the form")
    for index, holder in enumerate(holders):
        fresh = _like(holder, factorization, rank)
        assert fresh.rank is not None
        form = decompose(holder.full(), factorization, fresh.rank)
        fresh.assign(form)
        _replace(compact, index, fresh)
    return compact


def reconstruct(model: FNO) -> FNO:
    """A copy with dense spectral weights, the same function."""
    dense = copy.deepcopy(model)
    for index, holder in enumerate(_holders(dense)):
        fresh = _like(holder)
        fresh.assign(Dense(holder.full().detach()))
        _replace(dense, index, fresh)
    return dense


def _like(holder: SpectralWeights, factorization: str | None = None, rank: Rank = 0.1) -> SpectralWeights:
    """Weights of the same shape, type and device; their values come next."""
    return SpectralWeights(holder.shape, factorization, rank, generator=torch.Generator()).to(holder.parts[0])


def _holders(model: FNO) -> list[SpectralWeights]:
    """The modules that own spectral weights: the joint one, or one a layer."""
    if model.joint is not None:
        return [model.joint.weights]
    return [cast(SpectralWeights, conv.weights) for conv in model.convs]


def _replace(model: FNO, index: int, weights: SpectralWeights) -> None:
    if model.joint is not None:
        model.joint.weights = weights
    else:
        model.convs[index].weights = weights


def compression_ratio(model: FNO) -> float:
    """Spectral weights of the dense model over those of this one."""
    dense = sum(2 * math.prod(holder.shape) for holder in _holders(model))
    kept = sum(p.numel() for holder in _holders(model) for p in holder.parameters())
    return dense / kept


def relative_error(form: Form, tensor: Complex[Tensor, "..."]) -> float:
    """‖form - tensor‖ / ‖tensor‖."""
    return float((form.full() - tensor).norm() / tensor.norm())
