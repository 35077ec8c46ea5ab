"""Multi-head attention whose two matrix products are modules, so that their operands can be quantised."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MatMul(nn.Module):
    """``a @ b`` as a module."""

    def forward(
        self, a: Float[Tensor, "*batch rows inner"], b: Float[Tensor, "*batch inner columns"]
    ) -> Float[Tensor, "*batch rows columns"]:
        return a @ b


class ExplicitAttention(nn.Module):
    """``nn.MultiheadAttention`` with its parameters, through the modules ``in_proj``, ``scores``, ``values``,
    ``out_proj``.

    Attention weights are not returned, dropout is not applied.

    Raises:
        ValueError: separate key and value sizes, added biases, or a key padding mask.
    """

    batch_first = True  # inputs are transposed where the original was not; torch's fused path asks
    in_proj_bias = None  # keeps nn.TransformerEncoderLayer off its fused path, which would pass the modules by
    _qkv_same_embed_dim = False

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        if not original._qkv_same_embed_dim or original.bias_k is not None or original.add_zero_attn:
            raise ValueError("only attention with one embedding size and without added keys can be quantised")
        size = original.embed_dim
        self.heads, self.head_size, self.sequence_first = (
            original.num_heads,
            original.head_dim,
            not original.batch_first,
        )
        biased = original.in_proj_bias is not None
        self.in_proj = nn.Linear(size, 3 * size, bias=biased, device=original.in_proj_weight.device)
        self.in_proj.weight = original.in_proj_weight
        if biased:
            self.in_proj.bias = original.in_proj_bias
        self.out_proj = nn.Linear(size, size, bias=original.out_proj.bias is not None)
        self.out_proj.weight, self.out_proj.bias = original.out_proj.weight, original.out_proj.bias
        self.scores, self.values = MatMul(), MatMul()

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False,
        key_padding_mask: Tensor | None = None, **ignored: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        if key is not query or value is not query or key_padding_mask is not None:
            raise ValueError("only self-attention without key padding can be quantised")
        x = query.transpose(0, 1) if self.sequence_first else query
        batch, tokens, size = x.shape
        split = self.in_proj(x).reshape(batch, tokens, 3, self.heads, self.head_size)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        scores = self.scores(q * self.head_size**-0.5, k.transpose(-1, -2))
        if attn_mask is None and is_causal:
            attn_mask = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
        if attn_mask is not None:
            boolean = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(attn_mask, -torch.inf) if boolean else scores + attn_mask
        mixed = self.values(scores.softmax(-1), v)
        y = self.out_proj(mixed.transpose(1, 2).reshape(batch, tokens, size))
        return (y.transpose(0, 1) if self.sequence_first else y), None
