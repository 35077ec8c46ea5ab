"""Meta-learning at infinite width: milliseconds of an outer step, beside copies for each task, on one thread.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/optimizers/benchmarks/infinite_width.py

The peer is what MAML libraries do: a copy of the parameters for each task and autograd. The ledger's figures are those
of the experiment ``optimizers/infinite_width_speed``.
"""

from __future__ import annotations

import logging
from functools import partial

import torch

from tensorbench.core.timing import compare
from tensorbench.optimizers.datasets.omniglot import glyphs
from tensorbench.optimizers.infinite_width.few_shot_tasks import FewShotTasks
from tensorbench.optimizers.infinite_width.kernel_learners import PoolLearner, kernel_matrix
from tensorbench.optimizers.infinite_width.linear_limit import FinLinear1LP, InfLinear1LP
from tensorbench.optimizers.infinite_width.maml import MAML, fast_gradient, naive_gradient

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source = FewShotTasks(torch.from_numpy(glyphs(seed=0, classes=216).train))  # 135 classes, as the small Omniglot
    draws = torch.Generator().manual_seed(0)
    batch, numbers = source.sample(32, draws), source.sample_numbers(32, draws)
    pixels = source.pool.shape[1]
    nets = {f"width {n}": FinLinear1LP(pixels, 5, n, bias_alpha=1.0, seed=0) for n in (2, 32, 512)}
    for name, net in {**nets, "infinite": InfLinear1LP(pixels, 5, bias_alpha=1.0)}.items():
        seconds = compare(
            {"shared": partial(fast_gradient, net, batch, 0.4), "copies": partial(naive_gradient, net, batch, 0.4)},
            repeats=3,
        )
        logger.info(
            "%s: %.2f ms, with copies %.1f ms (%.0f times)",
            name, 1e3 * seconds["shared"], 1e3 * seconds["copies"], seconds.speedup("shared", "copies").value,
        )  # fmt: skip
    pool = MAML(PoolLearner(kernel_matrix(source.pool, source.pool, "relu_ntk", 1.0, 1.0), 5))
    limit = MAML(InfLinear1LP(pixels, 5, bias_alpha=1.0))
    seconds = compare(
        {"pool": lambda: pool.step(numbers, 1e-6), "infinite": lambda: limit.step(batch, 1e-6)}, repeats=3
    )
    logger.info(
        "outer step: NTK on a pool of %d images %.2f ms, infinite muP %.2f ms",
        len(source.pool), 1e3 * seconds["pool"], 1e3 * seconds["infinite"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
