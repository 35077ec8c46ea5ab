"""What the tracking experiments keep of their surfaces, and the figures made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.radiance_fields.experiments.surface_drawing import bare, draw_surface, upright, view
from tensorbench.radiance_fields.surfaces.meshes import grid_mesh, vertex_normals
from tensorbench.radiance_fields.surfaces.pinhole import Pinhole
from tensorbench.radiance_fields.surfaces.rasterize import rasterize, textured
from tensorbench.radiance_fields.surfaces.sequences import SurfaceSequence

SIDE = 25  # of the grids that are kept and drawn
VIEW = view(azimuth=155, elevation=25)
ERRORS = LogNorm(1e-3, 0.2)
COLOURS = mpl.colormaps["viridis"]
Surface = Callable[[Float[np.ndarray, "n 2"]], Float[np.ndarray, "n 3"]]


def painted(camera: Pinhole, points: Float[np.ndarray, "v 3"], side: int = SIDE) -> Float[np.ndarray, "h w 3"]:
    """The picture of a sheet with a photograph on it, lit from the camera's upper left."""
    from skimage.data import astronaut

    uv, faces = grid_mesh(side)
    raster = rasterize(camera, points, faces)
    light = np.abs(vertex_normals(points, faces) @ (np.array([-0.4, -0.5, -0.77])))
    return textured(raster, faces, uv, astronaut()[::2, ::2] / 255.0, shade=0.45 + 0.55 * light)


def keep(run: Run, sequences: Mapping[str, SurfaceSequence], surfaces: Mapping[str, Sequence[Surface]]) -> None:
    """Surfaces and errors of the last frames on a grid, pictures with what was tracked, and an animation of the first
    sequence, for the method that has ``paper``.
    """
    found: dict[str, np.ndarray] = {}
    for name, sequence in sequences.items():
        if name not in surfaces or not sequence.exact:
            continue
        uv = grid_of(sequence)
        true, points = sequence.exact[-1](uv), surfaces[name][-1](uv)
        found |= {
            f"{name}_truth": true,
            f"{name}_points": points,
            f"{name}_error": np.linalg.norm(points - true, axis=1),
        }
        if run.method.name == "rmp":
            found[f"{name}_picture"] = (255 * painted(sequence.camera, true)).astype(np.uint8)
            found[f"{name}_pixels"] = sequence.observations[-1].pixels
    small: Any = {k: v if v.dtype == np.uint8 else v.astype(np.float32) for k, v in found.items()}
    np.savez_compressed(run.artifact("surfaces.npz"), **small)
    first = next(iter(sequences))
    if run.method.name == "rmp" and sequences[first].exact:
        animate(run, sequences[first], surfaces[first])


def animate(run: Run, sequence: SurfaceSequence, surfaces: Sequence[Surface]) -> None:
    """``tracking.gif``: what the camera sees, and from the side the reconstruction and the truth."""
    import imageio.v3 as imageio

    depth = float(sequence.template.points[:, 2].mean())
    front = Pinhole.centred(250.0, 320, 240)
    centre, c, s = np.array([0.0, 0.0, depth]), np.cos(np.radians(70)), np.sin(np.radians(70))
    turn = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    aside = Pinhole(250.0, 250.0, 160, 120, 320, 240, turn, centre - turn @ centre)
    frames = []
    for true, found in zip(sequence.exact, surfaces, strict=True):
        at = grid_of(sequence)
        row = [painted(front, true(at)), painted(aside, found(at)), painted(aside, true(at))]
        frames.append((255 * np.concatenate(row, 1)).astype(np.uint8))
    imageio.imwrite(run.artifact("tracking.gif"), np.stack([*frames, *frames[::-1]]), duration=200, loop=0)


def grid_of(sequence: SurfaceSequence) -> Float[np.ndarray, "v 2"]:
    """A grid over the template's parameters, a little inside them."""
    low, high = sequence.template.uv.min(0), sequence.template.uv.max(0)
    unit = grid_mesh(SIDE)[0]
    return (low + high) / 2 + 0.999 * unit * (high - low)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """The figures of deformable_tracking."""
    yield "meshes", meshes(records)
    yield "errors", errors(records)
    yield "ablations", ablations(records)


def _kept(records: pd.DataFrame, name: str) -> dict[str, dict[str, np.ndarray]]:
    files = rec.artifacts(records, name) if len(records) else pd.DataFrame()
    return {str(row.method): dict(np.load(str(row.path))) for row in files.itertuples()}


def meshes(records: pd.DataFrame) -> Figure:
    """The last frame's picture and reconstructions from the side, coloured by their error."""
    found = _kept(records, "surfaces.npz")
    cases = [name for name in ("cylinder", "curve", "cone") if any(f"{name}_points" in part for part in found.values())]
    if not cases:
        return plotting.nothing()
    columns = ["picture", *found]
    fig, axes = plotting.figure(
        columns=2, rows=len(cases), cols=len(columns), height=2.3 * len(cases) + 1.0, squeeze=False
    )
    for row, (line, case) in enumerate(zip(axes, cases, strict=True)):
        for ax, name in zip(line, columns, strict=True):
            if name == "picture":
                _observed(ax, next((part for part in found.values() if f"{case}_picture" in part), {}), case)
                ax.set_ylabel(plotting.label(case))
            elif f"{case}_points" in found[name]:
                _coloured(ax, found[name], case)
            else:
                ax.set_axis_off()
            if row == 0:
                ax.set_title("last frame" if name == "picture" else plotting.label(name), fontsize=7.5)
    _error_bar(fig, axes)
    return fig


def _error_bar(fig: Figure, axes: np.ndarray) -> None:
    bar = fig.colorbar(
        mpl.cm.ScalarMappable(ERRORS, COLOURS), ax=axes, location="bottom", shrink=0.4, aspect=40, pad=0.02
    )
    bar.set_label("3-D error (sides of the sheet)", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _observed(ax: Any, part: Mapping[str, np.ndarray], case: str) -> None:
    plotting.bare(ax)
    if f"{case}_picture" not in part:
        return
    picture, pixels = part[f"{case}_picture"], part.get(f"{case}_pixels")
    ax.imshow(picture, interpolation="nearest")
    inside = np.argwhere((picture < 255).any(-1))
    (top, left), (bottom, right) = inside.min(0) - 8, inside.max(0) + 8
    ax.set(xlim=(left, right), ylim=(bottom, top))
    if pixels is not None:
        ax.plot(*pixels[::4].T, linestyle="", marker=".", markersize=1.6, color="#FFD400", markeredgewidth=0)


def _coloured(ax: Any, part: Mapping[str, np.ndarray], case: str) -> None:
    """The reconstruction, coloured, over the outline of the true sheet."""
    points, true = (upright(part[f"{case}_{kind}"]).reshape(SIDE, SIDE, 3) for kind in ("points", "truth"))
    error = part[f"{case}_error"]
    draw_surface(ax, points, np.maximum(error, 1e-9).reshape(SIDE, SIDE), axes=VIEW, norm=ERRORS, cmap=COLOURS)
    rim = np.concatenate([true[0], true[1:, -1], true[-1, -2::-1], true[-2::-1, 0]]) @ VIEW.T
    ax.plot(rim[:, 0], rim[:, 1], color="#D55E00", linewidth=0.7)
    bare(ax, np.concatenate([points.reshape(-1, 3), true.reshape(-1, 3)]), VIEW)
    ax.set_xlabel(f"{error.mean():.3f}", fontsize=7, labelpad=1)


def errors(records: pd.DataFrame) -> Figure:
    """Error by frame, noise and outliers."""
    fig, axes = plotting.figure(columns=2, cols=3, height=6.2, sharey=True)
    panels: tuple[tuple[str, str, str, list[int]], ...] = (
        ("frame_error", "frame", "cylinder, 1 px", [1, 4, 8, 12]),
        ("noise_error", "noise (px)", "noise", [0, 1, 3]),
        ("outlier_error", "outliers (%)", "outliers, 1 px", [0, 10, 30]),
    )
    for ax, (metric, xlabel, title, ticks) in zip(axes, panels, strict=True):
        plotting.log_axis(ax, "y")
        history = rec.history(records, metric) if len(records) else pd.DataFrame()
        if history.empty:
            plotting.empty(ax)
        else:
            plotting.series(ax, history, "step", "value")
        ax.set(xlabel=xlabel, title=title, ylabel="3-D error (sides)" if ax is axes[0] else "", xticks=ticks)
    plotting.legend(fig, ncols=6, columnspacing=1.0)
    return fig


LOSSES = {
    "error_frobenius": "Frobenius", "error_log_euclidean": "log-Euclidean", "error_diagonal": "only E and G",
    "error_determinant": "only det", "error_huber_30": "Huber, 30 % out.", "error_squares_30": "squares, 30 % out.",
}  # fmt: skip


def ablations(records: pd.DataFrame) -> Figure:
    """Error against the metric's weight and the number of control points, and with other losses."""
    fig, axes = plotting.figure(columns=2, cols=3, height=6.0, gridspec_kw={"width_ratios": [1, 1, 1.3]})
    panels = (("weight_error", "weight of the metric", None), ("control_error", "control points", [25, 100, 400]))
    for ax, (metric, xlabel, ticks) in zip(axes[:2], panels, strict=True):
        plotting.log_axis(ax, "x", ticks=ticks)
        history = rec.history(records, metric) if len(records) else pd.DataFrame()
        if history.empty:
            plotting.empty(ax)
        else:
            plotting.series(ax, history, "step", "value", by=None)
        ax.set(xlabel=xlabel, ylabel="3-D error (sides)" if ax is axes[0] else "")
        ax.set_ylim(bottom=0)
    ax, there = axes[2], [name for name in LOSSES if name in records]
    if not there or records[there].dropna(how="all").empty:
        plotting.empty(ax)
        return fig
    plotting.log_axis(ax, "x")
    for k, name in enumerate(there):
        values = records[name].dropna()
        colour = "#D55E00" if name.endswith("_30") else "#0072B2"
        ax.plot(values, np.full(len(values), k), linestyle="", marker=".", color="#888888", markersize=4)
        ax.plot(values.mean(), k, linestyle="", marker="D", color=colour, markersize=5)
    ax.set(yticks=range(len(there)), yticklabels=[LOSSES[name] for name in there], xlabel="3-D error (sides)")
    ax.invert_yaxis()
    return fig
