"""What a Strivec field owes to its scales, its neighbours, its weights of blending and its tri-vectors.

All variants of a scene stand at the same points of one coarse reconstruction and train for the same steps on the same
rays. ``keep`` picks scales; with ``matched`` the ranks are raised (or lowered) until the tensors have the weights of
the three scales.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from tensorbench.core import data, plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.radiance_fields.metrics import image_metrics, psnr
from tensorbench.radiance_fields.strivec import Scale, Strivec, build, matched
from tensorbench.radiance_fields.strivec.boxes import box_edges, in_picture
from tensorbench.radiance_fields.strivec.placement import full_cover
from tensorbench.radiance_fields.training import Trained, mean_psnr, render_views, settled, train

METHODS = {"strivec": build}
SCENE = ("scene", "size", "train", "valid", "test")


def run(run: Run) -> None:
    """Place, train, look."""
    options = dict(run.method.params)
    views = data.load("analytic_scene", seed=run.seed, **{k: run.dataset.params[k] for k in SCENE})
    points = torch.from_numpy(run.dataset.load(run.seed)).to(run.device)
    field = make(views, points, run.generator, options).to(run.device)
    field_box = field.box.cpu()
    counts = field.counts()
    log_size(run, field, counts, field_box)
    budget = {key: options[key] for key in ("steps", "rays", "samples")}
    with run.time("train"):
        trained = train(field, views, generator=run.generator, losses={"l1": options["l1"]}, **budget)
    log_pictures(run, field, views, trained, options["samples"])


def make(views: Any, points: torch.Tensor, generator: torch.Generator, options: dict[str, Any]) -> Strivec:
    """The field that a method's parameters ask for."""
    kind = options.get("kind", "cp")
    scales = [Scale(s, h, int(d), int(a), int(b)) for s, h, d, a, b in options["scales"]]
    chosen = [scales[number] for number in options.get("keep", range(len(scales)))]
    if options.get("matched", False):
        whole = build(views, generator=generator, points=points, scales=scales)
        weights = sum(p.numel() for p in whole.cloud.parameters())
        chosen = [matched(points, scale, weights // len(chosen), kind=kind) for scale in chosen]
    named = {key: options[key] for key in ("neighbours", "blend", "width") if key in options}
    return build(views, generator=generator, points=points, scales=chosen, kind=kind, **named)


def log_size(run: Run, field: Strivec, counts: dict[str, int], box: torch.Tensor) -> None:
    """Weights, how many a full cover would have, and tensors per covered sample."""
    full = cloud = 0.0
    for number, (_scale, spacing) in enumerate(zip(field.cloud.scales, field.cloud.spacings, strict=True)):
        weights = counts[f"density_{number}"] + counts[f"appearance_{number}"]
        cloud += weights
        full += weights / counts[f"tensors_{number}"] * full_cover(box, spacing)
        run.log(**{f"tensors_{number}": counts[f"tensors_{number}"]})
    lattice = torch.linspace(0, 1, 40)
    grid = torch.stack(torch.meshgrid(lattice, lattice, lattice, indexing="ij"), -1).reshape(-1, 3)
    statistics = field.cloud.statistics((box[0] + (box[1] - box[0]) * grid).to(field.box))
    run.log(
        weights=counts["total"], cloud_weights=cloud, cover_share=cloud / full, covered=statistics["covered"],
        tensors_per_sample=statistics["tensors_per_sample"],
    )  # fmt: skip


def log_pictures(run: Run, field: Strivec, views: Any, trained: Trained, samples: int) -> None:
    """Quality on the test views, and one of them kept."""
    settled(trained.history)
    pictures = render_views(field, views, views.test, samples, trained.alpha_mask)
    truth = torch.as_tensor(views.test.images)
    valid = mean_psnr(field, views, views.valid, samples, trained.alpha_mask)
    run.log(**image_metrics(pictures.cpu(), truth), valid_psnr=valid)
    run.log(step_ms=1000 * trained.cpu_seconds / max(1, trained.history.steps))
    if run.seed > 0:
        return
    camera, pose = views.test.camera, torch.as_tensor(views.test.c2w[0]).float()
    edges = [in_picture(box_edges(scale.centers.cpu(), scale.half_range), camera, pose) for scale in field.cloud.scales]
    kept: dict[str, Any] = {f"edges_{number}": lines.numpy() for number, lines in enumerate(edges)}
    np.savez_compressed(run.artifact("view.npz"), found=pictures[0].cpu().numpy(), truth=truth[0].numpy(), **kept)


# --- figures -------------------------------------------------------------------------------------------------------


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    for draw in (variants, views, boxes):
        yield draw.__name__, draw(records) if len(records) else plotting.nothing()


def variants(records: pd.DataFrame) -> Figure:
    """PSNR of each variant on each scene, as the difference to three scales with K = 4."""
    fig, axes = plotting.figure(columns=2, cols=2, height=7.0)
    plotting.bars(axes[0], records, "psnr")
    axes[0].set_ylabel("PSNR (dB)")
    values = pd.to_numeric(records.get("psnr", pd.Series(dtype=float)), errors="coerce")
    if values.notna().any():
        axes[0].set_ylim(np.floor(values.min()) - 1, np.ceil(values.max()))
        keys = ["dataset", "seed"]
        base = records[records["method"] == "three_scales"].set_index(keys)["psnr"]
        gain = records["psnr"] - base.reindex(pd.MultiIndex.from_frame(records[keys])).to_numpy()
        frame = records.assign(gain=gain)
        plotting.bars(axes[1], frame[frame["method"] != "three_scales"], "gain")
    axes[1].axhline(0, color="#222222", linewidth=0.8)
    axes[1].set_ylabel("PSNR over three scales (dB)")
    plotting.legend(fig)
    return fig


SHOWN = ("three_scales", "scale_1", "scale_2", "scale_3", "k_1", "local_vm")


def views(records: pd.DataFrame) -> Figure:
    """A test view by several variants, with its absolute error beneath."""
    files = rec.artifacts(records, "view.npz")
    names = list(pd.unique(files["dataset"]))
    order = [name for name in SHOWN if name in set(files["method"])]
    if not names:
        return plotting.nothing()
    cols, size = len(order) + 1, 15.6 / (len(order) + 1)
    fig, axes = plotting.figure(
        columns=2, rows=2 * len(names), cols=cols, height=2 * len(names) * (size + 0.25), squeeze=False
    )
    for row, name in enumerate(names):
        part = files[files["dataset"] == name]
        found = {file: np.load(path) for file, path in zip(part["method"], part["path"], strict=True)}
        truth = next(iter(found.values()))["truth"]
        for column, method in enumerate(["truth", *order]):
            upper, lower = axes[2 * row][column], axes[2 * row + 1][column]
            for ax in (upper, lower):
                plotting.bare(ax)
            if method == "truth":
                upper.imshow(truth, interpolation="nearest")
                upper.set_ylabel(plotting.label(name), fontsize=7)
                lower.set_visible(False)
            elif method in found:
                picture = found[method]["found"]
                upper.imshow(np.clip(picture, 0, 1), interpolation="nearest")
                error = np.abs(picture - truth).mean(-1)
                lower.imshow(error, cmap="magma", vmin=0, vmax=0.3, interpolation="nearest")
                value = psnr(torch.from_numpy(picture), torch.from_numpy(truth))
                lower.set_xlabel(f"{value:.1f} dB", fontsize=7)
            if row == 0:
                upper.set_title(
                    "truth" if method == "truth" else plotting.label(method).replace(", ", ",\n"), fontsize=7
                )
    return fig


def boxes(records: pd.DataFrame) -> Figure:
    """The boxes of each scale's tensors over a test view."""
    files = rec.artifacts(records, "view.npz")
    files = files[files["method"] == "three_scales"]
    if not len(files):
        return plotting.nothing()
    fig, axes = plotting.figure(columns=2, rows=len(files), cols=4, height=4.2 * len(files), squeeze=False)
    for line, name, path in zip(axes, files["dataset"], files["path"], strict=True):
        kept = np.load(path)
        height, width = kept["truth"].shape[:2]
        for number, ax in enumerate(line):
            plotting.bare(ax)
            ax.imshow(kept["truth"], interpolation="nearest", extent=(0, width, height, 0))
            ax.set(xlim=(0, width), ylim=(height, 0))
            if number == 0:
                ax.set_ylabel(plotting.label(name), fontsize=7)
                ax.set_xlabel("a test view", fontsize=7)
                continue
            edges = kept[f"edges_{number - 1}"]
            look = {"linewidths": (0.7, 0.35, 0.2)[number - 1], "alpha": (0.7, 0.4, 0.25)[number - 1]}
            ax.add_collection(LineCollection(edges.reshape(-1, 2, 2), colors=f"C{number - 1}", **look))
            ax.set_xlabel(f"scale {number}: {len(edges)} tensors", fontsize=7)
    return fig
