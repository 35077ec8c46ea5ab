"""torchao's weight-only integers as a baseline: linear layers, round to nearest."""

from __future__ import annotations

import copy
import warnings

from torch import nn


def weight_only(model: nn.Module, bits: int) -> tuple[nn.Module, float]:
    """A copy whose linear layers have weights of 8 bits (a scale a row) or 4 bits (a scale for 32 numbers).

    Layers whose rows cannot be cut into groups of 32, those of ``nn.MultiheadAttention`` (which reads its weights
    itself), and convolutions stay in float32; the share of the weights that is quantised is returned with it.

    Raises:
        ValueError: other widths. ImportError: torchao is not installed.
    """
    if bits not in (4, 8):
        raise ValueError(f"torchao's weight-only integers have 4 or 8 bits here, not {bits}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from torchao.quantization import IntxWeightOnlyConfig, quantize_
        from torchao.quantization.granularity import PerAxis, PerGroup

        model = copy.deepcopy(model).eval()
        total = sum(p.numel() for p in model.parameters() if p.ndim > 1)
        chosen: set[nn.Module] = set()
        inside = {child for m in model.modules() if isinstance(m, nn.MultiheadAttention) for child in m.modules()}
        for module in model.modules():
            fits = isinstance(module, nn.Linear) and module not in inside
            if fits and (bits == 8 or module.in_features % 32 == 0):
                chosen.add(module)
        share = sum(module.weight.numel() for module in chosen) / total
        grain = PerAxis(0) if bits == 8 else PerGroup(32)
        dtype = torch.int8 if bits == 8 else torch.int4
        config = IntxWeightOnlyConfig(weight_dtype=dtype, granularity=grain)
        quantize_(model, config, filter_fn=lambda module, name: module in chosen)
    return model, share
