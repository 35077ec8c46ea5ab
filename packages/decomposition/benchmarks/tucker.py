"""Tucker decompositions beside TensorLy's, whole and with missing cells, in one process and on one thread.

    OMP_NUM_THREADS=1 python packages/decomposition/benchmarks/tucker.py

- one core shape: TensorLy's orthogonal iteration (as many sweeps, start from singular vectors) against the same
  iteration in rotated coordinates and against the truncation without sweeps (`hosvd_tol`);
- ten core shapes of the same tensor: the rotation is done once;
- missing cells: exact masked least squares against TensorLy's filling in, errors on unseen cells beside the seconds.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
from tensorly.decomposition import tucker

from tensorbench.core.data import load
from tensorbench.core.timing import compare
from tensorbench.decomposition.baselines.masked import tensorly_tucker
from tensorbench.decomposition.completion.masked_als import masked_tucker
from tensorbench.decomposition.functional.truncation import hosvd_tol
from tensorbench.decomposition.linalg import multiply
from tensorbench.decomposition.structure.tucker_fit import fit_tucker, rotate

logger = logging.getLogger("benchmark")
SWEEPS = 10


def tensorly(X: np.ndarray, core: tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """TensorLy alone, no early stop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it did not converge, which is what is asked for
        return tucker(X, rank=list(core), n_iter_max=SWEEPS, init="svd", tol=0)


def whole(core: tuple[int, int, int] = (20, 20, 10)) -> None:
    """One shape, then ten."""
    X = load("indian_pines")[::2, ::2].astype(np.float64)
    rivals = {
        "tensorly": lambda: tensorly(X, core),
        "rotated": lambda: fit_tucker(rotate(X, 1e-6), core, n_iter=SWEEPS, tol=0.0),
        "truncated": lambda: hosvd_tol(X, 1.0, core),
    }
    seconds = compare(rivals, repeats=2)
    errors = {
        name: np.linalg.norm(X - multiply(core, list(factors))) / np.linalg.norm(X)
        for name, (core, factors) in ((name, fit()) for name, fit in rivals.items())
    }
    logger.info(
        "%s, core %s: %s", "x".join(map(str, X.shape)), core,
        ", ".join(f"{name} {seconds[name]:.2f} s (error {errors[name]:.5f})" for name in rivals),
    )  # fmt: skip

    shapes = [(r, r, max(2, r // 2)) for r in range(4, 24, 2)]

    def many() -> None:
        turned = rotate(X, 1e-6)
        for shape in shapes:
            fit_tucker(turned, shape, n_iter=SWEEPS, tol=0.0)

    seconds = compare({"rotated": many, "tensorly": lambda: [tensorly(X, s) for s in shapes]}, repeats=1, warmup=0)
    logger.info("%d shapes: rotated %.2f s, TensorLy %.2f s", len(shapes), seconds["rotated"], seconds["tensorly"])


def masked(shape: tuple[int, int, int] = (40, 40, 40), rank: int = 4, share: float = 0.2) -> None:
    """At most 50 sweeps each on a planted Tucker tensor."""
    rng = np.random.default_rng(0)
    truth = multiply(rng.normal(size=(rank,) * 3), [rng.normal(size=(n, rank)) for n in shape])
    mask = rng.random(shape) < share
    seen = np.where(mask, truth, 0.0)
    rivals = {
        "ours": lambda: masked_tucker(seen, mask, (rank,) * 3, max_sweeps=50, tol=0.0).model.full().numpy(),
        "tensorly": lambda: tensorly_tucker(seen, mask, rank=rank, iterations=50, seed=0)[0],
    }
    seconds = compare(rivals, repeats=2)
    errors = {name: np.linalg.norm(fit() - truth) / np.linalg.norm(truth) for name, fit in rivals.items()}
    logger.info(
        "%.0f %% of %s observed, at most 50 sweeps: ours %.2f s against %.2f s; error %.1e against %.1e",
        100 * share, "x".join(map(str, shape)), *seconds.values(), *errors.values(),
    )  # fmt: skip


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("tensorbench").setLevel(logging.WARNING)
    whole()
    masked()


if __name__ == "__main__":
    main()
