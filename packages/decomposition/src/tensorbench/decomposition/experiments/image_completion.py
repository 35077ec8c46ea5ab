"""Completing pictures and scenes from a part of their cells: networks of sines, discrete formats, and inpainting.

Every method is a function ``METHODS[name](data, run, **params)`` of one ``datasets.masked.Masked`` case. It sees
``data.tensor``, ``data.mask`` and ``data.held`` (a part of the observed cells, for choosing ranks and for early
stopping) and returns the predicted full tensor, or that and the number of parameters. A run sweeps over the cases of
its dataset; the steps of the history are percent of observed cells.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.baselines import masked as baselines
from tensorbench.decomposition.datasets.masked import Masked


def _chosen(fit: Callable, data: Masked, settings: Sequence[Mapping[str, Any]]) -> baselines.Fitted:
    """``fit`` at the setting that predicts the held-out cells best, then on all observed cells, values centred."""
    offset = float(data.tensor[data.mask].mean())
    centred = np.where(data.mask, data.tensor - offset, 0.0)
    best = baselines.best_setting(fit, settings, centred, data.mask, data.held)
    predicted, parameters = fit(centred, data.mask, **best)
    return offset + predicted, parameters


def discrete(kind: str, data: Masked, run: Run, settings: Sequence[Mapping[str, Any]]) -> baselines.Fitted:
    """A discrete format whose rank (and what else ``settings`` lists) is chosen on the held-out cells."""
    return _chosen(functools.partial(getattr(baselines, kind), seed=run.seed), data, settings)


def biharmonic(data: Masked, run: Run) -> baselines.Fitted:
    return baselines.biharmonic(data.tensor, data.mask)


METHODS = {
    "tensorly_cp": functools.partial(discrete, "tensorly_cp"),
    "tensorly_tucker": functools.partial(discrete, "tensorly_tucker"),
    "tr_als": functools.partial(discrete, "tensor_ring"),
    "biharmonic": biharmonic,
}


def run(run: Run) -> None:
    """One method on every case of a dataset."""
    from skimage.metrics import structural_similarity

    found = []
    with run.time("fit"):
        for data in run.dataset.load(run.seed):
            started = time.perf_counter()
            out = METHODS[run.method.uses](data, run, **run.method.params)
            found.append((data, out, time.perf_counter() - started))
    pictures = {}
    for data, out, seconds in found:
        predicted, parameters = out if isinstance(out, tuple) else (out, 0)
        if predicted.shape != data.truth.shape:
            raise ValueError(f"{run.method.uses} predicted shape {predicted.shape}, the tensor has {data.truth.shape}")
        shown = np.clip(predicted, 0.0, 1.0)
        error = shown - data.truth
        unseen = error[~data.mask] if not data.mask.all() else error
        run.log(
            step=data.percent,
            psnr_db=-10 * np.log10(max(np.mean(error**2), 1e-20)),
            unseen_psnr_db=-10 * np.log10(max(np.mean(unseen**2), 1e-20)),
            ssim=structural_similarity(data.truth, shown, channel_axis=2, data_range=1.0),
            relative_error=np.linalg.norm(error) / np.linalg.norm(data.truth),
            parameters=parameters,
            solve_seconds=seconds,
        )
        pictures[f"{data.name}_{data.percent:g}"] = shown
        pictures[f"{data.name}_{data.percent:g}_seen"] = np.where(data.mask, np.clip(data.tensor, 0, 1), 1.0)
        pictures[f"{data.name}_{data.percent:g}_truth"] = data.truth
    if run.seed == 0:
        np.savez_compressed(run.artifact("pictures.npz"), **{k: v.astype(np.float32) for k, v in pictures.items()})


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "psnr", psnr(records)


def psnr(records: pd.DataFrame) -> Figure:
    """PSNR against the share of observed cells, a panel per dataset."""
    history = rec.history(records, "psnr_db")
    names = list(pd.unique(history["dataset"])) or ["none"]
    fig, axes = plotting.figure(columns=2, cols=len(names), height=6.5, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        part = history[history["dataset"] == name]
        plotting.series(ax, part, "step", "value")
        ax.set(title=plotting.label(name), xlabel="observed cells (%)", ylabel="PSNR (dB)")
    plotting.legend(fig)
    return fig
