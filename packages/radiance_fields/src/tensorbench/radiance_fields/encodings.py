"""Encodings of positions and directions: sines and cosines, spherical harmonics, hash grids; and an exponential whose
gradient cannot overflow.

* :func:`positional`: Mildenhall et al., NeRF (2020, arXiv 2003.08934), equation 4 without its factor π.
* :func:`spherical_harmonics`: real harmonics with the signs of instant-ngp and of Gaussian splatting.
* :class:`HashGrid`: Müller, Evans, Schied and Keller, instant-ngp (2022, arXiv 2201.05989), equations 2 to 4.
* :func:`trunc_exp`: the density activation of torch-ngp and of progressive volume distillation (arXiv 2211.15977).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

PRIMES = (1, 2654435761, 805459861)  # equation 4 of instant-ngp
_MODULUS = 2**32


def positional(
    x: Float[Tensor, "*points d"], frequencies: int, *, include_input: bool = True
) -> Float[Tensor, "*points encoded"]:
    """(x, sin x, cos x, sin 2x, cos 2x, …, sin 2ᵏx, cos 2ᵏx) for k below ``frequencies``; d (2 ``frequencies`` + 1)
    numbers, or 2 d ``frequencies`` without the input itself.

    Raises ValueError where that leaves nothing.
    """
    if frequencies < 0 or (frequencies == 0 and not include_input):
        raise ValueError(f"frequencies {frequencies} leaves nothing of the input; use 1 or more, or include_input=True")
    scales = 2.0 ** torch.arange(frequencies, device=x.device, dtype=x.dtype)
    angles = x[..., None, :] * scales[:, None]
    waves = torch.stack((angles.sin(), angles.cos()), dim=-2).flatten(-3)
    return torch.cat((x, waves), dim=-1) if include_input else waves


def spherical_harmonics(d: Float[Tensor, "*points 3"], degree: int) -> Float[Tensor, "*points basis"]:
    """The (degree + 1)² real spherical harmonics up to ``degree`` (0 to 4) at unit vectors, orthonormal on the sphere.

    ``degree`` is the largest order l. (instant-ngp, and PVD after it, count the orders instead: their "degree 4" of 16
    values is 3 here.) Within an order, m runs from −l to l.

    Raises ValueError for another degree, or vectors that are not three-dimensional.
    """
    if not 0 <= degree <= 4:
        raise ValueError(f"degree {degree}: spherical harmonics are written out for 0 to 4")
    if d.shape[-1] != 3:
        raise ValueError(f"directions have 3 components, got shape {tuple(d.shape)}")
    x, y, z = d.unbind(-1)
    values = [torch.full_like(x, 0.5 / math.sqrt(math.pi))]
    if degree >= 1:
        c = math.sqrt(3 / (4 * math.pi))
        values += [-c * y, c * z, -c * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        c = math.sqrt(15 / (4 * math.pi))
        values += [c * x * y, -c * y * z, math.sqrt(5 / (16 * math.pi)) * (3 * zz - 1), -c * x * z, c / 2 * (xx - yy)]
    if degree >= 3:
        a, b, c = math.sqrt(35 / (32 * math.pi)), math.sqrt(105 / (4 * math.pi)), math.sqrt(21 / (32 * math.pi))
        values += [-a * y * (3 * xx - yy), b * x * y * z, c * y * (1 - 5 * zz),
                   math.sqrt(7 / (16 * math.pi)) * z * (5 * zz - 3),
                   c * x * (1 - 5 * zz), b / 2 * z * (xx - yy), -a * x * (xx - 3 * yy)]  # fmt: skip
    if degree >= 4:
        a, b = 0.75 * math.sqrt(35 / math.pi), 0.75 * math.sqrt(35 / (2 * math.pi))
        c, e = 0.75 * math.sqrt(5 / math.pi), 0.75 * math.sqrt(5 / (2 * math.pi))
        values += [a * x * y * (xx - yy), -b * y * z * (3 * xx - yy), c * x * y * (7 * zz - 1),
                   e * y * z * (3 - 7 * zz), 3 / 16 / math.sqrt(math.pi) * (35 * zz * zz - 30 * zz + 3),
                   e * x * z * (3 - 7 * zz), c / 2 * (xx - yy) * (7 * zz - 1), -b * x * z * (xx - 3 * yy),
                   a / 4 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy))]  # fmt: skip
    return torch.stack(values, dim=-1)


class _TruncExp(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.exp()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * x.clamp(-12, 12).exp()


def trunc_exp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """exp(x) with the gradient exp(clamp(x, −12, 12))."""
    return _TruncExp.apply(x)


def corners(
    x: Float[Tensor, "points d"], cells: tuple[int, ...]
) -> tuple[list[Int[Tensor, "points 2"]], Float[Tensor, "points corners"]]:
    """The 2ᵈ nodes around each point of [0, 1]ᵈ on a grid of ``cells`` + 1 nodes a side, and their linear weights.

    The nodes come as two numbers for each axis; the weights in the order of an outer product (the last axis fastest).
    Points outside are moved to the nearest side.
    """
    nodes, weights = [], x.new_ones((len(x), 1))
    for axis, n in enumerate(cells):
        position = x[:, axis].clamp(0, 1) * n
        below = position.detach().floor().clamp(max=n - 1)
        share = position - below
        first = below.to(torch.int32)
        nodes.append(torch.stack((first, first + 1), dim=-1))
        pair = torch.stack((1 - share, share), dim=-1)
        weights = (weights[:, :, None] * pair[:, None, :]).flatten(1)
    return nodes, weights


def dense_index(nodes: list[Int[Tensor, "points 2"]], cells: tuple[int, ...]) -> Int[Tensor, "points corners"]:
    """Rows of a table of all nodes, the last axis fastest."""
    index = nodes[0]
    for pair, n in zip(nodes[1:], cells[1:], strict=True):
        index = (index[:, :, None] * (n + 1) + pair[:, None, :]).flatten(1)
    return index


def hashed_index(nodes: list[Int[Tensor, "points 2"]], log2_table: int) -> Int[Tensor, "points corners"]:
    """Rows by the spatial hash of instant-ngp: the exclusive or of the axes' node numbers times large primes, modulo
    2 to the power ``log2_table``. (The products wrap around in 32 bits, whose low bits are those of the exact ones.)"""
    index: Tensor | None = None
    for pair, prime in zip(nodes, PRIMES, strict=False):
        signed = prime if prime < _MODULUS // 2 else prime - _MODULUS
        product = pair * signed
        index = product if index is None else (index[:, :, None] ^ product[:, None, :]).flatten(1)
    assert index is not None
    return index & (2**log2_table - 1)


def gather(
    table: Float[Tensor, "rows f"], index: Int[Tensor, "points corners"], weights: Float[Tensor, "points corners"]
) -> Float[Tensor, "points f"]:
    """Σ over the corners of weight × row: differentiable in the table and in the weights."""
    return F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")


class HashGrid(nn.Module):
    """Features of points of [0, 1]ᵈ from ``levels`` grids of growing resolution, each interpolated linearly.

    Level l has floor(``base`` bˡ) cells a side, b = (``finest`` / ``base``)^(1 / (levels − 1)). Its nodes have rows of
    their own where 2^``log2_table`` rows suffice, else they share them by the spatial hash. The output concatenates
    the levels. Tables start uniform in ±10⁻⁴.

    >>> grid = HashGrid(1, levels=6, features=2, base=8, finest=256, generator=torch.Generator().manual_seed(0))
    >>> grid(torch.rand(5, 1)).shape
    torch.Size([5, 12])
    """

    def __init__(
        self,
        dims: int = 3,
        levels: int = 14,
        features: int = 2,
        base: int = 16,
        finest: int = 2048,
        log2_table: int = 19,
        generator: torch.Generator | None = None,
        *,
        scale: float = 1e-4,
    ) -> None:
        super().__init__()
        if dims not in (1, 2, 3):
            raise ValueError(f"dims {dims}: a hash grid has 1, 2 or 3 axes")
        if levels < 1 or features < 1:
            raise ValueError(f"levels {levels} and features {features} must be at least 1")
        if not 1 <= base <= finest:
            raise ValueError(f"base {base} must be at least 1 and at most finest {finest}")
        if not 1 <= log2_table <= 24:
            raise ValueError(f"log2_table {log2_table} must be between 1 and 24: the table has 2 to that power rows")
        growth = (finest / base) ** (1 / max(levels - 1, 1))
        self.dims, self.features, self.log2_table = dims, features, log2_table
        self.resolutions = [math.floor(base * growth**level + 1e-6) for level in range(levels)]
        rows = [min(2**log2_table, (n + 1) ** dims) for n in self.resolutions]
        self.tables = nn.ParameterList(
            nn.Parameter((2 * torch.rand(count, features, generator=generator) - 1) * scale) for count in rows
        )

    @property
    def width(self) -> int:
        """How many features a point gets: levels × features."""
        return len(self.tables) * self.features

    def is_dense(self, level: int) -> bool:
        """Whether every node of the level has a row of its own."""
        return (self.resolutions[level] + 1) ** self.dims <= 2**self.log2_table

    def index(self, nodes: list[Int[Tensor, "points 2"]], level: int) -> Int[Tensor, "points corners"]:
        """The rows of a level's nodes."""
        if self.is_dense(level):
            return dense_index(nodes, (self.resolutions[level],) * self.dims)
        return hashed_index(nodes, self.log2_table)

    def forward(self, x: Float[Tensor, "*points d"]) -> Float[Tensor, "*points width"]:
        """The features at ``x`` in [0, 1]ᵈ (moved to the nearest side where it is outside)."""
        if x.shape[-1] != self.dims:
            raise ValueError(f"points have {x.shape[-1]} coordinates, this grid has {self.dims} axes")
        flat = x.reshape(-1, self.dims)
        levels = []
        for level, (table, n) in enumerate(zip(self.tables, self.resolutions, strict=True)):
            nodes, weights = corners(flat, (n,) * self.dims)
            levels.append(gather(table, self.index(nodes, level), weights.to(table.dtype)))
        return torch.cat(levels, dim=-1).reshape(*x.shape[:-1], self.width)
