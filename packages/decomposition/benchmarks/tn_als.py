"""Least squares on a tensor ring: this engine against TensorLy's TR-ALS, same ring, same number of sweeps.

    OMP_NUM_THREADS=1 python packages/decomposition/benchmarks/tn_als.py

One process, one thread, stopping rules off; both sides start from random cores, and their errors after the last sweep
(mean of five starts) are reported beside the seconds. The last line is the cost of one evaluation of the structure
search: two restarts of 40 sweeps on 3^6 with ranks up to 7.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import tensorly as tl
from tensorly.decomposition import tensor_ring_als

from tensorbench.core.timing import compare
from tensorbench.decomposition.network import TensorNetwork, als, ring_network
from tensorbench.decomposition.structure import topology
from tensorbench.decomposition.structure.objective import StructureObjective
from tensorbench.decomposition.structure.space import PermutationSpace, Structure

logger = logging.getLogger("benchmark")
SWEEPS = 20


def rings(shape: tuple[int, ...], rank: int, seed: int = 0) -> None:
    """Seconds and errors of both on a planted ring with noise."""
    rng = np.random.default_rng(seed)
    order = len(shape)
    target = ring_network([rng.standard_normal((rank, size, rank)) for size in shape]).full()
    target += 0.01 * target.std() * rng.standard_normal(shape)
    ranks = Structure(shape, topology.ring(order), (rank,) * order).adjacency

    def ours(seed: int = 1) -> np.ndarray:
        fit = als(target, ranks, generator=np.random.default_rng(seed), max_sweeps=SWEEPS, tol=0.0)
        return fit.network.full()

    def peer(seed: int = 1) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = tensor_ring_als(
                target, [rank] * (order + 1), ls_solve="normal_eq", n_iter_max=SWEEPS, tol=0.0, random_state=seed
            )
        return tl.tr_to_tensor(fitted)

    seconds = compare({"ours": ours, "tensorly": peer}, repeats=5)
    norm = np.linalg.norm(target)
    errors = [np.mean([np.linalg.norm(f(seed) - target) for seed in range(5)]) / norm for f in (ours, peer)]
    logger.info(
        "ring %s rank %d, %d sweeps: %.1f ms against %.1f ms, speed ratio %.1f; mean relative error %.2e against %.2e",
        "x".join(map(str, shape)), rank, SWEEPS, 1e3 * seconds["ours"], 1e3 * seconds["tensorly"],
        seconds.speedup("ours", "tensorly").value, *errors,
    )  # fmt: skip


def evaluations(count: int = 40) -> None:
    """Seconds per evaluation of the structure search on random structures."""
    space = PermutationSpace((3,) * 6, topology.ring(6), 7)
    rng = np.random.default_rng(0)
    planted = Structure(space.dims, space.topology, (3, 2, 2, 4, 3, 2)).adjacency
    target = TensorNetwork([rng.standard_normal(tuple(row)) for row in planted]).full()
    structures = [space.random(rng) for _ in range(count)]
    largest = [space.structure([7] * 6)]
    every = compare({"random": lambda: StructureObjective(target, tol=0.0).errors(structures),
                     "largest": lambda: StructureObjective(target, tol=0.0).errors(largest)}, repeats=3)  # fmt: skip
    logger.info(
        "one evaluation of 3^6 (2 restarts, 40 sweeps): %.1f ms on average over ranks 1..7, %.1f ms with all ranks 7",
        1e3 * every["random"] / count, 1e3 * every["largest"],
    )  # fmt: skip


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("tensorbench").setLevel(logging.WARNING)
    rings((3,) * 6, 3)
    rings((10, 10, 10, 10), 4)
    rings((30, 30, 30), 5)
    rings((4,) * 8, 4)
    evaluations()


if __name__ == "__main__":
    main()
