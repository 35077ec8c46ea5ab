"""The Hadamard transform along an axis: orthonormal, with random signs, in n log2 n additions.

Applied to both operands of a product along the axis that is summed, ``(H D a)^T (H D b) = a^T b``: nothing changes but
what the quantiser sees. An outlier, which would claim the scale of its block alone, is spread over its chunk. Long axes
are cut into chunks of n (a block-diagonal transform). Sources: Tseng et al. (2025, arXiv 2502.20586) for FP4 gradients;
Hu, Luschi and Balança (2025, arXiv 2509.17791).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def _check_size(n: int) -> None:
    if n < 1 or n & (n - 1):
        raise ValueError(f"a Hadamard matrix of size {n} is not available; use a power of two")


@functools.cache
def hadamard_matrix(n: int) -> Float[Tensor, "n n"]:
    """Sylvester's matrix, divided by sqrt(n) so that it is orthonormal; symmetric (float64). Do not write to it."""
    _check_size(n)
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h / n**0.5


def hadamard_transform(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """``x @ hadamard_matrix(n)`` along the last axis by butterflies.

    Raises:
        ValueError: a length that is not a power of two.
    """
    n = x.shape[-1]
    _check_size(n)
    y, half = x.reshape(-1, n), 1
    while half < n:
        pairs = y.reshape(-1, n // (2 * half), 2, half)
        left, right = pairs[:, :, 0], pairs[:, :, 1]
        y = torch.stack([left + right, left - right], 2)
        half *= 2
    return (y * n**-0.5).reshape(x.shape)


@dataclass(frozen=True)
class Hadamard:
    """``transform(tensor, axis)`` for ``layers.GemmSpec``: chunks of ``size`` along the axis, signs from ``seed``.

    Args:
        size: a power of two; None transforms the whole axis at once.
        seed: of the random signs, the same for every tensor; None leaves them out.
        pad: fill a ragged last chunk with zeros. The result is then longer than ``x``; products of two such are still
            exact.
    """

    size: int | None = 16
    seed: int | None = 0
    pad: bool = True

    def __post_init__(self) -> None:
        if self.size is not None:
            _check_size(self.size)

    def __call__(self, x: Float[Tensor, "*shape"], axis: int = -1) -> Tensor:
        moved = x.movedim(axis, -1)
        length = moved.shape[-1]
        n = self.size or length
        _check_size(n)
        missing = -length % n
        if missing:
            if not self.pad:
                raise ValueError(
                    f"Hadamard size {n} does not divide axis {axis} of shape {tuple(x.shape)}; pass pad=True"
                )
            moved = torch.nn.functional.pad(moved, (0, missing))
        if self.seed is not None:
            moved = moved * self._signs(moved.shape[-1]).to(x)
        chunks = hadamard_transform(moved.unflatten(-1, (-1, n)))
        return chunks.flatten(-2).movedim(-1, axis)

    def inverse(self, y: Float[Tensor, "*shape"], axis: int, length: int) -> Tensor:
        """The x of ``length`` along ``axis`` that was transformed to ``y``."""
        moved = y.movedim(axis, -1)
        back = hadamard_transform(moved.unflatten(-1, (-1, self.size or moved.shape[-1]))).flatten(-2)
        if self.seed is not None:
            back = back * self._signs(back.shape[-1]).to(y)
        return back[..., :length].movedim(-1, axis)

    def _signs(self, length: int) -> Tensor:
        return _signs(self.seed or 0, length)


@functools.lru_cache(maxsize=64)
def _signs(seed: int, length: int) -> Tensor:
    return 2.0 * torch.randint(2, (length,), generator=torch.Generator().manual_seed(seed)) - 1.0
