"""Float numbers to the operand formats of matrix units, with the roundings that instructions offer.

``rz`` truncates (and a finite number stays finite), ``rna`` rounds to nearest with ties away from zero, ``rne`` with
ties to even. Reading float32 registers as TF32 without a conversion is ``rz``; PTX's ``cvt.rna.tf32.f32`` is ``rna``.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.quantization.formats import FloatFormat, get_format
from tensorbench.quantization.rounding import Rounding

CastRounding = Literal["rz", "rna", "rne"]
_MODES: dict[str, Rounding] = {"rz": "zero", "rna": "away", "rne": "even"}


def to_format(x: Float[Tensor, "*shape"], form: str, mode: CastRounding = "rne") -> Float[Tensor, "*shape"]:
    """``x`` rounded to the format ``form``, in the dtype of ``x``; beyond the largest number infinity (NaN without
    one).

    Raises:
        ValueError: an unknown format or mode, an integer format.
    """
    if mode not in _MODES:
        raise ValueError(unknown("rounding of a conversion", mode, _MODES))
    target = get_format(form)
    if not isinstance(target, FloatFormat):
        raise ValueError(f"{form} is an integer format, which needs a scale; see tensorbench.quantization.blocks")
    rounded = target.round(x, _MODES[mode], overflow="special")
    if mode == "rz":
        rounded = torch.where(torch.isfinite(x) & (x.abs() > target.max), torch.copysign(
            torch.full_like(rounded, target.max), rounded), rounded)  # fmt: skip
    return rounded


def to_tf32(x: Float[Tensor, "*shape"], mode: CastRounding = "rna") -> Float[Tensor, "*shape"]:
    """TF32: 8 exponent and 10 mantissa bits."""
    return to_format(x, "tf32", cast(CastRounding, mode))


def to_bf16(x: Float[Tensor, "*shape"], mode: CastRounding = "rne") -> Float[Tensor, "*shape"]:
    """BF16: 8 exponent and 7 mantissa bits."""
    return to_format(x, "bf16", mode)


def to_fp16(x: Float[Tensor, "*shape"], mode: CastRounding = "rne") -> Float[Tensor, "*shape"]:
    """FP16: 5 exponent and 10 mantissa bits."""
    return to_format(x, "fp16", mode)
