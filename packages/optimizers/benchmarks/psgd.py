"""PSGD: what an update of Kronecker factors costs for several shapes and geometries, beside pytorch_optimizer's.

    OMP_NUM_THREADS=1 python packages/optimizers/benchmarks/psgd.py

The claims on cost are an experiment (``optimizers/psgd_speed``); this one takes the update apart.
"""

from __future__ import annotations

import logging
from functools import partial

import torch
from torch import nn

from tensorbench.core.timing import compare
from tensorbench.optimizers.psgd import PSGD, Kron
from tensorbench.optimizers.psgd.inverse_free import GEOMETRIES

logger = logging.getLogger("benchmark")


def geometries(n: int) -> None:
    """Update and use of two dense factors, in products of n × n matrices."""
    g, A, B = (torch.randn(n, n) for _ in range(3))

    def cycle(fitter: Kron) -> None:
        fitter.whiten(g)
        fitter.apply(g)

    fitters = {name: Kron((n, n), name, dtype=torch.float32) for name in GEOMETRIES}  # type: ignore[arg-type]
    jobs = {name: partial(cycle, fitter) for name, fitter in fitters.items()}
    seconds = compare(jobs | {"product": lambda: A @ B}, repeats=3, min_seconds=0.02)
    counts = ", ".join(f"{name} {seconds[name] / seconds['product']:.1f}" for name in GEOMETRIES)
    logger.info("n = %d, update and use in products of matrices: %s", n, counts)


def beside_the_library(shapes: list[tuple[int, ...]]) -> None:
    """A step of the optimizer alone, both updating P in every step."""
    from pytorch_optimizer import Kron as Peer

    def parameters() -> list[nn.Parameter]:
        made = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        for p in made:
            p.grad = torch.randn_like(p)
        return made

    ours = PSGD(parameters(), momentum=0.9, whiten_momentum=True)
    peer = Peer(parameters(), memory_save_mode="smart_one_diag", pre_conditioner_update_probability=1.0)
    seconds = compare({"ours": lambda: ours.step(), "peer": lambda: peer.step()}, repeats=3)
    logger.info(
        "%d tensors, the first %s: %.1f ms, pytorch_optimizer %.1f ms, ratio %.2f",
        len(shapes), shapes[0], 1e3 * seconds["ours"], 1e3 * seconds["peer"], seconds.ratio("ours", "peer").value,
    )  # fmt: skip


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for n in (64, 256, 512):
        geometries(n)
    beside_the_library([(512, 512)])
    beside_the_library([(256, 64)] * 8 + [(64,)] * 16)
    beside_the_library([(32, 16, 3, 3)] * 4)


if __name__ == "__main__":
    main()
