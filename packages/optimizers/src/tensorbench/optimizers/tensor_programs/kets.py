"""Kets, brackets and Gaussian matrices of infinite size, by Monte Carlo.

A *ket* is what a vector of the program becomes at infinite width: a random variable, of which all coordinates are
copies. Here it is N samples of it; a block of kets has the shape (samples, kets). All kets of a :class:`Space` share
their samples, so that a bracket <x|y> = E[x y] is a mean over rows.

A Gaussian matrix W with entries N(0, sigma²/n) is revealed as it is multiplied. For orthonormal q_i that span what W
was applied to, p_j that span what its transpose was applied to, and fresh independent Gaussians e_i and f_j,

    W|x>  =  sigma sum_i |e_i><q_i|x>  +  sigma sum_j |p_j><f_j|x>     (hat part + dot part)
    W'|y> =  sigma sum_j |f_j><p_j|y>  +  sigma sum_i |q_i><e_i|y>

since <f_j|x> = E[dx / df_j] (Stein): this is the rule of the paper, |dot W x> = sigma² sum_y |y> E[dx / d hat(W'y)],
in an orthonormal basis. It needs no derivative of x, so that signs and clipping are allowed. Fresh Gaussians are drawn
with sample moments that match (mean 0, orthonormal, orthogonal to the p's of their own matrix), which removes most of
the noise of brackets.

Yang, Littwin: Tensor Programs IVb (2023, arXiv 2308.01814), the language NE-X-OR-T and its limit in bra-ket notation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.optimizers import base

Ket = Float[Tensor, "samples kets"]
Scalar = Float[Tensor, "kets other"]
_BLOCK = 200_000  # entries of a nonlinear outer product at a time: they stay in the processor's cache


class Product(NamedTuple):
    """A Gaussian matrix times kets, in its two parts."""

    hat: Tensor
    dot: Tensor

    @property
    def ket(self) -> Tensor:
        return self.hat + self.dot


class Space:
    """N samples, and the randomness that they come from.

    Raises:
        ValueError: fewer than 2 samples.
    """

    def __init__(self, samples: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> None:
        self.samples, self.generator, self.dtype = base.whole("samples", samples, 2), generator, dtype
        self.ones = torch.ones(samples, 1, dtype=dtype)
        self._independent: list[Tensor] = [self.ones]

    def vector(self, kets: int = 1, std: float = 1.0) -> Ket:
        """Independent Gaussian kets with the given standard deviation."""
        drawn = self.fresh(kets, self._independent)
        self._independent.append(drawn)
        return base.nonnegative("std", std) * drawn

    def matrix(self, sigma: float = 1.0) -> GaussianMatrix:
        """A Gaussian matrix, independent of all others."""
        return GaussianMatrix(self, sigma)

    def fresh(self, count: int, against: list[Tensor]) -> Ket:
        """Standard Gaussians whose sample moments match: orthonormal, and orthogonal to the columns of ``against``."""
        columns = torch.cat(against, 1)
        if self.samples < 2 * (columns.shape[1] + count):
            raise ValueError(
                f"{self.samples} samples are too few for {columns.shape[1] + count} kets; use at least twice as many"
            )
        drawn = torch.randn(self.samples, count, generator=self.generator, dtype=self.dtype)
        drawn -= columns @ (torch.linalg.pinv(bracket(columns, columns), hermitian=True) @ bracket(columns, drawn))
        return torch.linalg.solve_triangular(
            torch.linalg.cholesky(bracket(drawn, drawn)).T, drawn, upper=True, left=False
        )


def bracket(x: Ket, y: Float[Tensor, "samples other"]) -> Scalar:
    """<x|y> = E[x y] of each pair."""
    return x.T @ y / len(x)


class _Side:
    """What one side of a matrix has revealed: orthonormal inputs, and the fresh Gaussians that they became."""

    def __init__(self, space: Space) -> None:
        self.inputs = torch.empty(space.samples, 0, dtype=space.dtype)
        self.outputs = torch.empty(space.samples, 0, dtype=space.dtype)
        self.hats: list[Tensor] = []  # coefficients of each product's hat part


class GaussianMatrix:
    """W with entries N(0, sigma²/n): ``matmul`` and ``transpose_matmul`` of kets, and expected derivatives."""

    def __init__(self, space: Space, sigma: float = 1.0) -> None:
        self.space, self.sigma = space, base.positive("sigma", sigma)
        self._right, self._left = _Side(space), _Side(space)

    def matmul(self, x: Ket) -> Product:
        """W|x> for each ket of a block."""
        return self._multiply(x, self._right, self._left)

    def transpose_matmul(self, y: Ket) -> Product:
        """W'|y> for each ket of a block."""
        return self._multiply(y, self._left, self._right)

    def partial(self, x: Ket, number: int = -1, *, transpose: bool = False) -> Scalar:
        """E[dx / dz] for the hat parts z of this matrix's product ``number`` (of its transpose's with ``transpose``).

        Derivatives are by Stein's identity with all hat parts of this side; where these depend linearly on each
        other, the smallest solution.
        """
        side = self._left if transpose else self._right
        if not side.hats:
            raise ValueError("the matrix has not been multiplied on this side yet, so that nothing depends on it")
        width = side.outputs.shape[1]
        padded = [torch.nn.functional.pad(c, (0, 0, 0, width - len(c))) for c in side.hats]
        solved = torch.linalg.lstsq(
            self.sigma * torch.cat(padded, 1), bracket(side.outputs, x), driver="gelsd"
        ).solution
        return solved.split([c.shape[1] for c in side.hats])[number]

    def _multiply(self, x: Tensor, own: _Side, other: _Side) -> Product:
        if x.shape[0] != self.space.samples:
            raise ValueError(f"a ket of this space has {self.space.samples} samples, got {x.shape[0]}")
        rest = x
        for _ in range(2):  # twice, for orthogonality to rounding
            rest = rest - own.inputs @ bracket(own.inputs, rest)
        values, vectors = torch.linalg.eigh(bracket(rest, rest))
        size = float(x.square().mean(0).max()) if x.numel() else 0.0
        new = values > size * (1e-10 if x.dtype == torch.float64 else 1e-6)
        if bool(new.any()):
            fresh = self.space.fresh(int(new.sum()), [self.space.ones, own.outputs, other.inputs])
            own.inputs = torch.cat([own.inputs, rest @ (vectors[:, new] * values[new].rsqrt())], 1)
            own.outputs = torch.cat([own.outputs, fresh], 1)
        seen = bracket(own.inputs, x)
        own.hats.append(seen)
        hat = self.sigma * (own.outputs @ seen)
        return Product(hat, self.sigma * (other.inputs @ bracket(other.outputs, x)))


def outer_nonlin(
    psi: Callable[[Tensor, Tensor], Tensor],
    left: Float[Tensor, "samples rows"],
    right: Float[Tensor, "samples columns"],
    z: Ket,
    copies: int | None = None,
) -> Ket:
    """The nonlinear outer product |psi(left; right)> times z: at each sample a, E over copies b of psi(a, b) z_b.

    ``psi`` takes a block of rows of ``left`` and one of ``right`` and gives a matrix with an entry for each pair, as
    width-n networks have them: sign(sum_i x_i y_i) is ``lambda x, y: (x @ y.T).sign()``. ``copies`` samples serve as
    copies, others for each block of rows, and entries are of single precision; the default is all samples, whose cost
    is quadratic in them.
    """
    samples = len(left)
    copies = samples if copies is None else min(base.whole("copies", copies), samples)
    exact = copies == samples
    rows = max(1, min(samples, _BLOCK // copies))
    out = torch.empty(samples, z.shape[1], dtype=z.dtype)
    start = samples // 2  # far from the rows, for the case that both sides are kets of one layer
    both = torch.cat([right, z], 1)
    if not exact:  # the noise of few copies is far above rounding
        left, both = left.float(), both.float()
    both = torch.cat([both, both[:copies]])  # windows that start anywhere, cyclically
    for first in range(0, samples, rows):
        window = both[:samples] if exact else both[start : start + copies]
        start = (start + copies) % samples
        matrix = psi(left[first : first + rows], window[:, : right.shape[1]])
        out[first : first + rows] = matrix @ window[:, right.shape[1] :] / copies
    return out
