"""A differential equation with its source and boundary values on a grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tensorbench.pde_operators.diffops import PDE, Manufactured
from tensorbench.pde_operators.kronecker import grid_axes


@dataclass(frozen=True)
class GridProblem:
    """F(u) = source on the grid, u = values on its boundary.

    Attributes:
        axes: the coordinates in each direction, rising.
        source: of the shape of the grid.
        boundary: which grid points have a boundary value.
        values: those values, in row-major order of the grid.
    """

    pde: PDE
    axes: tuple[Tensor, ...]
    source: Float[Tensor, "*grid"]
    boundary: Bool[Tensor, "*grid"]
    values: Float[Tensor, " n_b"]

    def __post_init__(self) -> None:
        if len(self.axes) != len(self.pde.coordinates):
            raise ValueError(f"{len(self.axes)} axes for an equation in {len(self.pde.coordinates)} coordinates")
        for k, axis in enumerate(self.axes):
            if axis.ndim != 1 or len(axis) < 3 or not bool((torch.diff(axis) > 0).all()):
                raise ValueError(f"axis {k} must hold at least 3 rising coordinates, got shape {tuple(axis.shape)}")
        for name, tensor in (("source", self.source), ("boundary", self.boundary)):
            if tuple(tensor.shape) != self.shape:
                raise ValueError(f"the {name} has shape {tuple(tensor.shape)}, the grid {self.shape}")
        count = int(self.boundary.sum())
        if self.values.shape != (count,):
            raise ValueError(f"{tuple(self.values.shape)} boundary values for {count} boundary points of the grid")
        for name, tensor in (("source", self.source), ("boundary values", self.values)):
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                raise ValueError(f"the {name} holds {bad} values that are not finite")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis) for axis in self.axes)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def points(self) -> tuple[Tensor, ...]:
        """The coordinates of all grid points, one tensor of the grid's shape a coordinate."""
        return torch.meshgrid(*self.axes, indexing="ij")


def faces(shape: Sequence[int]) -> Bool[Tensor, "*grid"]:
    """The points on the faces of a grid."""
    mask = torch.zeros(tuple(shape), dtype=torch.bool)
    for k in range(len(shape)):
        mask.select(k, 0).fill_(True)
        mask.select(k, shape[k] - 1).fill_(True)
    return mask


def on_grid(problem: Manufactured, shape: Sequence[int], lengths: float | Sequence[float] = 1.0) -> GridProblem:
    """A manufactured problem on equispaced points of [0, length]^d, with the solution's values on all faces.

    Raises:
        ValueError: an equation without a solution, for which there is :func:`from_functions`; numbers for other axes.
    """
    if isinstance(problem, PDE):
        raise ValueError(
            f"{problem.text!r} comes without a solution: from_functions(pde, axes, source, boundary) takes a source "
            "and boundary values of your own, on_grid(manufactured(pde, solution), shape) a solution that you choose"
        )
    d = len(problem.pde.coordinates)
    sides = [float(lengths)] * d if isinstance(lengths, int | float) else [float(v) for v in lengths]
    if len(shape) != d or len(sides) != d:
        raise ValueError(f"shape {tuple(shape)} and lengths {sides} must have {d} numbers each")
    axes = tuple(torch.linspace(0, side, n, dtype=torch.float64) for side, n in zip(sides, shape, strict=True))
    points = torch.meshgrid(*axes, indexing="ij")
    mask = faces(shape)
    source, values = problem.source(*points), problem.solution(*points)[mask]
    return GridProblem(problem.pde, axes, source, mask, values)


def from_functions(
    pde: PDE,
    axes: Sequence[Any],
    source: Callable[..., Any] | float | None = None,
    boundary: Callable[..., Any] | float | None = None,
) -> GridProblem:
    """An equation of the user's own, its solution unknown: F(u) = source on the grid, u = boundary on all faces.

    >>> problem = from_functions(poisson("x"), [torch.linspace(0, 2, 200)], lambda x: torch.sin(90 * x), 0.0)

    Args:
        axes: the nodes along each coordinate, rising.
        source, boundary: functions of the coordinates, a float64 tensor each (all nodes, and those on the faces), or
            numbers.

    Raises:
        ValueError: no source, no boundary values or NaN among either; nodes that do not rise, axes for other
            coordinates, a function whose result has another shape than the coordinates.
    """
    for name, given in (("source", source), ("boundary", boundary)):
        if given is None:
            raise ValueError(f"{pde.text!r} needs its {name}: a function of {', '.join(pde.coordinates)}, or a number")
    if len(axes) != len(pde.coordinates):
        raise ValueError(f"{len(axes)} axes for an equation in {len(pde.coordinates)} coordinates")
    nodes = tuple(torch.as_tensor(axis, dtype=torch.float64) for axis in axes)
    for k, axis in enumerate(nodes):
        if axis.ndim != 1:
            raise ValueError(f"axis {k} must hold rising coordinates, got shape {tuple(axis.shape)}")
    mask = faces([len(axis) for axis in nodes])
    points = torch.meshgrid(*nodes, indexing="ij")
    edge = tuple(p[mask] for p in points)
    return GridProblem(pde, nodes, _sampled("source", source, points), mask, _sampled("boundary", boundary, edge))


def _sampled(name: str, function: Any, points: Sequence[Tensor]) -> Tensor:
    """The function at the points, or a number at all of them."""
    values = torch.as_tensor(function(*points) if callable(function) else function, dtype=torch.float64).detach()
    if values.ndim and values.shape != points[0].shape:
        raise ValueError(f"the {name} gives shape {tuple(values.shape)} for points of shape {tuple(points[0].shape)}")
    return values.expand(points[0].shape).clone()


def from_points(
    pde: PDE, points: Float[Tensor, "n d"], source: Float[Tensor, " n"], boundary_values: Float[Tensor, " n_b"]
) -> GridProblem:
    """A problem whose collocation points come as a list; they must be a full grid.

    ``boundary_values`` belong to the faces, in row-major order of the sorted grid.
    """
    if len(source) != len(points):
        raise ValueError(f"{len(source)} source values for {len(points)} collocation points")
    axes = grid_axes(points)
    index = tuple(torch.searchsorted(axis, column.contiguous()) for axis, column in zip(axes, points.T, strict=True))
    shape = tuple(len(axis) for axis in axes)
    on = torch.empty(shape, dtype=source.dtype)
    on[index] = source
    return GridProblem(pde, axes, on, faces(shape), boundary_values)


def warn_below_nyquist(axis: Float[Tensor, " n"], highest: float, name: str = "the grid") -> None:
    """Warn where the largest step cannot show the highest frequency (cycles per unit), with the smallest N that can."""
    length, step = float(axis[-1] - axis[0]), float(torch.diff(axis).max())
    if 2 * highest * step > 1 + 1e-9:
        needed = math.ceil(2 * highest * length) + 1
        warnings.warn(
            f"{len(axis)} points on {name} of length {length:g} show frequencies up to {1 / (2 * step):.4g} cycles per "
            f"unit, the kernel asks for {highest:.4g}: use at least {needed} points or a lower freq_scale",
            UserWarning,
            stacklevel=3,
        )
