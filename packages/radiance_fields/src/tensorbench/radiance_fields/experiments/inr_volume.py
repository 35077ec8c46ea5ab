"""Videos as functional tensors in four formats, against one network of (x, y, t), in equal CPU seconds.

``grid`` is TensorLy's CP, TT and Tucker of the same ranks on the same cells: what the formats hold without networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.radiance_fields import metrics
from tensorbench.radiance_fields.experiments import inr_common as common
from tensorbench.radiance_fields.implicit import compression
from tensorbench.radiance_fields.implicit.training import fit_grid, fit_points, grid_points, in_chunks, psnr

LEVELS = (25, 30, 35)


def fit_functional(
    video: torch.Tensor, run: Run, *, lr: float, seconds: float, trial_seconds: float, at: list[float], **model: Any
) -> torch.Tensor:
    """A functional tensor on all cells; returns the video."""
    net = common.functional(3, 1, run.generator, **model).to(run.device)
    course = fit_grid(net, video, lr=lr, schedule="cosine", **common.budget(run, seconds, trial_seconds, at))
    common.log_course(run, course, "psnr_db", LEVELS)
    run.log(weights=metrics.count_weights(net))
    return net.materialize(video.shape[:3])


def fit_monolithic(
    video: torch.Tensor, run: Run, *, lr: float, seconds: float, trial_seconds: float, at: list[float], batch: int,
    **model: Any,
) -> torch.Tensor:  # fmt: skip
    """One network on ``batch`` random cells a step."""
    net = common.monolithic(3, 1, run.generator, **model).to(run.device)
    course = fit_points(net, video, lr=lr, schedule="cosine", batch=batch, generator=run.generator,
                        **common.budget(run, seconds, trial_seconds, at))  # fmt: skip
    common.log_course(run, course, "psnr_db", LEVELS)
    run.log(weights=metrics.count_weights(net))
    return in_chunks(net, grid_points(video.shape[:3], video.device)).reshape(video.shape)


def grid(video: torch.Tensor, run: Run, *, ranks: dict[str, Any], iterations: int) -> None:
    """PSNR and numbers of TensorLy's decompositions."""
    values = compression.to_numpy(video)[..., 0]
    for format, rank in ranks.items():
        found, numbers = compression.grid_format(values, format, rank, iterations, run.seed)
        run.log(**{f"psnr_{format}": -10 * np.log10(np.mean((found - values) ** 2)), f"numbers_{format}": numbers})


METHODS: dict[str, Callable[..., Any]] = {"functional": fit_functional, "monolithic": fit_monolithic, "grid": grid}


def run(run: Run) -> None:
    """Fit one video, scaled to a range of 1 about its mean."""
    raw = np.asarray(run.dataset.load(run.seed))
    scaled = (raw - raw.mean()) / (raw.max() - raw.min())
    video = torch.from_numpy(scaled.astype(np.float32))[..., None].to(run.device)
    predicted = METHODS[run.method.uses](video, run, **run.method.params)
    if predicted is None:
        return
    run.log(psnr_db=psnr(predicted, video))
    if run.seed == 0 and run.trial is None:
        frames = [0, video.shape[2] // 2, video.shape[2] - 1]
        np.savez_compressed(run.artifact("frames.npz"), truth=compression.to_numpy(video)[:, :, frames, 0],
                            predicted=compression.to_numpy(predicted)[:, :, frames, 0])  # fmt: skip


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "time", _time(records)
    yield "frames", _frames(records)


def _time(records: pd.DataFrame) -> Figure:
    """PSNR against CPU seconds, a panel for each video; dotted lines are TensorLy's formats on the grid."""
    names = list(pd.unique(records["dataset"])) if len(records) else ["none"]
    fig, axes = plotting.figure(columns=2, cols=len(names), height=7.5, squeeze=False)
    history = rec.history(records, "psnr_db") if len(records) else pd.DataFrame()
    for ax, name in zip(axes[0], names, strict=True):
        part = history[history["dataset"] == name] if len(history) else history
        if part.empty:
            plotting.empty(ax)
            continue
        plotting.series(ax, part, "step", "value", reducer="median", log="x")
        ax.set(title=plotting.label(name), xlabel="CPU time (s)", ylabel="PSNR (dB)")
        bounds = records[(records["dataset"] == name) & (records["method"] == "grid")]
        for format in ("cp", "tt", "tucker"):
            if f"psnr_{format}" in bounds and bounds[f"psnr_{format}"].notna().any():
                level = float(bounds[f"psnr_{format}"].mean())
                ax.axhline(level, color=plotting.style(format)["color"], linestyle=":", linewidth=1)
        plotting.log_axis(ax, "x", ticks=[0.25, 0.5, 1, 2, 4])
    plotting.legend(fig)
    return fig


def _frames(records: pd.DataFrame) -> Figure:
    """The middle frame: truth and what each method made of it, with errors."""
    files = rec.artifacts(records, "frames.npz") if len(records) else pd.DataFrame()
    names = list(pd.unique(files["dataset"])) if len(files) else []
    if not names:
        return plotting.nothing()
    methods = list(pd.unique(files["method"]))
    width = 15.6 / (len(methods) + 1)
    fig, axes = plotting.figure(columns=2, rows=2 * len(names), cols=len(methods) + 1, squeeze=False,
                                height=2 * len(names) * (width + 0.25) + 0.6)  # fmt: skip
    for row, name in enumerate(names):
        found = {item.method: dict(np.load(str(item.path))) for item in files[files["dataset"] == name].itertuples()}
        truth = next(iter(found.values()))["truth"][:, :, 1]
        looks = {"cmap": "RdBu_r" if name.startswith("vort") else "gray", "vmin": truth.min(), "vmax": truth.max()}
        common.show(axes[2 * row][0], truth, plotting.label(name), **looks)
        axes[2 * row + 1][0].axis("off")
        for column, method in enumerate(methods, start=1):
            picture, error = axes[2 * row][column], axes[2 * row + 1][column]
            if method not in found:
                picture.axis("off")
                error.axis("off")
                continue
            predicted = found[method]["predicted"][:, :, 1]
            common.show(picture, predicted, plotting.label(method), **looks)
            value = -10 * np.log10(np.mean((predicted - truth) ** 2))
            difference = np.abs(predicted - truth)
            common.show(error, difference, "", f"{value:.1f} dB", cmap="magma", vmin=0, vmax=0.1)
    return fig
