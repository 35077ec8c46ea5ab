"""The three tasks on which every optimizer meets every other: digits, MNIST-10k, characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

PARTS = ("train", "valid", "test")


class Evaluate(Protocol):
    """What is measured of a model, on the named parts of the data."""

    def __call__(self, model: nn.Module, parts: Sequence[str] = PARTS) -> dict[str, float]: ...


class Loss(Protocol):
    def __call__(self, model: nn.Module, batch: Any, /) -> Tensor: ...


@dataclass(frozen=True)
class Task:
    """A model to train, its batches, its loss, and what is measured on which part of the data.

    ``batches`` is endless. ``evaluate`` gives ``train_loss``, ``valid_loss``, ``test_loss`` (nats) and, for classes,
    ``train_error``, ``valid_error``, ``test_error`` (shares in [0, 1]), or those of the parts asked for.
    """

    model: nn.Module
    batches: Iterator[Any]
    loss: Loss
    evaluate: Evaluate
