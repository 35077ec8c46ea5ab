"""Equations of high order in few dimensions, with mixed derivatives (appendix I.4.1 of Shi et al. 2024).

2D KdV   u_ty + u_xxxy + 3 (u_xy u_x + u_y u_xx) - u_xx + 2 u_yy = 0
2D KP    (u_t + 6 u u_x + u_xxx)_x + 3 u_yy = u_tx + 6 u_x² + 6 u u_xx + u_xxxx + 3 u_yy = 0
1D gKdV  u_t + u u_x + 0.0025 u_xxx = 0, with the derivatives of its residual in x and in t (gradient-enhanced)

The derivatives come from jets (:func:`~tensorbench.pde_operators.taylor.partials`) or from nested autograd; the
polynomials are :mod:`~tensorbench.pde_operators.diffops`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.diffops import PDE, polynomial
from tensorbench.pde_operators.pinn.training import nested_derivatives
from tensorbench.pde_operators.taylor import partials

_KDV = "u_t + u*u_x + 0.0025*u_xxx"
EQUATIONS: dict[str, tuple[PDE, ...]] = {
    "kdv2d": (polynomial("u_ty + u_xxxy + 3*(u_xy*u_x + u_y*u_xx) - u_xx + 2*u_yy", "xyt"),),
    "kp2d": (polynomial("u_tx + 6*u_x**2 + 6*u*u_xx + u_xxxx + 3*u_yy", "xyt"),),
    "gkdv1d": (
        polynomial(_KDV, "xt"),
        polynomial("u_tx + u_x**2 + u*u_xx + 0.0025*u_xxxx", "xt"),
        polynomial("u_tt + u_t*u_x + u*u_tx + 0.0025*u_xxxt", "xt"),
    ),
}
METHODS = ("jets", "nested")


def residuals(
    equation: str, f: Callable[[Any], Any], x: Float[Tensor, "points d"], method: str = "jets"
) -> list[Float[Tensor, "points"]]:
    """The equation's residual, for ``gkdv1d`` followed by its derivatives in x and t. ``f``: (points, d) -> (points,).

    Raises:
        ValueError: an unknown equation or method, points of another dimension.
    """
    if equation not in EQUATIONS:
        raise ValueError(unknown("equation", equation, EQUATIONS))
    if method not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    pdes = EQUATIONS[equation]
    if x.shape[-1] != len(pdes[0].coordinates):
        raise ValueError(f"{equation} is in the coordinates {pdes[0].coordinates!r}; points have {x.shape[-1]}")
    wanted = list(dict.fromkeys(index for pde in pdes for index in pde.operators))
    values = by_jets(f, x, wanted) if method == "jets" else nested_derivatives(f, x, wanted)
    return [pde.residual(values) for pde in pdes]


def by_jets(
    f: Callable[[Any], Any], x: Float[Tensor, "points d"], indices: list[tuple[int, ...]]
) -> dict[tuple[int, ...], Tensor]:
    """Derivatives by multi-index of counts, (3, 1, 0) for u_xxxy."""
    targets = {index: tuple(c for c, n in enumerate(index) for _ in range(n)) for index in indices}
    found = partials(f, x, list(targets.values()))
    return {index: found[target] for index, target in targets.items()}


def loss(
    equation: str, f: Callable[[Any], Any], x: Float[Tensor, "points d"], method: str = "jets", *, gpinn: float = 1e-3
) -> Float[Tensor, ""]:
    """Mean squared residual, its derivatives with the weight ``gpinn``."""
    parts = [r.square().mean() for r in residuals(equation, f, x, method)]
    return parts[0] + gpinn * torch.stack(parts[1:]).sum() if len(parts) > 1 else parts[0]
