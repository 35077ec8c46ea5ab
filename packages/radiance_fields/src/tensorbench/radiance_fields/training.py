"""Training a field of any kind from posed pictures.

Rays of all training views are drawn without replacement; the loss is the mean squared error of their colours and the
field's own penalties. A :class:`~tensorbench.radiance_fields.tensorf.schedule.Schedule` says when a grid grows, when
empty space is marked, and how the learning rates fall (TensoRF, Chen et al. 2022, arXiv 2203.09517). What a method does
between steps (unlocking ranks, say) is a ``callback`` that is given the whole :class:`State`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.core.timing import work_seconds
from tensorbench.core.training import History, Log, fit
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.rendering import (
    box_interval,
    distortion_loss,
    render_image,
    render_rays,
    sample_rays,
)
from tensorbench.radiance_fields.tensorf.alpha_mask import AlphaMask, build_alpha_mask
from tensorbench.radiance_fields.tensorf.grids import resolution_of
from tensorbench.radiance_fields.tensorf.losses import Weight, weigh
from tensorbench.radiance_fields.tensorf.schedule import Decay, Schedule

if TYPE_CHECKING:
    from tensorbench.radiance_fields.views import SceneData, Views

log_ = logging.getLogger(__name__)
Background = Literal["scene", "random", "mixed"]
_BACKGROUNDS = ("scene", "random", "mixed")
_FILTER_CHUNK, _FILTER_SAMPLES = 2**14, 128


@dataclass(frozen=True)
class RaySet:
    """Rays of training pictures, with colours times opacity, so that they can be put on any background."""

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    color: Float[Tensor, "n 3"]
    alpha: Float[Tensor, "n"]

    @classmethod
    def of(cls, views: Views, background: Float[Tensor, "3"]) -> RaySet:
        """All pixels of views that were composited on ``background``."""
        from tensorbench.radiance_fields.cameras import camera_rays

        images, alpha, c2w = (torch.as_tensor(x, dtype=torch.float32) for x in (views.images, views.alpha, views.c2w))
        origins, directions = (x.reshape(-1, 3) for x in camera_rays(views.camera, c2w))
        alpha = alpha.reshape(-1)
        return cls(origins, directions, images.reshape(-1, 3) - (1 - alpha)[:, None] * background, alpha)

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: Int[Tensor, "m"] | Bool[Tensor, "n"]) -> RaySet:
        return RaySet(self.origins[index], self.directions[index], self.color[index], self.alpha[index])

    def to(self, device: torch.device) -> RaySet:
        """The same rays on another device."""
        return RaySet(*(x.to(device) for x in (self.origins, self.directions, self.color, self.alpha)))

    def on(self, background: Float[Tensor, "*n 3"]) -> Float[Tensor, "n 3"]:
        """Colours on a background, one for all or one a ray."""
        return self.color + (1 - self.alpha)[:, None] * background

    def meeting(self, box: Float[Tensor, "2 3"]) -> RaySet:
        """Those rays that meet a box."""
        enter, leave = box_interval(self.origins, self.directions, box.to(self.origins))
        return self[(leave > enter) & (leave > 0)]

    @torch.no_grad()
    def meeting_mask(self, mask: AlphaMask, near: float, far: float, box: Float[Tensor, "2 3"]) -> RaySet:
        """Those rays that pass through a point which may hold something."""
        keep = []
        for start in range(0, len(self), _FILTER_CHUNK):
            o, d = (x[start : start + _FILTER_CHUNK].to(box) for x in (self.origins, self.directions))
            places = sample_rays(o, d, near, far, _FILTER_SAMPLES, box)
            points = o[:, None] + d[:, None] * places.t[..., None]
            found = mask(points.reshape(-1, 3)).reshape(places.t.shape) & places.inside
            keep.append(found.any(-1).to(self.origins.device))
        return self[torch.cat(keep)]


@dataclass
class State:
    """Where training stands; what callbacks and evaluations are given.

    ``mse`` is the raw error of the last batch, without penalties; ``cpu_seconds`` counts training only, without
    callbacks and evaluations.
    """

    field: Field
    data: SceneData
    background: Tensor
    samples: int
    schedule: Schedule
    optimizer: torch.optim.Optimizer
    decay: Decay
    all_rays: RaySet
    rays: RaySet
    alpha_mask: AlphaMask | None = None
    step: int = 0
    mse: float = math.nan
    cpu_seconds: float = 0.0

    @property
    def psnr(self) -> float:
        """Of the last batch, in dB."""
        return -10 * math.log10(max(self.mse, 1e-10))

    def rebuild_optimizer(self) -> None:
        """Adam with no memory, over the field's parameters as they are now."""
        groups = self.field.parameter_groups(self.schedule.lr_grid, self.schedule.lr_net)
        self.optimizer.state.clear()
        self.optimizer.param_groups.clear()
        for group in groups:
            self.optimizer.add_param_group(group)

    def grow(self, voxels: int) -> None:
        """Interpolate the field's grid to about so many voxels."""
        if not hasattr(self.field, "upsample"):
            raise ValueError(_gridless(self.field))
        self.field.upsample(resolution_of(voxels, self.field.box))  # type: ignore[operator]
        if self.schedule.reset_lr:
            self.decay.restart()
        self.rebuild_optimizer()

    def update_mask(self, *, shrink: bool = False, filter_rays: bool = False, dilate: int | None = None) -> None:
        """Build the alpha mask from the field as it is now; keep the old one where the field is empty."""
        plan = self.schedule
        mask = build_alpha_mask(
            self.field, plan.mask_resolution, threshold=plan.mask_threshold, dilate=dilate or plan.mask_dilate
        )
        if not bool(mask.cells.any()):
            log_.warning("step %d: the field is empty everywhere, no alpha mask is built", self.step)
            return
        self.alpha_mask = mask
        if shrink and hasattr(self.field, "shrink"):
            self.field.shrink(mask.occupied_box())  # type: ignore[operator]
            self.rays = self.all_rays.meeting(self.field.box)
            self.rebuild_optimizer()
        if filter_rays:
            data = self.data
            kept = self.all_rays.meeting_mask(mask, data.near, data.far, self.field.box)
            self.rays = kept if len(kept) else self.rays

    @torch.no_grad()
    def mean_psnr(self, views: Views, samples: int | None = None) -> float:
        """Mean over views of the PSNR of what the field shows now, in dB."""
        return mean_psnr(self.field, self.data, views, samples or self.samples, self.alpha_mask)


@dataclass(frozen=True)
class Trained:
    """What training left: how it went, the last alpha mask, CPU seconds of the steps alone."""

    history: History
    alpha_mask: AlphaMask | None
    cpu_seconds: float
    psnrs: list[float] = field(default_factory=list)  # of each step's batch, in dB


def train(
    field: Field,
    data: SceneData,
    *,
    generator: torch.Generator,
    steps: int | None = None,
    seconds: float | None = None,
    rays: int = 512,
    samples: int = 64,
    schedule: Schedule | None = None,
    losses: Mapping[str, Weight] | None = None,
    background: Background = "scene",
    distortion: float = 0.0,
    weight_threshold: float | None = None,
    alpha_mask: AlphaMask | None = None,
    evaluate: Callable[[State], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    callback: Callable[[State], bool | None] | None = None,
    log: Log | None = None,
    log_every: int = 25,
    progress: Callable[..., Iterator[int]] | None = None,
) -> Trained:
    """Train a field in place on the views of a scene; the same seed gives the same field.

    Args:
        generator: draws rays, jitter and random backgrounds.
        steps, seconds: the budget; the first that is used up ends training.
        rays, samples: rays a step, and samples on each within the box.
        schedule: growth, masks and rates; without one, a fixed grid with rates that fall to a tenth.
        losses: weights of the field's penalties by name, numbers or functions of the used share of training.
        background: rays are put on the scene's own background, on a random colour each, or half of them on each
            (``mixed``); random colours keep a field from painting the background.
        distortion: weight of the distortion loss.
        weight_threshold: samples of less weight get no colour; a tenth of the mean weight of an opaque ray's samples,
            ``0.1 / samples``, unless given (the reference's 1e-4 goes with about a thousand samples).
        alpha_mask: one to begin with.
        evaluate: metrics, called with the state every ``evaluate_every`` steps and at the end.
        callback: called with the state after each step and what the schedule does; True ends training.

    Raises:
        ValueError: an unknown background or penalty, no budget, a schedule that grows what has no grid.
    """
    if background not in _BACKGROUNDS:
        raise ValueError(unknown("background", background, _BACKGROUNDS))
    if rays < 1 or samples < 1:
        raise ValueError(f"{rays} rays a step and {samples} samples on each: at least one is needed")
    threshold = 0.1 / samples if weight_threshold is None else weight_threshold
    plan = schedule if schedule is not None else Schedule()
    if plan.upsample and not hasattr(field, "upsample"):
        raise ValueError(_gridless(field))
    device = field.box.device
    scene = background_of(data)
    everything = RaySet.of(data.train, scene).meeting(field.box)
    if not len(everything):
        raise ValueError("no ray of the training views meets the field's box; check the poses and the box")
    optimizer = torch.optim.Adam(field.parameter_groups(plan.lr_grid, plan.lr_net), betas=plan.betas, fused=True)
    state = State(
        field, data, scene.to(device), samples, plan, optimizer, Decay(plan.decay), everything, everything, alpha_mask
    )
    mark = [work_seconds()]
    psnrs: list[float] = []

    def loss(_: torch.nn.Module, index: Tensor) -> Tensor:
        state.step += 1
        batch = state.rays[index].to(device)
        behind = _backgrounds(background, state.background, len(index), generator)
        seen = render_rays(
            field, batch.origins, batch.directions, data.near, data.far, samples, behind,
            alpha_mask=state.alpha_mask, weight_threshold=threshold, generator=generator,
        )  # fmt: skip
        total = mse = (seen.rgb - batch.on(behind)).square().mean()
        state.mse = float(mse.detach())
        if losses:
            penalty = weigh(field.regularizers(), losses, state.decay.used)
            total = total if penalty is None else total + penalty
        if distortion:
            assert seen.weights is not None and seen.samples is not None
            total = total + distortion * distortion_loss(seen.weights, seen.samples.t, seen.samples.delta)
        return total

    def after(_: int, __: float) -> bool | None:
        psnrs.append(state.psnr)
        _follow(plan, state)
        state.cpu_seconds += work_seconds() - mark[0]
        stop = callback(state) if callback is not None else None
        mark[0] = work_seconds()
        return stop

    def measure(_: torch.nn.Module) -> Mapping[str, float]:
        found = evaluate(state) if evaluate is not None else {}
        mark[0] = work_seconds()
        return found

    history = fit(
        field, _batches(state, rays, generator), loss, optimizer, steps=steps, seconds=seconds, schedule=state.decay,
        evaluate=measure if evaluate is not None else None, evaluate_every=evaluate_every, callback=after,
        log=log, log_every=log_every, progress=progress,
    )  # fmt: skip
    return Trained(history, state.alpha_mask, state.cpu_seconds, psnrs)


def settled(history: History) -> History:
    """The history, where training went well.

    Raises:
        RuntimeError: it diverged, and nothing that is measured of the weights means anything.
    """
    if history.diverged:
        raise RuntimeError(f"training diverged after {history.steps} steps; lower the learning rates")
    return history


def _gridless(field: Field) -> str:
    return f"{type(field).__name__} has no grid to upsample; drop `upsample` from the schedule"


def _follow(plan: Schedule, state: State) -> None:
    """What the schedule asks for after this step."""
    if state.step in plan.mask:
        first, last = min(plan.mask), max(plan.mask)
        state.update_mask(
            shrink=plan.shrink and state.step == first, filter_rays=plan.filter_rays and state.step == last
        )
    if state.step in plan.upsample:
        state.grow(plan.upsample[state.step])


def _batches(state: State, rays: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices into the rays in use, each once before any comes again; drawn anew when the rays change."""
    while True:
        pool = state.rays
        count = min(rays, len(pool))
        order = torch.randperm(len(pool), generator=generator, device=generator.device).to(pool.origins.device)
        for start in range(0, len(pool) - count + 1, count):
            if state.rays is not pool:
                break
            yield order[start : start + count]


def _backgrounds(kind: Background, scene: Tensor, n: int, generator: torch.Generator) -> Tensor:
    if kind == "scene":
        return scene
    drawn = torch.rand((n, 4), generator=generator, device=generator.device).to(scene)
    if kind == "random":
        return drawn[:, :3]
    return torch.where(drawn[:, 3:] < 0.5, scene, drawn[:, :3])


def background_of(data: SceneData) -> Float[Tensor, "3"]:
    """The colour that the scene's pictures were composited on."""
    return torch.as_tensor(data.background, dtype=torch.float32).expand(3)


@torch.no_grad()
def render_views(
    field: Field, data: SceneData, views: Views, samples: int, alpha_mask: AlphaMask | None = None
) -> Float[Tensor, "n h w 3"]:
    """The pictures that a field shows at the poses of views, on the scene's background, on the CPU."""
    pictures = [
        render_image(
            field, views.camera, torch.as_tensor(pose, dtype=torch.float32), data.near, data.far, samples,
            background_of(data), alpha_mask=alpha_mask,
        ).rgb
        for pose in views.c2w
    ]  # fmt: skip
    return torch.stack(pictures).cpu()


def mean_psnr(field: Field, data: SceneData, views: Views, samples: int, alpha_mask: AlphaMask | None = None) -> float:
    """Mean over views of the PSNR of a field's pictures, in dB."""
    truth = torch.as_tensor(views.images, dtype=torch.float32)
    errors = (render_views(field, data, views, samples, alpha_mask) - truth).square().mean((1, 2, 3))
    return float((-10 * errors.clamp(min=1e-10).log10()).mean())
