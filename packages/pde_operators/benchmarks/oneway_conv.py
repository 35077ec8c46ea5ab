"""One-way convolutions against torch's dense and depthwise separable ones on the same fields, and the wave solvers.

    OMP_NUM_THREADS=1 python packages/pde_operators/benchmarks/oneway_conv.py

Prints milliseconds of a forward and backward pass of 3 x 3 layers on 4 fields of 32 x 32 on one thread, and the time of
a one-way layer of rank R over R times that of the depthwise separable one (target: at most 1.2).
"""

from __future__ import annotations

import time

import torch

from tensorbench.core.timing import compare
from tensorbench.pde_operators.datasets.waves import fe_waves
from tensorbench.pde_operators.experiments.oneway_cost import LAYERS, NAMES


def main() -> None:
    torch.set_num_threads(1)
    for channels in (16, 32, 64):
        x = torch.randn(4, channels, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
        layers = {name: make(channels) for name, make in LAYERS.items()}
        work = {name: (lambda layer=layer, x=x: layer(x).square().sum().backward()) for name, layer in layers.items()}
        seconds = compare(work, repeats=5, min_seconds=0.02)
        for name, value in seconds.items():
            print(f"{channels:3d} channels  {NAMES[name]:28s} {1000 * value:7.2f} ms")
        for rank in (1, 2, 4):
            ratio = seconds.ratio(f"oneway_{rank}", "depthwise").value / rank
            print(f"{channels:3d} channels  rank {rank} over {rank} x depthwise separable: {ratio:.2f}")
    fe_waves(seed=0, train=1, valid=1, test=1, beyond=1, snapshots=3)
    start = time.perf_counter()
    fe_waves(seed=0, train=17, valid=1, test=1, beyond=1, snapshots=41)
    print(
        f"60 finite-element runs of 200 steps on 32 x 32 nodes: {3 * (time.perf_counter() - start):.1f} s (20 measured)"
    )


if __name__ == "__main__":
    main()
