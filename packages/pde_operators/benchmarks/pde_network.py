"""The quasi-linear network beside core's ResNet-8 on one thread: a training step over widths and sizes of the image.

    OMP_NUM_THREADS=1 python packages/pde_operators/benchmarks/pde_network.py

The comparison with claims is an experiment (``pde_operators/pde_net_speed``); this one also asks how the bank of 3
× 3 filters is best computed.
"""

from __future__ import annotations

import logging

import torch
from torch.nn import functional as F

from tensorbench.core.tasks.resnet import ResNet8
from tensorbench.core.timing import compare
from tensorbench.pde_operators.experiments.pde_net_speed import step
from tensorbench.pde_operators.pde_resnet import FilterBank, PDEResNet

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for size in (8, 14, 28):
        batch = (torch.randn(64, 1, size, size, generator=generator), torch.zeros(64, dtype=torch.long))
        for width in (8, 16):
            seconds = compare(
                {"pde": step(PDEResNet(width=width), batch), "resnet": step(ResNet8(width), batch)}, repeats=3
            )
            logger.info(
                "%d × %d, width %d: a step %.1f ms, ResNet-8 %.1f ms, ratio %.2f (goal 4)",
                size, size, width, 1e3 * seconds["pde"], 1e3 * seconds["resnet"], seconds.ratio("pde", "resnet").value,
            )  # fmt: skip

    x = torch.randn(64, 64, 8, 8, generator=generator).requires_grad_()
    bank = FilterBank(64)

    def grouped() -> None:
        F.conv2d(x, bank.weight, None, 1, 1, 1, 64).sum().backward()

    def split() -> None:
        bank(x).sum().backward()

    milliseconds = [1e3 * value for value in compare({"grouped": grouped, "split": split}, repeats=5).values()]
    logger.info("two filters a channel: one grouped convolution %.2f ms, two depthwise %.2f ms", *milliseconds)


if __name__ == "__main__":
    main()
