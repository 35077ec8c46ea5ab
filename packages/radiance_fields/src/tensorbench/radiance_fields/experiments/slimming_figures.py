"""Figures of the slimming experiments: quality over size, and the same view at every rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec

CUTS = {"random": "components at random", "sorted": "components by energy", "svd": "singular components"}


def curves(records: pd.DataFrame) -> Figure:
    """PSNR over bytes of the ways to train (above), and of other ways to make the ordinary field smaller (below)."""
    if records.empty:
        return plotting.nothing()
    names = list(pd.unique(records["dataset"]))
    ratios = [*[1.0] * len(names), 0.5]
    fig, axes = plotting.figure(
        columns=2, rows=2, cols=len(names) + 1, height=11.5, squeeze=False, gridspec_kw={"width_ratios": ratios}
    )
    for column, name in enumerate(names):
        part = records[records["dataset"] == name]
        sizes = _sizes(part, "kib_at")
        above, below = axes[0][column], axes[1][column]
        points = rec.history(part, "psnr_at")
        points = points[~points["method"].str.endswith("_long")]
        points = points.assign(step=points["step"].map(sizes))
        plotting.series(above, points, "step", "value", reducer="median", log="x")
        above.set_title(plotting.label(name))
        _other_ways(below, part, sizes)
        for ax in (above, below):
            ax.set(xlabel="" if ax is above else "size, 16-bit weights (KiB)", ylabel="" if column else "PSNR (dB)")
            plotting.log_axis(ax, "x", ticks=[float(round(size)) for size in sizes.values()] or None)
    for row in axes:
        row[-1].set_axis_off()
        handles, texts = row[0].get_legend_handles_labels()
        row[-1].legend(handles, texts, loc="center left", fontsize=7.5, borderaxespad=0)
    return fig


def _sizes(records: pd.DataFrame, metric: str) -> dict[float, float]:
    """Mean KiB by the step of a history."""
    found = rec.history(records, metric)
    return {float(step): float(part.mean()) for step, part in found.groupby("step")["value"]}  # type: ignore[arg-type]


def _other_ways(ax: Axes, records: pd.DataFrame, sizes: dict[float, float]) -> None:
    pieces = []
    for method, metric, text in (
        ("train", "psnr_at", "TRaIn"),
        ("fixed", "psnr_at", "even schedule"),
        ("plain", "psnr_at", "first components"),
        *(("plain", f"{way}_psnr_at", text) for way, text in CUTS.items()),
    ):
        points = rec.history(records, metric)
        points = points[points["method"] == method]
        pieces.append(points.assign(step=points["step"].map(sizes), way=text))
    bits, kib = rec.history(records, "quantised_psnr_at"), _sizes(records, "quantised_kib_at")
    if len(bits):
        pieces.append(bits.assign(step=bits["step"].map(kib), way="fewer bits"))
    plotting.series(ax, pd.concat(pieces), "step", "value", by="way", reducer="median", log="x")


WORST = 0.4  # mean error of the three colours that is drawn darkest


def pictures(records: pd.DataFrame, methods: Sequence[str], dataset: str | None = None) -> Figure:
    """The first test view by rank and the truth, and below each row the errors; PSNR under each."""
    files = rec.artifacts(records, "pictures.npz") if len(records) else pd.DataFrame()
    if len(files):
        files = files[files["dataset"] == (dataset or files["dataset"].iloc[0])]
    found = {row.method: dict(np.load(str(row.path))) for row in files.itertuples() if row.method in methods}
    shown = [name for name in methods if name in found]
    if not shown:
        return plotting.nothing()
    keys = [key for key in found[shown[0]] if key.startswith("rank_")]
    columns = len(keys) + 1
    size = min(15.2, 19 - 2 * len(shown)) / columns
    fig, axes = plotting.figure(
        columns=2, rows=2 * len(shown), cols=columns, height=(2 * size + 0.6) * len(shown) + 0.7, squeeze=False
    )
    for ax in axes.flat:
        plotting.bare(ax)
    for k, name in enumerate(shown):
        above, below, truth = axes[2 * k], axes[2 * k + 1], found[name]["truth"]
        for column, key in enumerate([*keys, "truth"]):
            picture = np.clip(found[name][key], 0, 1)
            above[column].imshow(picture, interpolation="nearest")
            if k == 0:
                above[column].set_title("truth" if key == "truth" else f"rank {key.removeprefix('rank_')}", fontsize=8)
            if key == "truth":
                continue
            error = np.abs(picture - truth).mean(-1)
            drawn = below[column].imshow(error, interpolation="nearest", cmap="magma_r", vmin=0, vmax=WORST)
            psnr = -10 * np.log10(max(float(np.mean((picture - truth) ** 2)), 1e-10))
            below[column].set_xlabel(f"{psnr:.1f} dB", fontsize=7.5, labelpad=2)
        above[0].set_ylabel(plotting.label(name), fontsize=8)
        below[0].set_ylabel("error", fontsize=8)
        bar = fig.colorbar(drawn, cax=below[-1].inset_axes((0.1, 0.05, 0.1, 0.9)))
        bar.set_label("mean absolute error", fontsize=7)
        bar.ax.tick_params(labelsize=6)
    return fig
