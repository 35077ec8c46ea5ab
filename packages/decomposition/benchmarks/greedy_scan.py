"""The scan of all bonds with shared environments, against one general least-squares fit per bond and a sweep.

    OMP_NUM_THREADS=1 python packages/decomposition/benchmarks/greedy_scan.py

One process, one thread, two updates of both new slices per bond on either side. The last line is the time of a whole
search: a tensor of 7 × 7 × 7 × 7 × 7 planted on the paper's triangle, to a relative error of 1e-6.
"""

from __future__ import annotations

import logging
from itertools import combinations

import numpy as np

from tensorbench.core.timing import compare
from tensorbench.decomposition.datasets.growth import planted_networks, planted_ranks
from tensorbench.decomposition.network import TensorNetwork, als, random_network, structure_matrix
from tensorbench.decomposition.structure.edge_scan import scan_edges
from tensorbench.decomposition.structure.greedy_tn import greedy_tn

logger = logging.getLogger("benchmark")


def scan(name: str, ranks: np.ndarray) -> None:
    """Milliseconds of the three on a random target."""
    rng = np.random.default_rng(0)
    network = random_network(ranks, rng)
    target = rng.standard_normal(network.shape)
    residual = target - network.full()
    edges = list(combinations(range(network.order), 2))

    def one_by_one() -> None:
        for i, j in edges:
            cores = list(network.cores)
            cores[i], cores[j] = cores[i].take([0], axis=j), cores[j].take([0], axis=i)
            als(residual, start=TensorNetwork(cores), vertices=[i, j], max_sweeps=2, tol=0.0)

    seconds = compare(
        {
            "shared": lambda: scan_edges(residual, network, edges, np.random.default_rng(0)),
            "one by one": one_by_one,
            "sweep": lambda: als(target, start=network, max_sweeps=1, tol=0.0),
        },
        repeats=7,
    )
    logger.info(
        "%s: %d bonds in %.1f ms, %.1f times faster than one by one; a scan costs %.1f sweeps (%.1f ms each)",
        name, len(edges), 1e3 * seconds["shared"], seconds.speedup("shared", "one by one").value,
        seconds["shared"] / seconds["sweep"], 1e3 * seconds["sweep"],
    )  # fmt: skip


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    scan("triangle of the paper, 7^5", planted_ranks("triangle"))
    scan("all bonds 2, 4^6", structure_matrix((4,) * 6, 2))
    target = planted_networks(seed=0, kinds=["triangle"])["triangle"].tensor
    seconds = compare(
        {"search": lambda: greedy_tn(target, generator=0), "again": lambda: greedy_tn(target, generator=0)}
    )
    logger.info("triangle to 1e-6: %.2f s", seconds["search"])


if __name__ == "__main__":
    main()
