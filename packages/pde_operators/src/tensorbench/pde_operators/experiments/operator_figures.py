"""Figures of ``operator_learning``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.records import artifacts, history

SHOWN = ("fno", "tfno_tucker", "tfno_joint", "unet", "oneway_unet", "deeponet", "pod_ridge", "tt_matrix")
IN_FIELDS = ("fno", "tfno_tucker", "unet", "deeponet", "pod_ridge")
WEIGHT_TICKS = [a * 10**k for k in range(2, 9) for a in (1, 3)]
LEAST_ENERGY = 1e-8  # of the largest shell's, what a spectrum shows


def _datasets(records: pd.DataFrame) -> list[str]:
    return [str(name) for name in pd.unique(records["dataset"])] if len(records) else []


def weights(records: pd.DataFrame) -> Figure:
    """Test error against the number of weights: a panel for each dataset, a point for each seed's mean."""
    names = _datasets(records) or [""]
    rows = -(-len(names) // 2)
    fig, axes = plotting.figure(columns=2, rows=rows, cols=min(2, len(names)), squeeze=False, height=5.4 * rows + 1.6)
    for ax, name in zip(axes.flat, names, strict=False):
        part = records[records["dataset"] == name] if name else records
        plotting.log_axis(ax, "y")
        plotting.log_axis(ax, "x", ticks=WEIGHT_TICKS)
        ax.set_xlabel("weights")
        ax.set_ylabel("relative error in L²")
        ax.set_title(plotting.label(name))
        if part.empty:
            plotting.empty(ax)
            continue
        for method, group in part.groupby("method", sort=False):
            look = {
                **plotting.style(str(method)),
                "linestyle": "none",
                "markersize": 5,
                "capsize": 2,
                "elinewidth": 0.8,
            }
            middle = np.exp(np.log(group["test_l2"]).mean())
            low, high = group["test_l2"].min(), group["test_l2"].max()
            ax.errorbar(
                group["weights"].iloc[0], middle, yerr=[[max(0.0, middle - low)], [max(0.0, high - middle)]], **look
            )
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    plotting.legend(fig)
    return fig


def resolution(records: pd.DataFrame) -> Figure:
    """Test error on each grid, the first of which is that of training."""
    points = history(records, "resolution_l2") if len(records) else records
    names = [name for name in _datasets(records) if points[points["dataset"] == name]["step"].nunique() > 1]
    fig, axes = plotting.figure(columns=2, cols=max(1, len(names)), squeeze=False, height=7.4)
    if not names:
        plotting.empty(axes[0, 0])
    for ax, name in zip(axes.flat, names, strict=False):
        part = points[(points["dataset"] == name) & points["method"].isin(SHOWN)]
        plotting.log_axis(ax, "y")
        plotting.log_axis(ax, "x", ticks=sorted(part["step"].unique()))
        ax.set_xlabel("points in each direction")
        ax.set_ylabel("relative error in L²")
        ax.set_title(plotting.label(name))
        plotting.series(ax, part, "step", "value", order=[m for m in SHOWN if (part["method"] == m).any()])
    plotting.legend(fig)
    return fig


def _kept(records: pd.DataFrame, dataset: str) -> dict[str, dict[str, np.ndarray]]:
    """What the first seed kept, by method."""
    if not len(records):
        return {}
    found = artifacts(records[records["dataset"] == dataset], "fields.npz")
    kept = {}
    for method, path in zip(found["method"], found["path"], strict=True):
        with np.load(path) as stored:
            kept[str(method)] = {key: stored[key] for key in stored.files}
    return kept


def _finest(kept: dict[str, dict[str, np.ndarray]]) -> int:
    return max(int(key[2:]) for key in next(iter(kept.values())) if key.startswith("y_"))


def fields(records: pd.DataFrame) -> Figure:
    """One test flow on the finest grid: input and truth, predictions and errors, on one scale of colours."""
    name = next((d for d in ("navier_stokes", "darcy_fv", "darcy_16") if d in _datasets(records)), "")
    kept = {m: v for m, v in _kept(records, name).items() if m in IN_FIELDS}
    kept = {m: kept[m] for m in IN_FIELDS if m in kept}
    if not kept:
        return plotting.nothing()
    n = _finest(kept)
    first = next(iter(kept.values()))
    truth = first[f"y_{n}"]
    centre = 0.0 if truth.min() < 0 else float(truth.mean())
    reach = float(np.abs(truth - centre).max())
    fig, axes = plotting.figure(columns=2, rows=2, cols=len(kept) + 1, height=6.2)
    scale: dict[str, Any] = {
        "cmap": "RdBu_r",
        "vmin": -reach,
        "vmax": reach,
        "origin": "lower",
        "interpolation": "nearest",
    }
    image = axes[0, 0].imshow((truth - centre).T, **scale)
    axes[0, 0].set_title("truth")
    given = first[f"x_{n}"]
    axes[1, 0].imshow(given.T, cmap="Greys", origin="lower", interpolation="nearest")
    axes[1, 0].set_title("input (own scale)")
    for (method, part), top, bottom in zip(kept.items(), axes[0, 1:], axes[1, 1:], strict=True):
        found = part[f"p_{n}"]
        top.imshow((found - centre).T, **scale)
        bottom.imshow((found - truth).T, **scale)
        error = np.linalg.norm(found - truth) / np.linalg.norm(truth)
        top.set_title(plotting.label(method))
        bottom.set_title(f"error {error:.0%}" if error >= 0.01 else f"error {error:.1%}")
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(False)
        ax.spines[:].set_visible(True)
    bar = fig.colorbar(image, ax=axes, shrink=0.8, aspect=30, pad=0.01)
    bar.set_label("vorticity" if name == "navier_stokes" else "pressure, mean removed")
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]
    return fig


def spectra(records: pd.DataFrame) -> Figure:
    """Energy of truth and predictions by wavenumber, on the finest grid of a periodic dataset."""
    names = [d for d in ("navier_stokes", "burgers_own", "burgers_16") if d in _datasets(records)][:2]
    fig, axes = plotting.figure(columns=2, cols=max(1, len(names)), squeeze=False, height=7.4)
    if not names:
        plotting.empty(axes[0, 0])
    for ax, name in zip(axes.flat, names, strict=False):
        plotting.log_axis(ax, "y")
        plotting.log_axis(ax, "x", ticks=[2**k for k in range(10)])
        ax.set_xlabel("wavenumber")
        ax.set_ylabel("energy in the shell")
        ax.set_title(plotting.label(name))
        kept = _kept(records, name)
        kept = {m: kept[m] for m in SHOWN if m in kept}
        if not kept:
            plotting.empty(ax)
            continue
        n = _finest(kept)
        truth = next(iter(kept.values()))[f"true_{n}"][1 : n // 2]
        k = np.flatnonzero(truth > LEAST_ENERGY * truth.max()) + 1
        ax.plot(k, truth[k - 1], color="black", linewidth=2.4, label="truth")
        for method, part in kept.items():
            look = {**plotting.style(method), "markersize": 3}
            ax.plot(k, part[f"found_{n}"][k], markevery=0.15, **look)
        ax.set_ylim(bottom=LEAST_ENERGY * truth.max())
    plotting.legend(fig)
    return fig
