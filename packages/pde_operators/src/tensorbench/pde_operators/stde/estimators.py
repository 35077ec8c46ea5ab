"""Unbiased estimates of differential operators from jets along random tangents, and their variances.

Any linear differential operator of order k is a contraction of the derivative tensor Dᵏf with a tensor of coefficients.
Where the tangents v of a k-jet are random with E[v ⊗ … ⊗ v] equal to that tensor, the jet's read-out dᵏf(v, …, v) is an
unbiased estimate (Shi, Hu, Lin, Kawaguchi, *Stochastic Taylor Derivative Estimator*, NeurIPS 2024, arXiv 2412.00088).
*Sparse* tangents are scaled unit vectors: a random subset of the terms Σᵢ ∂ᵢᵏ f. *Dense* ones are
isotropic: for order 2 Hutchinson's trace estimator. No dense distribution serves Σᵢ ∂ᵢ⁴ (their fourth moments mix the
coordinates).

A function ``f`` maps (points, d) to (points,), each point by itself. All tangents of a draw serve all points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.stde.sampling import Distribution, coordinates, probes
from tensorbench.pde_operators.taylor import Coordinates, jet

Function = Callable[[Any], Any]


def sparse_stde(
    f: Function,
    x: Float[Tensor, "points d"],
    batch: int,
    generator: torch.Generator,
    *,
    order: int = 2,
    replace: bool = False,
    draws: int | None = None,
) -> Float[Tensor, "*draws points"]:
    """(d / batch) Σ_{i in J} ∂ᵢᵏ f: the Laplacian for ``order`` 2, exact where J holds every coordinate.

    ``draws`` independent estimates come from one pass, with a leading axis.

    Raises:
        ValueError: an order below 1, a batch larger than d without replacement.
    """
    if order < 1:
        raise ValueError(f"order {order} is no derivative; take 1 or above")
    d = x.shape[-1]
    drawn = torch.cat([coordinates(d, batch, generator, replace=replace) for _ in range(draws or 1)]).to(x.device)
    _, terms = jet(f, x, [Coordinates(drawn)] + [None] * (order - 1), collapse=draws or 1)
    return d / batch * _draws(terms[-1], draws)


def high_order_diagonal(
    f: Function,
    x: Float[Tensor, "points d"],
    order: int,
    batch: int,
    generator: torch.Generator,
    *,
    kind: str = "sparse",
) -> Float[Tensor, "points"]:
    """Σᵢ ∂ᵢᵏ f by :func:`sparse_stde`; the dense kind is refused above order 2, and for odd orders, where it does not
    exist."""
    if kind not in ("sparse", "dense"):
        raise ValueError(unknown("kind", kind, ["sparse", "dense"]))
    if kind == "dense" and order != 2:
        raise ValueError(
            f"no dense distribution estimates the sum of derivatives of order {order} along the coordinates: its "
            "moments of odd order vanish, and those of order 4 and above mix coordinates. Use kind='sparse'"
        )
    return dense_stde(f, x, batch, generator) if kind == "dense" else sparse_stde(f, x, batch, generator, order=order)


def dense_stde(
    f: Function,
    x: Float[Tensor, "points d"],
    batch: int,
    generator: torch.Generator,
    *,
    distribution: Distribution = "rademacher",
    draws: int | None = None,
) -> Float[Tensor, "*draws points"]:
    """The Laplacian as the mean of d²f(v, v) over isotropic probes: Hutchinson's estimator by 2-jets."""
    v = probes(x.shape[-1], batch * (draws or 1), generator, distribution, dtype=x.dtype).to(x.device)
    _, (_, total) = jet(f, x, [v.unsqueeze(1), None], collapse=draws or 1)
    return _draws(total, draws) / batch


def _draws(total: Tensor, draws: int | None) -> Tensor:
    """With an axis of draws where they were asked for, one included."""
    return total.unsqueeze(0) if draws == 1 else total


def biharmonic_stde(
    f: Function, x: Float[Tensor, "points d"], batch: int, generator: torch.Generator
) -> Float[Tensor, "points"]:
    """Δ²f as a third of the mean of d⁴f(v, v, v, v), v standard normal: E[vᵢvⱼvₖvₗ] has three pairings."""
    v = probes(x.shape[-1], batch, generator, "gaussian", dtype=x.dtype).to(x.device)
    _, terms = jet(f, x, [v.unsqueeze(1), None, None, None], collapse=True)
    return terms[-1] / (3 * batch)


def second_order_stde(
    f: Function,
    x: Float[Tensor, "points d"],
    C: Float[Tensor, "d d"],
    batch: int,
    generator: torch.Generator,
    *,
    method: Literal["columns", "split"] = "columns",
) -> Float[Tensor, "points"]:
    """C : D²f = Σᵢⱼ Cᵢⱼ ∂ᵢ∂ⱼ f for a symmetric C.

    ``columns``: C = σ σᵀ, and (d / batch) Σ_{i in J} d²f(σ eᵢ, σ eᵢ). ``split``, for any symmetric C: C = C′ + λ I
    with λ the lowest eigenvalue, C′ by columns and λ times the Laplacian along the same coordinates.

    Raises:
        ValueError: C is not symmetric, or not positive semidefinite for ``columns``.
    """
    d = x.shape[-1]
    if method not in ("columns", "split"):
        raise ValueError(unknown("method", method, ["columns", "split"]))
    if not torch.allclose(C, C.T):
        raise ValueError("C must be symmetric: only its symmetric part, (C + C.T) / 2, acts on second derivatives")
    values, vectors = torch.linalg.eigh(C)
    lowest = float(values[0]) if method == "split" else 0.0
    if float(values[0]) - lowest < -1e-6 * float(values.abs().max()):
        raise ValueError(
            f"C has the negative eigenvalue {float(values[0]):.3g} and no real σ with C = σ σᵀ; use method='split'"
        )
    sigma = vectors * (values - lowest).clamp(min=0).sqrt()
    drawn = coordinates(d, batch, generator).to(x.device)
    _, (_, total) = jet(f, x, [sigma.T[drawn].unsqueeze(1), None], collapse=True)
    if lowest:
        _, (_, laplacian) = jet(f, x, [Coordinates(drawn), None], collapse=True)
        total = total + lowest * laplacian
    return d / batch * total


# --- variances in closed form --------------------------------------------------------------------------------------


def sparse_variance(
    diagonal: Float[Tensor, "*points d"], batch: int, *, replace: bool = False
) -> Float[Tensor, "*points"]:
    """Of :func:`sparse_stde`, from the terms ∂ᵢᵏ f: d²/batch · σ² with their population variance σ², times the
    correction (d - batch)/(d - 1) of a draw without replacement."""
    d = diagonal.shape[-1]
    spread = diagonal.var(-1, correction=0) * d**2 / batch
    return spread if replace or d == 1 else spread * (d - batch) / (d - 1)


def dense_variance(
    hessian: Float[Tensor, "*points d d"], batch: int, distribution: Distribution = "rademacher"
) -> Float[Tensor, "*points"]:
    """Of :func:`dense_stde`. One probe: 2(|H|² - Σ Hᵢᵢ²) for signs, 2|H|² for Gaussian ones, and
    2(d|H|² - tr²H)/(d + 2) on the sphere; |H| is the Frobenius norm."""
    squared = hessian.square().sum((-2, -1))
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    d = hessian.shape[-1]
    if distribution == "rademacher":
        one = 2 * (squared - diagonal.square().sum(-1))
    elif distribution == "gaussian":
        one = 2 * squared
    elif distribution == "sphere":
        one = 2 * (d * squared - diagonal.sum(-1).square()) / (d + 2)
    else:
        raise ValueError(unknown("distribution", distribution, ["rademacher", "gaussian", "sphere"]))
    return one / batch
