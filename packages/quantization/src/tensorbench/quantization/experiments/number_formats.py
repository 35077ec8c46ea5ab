"""Number formats against libraries that have them too: every code, a million floats, a hundred thousand blocks.

A method is the library that is asked. Equal means the same number, NaN for NaN and zero with its sign. Where the
libraries differ among themselves the code says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.quantization.blocks import BlockSpec, quantize
from tensorbench.quantization.formats import get_format
from tensorbench.quantization.report import number_formats
from tensorbench.quantization.scales import POWER_MODES, power_exponent

ML_DTYPES = {
    "e5m2": "float8_e5m2",
    "e4m3": "float8_e4m3fn",
    "e3m4": "float8_e3m4",
    "e3m2": "float6_e3m2fn",
    "e2m3": "float6_e2m3fn",
    "e2m1": "float4_e2m1fn",
    "bf16": "bfloat16",
    "e8m0": "float8_e8m0fnu",
}
TORCH = {"e5m2": torch.float8_e5m2, "e4m3": torch.float8_e4m3fn, "bf16": torch.bfloat16, "fp16": torch.float16}
GFLOAT = {name: f"format_info_ocp_{name}" for name in ("e5m2", "e4m3", "e3m2", "e2m3", "e2m1")}


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal as numbers, NaN to NaN, zeros with their sign."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    zero = a == 0
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a[zero]), np.signbit(b[zero]))


def _codes(name: str) -> np.ndarray:
    form = get_format(name)
    return np.arange(2**form.bits, dtype=np.uint8 if form.bits <= 8 else np.uint16)


def _inside(name: str, x: np.ndarray) -> np.ndarray:
    """Clipped to the format: what happens beyond its largest number differs between libraries."""
    largest = get_format(name).max
    return np.clip(x, -largest, largest)


def ask_ml_dtypes(x: np.ndarray, blocks: np.ndarray) -> Iterator[tuple[str, bool]]:
    import ml_dtypes

    for name, kind in ML_DTYPES.items():
        dtype = getattr(ml_dtypes, kind)
        yield "decodes_equal", same(get_format(name).values(), _codes(name).view(dtype).astype(np.float64))
        if name != "e8m0":
            theirs = _inside(name, x).astype(dtype).astype(np.float64)
            yield "rounds_equal", same(get_format(name).round(torch.from_numpy(x)), theirs)


def ask_torch(x: np.ndarray, blocks: np.ndarray) -> Iterator[tuple[str, bool]]:
    for name, dtype in TORCH.items():
        codes = torch.from_numpy(_codes(name).view(np.int8 if get_format(name).bits == 8 else np.int16))
        yield "decodes_equal", same(get_format(name).values(), codes.view(dtype).double())
        theirs = torch.from_numpy(_inside(name, x)).to(dtype).float()
        yield "rounds_equal", same(get_format(name).round(torch.from_numpy(x)), theirs)


def ask_gfloat(x: np.ndarray, blocks: np.ndarray) -> Iterator[tuple[str, bool]]:
    import gfloat
    from gfloat import formats

    modes = {"even": "TiesToEven", "away": "TiesToAway", "zero": "TowardZero", "floor": "TowardNegative",
             "ceil": "TowardPositive"}  # fmt: skip
    for name, kind in GFLOAT.items():
        info = getattr(formats, kind)
        theirs = np.array([gfloat.decode_float(info, int(code)).fval for code in _codes(name)])
        yield "decodes_equal", same(get_format(name).values(), theirs)
        for mode, their_mode in modes.items():
            part = x[:: len(x) // 20_000 + 1].astype(np.float64)
            theirs = gfloat.round_ndarray(info, part, getattr(gfloat.RoundMode, their_mode), sat=True)
            ours = get_format(name).round(torch.from_numpy(part), mode)  # type: ignore[arg-type]
            yield "rounds_equal", bool(np.array_equal(ours.numpy(), theirs))


def ask_torchao(x: np.ndarray, blocks: np.ndarray) -> Iterator[tuple[str, bool]]:
    from torchao.prototype.mx_formats import mx_tensor
    from torchao.prototype.mx_formats.config import ScaleCalculationMode

    kinds = {"e5m2": torch.float8_e5m2, "e4m3": torch.float8_e4m3fn, "e3m2": mx_tensor.DTYPE_FP6_E3M2,
             "e2m3": mx_tensor.DTYPE_FP6_E2M3, "e2m1": torch.float4_e2m1fn_x2}  # fmt: skip
    data = torch.from_numpy(blocks)
    for name, dtype in kinds.items():
        for mode in POWER_MODES:
            scale, elements = mx_tensor.to_mx(data, dtype, 32, ScaleCalculationMode[mode.upper()])
            scale, elements = scale.view(torch.uint8).flatten(), elements.view(torch.uint8)
            if name == "e2m1":
                elements = torch.stack([elements & 15, elements >> 4], -1)
            ours = quantize(data, BlockSpec(name, scale_mode=mode))  # type: ignore[arg-type]
            yield "scales_equal", torch.equal(ours.scales.flatten(), scale)
            # Where the scale is 2^-127 torchao 0.18 does not divide by it; NaN blocks have no elements.
            normal = (scale > 0) & (scale < 255)
            yield "codes_equal", torch.equal(ours.codes.reshape(data.shape)[normal],
                                             elements.reshape(data.shape)[normal])  # fmt: skip


def ask_definition(x: np.ndarray, blocks: np.ndarray) -> Iterator[tuple[str, bool]]:
    """Scales rounded up: the smallest 2^e that saturates nothing, by comparing numbers that float64 holds exactly."""
    amax = torch.from_numpy(blocks).abs().amax(-1).double()
    amax = amax[torch.isfinite(amax)]
    for elem in ("e5m2", "e4m3", "e3m2", "e2m3", "e2m1"):
        near = one_above_powers(elem).double()
        for numbers in (amax, near):
            e = power_exponent(numbers.float(), get_format(elem), "rceil")
            reach = torch.ldexp(torch.full_like(numbers, get_format(elem).max), e)
            yield "scales_equal", bool(((reach >= numbers) & ((reach / 2 < numbers) | (e == -127))).all())


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], Iterator[tuple[str, bool]]]] = {
    "ml_dtypes": ask_ml_dtypes,
    "torch": ask_torch,
    "gfloat": ask_gfloat,
    "torchao": ask_torchao,
    "definition": ask_definition,
}


def one_above_powers(elem: str) -> torch.Tensor:
    """Largest magnitudes that are the next float above ``max · 2^k``: a logarithm in float32 takes them for equal."""
    exact = get_format(elem).max * 2.0 ** torch.arange(-90.0, 90.0)
    return torch.nextafter(exact, torch.tensor(torch.inf))


def run(run: Run) -> None:
    """Ask the library; all answers of a kind must agree."""
    logging.getLogger("torchao").setLevel(logging.ERROR)
    data = run.dataset.load(run.seed)
    answers = pd.DataFrame(METHODS[run.method.uses](data["scalars"], data["blocks"]), columns=["kind", "equal"])
    run.log(comparisons=len(answers), **answers.groupby("kind")["equal"].all().to_dict())
    if run.method.uses == "torchao":
        from torchao.prototype.mx_formats import mx_tensor
        from torchao.prototype.mx_formats.config import ScaleCalculationMode

        amax = one_above_powers("e4m3")
        theirs, _ = mx_tensor.to_mx(amax[:, None].repeat(1, 32), torch.float8_e4m3fn, 32, ScaleCalculationMode["RCEIL"])
        ours = power_exponent(amax, get_format("e4m3"), "rceil") + 127
        exact = torch.arange(-90, 90) + 127 + 1
        blocks = torch.from_numpy(data["blocks"])
        scales, _ = mx_tensor.to_mx(blocks, torch.float8_e4m3fn, 32, ScaleCalculationMode["RCEIL"])
        differ = quantize(blocks, BlockSpec("e4m3")).scales.flatten() != scales.view(torch.uint8).flatten()
        run.log(
            blocks_that_differ=int(differ.sum()),
            off_by_one_torchao=float((theirs.view(torch.uint8).flatten() != exact).float().mean()),
            off_by_one_here=float((ours != exact).float().mean()),
        )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Range and precision of every format of up to 16 bits, made from the registry."""
    table = number_formats()
    table = table[~table["name"].str.fullmatch(r"int(2|3|5|6|7|9|1\d)") & ~table["name"].isin(["fp32", "tf32"])]
    fig, ax = plotting.figure(columns=2, height=8.5)
    shades = {4: "#D55E00", 6: "#CC79A7", 7: "#7F7F2A", 8: "#0072B2", 16: "#009E73"}
    edge = 44
    for k, row in enumerate(table.itertuples()):
        shade = shades[row.bits]
        low, normal, high = np.log2([row.tiny, row.min_normal, row.max])
        high = min(high, edge)
        ax.plot([normal, high], [k, k], color=shade, linewidth=6, solid_capstyle="butt")
        if low < normal:
            ax.plot([low, normal], [k, k], color=shade, linewidth=6, alpha=0.4, solid_capstyle="butt")
        digits = row.mantissa_bits + 1 if row.exponent_bits else row.mantissa_bits
        numbers = f"{row.bits} bits, {digits} significant" + ("" if row.signed else ", no sign")
        ax.annotate(f"{numbers}, largest {_plain(row.max)}", (high, k), (4, 0), textcoords="offset points",
                    va="center", fontsize=7)  # fmt: skip
    ax.set_yticks(range(len(table)), [_written(name) for name in table["name"]])
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_xlim(-edge, 2 * edge)
    ax.set_xticks([-40, -20, 0, 20, 40], ["$2^{-40}$", "$2^{-20}$", "1", "$2^{20}$", "$2^{40}$"])
    ax.set_xlabel("positive numbers of the format (pale: subnormal)")
    ax.grid(False, axis="y")
    yield "formats", fig


def _written(name: str) -> str:
    return {"mxint8": "MXINT8", "bf16": "bf16", "fp16": "fp16"}.get(name, name.upper())


def _plain(value: float) -> str:
    if value < 1e5:
        return f"{value:.5g}"
    digits, power = f"{value:.2e}".split("e")
    return f"${digits} \\cdot 10^{{{int(power)}}}$"
