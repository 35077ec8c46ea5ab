"""Where the time of the subspace power methods goes, and what batching and compression are worth.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/decomposition/benchmarks/cp_power.py

Prints ratios measured in one process (one thread with the variables above):

- compression: eigendecomposition of the compressed flattening against the full one (d = 20, order 4);
- batch: many starts side by side against one start after another, same tensor and tolerances;
- als: TensorLy's ALS (300 iterations from a random start) against SPM on an exact tensor of rank 40.
"""

from __future__ import annotations

import numpy as np

from tensorbench.core.timing import compare
from tensorbench.decomposition.baselines.cp import tensorly_als
from tensorbench.decomposition.cp.flattening import flatten
from tensorbench.decomposition.cp.mspm import mspm
from tensorbench.decomposition.cp.spm import spm
from tensorbench.decomposition.datasets.symmetric import planted_cp


def compression(d: int = 20) -> float:
    """Seconds of the full eigendecomposition over those of the compressed one (flattening included)."""
    tensor = planted_cp(seed=0, dims=[d], mult=[4], rank=2 * d, weights="normal").tensor
    groups = (tuple(range(4)),)
    seconds = compare(
        {
            "compressed": lambda: np.linalg.eigh(flatten(tensor, groups, (2,))),
            "full": lambda: np.linalg.eigh(tensor.reshape(d * d, d * d)),
        }
    )
    return seconds["full"] / seconds["compressed"]


def batch_symmetric() -> float:
    """SPM, d = 30, order 4, rank 200: one start at a time over the default batch."""
    tensor = planted_cp(seed=0, dims=[30], mult=[4], rank=200, weights="normal").tensor
    seconds = compare({"batch": lambda: spm(tensor), "single": lambda: spm(tensor, batch=1, ntries=1)}, repeats=2)
    return seconds["single"] / seconds["batch"]


def batch_partial() -> float:
    """MSPM, 100 x 100 x 50, rank 80, 1 % noise: one start at a time over the default batch."""
    tensor = planted_cp(seed=0, dims=[100, 50], mult=[2, 1], rank=80, noise=0.01).tensor

    def solve(**options: int) -> object:
        return mspm(tensor, 80, symmetries=(2, 1), **options)

    seconds = compare({"batch": solve, "single": lambda: solve(batch=1, ntries=1)}, repeats=2)
    return seconds["single"] / seconds["batch"]


def als() -> float:
    """TensorLy's ALS over SPM, d = 15, order 4, rank 40, exact."""
    tensor = planted_cp(seed=0, dims=[15], mult=[4], rank=40, weights="normal").tensor
    rivals = {"spm": lambda: spm(tensor), "als": lambda: tensorly_als(tensor, 40, init="random", iterations=300)}
    seconds = compare(rivals, repeats=1)
    return seconds["als"] / seconds["spm"]


def main() -> None:
    for function in (compression, batch_symmetric, batch_partial, als):
        print(f"{function.__name__:16s} {function():7.1f}x")


if __name__ == "__main__":
    main()
