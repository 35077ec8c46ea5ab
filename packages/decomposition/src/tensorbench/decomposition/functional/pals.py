"""Proximal alternating least squares (PALS) for the Multiple decomposition, and how a fit converged.

"Implicit Multiple Tensor Decomposition" (arXiv 2511.09916). PALS minimises F = ½ |M ∘ (X̂ − X)|² over one factor at a
time with a proximal term ½ ρ |A_n − A_n,old|²: a linear least squares problem with a closed form. Each step lowers F by
at least ½ ρ |ΔA_n|², so that Σ |Δ|² ≤ 2 (F_0 − F_end) / ρ without any assumption of Kurdyka-Łojasiewicz type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from jaxtyping import Bool, Float

from tensorbench.decomposition.completion.masked_als import row_systems
from tensorbench.decomposition.formats import Tucker
from tensorbench.decomposition.linalg import multiply, unfold
from tensorbench.decomposition.network.alternating import check_target

from .multiple import MultipleTensor, check_ranks, contraction


@dataclass
class Monitor:
    """How a fit converged.

    Attributes:
        steps: at which steps (sweeps with pals) the following were taken.
        train: root mean square of the residual on the cells that are fitted, in units of the data.
        held: the same on the held-out cells.
        objective: F of pals after each sweep, and before the first.
        moved: Σ_n |Δθ_n|² of each sweep of pals.
        block_descent: whether every block step lowered F by at least ½ ρ |Δθ_n|².
        stationarity: |∇F| after each sweep of pals.
    """

    steps: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    objective: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    block_descent: bool = True
    stationarity: list[float] = field(default_factory=list)

    def bound_used(self, rho: float) -> float:
        """Σ |Δθ|² over 2 (F_0 − F_end) / ρ; at most 1."""
        return sum(self.moved) * rho / (2 * (self.objective[0] - self.objective[-1]))


@dataclass(frozen=True)
class PALS:
    """A fit by proximal alternating least squares.

    Attributes:
        tensor: the best restart.
        objective: F before the first step and after each sweep, data scaled to unit mean square.
        steps: Σ_n |ΔA_n|² of each sweep.
        block_descent: whether every block step lowered F by ½ ρ |ΔA_n|², up to 1e-10 F_0 of rounding.
        relative_error: |M ∘ (X − X̂)| / |M ∘ X|.
        converged: whether F stalled before the last sweep.
        restarts: final F of every restart.
    """

    tensor: MultipleTensor
    objective: np.ndarray
    steps: np.ndarray
    block_descent: bool
    relative_error: float
    converged: bool
    rho: float
    restarts: np.ndarray

    @property
    def bound_used(self) -> float:
        """Σ |Δ|² over its bound 2 (F_0 − F_end) / ρ; at most 1 by the theory."""
        return float(self.steps.sum() * self.rho / (2 * (self.objective[0] - self.objective[-1])))


def multiple_als(
    X: Float[np.ndarray, "..."],
    ranks: Sequence[int],
    mask: Bool[np.ndarray, "..."] | None = None,
    *,
    rho: float = 1e-3,
    max_iter: int = 100,
    tol: float = 1e-8,
    init: str | MultipleTensor = "random",
    restarts: int = 1,
    seed: int = 0,
) -> PALS:
    """Fit a Multiple tensor by PALS; the best of ``restarts``.

    Args:
        ranks: short sizes, one per mode.
        mask: True where observed; the other cells may hold anything.
        rho: weight of the proximal term, for data of unit mean square (X is scaled to it).
        tol: stop when F falls by less than this part of itself in a sweep.
        init: ``random``, ``svd`` (a truncated Tucker decomposition embedded, plus small noise), or a start.

    Raises:
        ValueError: bad ranks, a slice without observed cells, NaN, rho <= 0, unknown init.
    """
    X, mask, norm = check_target(X, mask)
    ranks = check_ranks(ranks, X.ndim)
    if not (np.isfinite(rho) and rho > 0) or max_iter < 1 or restarts < 1:
        raise ValueError(f"rho {rho} must be positive, max_iter {max_iter} and restarts {restarts} at least 1")
    if isinstance(init, str) and init not in ("random", "svd"):
        raise ValueError(f"init {init!r} is not 'random', 'svd' or a MultipleTensor")
    scale = norm / np.sqrt(X.size if mask is None else int(mask.sum()))
    data = X / scale
    runs = []
    for k in range(restarts):
        if isinstance(init, MultipleTensor):
            if init.shape != X.shape or init.ranks != ranks:
                raise ValueError(f"init has shape {init.shape}, ranks {init.ranks}; expected {X.shape}, {ranks}")
            start = [f.numpy() / (scale if n == 0 else 1.0) for n, f in enumerate(init.factors)]
        else:
            start = [f.numpy() for f in MultipleTensor.random(X.shape, ranks, seed + 7919 * k).factors]
            if init == "svd":
                start = _svd_start(data, mask, ranks, [1e-2 * f for f in start])
        runs.append(_pals(data, start, mask, rho, max_iter, tol))
    factors, objective, steps, descent, converged = min(runs, key=lambda r: r[1][-1])
    factors[0] = factors[0] * scale
    error = np.sqrt(2 * objective[-1]) * scale / norm
    finals = np.array([r[1][-1] for r in runs])
    return PALS(
        MultipleTensor(tuple(factors)), np.array(objective), np.array(steps), descent, error, converged, rho, finals
    )


def triple_als(X: Float[np.ndarray, "a b c"], rank: int, mask=None, **options) -> PALS:
    """The triple decomposition: order 3 and equal short sizes; options of :func:`multiple_als`."""
    if np.ndim(X) != 3:
        raise ValueError(f"the triple decomposition is of order 3, the tensor has order {np.ndim(X)}")
    return multiple_als(X, (rank,) * 3, mask, **options)


def proximal_step(
    X: Float[np.ndarray, "..."], factors: list[np.ndarray], n: int, mask: np.ndarray | None, rho: float
) -> tuple[np.ndarray, float]:
    """The new factor n and F after it: argmin ½ |M ∘ (A_n E_n − X_(n))|² + ½ ρ |A_n − A_n,old|²."""
    shapes = tuple(f.shape for f in factors)
    others = [f for m, f in enumerate(factors) if m != n]
    width = prod(f for m, f in enumerate(shapes[n]) if m != n)
    design = contraction(shapes, f"without {n}")(*others).reshape(width, -1)
    values = unfold(X, n)
    old = np.moveaxis(factors[n], n, 0).reshape(X.shape[n], -1)
    if mask is None:
        gram, right = design @ design.T, values @ design.T
        change = np.linalg.solve(gram + rho * np.eye(width), (right - old @ gram).T).T
        residual = (old + change) @ design - values
    else:
        seen = np.moveaxis(mask, n, 0).reshape(len(values), -1)
        gram, right = row_systems(np.ascontiguousarray(design.T), values, seen)
        wanted = right - np.einsum("iab,ib->ia", gram, old)
        change = np.linalg.solve(gram + rho * np.eye(width), wanted[..., None])[..., 0]
        residual = ((old + change) @ design - values) * seen
    moved = (X.shape[n], *(s for m, s in enumerate(shapes[n]) if m != n))
    return np.moveaxis((old + change).reshape(moved), 0, n), 0.5 * float((residual**2).sum())


def _pals(X: np.ndarray, factors: list[np.ndarray], mask: np.ndarray | None, rho: float, max_iter: int, tol: float):
    factors = list(factors)
    full = contraction(tuple(f.shape for f in factors), "full")(*factors)
    residual = full - X if mask is None else (full - X) * mask
    objective, steps = [0.5 * float((residual**2).sum())], []
    slack, descent, current, converged = 1e-10 * objective[0], True, objective[0], False
    for _ in range(max_iter):
        moved = 0.0
        for n in range(X.ndim):
            new, value = proximal_step(X, factors, n, mask, rho)
            delta = float(((new - factors[n]) ** 2).sum())
            descent &= current - value >= 0.5 * rho * delta - slack
            factors[n], current = new, value
            moved += delta
        objective.append(current)
        steps.append(moved)
        if objective[-2] - current <= tol * objective[-2]:
            converged = True
            break
    return factors, objective, steps, bool(descent), converged


def _svd_start(X: np.ndarray, mask: np.ndarray | None, ranks: tuple[int, ...], noise: list[np.ndarray]) -> list:
    """The truncated Tucker decomposition that fits into ``ranks`` (see ``from_tucker``), padded with small noise."""
    order = X.ndim
    filled = X if mask is None else np.where(mask, X, X[mask].mean())
    carried = {m: ranks[m + 1 if m + 1 < order else 1] for m in range(1, order)}
    bases = []
    for m in range(order):
        u = np.linalg.svd(unfold(filled, m), full_matrices=False)[0]
        bases.append(u[:, : carried.get(m, X.shape[m])])
    core = multiply(filled, [u.T for u in bases])
    embedded = MultipleTensor.from_tucker(Tucker(core, tuple(bases)))
    out = []
    for start, factor in zip(noise, embedded.factors, strict=True):
        start[tuple(slice(size) for size in factor.shape)] += factor.numpy()
        out.append(start)
    return out
