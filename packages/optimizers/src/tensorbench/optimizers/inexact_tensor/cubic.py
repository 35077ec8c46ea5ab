"""The step of a cubic Newton method: a quadratic with the cube of the distance added, minimised as well as asked.

    ω(h) = <g, h> + hᵀ(H + δI)h/2 + M|h|³/6                                      (cubic step)

Its minimiser solves (H + δI + (M/2)|h| I) h = -g (Nesterov and Polyak 2006), one equation in the radius r = |h| once
the eigenvalues of H are known. ``krylov`` solves the same in the Krylov space of g, which it grows until |∇ω(h)| ≤ τ;
``gd`` descends ω. The residual |∇ω(h)| is the verifiable condition on inexact steps of Agafonov et al. (2024, arXiv
2309.01570), who let τ_t fall as c/t^(5/2) without a loss in the rate (:func:`dynamic_rule`).

A convex function has H ⪰ 0. Where noise made eigenvalues negative they are set to 0, the projection onto such matrices;
so the hard case of trust regions cannot occur. :attr:`Step.clamped` says how far below 0 they were.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.optimizers.base import nonnegative, positive

log = logging.getLogger(__name__)
Product = Callable[[Tensor], Tensor]
METHODS = ("exact", "krylov", "gd")
_EIGH_FLOPS = 4 / 3  # of d³: the reduction to tri-diagonal form alone, a lower bound on what eigh needs


@dataclass(frozen=True)
class Step:
    """A step ``h`` with ``residual`` = |∇ω(h)|, and what it took.

    ``accepted`` says whether the residual is at most τ; ``products`` counts H v; ``flops`` are multiplications and
    additions, for the exact method only those of reducing H to tri-diagonal form; ``clamped`` is by how much the lowest
    eigenvalue was below 0.
    """

    h: Float[Tensor, " d"]
    residual: float
    accepted: bool
    products: int = 0
    flops: float = 0.0
    clamped: float = 0.0


def dynamic_rule(c: float) -> Callable[[int], float]:
    """The tolerances τ_t = c / (t+1)^(5/2) for t = 0, 1, …"""
    positive("c", c)
    return lambda t: c / (t + 1) ** 2.5


def radius_of(eigenvalues: np.ndarray, g: np.ndarray, delta: float, cubic: float, quartic: float = 0.0) -> float:
    """r with |(Λ + φ(r))⁻¹ g| = r, where φ(r) = δ + cubic·r/2 + quartic·r²/6.

    Newton's method on 1/|(Λ + φ(r))⁻¹ g| - 1/r, which grows with r and is nearly linear, within a shrinking bracket.
    Needs Λ ≥ 0 and something positive among δ, cubic and quartic (or Λ > 0).
    """
    size = float(np.linalg.norm(g))
    if size == 0:
        return 0.0
    bounds = [math.sqrt(2 * size / cubic)] if cubic > 0 else []
    bounds += [(6 * size / quartic) ** (1 / 3)] if quartic > 0 else []
    lowest = delta + float(eigenvalues[0])
    bounds += [size / lowest] if lowest > 0 else []
    if not bounds:
        raise ValueError("the model has no minimiser: H is singular, and delta, cubic and quartic are all 0")
    low, high = 0.0, min(bounds)
    r = high
    squares = g * g
    for _ in range(100):
        shifted = np.maximum(eigenvalues + (delta + cubic * r / 2 + quartic * r * r / 6), 1e-300)
        terms = squares / shifted**2
        w = math.sqrt(terms.sum())
        if w > r:
            low = r
        else:
            high = r
        slope_of_w = -float((terms / shifted).sum()) * (cubic / 2 + quartic * r / 3) / w
        step = (1 / w - 1 / r) / (1 / r**2 - slope_of_w / w**2)
        following = r - step
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - r) <= 4e-16 * r:
            return following
        r = following
    return r


def solve_in_basis(
    eigenvalues: np.ndarray, g: np.ndarray, delta: float, cubic: float, quartic: float = 0.0
) -> tuple[np.ndarray, float]:
    """h in the eigenbasis, where g is given in it, and its norm."""
    r = radius_of(eigenvalues, g, delta, cubic, quartic)
    if r == 0:
        return np.zeros_like(g), 0.0
    return -g / np.maximum(eigenvalues + (delta + cubic * r / 2 + quartic * r * r / 6), 1e-300), r


def check_symmetric(H: Tensor) -> None:
    """ValueError where H is not symmetric up to rounding; the message says by how much."""
    scale = float(H.abs().max())
    asymmetry = float((H - H.T).abs().max())
    if asymmetry > (1e-4 if H.dtype == torch.float32 else 1e-8) * max(scale, 1e-300):
        raise ValueError(
            f"the Hessian is not symmetric: entries differ by up to {asymmetry:.3g} (largest entry {scale:.3g}); "
            "use (H + H.T) / 2 if that is rounding"
        )


def spectrum(H: Float[Tensor, "d d"], *, noisy: bool = True) -> tuple[np.ndarray, Tensor, float]:
    """Eigenvalues with the negative ones set to 0, eigenvectors, and how far below 0 the lowest was.

    Raises:
        ValueError: H is not symmetric, or (unless ``noisy``) it has an eigenvalue below what rounding explains.
    """
    check_symmetric(H)
    values, vectors = torch.linalg.eigh(H)
    e = values.double().numpy()
    below = max(0.0, -float(e[0]))
    if below > 0:
        rounding = 1e-6 if H.dtype == torch.float32 else 1e-10
        if below > rounding * max(1.0, float(abs(e[-1]))):
            if not noisy:
                raise ValueError(
                    f"an exact oracle's Hessian has the eigenvalue {-below:.3g}: the function is not convex here; "
                    "declare delta2 > 0 if the Hessian is inexact"
                )
            log.debug("Hessian eigenvalues down to %.3g were set to 0", -below)
        e = np.maximum(e, 0.0)
    return e, vectors, below


def cubic_subproblem(
    g: Float[Tensor, " d"],
    H: Float[Tensor, "d d"] | Product,
    M: float,
    delta: float = 0.0,
    method: str = "exact",
    tau: float | None = None,
    *,
    max_products: int = 500,
    noisy: bool = True,
) -> Step:
    """The minimiser of <g, h> + hᵀ(H + δI)h/2 + M|h|³/6, up to a residual of ``tau``.

    Args:
        H: the matrix, or for ``krylov`` and ``gd`` also a function v ↦ H v.
        tau: accepted residual |∇ω(h)|, in the units of g; by default 1e-8 |g|. The exact method is as exact as it can.
        max_products: after so many products the step is returned as it is, ``accepted`` being False.
        noisy: set negative eigenvalues to 0; else refuse those that rounding does not explain (exact method only).

    Raises:
        ValueError: M ≤ 0, delta or tau < 0, an unknown method, NaN, a matrix that is not symmetric.
    """
    positive("M", M)
    nonnegative("delta", delta)
    if method not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    size = float(g.norm())
    if not math.isfinite(size):
        raise ValueError("the gradient holds NaN or infinity")
    tau = 1e-8 * size if tau is None else nonnegative("tau", tau)
    if size == 0:
        return Step(torch.zeros_like(g), 0.0, True)
    if method == "exact":
        if not isinstance(H, Tensor):
            raise ValueError("the exact method needs H as a matrix; use method='krylov' for products")
        return _exact(g, H, M, delta, tau, noisy)
    solve = _krylov if method == "krylov" else _descent
    if isinstance(H, Tensor):
        matrix = H
        check_symmetric(matrix)

        def product(v: Tensor) -> Tensor:
            return matrix @ v

        return solve(g, product, M, delta, tau, max_products)
    return solve(g, H, M, delta, tau, max_products)


def _exact(g: Tensor, H: Tensor, M: float, delta: float, tau: float, noisy: bool) -> Step:
    e, Q, below = spectrum(H, noisy=noisy)
    z, _ = solve_in_basis(e, (Q.T @ g).double().numpy(), delta, M)
    h = Q @ torch.from_numpy(z).to(g.dtype)
    norm = float(h.norm())
    product = Q @ torch.from_numpy(e * z).to(g.dtype) if below > 0 else H @ h
    residual = float((g + product + (delta + M * norm / 2) * h).norm())
    d = len(g)
    return Step(h, residual, residual <= max(tau, 1e-9 * float(g.norm())), d, _EIGH_FLOPS * d**3, below)


def _krylov(g: Tensor, product: Product, M: float, delta: float, tau: float, limit: int) -> Step:
    """Lanczos from g with full reorthogonalisation; in the basis Q of k vectors H is tri-diagonal and g is |g| e₁."""
    d, size = len(g), float(g.norm())
    limit = min(limit, d)
    Q = torch.empty(min(limit, 32), d, dtype=g.dtype)
    Q[0] = g / size
    diagonal: list[float] = []
    off: list[float] = []
    flops, k = 0.0, 0
    while True:
        v = product(Q[k])
        diagonal.append(float(Q[k] @ v))
        basis = Q[: k + 1]
        for _ in range(2):  # once is not enough
            v = v - basis.T @ (basis @ v)
        beta = float(v.norm())
        k += 1
        flops += 2.0 * d * d + 8.0 * k * d
        closed = beta <= 1e-14 * max(1.0, abs(diagonal[0])) or k == limit
        if closed or k <= 4 or k % 4 == 0:
            T = np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)
            values, vectors = np.linalg.eigh(T)
            below = max(0.0, -float(values[0]))
            z, _ = solve_in_basis(np.maximum(values, 0.0), size * vectors[0], delta, M)
            y = vectors @ z
            residual = beta * abs(float(y[-1]))
            flops += 10.0 * k**3
            if residual <= tau or closed:
                h = Q[:k].T @ torch.from_numpy(y).to(g.dtype)
                # In exact arithmetic the basis is complete with d vectors, whatever rounding left over.
                return Step(h, residual, residual <= tau or k == d, k, flops, below)
        off.append(beta)
        if k == len(Q):
            Q = torch.cat([Q, torch.empty(min(limit - k, k), d, dtype=g.dtype)])
        Q[k] = v / beta


def _descent(g: Tensor, product: Product, M: float, delta: float, tau: float, limit: int) -> Step:
    """Gradient descent on ω with Barzilai and Borwein's lengths, halved until ω falls below its last ten values."""
    d = len(g)

    def model(h: Tensor, Hh: Tensor) -> tuple[float, Tensor]:
        r = float(h.norm())
        value = float(g @ h + h @ Hh / 2) + delta * r * r / 2 + M * r**3 / 6
        return value, g + Hh + (delta + M * r / 2) * h

    h = torch.zeros_like(g)
    Hg = product(g)
    gradient = g
    curvature = max(float(g @ Hg) / float(g @ g), 0.0) + delta
    length = 1 / max(curvature, math.sqrt(M * float(g.norm()) / 2))
    Hh, values, products = torch.zeros_like(g), [0.0], 1
    while float(gradient.norm()) > tau and products < limit:
        direction = product(gradient)
        products += 1
        for _ in range(60):
            candidate = h - length * gradient
            value, following = model(candidate, Hh - length * direction)
            if value <= max(values[-10:]) - 1e-4 * length * float(gradient @ gradient) or length < 1e-16:
                break
            length /= 2
        step, change = candidate - h, following - gradient
        h, Hh, gradient = candidate, Hh - length * direction, following
        values.append(value)
        length = float(step @ step) / max(float(step @ change), 1e-300)
    residual = float(gradient.norm())
    return Step(h, residual, residual <= tau, products, products * (2.0 * d * d + 12.0 * d))
