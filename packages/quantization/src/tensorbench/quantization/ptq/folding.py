"""Batch normalisation folded into the convolution before it, by torch's own pass over the traced graph."""

from __future__ import annotations

import copy

import torch
from torch import nn


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode whose convolutions have taken over the batch norms that follow them.

    Uses ``torch.fx.experimental.optimization.fuse``; names of layers stay. A batch norm that follows no convolution
    stays.

    Raises:
        ValueError: a model that torch.fx cannot trace (its forward branches on data).
    """
    model = copy.deepcopy(model).eval()
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return model
    from torch.fx.experimental import optimization
    from torch.fx.proxy import TraceError

    try:
        with torch.no_grad():
            return optimization.fuse(model, inplace=True).eval()
    except TraceError as error:
        raise ValueError(f"torch.fx cannot trace this model, so its batch norms cannot be folded: {error}") from error
