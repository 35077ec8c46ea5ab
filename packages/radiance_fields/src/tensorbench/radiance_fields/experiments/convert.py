"""From a trained field to another architecture: progressive volume distillation, plain distillation of pixels, and
training from the pictures themselves, with equal steps, rays and samples.

The data set is the teacher (a trained field and its occupancy grid); students are measured on the test views of its
scene, which neither of them has seen. Seeds are the students'; the teacher is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.data import load
from tensorbench.core.run import Run
from tensorbench.core.timing import WorkClock
from tensorbench.radiance_fields import metrics
from tensorbench.radiance_fields.distill import RandomRays, View, Weights, distill, mode
from tensorbench.radiance_fields.distill.kinds import from_arrays, make
from tensorbench.radiance_fields.distill.pair import rates
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.rendering import render_image
from tensorbench.radiance_fields.tensorf.alpha_mask import AlphaMask
from tensorbench.radiance_fields.tensorf.schedule import Schedule
from tensorbench.radiance_fields.training import settled, train

METHODS = {"distilled": None, "scratch": None}
CURVE_VIEWS = 2  # of the validation views, for the histories
POINTS = 4  # of a history


def scenery(run: Run) -> dict[str, Any]:
    """The parameters of the teacher's scene."""
    p = run.dataset.params
    return {"scene": p.get("scene", "spheres"), "size": p.get("size", 64), "train": p.get("views", 40)}


def teacher_of(run: Run, data: Any) -> tuple[Field, AlphaMask]:
    """The data set's field and its occupancy grid."""
    p = run.dataset.params
    teacher = make(p.get("kind", "vm"), torch.from_numpy(data.box), paper_size=p.get("paper_size", False))
    mask = from_arrays(teacher, run.dataset.load(0))
    if mask is None:
        raise ValueError("the teacher came without an occupancy grid")
    return teacher.to(run.device).eval(), mask.to(run.device)


def pictures(field: Field, data: Any, views: Any, count: int, samples: int, mask: AlphaMask | None) -> torch.Tensor:
    """What a field shows at the first ``count`` poses of views."""
    view = View.of(data)
    shown = [
        render_image(field, view.camera, pose, view.near, view.far, samples, view.background, alpha_mask=mask).rgb
        for pose in torch.from_numpy(views.c2w[:count]).float()
    ]
    return torch.stack(shown).cpu()


def mean_psnr(shown: torch.Tensor, views: Any) -> float:
    """Mean over views, in dB."""
    return float(np.mean([metrics.psnr(a, torch.from_numpy(b)) for a, b in zip(shown, views.images, strict=False)]))


def run(run: Run) -> None:
    """One student of one teacher."""
    data = load("analytic_scene", seed=0, **scenery(run))
    teacher, occupied = teacher_of(run, data)
    mask: AlphaMask | None = occupied
    options = dict(run.method.params)
    samples = options["samples"]
    generator = run.generator
    large = run.dataset.params.get("paper_size", False)
    student = make(options["student"], torch.from_numpy(data.box), generator, paper_size=large)
    student = student.to(run.device)
    every = max(1, options["steps"] // POINTS)
    clock = WorkClock()

    def look(field: Field, where: AlphaMask | None) -> Mapping[str, float]:
        used = clock.elapsed()
        with clock.paused():
            psnr = mean_psnr(pictures(field, data, data.valid, CURVE_VIEWS, samples, where), data.valid)
        return {"valid_psnr_db": psnr, "cpu_seconds_at": used}

    with run.time("fit"):
        if run.method.uses == "distilled":
            stages, weights = mode(options["mode"], options["steps"], Weights())
            found = distill(
                teacher, student, View.of(data), steps=options["steps"], rays=options["rays"], samples=samples,
                stages=stages, weights=weights, occupied=occupied, inherited=options["mode"] != "rgb_only",
                groups=rates(student, options["lr"], options["lr_net"]), generator=generator,
                source=RandomRays(data.train.camera, generator=generator),
                evaluate=lambda _: look(student, mask), evaluate_every=every,
                log=run.log, log_every=every,
            )  # fmt: skip
            settled(found.history)
        else:
            mask = _scratch(run, student, data, look, options, every)
    run.log(fit_train_cpu_seconds=clock.elapsed())
    shown = pictures(student, data, data.test, len(data.test.images), samples, mask)
    taught = pictures(teacher, data, data.test, len(data.test.images), samples, occupied)
    psnr, teacher_psnr = mean_psnr(shown, data.test), mean_psnr(taught, data.test)
    ssim = np.mean([metrics.ssim(a, torch.from_numpy(b)) for a, b in zip(shown, data.test.images, strict=True)])
    run.log(psnr_db=psnr, ssim=float(ssim), teacher_psnr_db=teacher_psnr, gap_db=psnr - teacher_psnr,
            weights=float(sum(p.numel() for p in student.parameters())))  # fmt: skip
    if run.seed == 0:
        np.savez_compressed(
            run.artifact("views.npz"), truth=_bytes(torch.from_numpy(data.test.images[:1])), teacher=_bytes(taught[:1]),
            student=_bytes(shown[:1]),
        )  # fmt: skip


def _scratch(run: Run, student: Field, data: Any, look: Any, options: dict[str, Any], every: int) -> AlphaMask | None:
    """Train on the pictures; empty space is marked after a quarter and half of the steps."""
    steps = options["steps"]
    lr = options["lr"] * (0.1 if options["student"] == "mlp" else 1.0)  # as in `rates`
    plan = Schedule(
        mask=(steps // 4, steps // 2), shrink=False, mask_resolution=(48, 48, 48), lr_grid=lr,
        lr_net=lr if options["student"] in ("mlp", "hash") else options["lr_net"],
    )  # fmt: skip
    trained = train(
        student, data, generator=run.generator, steps=steps, rays=options["rays"], samples=options["samples"],
        schedule=plan, evaluate=lambda state: look(state.field, state.alpha_mask), evaluate_every=every,
        log=run.log, log_every=every,
    )  # fmt: skip
    settled(trained.history)
    return trained.alpha_mask


def _bytes(images: torch.Tensor) -> np.ndarray:
    return (images.clamp(0, 1) * 255).round().byte().numpy()


def same_time(records: pd.DataFrame) -> list[float]:
    """PSNR of the distilled network on the validation views less that of training from scratch when as many CPU
    seconds of training have gone by (linear between the points of its history), in dB, seed by seed."""
    psnr, used = (rec.history(records, name) for name in ("valid_psnr_db", "cpu_seconds_at"))
    curves = psnr.merge(used, on=["dataset", "method", "seed", "step"], suffixes=("", "_used"))
    gains = []
    for _, run_ in curves.groupby("seed"):
        ours = run_[run_["method"] == "mlp"].sort_values("step").iloc[-1]
        theirs = run_[run_["method"] == "mlp_scratch_3x"].sort_values("step")
        at = np.interp(ours["value_used"], theirs["value_used"], theirs["value"])
        gains.append(float(ours["value"] - at))
    return gains


# --- figures ---------------------------------------------------------------------------------------------------------

CURVES = {
    "MLP student, from VM": ("mlp", "mlp_rgb", "mlp_scratch", "mlp_scratch_3x"),
    "VM student, from hash": ("vm", "vm_rgb"),
    "hash student, from VM": ("hash", "hash_rgb"),
}


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Curves over steps and time, final quality by student and mode, pictures."""
    yield "curves", _curves(records)
    yield "conversions", _conversions(records)
    yield "views", _views(records)


def _curves(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=3, rows=2, height=11.5, sharey=True)
    psnr = rec.history(records, "valid_psnr_db")
    used = rec.history(records, "cpu_seconds_at")
    both = psnr.merge(used, on=["dataset", "method", "seed", "step"], suffixes=("", "_used"))
    for column, (title, names) in enumerate(CURVES.items()):
        part = both[both["method"].isin(names)]
        top, bottom = axes[0][column], axes[1][column]
        top.set_title(title)
        plotting.series(top, part, "step", "value", order=names, reducer="median")
        top.set(xlabel="step", ylabel="PSNR (dB)" if column == 0 else "")
        for name in names:
            mine = part[part["method"] == name].groupby("step").mean(numeric_only=True)
            if len(mine):
                bottom.plot(mine["value_used"], mine["value"], **plotting.style(name))
        bottom.set(xlabel="CPU time of training (s)", ylabel="PSNR (dB)" if column == 0 else "")
        if not len(part):
            plotting.empty(bottom)
    plotting.legend(fig)
    return fig


def _conversions(records: pd.DataFrame) -> Figure:
    fig, ax = plotting.figure(columns=1)
    frame = records[records["method"].isin([m for m in records["method"] if "scratch" not in m])].copy()
    if frame.empty:
        plotting.empty(ax)
        return fig
    frame["student"] = [m.removesuffix("_rgb") for m in frame["method"]]
    frame["mode"] = ["pixels alone" if m.endswith("_rgb") else "progressive" for m in frame["method"]]
    plotting.bars(ax, frame, "gap_db", group="student", by="mode")
    ax.axhline(0, color="#555555", linewidth=0.6)
    plotting.reference(ax, y=-3)
    ax.set(ylabel="student − teacher (dB)", xlabel="student")
    plotting.legend(ax, loc="lower left")
    return fig


SHOWN = ("hash", "voxel", "mlp", "mlp_rgb", "mlp_scratch")


def _views(records: pd.DataFrame) -> Figure:
    files = rec.artifacts(records, "views.npz")
    pairs = zip(files["method"], files["path"], strict=True)
    found = {method: dict(np.load(path)) for method, path in pairs if method in SHOWN}
    if not found:
        return plotting.nothing()
    first = next(iter(found.values()))
    shown = {"truth": first["truth"][0], "VM teacher": first["teacher"][0]}
    shown |= {plotting.label(name): found[name]["student"][0] for name in SHOWN if name in found}
    fig, axes = plotting.figure(columns=2, rows=2, cols=len(shown), height=15.4 / len(shown) * 2 + 1.4, squeeze=False)
    truth = first["truth"][0] / 255
    for column, (name, picture) in enumerate(shown.items()):
        error = np.abs(picture / 255 - truth).mean(-1)
        psnr = -10 * np.log10(max(float(((picture / 255 - truth) ** 2).mean()), 1e-10))
        axes[0][column].imshow(picture, interpolation="nearest")
        axes[0][column].set_title(name, fontsize=7)
        image = axes[1][column].imshow(error, interpolation="nearest", cmap="magma", vmin=0, vmax=0.3)
        axes[1][column].set_xlabel("" if column == 0 else f"{psnr:.1f} dB", fontsize=8)
        for ax in (axes[0][column], axes[1][column]):
            plotting.bare(ax)
    axes[1][0].set_ylabel("|error|")
    fig.colorbar(image, ax=list(axes[1]), fraction=0.02, pad=0.01)
    return fig
