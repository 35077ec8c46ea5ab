"""What happens to a factor on its way: errors, angles and tubal singular values of U_t, and where the first phase ends.

Columns of a history: `iteration`; `train_error` |A(U * U^T) - y| / |y|; `power_distance` |U_t - W_t|_F / |W_t|_F to the
power iterate W_t = (I + step M)^t * U_0 (see :func:`gradient_descent.power_iterates`). With a target X* = X * X^T:
`test_error` |U * U^T - X*|_F / |X*|_F.

With a rank r: `angle_spectral`, the sine of the largest principal angle between the r leading tubal left singular
vectors of U_t and the spectral subspace L; `angle_power`, the same for the eigenvectors of the r largest eigenvalues (L
belongs to the r largest in size; a power method damps negative ones); `sigma` and `sigma_next`, 2-norms of the r-th and
(r+1)-th tubal singular values of U_t. With both: `angle_target` to the column space of X*, and `sigma_error`,
|sigma_r(U_t) - sigma_r(X)|_2 / |sigma_r(X)|_2 as tubes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Complex, Float

from tensorbench.decomposition.tubal.algebra import (
    adjoint,
    check_third_order,
    largest_sine,
    real_slices,
    slice_weights,
    svd_slices,
    to_slices,
    tube_norms,
)
from tensorbench.decomposition.tubal.measurements import MeasurementOperator


def leading_eigenvectors(
    slices: Complex[np.ndarray, "slices n n"], operator: MeasurementOperator, r: int
) -> Complex[np.ndarray, "slices n r"]:
    """Left singular vectors of Hermitian slices that belong to the r largest singular values."""
    return svd_slices(slices, real_slices(operator.k, operator.transform))[0][:, :, :r]


class Monitor:
    """Collects a history (module docstring) for :class:`gradient_descent.TubalGD`."""

    def __init__(
        self,
        operator: MeasurementOperator,
        y: Float[np.ndarray, " m"],
        start: Complex[np.ndarray, "slices n R"],
        step: float,
        target: Float[np.ndarray, "n n k"] | None,
        rank: int | None,
    ):
        if rank is not None and not 1 <= rank <= operator.n:
            raise ValueError(f"rank={rank} is outside 1..{operator.n}, the side of the tensors")
        self.operator, self.rank, self.step = operator, rank, step
        self.rows: dict[str, list[float]] = {}
        self._size = float(np.linalg.norm(y))
        self._weights = slice_weights(operator.k, operator.transform)
        observed = operator.coordinates.slices(2.0 * operator.adjoint_symmetric(y))
        self._values, self._vectors = np.linalg.eigh(observed)
        self._start = adjoint(self._vectors) @ start
        self._target = self._target_space = None
        if rank is not None:
            self._spectral = leading_eigenvectors(observed, operator, rank)
            self._power = self._vectors[:, :, ::-1][:, :, :rank]
        if target is not None:
            target = check_third_order(target, "target")
            if target.shape != (operator.n, operator.n, operator.k):
                raise ValueError(f"target has shape {target.shape}; expected {(operator.n, operator.n, operator.k)}")
            self._target = operator.coordinates.of_tensor(target)
            if rank is not None:
                hat = to_slices(target, operator.transform)
                left, values, _ = svd_slices(hat, real_slices(operator.k, operator.transform))
                self._target_space, self._sigma = left[:, :, :rank], np.sqrt(values[:, rank - 1 : rank])

    def record(self, iteration: int, U: np.ndarray, x: np.ndarray, residual: np.ndarray) -> None:
        """Add a row for the factor U (slices) with U * U^T at coordinates x."""
        row = {"iteration": float(iteration), "train_error": float(np.linalg.norm(residual)) / self._size}
        row["power_distance"] = self._power_distance(iteration, U)
        if self._target is not None:
            row["test_error"] = float(np.linalg.norm(x - self._target) / np.linalg.norm(self._target))
        if self.rank is not None:
            left, values, _ = np.linalg.svd(U, full_matrices=False)
            tubes = tube_norms(values, self.operator.k, self.operator.transform)
            row["sigma"] = float(tubes[self.rank - 1]) if self.rank <= len(tubes) else 0.0
            row["sigma_next"] = float(tubes[self.rank]) if self.rank < len(tubes) else 0.0
            if self.rank <= left.shape[2]:
                space = left[:, :, : self.rank]
                row["angle_spectral"] = largest_sine(space, self._spectral)
                row["angle_power"] = largest_sine(space, self._power)
                if self._target_space is not None:
                    row["angle_target"] = largest_sine(space, self._target_space)
                    difference = values[:, self.rank - 1 : self.rank] - self._sigma
                    sizes = (tube_norms(v, self.operator.k, self.operator.transform) for v in (difference, self._sigma))
                    row["sigma_error"] = float(next(sizes)[0] / next(sizes)[0])
        for name, value in row.items():
            self.rows.setdefault(name, []).append(value)

    def _power_distance(self, iteration: int, U: np.ndarray) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            grown = (1.0 + self.step * self._values)[:, :, None] ** iteration * self._start
            gap, size = (self._norm(v) for v in (adjoint(self._vectors) @ U - grown, grown))
            return float(gap / size) if np.isfinite(size) else 1.0  # the power iterate has left the floats

    def _norm(self, slices: np.ndarray) -> float:
        return float(np.sqrt(self._weights @ (np.abs(slices) ** 2).sum(axis=(1, 2))))

    def history(self) -> dict[str, Float[np.ndarray, " records"]]:
        """The columns so far."""
        return {name: np.array(values) for name, values in self.rows.items()}


def spectral_phase_end(history: Mapping[str, np.ndarray], tolerance: float = 0.1) -> int:
    """The last recorded iteration up to which U_t has stayed within `tolerance` (relative) of the power iterate."""
    if not tolerance > 0:
        raise ValueError(f"tolerance {tolerance} must be > 0")
    beyond = np.flatnonzero(history["power_distance"] > tolerance)
    last = len(history["iteration"]) - 1 if len(beyond) == 0 else max(0, int(beyond[0]) - 1)
    return int(history["iteration"][last])
