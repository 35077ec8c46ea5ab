"""Sums of products without any rounding but the last: a superaccumulator (Kulisch) of 24-bit limbs, vectorised.

Every term is an integer significand times a power of two; its bits are added into the limbs that they fall into, a
carry pass makes the limbs canonical, and the number is rounded once from its leading bits with all others as a sticky
bit.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.quantization.formats import FloatFormat

from .rounded import UnitRounding, round_integer

_LIMB = 24
_LOWEST = -312  # exponent of the lowest bit: below the smallest product of two float32 subnormals
_LIMBS = 28  # up to 2^360
_MASK = 2**_LIMB - 1


class Accumulator:
    """An exact sum for every element of a tensor of ``shape``; terms are products of numbers of at most 24 bits."""

    def __init__(self, shape: torch.Size | tuple[int, ...], device: torch.device | None = None) -> None:
        self.limbs = torch.zeros((*shape, _LIMBS), dtype=torch.int64, device=device)

    def add(self, x: Float[Tensor, "*shape"]) -> None:
        """Add finite float64 numbers, each an integer of at most 53 bits times ``2^e``, ``e >= -312``."""
        x = x.expand(self.limbs.shape[:-1])
        exponent = ((x.view(torch.int64) >> 52) & 0x7FF) - 1023 - 52
        exponent = torch.where(x == 0, 0, exponent)
        low = exponent.clamp(min=_LOWEST)  # what lies below is zero by the contract
        whole = (x.abs() * ((-low + 1023) << 52).view(torch.float64)).to(torch.int64)
        sign = torch.where(x < 0, -1, 1)
        offset = low - _LOWEST
        limb, shift = offset // _LIMB, offset % _LIMB
        carried = torch.zeros_like(whole)
        for piece in range(4):  # 53 bits and a shift of up to 23 reach into four limbs
            part = ((whole >> (_LIMB * piece)) & _MASK) << shift if piece < 3 else torch.zeros_like(whole)
            value = (part & _MASK) + carried
            carried = part >> _LIMB
            self.limbs.scatter_add_(-1, (limb + piece)[..., None], (sign * value)[..., None])

    def round(self, form: FloatFormat, mode: UnitRounding = "RN") -> Float[Tensor, "*shape"]:
        """The sum in ``form`` (at most 24 significant bits), as float64 values."""
        limbs = _canonical(self.limbs.clone())
        negative = limbs[..., -1] < 0
        limbs = _canonical(torch.where(negative[..., None], -limbs, limbs))
        index = torch.arange(_LIMBS, device=limbs.device)
        top = torch.where(limbs != 0, index, -1).amax(dim=-1).clamp(min=2)
        first, second, third = (torch.gather(limbs, -1, (top - i)[..., None])[..., 0] for i in range(3))
        sticky = ((limbs != 0) & (index < (top - 2)[..., None])).any(dim=-1) | ((third & 0xFFF) != 0)
        # 37 to 60 bits where the top limb is not zero, one more for the sticky bit.
        lead = (first << (_LIMB + 12)) | (second << 12) | (third >> 12)
        total = (lead << 1) | sticky.to(torch.int64)
        lsb = _LOWEST + _LIMB * (top - 1) - 13
        return round_integer(torch.where(negative, -total, total), lsb, form, mode)


def _canonical(limbs: Tensor) -> Tensor:
    """All limbs but the top in [0, 2^24): carries moved upwards."""
    for i in range(_LIMBS - 1):
        carry = limbs[..., i] >> _LIMB
        limbs[..., i] -= carry << _LIMB
        limbs[..., i + 1] += carry
    return limbs
