"""Tubal sensing: a symmetric positive semidefinite tensor of low tubal rank seen through random inner products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorbench.core.data import dataset

if TYPE_CHECKING:
    from tensorbench.decomposition.tubal.measurements import MeasurementOperator


@dataclass(frozen=True)
class TubalSensing:
    """`target` = W * W^T (n x n x k) with W orthonormal of tubal rank `rank`, and `y` = operator.forward(target)."""

    target: np.ndarray
    rank: int
    operator: MeasurementOperator
    y: np.ndarray


def _measure(
    sample: np.ndarray, r: int, m: int | None, factor: float, symmetrise: bool, rng: np.random.Generator
) -> TubalSensing:
    """W: the r leading tubal left singular vectors of `sample`."""
    from tensorbench.decomposition.tubal import algebra, theory
    from tensorbench.decomposition.tubal.measurements import MeasurementOperator

    n, _, k = sample.shape
    if m is None:
        m = theory.figure_measurements(n, r, k, factor)
    W = algebra.t_svd(sample).U[:, :r]
    target = algebra.t_product(W, algebra.t_transpose(W))
    operator = MeasurementOperator(n, k, m, symmetrise, rng)
    return TubalSensing(target, r, operator, operator.forward(target))


@dataset(
    title="Tubal sensing, random tensor", source="generated here", licence="Apache-2.0", generated=True, cache=False
)
def tubal_sensing(
    *,
    seed: int,
    n: int = 10,
    k: int = 4,
    r: int = 3,
    m: int | None = None,
    factor: float = 0.9,
    symmetrise: bool = True,
) -> TubalSensing:
    """W from an n x r x k Gaussian tensor; `m` measurements, by default ceil(factor (n + 1) r k ln(n + 1)) as in the
    paper. k = 1 is matrix sensing."""
    if not 1 <= r <= n:
        raise ValueError(f"tubal rank r={r} is outside 1..{n}, the side of the tensor")
    rng = np.random.default_rng([seed, 3])
    return _measure(rng.standard_normal((n, r, k)), r, m, factor, symmetrise, rng)


@dataset(
    title="Tubal sensing, patch of a photograph",
    source="NASA (astronaut), as in scikit-image",
    licence="public domain",
    library="scikit-image",
)
def tubal_patch(
    *, seed: int, size: int = 16, r: int = 2, m: int | None = None, factor: float = 0.9, symmetrise: bool = True
) -> TubalSensing:
    """W: the r leading tubal left singular vectors of a size x size x 3 patch at a place that the seed draws."""
    from skimage import data

    image = np.asarray(data.astronaut(), dtype=np.float64) / 255.0
    if not 1 <= r <= size <= min(image.shape[:2]):
        raise ValueError(f"size={size} and r={r}: 1 <= r <= size <= {min(image.shape[:2])} is needed")
    rng = np.random.default_rng([seed, 16])
    row, column = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
    return _measure(image[row : row + size, column : column + size], r, m, factor, symmetrise, rng)


@dataset(
    title="Tubal sensing, a family",
    source="generated here; scikit-image",
    licence="see its members",
    generated=True,
    cache=False,
)
def tubal_family(*, seed: int, cases: dict[str, dict[str, Any]]) -> dict[str, TubalSensing]:
    """Named problems: parameters of `tubal_sensing`, or of `tubal_patch` with `patch: true`."""
    return {
        name: (tubal_patch if case.get("patch") else tubal_sensing)(
            seed=seed, **{key: value for key, value in case.items() if key != "patch"}
        )
        for name, case in cases.items()
    }
