"""Milliseconds of one iteration of Tensor-GPST, its growth with the size of the data, and the authors' code beside it.

    python tensor_gp_iteration.py [PATH_TO_THE_REFERENCE]

The reference is https://github.com/husun0822/TensorGPST, checked out by the reader; only its classes are imported. Its
prox comes from a package that has to be built, so it is given ours. Both sides do iterations with a penalty of 1 on the
same 150 images of 3 x 25 x 25 with ranks 3, in one process, on one thread, in turns.
"""

from __future__ import annotations

import contextlib
import io
import sys
import types
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from tensorbench.core.timing import compare, growth
from tensorbench.decomposition.datasets.regression import simulate
from tensorbench.decomposition.regression.prox import prox_tv1d
from tensorbench.decomposition.regression.proximal import Descent, Images, Parameters, Plan

REFERENCE_ITERATIONS = 2


def start(shape: tuple[int, int, int], rng: np.random.Generator) -> Parameters:
    c, H, W = shape
    A, B = rng.normal(size=(3, H)), rng.normal(size=(3, W))
    U1, U2, U3 = (rng.normal(size=(3, m)) / 2 for m in (3, 3, c))
    return Parameters(A / np.linalg.norm(A), B, U1, U2, U3, -1.4)


def ours(X: np.ndarray, y: np.ndarray):
    """A function that does one iteration."""
    return Descent(Images(X, y), start(X.shape[1:], np.random.default_rng(0)), Plan(1.0)).iterate


def reference(folder: Path, X: np.ndarray, y: np.ndarray, A: np.ndarray):
    """A function that does ``REFERENCE_ITERATIONS`` iterations of the authors' code."""
    stub = types.ModuleType("prox_tv")
    stub.tv1_1d = lambda row, w: prox_tv1d(row, w)
    sys.modules["prox_tv"] = stub
    for name in ("sunpy", "sunpy.visualization", "seaborn"):  # for its maps of the sun
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["sunpy.visualization"].colormaps = None
    sys.path.insert(0, str(folder))
    from model import TensorGPST

    data = types.SimpleNamespace(X=X, train_X=X, train_y=y, test_X=X[:2], test_y=y[:2], A=A, B=A)
    parameters = {
        "N-train": len(y), "N-test": 2, "Latent-Dim": (3, 3), "Latent-Rank": (3, 3, 3), "lambda": 1.0,
        "Init-A": "random", "Init-B": "random", "Init-U": "random", "sigma-init": "random", "plot": False, "seed": 0,
    }  # fmt: skip
    model = TensorGPST(parameters, data)

    def iterations() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            model.fit(max_iter=REFERENCE_ITERATIONS, lr=1e-4, tol=0.0)

    return iterations


def main() -> None:
    threadpool_limits(1)
    X, y, A = simulate(150, 0.5, seed=0)
    step = ours(X, y)
    if len(sys.argv) > 1:
        other = reference(Path(sys.argv[1]), X, y, A)
        found = compare({"ours": step, "reference": other}, repeats=5, min_seconds=0.02)
        each = found["reference"] / REFERENCE_ITERATIONS
        ratio = found.speedup("ours", "reference")
        low, high = ratio.low / REFERENCE_ITERATIONS, ratio.high / REFERENCE_ITERATIONS
        sys.stdout.write(
            f"iteration, 150 x 3 x 25 x 25: ours {1e3 * found['ours']:.2f} ms, reference {1e3 * each:.1f} ms, "
            f"{ratio.value / REFERENCE_ITERATIONS:.0f} times [{low:.0f}, {high:.0f}]\n"
        )
    rng = np.random.default_rng(1)
    for name, shapes in (
        ("images", [(n, 3, 25, 25) for n in (200, 400, 800, 1600)]),
        ("pixels", [(100, 3, s, s) for s in (24, 34, 48, 68)]),
        ("channels", [(100, c, 25, 25) for c in (3, 6, 12, 24)]),
    ):
        steps = {str(shape): ours(rng.normal(size=shape), rng.normal(size=shape[0])) for shape in shapes}
        seconds = compare(steps, repeats=5, min_seconds=0.02)
        slope = growth([float(np.prod(shape)) for shape in shapes], list(seconds.values()))
        times = ", ".join(f"{1e3 * value:.2f}" for value in seconds.values())
        sys.stdout.write(f"growth with {name}: {times} ms, exponent {slope.exponent:.2f}\n")


if __name__ == "__main__":
    main()
