"""Maps from the plane into space with known geometry: isometric bends of a sheet, and shapes of other curvature.

Bends keep the metric of the plane exactly (J'J = 1, K = 0): rolling on a cylinder, on a generalised cylinder over a
planar curve with curvature κ(s), and on a cone whose apex lies in the plane of the sheet. The bend grows continuously
from the flat sheet. All are plain torch, so that :mod:`.geometry` differentiates them, and take (n, 2) to (n, 3).

Source: do Carmo, Differential Geometry of Curves and Surfaces, 5-8 (developable surfaces).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

Map = Callable[[Tensor], Tensor]


def turn(uv: Float[Tensor, "n 2"], angle: float) -> Float[Tensor, "n 2"]:
    """Coordinates along and across a direction at ``angle`` (radians) to the u axis."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.stack([c * uv[:, 0] + s * uv[:, 1], -s * uv[:, 0] + c * uv[:, 1]], 1)


def _turn_back(points: Tensor, angle: float) -> Tensor:
    """Undo :func:`turn` in the plane of the flat sheet, so that a bend by nothing is the identity."""
    return torch.cat([turn(points[:, :2], -angle), points[:, 2:]], 1)


def cylinder(uv: Float[Tensor, "n 2"], curvature: float, angle: float = 0.0) -> Float[Tensor, "n 3"]:
    """Roll the sheet on a cylinder of this curvature (1/radius); the sheet touches z = 0 along the axis at s = 0."""
    s, t = turn(uv, angle).unbind(1)
    x = s * torch.sinc(curvature * s / math.pi)
    z = curvature * s.square() / 2 * torch.sinc(curvature * s / (2 * math.pi)).square()
    return _turn_back(torch.stack([x, t, z], 1), angle)


def curved(
    uv: Float[Tensor, "n 2"],
    curvature: float,
    angle: float = 0.0,
    frequency: float = 2 * math.pi,
    phase: float = 0.0,
    start: float = 0.0,
    nodes: int = 16,
) -> Float[Tensor, "n 3"]:
    """Roll the sheet on the cylinder over a curve with κ(s) = ``curvature`` · cos(``frequency`` · s + ``phase``).

    The curve's tangent angle is the integral of κ from ``start``, where the sheet stays on z = 0; its points are the
    integral of the tangent, by Gauss-Legendre quadrature (to rounding for waves of moderate length).
    """
    s, t = turn(uv, angle).unbind(1)
    abscissae, weights = (torch.from_numpy(part).to(uv) for part in np.polynomial.legendre.leggauss(nodes))
    span = (s - start)[:, None]
    along = start + span * (abscissae + 1) / 2
    tangent = curvature / frequency * (torch.sin(frequency * along + phase) - math.sin(frequency * start + phase))
    x, z = ((span / 2 * weights * part).sum(1) for part in (tangent.cos(), tangent.sin()))
    return _turn_back(torch.stack([start + x, t, z], 1), angle)


def cone(uv: Float[Tensor, "n 2"], curvature: float, angle: float = 0.0, apex: float = 1.5) -> Float[Tensor, "n 3"]:
    """Roll the sheet on a cone whose apex is at distance ``apex`` from the origin; ``curvature`` is that at the origin.

    In polar coordinates (r, φ) about the apex, the point at r and φ / sin α on a cone of half-angle α.
    """
    s, t = turn(uv, angle).unbind(1)
    half = math.atan2(1.0, curvature * apex)
    sine, cosine = math.sin(half), math.cos(half)
    r = torch.sqrt((s + apex).square() + t.square())
    phi = torch.atan2(t, s + apex) / sine
    x, y, z = r * sine * phi.cos(), r * sine * phi.sin(), r * cosine
    # In the frame of the origin: along the ray from the apex, along the circle, and the normal.
    dx, dz = x - apex * sine, z - apex * cosine
    return _turn_back(torch.stack([sine * dx + cosine * dz, y, sine * dz - cosine * dx], 1), angle)


BENDS: dict[str, Callable[..., Tensor]] = {"cylinder": cylinder, "curve": curved, "cone": cone}


# --- shapes with curvature, for checking geometry ---


@dataclass(frozen=True)
class Shape:
    """A map on a rectangle of parameters with its mean and Gaussian curvature (up to the side of the normal) and area.

    ``chi`` is the Euler number of a closed surface with periodic parameters, else None.
    """

    map: Map
    low: tuple[float, float]
    high: tuple[float, float]
    mean: Callable[[Tensor], Tensor]
    gauss: Callable[[Tensor], Tensor]
    area: float | None = None
    chi: int | None = None


def sphere_map(uv: Float[Tensor, "n 2"], radius: float = 1.0) -> Float[Tensor, "n 3"]:
    """Longitude u, latitude v."""
    u, v = uv.unbind(1)
    return radius * torch.stack([v.cos() * u.cos(), v.cos() * u.sin(), v.sin()], 1)


def torus_map(uv: Float[Tensor, "n 2"], ring: float = 1.0, tube: float = 0.4) -> Float[Tensor, "n 3"]:
    """Angle u around the ring, v around the tube."""
    u, v = uv.unbind(1)
    across = ring + tube * v.cos()
    return torch.stack([across * u.cos(), across * u.sin(), tube * v.sin()], 1)


def catenoid_map(uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Minimal surface: u around, v along."""
    u, v = uv.unbind(1)
    return torch.stack([v.cosh() * u.cos(), v.cosh() * u.sin(), v], 1)


def saddle_map(uv: Float[Tensor, "n 2"], steepness: float = 0.8) -> Float[Tensor, "n 3"]:
    """Hyperbolic paraboloid z = c (u² − v²)."""
    u, v = uv.unbind(1)
    return torch.stack([u, v, steepness * (u.square() - v.square())], 1)


def _torus_gauss(uv: Tensor, ring: float = 1.0, tube: float = 0.4) -> Tensor:
    cosine = uv[:, 1].cos()
    return cosine / (tube * (ring + tube * cosine))


def _torus_mean(uv: Tensor, ring: float = 1.0, tube: float = 0.4) -> Tensor:
    cosine = uv[:, 1].cos()
    return (1 / tube + cosine / (ring + tube * cosine)) / 2


def _saddle_mean(uv: Tensor, c: float = 0.8) -> Tensor:
    fu, fv = 2 * c * uv[:, 0], -2 * c * uv[:, 1]
    return ((1 + fv.square()) * 2 * c - (1 + fu.square()) * 2 * c) / (2 * (1 + fu.square() + fv.square()) ** 1.5)


def _saddle_gauss(uv: Tensor, c: float = 0.8) -> Tensor:
    return -4 * c**2 / (1 + 4 * c**2 * uv.square().sum(1)).square()


def shape(name: str) -> Shape:
    """``cylinder`` (radius 0.5), ``sphere`` (a patch), ``torus``, ``catenoid`` or ``saddle``.

    Raises:
        ValueError: any other name.
    """
    pi = math.pi
    shapes = {
        "cylinder": Shape(
            lambda uv: cylinder(uv, 2.0), (-0.7, -0.7), (0.7, 0.7), lambda uv: torch.full_like(uv[:, 0], 1.0),
            lambda uv: torch.zeros_like(uv[:, 0]), 1.96,
        ),
        "sphere": Shape(
            sphere_map, (-1.2, -0.9), (1.2, 0.9), lambda uv: torch.ones_like(uv[:, 0]),
            lambda uv: torch.ones_like(uv[:, 0]), 4.8 * math.sin(0.9),
        ),
        "torus": Shape(torus_map, (-pi, -pi), (pi, pi), _torus_mean, _torus_gauss, 4 * pi**2 * 0.4, 0),
        "catenoid": Shape(
            catenoid_map, (-1.2, -0.8), (1.2, 0.8), lambda uv: torch.zeros_like(uv[:, 0]),
            lambda uv: -uv[:, 1].cosh() ** -4, 2.4 * (0.8 + math.sinh(1.6) / 2),
        ),
        "saddle": Shape(saddle_map, (-0.8, -0.8), (0.8, 0.8), _saddle_mean, _saddle_gauss),
    }  # fmt: skip
    if name not in shapes:
        raise ValueError(unknown("shape", name, shapes))
    return shapes[name]
