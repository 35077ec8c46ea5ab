"""Five arrays of multipliers that share an operand, simulated cycle by cycle on integer matrices C = A · B.

A is the operand that is recoded, in every cell (``placement="cell"``) or once per shared operand at the array's edge
(``"edge"``, arXiv 2404.11887). All arrays cut the matrices into tiles and fill the last ones with zeros.

- ``Matrix2D``: a column of A and a row of B are broadcast each cycle; a cell accumulates one element of C. K cycles a
  tile.
- ``Array1D2D``: ``rows`` lanes of ``cols`` multipliers and an adder tree each; a row of A is broadcast to all lanes,
  which hold a column of B each. One cycle a row of A.
- ``SystolicOS``: A moves right, B moves down, C stays (output stationary). K + rows + cols - 2 cycles a tile.
- ``SystolicWS``: B stays (weight stationary), A moves right, sums move down. M + rows + cols - 2 cycles a tile, and
  ``rows`` to load B.
- ``Cube3D``: ``rows × cols`` dot products of length ``depth`` and an adder tree each, A and B broadcast. K / depth
  cycles a tile.

A tile's ``Trace`` holds what every multiplier saw, from which the energy follows: an idle cycle before it and one
after, in which everything is zero, make up for the pause between tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from tensorbench.core.errors import unknown

from .encoders import Encoder, get_encoder
from .multiplier import Multiplier, Overflow, accumulate

Placement = Literal["cell", "edge"]


class Trace(NamedTuple):
    """Cycles × multipliers: both operands; and cycles × accumulators: value before and after the cycle's addition."""

    a: Int[np.ndarray, "cycles multipliers"]
    b: Int[np.ndarray, "cycles multipliers"]
    before: Int[np.ndarray, "cycles accumulators"]
    after: Int[np.ndarray, "cycles accumulators"]


class Result(NamedTuple):
    """The product, the cycles it took, the multiplications that were wanted, and a trace for every tile if asked
    for."""

    c: Int[np.ndarray, "m n"]
    cycles: int
    macs: int
    traces: list[Trace]

    def utilisation(self, multipliers: int) -> float:
        """Share of the multipliers' cycles that went into wanted products."""
        return self.macs / (self.cycles * multipliers)


@dataclass(frozen=True)
class Array:
    """What all arrays share.

    Args:
        rows, cols, depth: multipliers along each direction (``depth`` of the cube alone).
        kind: the recoder, ``ent``, ``mbe``, ``csd`` or ``plain``.
        placement: the recoder in every ``cell``, or at the ``edge``.
        n, accumulator, overflow: bits of operands and of sums; whether sums wrap or saturate.

    Raises:
        ValueError: a size below 1, an unknown recoder or placement.
    """

    rows: int
    cols: int
    depth: int = 1
    kind: str = "ent"
    placement: Placement = "edge"
    n: int = 8
    accumulator: int = 32
    overflow: Overflow = "wrap"
    name: ClassVar[str] = ""
    tree: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if min(self.rows, self.cols, self.depth) < 1:
            raise ValueError(
                f"an array of {self.rows} × {self.cols} × {self.depth} multipliers; every size is at least 1"
            )
        if self.depth != 1 and self.name != "cube3d":
            raise ValueError(f"{self.name} has no depth; give rows and cols")
        if self.placement not in ("cell", "edge"):
            raise ValueError(unknown("placement", self.placement, ("cell", "edge")))
        accumulate(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), self.accumulator, self.overflow)
        get_encoder(self.kind, self.n)

    @property
    def encoder(self) -> Encoder:
        return get_encoder(self.kind, self.n)

    @property
    def multipliers(self) -> int:
        return self.rows * self.cols * self.depth

    @property
    def accumulators(self) -> int:
        return self.rows * self.cols

    @property
    def shared(self) -> int:
        """Elements of A that enter in a cycle: recoders at the edge."""
        return self.rows

    @property
    def operand_registers(self) -> tuple[int, int]:
        """Registers that hold an element of A and of B."""
        return self.rows, self.cols

    @property
    def reach(self) -> tuple[int, int]:
        """Multipliers that an edge register of A and of B drives; 1 where a cell passes its operand on."""
        return self.cols, self.rows

    def entering(self, a: Int[np.ndarray, "cycles multipliers"]) -> Int[np.ndarray, "cycles shared"]:
        """Of the multipliers' A operands, those that stand at the edge."""
        return a.reshape(len(a), self.rows, self.cols)[:, :, 0]

    def held(
        self, a: Int[np.ndarray, "cycles multipliers"], b: Int[np.ndarray, "cycles multipliers"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Contents of the registers of A and of B."""
        return self.entering(a), b.reshape(len(b), self.rows, self.cols)[:, 0]

    def multiply(self, a: Int[np.ndarray, "*shape"], b: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        """All multipliers at once, through the recoder's digits (a table of all products up to n = 8)."""
        if self.n > 8:
            return Multiplier(self.encoder)(a, b)
        half, table = 2 ** (self.n - 1), _products(self.kind, self.n)
        return table[(a + half) * (2 * half) + (b + half)]

    def add(self, total: np.ndarray, term: np.ndarray) -> np.ndarray:
        return accumulate(total, term, self.accumulator, self.overflow)

    def run(self, A: Int[np.ndarray, "m k"], B: Int[np.ndarray, "k n"], *, trace: bool = False) -> Result:
        """``A · B`` in this array. Without ``trace`` memory is that of the array and of C.

        Raises:
            ValueError: operands that are not matrices of integers in range, that do not fit, or that are empty.
        """
        A, B = (self.encoder.check(X) for X in (A, B))
        if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[0]:
            raise ValueError(f"A (m × k) and B (k × n) must be matrices that fit, got {A.shape} and {B.shape}")
        if 0 in (*A.shape, *B.shape):
            raise ValueError(f"nothing to multiply: {A.shape} times {B.shape}")
        C = np.zeros((A.shape[0], B.shape[1]), dtype=np.int64)
        cycles, traces = 0, []
        for took, tile in self._run(A.astype(np.int64), B.astype(np.int64), C, trace):
            cycles += took
            if tile is not None:
                traces.append(tile)
        return Result(C, cycles, A.shape[0] * A.shape[1] * B.shape[1], traces)

    def _run(self, A: np.ndarray, B: np.ndarray, C: np.ndarray, trace: bool) -> Iterator[tuple[int, Trace | None]]:
        """Adds to C in place, a tile at a time; yields the tile's cycles and trace."""
        raise NotImplementedError


_TABLES: dict[tuple[str, int], np.ndarray] = {}


def _products(kind: str, n: int) -> np.ndarray:
    if (kind, n) not in _TABLES:
        x = np.arange(-(2 ** (n - 1)), 2 ** (n - 1))
        _TABLES[kind, n] = Multiplier(get_encoder(kind, n))(np.repeat(x, len(x)), np.tile(x, len(x)))
    return _TABLES[kind, n]


def _blocks(length: int, size: int) -> Iterator[slice]:
    return (slice(k, min(k + size, length)) for k in range(0, length, size))


def _filled(X: np.ndarray, rows: int, cols: int) -> np.ndarray:
    return np.pad(X, ((0, rows - X.shape[0]), (0, cols - X.shape[1])))


class _Recorder:
    """Collects a tile's cycles between two idle ones; records nothing where it is off."""

    def __init__(self, on: bool) -> None:
        self.on, self.columns = on, ([], [], [], [])

    def __call__(self, *values: np.ndarray) -> None:
        if self.on:
            for column, value in zip(self.columns, values, strict=True):
                column.append(value.ravel())

    def trace(self) -> Trace | None:
        if not self.on:
            return None
        return Trace(*(np.pad(np.array(column), ((1, 1), (0, 0))) for column in self.columns))


class Matrix2D(Array):
    """Broadcast matrix, output stationary."""

    name = "matrix2d"

    def _run(self, A, B, C, trace):
        for i in _blocks(A.shape[0], self.rows):
            for j in _blocks(B.shape[1], self.cols):
                a, b = _filled(A[i], self.rows, A.shape[1]), _filled(B[:, j], B.shape[0], self.cols)
                total, record = np.zeros((self.rows, self.cols), dtype=np.int64), _Recorder(trace)
                for k in range(A.shape[1]):
                    left, right = np.broadcast_arrays(a[:, k, None], b[k])
                    before, total = total, self.add(total, self.multiply(left, right))
                    record(left, right, before, total)
                C[i, j] = total[: C[i, j].shape[0], : C[i, j].shape[1]]
                yield A.shape[1], record.trace()


class Array1D2D(Array):
    """Lanes of multipliers with adder trees; ``rows`` lanes (columns of B), ``cols`` products each (of K)."""

    name = "array1d2d"
    tree = True

    @property
    def accumulators(self) -> int:
        return self.rows

    @property
    def shared(self) -> int:
        return self.cols

    def entering(self, a):
        return a.reshape(len(a), self.rows, self.cols)[:, 0]

    def held(self, a, b):
        return self.entering(a), b

    @property
    def operand_registers(self) -> tuple[int, int]:
        return self.cols, self.rows * self.cols

    @property
    def reach(self) -> tuple[int, int]:
        return self.rows, 1

    def _run(self, A, B, C, trace):
        for j in _blocks(B.shape[1], self.rows):
            for k in _blocks(A.shape[1], self.cols):
                held = _filled(B[k, j].T, self.rows, self.cols)
                a, record = _filled(A[:, k], A.shape[0], self.cols), _Recorder(trace)
                lanes = C[:, j].shape[1]
                for m in range(A.shape[0]):
                    left = np.broadcast_to(a[m], held.shape)
                    before = np.zeros(self.rows, dtype=np.int64)
                    before[:lanes] = C[m, j]
                    total = self.add(before, self.multiply(left, held).sum(axis=1))
                    record(left, held, before, total)
                    C[m, j] = total[:lanes]
                yield A.shape[0], record.trace()


class Cube3D(Array):
    """Rows × cols dot products of length ``depth``, operands broadcast along two directions."""

    name = "cube3d"
    tree = True

    @property
    def shared(self) -> int:
        return self.rows * self.depth

    def entering(self, a):
        return a.reshape(len(a), self.rows, self.cols, self.depth)[:, :, 0].reshape(len(a), -1)

    def held(self, a, b):
        b = b.reshape(len(b), self.rows, self.cols, self.depth)[:, 0]
        return self.entering(a), b.reshape(len(b), -1)

    @property
    def operand_registers(self) -> tuple[int, int]:
        return self.rows * self.depth, self.cols * self.depth

    def _run(self, A, B, C, trace):
        steps = -(-A.shape[1] // self.depth)
        K = steps * self.depth
        for i in _blocks(A.shape[0], self.rows):
            for j in _blocks(B.shape[1], self.cols):
                a = _filled(A[i], self.rows, K).reshape(self.rows, 1, steps, self.depth)
                b = _filled(B[:, j], K, self.cols).T.reshape(1, self.cols, steps, self.depth)
                total, record = np.zeros((self.rows, self.cols), dtype=np.int64), _Recorder(trace)
                for k in range(steps):
                    left, right = np.broadcast_arrays(a[:, :, k], b[:, :, k])
                    before, total = total, self.add(total, self.multiply(left, right).sum(axis=2))
                    record(left, right, before, total)
                C[i, j] = total[: C[i, j].shape[0], : C[i, j].shape[1]]
                yield steps, record.trace()


class _Systolic(Array):
    def held(self, a, b):
        return a, b

    @property
    def operand_registers(self) -> tuple[int, int]:
        return self.multipliers, self.multipliers

    @property
    def reach(self) -> tuple[int, int]:
        return 1, 1


def _skewed(X: np.ndarray, t: int) -> np.ndarray:
    """Element t - i of row i, zero before the row begins and after it ends."""
    at = t - np.arange(X.shape[0])
    inside = (at >= 0) & (at < X.shape[1])
    return np.where(inside, X[np.arange(X.shape[0]), np.where(inside, at, 0)], 0)


class SystolicOS(_Systolic):
    """Output stationary: operands move, one cell a cycle."""

    name = "systolic_os"

    def _run(self, A, B, C, trace):
        cycles = A.shape[1] + self.rows + self.cols - 2
        for i in _blocks(A.shape[0], self.rows):
            for j in _blocks(B.shape[1], self.cols):
                a_in, b_in = _filled(A[i], self.rows, A.shape[1]), _filled(B[:, j], B.shape[0], self.cols).T
                a = b = total = np.zeros((self.rows, self.cols), dtype=np.int64)
                record = _Recorder(trace)
                for t in range(cycles):
                    a = np.concatenate([_skewed(a_in, t)[:, None], a[:, :-1]], axis=1)
                    b = np.concatenate([_skewed(b_in, t)[None], b[:-1]], axis=0)
                    before, total = total, self.add(total, self.multiply(a, b))
                    record(a, b, before, total)
                C[i, j] = total[: C[i, j].shape[0], : C[i, j].shape[1]]
                yield cycles, record.trace()


class SystolicWS(_Systolic):
    """Weight stationary: B is held (K along rows, N along columns), A moves right, sums move down."""

    name = "systolic_ws"

    def _run(self, A, B, C, trace):
        cycles = A.shape[0] + self.rows + self.cols - 2
        for j in _blocks(B.shape[1], self.cols):
            for k in _blocks(A.shape[1], self.rows):
                held, a_in = _filled(B[k, j], self.rows, self.cols), _filled(A[:, k].T, self.rows, A.shape[0])
                a = total = np.zeros((self.rows, self.cols), dtype=np.int64)
                sums, record = _filled(C[:, j].T, self.cols, A.shape[0]), _Recorder(trace)
                out = np.zeros_like(sums)
                column = np.arange(self.cols)
                for t in range(cycles):
                    a = np.concatenate([_skewed(a_in, t)[:, None], a[:, :-1]], axis=1)
                    before = np.concatenate([_skewed(sums, t)[None], total[:-1]], axis=0)
                    total = self.add(before, self.multiply(a, held))
                    record(a, held, before, total)
                    leaving = t - (self.rows - 1) - column  # the row of A whose sum leaves at the bottom
                    inside = (leaving >= 0) & (leaving < A.shape[0])
                    out[column[inside], leaving[inside]] = total[-1, inside]
                C[:, j] = out[: C[:, j].shape[1]].T
                yield cycles + self.rows, record.trace()


ARRAYS: dict[str, type[Array]] = {c.name: c for c in (Matrix2D, Array1D2D, SystolicOS, SystolicWS, Cube3D)}


def make_array(name: str, multipliers: int, **options) -> Array:
    """An array by name with about as many rows as columns: 256, 1024 and 4096 multipliers at 500 MHz make the paper's
    256 GOPS, 1 and 4 TOPS. Raises ValueError for an unknown name, or a number that is not a power of two."""
    if name not in ARRAYS:
        raise ValueError(unknown("array", name, ARRAYS))
    power = multipliers.bit_length() - 1
    if multipliers < 1 or multipliers != 1 << power:
        raise ValueError(f"{multipliers} multipliers: use a power of two")
    if name == "cube3d":
        depth, rows = power // 3, (power - power // 3 + 1) // 2
        return Cube3D(1 << rows, 1 << (power - depth - rows), 1 << depth, **options)
    return ARRAYS[name](1 << ((power + 1) // 2), 1 << (power // 2), **options)
