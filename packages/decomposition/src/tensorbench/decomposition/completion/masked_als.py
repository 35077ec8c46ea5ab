"""Exact alternating least squares on the observed cells of a tensor, for CP and Tucker.

    minimise  F = ½ Σ_{observed} (X̂ − X)² + ½ λ Σ |factors (and core)|²

Every factor is updated row by row: with the others fixed, row i of mode n is a linear least squares problem over the
observed cells of slice i alone, solved exactly; so is the core of Tucker. F therefore never rises, and with λ = 0 F is
half the squared observed error itself. This differs from filling the missing cells with the last iterate and doing
unmasked steps (TensorLy's masks), which needs many sweeps to forget what was filled in.

A row with fewer observed cells than unknowns (or a deficient system) has many solutions; the one closest to the old
row is taken, so that directions about which the data say nothing stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Bool, Float

from tensorbench.decomposition.formats import CP, Tucker
from tensorbench.decomposition.linalg import khatri_rao, multiply, unfold
from tensorbench.decomposition.network.alternating import check_target

logger = logging.getLogger(__name__)

CUTOFF = 1e-11  # relative to the largest eigenvalue of a Gram matrix: below it, a direction is not determined
DIRECT_CORE = 400  # entries; the normal equations of a larger core cost more than a sweep is worth
CG_STEPS, CG_TOLERANCE = 10, 1e-6
CHUNK = 4_000_000  # entries of the design matrix of the core that are in memory at once


@dataclass(frozen=True)
class MaskedFit:
    """A fitted format and how the fit went.

    Attributes:
        model: CP or Tucker.
        objective: F after every sweep (and before the first), in the units of the squared data; never rises.
        observed_error: |M ∘ (X − X̂)| / |M ∘ X| likewise, on observed cells only.
        converged: whether the relative decrease of F fell below the tolerance.
        reason: ``tolerance``, ``exact`` (F is rounding error) or ``max_sweeps``.
        underdetermined: rows with fewer observed cells than unknowns, over all modes; 0 is what one wants.
    """

    model: CP | Tucker
    objective: np.ndarray
    observed_error: np.ndarray
    converged: bool
    reason: str
    underdetermined: int

    @property
    def sweeps(self) -> int:
        return len(self.objective) - 1

    @property
    def largest_rise(self) -> float:
        """The largest rise of F in one sweep over F at the start: zero but for rounding."""
        return float(max(0.0, np.diff(self.objective).max(initial=0.0)) / self.objective[0])

    def __str__(self) -> str:
        missing = f", {self.underdetermined} rows underdetermined" if self.underdetermined else ""
        return (
            f"{'converged' if self.converged else 'not converged'} ({self.reason}) after {self.sweeps} sweeps, "
            f"relative observed error {self.observed_error[-1]:.3g}{missing}"
        )


def row_systems(
    design: Float[np.ndarray, "cells unknowns"],
    values: Float[np.ndarray, "rows cells"],
    mask: Bool[np.ndarray, "rows cells"],
) -> tuple[Float[np.ndarray, "rows unknowns unknowns"], Float[np.ndarray, "rows unknowns"]]:
    """Normal equations of every row from its observed cells only (``values`` are zero elsewhere)."""
    gram = np.empty((len(values), design.shape[1], design.shape[1]))
    for i, seen in enumerate(mask):
        part = design[seen]
        gram[i] = part.T @ part
    return gram, values @ design


def _solve(gram: np.ndarray, right: np.ndarray, old: np.ndarray, ridge: float) -> np.ndarray:
    """The minimiser of each row's objective; with ridge 0 the minimiser closest to the old row."""
    if ridge > 0:
        return np.linalg.solve(gram + ridge * np.eye(gram.shape[-1]), right[..., None])[..., 0]
    values, vectors = np.linalg.eigh(gram)
    inverse = np.where(values > CUTOFF * values[..., -1:], 1.0 / np.maximum(values, 1e-300), 0.0)
    residual = right - np.einsum("...ij,...j->...i", gram, old)
    step = np.einsum("...ji,...j->...i", vectors, residual) * inverse
    return old + np.einsum("...ij,...j->...i", vectors, step)


def masked_cp(
    tensor: Float[np.ndarray, ...],
    mask: Bool[np.ndarray, ...],
    rank: int,
    *,
    ridge: float = 0.0,
    max_sweeps: int = 100,
    tol: float = 1e-8,
    init: CP | None = None,
    seed: int = 0,
) -> MaskedFit:
    """CP of rank ``rank`` fitted to the cells where ``mask`` is true.

    Args:
        tensor: cells that are not observed may hold anything, NaN too.
        ridge: λ, relative to the mean square of the observed cells.
        tol: stop when F falls by less than this part of itself in a sweep; 0 uses all sweeps (but for an exact fit).
        init: start; random by default.

    Raises:
        ValueError: bad shapes, a slice without observed cells, a value that is not finite, rank < 1, ridge < 0.
    """
    tensor, mask, scale = _check(tensor, mask, ridge, max_sweeps)
    if isinstance(rank, bool) or rank < 1:
        raise ValueError(f"rank {rank} must be at least 1")
    if init is None:
        rng = np.random.default_rng(seed)
        factors = [rng.standard_normal((size, rank)) / rank ** (1 / (2 * tensor.ndim)) for size in tensor.shape]
    else:
        if init.shape != tensor.shape or init.rank != rank:
            raise ValueError(f"init has shape {init.shape} and rank {init.rank}; expected {tensor.shape} and {rank}")
        factors = [f.numpy().copy() for f in init.factors]
        factors[0] = factors[0] * init.weights.numpy() / scale
    problem = _Problem(tensor / scale, mask, ridge)

    def sweep() -> None:
        for mode in range(tensor.ndim):
            design = khatri_rao([f for m, f in enumerate(factors) if m != mode])
            factors[mode] = problem.update(mode, design, factors[mode])

    def predicted() -> np.ndarray:
        return (factors[0] @ khatri_rao(factors[1:]).T).reshape(tensor.shape)

    history = problem.descend(sweep, predicted, lambda: factors, max_sweeps, tol)
    model = CP(None, (factors[0] * scale, *factors[1:]))
    return problem.report(model, history, scale, [rank] * tensor.ndim)


def masked_tucker(
    tensor: Float[np.ndarray, ...],
    mask: Bool[np.ndarray, ...],
    ranks: Sequence[int],
    *,
    ridge: float = 0.0,
    max_sweeps: int = 100,
    tol: float = 1e-8,
    seed: int = 0,
) -> MaskedFit:
    """Tucker with core shape ``ranks`` fitted to the cells where ``mask`` is true; arguments as :func:`masked_cp`.

    Starts from the singular vectors of the unfoldings with missing cells set to the mean; the core is solved for after
    each factor's rows, from all observed cells at once (a core of more than ``DIRECT_CORE`` entries is improved by
    conjugate gradients instead, so that F still never rises).
    """
    tensor, mask, scale = _check(tensor, mask, ridge, max_sweeps)
    ranks = [int(r) for r in ranks]
    if len(ranks) != tensor.ndim or any(not 1 <= r <= n for r, n in zip(ranks, tensor.shape, strict=True)):
        raise ValueError(f"ranks {ranks} need one value per mode, between 1 and its size in {tensor.shape}")
    problem = _Problem(tensor / scale, mask, ridge)
    filled = np.where(mask, problem.tensor, problem.tensor[mask].mean())
    rng = np.random.default_rng(seed)
    factors = []
    for mode, rank in enumerate(ranks):
        start = unfold(filled, mode)
        start = start + 1e-6 * rng.standard_normal(start.shape)  # a picture without structure still has a start
        factors.append(np.linalg.svd(start, full_matrices=False)[0][:, :rank])
        if factors[-1].shape[1] < rank:  # more columns than the unfolding has
            extra = rng.standard_normal((tensor.shape[mode], rank - factors[-1].shape[1]))
            factors[-1] = np.concatenate([factors[-1], extra], axis=1)
    state = {"core": multiply(filled, [f.T for f in factors])}
    cells = np.nonzero(mask)

    def sweep() -> None:
        for mode in range(tensor.ndim):
            partial = multiply(state["core"], factors, skip=mode)
            factors[mode] = problem.update(mode, np.ascontiguousarray(unfold(partial, mode).T), factors[mode])
        if state["core"].size <= DIRECT_CORE:
            state["core"] = _solve_core(problem, factors, cells, state["core"])
        else:
            state["core"] = _improve_core(problem, factors, state["core"])

    def predicted() -> np.ndarray:
        return multiply(state["core"], factors)

    history = problem.descend(sweep, predicted, lambda: [state["core"], *factors], max_sweeps, tol)
    return problem.report(Tucker(state["core"] * scale, tuple(factors)), history, scale, ranks)


def _solve_core(problem: _Problem, factors: list[np.ndarray], cells: tuple, core: np.ndarray) -> np.ndarray:
    """The core from all observed cells; the design matrix is built in chunks of cells."""
    size = core.size
    gram, right = np.zeros((size, size)), np.zeros(size)
    values = problem.tensor[cells]
    step = max(1, CHUNK // size)
    for start in range(0, len(values), step):
        part = slice(start, start + step)
        design = np.ones((len(values[part]), 1))
        for factor, index in zip(factors, cells, strict=True):
            design = np.einsum("ca,cb->cab", design, factor[index[part]]).reshape(len(design), -1)
        gram += design.T @ design
        right += design.T @ values[part]
    return _solve(gram[None], right[None], core.reshape(1, -1), problem.ridge)[0].reshape(core.shape)


def _improve_core(problem: _Problem, factors: list[np.ndarray], core: np.ndarray) -> np.ndarray:
    """A large core: conjugate gradients from the old one, a few steps a sweep. F falls with each, to the same end.

    With λ = 0 the factors are made orthonormal first (the model stays), in place: the system then is near the identity
    where cells are missing at random.
    """
    if problem.ridge == 0:
        for mode, factor in enumerate(factors):
            if factor.shape[0] >= factor.shape[1]:
                factors[mode], triangle = np.linalg.qr(factor)
                core = np.moveaxis(np.tensordot(triangle, core, axes=(1, mode)), 0, mode)
    back = [factor.T for factor in factors]

    def residual_of(step: np.ndarray, target: np.ndarray | float) -> np.ndarray:
        return multiply(np.where(problem.mask, target - multiply(step, factors), 0.0), back)

    gradient = residual_of(core, problem.tensor) - problem.ridge * core
    direction, size = gradient, float((gradient**2).sum())
    target = CG_TOLERANCE**2 * size
    for _ in range(CG_STEPS):
        if size <= target:
            break
        bent = problem.ridge * direction - residual_of(direction, 0.0)
        curvature = float((direction * bent).sum())
        if curvature <= 0:  # a direction that no observed cell sees
            break
        length = size / curvature
        core = core + length * direction
        gradient = gradient - length * bent
        size, before = float((gradient**2).sum()), size
        direction = gradient + (size / before) * direction
    return core


class _Problem:
    """The observed cells, unfolded in each mode, and what both formats do with them."""

    def __init__(self, tensor: np.ndarray, mask: np.ndarray, ridge: float):
        self.tensor, self.mask, self.ridge = tensor, mask, ridge
        self.square = float((tensor**2).sum())
        self.unfolded = [unfold(tensor, mode) for mode in range(tensor.ndim)]
        self.seen = [np.moveaxis(mask, mode, 0).reshape(mask.shape[mode], -1) for mode in range(tensor.ndim)]

    def update(self, mode: int, design: np.ndarray, old: np.ndarray) -> np.ndarray:
        gram, right = row_systems(design, self.unfolded[mode], self.seen[mode])
        return _solve(gram, right, old, self.ridge)

    def descend(self, sweep, predicted, arrays, max_sweeps: int, tol: float) -> tuple[list, list, str]:
        """Sweep until F stalls; the histories of F and of the squared observed error, and why it ended."""
        objective, errors, reason = [], [], "max_sweeps"
        for k in range(max_sweeps + 1):
            if k:
                sweep()
            errors.append(float(((predicted() - self.tensor)[self.mask] ** 2).sum()))
            objective.append(0.5 * errors[-1] + 0.5 * self.ridge * sum(float((a**2).sum()) for a in arrays()))
            if k and errors[-1] < 1e-26 * self.square:
                reason = "exact"
                break
            if k and tol > 0 and objective[-2] - objective[-1] < tol * objective[-2]:
                reason = "tolerance"
                break
        return objective, errors, reason

    def report(self, model: CP | Tucker, history: tuple, scale: float, unknowns: Sequence[int]) -> MaskedFit:
        objective, errors, reason = history
        short = sum(int((s.sum(1) < u).sum()) for s, u in zip(self.seen, unknowns, strict=True))
        if short:
            logger.info("%d rows have fewer observed cells than unknowns; they stay close to the start", short)
        return MaskedFit(
            model,
            np.array(objective) * scale**2,
            np.sqrt(np.array(errors) / self.square),
            reason != "max_sweeps",
            reason,
            short,
        )


def _check(tensor: np.ndarray, mask: np.ndarray, ridge: float, max_sweeps: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The tensor with zeros in the missing cells, the mask, and the root mean square of the observed cells."""
    if not (np.isfinite(ridge) and ridge >= 0) or max_sweeps < 1:
        raise ValueError(f"ridge {ridge} must be finite and >= 0, and max_sweeps {max_sweeps} at least 1")
    tensor, mask, norm = check_target(tensor, np.asarray(mask))
    return tensor, mask, norm / np.sqrt(int(mask.sum()) if mask.any() else prod(tensor.shape))
