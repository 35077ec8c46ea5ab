"""Latency and throughput of matrix instructions as a function of how many are in flight, and of bank conflicts.

A scheduler starts an instruction every ``issue`` cycles at best and gets each result after ``latency`` cycles; with
``n`` independent instructions in flight (instruction-level parallelism × warps of this scheduler) one completes every
``max(issue, latency / n)`` cycles. So the peak needs ``n >= latency / issue``. Sun et al. (arXiv 2206.02874) measure
this for mma, mma.sp and ldmatrix; ``load`` reads such measurements from JSON.

``ARCHITECTURES["a100"]`` follows from the published peak (1024 dense fp16 multiply-adds per cycle and SM, four
schedulers); its latencies are approximate (25 and 33 cycles), not taken from the paper's tables: replace them by a
measured file where they matter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tensorbench.core.errors import unknown

BANKS, BANK_BYTES, ROW_BYTES, ROWS = 32, 4, 16, 8


@dataclass(frozen=True)
class Instruction:
    """One instruction of a warp: multiply-adds it stands for (dense equivalent), cycles between two, cycles to the
    result."""

    macs: int
    issue: float
    latency: float

    def __post_init__(self) -> None:
        if self.macs < 1 or not (0 < self.issue <= self.latency < math.inf):
            raise ValueError(f"{self}: needs macs >= 1 and 0 < issue <= latency")


@dataclass(frozen=True)
class PerfModel:
    """Instructions of one architecture by shape, for one streaming multiprocessor with ``schedulers`` schedulers."""

    name: str
    instructions: dict[str, Instruction]
    schedulers: int = 4
    source: str = ""

    @classmethod
    def of(cls, name: str) -> PerfModel:
        """A built-in architecture. Raises ValueError for an unknown name."""
        if name not in ARCHITECTURES:
            raise ValueError(unknown("architecture", name, ARCHITECTURES))
        return ARCHITECTURES[name]

    @classmethod
    def load(cls, path: str | Path) -> PerfModel:
        """From JSON: ``{"name", "schedulers", "source", "instructions": {shape: {"macs", "issue", "latency"}}}``.

        Raises:
            ValueError: a file that is no such table, naming what is missing.
        """
        try:
            table = json.loads(Path(path).read_text())
            instructions = {shape: Instruction(**row) for shape, row in table["instructions"].items()}
            return cls(table["name"], instructions, int(table.get("schedulers", 4)), str(table.get("source", path)))
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no table of measured instructions ({type(error).__name__}: {error}); expected "
                             'name and instructions: {shape: {"macs", "issue", "latency"}}') from error  # fmt: skip

    def save(self, path: str | Path) -> None:
        """The table as JSON, which ``load`` reads."""
        rows = {shape: vars(row) for shape, row in self.instructions.items()}
        table = {"name": self.name, "schedulers": self.schedulers, "source": self.source, "instructions": rows}
        Path(path).write_text(json.dumps(table, indent=1))

    def instruction(self, shape: str) -> Instruction:
        """Raises ValueError for an unknown shape, with the nearest known one."""
        if shape not in self.instructions:
            raise ValueError(unknown(f"instruction of {self.name}", shape, self.instructions))
        return self.instructions[shape]

    def throughput(self, shape: str, ilp: int, warps: int) -> float:
        """Multiply-adds per cycle and SM with ``ilp`` independent instructions in each of ``warps`` warps.

        Warps spread over the schedulers; those without a warp idle.

        Raises:
            ValueError: no instruction in flight, an unknown shape.
        """
        if ilp < 1 or warps < 1:
            raise ValueError(f"ilp {ilp} and warps {warps} must be at least 1")
        row, total = self.instruction(shape), 0.0
        for scheduler in range(self.schedulers):
            mine = len(range(scheduler, warps, self.schedulers))
            if mine:
                total += row.macs / max(row.issue, row.latency / (ilp * mine))
        return total

    def peak(self, shape: str) -> float:
        """Multiply-adds per cycle and SM when instructions follow each other without a gap."""
        row = self.instruction(shape)
        return self.schedulers * row.macs / row.issue

    def min_parallelism_for_peak(self, shape: str, share: float = 0.95) -> int:
        """Instructions in flight on one scheduler that reach ``share`` of the peak.

        Raises:
            ValueError: a share outside (0, 1].
        """
        if not 0 < share <= 1:
            raise ValueError(f"share {share} must lie in (0, 1]")
        row = self.instruction(shape)
        return max(1, math.ceil(share * row.latency / row.issue - 1e-9))

    def sparse_speedup(self, dense: str, sparse: str, ilp: int, warps: int) -> float:
        """Work per cycle of a 2:4 sparse instruction over the dense one's, at equal parallelism; 2 at most at the
        peak."""
        return self.throughput(sparse, ilp, warps) / self.throughput(dense, ilp, warps)


def ldmatrix_cycles(addresses: Sequence[int], base_cycles_per_matrix: int = 1) -> int:
    """Shared-memory cycles of one ldmatrix: 8 row addresses (bytes) per 8 × 8 matrix of 16-bit numbers.

    A row is 16 bytes, four banks of four bytes. Rows of one matrix that need the same bank at different addresses
    wait for each other: the cycles of a matrix are the largest number of different words asked of one bank.

    Raises:
        ValueError: not 8, 16 or 32 addresses, or one that is not a multiple of 16.
    """
    if len(addresses) not in (8, 16, 32):
        raise ValueError(f"{len(addresses)} row addresses; ldmatrix takes 8 per matrix: 8 (x1), 16 (x2) or 32 (x4)")
    if any(address < 0 or address % ROW_BYTES for address in addresses):
        raise ValueError("every row address must be a non-negative multiple of 16 bytes")
    cycles = 0
    for first in range(0, len(addresses), ROWS):
        words: dict[int, set[int]] = {}
        for address in addresses[first : first + ROWS]:
            for word in range(address // BANK_BYTES, (address + ROW_BYTES) // BANK_BYTES):
                words.setdefault(word % BANKS, set()).add(word)
        cycles += base_cycles_per_matrix * max(map(len, words.values()))
    return cycles


def row_addresses(stride_bytes: int, matrices: int = 1, swizzle: bool = False) -> list[int]:
    """Addresses of the rows of 8 × 8 tiles that lie below each other with ``stride_bytes`` between rows.

    ``swizzle`` exchanges the 16-byte columns of a 128-byte line by the row number (exclusive or), which avoids the
    conflicts of strides of 128 bytes and multiples.

    Raises:
        ValueError: a stride that is not a positive multiple of 16, or with swizzle of 128.
    """
    if stride_bytes < ROW_BYTES or stride_bytes % ROW_BYTES:
        raise ValueError(f"stride {stride_bytes} must be a positive multiple of 16 bytes")
    if swizzle and stride_bytes % (BANKS * BANK_BYTES):
        raise ValueError(f"stride {stride_bytes}: swizzling exchanges columns of lines of {BANKS * BANK_BYTES} bytes")
    rows: Iterable[int] = range(ROWS * matrices)
    return [row * stride_bytes + (ROW_BYTES * (row % ROWS) if swizzle else 0) for row in rows]


def _a100() -> PerfModel:
    per_scheduler = {"fp16": 256, "bf16": 256, "tf32": 128, "int8": 512}
    shapes = {("fp16", 8): 25.0, ("fp16", 16): 33.0, ("bf16", 8): 25.0, ("bf16", 16): 33.0, ("tf32", 4): 25.0,
              ("tf32", 8): 33.0, ("int8", 16): 25.0, ("int8", 32): 33.0}  # fmt: skip
    rows = {}
    for (form, k), latency in shapes.items():
        macs = 16 * 8 * k
        rows[f"{form}.m16n8k{k}"] = Instruction(macs, macs / per_scheduler[form], latency)
        rows[f"{form}.sp.m16n8k{2 * k}"] = Instruction(2 * macs, macs / per_scheduler[form], latency)
    return PerfModel("a100", rows, 4, "peak: NVIDIA's A100 white paper; latencies approximate, not measured here")


ARCHITECTURES: dict[str, PerfModel] = {"a100": _a100()}
