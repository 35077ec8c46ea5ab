"""What the analytic scenes look like, and how exact their pictures are.

Colours, distances and normals of a view of each scene; and, against 8 × 8 subpixels, what 1, 2, 3 and 4 a side leave:
the floor below which no method's error on such pictures means anything (the steps of ``psnr_to_fine`` are subpixels a
side).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run

METHODS = {"traced": "scenes.trace"}


def run(run: Run) -> None:
    """Render, compare with a finer rendering."""
    from tensorbench.radiance_fields.scenes import intersect, render, scene

    data, options = run.dataset.load(run.seed), run.method.params
    views, made = data.test, scene(run.dataset.params["scene"])
    assert views.depth is not None and views.normals is not None
    pose = views.c2w[:1]
    with run.time("fine"):
        fine = render(made, views.camera, pose, supersample=options["fine"], background=data.background)
    for side in options["sides"]:
        coarse = render(made, views.camera, pose, supersample=side, background=data.background)
        error = float(np.mean((coarse.images - fine.images) ** 2))
        run.log(step=side, psnr_to_fine=-10 * np.log10(max(error, 1e-12)))
    origins = np.broadcast_to(pose[0, :3, 3], (1, 3))
    straight = intersect(made, origins, -pose[0, :3, 2][None])  # the ray through the middle of the picture
    hit = np.isfinite(views.depth)
    run.log(
        opaque_share=float(views.alpha.mean()), nearest=float(views.depth[hit].min()),
        middle=float(straight.t[0]) if straight.hit[0] else float("inf"),
    )  # fmt: skip
    if run.seed == 0:
        np.savez_compressed(
            run.artifact("views.npz"), images=views.images, depth=views.depth, normals=views.normals, alpha=views.alpha
        )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "scenes", pictures(records)
    yield "exactness", exactness(records)


def pictures(records: pd.DataFrame) -> Figure:
    """A row a scene: three views, opacity, distance, normals of the first."""
    files = rec.artifacts(records, "views.npz")
    found = {str(row.dataset): dict(np.load(str(row.path))) for row in files.itertuples()}
    if not found:
        return plotting.nothing()
    titles = ("", "views", "", "opacity", "distance", "normals")
    size = 15.4 / len(titles)
    fig, axes = plotting.figure(
        columns=2, rows=len(found), cols=len(titles), height=len(found) * (size + 0.1) + 0.4, squeeze=False
    )
    for number, (row, (name, entry)) in enumerate(zip(axes, found.items(), strict=True)):
        images = entry["images"]
        shown: list[Any] = [images[k % len(images)] for k in range(3)]
        shown += [entry["alpha"][0], np.where(np.isfinite(entry["depth"][0]), entry["depth"][0], np.nan)]
        shown.append(np.where(entry["normals"][0].any(axis=-1, keepdims=True), 0.5 + 0.5 * entry["normals"][0], 1.0))
        for ax, image, title in zip(row, shown, titles, strict=True):
            if title == "distance":
                ax.imshow(image, cmap="viridis_r", vmin=2.6, vmax=5.4, interpolation="nearest")
            elif title == "opacity":
                ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            else:
                ax.imshow(np.clip(image, 0, 1), interpolation="nearest")
            plotting.bare(ax)
            if number == 0:
                ax.set_title(title)
        row[0].set_ylabel(plotting.label(name))
    return fig


def exactness(records: pd.DataFrame) -> Figure:
    """PSNR to the finest rendering by subpixels a side."""
    fig, ax = plotting.figure(columns=1, height=6.0)
    history = rec.history(records, "psnr_to_fine") if len(records) else pd.DataFrame()
    if history.empty:
        plotting.empty(ax)
        return fig
    plotting.series(ax, history, "step", "value", by="dataset")
    ax.set(
        xlabel="subpixels a side of a pixel", ylabel="PSNR to 8 × 8 subpixels (dB)", xticks=sorted(set(history["step"]))
    )
    plotting.legend(ax, ncols=2)
    return fig
