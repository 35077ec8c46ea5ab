"""Quality at every rank of a field that is trained once, against cutting, training apart, ordering and rounding.

A run trains one way and measures every cut. Steps of the histories are ranks (``psnr_at``, ``ssim_at``, ``kib_at``, and
for ``plain`` also ``random_psnr_at``, ``sorted_psnr_at``, ``svd_psnr_at``) or bits of a grid's value
(``quantised_psnr_at``, ``quantised_kib_at``). Sizes are of 16-bit weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core.run import Run
from tensorbench.radiance_fields.experiments import slimming_figures
from tensorbench.radiance_fields.slimmerf import truncation
from tensorbench.radiance_fields.slimmerf.evaluation import curve_area, picture_quality, slim_curve
from tensorbench.radiance_fields.slimmerf.field import SlimVM, slim
from tensorbench.radiance_fields.slimmerf.ranks import AllAtOnce, RankRule, TRaIn, even_ranks
from tensorbench.radiance_fields.slimmerf.trainer import train_slim
from tensorbench.radiance_fields.tensorf.alpha_mask import AlphaMask
from tensorbench.radiance_fields.training import render_views, settled

METHODS: dict[str, Any] = {
    "train": TRaIn, "fixed": even_ranks, "plain": AllAtOnce, "blocks": even_ranks, "separate": AllAtOnce,
}  # fmt: skip
SLACK = 0.2  # dB that a curve may fall from one rank to the next and still count as rising


def make_rule(uses: str, rank: int, options: dict[str, Any]) -> RankRule:
    """The rule that unlocks ranks for a method."""
    if uses == "train":
        return TRaIn(rank, options["upsilon"], options.get("eta", 0))
    if uses in ("fixed", "blocks"):
        return even_ranks(rank, options["until"])
    return AllAtOnce(rank)


def trained(run: Run, data: Any, rank: int, uses: str | None = None) -> tuple[SlimVM, AlphaMask | None, RankRule]:
    """A field trained as the method says."""
    options, uses = run.method.params, uses or run.method.uses
    generator = run.generator
    resolution = [options["voxels"]] * 3
    field = SlimVM(data.box, resolution, rank, width=options["width"], generator=generator).to(run.device)
    rule = make_rule(uses, rank, options)
    found = train_slim(
        field, data, rule, generator=generator, steps=options["steps"], masks=options["masks"],
        blocks=uses == "blocks", rays=options["rays"], samples=options["samples"], losses={"l1": options["l1"]},
        progress=run.progress,
    )  # fmt: skip
    settled(found.history)
    return field, found.alpha_mask, rule


def run(run: Run) -> None:
    """Train, cut, measure."""
    data, options = run.dataset.load(run.seed), run.method.params
    if run.method.uses == "separate":
        return _separate(run, data)
    with run.time("fit"):
        field, mask, rule = trained(run, data, options["rank"])
    ranks, samples = options["ranks"], options["samples"]
    points = slim_curve(truncation.full_rank(field), data, data.test, ranks, samples, alpha_mask=mask)
    for point in points:
        run.log(step=point.rank, psnr_at=point.psnr, ssim_at=point.ssim, kib_at=point.bytes / 1024)
    psnrs = [point.psnr for point in points]
    run.log(
        full_psnr=psnrs[-1], full_ssim=points[-1].ssim, area=curve_area(ranks, psnrs), unlocked=rule.rank,
        monotone=bool((np.diff(psnrs) >= -SLACK).all()), unlocked_after=_last_step(rule),
    )  # fmt: skip
    if run.method.name == "plain":
        _other_cuts(run, data, field, mask)
    if run.seed == 0:
        keep_pictures(run, data, field, mask)


def _last_step(rule: RankRule) -> float:
    increments = getattr(rule, "increments", [])
    return float(increments[-1][0]) if increments else 0.0


def _separate(run: Run, data: Any) -> None:
    """A field of its own for each size."""
    options = run.method.params
    for rank in options["apart"]:
        with run.time("fit"):
            field, mask, _ = trained(run, data, rank)
        (point,) = slim_curve(field, data, data.test, [rank], options["samples"], alpha_mask=mask)
        run.log(step=rank, psnr_at=point.psnr, ssim_at=point.ssim, kib_at=point.bytes / 1024)


def _other_cuts(run: Run, data: Any, field: SlimVM, mask: AlphaMask | None) -> None:
    """What else can be done with a field that was trained as usual."""
    options = run.method.params
    samples, draw = options["samples"], torch.Generator().manual_seed(run.seed + 1)
    ways = {
        "random": (field, lambda f, rank: truncation.cut_randomly(f, rank, draw)),
        "sorted": (truncation.sort_components(field), slim),
        "svd": (truncation.svd_components(field), slim),
    }
    for name, (start, cut) in ways.items():
        cuts = [rank for rank in options["ranks"] if rank < field.maximum]
        for point in slim_curve(start, data, data.test, cuts, samples, alpha_mask=mask, cut=cut):
            run.log(step=point.rank, **{f"{name}_psnr_at": point.psnr})
    for bits in options["bits"]:
        seen = render_views(truncation.quantise(field, bits), data, data.test, samples, mask)
        psnr, _ = picture_quality(seen, data.test)
        run.log(
            step=bits, quantised_psnr_at=psnr, quantised_kib_at=truncation.quantised_bytes(field, bits) / 1024
        )  # fmt: skip


def keep_pictures(run: Run, data: Any, field: SlimVM, mask: AlphaMask | None) -> None:
    """The first test view at every rank."""
    options = run.method.params
    one = data.test.select([0])
    full = truncation.full_rank(field)
    shown = {
        f"rank_{rank}": render_views(slim(full, rank), data, one, options["samples"], mask)[0].cpu().numpy()
        for rank in options["ranks"]
    }
    shown["truth"] = np.asarray(one.images[0])
    np.savez_compressed(run.artifact("pictures.npz"), **shown)  # type: ignore[arg-type]


# ------------------------------------------------------------------ claims


def gap_shrinks(records: pd.DataFrame) -> list[float]:
    """Per seed, how much smaller the gap of full PSNR to the ordinary field is with twice the steps (dB)."""
    table = records.pivot_table(index="seed", columns=["dataset", "method"], values="full_psnr")
    found = []
    for _, row in table.iterrows():
        gaps = [
            (row[(name, "plain")] - row[(name, "train")]) - (row[(name, "plain_long")] - row[(name, "train_long")])
            for name in sorted(set(table.columns.get_level_values(0)))
            if (name, "train_long") in table.columns and (name, "plain_long") in table.columns
        ]
        if gaps:
            found.append(float(np.mean(gaps)))
    return found


def over_best_order(records: pd.DataFrame) -> list[float]:
    """Per seed, PSNR at a quarter of the rank over the best other cut of the ordinary field (dB, mean over scenes)."""
    from tensorbench.core import records as rec

    ours = rec.history(records, "psnr_at")
    ours = ours[(ours["method"] == "train") & (ours["step"] == 2)]
    others = pd.concat([rec.history(records, f"{way}_psnr_at") for way in ("random", "sorted", "svd")])
    others = others[(others["method"] == "plain") & (others["step"] == 2)]
    best = others.groupby(["dataset", "seed"])["value"].max()
    gain = ours.set_index(["dataset", "seed"])["value"] - best
    return gain.dropna().groupby("seed").mean().tolist()


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "curves", slimming_figures.curves(records)
    yield "pictures", slimming_figures.pictures(records, ["plain", "train", "fixed"], "spheres")
