"""The next character of a text by the small transformer of ``core``: 2 layers of width 64, 64 characters of context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tensorbench.core.data.shared import TokenText
from tensorbench.core.tasks import char_lm

from . import PARTS, Task


def task(
    text: TokenText, generator: torch.Generator, *, width: int = 64, batch: int = 8, windows: int = 128,
    plain_attention: bool = False,
) -> Task:  # fmt: skip
    """A new model with the task of training it. Its losses are in nats a character, on ``windows`` windows each.

    ``plain_attention`` computes attention by plain products, which can be differentiated twice (the fused kernel not).
    """
    network = char_lm.CharLM(char_lm.CharLMShape(len(text.vocabulary), width=width), generator)

    def evaluate(model: nn.Module, parts: Sequence[str] = PARTS) -> dict[str, float]:
        return {f"{name}_loss": char_lm.evaluate(model, getattr(text, name), windows=windows) for name in parts}

    loss = _plain_loss if plain_attention else char_lm.loss
    return Task(network, char_lm.batches(text.train, generator, batch=batch), loss, evaluate)


def _plain_loss(network: nn.Module, batch: char_lm.Batch) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return char_lm.loss(network, batch)
