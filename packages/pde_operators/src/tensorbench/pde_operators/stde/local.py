"""A function near points, as an operator sees it: value, derivatives, and sums over all coordinates that are sampled.

A differential operator is a plain function of a :class:`Local`:

>>> def operator(u):                                   # anisotropic diffusion, drift, reaction
...     return u.sum((1 + u.x**2) * u.d(2) - u.x * u.d(1)) + u.value - u.value**3

With all coordinates it is exact; with a random subset, as :class:`~.pinn.StochasticPinn` draws one each step, the sums
are unbiased estimates, so that operators which are linear in their sums stay unbiased.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tensorbench.pde_operators.taylor import Coordinates, jet, partials

Function = Callable[[Any], Any]


class Local:
    """``f`` at ``points`` (points, d), seen along some of the first ``dims`` coordinates (default: all d), or along
    probes.

    Jets run when they are asked for, and again only for a higher order than before.
    """

    def __init__(
        self,
        f: Function,
        points: Float[Tensor, "points d"],
        index: Int[Tensor, "batch"] | None = None,
        *,
        dims: int | None = None,
        probes: Float[Tensor, "batch dims"] | None = None,
    ):
        self.f, self.points, self.probes = f, points, probes
        self.dims = points.shape[-1] if dims is None else dims
        self.index = torch.arange(self.dims, device=points.device) if index is None else index
        if self.index.numel() == 0:
            raise ValueError("no coordinate was sampled; an operator needs at least one")
        self._value: Tensor | None = None
        self._terms: list[Tensor] = []
        self._laplacian: Tensor | None = None

    @property
    def value(self) -> Float[Tensor, "points"]:
        """f(x); free once a derivative has been asked for."""
        if self._value is None:
            self._value = self.f(self.points)
        return self._value

    @property
    def x(self) -> Float[Tensor, "batch points"]:
        """The sampled coordinates themselves."""
        return self.points.index_select(-1, self.index).t()

    def d(self, order: int) -> Float[Tensor, "batch points"]:
        """∂ᵢᵏ f along each sampled coordinate i.

        Raises:
            ValueError: an order below 1, or probes in place of coordinates.
        """
        if order < 1:
            raise ValueError(f"order {order} is no derivative; take 1 or above")
        if self.probes is not None:
            raise ValueError("dense probes mix coordinates: derivatives along one need sparse sampling")
        if len(self._terms) < order:
            self._value, self._terms = jet(self.f, self.points, [Coordinates(self.index)] + [None] * (order - 1))
        return self._terms[order - 1]

    def sum(self, terms: Float[Tensor, "batch points"]) -> Float[Tensor, "points"]:
        """Σ over all coordinates, from the sampled ones: the mean times their number."""
        return self.dims * terms.mean(0)

    def laplacian(self) -> Float[Tensor, "points"]:
        """Σᵢ ∂ᵢ∂ᵢ f, the jets' tops summed on the way, which takes half the time of ``sum(d(2))``."""
        if self._laplacian is None:
            if self.probes is None:
                value, (_, total) = jet(self.f, self.points, [Coordinates(self.index), None], collapse=True)
                scale = self.dims / len(self.index)
            else:
                fill = self.points.shape[-1] - self.dims
                v = torch.nn.functional.pad(self.probes, (0, fill)) if fill else self.probes
                value, (_, total) = jet(self.f, self.points, [v.unsqueeze(1), None], collapse=True)
                scale = 1 / len(v)
            self._value, self._laplacian = value, scale * total
        return self._laplacian

    def partial(self, *target: int) -> Float[Tensor, "points"]:
        """One (mixed) partial derivative, not sampled: ``partial(-1)`` differentiates in the last input, time say."""
        d = self.points.shape[-1]
        wanted = tuple(sorted(c % d for c in target))
        if len(set(wanted)) == 1:
            index = torch.tensor([wanted[0]], device=self.points.device)
            self._value, terms = jet(self.f, self.points, [Coordinates(index)] + [None] * (len(wanted) - 1))
            return terms[-1][0]
        return partials(self.f, self.points, [wanted])[wanted]
