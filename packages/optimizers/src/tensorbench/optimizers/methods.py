"""Every optimizer by name, ours and the baselines: ``create("adahessian", model, lr=0.15)``.

An entry is a function of the model, the learning rate and options, since several rules need to know which parameter
is a matrix, an embedding or a bias, or need hooks in the model. What comes back steps as ``base`` describes; where
``needs_graph`` is true its closure returns the loss without a backward pass. ``tensorbench.core.training.fit`` trains
with any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tensorbench.core.errors import unknown

from .base import positive
from .baselines import BASELINES

METHODS: dict[str, Callable[..., Any]] = {**BASELINES}


def create(name: str, model: nn.Module, lr: float, **options: Any) -> Any:
    """The optimizer called ``name`` for all parameters of ``model``.

    Raises:
        ValueError: an unknown name (with the nearest valid one), a learning rate that is not positive.
        TypeError: an option that the method does not have.
        ImportError: a baseline whose library is not installed.
    """
    if name not in METHODS:
        raise ValueError(unknown("optimizer", name, sorted(METHODS)))
    return METHODS[name](model, positive("lr", lr), **options)
