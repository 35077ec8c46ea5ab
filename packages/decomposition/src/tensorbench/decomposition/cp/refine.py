"""A few Gauss-Newton (Levenberg-Marquardt) steps on a CP model: polishing after `spm` or `mspm` on noisy data.

Minimises |T - sum_r w_r (x)_k a_{r, g(k)}|^2 over one factor per symmetry group (weights absorbed up to their sign).
The normal equations are assembled from the small Gram matrices of the factors, never from the Jacobian, so a step costs
one MTTKRP per mode and a solve of size r sum_i d_i (Tensorlab's structured NLS; Sorber, Van Barel, De Lathauwer, SIAM
J. Optim. 2013).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.cp.inputs import check_tensor

_ROUNDING = 1e-28  # squared relative error that no step can improve


@dataclass(frozen=True)
class Refined:
    """weights (r,), one unit-column factor per group, and the relative error before every step and at the end."""

    weights: Float[np.ndarray, " r"]
    factors: list[Float[np.ndarray, "_ r"]]
    history: list[float]


def mttkrp(
    tensor: Float[np.ndarray, ...], factors: Sequence[Float[np.ndarray, "_ r"]], mode: int
) -> Float[np.ndarray, "n r"]:
    """Matricised tensor times Khatri-Rao product: T contracted with column r of every factor but `mode`."""
    rank = factors[0].shape[1]
    rest = [m for m in range(tensor.ndim) if m != mode]
    first = rest[-1]
    result = np.tensordot(tensor, factors[first], axes=(first, 0))  # modes without `first`, then r
    remaining = [m for m in range(tensor.ndim) if m != first]
    for m in reversed(rest[:-1]):
        axis = remaining.index(m)
        result = np.einsum("...nr,nr->...r", np.moveaxis(result, axis, -2), factors[m])
        remaining.remove(m)
    return result.reshape(tensor.shape[mode], rank)


def cp_refine(
    tensor: Float[Any, ...],
    weights: Float[np.ndarray, " r"],
    factors: Sequence[Float[np.ndarray, "_ r"]],
    symvec: Sequence[int] | None = None,
    *,
    steps: int = 5,
    damping: float = 1e-6,
) -> Refined:
    """Polish a CP model: `factors` one per group, `symvec[k]` the group of mode k (default: one group per mode).

    A step that does not lower the error is retried with ten times the damping, at most six times. Stops early when the
    relative improvement falls below 1e-14.
    """
    array = check_tensor(tensor, min_order=2)
    symvec = list(range(array.ndim)) if symvec is None else list(symvec)
    if len(symvec) != array.ndim:
        raise ValueError(f"symvec {symvec} names {len(symvec)} modes, the tensor has {array.ndim}")
    order, rank = array.ndim, len(weights)
    sign = np.sign(np.where(np.asarray(weights) == 0, 1.0, weights))
    scale = np.abs(weights) ** (1.0 / order)
    current = [np.asarray(f, dtype=np.float64) / np.linalg.norm(f, axis=0) * scale for f in factors]
    norm = float(np.linalg.norm(array)) or 1.0

    def evaluate(model: list[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        modes = [model[g] for g in symvec]
        products = [mttkrp(array, modes, k) for k in range(order)]
        grams = _hadamard([f.T @ f for f in modes])
        fit = float(sign @ np.sum(modes[0] * products[0], axis=0))
        squared = norm**2 - 2 * fit + float(sign @ grams @ sign)
        if squared < 1e-12 * norm**2:  # the expansion cancels near an exact fit: form the residual instead
            left = modes[0] * sign
            for f in modes[1:-1]:
                left = (left[:, None] * f[None]).reshape(-1, rank)
            squared = float(np.linalg.norm(array.reshape(-1, array.shape[-1]) - left @ modes[-1].T) ** 2)
        return squared / norm**2, products

    error, products = evaluate(current)
    history = [float(np.sqrt(max(error, 0.0)))]
    for _ in range(steps if error > _ROUNDING else 0):
        gradient, normal = _normal_equations(current, symvec, sign, products)
        improved = False
        level = damping
        for _ in range(6):
            system = normal + level * np.mean(np.diag(normal)) * np.eye(len(normal))
            step = np.linalg.solve(system, gradient)
            trial, start = [], 0
            for f in current:
                trial.append(f + step[start : start + f.size].reshape(f.shape))
                start += f.size
            new_error, new_products = evaluate(trial)
            if new_error < error:
                improved = True
                break
            level *= 10
        if not improved:
            break
        gain, current, error, products = error - new_error, trial, new_error, new_products
        history.append(float(np.sqrt(max(error, 0.0))))
        if gain < 1e-14 * max(error, 1e-30):
            break
    norms = [np.linalg.norm(f, axis=0) for f in current]
    out = sign * np.prod([norms[g] for g in symvec], axis=0)
    return Refined(out, [f / np.where(n > 0, n, 1.0) for f, n in zip(current, norms, strict=True)], history)


def _hadamard(matrices: Sequence[np.ndarray]) -> np.ndarray:
    result = np.ones(())
    for matrix in matrices:
        result = result * matrix
    return result


def _normal_equations(
    model: list[np.ndarray], symvec: list[int], sign: np.ndarray, products: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """J^T residual and J^T J over the groups' factors, each flattened (row, component)."""
    order, rank = len(symvec), model[0].shape[1]
    modes = [model[g] for g in symvec]
    grams = [f.T @ f for f in modes]
    starts = np.cumsum([0, *(f.size for f in model)])
    gradient, normal = np.zeros(starts[-1]), np.zeros((starts[-1], starts[-1]))
    signs = np.outer(sign, sign)
    for k in range(order):
        rows = slice(starts[symvec[k]], starts[symvec[k] + 1])
        model_part = modes[k] @ (signs * _hadamard([grams[j] for j in range(order) if j != k]))
        gradient[rows] += (products[k] * sign - model_part).reshape(-1)
        for other in range(order):
            cols = slice(starts[symvec[other]], starts[symvec[other] + 1])
            others = _hadamard([grams[j] for j in range(order) if j not in (k, other)]) * signs
            others = np.broadcast_to(others, (rank, rank))
            if k == other:
                block = np.einsum("ij,rs->irjs", np.eye(len(modes[k])), others)
            else:  # d/dA_k[i, r] and d/dA_l[j, s] (l = other) meet through a_{k, s}[i] and a_{l, r}[j], l = other
                block = np.einsum("is,jr,rs->irjs", modes[k], modes[other], others)
            normal[rows, cols] += block.reshape(modes[k].size, modes[other].size)
    return gradient, normal
