"""A matrix unit exact to the bit: ``D = A B + C`` as tensor cores, a chain of FMAs or exact arithmetic do it.

A block-fused unit (``align="max"``) takes ``k_step`` products and the accumulator at once:

1. significand products, exact and not normalised (in [1, 4)), with the sum of the operands' exponents;
2. the largest exponent of all non-zero products and of C is the anchor (not below ``min_exponent``);
3. every term is aligned to it and cut at ``fraction_bits`` = mantissa bits of the accumulator's fp32 + ``extra_bits``;
4. one integer sum without normalisation in between (``carry_bits`` bits above the significand, or as many as needed);
5. one normalisation and rounding to the accumulator's format.

A longer dot product is a sequence of blocks, each starting from the last result. Integers are carried in float64 (below
2^53, so exactly) and int64.

Sources: Sun, Li, Geng, Stuijk, Corporaal (arXiv 2206.02874); Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of
NVIDIA tensor cores", PeerJ CS 7:e330, 2021; parameters of the generations also from Khattak and Mikaitis (arXiv
2512.07004). NaN and infinity: any NaN operand, infinity times zero, or infinities of both signs give NaN; otherwise
infinity stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import pad as pad_zeros

from tensorbench.core.errors import unknown
from tensorbench.quantization.formats import FloatFormat, IntFormat, get_format

from .exact import Accumulator
from .rounded import FP64, UnitRounding, exponent_of, fma, power_of_two, round_integer

Align = Literal["max", "chain", "exact", "integer"]
OPERANDS = ("fp64", "fp32", "tf32", "bf16", "fp16", "e4m3", "e5m2", "int8", "int4")
_FLOOR = -600  # below every exponent of a product of two float32 numbers
_CHUNK = 2**17  # outputs at a time: what a block works on stays in the cache


@dataclass(frozen=True)
class MMAUnit:
    """A configurable matrix-multiply-accumulate unit; ``presets`` has the known ones.

    Args:
        in_fmt, acc_fmt: operand and accumulator formats (fp64 only together; integers with int32).
        k_step: products that are added at once (1 for a chain).
        extra_bits: bits kept below fp32's last mantissa bit while aligning; fewer than that with a negative number,
            which then is the precision of the result too (Hopper's fp8: -10, 13 fractional bits).
        carry_bits: bits of the sum above the significand's leading bit; None for as many as needed; too few
            wrap around.
        product: ``exact``, or ``rounded`` to fp32 first (no unit does; to see what it would cost).
        align: ``max`` (the block-fused unit above), ``chain`` (an IEEE fused multiply-add for each k in order),
            ``exact`` (one rounding at the very end), ``integer`` (int32, modulo 2^32).
        round: what alignment does with the bits below; all known units cut (RZ).
        out_round: rounding of the result.
        min_exponent: smallest anchor of the alignment, None without limit.
        name: what tables call it.

    Raises:
        ValueError: formats that do not go together, ``k_step`` below 1, precision below one bit.
    """

    in_fmt: str
    acc_fmt: str = "fp32"
    k_step: int = 1
    extra_bits: int = 0
    carry_bits: int | None = None
    product: Literal["exact", "rounded"] = "exact"
    align: Align = "max"
    round: UnitRounding = "RZ"
    out_round: UnitRounding = "RZ"
    min_exponent: int | None = None
    name: str = "custom"

    def __post_init__(self) -> None:
        if self.in_fmt not in OPERANDS:
            raise ValueError(unknown("operand format of a matrix unit", self.in_fmt, OPERANDS))
        if self.align not in get_args(Align):
            raise ValueError(unknown("alignment", self.align, get_args(Align)))
        for name, value, known in (("product", self.product, ("exact", "rounded")), ("round", self.round, ("RZ", "RN")),
                                   ("out_round", self.out_round, ("RZ", "RN"))):  # fmt: skip
            if value not in known:
                raise ValueError(unknown(name, value, known))
        integer, double = self.in_fmt.startswith("int"), self.in_fmt == "fp64"
        allowed = ("int32",) if integer else ("fp64",) if double else ("fp32", "fp16")
        if self.acc_fmt not in allowed:
            raise ValueError(f"{self.in_fmt} operands accumulate in {' or '.join(allowed)}, not in {self.acc_fmt!r}")
        if integer != (self.align == "integer"):
            raise ValueError(f"align {self.align!r} does not go with {self.in_fmt} operands")
        if double and self.align != "chain":
            raise ValueError("fp64 operands are modelled as a chain of IEEE fused multiply-adds (align='chain') only")
        if self.k_step < 1:
            raise ValueError(f"k_step {self.k_step} must be at least 1: the products that are added at once")
        if not -22 <= self.extra_bits <= 16:
            raise ValueError(f"extra_bits {self.extra_bits} must be from -22 (one fractional bit) to 16")
        if self.carry_bits is not None and self.carry_bits < 0:
            raise ValueError(f"carry_bits {self.carry_bits} must not be negative; None is as many as needed")

    @property
    def operand(self) -> FloatFormat | IntFormat:
        return FP64 if self.in_fmt == "fp64" else get_format(self.in_fmt)

    @property
    def accumulator(self) -> FloatFormat:
        form = FP64 if self.acc_fmt == "fp64" else get_format("fp32" if self.acc_fmt == "int32" else self.acc_fmt)
        assert isinstance(form, FloatFormat)
        return form

    @property
    def fraction_bits(self) -> int:
        """Bits below the anchor that take part in the sum of a block-fused unit."""
        return 23 + self.extra_bits

    @property
    def dtype(self) -> torch.dtype:
        """Of results."""
        return {"fp64": torch.float64, "int32": torch.int32}.get(self.acc_fmt, torch.float32)

    def cast(self, x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """``x`` rounded to nearest (ties to even) in the operand format; beyond its largest number infinity or NaN."""
        if self.in_fmt == "fp64":
            return x.to(torch.float64)
        x = x if torch.is_floating_point(x) else x.to(torch.float64)
        return self.operand.round(x, overflow="saturate" if self.align == "integer" else "special")

    def dot(
        self,
        a: Shaped[Tensor, "*batch k"],
        b: Shaped[Tensor, "*batch k"],
        c: Shaped[Tensor, "*batch"] | float | int = 0.0,
    ) -> Shaped[Tensor, "*batch"]:
        """``a · b + c`` for every row. Raises as ``mma`` does."""
        if a.shape != b.shape:
            raise ValueError(f"a {tuple(a.shape)} and b {tuple(b.shape)} must have the same shape")
        start = _tensor(c, a).expand(a.shape[:-1])
        return self.mma(a[..., None, :], b[..., :, None], start[..., None, None])[..., 0, 0]

    def mma(
        self,
        A: Shaped[Tensor, "*batch m k"],
        B: Shaped[Tensor, "*batch k n"],
        C: Shaped[Tensor, "*#batch m n"] | float | int = 0.0,
    ) -> Shaped[Tensor, "*batch m n"]:
        """``A B + C``: blocks of ``k_step`` along k in order. Batch dimensions must agree.

        Raises:
            ValueError: shapes that do not fit, nothing to multiply, operands that are no numbers of their formats.
        """
        check_shapes(A, B)
        shape = (*A.shape[:-1], B.shape[-1])
        start = _tensor(C, A)
        if self.align == "integer":
            return self._integer(A, B, start.expand(shape))
        a, b = self.checked(A, "A"), self.checked(B, "B")
        c = start.to(torch.float64).expand(shape)
        self._representable(c, self.accumulator, "C")
        m, n = shape[-2:]
        flat = (a.reshape(-1, m, a.shape[-1]), b.reshape(-1, b.shape[-2], n), c.reshape(-1, m, n))
        step, rows = max(1, _CHUNK // (m * n)), max(1, _CHUNK // n)
        done = torch.empty(flat[2].shape, dtype=self.dtype, device=A.device)
        for i in range(0, len(done), step):
            for r in range(0, m, rows):
                done[i : i + step, r : r + rows] = self._run(
                    flat[0][i : i + step, r : r + rows], flat[1][i : i + step], flat[2][i : i + step, r : r + rows]
                ).to(self.dtype)
        return done.reshape(shape)

    def gemm(
        self,
        A: Shaped[Tensor, "m k"],
        B: Shaped[Tensor, "k n"],
        C: Shaped[Tensor, "m n"] | float | int = 0.0,
        tile: tuple[int, int, int] = (16, 8, 16),
        *,
        pad: bool = False,
    ) -> Shaped[Tensor, "m n"]:
        """``A B + C`` by instructions of shape m × n × k: a tile with a shorter k than ``k_step`` adds fewer at once.

        Raises:
            ValueError: a shape that is no multiple of the tile, unless ``pad`` fills up with zeros.
        """
        sizes = (A.shape[0], B.shape[1], A.shape[1])
        if min(tile) < 1:
            raise ValueError(f"tile {tile} must have positive sides (m, n, k)")
        rest = [(-size) % side for size, side in zip(sizes, tile, strict=True)]
        if any(rest) and not pad:
            raise ValueError(f"(m, n, k) = {sizes} is no multiple of the tile {tile}; use pad=True to fill with zeros")
        A, B = pad_zeros(A, (0, rest[2], 0, rest[0])), pad_zeros(B, (0, rest[1], 0, rest[2]))
        D = pad_zeros(_tensor(C, A).expand(sizes[0], sizes[1]), (0, rest[1], 0, rest[0]))
        if self.align == "max":
            for k in range(0, A.shape[1], tile[2]):  # an instruction starts from the last one's result
                D = self.mma(A[:, k : k + tile[2]], B[k : k + tile[2]], D)
        else:
            D = self.mma(A, B, D)
        return D[: sizes[0], : sizes[1]]

    def checked(self, x: Shaped[Tensor, "*shape"], what: str) -> Float[Tensor, "*shape"]:
        """``x`` in float64. Raises ValueError where it holds something that is no number of the operand format."""
        if not torch.is_floating_point(x):
            raise ValueError(f"{what} is {x.dtype}; {self.in_fmt} operands are floating-point values")
        y = x.to(torch.float64)
        if self.in_fmt != "fp64":
            self._representable(y, self.operand, what)
        return y

    def _representable(self, x: Tensor, form: FloatFormat | IntFormat, what: str) -> None:
        if form.name == "fp64":
            return
        finite = torch.where(torch.isfinite(x), x, 0.0)
        wrong = form.round(finite, overflow="saturate") != finite
        if bool(wrong.any()):
            value = float(x[wrong].flatten()[0])
            raise ValueError(f"{what} holds {value!r}, which is no {form.name} number; round it first (unit.cast)")

    def _integer(self, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        limit = 2 ** (self.operand.bits - 1)
        for what, x in (("A", A), ("B", B)):
            whole = not torch.is_floating_point(x) or bool((x == x.round()).all())
            if not whole or bool(((x < -limit) | (x >= limit)).any()):
                raise ValueError(f"{what} must hold integers from {-limit} to {limit - 1} for {self.in_fmt}")
        if torch.is_floating_point(C) and bool((C.round() != C).any()):
            raise ValueError(f"C must hold integers for {self.in_fmt}")
        total = (A.to(torch.float64) @ B.to(torch.float64)).to(torch.int64) + C.to(torch.int64)
        return ((total + 2**31) % 2**32 - 2**31).to(torch.int32)

    def _run(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        if self.align == "chain":
            for k in range(a.shape[-1]):
                left, right = torch.broadcast_tensors(a[..., k, None], b[..., k, None, :])
                c = fma(left, right, c, self.accumulator, self.out_round)
            return c
        if self.align == "exact":
            return self._exact(a, b, c)
        for k in range(0, a.shape[-1], self.k_step):
            c = self._block(a[..., k : k + self.k_step], b[..., k : k + self.k_step, :], c)
        return c

    def _exact(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        a, b, c, special = _without_specials(a, b, c)
        total = Accumulator(c.shape, c.device)
        total.add(c)
        for k in range(a.shape[-1]):
            total.add(a[..., k, None] * b[..., k, None, :])
        rounded = total.round(self.accumulator, self.out_round)
        return rounded if special is None else torch.where(torch.isfinite(special), rounded, special)

    def _block(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """One fused block: ``c`` and at most ``k_step`` products."""
        a, b, c, special = _without_specials(a, b, c)
        lowest = self.operand.min_exponent if isinstance(self.operand, FloatFormat) else 0
        a_exponent, b_exponent = exponent_of(a, lowest), exponent_of(b, lowest)
        anchor = exponent_of(c.contiguous(), -126)  # fp16 accumulators are held as fp32 in the adder
        anchor = anchor.clamp_(min=_FLOOR if self.min_exponent is None else self.min_exponent)
        for k in range(a.shape[-1]):
            torch.maximum(anchor, a_exponent[..., k, None] + b_exponent[..., k, None, :], out=anchor)
        scale = power_of_two(self.fraction_bits - anchor)
        cut = torch.Tensor.trunc_ if self.round == "RZ" else torch.Tensor.round_
        total = cut(c * scale)
        for k in range(a.shape[-1]):
            product = a[..., k, None] * b[..., k, None, :]
            if self.product == "rounded":
                product = product.to(torch.float32).to(torch.float64)
            total += cut(product.mul_(scale))
        whole = total.to(torch.int64)
        if self.carry_bits is not None:
            width = 2 ** (self.fraction_bits + 1 + self.carry_bits)
            whole = whole.sign() * (whole.abs() % width)
        precision = min(self.accumulator.mantissa_bits, self.fraction_bits)
        rounded = round_integer(whole, anchor - self.fraction_bits, self.accumulator, self.out_round, precision)
        return rounded if special is None else torch.where(torch.isfinite(special), rounded, special)


def check_shapes(A: Shaped[Tensor, "*left"], B: Shaped[Tensor, "*right"]) -> None:
    """Raises ValueError where A and B do not multiply, or where there is nothing to multiply."""
    if A.ndim < 2 or B.ndim < 2 or A.shape[:-2] != B.shape[:-2] or A.shape[-1] != B.shape[-2]:
        raise ValueError(f"A {tuple(A.shape)} and B {tuple(B.shape)} do not multiply; expected (…, m, k) and (…, k, n)")
    if A.shape[-1] == 0 or A.numel() == 0 or B.numel() == 0:
        raise ValueError(f"nothing to multiply: A {tuple(A.shape)}, B {tuple(B.shape)}")


def _tensor(c: Tensor | float | int, like: Tensor) -> Tensor:
    """A Python number without loss, on the device of ``like``."""
    if isinstance(c, Tensor):
        return c
    return torch.tensor(c, dtype=torch.float64 if isinstance(c, float) else torch.int64, device=like.device)


def _without_specials(
    a: Float[Tensor, "*left"], b: Float[Tensor, "*right"], c: Float[Tensor, "*out"]
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Operands with NaN and infinity set to zero, and what IEEE arithmetic makes of them (None without any)."""
    if bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all()) and bool(torch.isfinite(c).all()):
        return a, b, c, None
    special = c
    for k in range(a.shape[-1]):
        product = a[..., k, None] * b[..., k, None, :]
        special = special + torch.where(torch.isfinite(product), 0.0, product)
    finite = [torch.where(torch.isfinite(x), x, 0.0) for x in (a, b, c)]
    return finite[0], finite[1], finite[2], special
