"""Where pairs (v, h) come from: a matrix with or without noise, a drifting one, a torch loss, or gradients.

A source yields pairs of vectors without end (``next``) and knows the matrix that P is compared with, ``target``: the
inverse of the P that its pairs determine. Source: X.-L. Li (2024, arXiv 2402.11858), the section on fitting with noisy
and time-varying Hessians.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

from ..autodiff import Method, grad, hvp
from ..base import checked_loss, nonnegative
from ..flat import flatten
from .fitting_criterion import minimiser

Pair = tuple[Float[Tensor, " n"], Float[Tensor, " n"]]
Products = Literal["exact", "finite_difference"]
_BLOCK = 256  # pairs drawn at a time; few numbers cost less each when drawn together


class PairSource(Iterator[Pair]):
    """An endless source of pairs; ``target`` is what inverts P once it fits."""

    @property
    def target(self) -> Float[Tensor, "n n"]:
        raise NotImplementedError(f"{type(self).__name__} does not know what its pairs determine")


class MatrixPairs(PairSource):
    """h = H v + ε u with v and u standard normal; the target is (H² + ε² I)^½."""

    def __init__(self, H: Float[Tensor, "n n"], generator: torch.Generator, noise: float = 0.0) -> None:
        if H.ndim != 2 or H.shape[0] != H.shape[1] or not torch.allclose(H, H.T):
            raise ValueError(f"H must be a symmetric matrix, got shape {tuple(H.shape)}")
        self.H, self.generator, self.noise = H, generator, nonnegative("noise", noise)
        self._target = torch.linalg.inv(minimiser(H, noise))
        self._pairs: Iterator[Pair] = iter(())

    def __next__(self) -> Pair:
        pair = next(self._pairs, None)
        if pair is None:
            size, dtype = (_BLOCK, len(self.H)), self.H.dtype
            v = torch.randn(size, dtype=dtype, generator=self.generator)
            h = v @ self.H
            if self.noise:
                h = h + self.noise * torch.randn(size, dtype=dtype, generator=self.generator)
            self._pairs = zip(v.unbind(), h.unbind(), strict=True)
            pair = next(self._pairs)
        return pair

    @property
    def target(self) -> Float[Tensor, "n n"]:
        return self._target


class DriftingPairs(PairSource):
    """H ← H + u uᵀ before each pair h = H v, u uniform in [0, 1)ⁿ; the target is the H of the last pair."""

    def __init__(self, H: Float[Tensor, "n n"], generator: torch.Generator) -> None:
        self.H, self.generator = H.clone(), generator
        self._drawn: Iterator[Pair] = iter(())

    def __next__(self) -> Pair:
        pair = next(self._drawn, None)
        if pair is None:
            size, dtype = (_BLOCK, len(self.H)), self.H.dtype
            u = torch.rand(size, dtype=dtype, generator=self.generator)
            v = torch.randn(size, dtype=dtype, generator=self.generator)
            self._drawn = zip(u.unbind(), v.unbind(), strict=True)
            pair = next(self._drawn)
        u, v = pair
        self.H.addr_(u, u)
        return v, self.H @ v

    @property
    def target(self) -> Float[Tensor, "n n"]:
        return self.H


class LossPairs(PairSource):
    """Products with the Hessian of a loss at the present parameters (``hvp_pairs``)."""

    def __init__(
        self,
        closure: Callable[[], Tensor],
        parameters: Sequence[Tensor],
        generator: torch.Generator | None = None,
        products: Products = "exact",
    ) -> None:
        if products not in ("exact", "finite_difference"):
            raise ValueError(unknown("products", products, ["exact", "finite_difference"]))
        self.closure, self.parameters = closure, list(parameters)
        self.generator, self.products = generator, products

    def __next__(self) -> Pair:
        v = [torch.randn(p.shape, dtype=p.dtype, device=p.device, generator=self.generator) for p in self.parameters]
        method: Method = "double_backward" if self.products == "exact" else "finite_difference"
        return flatten(v), flatten(hvp(self.closure, self.parameters, v, method))


def hvp_pairs(
    closure: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    generator: torch.Generator | None = None,
    products: Products = "exact",
) -> LossPairs:
    """Pairs of a torch loss: ``closure`` returns it with its graph and calls no ``backward``."""
    return LossPairs(closure, parameters, generator, products)


def difference_products(
    closure: Callable[[], Tensor], parameters: Sequence[Tensor], v: Sequence[Tensor], gradients: Sequence[Tensor]
) -> list[Tensor]:
    """(∇f(θ + δ v) - ∇f(θ)) / δ with δ = √ε of the precision, for one gradient more than those at θ.

    The closure must be a function of the parameters alone; they are put back exactly.
    """
    delta = max(torch.finfo(p.dtype).eps for p in parameters) ** 0.5
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_add_(list(parameters), list(v), alpha=delta)
    try:
        after = grad(checked_loss(closure), parameters)
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(parameters), kept)
    return [(y - x) / delta for x, y in zip(gradients, after, strict=True)]


class WhiteningPairs(PairSource):
    """v standard normal and independent of h, a gradient from ``gradients``: P fits E[h hᵀ]^(-½)."""

    def __init__(self, gradients: Iterable[Float[Tensor, " n"]], generator: torch.Generator) -> None:
        self.gradients, self.generator = iter(gradients), generator

    def __next__(self) -> Pair:
        h = next(self.gradients)
        return torch.randn(h.shape, dtype=h.dtype, generator=self.generator), h


def tridiagonal(n: int, dtype: torch.dtype = torch.float64) -> Float[Tensor, "n n"]:
    """The paper's Hessian: 1 on the diagonal, ½ beside it; its eigenvalues are 1 + cos(π k / (n + 1))."""
    beside = torch.full((n - 1,), 0.5, dtype=dtype)
    return torch.eye(n, dtype=dtype) + torch.diag(beside, 1) + torch.diag(beside, -1)
