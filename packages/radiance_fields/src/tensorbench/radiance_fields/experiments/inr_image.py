"""Photographs as networks: one network for each axis (F-INR) against one of all coordinates, in equal CPU seconds.

Histories are over CPU seconds of training. ``ranks`` trains small networks for equal steps at several ranks (the steps
of its histories), beside the bound that singular values set and JPEG.
"""

from __future__ import annotations

import itertools
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
from tensorbench.radiance_fields.implicit.training import as_image, fit_grid, fit_points, grid_points, in_chunks, psnr

BACKENDS = {"relu": "ReLU-PE", "tanh": "tanh-PE", "siren": "SIREN", "wire": "WIRE", "finer": "FINER"}
LEVELS = (20, 25, 30)
KINDS = ("one network an axis (F-INR)", "monolithic")


def fit_functional(
    image: torch.Tensor, run: Run, *, lr: float, seconds: float, trial_seconds: float, at: list[float], **model: Any,
) -> torch.Tensor:  # fmt: skip
    """F-INR on the whole grid; logs its course and returns the picture."""
    net = common.functional(2, image.shape[-1], run.generator, **model).to(run.device)
    course = fit_grid(net, image, lr=lr, schedule="cosine", **common.budget(run, seconds, trial_seconds, at))
    common.log_course(run, course, "psnr_db", LEVELS)
    run.log(weights=metrics.count_weights(net))
    return net.materialize(image.shape[:2])


def fit_monolithic(
    image: torch.Tensor, run: Run, *, lr: float, seconds: float, trial_seconds: float, at: list[float],
    batch: int | None = None, **model: Any,
) -> torch.Tensor:  # fmt: skip
    """The monolithic network, on all pixels or on ``batch`` random ones a step."""
    net = common.monolithic(2, image.shape[-1], run.generator, **model).to(run.device)
    course = fit_points(net, image, lr=lr, schedule="cosine", batch=batch, generator=run.generator,
                        **common.budget(run, seconds, trial_seconds, at))  # fmt: skip
    common.log_course(run, course, "psnr_db", LEVELS)
    run.log(weights=metrics.count_weights(net))
    return in_chunks(net, grid_points(image.shape[:2], image.device)).reshape(image.shape)


def sweep_ranks(image: torch.Tensor, run: Run, *, ranks: list[int], steps: int, lr: float, **model: Any) -> None:
    """PSNR, bound and bytes at several ranks, each trained for ``steps``."""
    found, above = [], []
    pixels = compression.to_numpy(image)
    for rank in run.progress(ranks, desc="rank"):
        net = common.functional(2, image.shape[-1], run.generator, rank=rank, **model).to(run.device)
        fit_grid(net, image, steps=steps, lr=lr, schedule="cosine", metric=None)
        value, bound = psnr(net.materialize(image.shape[:2]), image), compression.svd_bound(pixels, rank)
        found.append(value)
        above.append(value - bound)
        run.log(step=rank, psnr_at_rank=value, bound_at_rank=bound, gap_at_rank=bound - value)
        run.log(step=rank, svd_kilobytes=4 * rank * sum(image.shape[:2]) * image.shape[2] / 1000)
        for bits in (32, 16, 8):
            small, size = compression.quantized(net, bits)
            run.log(step=rank, **{f"psnr_{bits}_bits": psnr(small.materialize(image.shape[:2]), image),
                                  f"kilobytes_{bits}_bits": size / 1000})  # fmt: skip
    run.log(worst_drop=max(a - b for a, b in itertools.pairwise(found)) if len(found) > 1 else 0.0,
            above_bound=max(above), within_bound=max(above) <= 0.01)  # fmt: skip


def jpeg(image: torch.Tensor, run: Run, *, qualities: list[int]) -> None:
    """Bytes and PSNR by quality."""
    for quality, size, value in compression.jpeg(compression.to_numpy(image), qualities):
        run.log(step=quality, jpeg_kilobytes=size / 1000, jpeg_psnr=value)


METHODS: dict[str, Callable[..., Any]] = {
    "functional": fit_functional,
    "monolithic": fit_monolithic,
    "ranks": sweep_ranks,
    "jpeg": jpeg,
}


def run(run: Run) -> None:
    """Fit one picture."""
    image = as_image(run.dataset.load(0)).to(run.device)
    predicted = METHODS[run.method.uses](image, run, **run.method.params)
    if predicted is None:
        return
    run.log(psnr_db=psnr(predicted, image))
    if run.seed == 0 and run.trial is None:
        truth, found = (_bytes(picture) for picture in (image, predicted))
        np.savez_compressed(run.artifact("picture.npz"), truth=truth, predicted=found)


def _bytes(picture: torch.Tensor) -> np.ndarray:
    return (compression.to_numpy(picture).clip(0, 1) * 255).round().astype(np.uint8)


def every_backend(records: pd.DataFrame) -> list[float]:
    """For each seed the smallest lead (dB) of F-INR over the monolithic network after 4 CPU seconds."""
    history = rec.history(records, "psnr_db")
    at = history[np.isclose(history["step"], 4)].set_index(["method", "seed"])["value"]
    backends = [name[2:] for name in pd.unique(history["method"]) if name.startswith("f_")]
    seeds = sorted(pd.unique(history["seed"]))
    return [min(float(at[f"f_{name}", seed] - at[f"m_{name}", seed]) for name in backends) for seed in seeds]


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "time", _time(records)
    yield "ranks", _ranks(records)
    yield "pictures", _pictures(records)


def _of(records: pd.DataFrame, dataset: str) -> pd.DataFrame:
    return records[records["dataset"] == dataset] if len(records) else records


def _time(records: pd.DataFrame) -> Figure:
    """PSNR against CPU seconds, a panel for each backend."""
    fig, axes = plotting.figure(columns=2, cols=len(BACKENDS), height=6.2, sharey=True)
    history = rec.history(_of(records, "astronaut"), "psnr_db") if len(records) else pd.DataFrame()
    for ax, (backend, title) in zip(axes, BACKENDS.items(), strict=True):
        ax.set_title(title)
        names = [f"f_{backend}", f"m_{backend}"]
        part = history[history["method"].isin(names)] if len(history) else history
        if part.empty:
            plotting.empty(ax)
            continue
        part = part.assign(kind=part["method"].map(dict(zip(names, KINDS, strict=True))))
        plotting.series(ax, part, "step", "value", by="kind", log="x", order=KINDS)
        ax.set(xlabel="CPU time (s)", ylabel="PSNR (dB)" if ax is axes[0] else "")
        plotting.log_axis(ax, "x", ticks=[0.25, 1, 4, 12])
    plotting.legend(fig)
    return fig


def _ranks(records: pd.DataFrame) -> Figure:
    """PSNR against rank with the bound (left), against kilobytes (right)."""
    fig, (left, right) = plotting.figure(columns=2, cols=2, height=7.5)
    records = _of(records, "astronaut")
    if not len(records) or rec.history(records, "psnr_at_rank").empty:
        plotting.empty(left)
        plotting.empty(right)
        return fig
    looks = plotting.styles(["F-INR", "bound of the singular values", "F-INR, 32 bits", "F-INR, 16 bits",
                             "F-INR, 8 bits", "JPEG", "singular vectors, 32 bits"])  # fmt: skip

    def means(metric: str) -> pd.Series:
        return rec.history(records, metric).groupby("step")["value"].mean()

    for metric, name in (("psnr_at_rank", "F-INR"), ("bound_at_rank", "bound of the singular values")):
        values = means(metric)
        left.plot(values.index, values, **looks[name])
    plotting.log_axis(left, "x", ticks=list(means("psnr_at_rank").index))
    left.set(xlabel="rank", ylabel="PSNR (dB)")
    plotting.legend(left)
    for bits in (32, 16, 8):
        right.plot(means(f"kilobytes_{bits}_bits"), means(f"psnr_{bits}_bits"), **looks[f"F-INR, {bits} bits"])
    right.plot(means("svd_kilobytes"), means("bound_at_rank"), **looks["singular vectors, 32 bits"])
    if not rec.history(records, "jpeg_psnr").empty:
        right.plot(means("jpeg_kilobytes"), means("jpeg_psnr"), **looks["JPEG"])
    plotting.log_axis(right, "x")
    plotting.reference(right, x=128 * 128 * 3 / 1000, text="raw pixels")
    right.set(xlabel="size (kB)", ylabel="PSNR (dB)")
    plotting.legend(right, loc="lower left", fontsize=7, labelspacing=0.3)
    return fig


def _pictures(records: pd.DataFrame) -> Figure:
    """The truth, what each network made of it, and where it errs."""
    files = rec.artifacts(_of(records, "astronaut"), "picture.npz") if len(records) else pd.DataFrame()
    found = {row.method: dict(np.load(str(row.path))) for row in files.itertuples()} if len(files) else {}
    backends = [name for name in BACKENDS if f"f_{name}" in found or f"m_{name}" in found]
    if not backends:
        return plotting.nothing()
    width = 15.6 / (len(backends) + 1)
    fig, axes = plotting.figure(columns=2, rows=4, cols=len(backends) + 1, height=4 * width + 2.6, squeeze=False)
    truth = next(iter(found.values()))["truth"]
    for line in axes:
        line[0].axis("off")
    axes[0][0].axis("on")
    common.show(axes[0][0], truth, "truth")
    for column, name in enumerate(backends, start=1):
        for row, (kind, word) in enumerate((("f", "F-INR"), ("m", "monolithic"))):
            title = f"{BACKENDS[name]}, {word}"
            picture, error = axes[2 * row][column], axes[2 * row + 1][column]
            if f"{kind}_{name}" not in found:
                plotting.empty(picture)
                plotting.empty(error)
                continue
            predicted = found[f"{kind}_{name}"]["predicted"]
            difference = np.abs(predicted.astype(float) - truth).mean(-1) / 255
            value = -10 * np.log10(max(np.mean((predicted.astype(float) - truth) ** 2) / 255**2, 1e-10))
            common.show(picture, predicted, title, f"{value:.1f} dB")
            common.show(error, difference, cmap="magma", vmin=0, vmax=0.15)
    return fig
