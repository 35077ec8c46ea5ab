"""Random probe vectors for trace, diagonal and spectrum estimates: drawn from a generator, or played back.

A probe has the shape of what it is made for, a tensor or a list of them. Entries are drawn in the order of the list on
the generator's own device, so that the same seed gives the same probes wherever the tensors live and however they are
cut (:func:`rademacher` of a vector is that of its parts, flattened).

Hutchinson (1990): E[zᵀAz] = tr A for independent entries of mean 0 and variance 1; with ±1 its variance is smallest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from tensorbench.core.errors import unknown

Kind = Literal["rademacher", "gaussian"]
Like = TypeVar("Like", Tensor, Sequence[Tensor])
Source = Callable[[Like], Like]  # what draws the next probe


def rademacher(like: Like, generator: torch.Generator) -> Like:
    """+1 or -1 with equal odds, in the shapes, dtypes and devices of ``like``."""
    return _draw(like, lambda n: torch.randint(0, 2, (n,), generator=generator, device=generator.device) * 2 - 1)


def gaussian(like: Like, generator: torch.Generator) -> Like:
    """Independent standard normal entries, in the shapes, dtypes and devices of ``like``."""
    # Double precision: torch draws the same numbers for a whole vector and for its parts only when it works one by one.
    return _draw(like, lambda n: _normal(n, generator))


def _normal(count: int, generator: torch.Generator) -> Tensor:
    pair = torch.rand(count, 2, generator=generator, device=generator.device, dtype=torch.float64)
    radius = torch.sqrt(-2 * torch.log1p(-pair[:, 0]))  # Box and Muller (1958); 1 - u is never 0
    return radius * torch.cos(2 * torch.pi * pair[:, 1])


def _draw(like: Like, sample: Callable[[int], Tensor]) -> Like:
    if isinstance(like, Tensor):
        return sample(like.numel()).reshape(like.shape).to(dtype=like.dtype, device=like.device)
    return [_draw(t, sample) for t in like]  # type: ignore[return-value]


def source(kind: Kind, generator: torch.Generator) -> Source:
    """A function of ``like`` that draws the next probe.

    Raises:
        ValueError: ``kind`` is neither ``rademacher`` nor ``gaussian``.
    """
    kinds = {"rademacher": rademacher, "gaussian": gaussian}
    if kind not in kinds:
        raise ValueError(unknown("kind of probe", kind, kinds))
    return lambda like: kinds[kind](like, generator)


def replay(stored: Iterable[Like]) -> Source:
    """A function of ``like`` that gives the stored probes one after another, for two programs that shall see the same.

    Raises (when called):
        ValueError: all probes are used up, or the next one has other shapes than ``like``.
    """
    left = iter(stored)

    def following(like: Like) -> Like:
        probe = next(left, None)
        if probe is None:
            raise ValueError("all stored probes are used up; store more of them")
        shapes = [[t.shape for t in ([x] if isinstance(x, Tensor) else x)] for x in (probe, like)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"the stored probe has shapes {shapes[0]}, needed are {shapes[1]}")
        return probe

    return following
