"""Seconds of the matrix products of a model on this machine, by the kernels that torch has.

float32 and bfloat16 by ``torch.nn.functional.linear``, eight bits by the quantised linear operator
(``torch.ops.quantized``, uint8 activations, int8 weights, requantised output) and by ``torch._int_mm`` (int8 by int8
to int32, output scaled to float32). Convolutions count as the product of their patches, without making the patches,
and products of attention as one product each. Below eight bits torch's CPU kernels have no arithmetic of their own: a
table gives those widths the time of eight bits, and a border between two of them needs no conversion.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from tensorbench.core.timing import compare

from .cost import LatencyTable
from .wrap import LayerInfo, Precision

Job = Callable[[], object]


def linear_jobs(rows: int, inner: int, columns: int, *, seed: int = 0) -> dict[str, Job]:
    """The same product by every kernel, operands already in their format.

    Names: ``fp32``, ``bf16``, ``int8_quantized`` (where an engine runs here), ``int8_mm`` (where shapes allow: more
    than 16 rows, inner and columns multiples of 8).
    """
    generator = torch.Generator().manual_seed(seed)
    x, w = torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator)
    xb, wb = x.to(torch.bfloat16), w.to(torch.bfloat16)
    jobs: dict[str, Job] = {"fp32": lambda: F.linear(x, w), "bf16": lambda: F.linear(xb, wb)}
    if (job := quantized_linear(x, w)) is not None:
        jobs["int8_quantized"] = job
    if rows > 16 and inner % 8 == 0 and columns % 8 == 0:
        xi, wi = _int8(x), _int8(w).t()
        jobs["int8_mm"] = lambda: torch._int_mm(xi, wi).to(torch.float32).mul_(1e-3)
    return jobs


def conversion_jobs(rows: int, inner: int) -> dict[str, Job]:
    """Changing the precision of an input: to bfloat16, to int8, and from int8 back."""
    x = torch.randn(rows, inner, generator=torch.Generator().manual_seed(0))
    xi = _int8(x)
    return {
        "to_bf16": lambda: x.to(torch.bfloat16),
        "to_int8": lambda: (x * 32.0).round_().clamp_(-127, 127).to(torch.int8),
        "from_int8": lambda: xi.to(torch.float32).mul_(1 / 32),
    }


def _int8(x: torch.Tensor) -> torch.Tensor:
    return (x * 32).round().clamp(-127, 127).to(torch.int8)


def quantized_linear(x: torch.Tensor, w: torch.Tensor) -> Job | None:
    """torch's quantised linear operator on these operands; None where no engine of torch runs it here."""
    if "x86" not in torch.backends.quantized.supported_engines:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecation: the operator is what exists
        packed = torch.ops.quantized.linear_prepack(torch.quantize_per_tensor(w, 0.03, 0, torch.qint8), None)
        xq = torch.quantize_per_tensor(x, 0.03, 128, torch.quint8)
    return lambda: torch.ops.quantized.linear(xq, packed, 0.3, 128)


def measure_table(
    layers: Sequence[LayerInfo],
    precisions: Sequence[Precision],
    batch: int,
    *,
    repeats: int = 5,
    min_seconds: float = 0.002,
) -> LatencyTable:
    """A latency table of ``layers`` for batches of ``batch`` samples; widths below eight cost what eight does.

    Eight bits take the quicker of the two integer kernels; the conversion is that to int8.

    Raises:
        ValueError: a precision without a kernel (block and float formats).
    """
    for p in precisions:
        if not isinstance(p, int):
            raise ValueError(f"torch's CPU kernels know no {p!r}; give a roofline for it")
    seconds: dict[str, dict[Precision, float]] = {}
    conversion: dict[str, float] = {}
    known: dict[tuple[int, int, int], tuple[dict[str, float], float]] = {}
    for layer in layers:
        shape = (batch * layer.rows, layer.inner, layer.columns)
        if shape not in known:
            times = compare(linear_jobs(*shape), repeats=repeats, min_seconds=min_seconds)
            moves = compare(conversion_jobs(shape[0], shape[1]), repeats=repeats, min_seconds=min_seconds)
            known[shape] = (dict(times), moves["to_int8"])
        times, moved = known[shape]
        integer = [times[name] for name in ("int8_quantized", "int8_mm") if name in times]
        quickest = min(integer) if integer else times["fp32"]
        seconds[layer.name] = {
            p: times["fp32"] if p == 32 else times["bf16"] if p == 16 else quickest for p in precisions
        }
        conversion[layer.name] = moved
    return LatencyTable(seconds, conversion, {p: "int8" for p in precisions if p <= 8})
