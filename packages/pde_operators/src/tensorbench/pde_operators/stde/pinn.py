"""Physics-informed training with a stochastic operator: biased, unbiased and gradient-enhanced losses.

The residual r(x) = L̂u(x) - g(x) uses a fresh random subset of coordinates (or probes) each step. Its square is biased
by the estimator's variance; the product of two residuals from independent draws is not. The paper's
released code squares one draw by default; here the unbiased product is the default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.stde.local import Local
from tensorbench.pde_operators.stde.sampling import Distribution, coordinates, probes
from tensorbench.pde_operators.taylor import Coordinates, jet

Operator = Callable[[Local], Tensor]
SAMPLINGS = ("sparse", "dense", "full")


@dataclass(frozen=True)
class StochasticPinn:
    """A differential equation ``operator(u) = source`` whose operator is estimated.

    Attributes:
        operator: a function of a :class:`~.local.Local`.
        source: g at the points, or None where ``solution`` gives it: then the same sampled operator acts on that known
            function, and the residual's noise vanishes as the solution is found.
        batch: coordinates (or probes) a draw.
        sampling: ``sparse`` (coordinates), ``dense`` (probes; Laplacians only), ``full`` (every coordinate).
        unbiased: two independent draws, and the product of their residuals; so for the gradient-enhanced term.
        gpinn: weight of the mean squared derivative of the residual along random coordinates; needs ``reaction``, the
            operator then being Δu + reaction(u).
        dims: coordinates that are sampled, the first so many (default: all); what follows, time say, is not.
    """

    operator: Operator
    source: Callable[[Tensor], Tensor] | None = None
    solution: Callable[[Any], Any] | None = None
    batch: int = 16
    sampling: Literal["sparse", "dense", "full"] = "sparse"
    unbiased: bool = True
    distribution: Distribution = "rademacher"
    gpinn: float = 0.0
    reaction: Callable[[Tensor], Tensor] | None = None
    dims: int | None = None

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise ValueError(unknown("sampling", self.sampling, SAMPLINGS))
        if self.source is not None and self.solution is not None:
            raise ValueError("both source and solution are given; keep one of them")
        if self.gpinn and self.reaction is None:
            raise ValueError("gpinn needs reaction=…: it differentiates Δu + reaction(u) - source along coordinates")
        if self.gpinn and self.solution is not None:
            raise ValueError("gpinn differentiates the source; give source=… in place of solution")

    def draw(
        self, f: Callable[[Any], Any], x: Float[Tensor, "points d"], generator: torch.Generator, draws: int = 1
    ) -> Local:
        """``f`` along random draws; ``split(draws)`` takes them apart."""
        dims = x.shape[-1] if self.dims is None else self.dims
        if self.sampling == "full":
            return Local(f, x, dims=dims)
        if self.sampling == "dense":
            v = probes(dims, draws * self.batch, generator, self.distribution, dtype=x.dtype)
            return Local(f, x, dims=dims, probes=v.to(x.device))
        index = torch.cat([coordinates(dims, self.batch, generator) for _ in range(draws)])
        return Local(f, x, index.to(x.device), dims=dims)

    def residuals(
        self, f: Callable[[Any], Any], x: Float[Tensor, "points d"], generator: torch.Generator, draws: int = 1
    ) -> list[Float[Tensor, "points"]]:
        """Of independent draws, in one pass through ``f``."""
        local = self.draw(f, x, generator, draws)
        values = [self.operator(part) for part in local.split(draws)]
        if self.solution is not None:
            with torch.no_grad():
                exact = Local(self.solution, x, local.index, dims=local.dims, probes=local.probes)
                known = [self.operator(part) for part in exact.split(draws)]
        else:
            known = [torch.zeros_like(values[0]) if self.source is None else self.source(x)] * draws
        return [value - other for value, other in zip(values, known, strict=True)]

    def loss(
        self, f: Callable[[Any], Any], x: Float[Tensor, "points d"], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Mean over the points of r², or of r(J) r(J′) with independent J, J′; plus the gradient-enhanced term."""
        if self.unbiased and self.sampling != "full":
            first, second = self.residuals(f, x, generator, draws=2)
            total = (first * second).mean()
        else:
            total = self.residuals(f, x, generator)[0].square().mean()
        return total + self.gpinn * self.gradient_term(f, x, generator) if self.gpinn else total

    def gradient_term(
        self, f: Callable[[Any], Any], x: Float[Tensor, "points d"], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Mean squared ∂ⱼr over random coordinates j, each from one sampled i: ∂ⱼr = d ∂ᵢᵢⱼu + (reaction(u))ⱼ - ∂ⱼg.

        One 7-jet with eᵢ in slot 2 and eⱼ in slot 3 reads ∂ⱼu in place 3 and 105 ∂ᵢᵢⱼu in place 7, for i = j too.
        ``unbiased`` takes half as many j, each with two independent i, and the product of the two estimates: as many
        jets (2 where the batch is 1), and no variance of d ∂ᵢᵢⱼu over i in the mean.
        """
        assert self.reaction is not None
        dims = x.shape[-1] if self.dims is None else self.dims
        draws = 2 if self.unbiased else 1
        each = -(-self.batch // draws)
        j = coordinates(dims, each, generator).to(x.device).repeat(draws)
        i = torch.cat([coordinates(dims, each, generator) for _ in range(draws)]).to(x.device)
        u, terms = jet(f, x, [None, Coordinates(i), Coordinates(j), None, None, None, None])
        uj, uiij = terms[2], terms[6] / 105
        with torch.enable_grad():
            at = u if u.requires_grad else u.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.reaction(at).sum(), at, create_graph=True, allow_unused=True)
            slope = torch.zeros_like(u) if slope is None else slope
            gj: Tensor | float = 0.0
            if self.source is not None:
                free = x.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self.source(free).sum(), free)
                gj = gradient[:, j].t()
        estimates = (dims * uiij + slope * uj - gj).unflatten(0, (draws, each))
        return estimates.prod(0).mean() if self.unbiased else estimates.square().mean()
