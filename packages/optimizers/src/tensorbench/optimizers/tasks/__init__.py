"""The three tasks on which every optimizer meets every other: digits, MNIST-10k, characters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Task:
    """A model to train, its batches, its loss, and what is measured on which part of the data.

    ``batches`` is endless. ``evaluate`` gives ``train_loss``, ``valid_loss``, ``test_loss`` (nats) and, for classes,
    ``valid_error`` and ``test_error`` (shares in [0, 1]).
    """

    model: nn.Module
    batches: Iterator[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]
