"""Accelerated tensor methods: seconds of a step beside peers that do the same work, on one thread.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/optimizers/benchmarks/tensor_methods.py

Peers: OPTAMI's cubic subproblem and its Nesterov acceleration on the same logistic regression. How a step grows with
the dimension and what Krylov spaces save is an experiment (``optimizers/tensor_method_speed``).
"""

from __future__ import annotations

import logging

import torch

from tensorbench.core.data import load
from tensorbench.core.timing import compare
from tensorbench.optimizers.inexact_tensor.ascn import ASCN
from tensorbench.optimizers.inexact_tensor.baselines import optami_nesterov
from tensorbench.optimizers.inexact_tensor.cubic import cubic_subproblem
from tensorbench.optimizers.inexact_tensor.oracles import ExactOracle, MiniBatchOracle
from tensorbench.optimizers.landscapes.convex import LogisticLoss

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    from OPTAMI.utils.subproblem_solver import cubic_exact

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = load("logistic_breast_cancer", l2=1e-4)
    loss, rows = LogisticLoss(data.l2), (torch.from_numpy(data.features), torch.from_numpy(data.labels))
    oracle = MiniBatchOracle(loss, rows)
    x0 = torch.zeros(data.features.shape[1], dtype=torch.float64)
    g, H = oracle.grad(x0), oracle.hess(x0)
    weights = torch.nn.Parameter(x0.clone())

    seconds = compare(
        {"ours": lambda: cubic_subproblem(g, H, 0.4), "optami": lambda: cubic_exact([weights], g, H, 0.4)}
    )
    ratio = seconds.speedup("ours", "optami")
    logger.info("cubic step, d = 30: %.2g s, OPTAMI %.1f (%.1f to %.1f) times as long", seconds["ours"], *ratio)

    automatic = ExactOracle(lambda x: loss(x, *rows))
    rivals = {
        "closed": lambda: ASCN(oracle, 0.4, T=20).run(x0),
        "automatic": lambda: ASCN(automatic, 0.4, T=20).run(x0),
        "optami": lambda: optami_nesterov(lambda x: loss(x, *rows), x0, 0.1, 20),
    }
    seconds = compare(rivals, repeats=3)
    logger.info(
        "20 accelerated steps on breast cancer: %.3f s with derivatives in closed form, %.3f s with automatic ones, "
        "OPTAMI's acceleration %.3f s",
        *seconds.values(),
    )


if __name__ == "__main__":
    main()
