"""Fitting volumes by sums of products: CP by alternating least squares (many tensors at once), VM, Tucker, blocks.

The study behind Strivec's toy example: how many weights does a volume need in a global format, and how many in small
blocks of one rank each? ``local_cp`` cuts a volume into blocks, leaves out the empty ones and fits the others by the
same solver as ``global_cp`` fits the whole.

Source: Gao et al., Strivec (2023, arXiv 2307.13226); CP by alternating least squares: Kolda, Bader (2009).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

RIDGE = 1e-9  # of the mean diagonal of the normal equations


@dataclass(frozen=True)
class Fitted:
    """An approximation of a volume and the number of values that it is given by."""

    volume: Float[Tensor, "x y z"]
    weights: int

    def error(self, target: Float[Tensor, "x y z"]) -> float:
        """Frobenius norm of the difference over that of ``target``."""
        return float((self.volume - target).norm() / target.norm())


def cp_als(
    tensors: Float[Tensor, "b x y z"], rank: int, *, sweeps: int = 100, generator: torch.Generator
) -> tuple[Float[Tensor, "b x r"], Float[Tensor, "b y r"], Float[Tensor, "b z r"]]:
    """CP factors of a batch of tensors by alternating least squares from uniform values; errors never grow.

    The columns are balanced: those of one component have one norm.
    """
    if rank < 1:
        raise ValueError(f"rank {rank} must be at least 1")
    if tensors.ndim != 4:
        raise ValueError(f"tensors must be (batch, x, y, z), got shape {tuple(tensors.shape)}")
    b, *sizes = tensors.shape
    x, y, z = (torch.rand((b, s, rank), generator=generator, dtype=tensors.dtype) for s in sizes)
    flat, turned = tensors.reshape(b, sizes[0] * sizes[1], sizes[2]), tensors.reshape(b, sizes[0], -1).mT.contiguous()
    for _ in range(sweeps):
        onto_z = torch.bmm(flat, z).view(b, sizes[0], sizes[1], rank)
        x = _solve(torch.einsum("bxyr,byr->bxr", onto_z, y), y, z)
        y = _solve(torch.einsum("bxyr,bxr->byr", onto_z, x), x, z)
        onto_x = torch.bmm(turned, x).view(b, sizes[1], sizes[2], rank)
        z = _solve(torch.einsum("byzr,byr->bzr", onto_x, y), x, y)
        x, y, z = _balanced(x, y, z)
    return x, y, z


def cp_volume(
    x: Float[Tensor, "b x r"], y: Float[Tensor, "b y r"], z: Float[Tensor, "b z r"]
) -> Float[Tensor, "b x y z"]:
    """The sum of outer products."""
    b, n, rank = x.shape
    pairs = torch.einsum("bxr,byr->bxyr", x, y).reshape(b, -1, rank)
    return torch.bmm(pairs, z.mT).view(b, n, y.shape[1], z.shape[1])


def _solve(
    right: Float[Tensor, "b n r"], first: Float[Tensor, "b m r"], second: Float[Tensor, "b k r"]
) -> Float[Tensor, "b n r"]:
    gram = (first.mT @ first) * (second.mT @ second)
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    ridge = RIDGE * diagonal.mean(-1, keepdim=True) + torch.finfo(gram.dtype).tiny
    gram = gram + torch.diag_embed(ridge.expand_as(diagonal))
    return torch.linalg.solve(gram, right.mT).mT


def _balanced(*factors: Float[Tensor, "b _ r"]) -> list[Float[Tensor, "b _ r"]]:
    norms = [factor.norm(dim=1, keepdim=True).clamp(min=1e-30) for factor in factors]
    shared = (norms[0] * norms[1] * norms[2]) ** (1 / 3)
    return [factor * (shared / norm) for factor, norm in zip(factors, norms, strict=True)]


def global_cp(
    volume: Float[Tensor, "x y z"], rank: int, *, sweeps: int = 100, restarts: int = 1, generator: torch.Generator
) -> Fitted:
    """One CP tensor for the whole volume: the best of ``restarts``."""
    fits = []
    for _ in range(restarts):
        fits.append(cp_volume(*cp_als(volume[None], rank, sweeps=sweeps, generator=generator))[0])
    best = min(fits, key=lambda found: float((found - volume).norm()))
    return Fitted(best, rank * sum(volume.shape))


def blocks_of(volume: Float[Tensor, "x y z"], size: int) -> Float[Tensor, "b size size size"]:
    """Cubes of ``size`` voxels, in the order of the volume; its sides must be multiples of ``size``."""
    if any(side % size for side in volume.shape):
        raise ValueError(f"blocks of {size} voxels do not fill a volume of {tuple(volume.shape)}; use a divisor")
    a, b, c = (side // size for side in volume.shape)
    cut = volume.reshape(a, size, b, size, c, size).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(-1, size, size, size)


def from_blocks(blocks: Float[Tensor, "b size size size"], shape: tuple[int, ...]) -> Float[Tensor, "x y z"]:
    """The volume of ``shape`` that :func:`blocks_of` cut."""
    size = blocks.shape[-1]
    a, b, c = (side // size for side in shape)
    return blocks.reshape(a, b, c, size, size, size).permute(0, 3, 1, 4, 2, 5).reshape(shape)


def occupied_blocks(volume: Float[Tensor, "x y z"], size: int) -> Int[Tensor, "k"]:
    """Which blocks are not zero throughout."""
    return (blocks_of(volume, size).abs().amax((1, 2, 3)) > 0).nonzero()[:, 0]


def local_cp(
    volume: Float[Tensor, "x y z"], rank: int, size: int, *, sweeps: int = 100, restarts: int = 1,
    generator: torch.Generator,
) -> Fitted:  # fmt: skip
    """One CP tensor of ``rank`` for each occupied block of ``size``³ voxels: for each the best of ``restarts``."""
    blocks = blocks_of(volume, size)
    chosen = occupied_blocks(volume, size)
    if not len(chosen):
        raise ValueError("the volume is zero everywhere; there is no block to fit")
    target = blocks[chosen]
    best = torch.zeros_like(target)
    for _ in range(restarts):
        found = cp_volume(*cp_als(target, rank, sweeps=sweeps, generator=generator))
        better = (found - target).square().sum((1, 2, 3)) < (best - target).square().sum((1, 2, 3))
        best = torch.where(better[:, None, None, None], found, best)
    filled = torch.zeros_like(blocks).index_copy_(0, chosen, best)
    return Fitted(from_blocks(filled, tuple(volume.shape)), 3 * size * rank * len(chosen))


def global_vm(volume: Float[Tensor, "x y z"], rank: int, *, sweeps: int = 30) -> Fitted:
    """TensoRF's vector-matrix format, ``rank`` planes and lines for each axis, by exact minimisation over one axis's
    terms at a time (a truncated SVD of what the other axes leave)."""
    if rank < 1:
        raise ValueError(f"rank {rank} must be at least 1")
    terms = [torch.zeros_like(volume) for _ in range(3)]
    for _ in range(sweeps):
        for axis in range(3):
            left = volume - sum(term for other, term in enumerate(terms) if other != axis)
            terms[axis] = _truncated(left, axis, rank)
    x, y, z = volume.shape
    return Fitted(terms[0] + terms[1] + terms[2], rank * (x + y + z + x * y + y * z + x * z))


def unfolding_svd(volume: Float[Tensor, "x y z"], rank: int) -> Fitted:
    """The best approximation of rank ``rank`` of the unfolding along the axis that allows the smallest error."""
    found = [_truncated(volume, axis, rank) for axis in range(3)]
    best = min(range(3), key=lambda axis: float((found[axis] - volume).norm()))
    side = volume.shape[best]
    return Fitted(found[best], rank * (side + volume.numel() // side))


def tucker(volume: Float[Tensor, "x y z"], rank: int, *, sweeps: int = 20) -> Fitted:
    """Tucker with one rank for every axis, by tensorly's higher-order orthogonal iteration."""
    import tensorly
    from tensorly.decomposition import tucker as orthogonal_iteration

    ranks = [min(rank, side) for side in volume.shape]
    # Whichever backend the caller, or a library that it imports (tltorch does), has set for the process.
    with tensorly.backend_context("numpy"):
        core, factors = orthogonal_iteration(volume.numpy(), rank=ranks, n_iter_max=sweeps, tol=1e-7)
        found = torch.from_numpy(tensorly.tucker_to_tensor((core, factors)))
    return Fitted(found, core.size + sum(factor.size for factor in factors))


def _truncated(volume: Float[Tensor, "x y z"], axis: int, rank: int) -> Float[Tensor, "x y z"]:
    """Projection on the ``rank`` leading left singular vectors of the unfolding along ``axis``."""
    moved = volume.movedim(axis, 0)
    unfolded = moved.reshape(len(moved), -1)
    basis = torch.linalg.eigh(unfolded @ unfolded.T).eigenvectors[:, -rank:]
    return (basis @ (basis.T @ unfolded)).view(moved.shape).movedim(0, axis)


def rank_needed(errors: dict[int, float], bound: float) -> float:
    """The least rank whose error is at most ``bound``; NaN where none is."""
    enough = [rank for rank, error in errors.items() if error <= bound]
    return float(min(enough)) if enough else float("nan")


def svd_rank(matrix: Float[Tensor, "n m"], bound: float) -> int:
    """The least rank of a matrix approximation with relative error at most ``bound`` (exact: Eckart–Young)."""
    squares = torch.linalg.svdvals(matrix).square()
    left = 1 - squares.cumsum(0) / squares.sum()
    return int((left > bound**2 + 1e-12).sum()) + 1
