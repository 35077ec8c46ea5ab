"""Differential geometry of any differentiable map from the plane into space, by forward-mode differentiation.

With the Jacobian J = (X_u, X_v) and the second derivatives X_ij of X(u, v):

- first fundamental form (the Riemannian metric) g = JᵀJ, area element √det g;
- normal N = X_u × X_v / |X_u × X_v|, second fundamental form b_ij = X_ij · N;
- mean curvature H = tr(g⁻¹ b) / 2, Gaussian curvature K = det b / det g, principal curvatures H ± √(H² − K);
- Christoffel symbols Γᵏ_ij = gᵏˡ X_ij · X_l, and from them alone (Theorema Egregium) K = R_1212 / det g;
- geodesic curvature of a curve, and the sides of the theorem of Gauss and Bonnet, ∫K dA + ∮κ_g ds + Σ turns = 2π.

Derivatives are Jacobian-vector products of the whole batch with e_u and e_v (nested for second ones): two or three
passes however many points, differentiable in the map's own weights. Sources: do Carmo, Differential Geometry of Curves
and Surfaces, chapters 2 to 4; the metric as a prior is Barbany, Colomé, Torras's (arXiv 2212.11596).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Map = Callable[[Tensor], Tensor]  # (n, 2) → (n, 3), each row by itself


@dataclass(frozen=True)
class Geometry:
    """All first- and second-order quantities at n points. Signs of H and b are those of N = X_u × X_v."""

    points: Float[Tensor, "n 3"]
    jacobian: Float[Tensor, "n 3 2"]
    first: Float[Tensor, "n 2 2"]
    second: Float[Tensor, "n 2 2"]
    normal: Float[Tensor, "n 3"]
    area: Float[Tensor, " n"]
    mean: Float[Tensor, " n"]
    gauss: Float[Tensor, " n"]
    christoffel: Float[Tensor, "n 2 2 2"]  # [k, i, j] is Γᵏ_ij

    @property
    def principal(self) -> Float[Tensor, "n 2"]:
        """Principal curvatures, the larger first."""
        root = (self.mean.square() - self.gauss).clamp_min(0).sqrt()
        return torch.stack([self.mean + root, self.mean - root], 1)


def _along(function: Map, uv: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Values of a batched function and its derivative along one coordinate."""
    direction = torch.zeros_like(uv, memory_format=torch.contiguous_format)
    direction[:, axis] = 1
    value, slope = torch.func.jvp(function, (uv.contiguous(),), (direction,))[:2]
    return value, slope


def jacobian(f: Map, uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3 2"]:
    """∂f/∂(u, v) by two Jacobian-vector products."""
    return torch.stack([_along(f, uv, axis)[1] for axis in (0, 1)], -1)


def derivatives(
    f: Map, uv: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3 2"], Float[Tensor, "n 3 2 2"]]:
    """Values, Jacobian and second derivatives of a map.

    Raises:
        ValueError: uv is no (n, 2) array, or the map does not give (n, 3).
    """
    if uv.ndim != 2 or uv.shape[1] != 2:
        raise ValueError(f"parameters must be (n, 2), got {tuple(uv.shape)}")
    value = f(uv)
    if value.shape != (len(uv), 3):
        raise ValueError(f"the map must give ({len(uv)}, 3) for {len(uv)} parameters, got {tuple(value.shape)}")

    def first(axis: int) -> Map:
        return lambda at: _along(f, at, axis)[1]

    x_u, x_uu = _along(first(0), uv, 0)
    x_v, x_vv = _along(first(1), uv, 1)
    _, x_uv = _along(first(0), uv, 1)
    second = torch.stack([torch.stack([x_uu, x_uv], -1), torch.stack([x_uv, x_vv], -1)], -1)
    return value, torch.stack([x_u, x_v], -1), second


def first_form(jacobian: Float[Tensor, "n 3 2"]) -> Float[Tensor, "n 2 2"]:
    """g = JᵀJ."""
    return torch.einsum("nai,naj->nij", jacobian, jacobian)


def determinant(form: Float[Tensor, "n 2 2"]) -> Float[Tensor, " n"]:
    """Of 2 × 2 matrices, without a factorisation."""
    return form[:, 0, 0] * form[:, 1, 1] - form[:, 0, 1] * form[:, 1, 0]


def inverse(form: Float[Tensor, "n 2 2"]) -> Float[Tensor, "n 2 2"]:
    """Of 2 × 2 matrices by Cramer's rule."""
    adjugate = torch.stack([form[:, 1, 1], -form[:, 0, 1], -form[:, 1, 0], form[:, 0, 0]], 1).reshape(-1, 2, 2)
    return adjugate / determinant(form)[:, None, None]


def normals(jacobian: Float[Tensor, "n 3 2"]) -> Float[Tensor, "n 3"]:
    """Unit normals X_u × X_v / |X_u × X_v|."""
    return torch.nn.functional.normalize(torch.linalg.cross(jacobian[..., 0], jacobian[..., 1]), dim=1)


def from_derivatives(
    points: Float[Tensor, "n 3"], jacobian: Float[Tensor, "n 3 2"], hessian: Float[Tensor, "n 3 2 2"]
) -> Geometry:
    """All quantities from the derivatives (those of ``SurfaceNet`` in closed form, say).

    Raises:
        ValueError: the map is singular somewhere (det g = 0): normals and curvatures do not exist there.
    """
    g = first_form(jacobian)
    det = determinant(g)
    if not bool((det > 0).all()):
        raise ValueError(f"the map is singular at {int((~(det > 0)).sum())} of {len(det)} points (det g = 0)")
    normal = normals(jacobian)
    b = torch.einsum("naij,na->nij", hessian, normal)
    shape = torch.einsum("nik,nkj->nij", inverse(g), b)
    mean = (shape[:, 0, 0] + shape[:, 1, 1]) / 2
    return Geometry(
        points, jacobian, g, b, normal, det.sqrt(), mean, determinant(b) / det, _christoffel(g, jacobian, hessian)
    )


def geometry(f: Map, uv: Float[Tensor, "n 2"]) -> Geometry:
    """First and second fundamental forms, normals, curvatures and Christoffel symbols of any differentiable map.

    Raises:
        ValueError: shapes do not fit, or the map is singular at a point.
    """
    return from_derivatives(*derivatives(f, uv))


def _christoffel(g: Tensor, jacobian: Tensor, hessian: Tensor) -> Float[Tensor, "n 2 2 2"]:
    lowered = torch.einsum("naij,nal->nlij", hessian, jacobian)
    return torch.einsum("nkl,nlij->nkij", inverse(g), lowered)


def christoffel(f: Map, uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2 2 2"]:
    """Γᵏ_ij at [k, i, j], symmetric in i and j."""
    _, jac, hessian = derivatives(f, uv)
    return _christoffel(first_form(jac), jac, hessian)


def intrinsic_curvature(f: Map, uv: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """K from the metric and the Christoffel symbols alone, with third derivatives of the map: Gauss's equation says
    that it is det b / det g.
    """
    symbols, du = _along(lambda at: christoffel(f, at), uv, 0)
    _, dv = _along(lambda at: christoffel(f, at), uv, 1)
    # Rᵏ_{212} = ∂_1 Γᵏ_22 − ∂_2 Γᵏ_12 + Γᵐ_22 Γᵏ_1m − Γᵐ_12 Γᵏ_2m, lowered with g to R_1212.
    riemann = (
        du[:, :, 1, 1]
        - dv[:, :, 0, 1]
        + torch.einsum("nm,nkm->nk", symbols[:, :, 1, 1], symbols[:, :, 0, :])
        - torch.einsum("nm,nkm->nk", symbols[:, :, 0, 1], symbols[:, :, 1, :])
    )
    g = first_form(jacobian(f, uv))
    return torch.einsum("nk,nk->n", g[:, 0, :], riemann) / determinant(g)


def geodesic_curvature(
    at: Geometry, velocity: Float[Tensor, "n 2"], acceleration: Float[Tensor, "n 2"] | None = None
) -> Float[Tensor, " n"]:
    """κ_g of curves with this velocity and acceleration (0 by default) in the parameter plane; positive to the left."""
    turned = torch.einsum("nkij,ni,nj->nk", at.christoffel, velocity, velocity)
    if acceleration is not None:
        turned = turned + acceleration
    speed = torch.einsum("nij,ni,nj->n", at.first, velocity, velocity).sqrt()
    return at.area * (velocity[:, 0] * turned[:, 1] - velocity[:, 1] * turned[:, 0]) / speed**3


def quadrature(
    low: tuple[float, float], high: tuple[float, float], n: int, like: Tensor
) -> tuple[Float[Tensor, "m 2"], Float[Tensor, " m"]]:
    """Gauss-Legendre points and weights on a rectangle, n × n."""
    nodes, weights = legendre(n, like)
    spans = [(b - a) / 2 for a, b in zip(low, high, strict=True)]
    u, v = (a + span * (nodes + 1) for a, span in zip(low, spans, strict=True))
    grid = torch.cartesian_prod(u, v)
    return grid, torch.outer(weights * spans[0], weights * spans[1]).flatten()


def legendre(n: int, like: Tensor) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Gauss-Legendre nodes and weights on [-1, 1]."""
    nodes, weights = (torch.from_numpy(part).to(like) for part in np.polynomial.legendre.leggauss(n))
    return nodes, weights


@dataclass(frozen=True)
class GaussBonnet:
    """The three terms for a rectangle of parameters; their sum is 2π where the map is an immersion of it."""

    curvature: float  # ∫ K dA
    boundary: float  # ∮ κ_g ds
    corners: float  # sum of the exterior angles
    area: float

    @property
    def defect(self) -> float:
        """How far the sum is from 2π."""
        return self.curvature + self.boundary + self.corners - 2 * math.pi


def gauss_bonnet(
    f: Map, low: tuple[float, float], high: tuple[float, float], n: int = 32, like: Tensor | None = None
) -> GaussBonnet:
    """∫K dA, ∮κ_g ds and the exterior angles of the image of a rectangle, by Gauss-Legendre quadrature.

    For a closed surface given by periodic parameters (a torus) ``curvature`` is 2πχ itself and the other terms cancel.
    """
    like = torch.zeros((), dtype=torch.float64) if like is None else like
    uv, weights = quadrature(low, high, n, like)
    inside = geometry(f, uv)
    curvature = (weights * inside.gauss * inside.area).sum()
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    nodes, node_weights = legendre(n, like)
    boundary = torch.zeros_like(curvature)
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        a, b = (torch.tensor(p, dtype=like.dtype, device=like.device) for p in (start, end))
        along = (b - a).expand(n, 2)
        at = geometry(f, a + (nodes[:, None] + 1) / 2 * (b - a))
        speed = torch.einsum("nij,ni,nj->n", at.first, along, along).sqrt()
        boundary = boundary + (node_weights / 2 * geodesic_curvature(at, along) * speed).sum()
    g = first_form(jacobian(f, torch.tensor(corners, dtype=like.dtype, device=like.device)))
    cosine = g[:, 0, 1] / (g[:, 0, 0] * g[:, 1, 1]).sqrt()
    angle = torch.acos(cosine)  # between X_u and X_v: the interior angle at the first and third corner
    interior = torch.stack([angle[0], torch.pi - angle[1], angle[2], torch.pi - angle[3]])
    return GaussBonnet(
        float(curvature), float(boundary), float((torch.pi - interior).sum()), float((weights * inside.area).sum())
    )
