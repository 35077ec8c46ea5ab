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
        unbiased: two independent draws, and the product of their residuals.
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

    def draw(self, f: Callable[[Any], Any], x: Float[Tensor, "points d"], generator: torch.Generator) -> Local:
        """``f`` along one random draw."""
        dims = x.shape[-1] if self.dims is None else self.dims
        if self.sampling == "full":
            return Local(f, x, dims=dims)
        if self.sampling == "dense":
            v = probes(dims, self.batch, generator, self.distribution, dtype=x.dtype)
            return Local(f, x, dims=dims, probes=v.to(x.device))
        return Local(f, x, coordinates(dims, self.batch, generator).to(x.device), dims=dims)

    def residual(
        self, f: Callable[[Any], Any], x: Float[Tensor, "points d"], generator: torch.Generator
    ) -> Float[Tensor, "points"]:
        """Of one draw."""
        local = self.draw(f, x, generator)
        value = self.operator(local)
        if self.solution is not None:
            with torch.no_grad():
                known = self.operator(Local(self.solution, x, local.index, dims=local.dims, probes=local.probes))
            return value - known
        return value if self.source is None else value - self.source(x)

    def loss(
        self, f: Callable[[Any], Any], x: Float[Tensor, "points d"], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Mean over the points of r², or of r(J) r(J′) with independent J, J′; plus the gradient-enhanced term."""
        if self.source is not None:  # the same for both draws, and dear
            g = self.source(x)
            fixed = StochasticPinn(**{**self.__dict__, "source": lambda _: g, "gpinn": 0.0, "reaction": None})
        else:
            fixed = self
        first = fixed.residual(f, x, generator)
        if self.unbiased and self.sampling != "full":
            total = (first * fixed.residual(f, x, generator)).mean()
        else:
            total = first.square().mean()
        return total + self.gpinn * self.gradient_term(f, x, generator) if self.gpinn else total

    def gradient_term(
        self, f: Callable[[Any], Any], x: Float[Tensor, "points d"], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Mean squared ∂ⱼr over random coordinates j, each from one sampled i: ∂ⱼr = d ∂ᵢᵢⱼu + (reaction(u))ⱼ - ∂ⱼg.

        One 7-jet with eᵢ in slot 2 and eⱼ in slot 3 reads ∂ⱼu in place 3 and 105 ∂ᵢᵢⱼu in place 7, for i = j too.
        """
        assert self.reaction is not None
        dims = x.shape[-1] if self.dims is None else self.dims
        i, j = (coordinates(dims, self.batch, generator).to(x.device) for _ in range(2))
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
        return (dims * uiij + slope * uj - gj).square().mean()
