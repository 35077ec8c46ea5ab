"""Single matrix instructions on a real GPU, to compare with the simulator bit for bit. Optional: needs CUDA.

``MmaBackend(in_fmt)`` runs ``mma.sync`` of one shape, one instruction per warp, on raw registers: the layout of
operands in registers is made here with index tables (PTX ISA, section "Matrix fragments for mma.m16n8k…"), the kernel
only loads, issues and stores. It is compiled at run time through torch's NVRTC. ``compare`` works with any object
that has ``mma(A, B, C)``. The kernel has not been run yet: nobody measured with it, and without a GPU only the
layouts are tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tensorbench.core.errors import unknown

from .unit import MMAUnit

SHAPES = {
    "fp16": (16, 8, 16, "f32.f16.f16.f32"),
    "bf16": (16, 8, 16, "f32.bf16.bf16.f32"),
    "tf32": (16, 8, 8, "f32.tf32.tf32.f32"),
    "e4m3": (16, 8, 32, "f32.e4m3.e4m3.f32"),
    "e5m2": (16, 8, 32, "f32.e5m2.e5m2.f32"),
}
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32, "e4m3": torch.float8_e4m3fn,
           "e5m2": torch.float8_e5m2}  # fmt: skip


class Backend(Protocol):
    def mma(self, A: Tensor, B: Tensor, C: Tensor) -> Tensor: ...


def unavailable() -> str:
    """Why no GPU can be asked; empty where one can."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if torch.cuda.get_device_capability() < (8, 0):
        return "mma with these shapes needs compute capability 8.0 or newer"
    if not hasattr(torch.cuda, "_compile_kernel"):
        return "this torch has no run-time compiler for kernels (torch >= 2.8)"
    return ""


def fragment_rows(in_fmt: str) -> tuple[Int[Tensor, "32 na 2"], Int[Tensor, "32 nb 2"], Int[Tensor, "32 4 2"]]:
    """(row, column) in A, B and the result of every element that each of 32 lanes holds, in the order of its registers.

    Raises:
        ValueError: a format without an instruction.
    """
    if in_fmt not in SHAPES:
        raise ValueError(unknown("operand format of mma", in_fmt, SHAPES))
    k = SHAPES[in_fmt][2]
    per_register = 4 // _DTYPES[in_fmt].itemsize  # elements in 32 bits
    lane = torch.arange(32)
    group, thread = lane // 4, lane % 4
    half = k // 2  # columns of A in the first and the second pair of registers
    a, b = [], []
    for register in range(4):
        row = group + 8 * (register % 2)
        for element in range(per_register):
            a.append(torch.stack([row, thread * per_register + element + half * (register // 2)], dim=1))
    for register in range(2):
        for element in range(per_register):
            b.append(torch.stack([thread * per_register + element + half * register, group], dim=1))
    d = [torch.stack([group + 8 * (i // 2), thread * 2 + i % 2], dim=1) for i in range(4)]
    return torch.stack(a, 1), torch.stack(b, 1), torch.stack(d, 1)


class MmaBackend:
    """``mma.sync`` of the shape in ``SHAPES``. Raises RuntimeError with the reason where no GPU can run it."""

    def __init__(self, in_fmt: str = "fp16") -> None:
        self.maps = fragment_rows(in_fmt)
        if reason := unavailable():
            raise RuntimeError(f"no matrix unit to ask: {reason}")
        self.in_fmt = in_fmt
        self.kernel = torch.cuda._compile_kernel(source(in_fmt), "mma_batch")  # type: ignore[attr-defined]

    def mma(
        self, A: Float[Tensor, "batch m k"], B: Float[Tensor, "batch k n"], C: Float[Tensor, "batch m n"]
    ) -> Float[Tensor, "batch m n"]:
        """``A B + C`` by one instruction each, m × n × k as in ``SHAPES``."""
        a_map, b_map, d_map = self.maps
        dtype = _DTYPES[self.in_fmt]

        def registers(x: Tensor, where: Tensor, kind: torch.dtype) -> Tensor:
            return x[:, where[..., 0], where[..., 1]].to(kind).contiguous().view(torch.int32).cuda()

        a, b = registers(A, a_map, dtype), registers(B, b_map, dtype)
        c = registers(C, d_map, torch.float32)
        d = torch.empty_like(c)
        self.kernel(grid=(len(A), 1, 1), block=(32, 1, 1), args=[a, b, c, d])
        torch.cuda.synchronize()
        out = torch.empty(C.shape, dtype=torch.float32)
        out[:, d_map[..., 0], d_map[..., 1]] = d.cpu().view(torch.float32)
        return out


def source(in_fmt: str) -> str:
    """CUDA source of the kernel: one warp a block, four registers of A, two of B, four of C and D a lane."""
    _, _, k, types = SHAPES[in_fmt]
    return f"""
extern "C" __global__ void mma_batch(const unsigned* a, const unsigned* b, const unsigned* c, unsigned* d) {{
  const unsigned at = blockIdx.x * 32u + threadIdx.x;
  const unsigned *A = a + 4u * at, *B = b + 2u * at, *C = c + 4u * at;
  unsigned r0, r1, r2, r3;
  asm volatile("mma.sync.aligned.m16n8k{k}.row.col.{types} {{%0,%1,%2,%3}}, {{%4,%5,%6,%7}}, {{%8,%9}},
    {{%10,%11,%12,%13}};" : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)
    : "r"(A[0]), "r"(A[1]), "r"(A[2]), "r"(A[3]), "r"(B[0]), "r"(B[1]), "r"(C[0]), "r"(C[1]), "r"(C[2]), "r"(C[3]));
  d[4u * at] = r0; d[4u * at + 1u] = r1; d[4u * at + 2u] = r2; d[4u * at + 3u] = r3;
}}
"""


@dataclass(frozen=True)
class Difference:
    """Outputs compared, how many differ in their bits (all NaN count as one), and the first that does."""

    outputs: int
    different: int
    first: tuple[int, ...] | None
    ours: float
    theirs: float

    @property
    def equal(self) -> bool:
        return self.different == 0


def compare(unit: MMAUnit, backend: Backend, blocks: int = 1000, *, seed: int = 0, spread: float = 8.0) -> Difference:
    """Random blocks on both: normal numbers scaled by powers of two of standard deviation ``spread``, so that terms
    of one sum differ in size. A block of 16 × 8 outputs is one instruction.

    Raises:
        ValueError: no blocks, a unit without an instruction of its operand format.
    """
    if blocks < 1:
        raise ValueError(f"blocks = {blocks}: at least one is needed")
    if unit.in_fmt not in SHAPES:
        raise ValueError(unknown("operand format of mma", unit.in_fmt, SHAPES))
    m, n, k, _ = SHAPES[unit.in_fmt]
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        power = (torch.randn(*shape, generator=generator) * spread / 2).round().clamp(-6, 6)
        return torch.randn(*shape, generator=generator) * 2.0**power

    A, B, C = unit.cast(draw(blocks, m, k)), unit.cast(draw(blocks, k, n)), draw(blocks, m, n)
    ours, theirs = unit.mma(A, B, C), backend.mma(A, B, C).to(unit.dtype)
    wrong = (ours.view(torch.int32) != theirs.view(torch.int32)) & ~(ours.isnan() & theirs.isnan())
    if not bool(wrong.any()):
        return Difference(ours.numel(), 0, None, float("nan"), float("nan"))
    first = tuple(int(i) for i in wrong.nonzero()[0])
    return Difference(ours.numel(), int(wrong.sum()), first, float(ours[first]), float(theirs[first]))
