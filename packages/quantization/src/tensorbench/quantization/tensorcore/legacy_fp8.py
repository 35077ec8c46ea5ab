"""fp8 products by ``mma.sync`` on Hopper: not its fp8 unit, which only the warpgroup instruction (``wgmma``) reaches.

Measured on an H100 with ``gpu.MmaBackend``. Operands are widened to fp16, and one instruction of k = 32 becomes two of
k = 16 on the fp16 unit: the first takes the first two of every four numbers along k, the second the others, starting
from the first one's result. Both start from zero; C is added at the end, in fp32, to nearest. ``order.reveal_order``
showed the halves (masks in e5m2), ``probes.infer_parameters`` that C is apart (it survives next to products that
cancel) and the rounding; what follows gave the GPU's bits on 256 000 random outputs of each format, where the other
order, a separate sum of the halves, and C first did not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from tensorbench.core.errors import unknown
from tensorbench.quantization.formats import FloatFormat

from .presets import get_unit
from .unit import MMAUnit, check_shapes

K = 32  # products of one instruction


@dataclass(frozen=True)
class LegacyFp8:
    """``mma.sync.m16n8k32`` with e4m3 or e5m2 operands and an fp32 accumulator on an H100."""

    in_fmt: Literal["e4m3", "e5m2"]
    acc_fmt: str = "fp32"

    def __post_init__(self) -> None:
        if self.in_fmt not in ("e4m3", "e5m2"):
            raise ValueError(unknown("fp8 format", self.in_fmt, ("e4m3", "e5m2")))

    @property
    def name(self) -> str:
        return f"hopper_{self.in_fmt}_mma"

    @property
    def accumulator(self) -> FloatFormat:
        return self._fp8.accumulator

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def _fp8(self) -> MMAUnit:
        return get_unit(f"hopper_{self.in_fmt}")

    def cast(self, x: Tensor) -> Tensor:
        """``x`` rounded to the operand format."""
        return self._fp8.cast(x)

    def mma(
        self, A: Float[Tensor, "*batch m k"], B: Float[Tensor, "*batch k n"], C: Float[Tensor, "*batch m n"]
    ) -> Float[Tensor, "*batch m n"]:
        """``A B + C``; k is filled up with zeros to whole instructions, which follow each other.

        Raises:
            ValueError: shapes that do not multiply, operands that are no numbers of the format.
        """
        check_shapes(A, B)
        half, rest = get_unit("hopper_fp16"), -A.shape[-1] % K
        A, B = pad(self._fp8.checked(A, "A"), (0, rest)), pad(self._fp8.checked(B, "B"), (0, 0, 0, rest))
        D = C.to(torch.float32)
        for start in range(0, A.shape[-1], K):
            part = torch.zeros_like(D)
            for pair in (0, 2):
                index = torch.arange(start, start + K).view(-1, 4)[:, pair : pair + 2].flatten()
                part = half.mma(A[..., index], B[..., index, :], part)
            D = D + part
        return D

    def dot(
        self, a: Float[Tensor, "*batch k"], b: Float[Tensor, "*batch k"], c: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """``a · b + c`` for every row."""
        return self.mma(a[..., None, :], b[..., :, None], c[..., None, None])[..., 0, 0]


LEGACY = {unit.name: unit for unit in (LegacyFp8("e4m3"), LegacyFp8("e5m2"))}
"""Both by name."""
