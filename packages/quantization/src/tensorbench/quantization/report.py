"""What a converted model loses, layer by layer, and what the number formats are: tables made from the code.

>>> convert(model, recipe("mxfp8_e4m3"), keep=["head"])
>>> layer_report(model, loss, batch)
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from .blocks import BlockSpec
from .fidelity import Loss, capture, compare, fidelity
from .formats import FORMATS, FloatFormat
from .layers import Operand, QuantLinear, apply_operand


def layer_report(model: nn.Module, loss: Loss, batch: Any) -> pd.DataFrame:
    """A row for each ``QuantLinear``: what its operands and its output lose on ``batch``, worst layer first by output.

    Columns: ``layer``, ``weight_db, activation_db, gradient_db, output_db`` (SQNR in decibels; of the gradient the copy
    along tokens, which makes the weight's gradient; of the output against the exact product of the same operands),
    ``saturated, underflowed`` (largest share among the three operands; NaN where an operand is no ``BlockSpec``) and
    ``bytes, bytes_fp32`` of the weight.

    Raises:
        ValueError: no layer of the model is quantised.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, QuantLinear)}
    if not layers:
        raise ValueError("no layer of the model is quantised; call convert(model, spec) first")
    rows = []
    for name, tensors in capture(model, loss, batch).items():
        if name not in layers:
            continue
        layer = layers[name]
        spec, generator = layer.spec, layer.generator
        weight = _lost(spec.forward_w, tensors.weight, -1, generator)
        activation = _lost(spec.forward_x, tensors.activation, -1, generator)
        gradient = _lost(spec.wgrad_dy, tensors.gradient, 0, generator)
        left = apply_operand(spec.forward_x, tensors.activation, -1, spec.forward_transform, generator)
        right = apply_operand(spec.forward_w, tensors.weight, -1, spec.forward_transform, generator)
        output = compare(tensors.activation @ tensors.weight.T, left @ right.T)[0]
        count = tensors.weight.numel()
        bits = spec.forward_w.bits_per_element if isinstance(spec.forward_w, BlockSpec) else math.nan
        rows.append(
            {
                "layer": name,
                "weight_db": weight[0],
                "activation_db": activation[0],
                "gradient_db": gradient[0],
                "output_db": output,
                "saturated": max(weight[1], activation[1], gradient[1]),
                "underflowed": max(weight[2], activation[2], gradient[2]),
                "bytes": math.ceil(count * bits / 8) if math.isfinite(bits) else math.nan,
                "bytes_fp32": 4 * count,
            }
        )
    return pd.DataFrame(rows).sort_values("output_db", ignore_index=True)


def _lost(operand: Operand, x: Tensor, axis: int, generator: torch.Generator | None) -> tuple[float, float, float]:
    """SQNR, saturation and underflow; a tensor of zeros loses nothing."""
    if not bool((x != 0).any()):
        return math.inf, 0.0, 0.0
    if isinstance(operand, BlockSpec):
        lost = fidelity(x, operand, axis, generator=generator)
        return lost.sqnr_db, lost.saturated, lost.underflowed
    return compare(x, apply_operand(operand, x, axis, None, generator))[0], math.nan, math.nan


def number_formats() -> pd.DataFrame:
    """Every format of the registry, a row each, ordered by bits.

    Columns: ``name, bits, exponent_bits, mantissa_bits, bias, max, min_normal, tiny`` (smallest positive), ``octaves``
    (log2 of max over tiny), ``codes`` (finite values), ``infinity``, ``nan`` and ``signed``.
    """
    rows = []
    for name, form in FORMATS.items():
        is_float = isinstance(form, FloatFormat)
        if form.bits <= 16:
            finite = int(torch.isfinite(form.values()).sum())
        else:  # sign, all exponent fields but the top one, mantissas
            assert isinstance(form, FloatFormat)
            finite = 2 * (2**form.exponent_bits - 1) * 2**form.mantissa_bits
        rows.append(
            {
                "name": name,
                "bits": form.bits,
                "exponent_bits": form.exponent_bits if is_float else 0,
                "mantissa_bits": form.mantissa_bits if is_float else form.bits - int(form.signed),
                "bias": form.bias if is_float else math.nan,
                "max": form.max,
                "min_normal": 2.0**form.min_exponent if is_float else form.tiny,
                "tiny": form.tiny,
                "octaves": math.log2(form.max) - math.log2(form.tiny),
                "codes": finite,
                "infinity": form.has_infinity,
                "nan": form.has_nan,
                "signed": form.signed,
            }
        )
    return pd.DataFrame(rows).sort_values(["bits", "octaves"], kind="stable", ignore_index=True)
