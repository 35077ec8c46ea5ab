"""Signed distance fields on a grid as functional tensors in three formats, against one network, in equal CPU time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.radiance_fields import metrics
from tensorbench.radiance_fields.experiments import inr_common as common
from tensorbench.radiance_fields.implicit import compression, sdf
from tensorbench.radiance_fields.implicit.functional import pixel_centres
from tensorbench.radiance_fields.implicit.training import grid_points, in_chunks, train


def fit_functional(
    distance: torch.Tensor, run: Run, *, lr: float, seconds: float, trial_seconds: float, at: list[float],
    truncation: float, eikonal: float, slab: int | None = None, **model: Any,
) -> torch.Tensor:  # fmt: skip
    """A functional tensor on the grid, or on ``slab`` coordinates of each axis drawn for each step."""
    net = common.functional(3, 1, run.generator, offset=True, **model).to(run.device)
    x = [pixel_centres(n, distance.device) for n in distance.shape[:3]]
    generator = run.generator

    def loss(net: Any, _: Any) -> torch.Tensor:
        if slab is None:
            return sdf.grid_loss(net, x, distance, truncation, eikonal)
        some = [torch.randperm(len(column), generator=generator)[:slab].to(column.device) for column in x]
        part = distance[some[0]][:, some[1]][:, :, some[2]]
        return sdf.grid_loss(net, [column[i] for column, i in zip(x, some, strict=True)], part, truncation, eikonal)

    def quality(net: Any) -> float:
        return sdf.iou(compression.to_numpy(net.forward_grid(x)), compression.to_numpy(distance))

    budget = common.budget(run, seconds, trial_seconds, at)
    course = train(net, loss, lr=lr, metric=quality, schedule="cosine", **budget)
    common.log_course(run, course, "iou")
    run.log(weights=metrics.count_weights(net))
    return net.materialize(distance.shape[:3])


def fit_monolithic(
    distance: torch.Tensor, run: Run, *, lr: float, seconds: float, trial_seconds: float, at: list[float],
    truncation: float, eikonal: float, batch: int, **model: Any,
) -> torch.Tensor:  # fmt: skip
    """One network on ``batch`` random cells a step."""
    net = common.monolithic(3, 1, run.generator, **model).to(run.device)
    points, values = grid_points(distance.shape[:3], distance.device), distance.reshape(-1, 1)
    generator = run.generator

    def loss(net: Any, _: Any) -> torch.Tensor:
        some = torch.randint(len(points), (batch,), generator=generator).to(points.device)
        return sdf.points_loss(net, points[some], values[some], truncation, eikonal)

    def quality(net: Any) -> float:
        return sdf.iou(compression.to_numpy(in_chunks(net, points)), compression.to_numpy(values))

    budget = common.budget(run, seconds, trial_seconds, at)
    course = train(net, loss, lr=lr, metric=quality, schedule="cosine", **budget)
    common.log_course(run, course, "iou")
    run.log(weights=metrics.count_weights(net))
    return in_chunks(net, points).reshape(distance.shape)


METHODS: dict[str, Callable[..., Any]] = {"functional": fit_functional, "monolithic": fit_monolithic}


def run(run: Run) -> None:
    """Fit one solid; IoU on the grid, Chamfer distance of the surfaces in units of the cube's half side."""
    data = run.dataset.load(0)
    distance = torch.from_numpy(np.asarray(data.distance, dtype=np.float32))[..., None].to(run.device)
    predicted = METHODS[run.method.uses](distance, run, **run.method.params)
    values = compression.to_numpy(predicted)[..., 0]
    run.log(iou=sdf.iou(values, data.distance))
    vertices, faces = sdf.surface(values)
    if not len(faces):
        run.log(chamfer=2.0)  # no surface at all: as bad as the cube is wide
        return
    ours = sdf.surface_points(vertices, faces, len(data.surface), seed=run.seed)
    run.log(chamfer=metrics.chamfer(ours, data.surface))
    if run.seed == 0 and run.trial is None:
        np.savez_compressed(run.artifact("mesh.npz"), vertices=vertices.astype(np.float32), faces=faces)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "meshes", _meshes(records)
    yield "quality", _quality(records)


def _meshes(records: pd.DataFrame) -> Figure:
    """The learnt surfaces, lit from the viewer's left, a row for each solid."""
    files = rec.artifacts(records, "mesh.npz") if len(records) else pd.DataFrame()
    solids = [name for name in pd.unique(files["dataset"]) if name != "sphere"] if len(files) else []
    if not solids:
        return plotting.nothing()
    methods = list(pd.unique(files[files["dataset"].isin(solids)]["method"]))
    fig, axes = plotting.figure(columns=2, rows=len(solids), cols=len(methods), height=4.2 * len(solids) + 0.4,
                                squeeze=False, subplot_kw={"projection": "3d"})  # fmt: skip
    light = np.array([0.5, -0.6, 0.62])
    for line, solid in zip(axes, solids, strict=True):
        for ax, method in zip(line, methods, strict=True):
            ax.set_axis_off()
            found = files[(files["dataset"] == solid) & (files["method"] == method)]
            if found.empty:
                continue
            mesh = np.load(found.iloc[0].path)
            vertices = mesh["vertices"] if solid != "spot" else mesh["vertices"][:, [2, 0, 1]]
            corners = vertices[mesh["faces"]]
            normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
            shade = 0.35 + 0.65 * np.abs(normal @ light)
            colours = np.clip(shade[:, None] * np.array([0.55, 0.72, 0.9]), 0, 1)
            ax.add_collection3d(Poly3DCollection(corners, facecolors=colours, edgecolors=colours, linewidths=0.1,
                                                 rasterized=True))  # fmt: skip
            ax.set(xlim=(-0.75, 0.75), ylim=(-0.75, 0.75), zlim=(-0.75, 0.75))
            ax.set_box_aspect((1, 1, 1), zoom=1.25)
            ax.view_init(elev=22, azim=-55)
            row = records[(records["dataset"] == solid) & (records["method"] == method) & (records["seed"] == 0)]
            ax.set_title(f"{plotting.label(method)}\nIoU {float(row['iou'].iloc[0]):.3f}", fontsize=7.5, pad=-4)
    return fig


def _quality(records: pd.DataFrame) -> Figure:
    """IoU and Chamfer distance."""
    fig, (left, right) = plotting.figure(columns=2, cols=2, height=6.5)
    if not len(records):
        plotting.empty(left)
        plotting.empty(right)
        return fig
    plotting.bars(left, records.assign(miss=1 - records["iou"]), "miss", log=True)
    left.set(ylabel="1 − IoU")
    plotting.bars(right, records, "chamfer", log=True)
    right.set(ylabel="Chamfer distance")
    plotting.reference(right, y=0.01, text="0.01")
    plotting.legend(fig)
    return fig
