"""Functional tensors: seconds of a training step by format, on volumes, beside one network of all coordinates.

    OMP_NUM_THREADS=1 python packages/radiance_fields/benchmarks/functional_tensors.py

Pictures, memory, a million points and JAX are an experiment (``radiance_fields/inr_speed``). Here: 48³ cells,
three axes, layers of 128, one channel; the monolithic network sees a sixteenth of the cells, and its time is scaled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from tensorbench.core.timing import compare
from tensorbench.radiance_fields.implicit.functional import FunctionalTensor, pixel_centres
from tensorbench.radiance_fields.implicit.nets import Axis
from tensorbench.radiance_fields.implicit.training import channel_mse, monolithic

logger = logging.getLogger("benchmark")
SIDE, SHARE, FEATURES = 48, 16, (128, 128, 128)
RANKS = {"cp": 64, "tt": [16, 16], "tucker": [32, 32, 32], "ring": 6}


def step_of(net: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """One step of Adam."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    generator = torch.Generator().manual_seed(0)
    x = [pixel_centres(SIDE)] * 3
    values = torch.rand(SIDE, SIDE, SIDE, 1, generator=generator)
    rivals = {}
    for format, rank in RANKS.items():
        net = FunctionalTensor([Axis("siren", features=FEATURES)] * 3, format, rank, 1, generator)
        rivals[format] = step_of(net, lambda net=net: channel_mse(net.forward_grid(x), values))  # type: ignore[misc]
    one = monolithic("siren", 3, 1, generator, features=FEATURES)
    points = 2 * torch.rand(SIDE**3 // SHARE, 3, generator=generator) - 1
    some = values.reshape(-1, 1)[: len(points)]
    rivals["monolithic"] = step_of(one, lambda: channel_mse(one(points), some))
    seconds = compare(rivals, repeats=3)
    for format in RANKS:
        logger.info(
            "%d³ cells, %s %s: %.1f ms a step, %.0f times as fast as one network (%.0f ms)",
            SIDE, format, RANKS[format], 1e3 * seconds[format],
            SHARE * seconds["monolithic"] / seconds[format], SHARE * 1e3 * seconds["monolithic"],
        )  # fmt: skip


if __name__ == "__main__":
    main()
