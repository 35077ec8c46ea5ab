"""The threshold of rank incrementation on a volume that is fitted from random points.

A run fits one volume with one rule; ``sweep`` fits it at each threshold, with the loss of a batch and with the exact
one. Steps of the histories are ranks (``psnr_at``) or thresholds in per cent (``area_by``, ``unlocked_by`` and the same
with ``exact_``). ``area`` is the mean PSNR over ranks 1 to R (dB).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.radiance_fields.slimmerf.evaluation import curve_area
from tensorbench.radiance_fields.slimmerf.ranks import AllAtOnce, RankRule, TRaIn, even_ranks
from tensorbench.radiance_fields.slimmerf.volumes import Loss, fit_volume, volume_psnr

METHODS: dict[str, Any] = {"train": TRaIn, "fixed": even_ranks, "plain": AllAtOnce, "late": AllAtOnce, "sweep": TRaIn}


def _rule(uses: str, rank: int, options: dict[str, Any]) -> RankRule:
    if uses == "train":
        return TRaIn(rank, options["upsilon"])
    if uses == "fixed":
        return even_ranks(rank, options["until"])
    return AllAtOnce(rank, options["until"] if uses == "late" else None)


def run(run: Run) -> None:
    """Fit, and measure the PSNR at every rank."""
    options = dict(run.method.params)
    rank, steps, points = options["rank"], options["steps"], options["points"]
    data_seed = run.seed if run.trial is None else 1000 + run.seed  # the threshold is chosen on another volume
    target = torch.from_numpy(run.dataset.load(data_seed)).to(run.device)
    ranks = list(range(1, rank + 1))

    def fit(rule: RankRule, loss: Loss = "batch") -> list[float]:
        field, _ = fit_volume(target, rule, generator=run.generator, steps=steps, points=points, loss=loss)
        return volume_psnr(field, target, ranks)

    if run.method.uses == "sweep":
        for upsilon in options["upsilons"]:
            for loss, prefix in (("batch", ""), ("exact", "exact_")):
                each = TRaIn(rank, upsilon)
                area = curve_area(ranks, fit(each, loss))  # type: ignore[arg-type]
                run.log(step=100 * upsilon, **{f"{prefix}area_by": area, f"{prefix}unlocked_by": each.rank})
        return
    rule = _rule(run.method.uses, rank, options)
    with run.time("fit"):
        found = fit(rule)
    for at, psnr in zip(ranks, found, strict=True):
        run.log(step=at, psnr_at=psnr)
    run.log(area=curve_area(ranks, found), unlocked=rule.rank, full_psnr=found[-1])


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "upsilon", upsilon(records)


def upsilon(records: pd.DataFrame) -> Figure:
    """PSNR by rank for every rule, and what the threshold does to the area and to the rank that is reached."""
    if records.empty:
        return plotting.nothing()
    fig, axes = plotting.figure(columns=2, cols=3, height=6.4)
    curves = rec.history(records, "psnr_at")
    plotting.series(axes[0], curves[curves["method"] != "sweep"], "step", "value")
    axes[0].set(xlabel="rank kept", ylabel="PSNR (dB)")
    for ax, name, text in ((axes[1], "area_by", "mean PSNR over ranks (dB)"), (axes[2], "unlocked_by", "rank reached")):
        parts = [
            rec.history(records, f"{prefix}{name}").assign(loss=label)
            for prefix, label in (("", "loss of a batch"), ("exact_", "exact loss"))
        ]
        plotting.series(ax, pd.concat(parts), "step", "value", by="loss")
        ax.set(xlabel="threshold υ (%)", ylabel=text)
    plotting.legend(fig)
    return fig
