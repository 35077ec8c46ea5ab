"""Slimming where views are few: quality and floaters by rank.

Steps of the histories are ranks. ``floaters_at`` is the mean weight per ray more than a tenth in front of the surface,
over the rays of the test views.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.radiance_fields.experiments import slimming, slimming_figures
from tensorbench.radiance_fields.slimmerf import truncation
from tensorbench.radiance_fields.slimmerf.evaluation import curve_area, floater_mass, slim_curve
from tensorbench.radiance_fields.slimmerf.field import slim

METHODS = {name: slimming.METHODS[name] for name in ("train", "fixed", "plain")}
MARGIN = 0.1  # units of the scene, whose box is 3 wide


def run(run: Run) -> None:
    """Train on few views; measure every rank on the test views."""
    data, options = run.dataset.load(run.seed), run.method.params
    with run.time("fit"):
        field, mask, rule = slimming.trained(run, data, options["rank"])
    full, ranks, samples = truncation.full_rank(field), options["ranks"], options["samples"]
    points = slim_curve(full, data, data.test, ranks, samples, alpha_mask=mask)
    floaters = [floater_mass(slim(full, rank), data, data.test, samples, MARGIN, mask) for rank in ranks]
    for point, mass in zip(points, floaters, strict=True):
        run.log(step=point.rank, psnr_at=point.psnr, ssim_at=point.ssim, floaters_at=mass)
    psnrs = [point.psnr for point in points]
    half = ranks.index(max(rank for rank in ranks if 2 * rank <= options["rank"]))
    run.log(
        full_psnr=psnrs[-1], best_psnr=max(psnrs), best_rank=ranks[int(np.argmax(psnrs))],
        area=curve_area(ranks, psnrs), unlocked=rule.rank, gain_by_cut=max(psnrs[:-1]) - psnrs[-1],
        floaters=floaters[-1], floaters_grow=floaters[-1] / max(floaters[half], 1e-6),
    )  # fmt: skip
    if run.seed == 0:
        slimming.keep_pictures(run, data, field, mask)


def best_below_full(records: pd.DataFrame) -> list[float]:
    """Per seed, the largest distance of the best rank from the full one among the scenes with three views."""
    part = records[(records["method"] == "train") & records["dataset"].str.endswith("_3")]
    if part.empty or "best_rank" not in part:
        return []
    full = part["unlocked"].max()
    return (full - part.groupby("seed")["best_rank"].min()).tolist()


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "ranks", by_rank(records)
    yield "pictures", slimming_figures.pictures(records, ["plain", "train"], "spheres_3")


def by_rank(records: pd.DataFrame) -> Figure:
    """PSNR (above) and floaters (below) by rank, a column per scene and number of views."""
    if records.empty:
        return plotting.nothing()
    names = list(pd.unique(records["dataset"]))
    fig, axes = plotting.figure(columns=2, rows=2, cols=len(names), height=9.5, squeeze=False, sharex=True)
    for column, name in enumerate(names):
        part = records[records["dataset"] == name]
        for row, (metric, text) in enumerate((("psnr_at", "PSNR (dB)"), ("floaters_at", "weight before surfaces"))):
            ax = axes[row][column]
            plotting.series(ax, rec.history(part, metric), "step", "value", reducer="median")
            ax.set(xlabel="rank kept" if row else "", ylabel="" if column else text)
            ax.xaxis.set_major_locator(MultipleLocator(2))
        axes[0][column].set_title(plotting.label(name))
    plotting.legend(fig)
    return fig
