"""The transformer of :mod:`..models` built with microsoft/mup (MIT), the practical library, as a peer.

Needs the extra ``bench``. The library's own layers, base shapes, initialisers and ``MuAdam`` do the scaling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, scale: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(F.layer_norm(x, (width,))).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(F.layer_norm(x, (width,)))))


class _Decoder(nn.Module):
    def __init__(self, vocabulary: int, width: int, readout: Any, heads: int, context: int, depth: int, base: int):
        super().__init__()
        scale = (base / heads) ** -0.5 / (width / base)
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(width, heads, scale) for _ in range(depth))
        self.head = readout(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(F.layer_norm(x, (x.shape[-1],)))


def mup_transformer(
    vocabulary: int,
    width: int,
    seed: int,
    *,
    heads: int = 4,
    context: int = 64,
    depth: int = 2,
    base: int = 32,
) -> tuple[nn.Module, Callable[[float], torch.optim.Optimizer]]:
    """The model with mup's base shapes and initialisation, and ``optimizer(lr)``, which is MuAdam on it.

    The library draws from torch's global generator; its state is put back.
    """
    import mup

    def decoder(size: int) -> nn.Module:
        return _Decoder(vocabulary, size, mup.MuReadout, heads, context, depth, base)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = decoder(width)
        mup.set_base_shapes(model, decoder(base), delta=decoder(2 * base))
        std, residual = base**-0.5, base**-0.5 * (2 * depth) ** -0.5
        for name, p in model.named_parameters():
            size = 1.0 if name.startswith(("tokens", "positions")) else std
            size = residual if name.endswith("proj.weight") else residual / 2 if name.endswith("down.weight") else size
            mup.normal_(p, 0.0, size)
    return model, lambda lr: mup.MuAdam(model.parameters(), lr=lr)
