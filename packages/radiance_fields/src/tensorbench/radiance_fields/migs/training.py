"""Training avatars, making a model personal, and adding a person to it.

MIGS (Chatziagapi, Chrysos, Samaras 2024, arXiv 2407.07284), and 3DGS-Avatar (arXiv 2312.09228): Adam with a rate for
each block of attributes, exponential decay of positions and shared factors to a hundredth, L1 of colours and mask, a
perceptual term, a prior on skinning weights that is strong at first, and as-isometric-as-possible terms; the non-rigid
deformation joins in after a while; directions of view are turned at random by up to 45 degrees. Every step shows one
frame of each person.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.core.training import History, Log, fit
from tensorbench.radiance_fields.cameras import Camera
from tensorbench.radiance_fields.datasets.humanoids import Clip, Person
from tensorbench.radiance_fields.gaussians.covariance import axis_angle_matrix
from tensorbench.radiance_fields.metrics import image_metrics
from tensorbench.radiance_fields.migs import losses
from tensorbench.radiance_fields.migs.avatar import Avatar

PAPER_RATES = {
    "position": 1.6e-4, "log_scale": 5e-3, "rotation": 1e-3, "appearance": 2.5e-3, "opacity": 0.05, "shared": 1.6e-4,
    "skinning": 1e-4, "deformation": 1e-3, "color": 1e-3,
}  # fmt: skip
DECAYING = ("position", "shared")


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the paper's; ``late`` and ``early`` are shares of the steps (3000 and 1000 of
    100 000 there). ``pretrain``: steps on the skinning prior alone before the first picture.
    """

    steps: int = 100_000
    rates: Mapping[str, float] = field(default_factory=lambda: dict(PAPER_RATES))
    mask: float = 0.1
    perceptual: float = 0.01
    prior: tuple[float, float] = (10.0, 0.1)
    isometry: float = 1.0
    isometry_covariance: float = 100.0
    near: int = 5
    late: float = 0.03
    early: float = 0.01
    view_noise: float = 45.0
    prior_points: int = 1024
    pretrain: int = 0
    refresh: int = 50  # steps between searches for neighbours

    def __post_init__(self) -> None:
        for name in self.rates:
            if name not in PAPER_RATES:
                raise ValueError(unknown("rate", name, PAPER_RATES))
        if self.steps < 1:
            raise ValueError(f"steps {self.steps} must be at least 1")
        for name in ("late", "early"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is a share of the steps and must be in [0, 1]")
        weights = (self.mask, self.perceptual, self.isometry, self.isometry_covariance, *self.prior)
        if min(weights) < 0 or min(self.near, self.refresh, self.prior_points) < 1:
            raise ValueError("weights of losses must be at least 0, and near, refresh and prior_points at least 1")


@dataclass(frozen=True)
class Subject:
    """A person of the model and the frames it is learnt from."""

    index: int
    person: Person
    clip: Clip


def subjects(people: Sequence[Person], first: int = 0) -> list[Subject]:
    """People in the order of the model's rows, with all their training frames."""
    return [Subject(first + k, person, person.train) for k, person in enumerate(people)]


def some_frames(clip: Clip, count: int) -> Clip:
    """``count`` frames at even distances."""
    if not 1 <= count <= len(clip):
        raise ValueError(f"count {count} must be between 1 and the {len(clip)} frames there are")
    at = torch.arange(count) * len(clip) // count
    return Clip(*(getattr(clip, name)[at] for name in Clip.__annotations__))


def parameter_groups(avatar: Avatar, rates: Mapping[str, float]) -> list[dict]:
    """Adam's groups, named; those without trainable parameters are left out. Rates not given are the paper's."""
    groups = dict(avatar.attributes.named_groups())
    groups |= {name: list(getattr(avatar, name).parameters()) for name in ("skinning", "deformation", "color")}
    rates = PAPER_RATES | dict(rates)
    found = []
    for name, parameters in groups.items():
        trained = [p for p in parameters if p.requires_grad]
        if trained:
            found.append({"params": trained, "lr": rates[name], "name": name})
    return found


def pretrain_skinning(
    avatar: Avatar, people: Sequence[Person], steps: int, generator: torch.Generator, *, points: int = 512,
    rate: float = 1e-2,
) -> None:  # fmt: skip
    """Fit the skinning network to the weights known on the skin."""
    if steps < 1:
        return
    all_points = torch.cat([person.points for person in people])
    all_weights = torch.cat([person.weights for person in people])

    def batches() -> Iterator[Tensor]:
        yield torch.randint(len(all_points), (points,), generator=generator)

    optimizer = torch.optim.Adam(avatar.skinning.parameters(), lr=rate)
    fit(
        avatar.skinning, batches, lambda net, at: losses.skinning_prior(net(all_points[at]), all_weights[at]),
        optimizer, steps=steps, schedule="cosine",
    )  # fmt: skip


def train(
    avatar: Avatar,
    who: Sequence[Subject],
    camera: Camera,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    log: Log | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
) -> History:
    """Train in place on one frame of each subject a step.

    Raises:
        ValueError: nobody to train on.
        IndexError: a subject whose index the model does not have.
    """
    if not who:
        raise ValueError("there is nobody to train on")
    people = torch.tensor([subject.index for subject in who])
    avatar.attributes.checked(people)
    if recipe.pretrain:
        pretrain_skinning(avatar, [subject.person for subject in who], recipe.pretrain, generator)
    optimizer = torch.optim.Adam(parameter_groups(avatar, recipe.rates), eps=1e-15, fused=True)
    last = max(1, recipe.steps)
    shapes = [
        (lambda k: 0.01 ** min(1.0, k / last)) if group["name"] in DECAYING else (lambda k: 1.0)
        for group in optimizer.param_groups
    ]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shapes)
    objective = _Objective(who, people, camera, recipe, generator)
    flexible = avatar.flexible
    try:
        return fit(
            avatar, _frames(who, generator), objective, optimizer, steps=recipe.steps, schedule=schedule, log=log,
            log_every=max(1, recipe.steps // 20), evaluate=evaluate, evaluate_every=evaluate_every,
        )  # fmt: skip
    finally:
        avatar.flexible = flexible


def _frames(who: Sequence[Subject], generator: torch.Generator) -> Callable[[], Iterator[list[int]]]:
    """For each subject a frame; every one of them once before any comes again, where all clips are as long."""

    def batches() -> Iterator[list[int]]:
        longest = max(len(subject.clip) for subject in who)
        orders = []
        for subject in who:
            rounds = -(-longest // len(subject.clip))
            order = torch.cat([torch.randperm(len(subject.clip), generator=generator) for _ in range(rounds)])
            orders.append(order[:longest].tolist())
        yield from map(list, zip(*orders, strict=True))

    return batches


class _Objective:
    """The loss of a step; counts the steps, for what changes with them."""

    def __init__(
        self, who: Sequence[Subject], people: Tensor, camera: Camera, recipe: Recipe, generator: torch.Generator
    ) -> None:
        self.who, self.people, self.camera, self.recipe, self.generator = who, people, camera, recipe, generator
        self.joints = torch.stack([subject.person.joints for subject in who])
        self.step = 0
        self.near: Tensor | None = None

    def __call__(self, avatar: nn.Module, frames: list[int]) -> Tensor:
        assert isinstance(avatar, Avatar)
        recipe, clips = self.recipe, [subject.clip for subject in self.who]
        used = self.step / recipe.steps
        avatar.flexible = used >= recipe.late

        def stacked(name: str) -> Tensor:
            return torch.stack([getattr(clip, name)[k] for clip, k in zip(clips, frames, strict=True)])

        noise = (torch.rand(3, generator=self.generator) * 2 - 1) * math.radians(recipe.view_noise)
        out = avatar(
            self.people, stacked("rotations"), stacked("transforms"), self.joints, self.camera, stacked("c2w"),
            turn_view=axis_angle_matrix(noise).to(self.joints),
        )  # fmt: skip
        truth = stacked("images")
        color, mask = losses.picture_loss(out.image, out.alpha, truth, stacked("masks"))
        loss = color + recipe.mask * mask
        if recipe.perceptual:
            loss = loss + recipe.perceptual * losses.dissimilarity(out.image, truth)
        if recipe.isometry or recipe.isometry_covariance:
            if self.near is None or self.step % recipe.refresh == 0:
                self.near = losses.neighbours(out.rest.detach(), recipe.near)
            loss = loss + recipe.isometry * losses.isometry(out.rest, out.moved, self.near)
            rest, moved = out.rest_covariance.flatten(-2), out.moved_covariance.flatten(-2)
            loss = loss + recipe.isometry_covariance * losses.isometry(rest, moved, self.near)
        weight = recipe.prior[used >= recipe.early]
        if weight and any(p.requires_grad for p in avatar.skinning.parameters()):
            loss = loss + weight * self._prior(avatar)
        self.step += 1
        return loss

    def _prior(self, avatar: Avatar) -> Tensor:
        share = max(1, self.recipe.prior_points // len(self.who))
        points, known = [], []
        for subject in self.who:
            at = torch.randint(len(subject.person.points), (share,), generator=self.generator)
            points.append(subject.person.points[at])
            known.append(subject.person.weights[at])
        return losses.skinning_prior(avatar.skinning(torch.cat(points)), torch.cat(known))


def personalize(
    avatar: Avatar,
    subject: Subject,
    camera: Camera,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    color: bool = True,
    appearance: bool = False,
    everything: bool = False,
    log: Log | None = None,
) -> tuple[History, int]:
    """Learn one person anew with all else frozen: the row of the person, and by choice the colour network, the
    appearance block of U1, or ``everything``. Frozen weights keep their bits; so do the rows of the others.

    Returns the history, and how many weights could change.
    """
    avatar.attributes.checked(torch.tensor([subject.index]))
    rows = avatar.attributes.person_rows()
    groups = avatar.attributes.named_groups()
    chosen: list[nn.Parameter] = [p for group in groups.values() for p in group if p is rows]
    if not chosen:
        raise ValueError(f"{type(avatar.attributes).__name__} has no factor of people: only CP, Tucker and trains do")
    if appearance:
        chosen += groups["appearance"]
    if color:
        chosen += list(avatar.color.parameters())
    if everything:
        chosen = list(avatar.parameters())
    before = [(p, p.requires_grad) for p in avatar.parameters()]
    changed = sum(p.numel() for p in chosen) - (rows.numel() - rows[0].numel())
    try:
        for p, _ in before:
            p.requires_grad_(any(p is q for q in chosen))
        # A person is added to a model that is trained: nothing comes late, and the prior on skinning is what it was.
        history = train(avatar, [subject], camera, replace(recipe, late=0.0, early=0.0, pretrain=0), generator, log=log)
    finally:
        for p, flag in before:
            p.requires_grad_(flag)
    return history, changed


@torch.no_grad()
def pictures(
    avatar: Avatar, index: int, person: Person, clip: Clip, camera: Camera
) -> tuple[Float[Tensor, "f h w 3"], Float[Tensor, "f h w"]]:
    """Colours and coverage of a clip's frames, eight at a time."""
    images, alphas = [], []
    for begin in range(0, len(clip), 8):
        at = slice(begin, begin + 8)
        size = len(clip.rotations[at])
        out = avatar(
            torch.full((size,), index), clip.rotations[at], clip.transforms[at], person.joints.expand(size, -1, -1),
            camera, clip.c2w[at],
        )  # fmt: skip
        images.append(out.image.clamp(0, 1))
        alphas.append(out.alpha)
    return torch.cat(images), torch.cat(alphas)


def score(images: Float[Tensor, "f h w 3"], alphas: Float[Tensor, "f h w"], clip: Clip) -> dict[str, float]:
    """PSNR (dB) and SSIM, means over frames, and the overlap of masks (intersection over union at one half)."""
    ours, theirs = alphas > 0.5, clip.masks > 0.5
    both, either = (ours & theirs).sum((1, 2)), (ours | theirs).sum((1, 2)).clamp(min=1)
    return image_metrics(images, clip.images) | {"iou": float((both / either).mean())}
