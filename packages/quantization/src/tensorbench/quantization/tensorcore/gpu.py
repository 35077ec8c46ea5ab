"""Single matrix instructions on a real GPU, to compare with the simulator bit for bit. Optional: needs CUDA.

``MmaBackend(in_fmt, acc_fmt)`` runs ``mma.sync`` of one shape, one instruction per warp, on raw registers: the layout
of operands in registers is made here with index tables (PTX ISA, section "Matrix fragments for mma.m16n8k…"), the
kernel only loads, issues and stores. It is compiled at run time through torch's NVRTC. It has what the probes need of
a unit (``dot``, the names of its formats), so that ``probes.run_suite``, ``probes.infer_parameters`` and
``order.reveal_order`` ask the silicon what they ask a simulated unit. ``compare`` works with any object that has
``mma(A, B, C)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from tensorbench.core.errors import unknown
from tensorbench.quantization.formats import FloatFormat

from .probes import Unit


@dataclass(frozen=True)
class Instruction:
    """Shape and types of one ``mma``; ``operand`` and ``result`` as they stand in registers."""

    m: int
    n: int
    k: int
    types: str
    operand: torch.dtype
    result: torch.dtype


INSTRUCTIONS = {
    ("fp16", "fp32"): Instruction(16, 8, 16, "f32.f16.f16.f32", torch.float16, torch.float32),
    ("bf16", "fp32"): Instruction(16, 8, 16, "f32.bf16.bf16.f32", torch.bfloat16, torch.float32),
    ("tf32", "fp32"): Instruction(16, 8, 8, "f32.tf32.tf32.f32", torch.float32, torch.float32),
    ("e4m3", "fp32"): Instruction(16, 8, 32, "f32.e4m3.e4m3.f32", torch.float8_e4m3fn, torch.float32),
    ("e5m2", "fp32"): Instruction(16, 8, 32, "f32.e5m2.e5m2.f32", torch.float8_e5m2, torch.float32),
    ("fp16", "fp16"): Instruction(16, 8, 16, "f16.f16.f16.f16", torch.float16, torch.float16),
    ("fp64", "fp64"): Instruction(8, 8, 4, "f64.f64.f64.f64", torch.float64, torch.float64),
}
GENERATIONS = {(8, 0): "ampere", (9, 0): "hopper"}  # compute capabilities that the simulator has units for
_ROWS = 4096  # instructions of one launch


class Backend(Protocol):
    def mma(self, A: Tensor, B: Tensor, C: Tensor) -> Tensor: ...


class Simulator(Unit, Protocol):
    """What a comparison needs of a simulated unit, beside what probes do."""

    @property
    def accumulator(self) -> FloatFormat: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def cast(self, x: Tensor) -> Tensor: ...

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


def generation() -> str:
    """Prefix of the presets that simulate this machine's GPU; empty where none does, or where there is no GPU."""
    return "" if unavailable() else GENERATIONS.get(torch.cuda.get_device_capability(), "")


def instruction(in_fmt: str, acc_fmt: str = "fp32") -> Instruction:
    """Raises ValueError for formats without an instruction."""
    if (in_fmt, acc_fmt) not in INSTRUCTIONS:
        known = sorted({i for i, o in INSTRUCTIONS if o == acc_fmt} or {i for i, _ in INSTRUCTIONS})
        raise ValueError(unknown(f"operand format of mma (accumulator {acc_fmt})", in_fmt, known))
    return INSTRUCTIONS[in_fmt, acc_fmt]


def fragment_rows(
    in_fmt: str, acc_fmt: str = "fp32"
) -> tuple[Int[Tensor, "32 na 2"], Int[Tensor, "32 nb 2"], Int[Tensor, "32 nd 2"]]:
    """(row, column) in A, B and the result of every element that each of 32 lanes holds, in the order of its registers.

    Raises:
        ValueError: formats without an instruction.
    """
    shape = instruction(in_fmt, acc_fmt)
    lane = torch.arange(32)
    group, thread = lane // 4, lane % 4
    if in_fmt == "fp64":  # m8n8k4: one number of A and of B a lane, two of the result
        d = [torch.stack([group, thread * 2 + i], dim=1) for i in range(2)]
        return torch.stack([group, thread], 1)[:, None], torch.stack([thread, group], 1)[:, None], torch.stack(d, 1)
    per_register = 4 // shape.operand.itemsize  # elements in 32 bits
    half = shape.k // 2  # columns of A in the first and the second pair of registers
    a, b = [], []
    for register in range(4):
        row = group + 8 * (register % 2)
        for element in range(per_register):
            a.append(torch.stack([row, thread * per_register + element + half * (register // 2)], dim=1))
    for register in range(2):
        for element in range(per_register):
            b.append(torch.stack([thread * per_register + element + half * register, group], dim=1))
    # An accumulator in fp16 holds the same four numbers, two to a register.
    d = [torch.stack([group + 8 * (i // 2), thread * 2 + i % 2], dim=1) for i in range(4)]
    return torch.stack(a, 1), torch.stack(b, 1), torch.stack(d, 1)


class MmaBackend:
    """``mma.sync`` of the shape in ``INSTRUCTIONS``, on the GPU that torch sees first.

    Raises:
        RuntimeError: no GPU can run it, with the reason.
        ValueError: formats without an instruction.
    """

    def __init__(self, in_fmt: str = "fp16", acc_fmt: str = "fp32") -> None:
        self.maps = fragment_rows(in_fmt, acc_fmt)
        self.instruction = instruction(in_fmt, acc_fmt)
        if reason := unavailable():
            raise RuntimeError(f"no matrix unit to ask: {reason}")
        self.in_fmt, self.acc_fmt = in_fmt, acc_fmt
        self.name = f"gpu_{in_fmt}" + ("_fp16" if acc_fmt == "fp16" else "")
        self.kernel = torch.cuda._compile_kernel(source(in_fmt, acc_fmt), "mma_batch")  # type: ignore[attr-defined]

    def mma(
        self, A: Float[Tensor, "batch m k"], B: Float[Tensor, "batch k n"], C: Float[Tensor, "batch m n"]
    ) -> Float[Tensor, "batch m n"]:
        """``A B + C``, each by one instruction of its shape; operands are rounded to their formats."""
        a_map, b_map, d_map = self.maps
        shape = self.instruction
        word = torch.float64 if self.in_fmt == "fp64" else torch.int32

        def registers(x: Tensor, where: Tensor, kind: torch.dtype) -> Tensor:
            return x[:, where[..., 0], where[..., 1]].to(kind).contiguous().view(word).cuda()

        a, b = registers(A, a_map, shape.operand), registers(B, b_map, shape.operand)
        c = registers(C, d_map, shape.result)
        d = torch.full_like(c, -1)
        self.kernel(grid=(len(A), 1, 1), block=(32, 1, 1), args=[a, b, c, d])
        torch.cuda.synchronize()
        out = torch.empty(C.shape, dtype=torch.float64 if self.in_fmt == "fp64" else torch.float32)
        out[:, d_map[..., 0], d_map[..., 1]] = d.cpu().view(shape.result).to(out.dtype)
        return out

    def dot(
        self, a: Float[Tensor, "rows k"], b: Float[Tensor, "rows k"], c: Float[Tensor, "rows"]
    ) -> Float[Tensor, "rows"]:
        """``a · b + c`` for every row: instructions along k one after another, each starting from the result of the one
        before; the last is filled up with zeros."""
        shape = self.instruction
        a, b = (pad(x, (0, -x.shape[1] % shape.k)) for x in (a, b))
        found = []
        for first in range(0, len(a), _ROWS):
            rows = slice(first, first + _ROWS)
            D = torch.zeros(len(a[rows]), shape.m, shape.n, dtype=torch.float64)
            D[:, 0, 0] = c[rows].to(torch.float64)
            for k in range(0, a.shape[1], shape.k):
                A = torch.zeros(len(D), shape.m, shape.k, dtype=torch.float64)
                B = torch.zeros(len(D), shape.k, shape.n, dtype=torch.float64)
                A[:, 0], B[:, :, 0] = a[rows, k : k + shape.k], b[rows, k : k + shape.k]
                D = self.mma(A, B, D)
            found.append(D[:, 0, 0])
        return torch.cat(found)


def source(in_fmt: str, acc_fmt: str = "fp32") -> str:
    """CUDA source of the kernel: one warp a block; every lane loads its registers, issues and stores."""
    shape = instruction(in_fmt, acc_fmt)
    if in_fmt == "fp64":
        kind, letter, (na, nb, nd) = "double", "d", (1, 1, 2)
    else:
        kind, letter, (na, nb, nd) = "unsigned", "r", (4, 2, 2 if acc_fmt == "fp16" else 4)
    holes = iter(range(2 * nd + na + nb))
    places = ["{" + ",".join(f"%{next(holes)}" for _ in range(count)) + "}" for count in (nd, na, nb, nd)]
    names = [f"r{i}" for i in range(nd)]
    outputs = ", ".join(f'"={letter}"({name})' for name in names)
    inputs = ", ".join(f'"{letter}"({x}[{i}])' for x, count in (("A", na), ("B", nb), ("C", nd)) for i in range(count))
    stores = " ".join(f"d[{nd}u * at + {i}u] = {name};" for i, name in enumerate(names))
    return f"""
extern "C" __global__ void mma_batch(const {kind}* a, const {kind}* b, const {kind}* c, {kind}* d) {{
  const unsigned at = blockIdx.x * 32u + threadIdx.x;
  const {kind} *A = a + {na}u * at, *B = b + {nb}u * at, *C = c + {nd}u * at;
  {kind} {", ".join(names)};
  asm volatile("mma.sync.aligned.m{shape.m}n{shape.n}k{shape.k}.row.col.{shape.types} {", ".join(places)};"
    : {outputs} : {inputs});
  {stores}
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


def compare(unit: Simulator, backend: Backend, blocks: int = 1000, *, seed: int = 0, spread: float = 8.0) -> Difference:
    """Random blocks on both: normal numbers scaled by powers of two of standard deviation ``spread``, so that terms
    of one sum differ in size. A block of 16 × 8 outputs is one instruction.

    Raises:
        ValueError: no blocks, a unit without an instruction of its formats.
    """
    if blocks < 1:
        raise ValueError(f"blocks = {blocks}: at least one is needed")
    shape = instruction(unit.in_fmt, unit.acc_fmt)
    m, n, k = shape.m, shape.n, shape.k
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> Tensor:
        power = (torch.randn(*sizes, generator=generator) * spread / 2).round().clamp(-6, 6)
        return torch.randn(*sizes, generator=generator) * 2.0**power

    A, B = unit.cast(draw(blocks, m, k)), unit.cast(draw(blocks, k, n))
    C = draw(blocks, m, n)
    C = C.to(torch.float64) if unit.acc_fmt == "fp64" else unit.accumulator.round(C)
    ours, theirs = unit.mma(A, B, C), backend.mma(A, B, C).to(unit.dtype)
    bits = torch.int64 if unit.in_fmt == "fp64" else torch.int32
    wrong = (ours.view(bits) != theirs.view(bits)) & ~(ours.isnan() & theirs.isnan())
    if not bool(wrong.any()):
        return Difference(ours.numel(), 0, None, float("nan"), float("nan"))
    first = tuple(int(i) for i in wrong.nonzero()[0])
    return Difference(ours.numel(), int(wrong.sum()), first, float(ours[first]), float(theirs[first]))
