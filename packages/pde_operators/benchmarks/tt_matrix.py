"""Milliseconds of a tensor-train matrix of the published size against a dense layer, for each order of contraction.

    python tt_matrix.py

One train of trial 1 of Wagner (2023): 128 inputs, 16,384 outputs, ranks up to 16; the peer is torch's dense layer of
the same inputs and outputs. One process, one thread, in turns.
"""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits

from tensorbench.core.timing import compare
from tensorbench.pde_operators.tt_layers import TTMatrixLayer, plan

OUT_MODES, IN_MODES, RANKS = (4,) * 7, (2,) * 7, (1, 7, 16, 16, 16, 16, 7, 1)
ORDERS = ("forward", "backward", "halves", "auto")


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    dense = torch.nn.Linear(128, 16384, bias=False)
    layers = {order: TTMatrixLayer(IN_MODES, OUT_MODES, RANKS, order=order, generator=generator) for order in ORDERS}
    print(f"{'batch':>6} {'rival':>9} {'ms':>9} {'times dense':>12} {'MMAC':>9}")
    with torch.no_grad(), threadpool_limits(1):
        for batch in (1, 10, 100):
            x = torch.randn(batch, 128, generator=generator)
            jobs = {name: (lambda layer=layer, x=x: layer(x)) for name, layer in layers.items()}
            seconds = compare(jobs | {"dense": lambda x=x: dense(x)}, repeats=5)
            for name in (*layers, "dense"):
                macs = batch * 128 * 16384 if name == "dense" else plan(IN_MODES, OUT_MODES, RANKS, batch, name).macs
                ratio = seconds.ratio(name, "dense").value
                print(f"{batch:>6} {name:>9} {1000 * seconds[name]:>9.3f} {ratio:>12.2f} {macs / 1e6:>9.2f}")


if __name__ == "__main__":
    main()
