"""Radiance fields of every kind on the same scenes, rays and steps: quality against weights and against CPU time.

All methods go through the one trainer of the package with the same rays, samples and alpha masks. The history's steps
are training steps: ``psnr_at``, and the CPU seconds until then, ``cpu_seconds_at``. Pictures are of the test views.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import work_seconds
from tensorbench.radiance_fields.metrics import count_weights, depth_error, image_metrics, size_bytes

if TYPE_CHECKING:
    from tensorbench.radiance_fields.fields.base import Field
    from tensorbench.radiance_fields.training import State, Trained
    from tensorbench.radiance_fields.views import SceneData


def tensorf(kind: str, data: SceneData, *, generator: torch.Generator, resolution: int, **params: Any) -> Field:
    """TensoRF: ``vm`` or ``cp``."""
    from tensorbench.radiance_fields.tensorf.cp import TensorCP
    from tensorbench.radiance_fields.tensorf.vm import TensorVM

    make: Any = {"vm": TensorVM, "cp": TensorCP}[kind]
    return make(torch.as_tensor(data.box), (resolution,) * 3, generator=generator, **params)


def owned(module: str, data: SceneData, *, generator: torch.Generator, **params: Any) -> Field:
    """What the method's own module builds from a scene."""
    build = importlib.import_module(f"tensorbench.radiance_fields.{module}").build
    return build(data, generator=generator, **params)


def strivec(
    data: SceneData, *, generator: torch.Generator, coarse: Mapping[str, Any] = MappingProxyType({}), **params: Any
) -> Field:
    """Strivec, at the rate of the grids (what is searched here multiplies it); ``coarse`` is for its placement."""
    from tensorbench.radiance_fields.strivec.build import build

    return build(data, generator=generator, rate=1.0, **coarse, **params)


METHODS: dict[str, Callable[..., Any]] = {
    "tensorf_vm": functools.partial(tensorf, "vm"),
    "tensorf_cp": functools.partial(tensorf, "cp"),
    "voxel": functools.partial(owned, "fields.voxel"),
    "hash": functools.partial(owned, "fields.hash"),
    "mlp": functools.partial(owned, "fields.mlp"),
    "f_inr": functools.partial(owned, "implicit.field"),
    "strivec": strivec,
}
TRAINING = ("steps", "rays", "samples", "masks", "last_voxels", "losses", "rate", "points", "orbit", "trial")


def run(run: Run) -> None:
    """Build, train with a look now and then, and measure on the test views; a trial is brief and sees no test view."""
    from tensorbench.radiance_fields.training import mean_psnr, settled, train

    data, options = run.dataset.load(run.seed), dict(run.method.params)
    plan = {name: options.pop(name) for name in TRAINING if name in options}
    if run.trial is not None:
        plan |= {"masks": [], **plan["trial"]}
    generator = run.generator
    started = work_seconds()
    field = METHODS[run.method.uses](data, generator=generator, **options).to(run.device)
    building = work_seconds() - started
    watch = Watch(run, building, [] if run.trial is not None else list(plan["points"]))
    with run.time("fit"):
        trained = train(
            field, data, generator=generator, steps=plan["steps"], rays=plan["rays"], samples=plan["samples"],
            losses=plan.get("losses"), schedule=schedule(plan), callback=watch, progress=run.progress,
        )  # fmt: skip
    settled(trained.history)
    if run.trial is not None:
        run.log(valid_psnr=mean_psnr(field, data, data.valid.select([0, -1]), plan["samples"]))
        return
    psnr, seconds = measure(run, field, data, trained, plan), building + trained.cpu_seconds
    run.log(step=trained.history.steps, psnr_at=psnr, cpu_seconds_at=seconds)
    run.log(
        weights=count_weights(field), megabytes=size_bytes(field) / 1e6, build_cpu_seconds=building,
        step_ms=1000 * trained.cpu_seconds / trained.history.steps, train_cpu_seconds=seconds,
    )  # fmt: skip


def schedule(plan: Mapping[str, Any]) -> Any:
    """Masks and rates; with ``last_voxels`` (a side) the paper's growth in proportion to the steps."""
    from tensorbench.radiance_fields.tensorf.schedule import Schedule, tensorf_schedule

    rate = plan.get("rate", 1.0)
    rates = {"lr_grid": 0.02 * rate, "lr_net": 1e-3 * rate}
    if "last_voxels" in plan:
        return tensorf_schedule(plan["steps"], 128**3, plan["last_voxels"] ** 3, **rates)
    return Schedule(mask=tuple(plan["masks"]), shrink=False, **rates)


class Watch:
    """Looks at a field while it trains: PSNR of the test views after given steps, and the CPU seconds until then."""

    def __init__(self, run: Run, building: float, points: list[int]) -> None:
        self.run, self.building, self.points = run, building, points

    def __call__(self, state: State) -> None:
        if state.step in self.points:
            psnr = state.mean_psnr(state.data.test)
            self.run.log(step=state.step, psnr_at=psnr, cpu_seconds_at=self.building + state.cpu_seconds)


@torch.no_grad()
def measure(run: Run, field: Field, data: SceneData, trained: Trained, plan: Mapping[str, Any]) -> float:
    """Quality and time of the test views; one of them, and an orbit where asked for, kept. Returns the PSNR."""
    from tensorbench.radiance_fields.paths import render_path
    from tensorbench.radiance_fields.rendering import render_image
    from tensorbench.radiance_fields.training import background_of

    views, frames, seconds = data.test, [], []
    for pose in views.c2w:
        started = work_seconds()
        frames.append(
            render_image(
                field, views.camera, torch.as_tensor(pose, dtype=torch.float32), data.near, data.far, plan["samples"],
                background_of(data), alpha_mask=trained.alpha_mask,
            )
        )  # fmt: skip
        seconds.append(work_seconds() - started)
    pictures, truth = torch.stack([frame.rgb.cpu() for frame in frames]), torch.as_tensor(views.images)
    quality = image_metrics(pictures, truth)
    run.log(**quality, frame_seconds=float(np.median(seconds)))
    if views.depth is not None:
        depth = torch.stack([frame.depth.cpu() for frame in frames])
        run.log(depth_error=depth_error(depth, torch.as_tensor(views.depth)))
    if run.seed == 0:
        np.savez_compressed(run.artifact("view.npz"), found=pictures[0].numpy(), truth=truth[0].numpy())
        if plan.get("orbit"):
            from tensorbench.radiance_fields.cameras import orbit

            render_path(
                field, data, orbit(plan["orbit"]), path=run.artifact("orbit.gif"), samples=plan["samples"],
                alpha_mask=trained.alpha_mask, fps=12,
            )  # fmt: skip
    return quality["psnr"]


# --- figures -------------------------------------------------------------------------------------------------------


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "views", views(records)
    yield "quality", quality(records)


def quality(records: pd.DataFrame) -> Figure:
    """PSNR against size, and against CPU time, a row a scene."""
    names = list(pd.unique(records["dataset"])) if len(records) else ["none"]
    fig, axes = plotting.figure(columns=2, rows=len(names), cols=2, height=6.3 * len(names) + 1.2, squeeze=False)
    psnr, seconds = rec.history(records, "psnr_at"), rec.history(records, "cpu_seconds_at")
    keys = ["dataset", "method", "seed", "step"]
    curves = psnr.merge(seconds, on=keys, suffixes=("", "_cpu")) if len(psnr) else psnr
    for (left, right), name in zip(axes, names, strict=True):
        plotting.log_axis(left, "x")
        plotting.log_axis(right, "x")
        part = records[records["dataset"] == name] if len(records) else records
        if part.empty or "psnr" not in part:
            plotting.empty(left)
            plotting.empty(right)
            continue
        for method, rows in part.groupby("method", sort=False):
            look = plotting.style(str(method))
            left.plot(
                rows["megabytes"].mean(), rows["psnr"].mean(), color=look["color"], marker=look["marker"],
                linestyle="", markersize=6, label=look["label"],
            )  # fmt: skip
            left.plot(rows["megabytes"], rows["psnr"], color=look["color"], marker=".", linestyle="", markersize=3)
            line = (
                curves[(curves["dataset"] == name) & (curves["method"] == method)]
                .groupby("step")
                .mean(numeric_only=True)
            )
            right.plot(line["value_cpu"], line["value"], **look)
        for ax in (left, right):
            plotting.reference(ax, y=24.0, text="24 dB")
            ax.set_ylabel("PSNR (dB)")
        left.set(xlabel="size (MB, 32 bits a weight)", title=plotting.label(name))
        right.set(xlabel="CPU time of training (s)", title=plotting.label(name))
    plotting.legend(fig)
    return fig


ZOOM = 0.4  # share of a picture's side that is shown enlarged


def views(records: pd.DataFrame) -> Figure:
    """A test view by every method: the picture with its PSNR, the middle enlarged, and the error."""
    files = rec.artifacts(records, "view.npz")
    found = {(str(row.dataset), str(row.method)): dict(np.load(str(row.path))) for row in files.itertuples()}
    if not found:
        return plotting.nothing()
    scenes = list(dict.fromkeys(scene for scene, _ in found))
    methods = list(dict.fromkeys(method for _, method in found))
    size = 15.6 / (len(methods) + 1)
    fig, axes = plotting.figure(
        columns=2, rows=3 * len(scenes), cols=len(methods) + 1, height=(3 * size + 0.75) * len(scenes), squeeze=False
    )
    for number, scene in enumerate(scenes):
        rows = axes[3 * number : 3 * number + 3]
        truth = next(entry["truth"] for (name, _), entry in found.items() if name == scene)
        window = _busiest(truth)
        _picture(rows[0][0], truth, "truth" if number == 0 else "")
        _picture(rows[1][0], truth[window])
        rows[0][0].set_ylabel(plotting.label(scene), fontsize=8)
        _picture(rows[2][0], np.zeros_like(truth[..., 0]))
        rows[2][0].set_visible(False)
        for column, method in enumerate(methods, start=1):
            entry = found.get((scene, method))
            if entry is None:
                for ax in rows[:, column]:
                    ax.set_visible(False)
                continue
            error = np.abs(entry["found"] - truth).mean(axis=-1)
            psnr = -10 * np.log10(np.mean((entry["found"] - truth) ** 2))
            first = not any((name, method) in found for name in scenes[:number])
            _picture(rows[0][column], entry["found"], plotting.label(method) if first else "", f"{psnr:.1f} dB")
            _picture(rows[1][column], entry["found"][window])
            _picture(rows[2][column], error)
    return fig


def _busiest(picture: np.ndarray) -> tuple[slice, slice]:
    """The window of the picture in which colours vary most."""
    height, width = picture.shape[:2]
    side = max(2, round(ZOOM * min(height, width)))
    steps = range(0, min(height, width) - side + 1, max(1, side // 4))
    best = max(
        ((i, j) for i in steps for j in steps),
        key=lambda at: float(picture[at[0] : at[0] + side, at[1] : at[1] + side].std(axis=(0, 1)).sum()),
    )
    return slice(best[0], best[0] + side), slice(best[1], best[1] + side)


def _picture(ax: Any, image: np.ndarray, title: str = "", below: str = "") -> None:
    """A picture, or an error map from 0 (black) to 0.3."""
    if image.ndim == 2:
        ax.imshow(image, cmap="magma", vmin=0, vmax=0.3, interpolation="nearest")
    else:
        ax.imshow(image.clip(0, 1), interpolation="nearest")
    plotting.bare(ax)
    if title:
        ax.set_title(title, fontsize=7)
    if below:
        ax.set_xlabel(below, fontsize=7, labelpad=1)
