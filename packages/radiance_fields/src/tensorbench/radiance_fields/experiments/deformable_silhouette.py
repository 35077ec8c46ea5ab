"""A waving flag followed by its silhouette alone: no point is tracked.

The network of ``deformable_tracking`` with another data term, or without its metric; beside it the template left as it
is, and a rigid template that is moved by gradient steps on the same silhouette loss. ``tracked`` has correspondences
(one pixel of noise) and shows what the silhouette does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.errors import unknown
from tensorbench.core.run import Run
from tensorbench.radiance_fields.experiments import deformable_tracking as tracking
from tensorbench.radiance_fields.experiments.surface_drawing import bare, draw_surface, upright, view
from tensorbench.radiance_fields.experiments.tracking_figures import SIDE, Surface, grid_of, painted
from tensorbench.radiance_fields.metrics import chamfer
from tensorbench.radiance_fields.surfaces.evaluation import compare, mesh_surface, overlap
from tensorbench.radiance_fields.surfaces.meshes import grid_mesh
from tensorbench.radiance_fields.surfaces.nets import SurfaceNet
from tensorbench.radiance_fields.surfaces.pinhole import Pinhole
from tensorbench.radiance_fields.surfaces.rasterize import rasterize
from tensorbench.radiance_fields.surfaces.registration import register
from tensorbench.radiance_fields.surfaces.sequences import Observation, SurfaceSequence
from tensorbench.radiance_fields.surfaces.silhouette import Chamfer, Contour, SoftMask, View, rim
from tensorbench.radiance_fields.surfaces.tracking import Weights, pixel_unit, track

POINTS = 17  # side of the grid of points that are projected
FINE = 31  # side of the mesh whose silhouette is seen
ERRORS, COLOURS = LogNorm(5e-3, 0.3), mpl.colormaps["viridis"]


def masks(sequence: SurfaceSequence, cameras: Sequence[Pinhole]) -> list[list[View]]:
    """What the cameras see of each frame: silhouettes of the true surface."""
    uv, faces = grid_mesh(FINE)
    return [[View(camera, rasterize(camera, true(uv), faces).mask) for camera in cameras] for true in sequence.exact]


def terms(
    kind: str, sequence: SurfaceSequence, seen: Sequence[Sequence[View]], rng: np.random.Generator, unit: float
) -> Iterator[Chamfer | Contour | SoftMask]:
    """Data terms of one kind, frame by frame; what is projected has the surface's border.

    Raises:
        ValueError: an unknown kind.
    """
    grid, border = grid_mesh(POINTS)[0], rim(sequence.template, 160)
    kinds: dict[str, Callable[[Sequence[View]], Chamfer | Contour | SoftMask]] = {
        "chamfer": lambda views: Chamfer(views, grid, unit, rng),
        "contour": lambda views: Contour(views, border, unit),
        "mask": lambda views: SoftMask(views, grid, unit),
    }
    if kind not in kinds:
        raise ValueError(unknown("loss", kind, kinds))
    for views in seen:
        yield kinds[kind](views)


def silhouette(
    sequence: SurfaceSequence,
    seen: Sequence[Sequence[View]],
    rng: np.random.Generator,
    *,
    loss: str,
    hidden: list[int],
    weights: dict[str, float],
    device: torch.device | None = None,
    **options: Any,
) -> Iterator[Surface]:
    """The network, its silhouette matched."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    net = SurfaceNet(hidden, generator=generator).to(device or torch.device("cpu"))
    registered = register(net, sequence.template, rng=rng)
    unit = pixel_unit(sequence.camera, sequence.template, registered.normalizer.scale)
    data = terms(loss, sequence, seen, rng, unit)
    for fit in track(registered, data, weights=Weights(**weights), rng=rng, **options):
        yield fit.surface


def tracked(
    sequence: SurfaceSequence, seen: Sequence[Sequence[View]], rng: np.random.Generator, *, points: int, **options: Any
) -> Iterator[Surface]:
    """With correspondences in the first camera instead."""
    uv = rng.uniform(-0.5, 0.5, size=(points, 2))
    observed = tuple(
        Observation(uv, sequence.camera.project(true(uv)) + rng.standard_normal((points, 2))) for true in sequence.exact
    )
    yield from tracking.network(replace(sequence, observations=observed), rng, **options)


def still(sequence: SurfaceSequence, seen: Sequence[Sequence[View]], rng: np.random.Generator) -> Iterator[Surface]:
    """The template, whatever is seen."""
    template = sequence.template
    for _ in sequence.observations:
        yield mesh_surface(template.uv, template.faces, template.points)


def rigid(
    sequence: SurfaceSequence,
    seen: Sequence[Sequence[View]],
    rng: np.random.Generator,
    *,
    loss: str,
    steps: int,
    lr: float,
) -> Iterator[Surface]:
    """The template turned and moved: Adam on the pose, with the same loss."""
    template = sequence.template
    centre = torch.from_numpy(template.points.mean(0))
    pose = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    flat = mesh_surface(template.uv, template.faces, template.points)

    def placed(points: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros_like(pose[0])
        x, y, z = pose[:3]
        skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
        return (points - centre) @ torch.linalg.matrix_exp(skew).T + centre + pose[3:]

    for term in terms(loss, sequence, seen, rng, 1 / sequence.camera.fx):
        points = torch.from_numpy(flat(term.uv))
        optimizer = torch.optim.Adam([pose], lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            term(placed(points).float()).backward()
            optimizer.step()
        with torch.no_grad():
            vertices = placed(torch.from_numpy(template.points)).numpy()
        yield mesh_surface(template.uv, template.faces, vertices)


METHODS: dict[str, Callable[..., Iterator[Surface]]] = {
    "silhouette": silhouette, "tracked": tracked, "still": still, "rigid": rigid,
}  # fmt: skip


def run(run: Run) -> None:
    """All frames by one method."""
    sequence, cameras = run.dataset.load(run.seed)
    options = dict(run.method.params)
    if run.method.uses in ("silhouette", "tracked"):
        options["weights"] = {
            name: options.pop(f"{name}_weight") for name in ("time", "metric") if f"{name}_weight" in options
        }
        options["device"] = run.device
    seen = masks(sequence, cameras)
    with run.time("fit"):
        surfaces = list(METHODS[run.method.uses](sequence, seen, run.rng, **options))
    at = tracking.evaluated_at(sequence.template)
    uv, faces = grid_mesh(FINE)
    rows = []
    for k, surface in enumerate(surfaces):
        found = compare(surface, sequence.exact[k], at, sequence.camera)
        points = surface(0.999 * uv)
        same = [
            overlap(rasterize(camera, points, faces).mask, shown.mask)
            for camera, shown in zip(cameras, seen[k], strict=True)
        ]
        shape = chamfer(points, sequence.exact[k](0.999 * uv))
        rows.append((found.distance, found.metric, found.normal_degrees, float(np.mean(same)), shape))
        run.log(step=k + 1, frame_error=found.distance)
    error, metric, angle, same_share, shape = np.mean(rows, axis=0)
    run.log(error=error, metric_deviation=metric, normal_degrees=angle, mask_iou=same_share, shape_error=shape)
    if run.seed == 0:
        grid = grid_of(sequence)
        true, points = sequence.exact[-1](grid), surfaces[-1](grid)
        error_map = np.linalg.norm(points - true, axis=1)
        picture = (255 * painted(sequence.camera, true)).astype(np.uint8)
        mine = rasterize(sequence.camera, surfaces[-1](0.999 * uv), faces).mask
        np.savez_compressed(
            run.artifact("flag.npz"), truth=true, points=points, error=error_map, picture=picture,
            mask=seen[-1][0].mask, mine=mine,
        )  # fmt: skip


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Flags with their silhouettes, and error by frame."""
    yield "flags", flags(records)
    fig, axes = plotting.figure(columns=2, cols=2, height=6.2, sharey=True)
    history = rec.history(records, "frame_error") if len(records) else pd.DataFrame()
    for ax, name in zip(axes, ("one_camera", "two_cameras"), strict=True):
        part = history[history["dataset"] == name] if len(history) else history
        if part.empty:
            plotting.empty(ax)
        else:
            plotting.series(ax, part, "step", "value", log="y")
        ax.set(xlabel="frame", ylabel="3-D error (sides)" if ax is axes[0] else "", title=plotting.label(name))
    plotting.legend(fig)
    yield "errors", fig


def flags(records: pd.DataFrame) -> Figure:
    """The last frame: silhouettes (both, only true, only found) and surfaces from the side."""
    files = rec.artifacts(records, "flag.npz") if len(records) else pd.DataFrame()
    if files.empty:
        return plotting.nothing()
    found = {(str(row.dataset), str(row.method)): dict(np.load(str(row.path))) for row in files.itertuples()}
    datasets = list(dict.fromkeys(dataset for dataset, _ in found))
    methods = list(dict.fromkeys(method for _, method in found))
    axes_of = view(azimuth=150, elevation=30)
    rows = 1 + len(datasets)
    fig, axes = plotting.figure(columns=2, rows=rows, cols=len(methods), height=2.5 * rows + 1.0, squeeze=False)
    for column, method in enumerate(methods):
        part = found.get((datasets[0], method))
        axes[0, column].set_title(plotting.label(method), fontsize=7.5)
        if part is None:
            axes[0, column].set_axis_off()
        else:
            _silhouettes(axes[0, column], part["mask"], part["mine"])
        for row, dataset in enumerate(datasets, 1):
            ax, part = axes[row, column], found.get((dataset, method))
            if part is None:
                ax.set_axis_off()
                continue
            points, true = (upright(part[kind].astype(float)).reshape(SIDE, SIDE, 3) for kind in ("points", "truth"))
            error = np.maximum(part["error"], 1e-9).reshape(SIDE, SIDE)
            draw_surface(ax, points, error, axes=axes_of, norm=ERRORS, cmap=COLOURS)
            rim = np.concatenate([true[0], true[1:, -1], true[-1, -2::-1], true[-2::-1, 0]]) @ axes_of.T
            ax.plot(rim[:, 0], rim[:, 1], color="#D55E00", linewidth=0.7)
            bare(ax, np.concatenate([points.reshape(-1, 3), true.reshape(-1, 3)]), axes_of)
            ax.set_xlabel(f"{error.mean():.3f}", fontsize=7, labelpad=1)
            if column == 0:
                ax.set_ylabel(plotting.label(dataset))
    bar = fig.colorbar(
        mpl.cm.ScalarMappable(ERRORS, COLOURS), ax=axes, location="bottom", shrink=0.4, aspect=40, pad=0.02
    )
    bar.set_label("3-D error (sides of the flag)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return fig


def _silhouettes(ax: Any, mask: np.ndarray, mine: np.ndarray) -> None:
    """Grey where both are, orange where only the truth is, blue where only the reconstruction is."""
    picture = np.ones((*mask.shape, 3))
    for where, colour in ((mask & mine, "#BBBBBB"), (mask & ~mine, "#D55E00"), (mine & ~mask, "#0072B2")):
        picture[where] = mpl.colors.to_rgb(colour)
    inside = np.argwhere(mask | mine)
    (top, left), (bottom, right) = inside.min(0) - 6, inside.max(0) + 6
    ax.imshow(picture, interpolation="nearest")
    ax.set(xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, top))
    ax.set_xlabel(f"IoU {overlap(mask, mine):.3f}", fontsize=7, labelpad=1)
    ax.grid(False)
    ax.spines[:].set_visible(False)
