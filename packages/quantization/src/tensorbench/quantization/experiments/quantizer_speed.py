"""Seconds of quantising a matrix and of a training step of a quantised layer, in one process on one thread.

The peer is torchao's eager ``to_mx``, which does the same work on a CPU: scales and codes of blocks of 32 along the
rows, round-up. ``bandwidth_share`` compares bytes read and written (4 in, 4 out an element) with those of a copy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import Comparison, compare
from tensorbench.quantization.blocks import MX, NVFP4, fake_quantize, quantize
from tensorbench.quantization.layers import QuantLinear
from tensorbench.quantization.recipes import recipe

METHODS = {"blocks": quantize}
ELEMENTS = {"e4m3": "mxfp8_e4m3", "e2m1": "mxfp4"}
RIVALS = {
    "quantize": "quantize (codes)",
    "fake": "fake_quantize (values)",
    "torchao": "torchao to_mx (codes)",
    "copy": "copy",
}


def quantisers(x: torch.Tensor, elem: str) -> dict[str, Callable[[], object]]:
    """Our functions, torchao's and a copy on the same matrix."""
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import to_mx

    dtype = {"e4m3": torch.float8_e4m3fn, "e2m1": torch.float4_e2m1fn_x2}[elem]
    spec = MX[ELEMENTS[elem]]
    return {
        "quantize": lambda: quantize(x, spec),
        "fake": lambda: fake_quantize(x, spec),
        "fake_columns": lambda: fake_quantize(x, spec, 0),
        "torchao": lambda: to_mx(x, dtype, 32, ScaleCalculationMode.RCEIL),
        "copy": lambda: x.clone(),
    }


def layers(recipes: list[str], tokens: int, width: int, repeats: int, generator: torch.Generator) -> Comparison:
    """A forward and backward pass of ``nn.Linear`` and of the quantised layer around the same weights."""
    linear = nn.Linear(width, width)
    x = torch.randn(tokens, width, generator=generator, requires_grad=True)
    dy = torch.randn(tokens, width, generator=generator)
    rivals = {"linear": linear, **{name: QuantLinear.of(linear, recipe(name)) for name in recipes}}
    return compare({name: (lambda m=m: m(x).backward(dy)) for name, m in rivals.items()}, repeats=repeats)


def run(run: Run) -> None:
    """All sizes for both element formats; the layer once."""
    logging.getLogger("torchao").setLevel(logging.ERROR)
    options = run.method.params
    repeats = options["repeats"]
    sizes = options["sizes"]
    e2m1_largest = max(n for n in sizes if n <= options.get("e2m1_largest", n))
    warm = torch.from_numpy(run.dataset.load(run.seed, samples=max(sizes), normal_only=True)["normal"])
    for quantiser in quantisers(warm, "e4m3").values():
        quantiser()  # the first touch of that much memory is not the quantiser's
    for n in run.progress(sizes, desc="sizes"):
        x = run.dataset.load(run.seed, samples=n, normal_only=True)["normal"]
        matrix = torch.from_numpy(x)
        for elem in ELEMENTS:
            largest = max(sizes) if elem == "e4m3" else e2m1_largest
            if n > largest:
                continue
            seconds = compare(quantisers(matrix, elem), repeats=repeats, min_seconds=0.01)
            run.log(step=n, **{f"{name}_{elem}_seconds": seconds[name] for name in seconds})
            if n == largest:
                bytes_moved = 8 * matrix.numel()
                run.log(
                    **{
                        f"speedup_{elem}": seconds.speedup("quantize", "torchao").value,
                        f"fake_speedup_{elem}": seconds.speedup("fake", "torchao").value,
                        f"gigabytes_per_second_{elem}": bytes_moved / seconds["fake"] / 1e9,
                        f"bandwidth_share_{elem}": seconds["copy"] / seconds["fake"],
                    }
                )
    seconds = layers(["mxfp8_e4m3", "mxfp4", "nvfp4"], options["tokens"], options["width"], repeats, run.generator)
    run.log(**{f"step_ratio_{name}": seconds.ratio(name, "linear").value for name in seconds if name != "linear"})
    q = quantize(
        torch.from_numpy(run.dataset.load(run.seed, samples=2**16, normal_only=True)["normal"]), MX["mxfp8_e4m3"]
    )
    run.log(bits_per_element=8 * q.nbytes / q.codes.numel(), nvfp4_bits_per_element=NVFP4.bits_per_element)


def log2_speedup(records: pd.DataFrame) -> list[float]:
    """Octaves by which quantising to MXFP8 is faster than torchao's, one a seed."""
    return [float(x) for x in np.log2(records["speedup_e4m3"])]


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Nanoseconds an element against the size."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.5, sharey=True)
    looks = plotting.styles(list(RIVALS))
    for ax, (elem, title) in zip(axes, {"e4m3": "MXFP8 (E4M3)", "e2m1": "MXFP4 (E2M1)"}.items(), strict=True):
        ax.set_title(title)
        drawn = False
        for name, text in RIVALS.items():
            history = rec.history(records, f"{name}_{elem}_seconds") if len(records) else pd.DataFrame()
            if history.empty:
                continue
            drawn = True
            per = history.assign(value=1e9 * history["value"] / history["step"]).groupby("step")["value"].median()
            ax.plot(per.index, per.to_numpy(), **{**looks[name], "label": text})
        if not drawn:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "xy")
        ax.set_xlabel("elements")
    axes[0].set_ylabel("time per element (ns)")
    plotting.legend(fig)
    yield "time", fig
