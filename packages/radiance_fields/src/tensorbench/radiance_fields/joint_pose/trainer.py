"""A radiance field and the poses of the cameras that saw it, learnt together.

Cheng, Chiu and Liu 2024 (arXiv 2402.13252) on TensoRF; with the default :class:`JointPlan`, which blurs nothing, the
naive joint optimisation, and with another field BARF's or a hash grid's. Twists of all cameras act on the initial
poses (:class:`~tensorbench.radiance_fields.poses.PoseEmbedding`), rays of random pixels of random views are rendered
through them, all in one batch. An alpha mask is not used while the field is blurred. The reconstruction is known up to
a similarity, so that test views are moved into its frame and then refined photometrically.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tensorbench.core.training import History, fit
from tensorbench.radiance_fields.cameras import camera_rays
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.joint_pose.fields import BlurredVM
from tensorbench.radiance_fields.joint_pose.kernels import OFF
from tensorbench.radiance_fields.joint_pose.schedules import C2F, FIXED, NONE, RandomScale, falling_rates
from tensorbench.radiance_fields.joint_pose.targets import BlurredTargets, EdgeMask
from tensorbench.radiance_fields.poses import PoseEmbedding, pose_errors, se3_exp, warn_far
from tensorbench.radiance_fields.rendering import render_image, render_rays
from tensorbench.radiance_fields.tensorf.alpha_mask import build_alpha_mask
from tensorbench.radiance_fields.tensorf.grids import resolution_of
from tensorbench.radiance_fields.training import background_of

if TYPE_CHECKING:
    from tensorbench.radiance_fields.cameras import Camera
    from tensorbench.radiance_fields.views import SceneData, Views


@dataclass(frozen=True)
class JointPlan:
    """How to optimise; rates are the authors' (grid 0.01, network 5e-4, poses 1e-3, all falling to a tenth).

    ``c2f`` in units of the scene (field) and in shares of an image's mean side (targets); ``upsample`` voxels by step;
    ``mask_at`` the step after which empty space is skipped (once nothing is blurred); ``l1`` the weight of the
    density's L1 penalty, of fields that have it. ``lr_pose`` 0 keeps the poses as they are, ``warmup`` is
    the share of the steps over which it rises from zero.
    """

    steps: int = 500
    rays: int = 512
    samples: int = 64
    lr_grid: float = 0.01
    lr_net: float = 5e-4
    lr_pose: float = 1e-3
    decay: float = 0.1
    warmup: float = 0.0
    c2f: C2F = NONE
    scales: RandomScale = FIXED
    mask: EdgeMask | None = None
    kernel: str = "gaussian"
    refresh: int = 25
    upsample: dict[int, int] = field(default_factory=dict)
    mask_at: int | None = None
    l1: float = 8e-5


@dataclass
class JointResult:
    """Learnt poses, and their errors (degrees, scene units) after alignment with the true ones over the steps."""

    c2w: Float[Tensor, "n 4 4"]
    history: History
    curve: list[tuple[int, float, float]]
    trajectory: list[Float[Tensor, "n 4 4"]]
    mask: nn.Module | None = None


def tensor_of(values: Any, device: torch.device | str = "cpu") -> Tensor:
    """An array of a data set as a tensor of its own in single precision."""
    if isinstance(values, Tensor):
        return values.to(device=device, dtype=torch.float32)
    return torch.tensor(np.asarray(values), dtype=torch.float32, device=device)


def pixel_directions(camera: Camera) -> Float[Tensor, "p 3"]:
    """Unit directions of all pixels, row by row, in the camera's own axes."""
    _, directions = camera_rays(camera, torch.eye(4))
    return directions.reshape(-1, 3)


def rays_through(
    c2w: Float[Tensor, "n 4 4"], local: Float[Tensor, "p 3"], view: Int[Tensor, "m"], pixel: Int[Tensor, "m"]
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3"]]:
    """Origins and directions of rays of given views and pixels, differentiable in the poses; no loop over cameras."""
    pose = c2w[view]
    return pose[:, :3, 3], (pose[:, :3, :3] @ local[pixel][:, :, None])[:, :, 0]


def train_joint(
    field: Field, data: SceneData, initial: Float[Tensor, "n 4 4"], plan: JointPlan, generator: torch.Generator, *,
    every: int = 25, true: Float[Tensor, "m 4 4"] | None = None,
) -> JointResult:  # fmt: skip
    """Train ``field`` in place on the training views as seen from ``initial`` poses, which are refined.

    Args:
        true: true poses, for the curve of errors only; the scene's own unless given.

    Raises:
        ValueError: another number of poses than views.
        RuntimeError: a pose or the loss is no longer finite.
    """
    views = data.train
    if len(initial) != len(views.images):
        raise ValueError(f"{len(initial)} poses for {len(views.images)} images; each image needs its camera")
    device = field.box.device
    images, initial = tensor_of(views.images, device), initial.to(device)
    true = tensor_of(views.c2w if true is None else true, device)
    count, h, w, _ = images.shape
    local = pixel_directions(views.camera).to(device)
    background = background_of(data).to(device)
    embedding = PoseEmbedding(count).to(device)
    targets = BlurredTargets(images, plan.scales.pool2d, kind=plan.kernel, every=plan.refresh, mask=plan.mask)
    state: dict[str, nn.Module | None] = {"mask": None}

    def batches() -> Iterator[tuple[int, Tensor, Tensor]]:
        for step in range(plan.steps):
            view = torch.randint(count, (plan.rays,), generator=generator)
            pixel = torch.randint(h * w, (plan.rays,), generator=generator)
            yield step, view.to(device), pixel.to(device)

    def loss(_: nn.Module, batch: tuple[int, Tensor, Tensor]) -> Tensor:
        step, view, pixel = batch
        progress = step / plan.steps
        targets.refresh(step, plan.c2f.images(progress))
        share3d, share2d = plan.scales.draw(generator)
        width = plan.c2f.field(progress)
        if hasattr(field, "progress"):
            field.progress = progress  # type: ignore[assignment]
        origins, directions = rays_through(embedding.refine(initial), local, view, pixel)
        blur = field.blurred(width * share3d, width, plan.kernel) if isinstance(field, BlurredVM) else nullcontext()
        with blur:
            seen = render_rays(
                field, origins, directions, data.near, data.far, plan.samples, background,
                alpha_mask=state["mask"] if width < OFF else None, generator=generator,
            )  # fmt: skip
        squared = (seen.rgb - targets.at(share2d)[view, pixel // w, pixel % w]).square().mean(-1)
        if plan.mask is not None and targets.weights is not None and plan.mask.active(step, plan.steps):
            squared = squared * targets.weights.flatten(1)[view, pixel]
        value = squared.mean()
        penalties = field.regularizers() if plan.l1 else {}
        return value + plan.l1 * penalties["l1"] if "l1" in penalties else value

    result = JointResult(initial, History(), [], [])

    def look(step: int) -> None:
        with torch.no_grad():
            c2w = embedding.refine(initial)
        errors = pose_errors(c2w, true)
        result.curve.append((step, float(errors.rotation.mean()), float(errors.translation.mean())))
        result.trajectory.append(errors.aligned.cpu())

    groups = [{"params": [embedding.twist], "lr": plan.lr_pose}, *field.parameter_groups(plan.lr_grid, plan.lr_net)]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))

    def after(step: int, _: float) -> None:
        if step in plan.upsample:
            field.upsample(resolution_of(plan.upsample[step], field.box))  # type: ignore[operator]
            _replace(optimizer, field, plan)
        if step == plan.mask_at:
            found = build_alpha_mask(field)
            state["mask"] = found if bool(found.cells.any()) else None
        if step % every == 0 or step == plan.steps:
            look(step)

    look(0)
    rates = falling_rates(optimizer, plan.steps, plan.decay, plan.warmup, last=False)
    result.history = fit(field, batches(), loss, optimizer, steps=plan.steps, schedule=rates, callback=after)
    if result.history.diverged:
        raise RuntimeError(f"joint training diverged after {result.history.steps} steps; lower the rates")
    if hasattr(field, "progress"):
        field.progress = 1.0  # type: ignore[assignment]
    warn_far(initial, embedding.twist.detach(), field.box)
    with torch.no_grad():
        result.c2w = embedding.refine(initial)
    result.mask = state["mask"]
    return result


def _replace(optimizer: torch.optim.Optimizer, field: Field, plan: JointPlan) -> None:
    """The field's parameters are new after growth: put them in place of the old ones, at the current rates."""
    fresh = field.parameter_groups(plan.lr_grid, plan.lr_net)
    for old, new in zip(optimizer.param_groups[1:], fresh, strict=True):
        kept = {id(parameter) for parameter in new["params"]}
        for parameter in old["params"]:
            if id(parameter) not in kept:
                optimizer.state.pop(parameter, None)
        old["params"] = new["params"]


def refine_views(
    field: Field, views: Views, start: Float[Tensor, "n 4 4"], near: float, far: float,
    background: Float[Tensor, "3"], *, steps: int = 400, rays: int = 512, samples: int = 64, lr: float = 1e-3,
    decay: float = 0.1, generator: torch.Generator, mask: nn.Module | None = None,
) -> Float[Tensor, "n 4 4"]:  # fmt: skip
    """Poses of views that the field, kept as it is, shows best: all views at once, from ``start``.

    Raises:
        ValueError: another number of poses than views.
        RuntimeError: a pose is no longer finite.
    """
    if len(start) != len(views.images):
        raise ValueError(f"{len(start)} poses for {len(views.images)} images; each image needs its camera")
    device = field.box.device
    images, start = tensor_of(views.images, device), start.to(device)
    count, h, w, _ = images.shape
    local = pixel_directions(views.camera).to(device)
    twist = torch.zeros(count, 6, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([twist], lr=lr)
    wanted = [parameter.requires_grad for parameter in field.parameters()]
    field.requires_grad_(False)
    try:
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * decay ** (step / steps)
            view = torch.randint(count, (rays,), generator=generator).to(device)
            pixel = torch.randint(h * w, (rays,), generator=generator).to(device)
            origins, directions = rays_through(se3_exp(twist[:, :3], twist[:, 3:]) @ start, local, view, pixel)
            seen = render_rays(field, origins, directions, near, far, samples, background, alpha_mask=mask,
                               generator=generator)  # fmt: skip
            value = (seen.rgb - images[view, pixel // w, pixel % w]).square().mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    finally:
        for parameter, was in zip(field.parameters(), wanted, strict=True):
            parameter.requires_grad_(was)
    if not bool(torch.isfinite(twist).all()):
        raise RuntimeError("a pose is NaN or infinite: lower lr of the refinement")
    with torch.no_grad():
        return se3_exp(twist[:, :3], twist[:, 3:]) @ start


@dataclass(frozen=True)
class NovelViews:
    """Test pictures as the field shows them, from refined poses and (``unrefined``) from aligned ones alone."""

    pictures: Float[Tensor, "n h w 3"]
    unrefined: Float[Tensor, "n h w 3"]
    c2w: Float[Tensor, "n 4 4"]


def novel_views(
    field: Field, data: SceneData, result: JointResult, generator: torch.Generator, *, samples: int = 96,
    steps: int = 400, rays: int = 512, refine_samples: int = 64,
) -> NovelViews:  # fmt: skip
    """Move the test cameras into the frame of the learnt ones, refine them photometrically, and render."""
    device = field.box.device
    background = background_of(data).to(device)
    alignment = pose_errors(result.c2w, tensor_of(data.train.c2w, device)).alignment
    start = alignment.inverse().cameras(tensor_of(data.test.c2w, device))
    refined = refine_views(
        field, data.test, start, data.near, data.far, background, steps=steps, rays=rays, samples=refine_samples,
        generator=generator, mask=result.mask,
    ) if steps else start  # fmt: skip

    def pictures(poses: Tensor) -> Tensor:
        return torch.stack([
            render_image(field, data.test.camera, pose, data.near, data.far, samples, background,
                         alpha_mask=result.mask).rgb for pose in poses])  # fmt: skip

    return NovelViews(pictures(refined), pictures(start), refined)
