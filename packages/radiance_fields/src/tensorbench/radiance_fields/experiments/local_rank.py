"""What rotation and clutter cost in rank: one global tensor, or a small one for each occupied block.

On boxes that turn: the least rank at which the relative error is at most ``bound`` (steps of the histories: degrees).
On a single volume: the error where a global format may have as many weights as blocks of local CP tensors of rank
1, 2, 3, … have in all (steps: that local rank). Clouds of blended tri-vectors, as in the radiance field, have their own
numbers of weights (steps: their rank).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.radiance_fields.strivec import low_rank
from tensorbench.radiance_fields.strivec.cloud_fit import cloud_fit, voxel_scales
from tensorbench.radiance_fields.strivec.low_rank import Fitted

METHODS = {"global_cp": None, "local_cp": None, "global_vm": None, "svd": None, "tucker": None, "cloud": None}


def run(run: Run) -> None:
    """A curve over angles where the dataset has several, else errors at equal weights."""
    data = run.dataset.load(run.seed)
    volumes = torch.from_numpy(data.volumes)
    options = dict(run.method.params)
    if len(volumes) > 1:
        return _turning(run, volumes, data, options)
    if run.method.uses == "cloud":
        return _clouds(run, volumes[0], options)
    _equal_weights(run, volumes[0], options)


def _turning(run: Run, volumes: torch.Tensor, data: Any, options: dict[str, Any]) -> None:
    n, bound, most = volumes.shape[1], options["bound"], options["most"]
    size = n // options["parts"]
    for angle, volume, flat in zip(data.degrees, volumes, torch.from_numpy(data.flat), strict=True):
        errors: dict[int, float] = {}
        for rank in range(1, most + 1):
            fitted = _fit(run, volume, rank, size, options)
            errors[rank] = fitted.error(volume)
            if errors[rank] <= bound:
                break
        needed = low_rank.rank_needed(errors, bound)
        run.log(step=angle, rank_needed=needed, plane_rank=_plane_rank(run.method.uses, flat, size, bound))
        if angle == 45:
            run.log(rank_at_45=needed)


def _plane_rank(method: str, flat: torch.Tensor, size: int, bound: float) -> int:
    """The rank that the turned rectangle needs: of the whole picture, or the largest of a block (exact)."""
    if method != "local_cp":
        return low_rank.svd_rank(flat, bound)
    blocks = [block for rows in flat.split(size) for block in rows.split(size, 1) if block.any()]
    return max(low_rank.svd_rank(block, bound) for block in blocks)


def _fit(run: Run, volume: torch.Tensor, rank: int, size: int, options: dict[str, Any]) -> Fitted:
    sweeps, restarts = options["sweeps"], options["restarts"]
    if run.method.uses == "local_cp":
        return low_rank.local_cp(volume, rank, size, sweeps=sweeps, restarts=restarts, generator=run.generator)
    if run.method.uses == "global_cp":
        return low_rank.global_cp(volume, rank, sweeps=sweeps, restarts=restarts, generator=run.generator)
    if run.method.uses == "global_vm":
        return low_rank.global_vm(volume, rank, sweeps=sweeps)
    if run.method.uses == "svd":
        return low_rank.unfolding_svd(volume, rank)
    return low_rank.tucker(volume, rank)


def largest_rank(method: str, n: int, weights: int) -> int:
    """The largest rank of a global format on n³ voxels with at most so many weights; 0 where one is too many."""
    if method == "tucker":
        rank = 0
        while (rank + 1) ** 3 + 3 * n * (rank + 1) <= weights and rank < n:
            rank += 1
        return rank
    each = {"global_cp": 3 * n, "global_vm": 3 * n + 3 * n * n, "svd": n + n * n}[method]
    return weights // each


def _equal_weights(run: Run, volume: torch.Tensor, options: dict[str, Any]) -> None:
    n, size = len(volume), options["size"]
    blocks = len(low_rank.occupied_blocks(volume, size))
    run.log(occupied_blocks=blocks, occupied_share=blocks / (n // size) ** 3)
    for local_rank in options["ranks"]:
        budget = 3 * size * local_rank * blocks
        # A format of which one component is already too many takes one: the comparison then favours it.
        rank = local_rank if run.method.uses == "local_cp" else max(1, largest_rank(run.method.uses, n, budget))
        fitted = _fit(run, volume, rank, size, options)
        error = fitted.error(volume)
        run.log(step=local_rank, error_at=error, weights_at=fitted.weights, rank_at=rank)
        if local_rank == options["shown"]:
            run.log(shown_error=error)
            if run.seed == 0:
                _keep(run, volume, fitted.volume)


def _clouds(run: Run, volume: torch.Tensor, options: dict[str, Any]) -> None:
    voxels, ranks, shown = options.pop("voxels"), options.pop("ranks"), options.pop("shown")
    for rank in ranks:
        scales = voxel_scales(voxels, len(volume), rank)
        fitted = cloud_fit(volume, scales, generator=run.generator, **options)
        run.log(step=rank, error_at=fitted.error(volume), weights_at=fitted.weights)
        if rank == shown:
            run.log(shown_error=fitted.error(volume))
            if run.seed == 0:
                _keep(run, volume, fitted.volume)


def _keep(run: Run, truth: torch.Tensor, found: torch.Tensor) -> None:
    """The largest values along z, for the figure."""
    views = [solid.amax(2).numpy().astype(np.float32) for solid in (truth, found)]
    np.savez_compressed(run.artifact("views.npz"), truth=views[0], found=views[1])


# --- figures -------------------------------------------------------------------------------------------------------


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    for draw in (turning, weights, views):
        yield draw.__name__, draw(records) if len(records) else plotting.nothing()


def turning(records: pd.DataFrame) -> Figure:
    """The rank that a turned box needs, in the plane and in space."""
    fig, axes = plotting.figure(columns=2, cols=3, height=6.5, sharey=True)
    flat, solid = rec.history(records, "plane_rank"), rec.history(records, "rank_needed")
    some = ["global_cp", "local_cp"]
    panels = [
        ("rectangle in the plane (SVD)", flat[(flat["dataset"] == "turned_z") & flat["method"].isin(some)]),
        ("box about z", solid[(solid["dataset"] == "turned_z")]),
        ("box about (1, 1, 1)", solid[(solid["dataset"] == "turned_diagonal")]),
    ]
    for ax, (title, frame) in zip(axes, panels, strict=True):
        plotting.series(ax, frame, "step", "value")
        ax.set(title=title, xlabel="rotation (degrees)", ylabel="rank for error 0.1" if ax is axes[0] else "")
        ax.set_xticks([0, 30, 60, 90])
        never = frame[frame["value"].isna()]
        if len(never):
            who = ", ".join(plotting.label(method) for method in pd.unique(never["method"]))
            most = records.set_index("method").loc[never["method"].iloc[0], "method.most"].max()
            text = f"{who}: over {most:g}\nfrom {never['step'].min():g}° to {never['step'].max():g}°"
            ax.text(0.97, 0.03, text, transform=ax.transAxes, fontsize=7, ha="right")
    axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylim(0, 1.08 * max([1.0, *flat["value"].dropna(), *solid["value"].dropna()]))
    plotting.legend(fig)
    return fig


EXACT = 1e-6  # errors below are rounding: the format holds the volume
TICKS = (200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
PANELS = {"box": "one box at 45°", "rods": "20 rods", "clutter": "30 small objects"}


def weights(records: pd.DataFrame) -> Figure:
    """Error against weights on each volume."""
    fig, axes = plotting.figure(columns=2, cols=3, height=7.0)
    history = _paired(records)
    for ax, (name, title) in zip(axes, PANELS.items(), strict=True):
        frame = history[history["dataset"] == name]
        plotting.log_axis(ax, "y")
        plotting.log_axis(
            ax, "x", ticks=[t for t in TICKS if len(frame) and frame["weights"].between(t / 2, 2 * t).any()]
        )
        if frame.empty:
            plotting.empty(ax)
            continue
        exact = frame["error"] < EXACT
        plotting.series(ax, frame[~exact], "weights", "error")
        if exact.any():
            who = ", ".join(plotting.label(method) for method in pd.unique(frame["method"][exact]))
            ax.text(0.03, 0.03, f"exact: {who}", transform=ax.transAxes, fontsize=7)
        ax.set(title=title, xlabel="weights", ylabel="relative error" if ax is axes[0] else "")
    plotting.legend(fig)
    return fig


def _paired(records: pd.DataFrame) -> pd.DataFrame:
    """Errors with the mean number of weights over seeds (occupied blocks differ with the seed)."""
    keys = ["dataset", "method", "seed", "step"]
    error = rec.history(records, "error_at").rename(columns={"value": "error"})
    count = rec.history(records, "weights_at").rename(columns={"value": "weights"})
    if error.empty:
        return error.assign(weights=[])
    both = error.merge(count, on=keys)
    both["weights"] = both.groupby(["dataset", "method", "step"])["weights"].transform("mean").round()
    return both


def views(records: pd.DataFrame) -> Figure:
    """The largest value along z of each volume and its approximations."""
    files = rec.artifacts(records, "views.npz")
    order = [
        name for name in ("local_cp", "cloud_3", "global_cp", "tucker", "global_vm") if name in set(files["method"])
    ]
    names = [name for name in PANELS if name in set(files["dataset"])]
    if not names or not order:
        return plotting.nothing()
    cols = len(order) + 1
    size = 15.4 / cols
    fig, axes = plotting.figure(columns=2, rows=len(names), cols=cols, height=(size + 0.45) * len(names), squeeze=False)
    for row, (line, name) in enumerate(zip(axes, names, strict=True)):
        part = files[files["dataset"] == name]
        found = {method: np.load(path) for method, path in zip(part["method"], part["path"], strict=True)}
        truth = next(iter(found.values()))["truth"]
        for ax, method in zip(line, ["truth", *order], strict=True):
            plotting.bare(ax)
            if row == 0:
                title = "truth" if method == "truth" else plotting.label(method).replace(", ", ",\n")
                ax.set_title(title, fontsize=7)
            if method not in ("truth", *found):
                continue
            picture = truth if method == "truth" else found[method]["found"]
            ax.imshow(picture.T, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", origin="lower")
            ax.set_xlabel(PANELS[name] if method == "truth" else _error_text(records, name, method), fontsize=7)
    return fig


def _error_text(records: pd.DataFrame, dataset: str, method: str) -> str:
    rows = records[(records["dataset"] == dataset) & (records["method"] == method) & (records["seed"] == 0)]
    error = float(rows["shown_error"].iloc[0]) if len(rows) and "shown_error" in rows else math.nan
    return f"error {error:.3f}"
