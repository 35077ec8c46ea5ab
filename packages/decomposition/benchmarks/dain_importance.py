"""Importance added up while training against the way of the authors' code, and a whole run of DAIN.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/decomposition/benchmarks/dain_importance.py

Both sides are given the same errors and hidden vectors of every epoch. The authors' code (github.com/srijankr/DAIN)
keeps the gradients of all epochs in an epochs × cells × width table and then loops over the cells in Python; that is
done here again, without its other work. Prints the ratio of seconds and the memory of each side (one process, one
thread), and the seconds of two trainings of an MLP [150, 256, 256, 64] on 10,000 cells with all that DAIN does.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from tensorbench.core.timing import compare, measure
from tensorbench.decomposition.completion.dain import dain_fit
from tensorbench.decomposition.completion.influence import OnlineImportance
from tensorbench.decomposition.completion.neural import EmbeddingMLP
from tensorbench.decomposition.datasets.sparse import random_cells

EPOCHS, TRAIN, VALID, WIDTH, BATCH = 50, 7200, 1800, 64, 1024


def epochs() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Errors (cells) and hidden vectors (cells, width) of each epoch; the validation cells come last."""
    generator = torch.Generator().manual_seed(0)
    cells = TRAIN + VALID
    # Two epochs' worth of numbers, taken in turn: what is stored is the authors' way's own affair.
    drawn = [(torch.randn(cells, generator=generator), torch.rand(cells, WIDTH, generator=generator)) for _ in range(2)]
    return [drawn[epoch % 2] for epoch in range(EPOCHS)]


def online(seen: list[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
    tracker = OnlineImportance(TRAIN)
    for error, hidden in seen:
        tracker.start_epoch(error[TRAIN:], hidden[TRAIN:])
        for rows in torch.arange(TRAIN).split(BATCH):
            tracker.visit(rows, error[rows], hidden[rows])
    return tracker.total.numpy()


def table_and_loop(seen: list[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
    table = torch.zeros(EPOCHS, TRAIN + VALID, WIDTH)
    for epoch, (error, hidden) in enumerate(seen):
        for rows in torch.arange(TRAIN + VALID).split(BATCH):
            table[epoch, rows, :] = hidden[rows] * error[rows, None]
    toward = table[:, TRAIN:, :].sum(dim=1)
    out = np.zeros(TRAIN)
    for i in range(TRAIN):
        out[i] = (table[:, i, :] * toward).sum().item()
    return out


def main() -> None:
    torch.set_num_threads(1)
    seen = epochs()
    ours, theirs = online(seen), table_and_loop(seen)
    assert np.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())
    seconds = compare({"online": lambda: online(seen), "table": lambda: table_and_loop(seen)}, repeats=3)
    print(f"importance, {TRAIN} cells, {EPOCHS} epochs: {seconds.speedup('online', 'table').value:.0f}x faster")
    for name, function in (("online", online), ("table", table_and_loop)):
        with measure() as cost:
            function(seen)
        print(f"{name:7s} {1e3 * seconds[name]:7.0f} ms, {cost.peak_mib:6.1f} MiB above the start")
    split = random_cells(seed=0, cells=10_000)
    with measure() as cost:
        dain_fit(split, partial(EmbeddingMLP, layers=[150, 256, 256, 64]), seed=0, epochs=50, patience=50)
    print(f"DAIN, two trainings of 50 epochs, 10,000 cells: {cost.seconds:.1f} s")


if __name__ == "__main__":
    main()
