"""A function of d coordinates as a tensor whose factors are networks of one coordinate each.

F-INR: Vemuri, Büchner and Denzler, "F-INR: Functional Tensor Decomposition for Implicit Neural Representations" (2025,
arXiv 2503.21507, WACV 2026). On a grid of N points a side the networks see d N coordinates instead of Nᵈ points; a
contraction (:mod:`.formats`) makes the grid. The authors' public code is a demo of CP in two dimensions; the other
formats follow their classical definitions. An axis's derivative is that of its network, taken forward, so that a
partial derivative on the grid is the same contraction with other factors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.radiance_fields.implicit import formats
from tensorbench.radiance_fields.implicit.nets import Axis, AxisNet


def pixel_centres(n: int, device: torch.device | str = "cpu") -> Float[Tensor, " n"]:
    """n coordinates in [−1, 1]: the centres of n equal cells. ValueError below 2."""
    if n < 2:
        raise ValueError(f"an axis of {n} samples has no extent; a grid needs at least 2 on each axis")
    return (2 * torch.arange(n, dtype=torch.float32, device=device) + 1) / n - 1


def _derivatives(net: nn.Module, x: Float[Tensor, " n"], order: int) -> list[Float[Tensor, "n width"]]:
    """The network's outputs at x and their derivatives up to ``order``, by nested forward differentiation."""
    if order == 0:
        return [net(x[:, None])]
    pair: Any = torch.func.jvp(lambda at: tuple(_derivatives(net, at, order - 1)), (x,), (torch.ones_like(x),))
    values, tangents = pair
    return [*values, tangents[-1]]


class FunctionalTensor(nn.Module):
    """f: [−1, 1]ᵈ → ℝᶜ in a tensor format with a network for each axis.

    >>> f = FunctionalTensor([Axis("siren")] * 2, "cp", rank=64, channels=3, generator=torch.Generator().manual_seed(0))
    >>> f.forward_grid([pixel_centres(128), pixel_centres(96)]).shape
    torch.Size([128, 96, 3])

    Args:
        axes: the network of each axis; they may differ.
        format: ``cp``, ``tt``, ``tucker`` or ``ring``.
        rank: one number, or 1 (CP), d − 1 (TT), d (Tucker, ring) of them.
        shared: whether channels share their factors (then CP has weights W, and TT and the ring end in C columns)
            or each has its own, as in the authors' demo.
        std: the outputs' root mean square over the cube is about this at the start, for every rank and number of axes:
            without it the product of several small factors, and its gradient, vanish.
        offset: add a learnt constant to each channel (a rank more; off, so that rank bounds hold).

    Raises:
        ValueError: an unknown format or backend, ranks that do not fit, no axes.
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        format: str = "cp",
        rank: int | Sequence[int] = 128,
        channels: int = 1,
        generator: torch.Generator | None = None,
        *,
        shared: bool = False,
        std: float = 0.3,
        offset: bool = False,
    ) -> None:
        super().__init__()
        if not axes or channels < 1:
            raise ValueError(f"{len(axes)} axes and {channels} channels: at least one of each is needed")
        self.format, self.channels = format, channels
        self.ranks = formats.check_ranks(format, rank, len(axes))
        self.shapes = formats.factor_shapes(format, self.ranks, len(axes), channels, shared)
        self.nets = nn.ModuleList(axis.build(math.prod(shape), generator)
                                  for axis, shape in zip(axes, self.shapes, strict=True))  # fmt: skip
        self.mixing: nn.Parameter | None = None
        if format == "tucker":
            shape = (1, *self.ranks, channels) if shared else (channels, *self.ranks, 1)
            self.mixing = nn.Parameter(torch.randn(shape, generator=generator))
        elif format == "cp" and shared:
            self.mixing = nn.Parameter(torch.randn(self.ranks[0], channels, generator=generator))
        self.offset = nn.Parameter(torch.zeros(channels)) if offset else None
        self._scale(std)

    @property
    def dims(self) -> int:
        """The number of axes."""
        return len(self.nets)

    @torch.no_grad()
    def _scale(self, std: float) -> None:
        """Scale the last layers: paths × Π mean squares of the factors becomes std²."""
        share = (std**2 / formats.paths(self.format, self.ranks)) ** (1 / (2 * self.dims))
        for net in self.nets:
            assert isinstance(net, AxisNet)
            size = float(net(pixel_centres(257)[:, None]).square().mean().sqrt())
            net.scale_output(share / max(size, 1e-12))

    def _check(self, coordinates: Sequence[Tensor]) -> list[Tensor]:
        if len(coordinates) != self.dims:
            raise ValueError(f"{len(coordinates)} arrays of coordinates for a tensor of {self.dims} axes")
        for axis, x in enumerate(coordinates):
            if x.ndim != 1:
                raise ValueError(f"the coordinates of axis {axis} have shape {tuple(x.shape)}, not (n,)")
            if x.numel() and float(x.detach().abs().max()) > 1 + 1e-6:
                warnings.warn(f"axis {axis} has coordinates outside [-1, 1], where nothing was learnt", stacklevel=3)
        return list(coordinates)

    def factors(self, coordinates: Sequence[Float[Tensor, " _"]], orders: Sequence[int] | None = None) -> list[Tensor]:
        """The factors (n, copies, left, right) of each axis, or their derivatives of the given order."""
        found = []
        for axis, (x, shape) in enumerate(zip(coordinates, self.shapes, strict=True)):
            order = orders[axis] if orders is not None else 0
            found.append(self._derivatives(axis, x, order)[order].reshape(len(x), *shape))
        return found

    def _derivatives(self, axis: int, x: Tensor, order: int) -> list[Tensor]:
        net = self.nets[axis]
        assert isinstance(net, AxisNet)
        if order and net.embedding == "hash":
            raise ValueError("a hash grid is linear between nodes: use another embedding where derivatives are needed")
        return _derivatives(net, x, order)

    def contract_grid(self, factors: Sequence[Tensor]) -> Float[Tensor, "*sizes channels"]:
        """The grid of some factors (without the offset)."""
        return formats.grid(self.format, factors, self.mixing, self.channels)

    def contract_points(self, factors: Sequence[Tensor]) -> Float[Tensor, "points channels"]:
        """The points of some factors (without the offset)."""
        return formats.points(self.format, factors, self.mixing, self.channels)

    def forward_grid(self, coordinates: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, "*sizes channels"]:
        """Values on the product of the axes' coordinates; d N evaluations of a network.

        Warns of coordinates outside [−1, 1]; ValueError for another number of axes.
        """
        values = self.contract_grid(self.factors(self._check(coordinates)))
        return values if self.offset is None else values + self.offset

    def grad_grid(
        self, coordinates: Sequence[Float[Tensor, " _"]], orders: Sequence[Sequence[int]]
    ) -> list[Float[Tensor, "*sizes channels"]]:
        """Partial derivatives on the grid: one array for each of ``orders``, of which (1, 0, 2) is ∂³/∂x₁∂x₃².

        Each network is differentiated once, to the highest order asked of it; all is differentiable in the weights.
        Derivatives are in the coordinates of [−1, 1].
        """
        x = self._check(coordinates)
        for order in orders:
            if len(order) != self.dims or min(order) < 0:
                raise ValueError(f"an order of derivation has {self.dims} numbers from 0, got {tuple(order)}")
        highest = [max(order[axis] for order in orders) for axis in range(self.dims)]
        found = [self._derivatives(axis, x[axis], highest[axis]) for axis in range(self.dims)]
        fields = []
        for order in orders:
            parts = [found[axis][k].reshape(len(x[axis]), *self.shapes[axis]) for axis, k in enumerate(order)]
            field = self.contract_grid(parts)
            fields.append(field if self.offset is None or any(order) else field + self.offset)
        return fields

    def forward_points(
        self, coordinates: Float[Tensor, "points d"] | Sequence[Float[Tensor, " points"]], chunk: int = 1 << 15
    ) -> Float[Tensor, "points channels"]:
        """Values at points, ``chunk`` at a time.

        Raises ValueError where the axes have different numbers of coordinates.
        """
        columns = list(coordinates.unbind(-1)) if isinstance(coordinates, Tensor) else list(coordinates)
        x = self._check(columns)
        if len({len(column) for column in x}) > 1:
            raise ValueError(f"points need as many coordinates on each axis, got {[len(column) for column in x]}")
        pieces = [self.contract_points(self.factors([column[i : i + chunk] for column in x]))
                  for i in range(0, len(x[0]), chunk)]  # fmt: skip
        values = torch.cat(pieces) if pieces else x[0].new_zeros((0, self.channels))
        return values if self.offset is None else values + self.offset

    def forward(self, coordinates: Float[Tensor, "points d"]) -> Float[Tensor, "points channels"]:
        """Values at points."""
        return self.forward_points(coordinates)

    @torch.no_grad()
    def materialize(self, shape: Sequence[int]) -> Float[Tensor, "*sizes channels"]:
        """The tensor at the centres of the cells of a grid, without gradients."""
        device = next(self.parameters()).device
        return self.forward_grid([pixel_centres(n, device) for n in shape])

    @torch.no_grad()
    def tabulate(self, nodes: int = 1024) -> Table:
        """Each factor at ``nodes`` equidistant coordinates from −1 to 1, for fast values at very many points."""
        device = next(self.parameters()).device
        at = torch.linspace(-1, 1, nodes, device=device)
        return Table(self, self.factors([at] * self.dims))

    def interpolated(self, tables: Sequence[Tensor], coordinates: Float[Tensor, "points d"]) -> Tensor:
        """Values at points from factors on equidistant nodes from −1 to 1, linear in between; differentiable."""
        factors = [interpolate(table, column) for table, column in zip(tables, coordinates.unbind(-1), strict=True)]
        values = self.contract_points(factors)
        return values if self.offset is None else values + self.offset


def interpolate(table: Float[Tensor, "nodes *shape"], x: Float[Tensor, " points"]) -> Float[Tensor, "points *shape"]:
    """Linear interpolation in a table over equidistant nodes from −1 to 1; points outside take the nearest end."""
    last = len(table) - 1
    position = (x.clamp(-1, 1) + 1) * (last / 2)
    below = position.detach().floor().clamp(max=last - 1)
    share = (position - below).reshape(-1, *(1,) * (table.ndim - 1))
    index = below.long()
    return torch.lerp(table[index], table[index + 1], share)


class Table:
    """A functional tensor with its networks replaced by tables of their values: exact at the nodes, else O(h²)."""

    def __init__(self, tensor: FunctionalTensor, tables: Sequence[Tensor]) -> None:
        self.tensor, self.tables = tensor, list(tables)

    @torch.no_grad()
    def forward_points(self, coordinates: Float[Tensor, "points d"], chunk: int = 1 << 14) -> Tensor:
        """Values at points, linear between the nodes."""
        return torch.cat([self.tensor.interpolated(self.tables, part) for part in coordinates.split(chunk)])
