"""A function near points, as an operator sees it: value, derivatives, and sums over all coordinates that are sampled.

A differential operator is a plain function of a :class:`Local`:

>>> def operator(u):                                   # anisotropic diffusion, drift, reaction
...     return u.sum((1 + u.x**2) * u.d(2) - u.x * u.d(1)) + u.value - u.value**3

With all coordinates it is exact; with a random subset, as :class:`~.pinn.StochasticPinn` draws one each step, the sums
are unbiased estimates, so that operators which are linear in their sums stay unbiased.
"""

from __future__ import annotations

import copy
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
        self._laplacians: Tensor | None = None  # (draws, points)
        self._partials: dict[tuple[int, ...], Tensor] = {}
        self._whole: Local = self
        self._draws, self._place = 1, 0

    def split(self, draws: int) -> list[Local]:
        """As many independent draws, each with its share of the coordinates or probes; they run as one pass.

        Raises:
            ValueError: the coordinates or probes do not split evenly.
        """
        tangents = self.index if self.probes is None else self.probes
        if draws < 1 or len(tangents) % draws:
            raise ValueError(f"{len(tangents)} tangents do not split into {draws} draws of one size")
        parts = []
        for place in range(draws):
            part = copy.copy(self)
            part._draws, part._place = draws, place
            if self.probes is None:
                part.index = self.index.chunk(draws)[place]
            else:
                part.probes = self.probes.chunk(draws)[place]
            parts.append(part)
        return parts

    @property
    def value(self) -> Float[Tensor, "points"]:
        """f(x); free once a derivative has been asked for."""
        whole = self._whole
        if whole._value is None:
            whole._value = self.f(self.points)
        return whole._value

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
        whole = self._whole
        if len(whole._terms) < order:
            whole._value, whole._terms = jet(self.f, self.points, [Coordinates(whole.index)] + [None] * (order - 1))
        return whole._terms[order - 1].chunk(self._draws)[self._place]

    def sum(self, terms: Float[Tensor, "batch points"]) -> Float[Tensor, "points"]:
        """Σ over all coordinates, from the sampled ones: the mean times their number."""
        return self.dims * terms.mean(0)

    def laplacian(self) -> Float[Tensor, "points"]:
        """Σᵢ ∂ᵢ∂ᵢ f, the jets' tops summed on the way, which takes half the time of ``sum(d(2))``."""
        whole = self._whole
        if whole._laplacians is None or len(whole._laplacians) != self._draws:
            tangent: Any = Coordinates(whole.index)
            if whole.probes is not None:
                fill = self.points.shape[-1] - self.dims
                v = torch.nn.functional.pad(whole.probes, (0, fill)) if fill else whole.probes
                tangent = v.unsqueeze(1)
            whole._value, (_, total) = jet(self.f, self.points, [tangent, None], collapse=self._draws)
            whole._laplacians = total.reshape(self._draws, -1)
        scale = self.dims / len(self.index) if self.probes is None else 1 / len(self.probes)
        return scale * whole._laplacians[self._place]

    def partial(self, *target: int) -> Float[Tensor, "points"]:
        """One (mixed) partial derivative, not sampled: ``partial(-1)`` differentiates in the last input, time say.

        Raises:
            ValueError: a coordinate that is no input.
        """
        d = self.points.shape[-1]
        if outside := [c for c in target if not -d <= c < d]:
            raise ValueError(f"coordinate {outside[0]} is not one of {d} inputs; count from 0, or from the end with -1")
        wanted = tuple(sorted(c % d for c in target))
        whole = self._whole
        if wanted not in whole._partials:
            if len(set(wanted)) == 1:
                index = torch.tensor([wanted[0]], device=self.points.device)
                whole._value, terms = jet(self.f, self.points, [Coordinates(index)] + [None] * (len(wanted) - 1))
                whole._partials[wanted] = terms[-1][0]
            else:
                whole._partials[wanted] = partials(self.f, self.points, [wanted])[wanted]
        return whole._partials[wanted]
