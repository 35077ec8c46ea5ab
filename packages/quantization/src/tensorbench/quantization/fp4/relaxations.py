"""Derivatives of rounding, and the relaxed rounding that each is the derivative of.

Rounding ``Q`` to a grid has the derivative zero almost everywhere, which is why training replaces it. In a cell
between two neighbours a < b of the grid let ``d = b - a`` and ``u = 2 (x - a) / d - 1``, from -1 to 1. By name:

- ``ste``: slope 1 everywhere, the relaxed rounding is x itself (Bengio et al. 2013).
- ``clipped_ste``: slope 1 up to the largest number of the grid and 0 beyond; x is clamped.
- ``dge(k, clip)``: ``a + d/2 (1 + sign(u) |u|^(1/k))``, slope ``|u|^(1/k - 1) / k`` cut off at ``clip`` (Wang et al.
  2025, arXiv 2501.17116). The relaxed rounding is that of the slope without the cut.
- ``spline(width)``: piecewise linear. Flat next to the grid, a ramp over the middle ``width`` share of the cell; with
  width 1 it is the interpolant of the grid, which is ``clipped_ste``.
- ``sigmoid(sharpness)``: a logistic curve through both ends of the cell.
- ``tanh(sharpness)``: a sum of smooth steps at all midpoints. Smooth everywhere, it stands for Q where derivatives
  are checked.

All but ``ste`` and ``tanh`` are exact on the grid, so that the slope's mean over a cell is 1. Source of the
catalogue: Hu, Luschi and Balança (2025, arXiv 2509.17791), section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

from ..formats import Format, get_format

NAMES = ("ste", "clipped_ste", "dge", "spline", "sigmoid", "tanh")


@dataclass(frozen=True)
class Relaxation:
    """A stand-in for rounding: ``value`` is the relaxed rounding, ``slope`` the derivative that training uses."""

    name: str
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def grid(form: Format | str) -> Float[Tensor, " points"]:
    """The numbers of a format in ascending order, each once (float64)."""
    values = get_format(form).values()
    return torch.unique(values[torch.isfinite(values)])


def relaxation(name: str, form: Format | str = "e2m1", **options: float) -> Relaxation:
    """The relaxation ``name`` of rounding to ``form``.

    Args:
        options: ``k=5, clip=3`` of ``dge``, ``width=0.5`` of ``spline``, ``sharpness=6`` of ``sigmoid`` (in halves of
            a cell), ``sharpness=8`` of ``tanh`` (in units of x).

    Raises:
        ValueError: an unknown name or option, k or sharpness or clip not positive, a width that is not a share.
    """
    if name not in NAMES:
        raise ValueError(unknown("gradient of rounding", name, NAMES))
    points = grid(form)
    makers = {"dge": _dge, "spline": _spline, "sigmoid": _sigmoid, "tanh": _tanh}
    if name in makers:
        try:
            return makers[name](points, **options)
        except TypeError:
            allowed = {"dge": "k, clip", "spline": "width", "sigmoid": "sharpness", "tanh": "sharpness"}[name]
            raise ValueError(f"options {sorted(options)} do not fit {name}; it takes {allowed}") from None
    if options:
        raise ValueError(f"{name} takes no options, got {sorted(options)}")
    if name == "ste":
        return Relaxation("ste", lambda x: x, torch.ones_like)
    low, high = float(points[0]), float(points[-1])
    return Relaxation("clipped_ste", lambda x: x.clamp(low, high), lambda x: _within(x, low, high).to(x.dtype))


def _within(x: Tensor, low: float, high: float) -> Tensor:
    return (x >= low) & (x <= high)


def _positive(**options: float) -> None:
    for name, value in options.items():
        if not value > 0:
            raise ValueError(f"{name} {value} must be positive")


def _cells(
    points: Tensor, shape: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], name: str
) -> Relaxation:
    """From the shape of one cell on u in [-1, 1] (ends fixed) to the whole grid, clamped beyond it."""

    def locate(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        knots = points.to(device=x.device, dtype=x.dtype)
        index = torch.bucketize(x.detach().contiguous(), knots, right=True).clamp_(1, len(knots) - 1)
        low, width = knots[index - 1], knots[index] - knots[index - 1]
        return low, width, (2 * (x - low) / width - 1).clamp(-1, 1)

    def value(x: Tensor) -> Tensor:
        low, width, u = locate(x)
        return low + width / 2 * (1 + shape(u))

    def derivative(x: Tensor) -> Tensor:
        _, _, u = locate(x)
        return torch.where(_within(x, float(points[0]), float(points[-1])), slope(u), torch.zeros_like(x))

    return Relaxation(name, value, derivative)


def _dge(points: Tensor, k: float = 5.0, clip: float = 3.0) -> Relaxation:
    _positive(k=k, clip=clip)
    return _cells(
        points,
        lambda u: torch.sign(u) * u.abs() ** (1 / k),
        lambda u: (u.abs() ** (1 / k - 1) / k).clamp(max=clip),
        "dge",
    )


def _spline(points: Tensor, width: float = 0.5) -> Relaxation:
    if not 0 < width <= 1:
        raise ValueError(f"width {width} is the share of a cell that the ramp takes and must be in (0, 1]")
    return _cells(
        points, lambda u: (u / width).clamp(-1, 1), lambda u: (u.abs() <= width).to(u.dtype) / width, "spline"
    )


def _sigmoid(points: Tensor, sharpness: float = 6.0) -> Relaxation:
    _positive(sharpness=sharpness)
    half = sharpness / 2  # 2 sigmoid(z) - 1 = tanh(z / 2), scaled to reach 1 at the ends
    top = float(torch.tanh(torch.tensor(half, dtype=torch.float64)))
    return _cells(
        points,
        lambda u: torch.tanh(half * u) / top,
        lambda u: half * (1 - torch.tanh(half * u) ** 2) / top,
        "sigmoid",
    )


def _tanh(points: Tensor, sharpness: float = 8.0) -> Relaxation:
    _positive(sharpness=sharpness)
    steps, middles = points.diff(), (points[1:] + points[:-1]) / 2

    def value(x: Tensor) -> Tensor:
        at = sharpness * (x[..., None] - middles.to(x.device, x.dtype))
        return float(points[0]) + (steps.to(x.device, x.dtype) / 2 * (1 + torch.tanh(at))).sum(-1)

    def slope(x: Tensor) -> Tensor:
        at = sharpness * (x[..., None] - middles.to(x.device, x.dtype))
        return (steps.to(x.device, x.dtype) / 2 * sharpness * (1 - torch.tanh(at) ** 2)).sum(-1)

    return Relaxation("tanh", value, slope)
