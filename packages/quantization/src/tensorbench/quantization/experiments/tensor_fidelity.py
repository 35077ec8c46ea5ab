"""What block formats lose of tensors: element formats, roundings of the scale, formats of the scale, block lengths.

A method is a family of quantisers; each is measured on each tensor (``fidelity``). Tensors are matrices of known
distributions, or those of a model that is trained first (a character model on a text, a small CNN on images): weights,
activations and output gradients of every layer but the first convolution and the head, blocks along the axis of the
forward product (of gradients: of dgrad), decibels averaged over layers. All numbers are in the artifact
``fidelity.csv``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.data.shared import LabelledImages, TokenText
from tensorbench.core.run import Run
from tensorbench.core.tasks import char_lm
from tensorbench.core.training import fit
from tensorbench.quantization.blocks import BlockSpec
from tensorbench.quantization.fidelity import LayerTensors, capture, fidelity
from tensorbench.quantization.scales import POWER_MODES
from tensorbench.quantization.tasks import classify

ELEMENTS = ("e4m3", "e5m2", "e2m3", "e3m2", "mxint8", "e2m1")
SCALES = ("e8m0", "e4m3", "ue5m3", "e3m4", "e5m2", "bf16", "fp32")
KINDS = ("weights", "activations", "gradients")


def mx() -> dict[str, BlockSpec]:
    """The MX element formats under each rounding of their power-of-two scale."""
    return {f"{elem}.{mode}": BlockSpec(elem, scale_mode=mode) for elem in ELEMENTS for mode in POWER_MODES}


def fp4() -> dict[str, BlockSpec]:
    """E2M1 elements with scales in several formats; ``tensor`` has a float32 number for the whole tensor besides."""
    specs = {}
    for block in (16, 32):
        for scale in SCALES:
            specs[f"{scale}.{block}"] = BlockSpec("e2m1", scale, block)
            if scale not in ("e8m0", "bf16", "fp32"):  # which have range enough
                specs[f"{scale}.{block}.tensor"] = BlockSpec("e2m1", scale, block, tensor_scale="absmax")
    return specs


def integers() -> dict[str, BlockSpec]:
    """Symmetric integers with float32 scales, in blocks and one scale a row."""
    return {
        f"int{bits}.{block or 'row'}": BlockSpec(f"int{bits}", "fp32", block)
        for bits in (8, 4)
        for block in (16, 32, None)
    }


METHODS: dict[str, Callable[[], dict[str, BlockSpec]]] = {"mx": mx, "fp4": fp4, "integers": integers}


def of_text(text: TokenText, run: Run, steps: int) -> dict[str, LayerTensors]:
    """Of the linear layers of a character model but the head."""
    generator = run.generator
    model = char_lm.CharLM(char_lm.CharLMShape(len(text.vocabulary)), generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.95), weight_decay=0.1)
    batches = char_lm.batches(text.train, generator)
    fit(model, batches, char_lm.loss, optimizer, steps=steps, schedule="cosine", warmup=0.1, clip=1.0)
    layers = capture(model, char_lm.loss, next(char_lm.batches(text.valid, generator, batch=32)))
    return {name: tensors for name, tensors in layers.items() if name not in char_lm.OUTPUT}


def of_images(data: LabelledImages, run: Run, steps: int) -> dict[str, LayerTensors]:
    """Of the second and third convolution of a small CNN, as products with unfolded patches."""
    generator = run.generator
    x, y, valid, truth = (
        torch.tensor(part, dtype=torch.float32 if part.ndim > 1 else None)
        for part in (data.train_images, data.train_labels, data.valid_images, data.valid_labels)
    )
    model = classify.SmallCNN(len(set(data.train_labels)), generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    fit(model, classify.batches(x, y, generator), classify.loss, optimizer, steps=steps, schedule="cosine", warmup=0.1)
    layers = capture(model, classify.loss, next(classify.batches(valid, truth, generator)))
    return {name: tensors for name, tensors in layers.items() if name not in classify.KEEP}


def captured(data: TokenText | LabelledImages, run: Run, steps: int) -> dict[str, list[torch.Tensor]]:
    """Weights, activations and output gradients of a model after training, a list over layers each."""
    layers = of_text(data, run, steps) if isinstance(data, TokenText) else of_images(data, run, steps)
    chosen = list(layers.values())
    return {
        "weights": [t.weight for t in chosen],
        "activations": [t.activation for t in chosen],
        "gradients": [t.gradient for t in chosen],
    }


def run(run: Run) -> None:
    """Every quantiser of the family on every tensor; the differences that claims speak of."""
    data = run.dataset.load(run.seed)
    if isinstance(data, TokenText | LabelledImages):
        tensors = captured(data, run, run.method.params["steps"])
    else:
        tensors = {name: [torch.from_numpy(x)] for name, x in data.items()}
    rows = []
    with run.time("quantise"):
        for spec_name, spec in METHODS[run.method.uses]().items():
            for tensor, parts in tensors.items():
                lost = [fidelity(x, spec) for x in parts]
                means = {
                    f: float(np.mean([getattr(part, f) for part in lost]))
                    for f in ("sqnr_db", "cosine_error", "bias", "saturated", "underflowed")
                }
                rows.append({"tensor": tensor, "spec": spec_name, **means})
    table = pd.DataFrame(rows)
    table.to_csv(run.artifact("fidelity.csv"), index=False)
    db = table.set_index(["tensor", "spec"])["sqnr_db"]
    if run.method.uses == "mx":
        up = table["spec"].str.endswith(("rceil", "ceil"))
        run.log(round_up_saturates=table.loc[up, "saturated"].max(), floor_saturates=_floor(table))
        first = next(iter(tensors))
        run.log(e4m3_db=db[first, "e4m3.rceil"], e2m1_db=db[first, "e2m1.rceil"])
        for tensor in tensors:
            run.log(**{f"rceil_gain_{tensor}": db[tensor, "e4m3.rceil"] - db[tensor, "e4m3.floor"]})
        if "weights" in tensors:
            run.log(**{f"e4m3_gain_{t}": db[t, "e4m3.rceil"] - db[t, "e5m2.rceil"] for t in KINDS})
    if run.method.uses == "fp4" and "small" in tensors:
        run.log(
            small_e4m3=db["small", "e4m3.16"],
            small_ue5m3=db["small", "ue5m3.16"],
            small_e8m0=db["small", "e8m0.32"],
            small_e4m3_tensor=db["small", "e4m3.16.tensor"],
            ue5m3_below_fp32=db["normal", "fp32.16"] - db["normal", "ue5m3.16"],
            ue5m3_over_e8m0=db["normal", "ue5m3.16"] - db["normal", "e8m0.32"],
        )


def _floor(table: pd.DataFrame) -> float:
    return float(table.loc[table["spec"] == "e4m3.floor", "saturated"].max())


# --- figures --------------------------------------------------------------------------------------------------------

MODE_TITLES = {"floor": "floor (OCP)", "even": "even", "rceil": "rceil (the paper)", "ceil": "ceil"}
TENSORS = {
    "normal": "normal",
    "laplace": "Laplace",
    "student3": "Student, 3",
    "small": "normal · $10^{-4}$",
    "outlier": "outlier channel",
    "outlier_tokens": "… along tokens",
    "weights": "weights",
    "activations": "activations",
    "gradients": "gradients",
}


def fidelities(records: pd.DataFrame, method: str) -> pd.DataFrame:
    """The artifacts of a family in one frame, with dataset and seed."""
    if records.empty:
        return pd.DataFrame(columns=["dataset", "seed", "tensor", "spec", "sqnr_db"])
    paths = rec.artifacts(records[records["method"] == method], "fidelity.csv")
    parts = [pd.read_csv(row.path).assign(dataset=row.dataset, seed=row.seed) for row in paths.itertuples()]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["tensor", "spec", "sqnr_db"])


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Element formats on the tensors of the model; roundings of the scale; scale formats of four-bit elements."""
    mx_rows, fp4_rows = fidelities(records, "mx"), fidelities(records, "fp4")
    yield "elements", _elements(mx_rows)
    yield "scale_modes", _modes(mx_rows)
    yield "fp4_scales", _fp4(fp4_rows)


def _means(rows: pd.DataFrame) -> pd.Series:
    return rows.groupby(["tensor", "spec"])["sqnr_db"].mean()


MODELS = {"char_lm": "character model", "markov": "character model, Markov text", "mnist_cnn": "CNN on MNIST-10k"}


def _elements(rows: pd.DataFrame) -> Figure:
    datasets = [d for d in MODELS if len(rows) and (rows["dataset"] == d).any()]
    fig, axes = plotting.figure(columns=2, cols=max(len(datasets), 1), height=6, sharey=True, squeeze=False)
    if not datasets:
        plotting.empty(axes[0, 0])
        return fig
    for ax, dataset in zip(axes[0], datasets, strict=True):
        part = rows[(rows["dataset"] == dataset) & rows["spec"].str.endswith(".rceil")]
        part = part.assign(spec=part["spec"].str.removesuffix(".rceil").map(_element))
        plotting.bars(ax, part, "sqnr_db", group="tensor", by="spec", groups=KINDS, order=map(_element, ELEMENTS))
        ax.set(ylabel="", xlabel="", title=MODELS[dataset])
    axes[0, 0].set_ylabel("SQNR (dB)")
    plotting.legend(fig)
    return fig


def _element(elem: str) -> str:
    return {"mxint8": "INT8", "e4m3": "E4M3", "e5m2": "E5M2", "e2m3": "E2M3", "e3m2": "E3M2", "e2m1": "E2M1"}[elem]


def _modes(rows: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=6.2)
    means = _means(rows)
    names = [t for t in TENSORS if len(means) and t in means.index.get_level_values(0)]
    if not names:
        for ax in axes:
            plotting.empty(ax)
        return fig
    saturated = rows.groupby(["tensor", "spec"])["saturated"].mean()
    looks = plotting.styles(list(MODE_TITLES))
    for mode, title in MODE_TITLES.items():
        look = {"color": looks[mode]["color"], "marker": looks[mode]["marker"], "linestyle": "none", "markersize": 4}
        if mode == "rceil":  # which coincides with ceil nearly everywhere
            look |= {"markersize": 9, "markerfacecolor": "none", "marker": "o"}
        at = range(len(names))
        gain = [means[t, f"e4m3.{mode}"] - means[t, "e4m3.floor"] for t in names]
        axes[0].plot(gain, at, label=title, **look)
        axes[1].plot([100 * saturated[t, f"e4m3.{mode}"] for t in names], at, label=title, **look)
    axes[0].set_yticks(range(len(names)), [TENSORS[t] for t in names])
    axes[1].set_yticks(range(len(names)), [])
    for ax in axes:
        ax.invert_yaxis()
        ax.set_ylim(len(names) - 0.5, -0.5)
    axes[0].axvspan(0.6, 1.1, color="#BBBBBB", alpha=0.35, linewidth=0, zorder=0)
    axes[0].set(xlabel="SQNR of E4M3 above floor (dB)")
    axes[1].set(xlabel="elements that saturate (%)")
    plotting.legend(fig, ncols=4)
    return fig


SCALE_TITLES = {"e8m0": "E8M0", "e5m2": "E5M2", "e4m3": "E4M3", "ue5m3": "UE5M3", "e3m4": "E3M4", "bf16": "bf16",
                "fp32": "float32"}  # fmt: skip


def _fp4(rows: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=3, height=6.2, sharey=True)
    means = _means(rows)
    shown = (("normal", "normal"), ("small", "normal · $10^{-4}$"), ("outlier", "outlier channel"))
    for ax, (tensor, title) in zip(axes, shown, strict=True):
        ax.set_title(title)
        if not len(means) or (tensor, "e8m0.16") not in means.index:
            plotting.empty(ax)
            continue
        for block, marker, colour in ((16, "o", "#0072B2"), (32, "s", "#D55E00")):
            for suffix, filled in (("", True), (".tensor", False)):
                points = [
                    (k, means[tensor, f"{s}.{block}{suffix}"])
                    for k, s in enumerate(SCALE_TITLES)
                    if (tensor, f"{s}.{block}{suffix}") in means.index
                ]
                at, values = zip(*points, strict=True)
                ax.plot(values, np.array(at) + (0.15 if block == 32 else -0.15), linestyle="none", marker=marker,
                        color=colour, markersize=5, markerfacecolor=colour if filled else "white",
                        label=f"blocks of {block}" + ("" if filled else ", tensor scale"))  # fmt: skip
        ax.set_xlabel("SQNR (dB)")
    axes[0].set_yticks(range(len(SCALE_TITLES)), list(SCALE_TITLES.values()))
    axes[0].set_ylim(len(SCALE_TITLES) - 0.5, -0.5)
    axes[0].set_ylabel("format of the block's scale")
    plotting.legend(fig, ncols=4)
    return fig
