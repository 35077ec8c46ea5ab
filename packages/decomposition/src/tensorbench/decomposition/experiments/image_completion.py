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
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.baselines import masked as baselines
from tensorbench.decomposition.completion import masked_als
from tensorbench.decomposition.datasets.masked import Masked
from tensorbench.decomposition.functional.imtd import IMTD
from tensorbench.decomposition.structure.greedy_tn import complete
from tensorbench.decomposition.structure.growth import Limits


def _chosen(fit: Callable, data: Masked, settings: Sequence[Mapping[str, Any]]) -> baselines.Fitted:
    """``fit`` at the setting that predicts the held-out cells best, then on all observed cells, values centred."""
    offset = float(data.tensor[data.mask].mean())
    centred = np.where(data.mask, data.tensor - offset, 0.0)
    best = baselines.best_setting(fit, settings, centred, data.mask, data.held)
    predicted, parameters = fit(centred, data.mask, **best)
    return offset + predicted, parameters


def discrete(kind: str, data: Masked, run: Run, settings: Sequence[Mapping[str, Any]]) -> baselines.Fitted:
    """A discrete format whose rank (and what else ``settings`` lists) is chosen on the held-out cells."""
    fit = OWN[kind] if kind in OWN else getattr(baselines, kind)
    return _chosen(functools.partial(fit, seed=run.seed), data, settings)


def masked_cp(
    tensor: np.ndarray, mask: np.ndarray, *, rank: int, ridge: float, sweeps: int, seed: int
) -> baselines.Fitted:
    fit = masked_als.masked_cp(tensor, mask, rank, ridge=ridge, max_sweeps=sweeps, tol=1e-5, seed=seed)
    return fit.model.full().numpy(), fit.model.num_params()


def masked_tucker(
    tensor: np.ndarray, mask: np.ndarray, *, ranks: list[int], ridge: float, sweeps: int, seed: int
) -> baselines.Fitted:
    fit = masked_als.masked_tucker(tensor, mask, ranks, ridge=ridge, max_sweeps=sweeps, tol=1e-5, seed=seed)
    return fit.model.full().numpy(), fit.model.num_params()


def network(
    model: str, data: Masked, run: Run, settings: Mapping[str, Mapping[str, Any]], **common
) -> baselines.Fitted:
    """Networks of sines at the setting written for the case (nothing is chosen on its data but when to stop)."""
    setting = settings.get(f"{data.name}_{data.percent:g}", settings["otherwise"])
    dtype = torch.float32  # a gradient method gains nothing from more digits
    fit = IMTD(model=model, seed=run.seed, dtype=dtype, device=run.device, **{**common, **setting})
    fit.fit(data.tensor, data.mask, data.held)
    return fit.full(), fit.num_params()


LAYOUTS = {  # mode sizes of a 4^k × 4^k picture with its colours last, and the order in which its digits are taken
    "natural": lambda k: ([4**k, 4**k], [0, 1]),
    "digits": lambda k: ([4] * (2 * k), list(range(2 * k))),
    "blocks": lambda k: ([4] * (2 * k), [x for pair in zip(range(k), range(k, 2 * k), strict=True) for x in pair]),
}


def grown_network(
    tensor: np.ndarray, mask: np.ndarray, *, layout: str, sweeps: int, seed: int, max_params: int = 3000
) -> baselines.Fitted:
    """A tensor network that grows bond by bond: rows and columns as they are ("natural"), as digits to the base 4
    ("digits"), or as blocks within blocks (row and column digits of one size share a mode of 16).
    """
    side, colours = tensor.shape[0], tensor.shape[2]
    digits = round(np.log(side) / np.log(4))
    if tensor.shape[:2] != (4**digits, 4**digits):
        raise ValueError(f"layouts are of pictures of 4^k pixels a side, this one has {tensor.shape}")
    sizes, order = LAYOUTS[layout](digits)
    order = [*order, len(sizes)]
    merged = [16] * digits if layout == "blocks" else sizes

    def arranged(array: np.ndarray) -> np.ndarray:
        return array.reshape(*sizes, colours).transpose(order).reshape(*merged, colours)

    grown = complete(
        arranged(tensor), arranged(mask), generator=seed, max_sweeps=sweeps, change=1e-4,
        limits=Limits(max_params=max_params, max_arity=4, patience=5, steps=60),
    )  # fmt: skip
    full = np.asarray(grown.network.full()).reshape(*(sizes[k] for k in order[:-1]), colours)
    return full.transpose(np.argsort(order)).reshape(tensor.shape), grown.network.num_params()


def biharmonic(data: Masked, run: Run) -> baselines.Fitted:
    return baselines.biharmonic(data.tensor, data.mask)


OWN = {"masked_cp": masked_cp, "masked_tucker": masked_tucker, "grown_network": grown_network}

METHODS = {
    "imtd": functools.partial(network, "multiple"),
    "lrtfr": functools.partial(network, "tucker"),
    "cp_inr": functools.partial(network, "cp"),
    "greedy_tn": functools.partial(discrete, "grown_network"),
    "cp_exact": functools.partial(discrete, "masked_cp"),
    "tucker_exact": functools.partial(discrete, "masked_tucker"),
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
    yield "pictures", pictures(records)


def psnr(records: pd.DataFrame) -> Figure:
    """PSNR against the share of observed cells, a panel per dataset that is a series of shares of one picture."""
    history = rec.history(records, "psnr_db")
    names = [name for name in pd.unique(history["dataset"]) if name != "scenes"] or ["none"]
    fig, axes = plotting.figure(columns=2, cols=len(names) + 1, height=7.5, squeeze=False)
    for ax, name in zip(axes[0], names, strict=False):
        part = history[history["dataset"] == name]
        plotting.series(ax, part, "step", "value")
        ax.set(title=plotting.label(name), xlabel="observed cells (%)", ylabel="PSNR (dB)")
    _cases(axes[0][-1], history[history["dataset"] == "scenes"])
    plotting.legend(fig)
    return fig


def _cases(ax, history: pd.DataFrame) -> None:
    """PSNR of the cases of the dataset ``scenes``, which are different pictures."""
    names = {5.0: "Pines 5 %", 10.0: "Pines 10 %", 20.0: "Chelsea 20 %", 100.0: "denoising"}
    frame = history.assign(case=history["step"].map(names)).rename(columns={"value": "psnr_db"})
    plotting.bars(ax, frame, "psnr_db", group="case", by="method", groups=list(names.values()) if len(frame) else None)
    ax.set(title="other scenes", ylabel="PSNR (dB)")


SHOWN = ("truth", "seen", "imtd", "lrtfr", "cp_exact", "tensorly_cp", "biharmonic")


def pictures(records: pd.DataFrame) -> Figure:
    """What was seen, the truth, and what the methods predict, a row per share of observed cells."""
    files = rec.artifacts(records, "pictures.npz")
    files = files[files["dataset"] == "astronaut"] if len(files) else files
    found = {row.method: dict(np.load(row.path)) for row in files.itertuples() if row.method in SHOWN}
    if not found:
        return plotting.nothing()
    first = next(iter(found.values()))
    cases = [key.removesuffix("_truth") for key in first if key.endswith("_truth")]
    columns = [name for name in SHOWN if name in ("truth", "seen") or name in found]
    size = 15.2 / len(columns)
    fig, axes = plotting.figure(
        columns=2, rows=len(cases), cols=len(columns), height=size * len(cases) + 0.9, squeeze=False
    )
    for row, (line, case) in enumerate(zip(axes, cases, strict=True)):
        for ax, name in zip(line, columns, strict=True):
            picture = first[f"{case}_{name}"] if name in ("truth", "seen") else found[name][case]
            ax.imshow(np.clip(picture, 0, 1), interpolation="nearest")
            plotting.bare(ax)
            if ax is line[0]:
                ax.set_ylabel(f"{case.rsplit('_', 1)[-1]} %")
            if row == 0:
                ax.set_title({"truth": "truth", "seen": "observed"}.get(name) or plotting.label(name), fontsize=7)
    return fig
