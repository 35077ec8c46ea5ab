"""Points in a box and on its faces: at random, quasi-random, or on a grid. Generators come in; nothing is global."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

SAMPLING = ("uniform", "sobol")


@dataclass(frozen=True)
class Box:
    """[low_1, high_1] × … × [low_d, high_d]."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not self.low:
            raise ValueError(f"a box has as many lower as upper ends, got {self.low} and {self.high}")
        if any(a >= b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"every lower end must be below its upper end, got {self.low} and {self.high}")

    @property
    def dimension(self) -> int:
        return len(self.low)

    @classmethod
    def unit(cls, dimension: int) -> Box:
        """[0, 1]^dimension."""
        return cls((0.0,) * dimension, (1.0,) * dimension)


def interior(
    box: Box,
    n: int,
    generator: torch.Generator,
    *,
    sampling: str = "uniform",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n d"]:
    """``n`` points inside: independent (``uniform``) or a scrambled Sobol sequence (``sobol``)."""
    if sampling not in SAMPLING:
        raise ValueError(unknown("sampling", sampling, SAMPLING))
    if n < 1:
        raise ValueError(f"n {n} must be at least 1")
    if sampling == "uniform":
        unit = torch.rand(n, box.dimension, generator=generator, dtype=dtype)
    else:
        seed = int(torch.randint(2**31, (1,), generator=generator))
        unit = torch.quasirandom.SobolEngine(box.dimension, scramble=True, seed=seed).draw(n, dtype=dtype)
    return _stretch(unit, box)


def boundary(
    box: Box,
    n: int,
    generator: torch.Generator,
    *,
    faces: Sequence[tuple[int, int]] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "m d"]:
    """``n`` random points on each face; a face is (coordinate, 0 for its low or 1 for its high end). Default: all.

    In one dimension a face is a point and appears once.
    """
    if n < 1:
        raise ValueError(f"n {n} must be at least 1")
    chosen = [(k, end) for k in range(box.dimension) for end in (0, 1)] if faces is None else list(faces)
    for k, end in chosen:
        if not 0 <= k < box.dimension or end not in (0, 1):
            raise ValueError(f"face {(k, end)} is not one of a box of {box.dimension} dimensions: (coordinate, 0 or 1)")
    parts = []
    for k, end in chosen:
        unit = torch.rand(1 if box.dimension == 1 else n, box.dimension, generator=generator, dtype=dtype)
        unit[:, k] = float(end)
        parts.append(unit)
    return _stretch(torch.cat(parts), box)


def axes(box: Box, shape: Sequence[int], *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Equispaced coordinates with both ends, ``shape[k]`` in coordinate k."""
    if len(shape) != box.dimension or min(shape) < 2:
        raise ValueError(f"shape {tuple(shape)} must give at least 2 points for each of {box.dimension} coordinates")
    return tuple(torch.linspace(a, b, n, dtype=dtype) for a, b, n in zip(box.low, box.high, shape, strict=True))


def grid(box: Box, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Float[Tensor, "n d"]:
    """All points of the grid of :func:`axes`, the last coordinate fastest."""
    mesh = torch.meshgrid(*axes(box, shape, dtype=dtype), indexing="ij")
    return torch.stack([m.reshape(-1) for m in mesh], dim=-1)


def _stretch(unit: Tensor, box: Box) -> Tensor:
    low, high = torch.tensor(box.low, dtype=unit.dtype), torch.tensor(box.high, dtype=unit.dtype)
    return low + unit * (high - low)
