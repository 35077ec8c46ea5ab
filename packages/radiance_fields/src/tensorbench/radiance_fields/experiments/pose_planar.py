"""Patches of a picture aligned while the picture is learnt: a low-rank picture by recipe, and BARF's network.

Every method is ``METHODS[name](generator, **params)``, the picture to be learnt, and the recipe that its parameters
name. PSNR is that of the patches rendered without blur through the learnt homographies; errors are distances in sl(3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.radiance_fields.joint_pose.images import BarfImage, CPImage
from tensorbench.radiance_fields.joint_pose.planar import Alignment, PlanarTask, Recipe, align, corners, pixel_grid
from tensorbench.radiance_fields.joint_pose.schedules import C2F, FIXED, BarfSchedule, RandomScale
from tensorbench.radiance_fields.joint_pose.targets import EdgeMask

SHOWN = ("naive", "blur_3d", "blur_targets", "full", "barf")
FRAMES = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")


def low_rank(generator: torch.Generator, *, size: int, rank: int) -> nn.Module:
    return CPImage(size, rank, generator)


def barf(generator: torch.Generator, *, width: int, depth: int, levels: int, start: float, end: float) -> nn.Module:
    return BarfImage(generator, width=width, depth=depth, levels=levels, schedule=BarfSchedule(start, end))


def hash_grid(generator: torch.Generator, **options: Any) -> nn.Module:
    from tensorbench.radiance_fields.joint_pose.hash_image import HashImage

    return HashImage(generator, **options)


METHODS: dict[str, Callable[..., nn.Module]] = {"low_rank": low_rank, "barf": barf, "hash_grid": hash_grid}


def recipe_of(blur: list[float], targets: list[float], random: bool, mask: bool, kernel: str) -> Recipe:
    """What the entries of a method say: schedules of field and targets, random scales, edge mask, kind of kernel."""
    return Recipe(
        C2F(tuple(blur), tuple(targets)), RandomScale() if random else FIXED, EdgeMask() if mask else None, kernel
    )


def run(run: Run) -> None:
    """One alignment."""
    task: PlanarTask = run.dataset.load(run.seed)
    options = dict(run.method.params)
    recipe = recipe_of(*(options.pop(key) for key in ("blur", "targets", "random", "mask", "kernel")))
    fitting = {key: options.pop(key) for key in ("steps", "lr", "lr_warp", "warmup", "pixels", "tv")}
    task = PlanarTask(*(part.to(run.device) for part in (task.image, task.patches, task.warps)))
    generator = run.generator
    image = METHODS[run.method.uses](generator, **options).to(run.device)
    animate = run.method.name == "full" and run.seed == 0
    with run.time("fit"):
        found = align(task, image, generator=generator, recipe=recipe, keep_pictures=animate, **fitting)
    for step, error, psnr in found.curve:
        run.log(step=step, sl3_error_at=error, psnr_at=psnr)
    whole = found.pictures[-1].clamp(0, 1)
    run.log(sl3_error=found.error, psnr_db=found.psnr, initial_error=found.curve[0][1],
            weights=sum(p.numel() for p in image.parameters()))  # fmt: skip
    if run.seed == 0:
        np.savez_compressed(run.artifact("picture.npz"), learnt=(255 * whole.cpu().numpy()).round().astype(np.uint8),
                            truth=(255 * task.image.cpu().numpy()).round().astype(np.uint8),
                            warps=found.warps.cpu().numpy(), true_warps=task.warps.cpu().numpy(),
                            crop=task.patches.shape[1], psnr=found.psnr, error=found.error)  # fmt: skip
    if animate:
        _animation(found, task, run)


def _animation(found: Alignment, task: PlanarTask, run: Run) -> None:
    """A GIF: the frames of the patches on the picture while they find their places, beside the picture as learnt."""
    import imageio.v3 as iio

    h, w, _ = task.image.shape
    truth = task.image.cpu().numpy()
    films = []
    for warps, picture in zip(found.path, found.pictures, strict=True):
        fig, axes = plotting.figure(columns=2, cols=2, height=6)
        _show(axes[0], truth)
        _frames(axes[0], h, w, task.patches.shape[1], warps.cpu(), task.warps.cpu())
        _show(axes[1], picture.clamp(0, 1).cpu().numpy())
        fig.canvas.draw()
        films.append(np.asarray(fig.canvas.buffer_rgba())[::2, ::2, :3])  # type: ignore[attr-defined]
    iio.imwrite(run.artifact("alignment.gif"), np.stack(films), duration=120, loop=0)


def _show(ax: Axes, picture: np.ndarray) -> None:
    ax.imshow(picture, interpolation="nearest", vmin=0, vmax=255 if picture.dtype == np.uint8 else 1)
    plotting.bare(ax)


def _frames(ax: Axes, h: int, w: int, crop: int, warps: torch.Tensor, truth: torch.Tensor) -> None:
    """Outlines of the patches where they belong (dotted white) and where they were put."""
    for true, found, colour in zip(corners(h, w, crop, truth), corners(h, w, crop, warps), FRAMES, strict=True):
        for at, ink, line, width in ((true, "white", ":", 1.0), (found, colour, "-", 1.2)):
            closed = torch.cat([at, at[:1]]).numpy()
            ax.plot(closed[:, 0], closed[:, 1], marker="", color=ink, linestyle=line, linewidth=width)
    ax.set(xlim=(-0.5, w - 0.5), ylim=(h - 0.5, -0.5))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """What was recovered, the errors on the way, and all recipes side by side."""
    yield "recovered", recovered(records)
    yield "curves", curves(records)
    yield "ablation", ablation(records)


def recovered(records: pd.DataFrame) -> Figure:
    """Frames on the picture above, the picture as learnt below, and its error."""
    files = rec.artifacts(records, "picture.npz")
    kept = {method: dict(np.load(path)) for method, path in zip(files["method"], files["path"], strict=True)}
    names = [name for name in SHOWN if name in kept]
    if not names:
        return plotting.nothing()
    fig, axes = plotting.figure(columns=2, rows=3, cols=len(names), height=16 / len(names) * 2.25 + 1.4, squeeze=False)
    for column, name in enumerate(names):
        one = kept[name]
        h, w, _ = one["truth"].shape
        _show(axes[0][column], one["truth"])
        _frames(axes[0][column], h, w, int(one["crop"]), torch.from_numpy(one["warps"]),
                torch.from_numpy(one["true_warps"]))  # fmt: skip
        axes[0][column].set_title(plotting.label(name), fontsize=8)
        axes[0][column].set_xlabel(f"sl(3) error {float(one['error']):.3f}")
        _show(axes[1][column], one["learnt"])
        axes[1][column].set_xlabel(f"patches {float(one['psnr']):.1f} dB")
        difference = np.abs(one["learnt"].astype(float) - one["truth"]).mean(-1) / 255
        seen = _seen(h, w, int(one["crop"]), torch.from_numpy(one["true_warps"]))
        image = axes[2][column].imshow(np.where(seen, difference, np.nan), vmin=0, vmax=0.3, cmap="magma",
                                       interpolation="nearest")  # fmt: skip
        plotting.bare(axes[2][column])
    for row, text in enumerate(("frames", "learnt", "error")):
        axes[row][0].set_ylabel(text)
    fig.colorbar(image, ax=axes[2].tolist(), shrink=0.9, pad=0.01)
    return fig


def _seen(h: int, w: int, crop: int, warps: torch.Tensor) -> np.ndarray:
    """True at pixels that lie in some patch."""
    from matplotlib.path import Path

    points = pixel_grid(h, w)
    at = torch.stack(
        [(points[:, 0] * max(h, w) / w + 1) / 2 * w - 0.5, (points[:, 1] * max(h, w) / h + 1) / 2 * h - 0.5]
    )
    inside = [Path(four.numpy()).contains_points(at.mT.numpy()) for four in corners(h, w, crop, warps)]
    return np.any(inside, 0).reshape(h, w)


def curves(records: pd.DataFrame) -> Figure:
    """Errors and PSNR over the steps, with the paper's numbers."""
    fig, axes = plotting.figure(columns=2, cols=2, height=7.5)
    errors, psnr = rec.history(records, "sl3_error_at"), rec.history(records, "psnr_at")
    shown = [*SHOWN, "hash"]
    plotting.series(axes[0], errors[errors["method"].isin(shown)], "step", "value", log="y")
    axes[0].set(xlabel="step", ylabel="sl(3) error")
    plotting.series(axes[1], psnr[psnr["method"].isin(shown)], "step", "value")
    axes[1].set(xlabel="step", ylabel="PSNR of the patches (dB)")
    plotting.reference(axes[0], y=0.0023, text="paper, full (15 000 steps)")
    plotting.reference(axes[1], y=40.70, text="paper, full")
    plotting.legend(fig)
    return fig


def ablation(records: pd.DataFrame) -> Figure:
    """All recipes: error and PSNR."""
    fig, axes = plotting.figure(columns=2, cols=2, height=8.0)
    plotting.bars(axes[0], records, "sl3_error", log=True)
    axes[0].set(ylabel="sl(3) error", xticks=[])
    plotting.bars(axes[1], records, "psnr_db", log=False)
    axes[1].set(ylabel="PSNR of the patches (dB)", xticks=[])
    plotting.legend(fig)
    return fig
