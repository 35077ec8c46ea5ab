"""Convex recovery of low tubal rank: the tubal nuclear norm, minimised exactly under the measurements.

minimise |X|_TNN subject to A(X) = y (Lu, Feng, Chen, Liu, Lin, Yan, "Tensor Robust PCA with a New Tensor Nuclear Norm",
TPAMI 2020, and, for sampled entries, Zhang, Aeron, "Exact Tensor Completion Using t-SVD", 2017), by the alternating
direction method of multipliers: a projection onto the measurements, then singular value thresholding of the slices,
with the penalty balanced as in Boyd et al. (2011), section 3.4.1. No parameter changes the solution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from tensorbench.decomposition.tubal.algebra import check_third_order, t_svt
from tensorbench.decomposition.tubal.measurements import MeasurementOperator


@dataclass(frozen=True)
class TNNResult:
    """The minimiser, the iterations, and the last relative change (primal and dual residual, the larger)."""

    tensor: Float[np.ndarray, "n m k"]
    iterations: int
    residual: float


def _admm(
    project: Callable[[np.ndarray], np.ndarray],
    prox: Callable[[np.ndarray, float], np.ndarray],
    start: np.ndarray,
    iters: int,
    tol: float,
) -> tuple[np.ndarray, int, float]:
    """min f(z) with z in an affine set: `project` onto it, `prox` of threshold * f. Returns the feasible iterate."""
    if iters < 1 or not tol > 0:
        raise ValueError(f"iters={iters} must be >= 1 and tol={tol} > 0")
    z, dual = start, np.zeros_like(start)
    size = float(np.linalg.norm(start)) or 1.0
    threshold = float(np.abs(start).max()) or 1.0
    x, residual, iteration = start, np.inf, 0
    for iteration in range(1, iters + 1):
        x = project(z - dual)
        previous, z = z, prox(x + dual, threshold)
        dual = dual + x - z
        primal, change = float(np.linalg.norm(x - z)) / size, float(np.linalg.norm(z - previous)) / size
        residual = max(primal, change)
        if residual < tol:
            break
        if iteration % 10 == 0 and max(primal, change) > 5 * min(primal, change):
            # A large threshold moves z far and lets x and z agree late; the dual is scaled along with it.
            factor = 0.5 if change < primal else 2.0
            factor = factor if iteration < iters // 2 else 1.0
            threshold, dual = threshold * factor, dual * factor
    return x, iteration, residual


def tnn_recover(
    operator: MeasurementOperator, y: Float[np.ndarray, " m"], *, psd: bool = True, iters: int = 2000, tol: float = 1e-8
) -> TNNResult:
    """The symmetric tensor of least tubal nuclear norm with A(X) = y; `psd` also asks for positive semidefinite slices,
    what U * U^T knows as well. Noisy y of more measurements than unknowns are fitted by least squares."""
    y = operator.check_values(y)
    coordinates, matrix = operator.coordinates, operator.symmetric_matrix()
    inverse = np.linalg.pinv(matrix)
    particular, onto = inverse @ y, inverse @ matrix

    def prox(x: np.ndarray, threshold: float) -> np.ndarray:
        values, vectors = np.linalg.eigh(coordinates.slices(x))
        if psd:
            values = np.maximum(values - threshold, 0.0)
        else:
            values = np.sign(values) * np.maximum(np.abs(values) - threshold, 0.0)
        return coordinates.flat((vectors * values[:, None, :]) @ vectors.conj().swapaxes(1, 2))

    x, iterations, residual = _admm(lambda v: v - onto @ v + particular, prox, particular, iters, tol)
    return TNNResult(coordinates.to_tensor(x), iterations, residual)


def tnn_complete(
    tensor: Float[np.ndarray, "n m k"],
    mask: Bool[np.ndarray, "n m k"],
    *,
    iters: int = 1000,
    tol: float = 1e-7,
    transform: str = "fft",
) -> TNNResult:
    """The tensor of least tubal nuclear norm that has the entries of `tensor` where `mask` is true (others are not
    read)."""
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != np.shape(tensor) or not mask.any():
        raise ValueError(f"mask must be boolean of the tensor's shape {np.shape(tensor)} with an observed entry")
    data = check_third_order(np.where(mask, tensor, 0.0))
    x, iterations, residual = _admm(
        lambda v: np.where(mask, data, v), lambda v, threshold: t_svt(v, threshold, transform), data, iters, tol
    )
    return TNNResult(x, iterations, residual)
