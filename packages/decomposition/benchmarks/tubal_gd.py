"""What the transformed domain and the compression are worth to tubal gradient descent, and how it grows with width.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/decomposition/benchmarks/tubal_gd.py

Prints seconds of 4000 iterations (n = 10, k = 4, 285 measurements) and, in one process on the same iterations, ratios
of seconds:

- loop: the reference implementation's way, a loop over measurements in every iteration, and transforms of the factor;
- einsum: measurements by one einsum over the dense tensors, and transforms of the factor;
- full width: the factor of width 200 as it is, over the compressed one.
"""

from __future__ import annotations

import numpy as np

from tensorbench.core.timing import compare
from tensorbench.decomposition.datasets.tubal import tubal_sensing
from tensorbench.decomposition.tubal.algebra import t_product, t_transpose
from tensorbench.decomposition.tubal.gradient_descent import TubalGD

ITERATIONS, STEP = 4000, 1e-5
SHORT = 40  # iterations for the loop, which needs minutes for all


def loop(A: np.ndarray, y: np.ndarray, U: np.ndarray, iters: int) -> np.ndarray:
    """Gradient descent with a loop over measurements."""
    for _ in range(iters):
        X, D = t_product(U, t_transpose(U)), 0.0
        for a, value in zip(A, y, strict=True):
            D = D + (np.vdot(a, X) - value) * (a + t_transpose(a))
        U = U - STEP * t_product(D, U)
    return U


def einsum(A: np.ndarray, y: np.ndarray, U: np.ndarray, iters: int) -> np.ndarray:
    """Gradient descent with dense measurement tensors contracted at once."""
    for _ in range(iters):
        residual = np.einsum("mijk,ijk->m", A, t_product(U, t_transpose(U))) - y
        D = np.einsum("m,mijk->ijk", residual, A)
        U = U - STEP * t_product(D + t_transpose(D), U)
    return U


def main() -> None:
    data = tubal_sensing(seed=0)
    A = np.stack([data.operator.adjoint(unit) for unit in np.eye(data.operator.m)])

    def descend(R: int, iters: int, compress: bool = True):
        gd = TubalGD(R, step=STEP, iters=iters, record_every=iters, compress=compress, generator=0)
        return lambda: gd.fit(data.operator, data.y)

    start = TubalGD(200, generator=0).initial(10, 4)
    names = {f"R = {R}": descend(R, ITERATIONS) for R in (10, 200)}
    seconds = compare(names | {"R = 200, full width": descend(200, ITERATIONS, False)}, repeats=3)
    for name, value in seconds.items():
        print(f"{name:20s} {value:7.3f} s for {ITERATIONS} iterations")
    print(f"{'full width':20s} {seconds.speedup('R = 200', 'R = 200, full width').value:7.1f}x")

    same = np.linalg.norm(descend(200, SHORT)().factor - loop(A, data.y, start, SHORT)) / np.linalg.norm(start)
    rivals = {
        "ours": descend(200, SHORT),
        "loop": lambda: loop(A, data.y, start, SHORT),
        "einsum": lambda: einsum(A, data.y, start, SHORT),
    }
    short = compare(rivals, repeats=3, warmup=0)
    for name in ("loop", "einsum"):
        print(f"{name:20s} {short.speedup('ours', name).value:7.1f}x, start-up included, at {SHORT} iterations")
    print(f"largest difference of the iterates: {same:.1e}")


if __name__ == "__main__":
    main()
