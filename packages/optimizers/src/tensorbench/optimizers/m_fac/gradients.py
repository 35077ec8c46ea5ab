"""Gradients for a Fisher matrix: of single samples or of batches, with the data's labels or the model's own.

The empirical Fisher takes the labels of the data, the true Fisher labels drawn from the model's softmax (Kunstner et
al. 2019, arXiv 1905.12558, on how they differ). M-FAC (Frantar et al. 2021, arXiv 2107.03356) prunes with gradients of
small batches and trains with those of whole batches; a batch of b samples has about 1/b of the single samples' Fisher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tensorbench.core.errors import unknown

from ..autodiff import Loss, per_sample_grads
from ..base import positive, whole
from .static import StaticMFAC

Fisher = Literal["empirical", "true"]


def collect(
    model: nn.Module, loss: Loss, data: tuple[Float[Tensor, "samples *shape"], Int[Tensor, " samples"]], count: int,
    generator: torch.Generator, *, batch: int = 1, fisher: Fisher = "empirical", centred: bool = False,
    chunk: int = 128,
) -> Float[Tensor, "count d"]:  # fmt: skip
    """``count`` gradients at the model's parameters, in evaluation mode, of disjoint random sets of ``batch`` samples.

    Args:
        data: inputs and labels; ``loss(model, (inputs, labels))`` is a mean over samples.
        batch: samples a gradient is averaged over.
        fisher: ``true`` draws the labels from the model.
        centred: take the mean of the rows off, for a covariance instead of second moments.
        chunk: samples in memory at a time.

    Raises:
        ValueError: more samples asked for than there are, an unknown kind of Fisher matrix.
    """
    inputs, labels = data
    needed = whole("count", count) * whole("batch", batch)
    if needed > len(inputs):
        raise ValueError(f"{count} gradients of {batch} samples need {needed} samples, there are {len(inputs)}")
    if fisher not in ("empirical", "true"):
        raise ValueError(unknown("fisher", fisher, ("empirical", "true")))
    chosen = torch.randperm(len(inputs), generator=generator)[:needed]
    was_training = model.training
    model.eval()
    try:
        rows = []
        for some in chosen.split(max(1, chunk // batch) * batch):
            x, y = inputs[some], labels[some]
            if fisher == "true":
                with torch.no_grad():
                    odds = model(x).softmax(-1)
                y = torch.multinomial(odds, 1, generator=generator)[:, 0]
            found = per_sample_grads(model, loss, (x, y)).detach()
            rows.append(found.reshape(-1, batch, found.shape[1]).mean(1) if batch > 1 else found)
    finally:
        model.train(was_training)
    gathered = torch.cat(rows)
    return gathered - gathered.mean(0) if centred else gathered


def search_damping(
    grads: Float[Tensor, "m d"], damps: Sequence[float], held_out_loss: Callable[[StaticMFAC], float],
    block: int | None = None,
) -> tuple[float, dict[float, float]]:  # fmt: skip
    """The λ of least ``held_out_loss(inverse)``, the first of equals, and the losses of all.

    Raises:
        ValueError: no candidates, or none whose loss is finite.
    """
    losses = {positive("damp", damp): float(held_out_loss(StaticMFAC(grads, damp, block))) for damp in damps}
    finite = {damp: value for damp, value in losses.items() if value < float("inf")}
    if not finite:
        raise ValueError(f"no damping of {list(damps)} gave a finite loss")
    return min(finite, key=lambda damp: finite[damp]), losses
