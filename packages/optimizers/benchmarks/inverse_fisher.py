"""Products with the inverse Fisher matrix: passes over the gradients that they cost, and against loops over m.

    OMP_NUM_THREADS=1 python packages/optimizers/benchmarks/inverse_fisher.py

Prints milliseconds of a product, of an update with a product, and of two matrix-vector products at several sizes, and
of the same written as loops over the rows of the small factors.
"""

from __future__ import annotations

import torch

from tensorbench.core.timing import compare
from tensorbench.optimizers.experiments.inverse_fisher_products import RowByRow
from tensorbench.optimizers.m_fac import DynamicMFAC

DAMP = 1e-5


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for d, m in ((26_122, 128), (26_122, 512), (200_000, 256)):
        grads, x = torch.randn(m, d, generator=generator), torch.randn(d, generator=generator)
        window = DynamicMFAC(m, d, DAMP)
        for g in grads:
            window.update(g)
        loops, weights = RowByRow(grads.clone(), DAMP), torch.randn(m, generator=generator)
        seconds = compare(
            {
                "two passes": lambda: (grads @ x, grads.T @ weights),  # noqa: B023
                "product": lambda: window.mul(x),  # noqa: B023
                "update and product": lambda: window.update_mul(x),  # noqa: B023
                "loops, update and product": lambda: loops.update_mul(x),  # noqa: B023
            },
            repeats=3,
        )
        for name, value in seconds.items():
            ratio = seconds.ratio(name, "two passes").value
            print(f"d {d:7d}  m {m:4d}  {name:26s} {1e3 * value:8.2f} ms  {ratio:6.2f} x two passes")


if __name__ == "__main__":
    main()
