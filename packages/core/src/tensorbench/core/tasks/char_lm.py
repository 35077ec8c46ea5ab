"""A small transformer that predicts the next character: model, loss, batches and evaluation.

Pre-norm blocks with causal attention, GELU and learned positions, after the decoder of Radford et al. (2019), without
dropout and biases. The linear layers are ``qkv``, ``proj``, ``up`` and ``down`` of each block, and the output layer
``head``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

OUTPUT = ("head",)
"""The output layer, which recipes of few bits and of matrix norms treat apart."""
Batch = tuple[Int[Tensor, "batch context"], Int[Tensor, "batch context"]]


@dataclass(frozen=True)
class CharLMShape:
    """Sizes of the model; ``width`` a multiple of ``heads``."""

    vocabulary: int
    context: int = 64
    width: int = 64
    depth: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        for name in ("vocabulary", "context", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of the number of heads, {self.heads}")


class Block(nn.Module):
    """Attention and a perceptron of four times the width, each added to the stream that it reads normalised."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.norm_perceptron = nn.LayerNorm(width)
        self.qkv = skip_init(nn.Linear, width, 3 * width, bias=False)
        self.proj = skip_init(nn.Linear, width, width, bias=False)
        self.up = skip_init(nn.Linear, width, 4 * width, bias=False)
        self.down = skip_init(nn.Linear, 4 * width, width, bias=False)

    def forward(self, x: Float[Tensor, "batch context width"]) -> Float[Tensor, "batch context width"]:
        batch, context, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, context, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, context, width))
        return x + self.down(F.gelu(self.up(self.norm_perceptron(x))))


class CharLM(nn.Module):
    """Logits of the next character after each of ``context`` characters. Initial weights come from ``generator``."""

    def __init__(self, shape: CharLMShape, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = skip_init(nn.Embedding, shape.vocabulary, shape.width)
        self.positions = skip_init(nn.Embedding, shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width)
        self.head = skip_init(nn.Linear, shape.width, shape.vocabulary, bias=False)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 2:
                    embedding = name.startswith(("tokens", "positions"))
                    residual = name.endswith(("proj.weight", "down.weight"))
                    std = 0.02 if embedding else parameter.shape[1] ** -0.5
                    std *= (2 * shape.depth) ** -0.5 if residual else 1.0
                    parameter.normal_(0.0, std, generator=generator)

    def forward(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch context vocabulary"]:
        if tokens.shape[1] > self.shape.context:
            raise ValueError(f"{tokens.shape[1]} characters are more than the model's context of {self.shape.context}")
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats per character."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def batches(
    text: Int[np.ndarray, " characters"], generator: torch.Generator, *, batch: int = 8, context: int = 64
) -> Iterator[Batch]:
    """Endless windows of the text from places drawn with ``generator``, and the same windows one character on.

    Raises:
        ValueError: a text of no more than ``context`` characters.
    """
    if len(text) <= context:
        raise ValueError(f"a text of {len(text)} characters has no window of {context} + 1; use a shorter context")
    tokens = torch.from_numpy(np.ascontiguousarray(text)).long()
    offsets = torch.arange(context + 1)
    while True:
        starts = torch.randint(len(tokens) - context, (batch,), generator=generator)
        windows = tokens[starts[:, None] + offsets]
        yield windows[:, :-1], windows[:, 1:]


@torch.no_grad()
def evaluate(
    model: nn.Module, text: Int[np.ndarray, " characters"], *, windows: int = 128, context: int = 64, batch: int = 64
) -> float:
    """Mean cross-entropy (nats per character) on ``windows`` windows spread evenly over the text, always the same."""
    if len(text) <= context:
        raise ValueError(f"a text of {len(text)} characters has no window of {context} + 1; use a shorter context")
    tokens = torch.from_numpy(np.ascontiguousarray(text)).long()
    starts = torch.linspace(0, len(tokens) - context - 1, windows).long()
    cut = tokens[starts[:, None] + torch.arange(context + 1)]
    was_training = model.training
    model.eval()
    try:
        parts = [float(loss(model, (part[:, :-1], part[:, 1:]))) * len(part) for part in cut.split(batch)]
    finally:
        model.train(was_training)
    return sum(parts) / windows
