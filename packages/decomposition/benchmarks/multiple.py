"""The Multiple format: proximal against ring ALS, a training step of the networks, exact masked ALS against TensorLy.

    OMP_NUM_THREADS=1 python packages/decomposition/benchmarks/multiple.py

One process, one thread. A Multiple tensor of order 3 is a ring, so the package's ring solver is the peer of proximal
ALS on the same tensor with the same ranks and sweeps. LRTFR (Tucker with the same networks) is the peer of a training
step. TensorLy's masked ``parafac`` is the peer of exact masked ALS; errors on unseen cells stand beside the seconds.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from tensorbench.core.timing import compare
from tensorbench.decomposition.baselines.masked import tensorly_cp
from tensorbench.decomposition.completion.masked_als import masked_cp
from tensorbench.decomposition.functional.inr import INRMultiple, INRTucker
from tensorbench.decomposition.functional.pals import multiple_als
from tensorbench.decomposition.network import als

logger = logging.getLogger("benchmark")


def sweeps(shape: tuple[int, int, int] = (145, 145, 64), rank: int = 6, count: int = 5) -> None:
    """Seconds of a sweep over the three factors of a dense tensor."""
    X = np.random.default_rng(0).normal(size=shape)
    structure = np.full((3, 3), rank)
    np.fill_diagonal(structure, shape)
    seconds = compare(
        {
            "pals": lambda: multiple_als(X, (rank,) * 3, max_iter=count, tol=0.0),
            "ring": lambda: als(X, structure, generator=np.random.default_rng(0), max_sweeps=count, tol=0.0),
        },
        repeats=3,
    )
    logger.info(
        "sweep on %s, r = %d: proximal ALS %.0f ms, ring ALS %.0f ms",
        "x".join(map(str, shape)), rank, 1e3 * seconds["pals"] / count, 1e3 * seconds["ring"] / count,
    )  # fmt: skip


def training_step(pixels: int = 96, width: int = 96) -> None:
    """Milliseconds of forward, backward and Adam on a whole picture."""
    axes = [torch.arange(float(n)) for n in (pixels, pixels, 3)]
    target = torch.rand(pixels, pixels, 3, generator=torch.Generator().manual_seed(0))

    def stepper(model: torch.nn.Module):
        model = model.float()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

        def step() -> None:
            optimiser.zero_grad(set_to_none=True)
            (model.grid(axes) - target).norm().backward()
            optimiser.step()

        return step

    domain = [(0.0, float(n - 1)) for n in (pixels, pixels, 3)]
    seconds = compare(
        {
            "multiple": stepper(INRMultiple(domain, (8, 8, 3), width=width)),
            "lrtfr": stepper(INRTucker(domain, (32, 32, 3), width=width)),
        },
        repeats=30,
    )
    logger.info(
        "training step on %d x %d x 3: Multiple %.2f ms, LRTFR %.2f ms",
        pixels, pixels, 1e3 * seconds["multiple"], 1e3 * seconds["lrtfr"],
    )  # fmt: skip


def masked(shape: tuple[int, int, int] = (40, 40, 40), rank: int = 5, share: float = 0.2) -> None:
    """Exact masked ALS and TensorLy's filling in, 100 sweeps each, on a planted tensor."""
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(n, rank)) for n in shape]
    truth = np.einsum("ir,jr,kr->ijk", *factors)
    mask = rng.random(shape) < share
    seen = np.where(mask, truth, 0.0)
    ours = lambda: masked_cp(seen, mask, rank, max_sweeps=100, tol=0.0).model.full().numpy()  # noqa: E731
    peer = lambda: tensorly_cp(seen, mask, rank=rank, iterations=100, seed=0)[0]  # noqa: E731
    seconds = compare({"ours": ours, "tensorly": peer}, repeats=3)
    errors = [np.linalg.norm(fit() - truth) / np.linalg.norm(truth) for fit in (ours, peer)]
    logger.info(
        "masked CP on %s, %.0f %% observed, 100 sweeps: %.2f s against %.2f s; relative error %.1e against %.1e",
        "x".join(map(str, shape)), 100 * share, seconds["ours"], seconds["tensorly"], *errors,
    )  # fmt: skip


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("tensorbench").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    sweeps()
    training_step()
    masked()


if __name__ == "__main__":
    main()
