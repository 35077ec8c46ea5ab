"""Fourier neural operators beside neuraloperator 2.0: seconds of a training step over widths and grids, on one thread.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/pde_operators/benchmarks/fourier_operators.py

The ledger's rows are those of the experiment ``pde_operators/spectral_speed``; this goes through more sizes.
"""

from __future__ import annotations

import logging
import warnings

import torch

from tensorbench.core.timing import compare
from tensorbench.pde_operators.fno import FNO
from tensorbench.pde_operators.losses import relative_l2

logger = logging.getLogger("benchmark")


def step(model: torch.nn.Module, x: torch.Tensor) -> None:
    """Forward and backward pass."""
    model.zero_grad(set_to_none=True)
    relative_l2(model(x), x).backward()


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    warnings.simplefilter("ignore")
    from neuralop.models import FNO as PeerFNO

    for size, modes, hidden, batch in ((16, 8, 16, 20), (64, 16, 16, 8), (64, 32, 32, 4), (128, 32, 32, 2)):
        x = torch.randn(batch, 1, size, size, generator=torch.Generator().manual_seed(0))
        for form in (None, "tucker"):
            ours = FNO(1, 1, (modes, modes), hidden, factorization=form, rank=0.1, generator=0)
            theirs = PeerFNO((modes, modes), 1, 1, hidden, factorization=form, rank=0.1)
            seconds = compare(
                {"ours": lambda m=ours, x=x: step(m, x), "theirs": lambda m=theirs, x=x: step(m, x)}, repeats=5
            )
            logger.info(
                "%d² points, %d² modes, width %d, %s: %.1f ms, neuraloperator %.1f ms (ratio %.2f)",
                size, modes, hidden, form or "dense", 1000 * seconds["ours"], 1000 * seconds["theirs"],
                seconds.ratio("ours", "theirs").value,
            )  # fmt: skip


if __name__ == "__main__":
    main()
