"""Codes of any width to bytes without gaps, and back; little end first, as torchao and ml_dtypes pack two FP4 codes."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int, Integer, UInt8
from torch import Tensor


def pack(codes: Integer[Tensor, "*shape"], bits: int) -> UInt8[Tensor, " bytes"]:
    """The codes in order, ``bits`` each, lowest bit first; the last byte is filled with zeros.

    Raises:
        ValueError: bits out of range, or a code that does not fit.
    """
    _check(bits)
    flat = codes.reshape(-1).to(torch.int64)
    if bits == 32:
        flat = flat & 0xFFFFFFFF  # scales of float32 come as signed integers
    if flat.numel() and (int(flat.min()) < 0 or int(flat.max()) >= 2**bits):
        raise ValueError(f"codes from {int(flat.min())} to {int(flat.max())} do not fit in {bits} bits")
    digits = (flat.cpu().numpy()[:, None] >> np.arange(bits)) & 1
    return torch.from_numpy(np.packbits(digits.astype(np.uint8), bitorder="little"))


def unpack(packed: UInt8[Tensor, " bytes"], bits: int, count: int) -> Int[Tensor, " count"]:
    """The first ``count`` codes (int32).

    Raises:
        ValueError: bits out of range, or too few bytes.
    """
    _check(bits)
    if packed.numel() * 8 < bits * count:
        raise ValueError(f"{packed.numel()} bytes hold {packed.numel() * 8 // bits} codes of {bits} bits, not {count}")
    digits = np.unpackbits(packed.cpu().numpy(), count=bits * count, bitorder="little").reshape(count, bits)
    codes = digits.astype(np.int64) @ (1 << np.arange(bits, dtype=np.int64))
    return torch.from_numpy(codes.astype(np.uint32).view(np.int32) if bits == 32 else codes.astype(np.int32))


def _check(bits: int) -> None:
    if not 1 <= bits <= 32:
        raise ValueError(f"codes of {bits} bits cannot be packed; use 1 to 32")
