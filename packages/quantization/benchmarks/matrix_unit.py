"""Simulated matrix units against a float32 product of the same blocks.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/quantization/benchmarks/matrix_unit.py

Prints seconds on 1024 products of 16 x 8 x 16 and multiply-adds per second (target: 5 million).
"""

from __future__ import annotations

import torch

from tensorbench.core.timing import compare
from tensorbench.quantization.tensorcore.presets import UNITS

NAMES = ("volta_fp16", "ampere_fp16", "ampere_tf32", "hopper_fp16", "ieee_fma_chain", "exact")


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn(1024, 16, n, generator=generator) for n in (16, 8))
    work = {"float32": lambda: A @ B}
    for name in NAMES:
        unit = UNITS[name]
        a, b = unit.cast(A), unit.cast(B)
        work[name] = lambda unit=unit, a=a, b=b: unit.mma(a, b)
    seconds = compare(work, repeats=3)
    macs = 1024 * 16 * 8 * 16
    for name, value in seconds.items():
        print(f"{name:15s} {value:8.4f} s   {macs / value / 1e6:8.1f} million multiply-adds a second")


if __name__ == "__main__":
    main()
