"""A radiance field learnt from views whose poses are noisy: naive, from coarse to fine, and by other fields.

Every method is ``METHODS[name](box, generator, **params)``, a field; the plan of the joint optimisation comes from the
other parameters. Errors are means over training cameras after the best similarity; test views are moved into the
learnt frame and refined photometrically before they are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.joint_pose.fields import BarfField, BlurredVM, JointHash
from tensorbench.radiance_fields.joint_pose.schedules import C2F, FIXED, BarfSchedule, RandomScale
from tensorbench.radiance_fields.joint_pose.targets import EdgeMask
from tensorbench.radiance_fields.joint_pose.trainer import JointPlan, novel_views, tensor_of, train_joint
from tensorbench.radiance_fields.metrics import psnr, ssim
from tensorbench.radiance_fields.poses import perturbed, pose_errors
from tensorbench.radiance_fields.tensorf.schedule import log_spaced

SHOWN = ("known_poses", "naive", "full", "barf", "hash")


def tensorf(
    box: torch.Tensor, generator: torch.Generator, *, first: int, rank_sigma: int, rank_color: int, width: int
) -> Field:
    return BlurredVM(box, (first, first, first), rank_sigma, rank_color, width=width, generator=generator)


def barf(box: torch.Tensor, generator: torch.Generator, *, start: float, end: float, **options: Any) -> Field:
    return BarfField(box, schedule=BarfSchedule(start, end), generator=generator, **options)


def hash_grid(box: torch.Tensor, generator: torch.Generator, **options: Any) -> Field:
    return JointHash(box, generator=generator, **options)


METHODS: dict[str, Callable[..., Field]] = {"tensorf": tensorf, "barf": barf, "hash_grid": hash_grid}
PLAN = ("steps", "rays", "samples", "lr_grid", "lr_net", "lr_pose", "warmup", "kernel", "l1")


def plan_of(options: dict[str, Any]) -> JointPlan:
    """The plan that a method's parameters describe; takes them out of ``options``."""
    recipe = {key: options.pop(key) for key in ("blur", "targets", "random", "mask")}
    growth, plan = options.pop("growth", None), {key: options.pop(key) for key in PLAN}
    upsample: dict[int, int] = {}
    if growth is not None:
        shares, last = growth["at"], growth["last"]
        voxels = log_spaced(options["first"] ** 3, last**3, len(shares))
        upsample = {max(1, round(share * plan["steps"])): n for share, n in zip(shares, voxels, strict=True)}
    mask_at = options.pop("empty_at", None)
    return JointPlan(
        c2f=C2F(tuple(recipe["blur"]), tuple(recipe["targets"])), scales=RandomScale() if recipe["random"] else FIXED,
        mask=EdgeMask() if recipe["mask"] else None, upsample=upsample,
        mask_at=None if mask_at is None else max(1, round(mask_at * plan["steps"])), **plan,
    )  # fmt: skip


def run(run: Run) -> None:
    """One joint optimisation, its errors, and its test views."""
    noise = run.dataset.params["noise"]
    data = run.dataset.load(0)
    options = dict(run.method.params)
    evaluation = {key: options.pop(key) for key in ("test_steps", "test_samples")}
    plan = plan_of(options)
    generator = run.generator
    true = tensor_of(data.train.c2w)
    known = plan.lr_pose == 0
    initial = true.clone() if known else perturbed(true, noise, generator)
    field = METHODS[run.method.uses](tensor_of(data.box), generator, **options).to(run.device)
    with run.time("fit"):
        found = train_joint(field, data, initial, plan, generator)
    errors = pose_errors(found.c2w.cpu(), true)
    before = pose_errors(initial, true)
    for step, rotation, translation in found.curve:
        run.log(step=step, rotation_at=rotation, translation_at=translation)
    with run.time("evaluate"):
        shown = novel_views(field, data, found, generator, samples=evaluation["test_samples"],
                            refine_samples=plan.samples, steps=0 if known else evaluation["test_steps"])  # fmt: skip
    truth = tensor_of(data.test.images)
    pictures = shown.pictures.cpu()
    run.log(
        rotation=errors.rotation.mean(), translation=errors.translation.mean(),
        initial_rotation=before.rotation.mean(), initial_translation=before.translation.mean(),
        rotation_share=1.0 if known else errors.rotation.mean() / before.rotation.mean(),
        worst_rotation=errors.rotation.max(),
        test_psnr_db=_mean(psnr, pictures, truth), test_ssim=_mean(ssim, pictures, truth),
        unrefined_psnr_db=_mean(psnr, shown.unrefined.cpu(), truth),
        weights=sum(p.numel() for p in field.parameters()),
    )  # fmt: skip
    if run.seed == 0:
        np.savez_compressed(
            run.artifact("views.npz"), learnt=(255 * pictures[:2].numpy()).round().astype(np.uint8),
            truth=(255 * truth[:2].numpy()).round().astype(np.uint8),
            trajectory=torch.stack(found.trajectory)[:, :, :3].numpy().astype(np.float32),
            true=true[:, :3].numpy().astype(np.float32), psnr=_mean(psnr, pictures, truth),
            steps=[step for step, _, _ in found.curve], rotation=float(errors.rotation.mean()),
        )  # fmt: skip


def _mean(metric: Any, ours: torch.Tensor, truth: torch.Tensor) -> float:
    return float(np.mean([float(metric(a, b)) for a, b in zip(ours, truth, strict=True)]))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Test views with errors; the cameras' way home; errors over the steps."""
    yield "views", views(records)
    yield "cameras", cameras(records)
    yield "curves", curves(records)


def _kept(records: pd.DataFrame, dataset: str | None = None) -> tuple[str, dict[str, dict[str, np.ndarray]]]:
    files = rec.artifacts(records, "views.npz")
    if not len(files):
        return "", {}
    dataset = dataset or str(files["dataset"].iloc[0])
    files = files[files["dataset"] == dataset]
    found = {method: dict(np.load(path)) for method, path in zip(files["method"], files["path"], strict=True)}
    return dataset, found


def views(records: pd.DataFrame) -> Figure:
    """A test view of each scene by each method beside the truth, and its error."""
    names = list(pd.unique(records["dataset"])) if len(records) else []
    scenes = [(name, kept) for name in names if (kept := _kept(records, name)[1])]
    if not scenes:
        return plotting.nothing()
    methods = [name for name in SHOWN if any(name in kept for _, kept in scenes)]
    cols = len(methods) + 1
    fig, axes = plotting.figure(columns=2, rows=2 * len(scenes), cols=cols, squeeze=False,
                                height=2 * len(scenes) * 15.0 / cols * 1.12 + 0.6)  # fmt: skip
    image = None
    for k, (scene, kept) in enumerate(scenes):
        first = next(iter(kept.values()))
        above, below = axes[2 * k], axes[2 * k + 1]
        above[0].imshow(first["truth"][0], interpolation="nearest")
        above[0].set_ylabel(plotting.label(scene))
        below[0].set_visible(False)
        if k == 0:
            above[0].set_title("truth")
        for ax, error_ax, name in zip(above[1:], below[1:], methods, strict=True):
            if name in kept:
                ax.imshow(kept[name]["learnt"][0], interpolation="nearest")
                error = np.abs(kept[name]["learnt"][0].astype(float) - first["truth"][0]).mean(-1) / 255
                image = error_ax.imshow(error, vmin=0, vmax=0.4, cmap="magma", interpolation="nearest")
                ax.set_xlabel(f"{float(kept[name]['psnr']):.1f} dB, {float(kept[name]['rotation']):.2g}°")
            if k == 0:
                ax.set_title(plotting.label(name))
    for ax in axes.flat:
        plotting.bare(ax)
    if image is not None:
        fig.colorbar(image, ax=axes[:, -1].tolist(), shrink=0.5, pad=0.02)
    return fig


def cameras(records: pd.DataFrame) -> Figure:
    """Centres of the cameras seen from above, from where they began to where they came."""
    far = "blocks_far" if len(records) and (records["dataset"] == "blocks_far").any() else None
    _, kept = _kept(records, far)
    names = [name for name in ("naive", "full", "naive_fine", "full_fine") if name in kept]
    if not names:
        return plotting.nothing()
    fig, axes = plotting.figure(columns=2, cols=len(names), height=16 / len(names) + 1.6, squeeze=False, sharey=True)
    for ax, name in zip(axes[0], names, strict=True):
        one = kept[name]
        path, true = one["trajectory"][:, :, :, 3], one["true"][:, :, 3]
        for k in range(path.shape[1]):
            ax.plot(path[:, k, 0], path[:, k, 1], color="#999999", linewidth=0.7, marker="")
            ax.plot(
                [path[-1, k, 0], true[k, 0]], [path[-1, k, 1], true[k, 1]], color="#D55E00", linewidth=1.0, marker=""
            )
        ax.plot(true[:, 0], true[:, 1], linestyle="", marker="o", mfc="none", color="black", label="true")
        ax.plot(path[0, :, 0], path[0, :, 1], linestyle="", marker=".", markersize=3, color="#56B4E9", label="noisy")
        ax.plot(path[-1, :, 0], path[-1, :, 1], linestyle="", marker=".", color="#D55E00", label="recovered")
        ax.set(aspect="equal", title=f"{plotting.label(name)}: {float(one['rotation']):.2g}°", xlabel="x (scene units)")
        ax.title.set_fontsize(7.5)
    axes[0][0].set_ylabel("y (scene units)")
    plotting.legend(fig)
    return fig


def curves(records: pd.DataFrame) -> Figure:
    """Rotation error over the steps, a panel for each scene."""
    found = rec.history(records, "rotation_at")
    names = list(pd.unique(found["dataset"])) or ["none"]
    fig, axes = plotting.figure(columns=2, cols=len(names), height=7, squeeze=False, sharey=True)
    for ax, name in zip(axes[0], names, strict=True):
        part = found[(found["dataset"] == name) & (found["method"] != "known_poses")]
        plotting.series(ax, part, "step", "value", log="y")
        ax.set(title=plotting.label(name), xlabel="step", ylabel="rotation error (degrees)" if ax is axes[0][0] else "")
    plotting.reference(axes[0][0], y=0.40, text="paper, mean of 8 scenes")
    plotting.legend(fig)
    return fig
