"""The scale of a block: from its largest magnitude to a number that a few bits can hold.

Power-of-two scales (E8M0) are computed on the bits of the float, since a logarithm in float32 is off by one next to
powers of two. With ``amax`` the block's largest magnitude and ``max = m · 2^emax`` the largest element:

- ``floor`` (OCP MX 1.0): ``floor(log2 amax) - emax``. Elements between max and 2^(emax+1) saturate.
- ``rceil`` (NVIDIA, arXiv 2506.08027): ``ceil(log2(amax / max))``, the smallest power of two that saturates nothing.
- ``ceil``: ``ceil(log2 amax) - emax``.
- ``even``: ``amax`` is rounded to the element's mantissa first, then ``floor``.

Other scale formats round ``amax / max`` to the nearest of their numbers (``nearest``), or up (``up``: nothing
saturates).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tensorbench.core.errors import unknown

from .formats import FloatFormat, Format, floating

ScaleMode = Literal["floor", "rceil", "ceil", "even", "nearest", "up"]
SCALE_MODES: tuple[ScaleMode, ...] = get_args(ScaleMode)
POWER_MODES = ("floor", "rceil", "ceil", "even")


def power_exponent(amax: Float[Tensor, "*blocks"], form: Format, mode: ScaleMode = "rceil") -> Int[Tensor, "*blocks"]:
    """Exponent e of the scale 2^e of each block, clamped to [-127, 127]; -127 for a block of zeros.

    ``amax`` must be finite and not negative (NaN and infinity are the caller's, see ``blocks``).

    Raises:
        ValueError: an unknown mode, or one that is not for powers of two.
    """
    if mode not in POWER_MODES:
        raise ValueError(unknown("scale mode for powers of two", mode, POWER_MODES))
    amax = floating(amax)
    if mode == "rceil":
        # A quotient rounded to amax's own precision is a power of two only if amax is one times max, or so near to it
        # that no float is between: float64 keeps it on the right side for float32 input.
        mantissa, exponent = torch.frexp(amax.to(torch.float64) / form.max)
        exponent = exponent - (mantissa == 0.5).to(exponent.dtype)
    elif mode == "ceil":
        mantissa, exponent = torch.frexp(amax)
        exponent = exponent - (mantissa == 0.5).to(exponent.dtype) - form.max_exponent
    else:
        mantissa, exponent = torch.frexp(amax)
        exponent = exponent - 1 - form.max_exponent
        if mode == "even":
            mantissa_bits = form.mantissa_bits if isinstance(form, FloatFormat) else form.bits - 2
            # frexp's mantissa is in [0.5, 1): it carries where it rounds up to 1, from halfway on.
            exponent = exponent + (mantissa >= 1 - 2.0 ** -(mantissa_bits + 2)).to(exponent.dtype)
    return torch.where(amax == 0, -127, exponent.clamp(-127, 127)).to(torch.int32)


def block_scale(
    amax: Float[Tensor, "*blocks"], form: Format, scale: Format, mode: ScaleMode = "nearest"
) -> Float[Tensor, "*blocks"]:
    """The scale that elements of ``form`` are multiplied by on decoding, a number of ``scale``.

    A scale that would round to zero becomes 1, and so does that of a block of zeros (2^-127 in E8M0): such blocks
    decode to zero.

    Raises:
        ValueError: a mode that does not fit the format of the scale.
    """
    if isinstance(scale, FloatFormat) and scale.specials == "power":
        exponent = power_exponent(amax, form, mode)
        return torch.ldexp(torch.ones_like(floating(amax)), exponent)
    if mode not in ("nearest", "up"):
        raise ValueError(unknown(f"scale mode for {scale.name}", mode, ("nearest", "up")))
    rounded = scale.round(floating(amax) / form.max, "even" if mode == "nearest" else "ceil")
    return torch.where(rounded == 0, torch.ones_like(rounded), rounded)
