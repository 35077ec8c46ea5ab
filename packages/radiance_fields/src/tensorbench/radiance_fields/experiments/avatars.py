"""Avatars of several people from one moving camera: one low-rank tensor against one model a person, and others.

Every person makes a motion of its own; novel poses are frames of the others' motions, novel views show poses of
training from other sides. ``cp`` is MIGS; ``full`` the same without a low rank; ``mean`` one cloud for all;
``per_person`` a model for each, which sees as many frames of its person in all as MIGS does. The newcomer is a person
whom only six frames show: a row of the tensor and the colour network are learnt (``newcomer_psnr``), the row alone, or
everything.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core.run import Run
from tensorbench.radiance_fields.datasets.humanoids import Avatars, Person
from tensorbench.radiance_fields.experiments import avatar_figures
from tensorbench.radiance_fields.metrics import count_weights
from tensorbench.radiance_fields.migs.avatar import Avatar
from tensorbench.radiance_fields.migs.tensors import AttributeTensor, FullTensor, GaussianTensorCP, starting_table
from tensorbench.radiance_fields.migs.training import (
    Recipe,
    Subject,
    personalize,
    pictures,
    score,
    some_frames,
    subjects,
    train,
)
from tensorbench.radiance_fields.training import settled

METHODS: dict[str, Callable[..., AttributeTensor]] = {
    "cp": GaussianTensorCP,
    "full": FullTensor,
    "mean": FullTensor,
    "per_person": FullTensor,
}
NETWORKS = ("skinning", "deformation", "color", "features", "levels", "log2_table", "finest")


def run(run: Run) -> None:
    """Train, judge on novel poses and views, then meet the newcomer."""
    data: Avatars = run.dataset.load(run.seed).to(run.device)
    options = dict(run.method.params)
    few, adapt = options.pop("few"), options.pop("adapt")
    joint = options.pop("joint", False)
    build = {key: options.pop(key) for key in ("gaussians", "opacity", *NETWORKS)}
    rank = options.pop("rank", None)
    recipe = Recipe(**options)
    generator = run.generator
    people = [*data.people, *data.newcomers] if joint else list(data.people)
    kept: dict[str, np.ndarray] = {}
    with run.time("fit"):
        if run.method.uses == "per_person":
            models = [_fitted(run, "full", [person], data, build, recipe, None, generator) for person in people]
            where = [(model, 0) for model in models]
        else:
            models = [_fitted(run, run.method.uses, people, data, build, recipe, rank, generator)]
            where = [(models[0], k) for k in range(len(people))]
    weights = sum(count_weights(model) for model in models)
    tensor = sum(model.attributes.count() for model in models)
    run.log(weights=weights, tensor_weights=tensor, megabytes=4 * weights / 2**20,
            tensor_share=tensor / (43 * build["gaussians"] * len(people)))  # fmt: skip
    for split in ("pose", "view", "valid"):
        found = [_judged(model, k, person, split, data) for (model, k), person in zip(where, data.people, strict=False)]
        means = {name: float(np.mean([scores[name] for _, scores in found])) for name in found[0][1]}
        run.log(**{f"{split}_{name}": value for name, value in means.items()})
        kept |= {f"{split}_{k}": images for k, (images, _) in enumerate(found)}
    if data.newcomers and few:  # few: 0 leaves them out
        kept |= _newcomer(run, where, data, build, recipe, few, adapt, joint)
    if run.seed == 0:
        for k, person in enumerate(data.people):
            kept |= {f"truth_{split}_{k}": _small(getattr(person, split).images) for split in ("pose", "view")}
        if data.newcomers:
            kept |= {"truth_new": _small(data.newcomers[0].pose.images)}
        np.savez_compressed(run.artifact("pictures.npz"), **kept)  # type: ignore[arg-type]  # its stub names a flag
        if run.method.uses == "cp" and few and not joint:  # one film is enough
            avatar_figures.animate(models[0], data, run.artifact("animation.gif"))


def _fitted(
    run: Run, kind: str, people: list[Person], data: Avatars, build: dict[str, Any], recipe: Recipe, rank: int | None,
    generator: torch.Generator,
) -> Avatar:  # fmt: skip
    avatar = model_of(kind, people, data.background, build, rank, generator)
    settled(train(avatar, subjects(people), data.camera, recipe, generator))
    return avatar


def model_of(
    kind: str, people: list[Person], background: float, build: dict[str, Any], rank: int | None,
    generator: torch.Generator,
) -> Avatar:  # fmt: skip
    """An untrained model whose Gaussians lie on the skin of the first person."""
    count, skin = build["gaussians"], people[0].points.cpu()
    if count > len(skin):
        raise ValueError(f"gaussians {count}: the skin has {len(skin)} points to start from")
    points = skin[torch.randperm(len(skin), generator=generator)[:count]]
    extras: dict[str, dict[str, Any]] = {"cp": {"rank": rank}, "mean": {"mean": True}}
    extra = extras.get(kind, {})
    tensor = METHODS[kind](len(people), count, generator=generator, **extra)
    tensor.fit_init(starting_table(points, generator, opacity=build["opacity"]))
    avatar = Avatar(tensor, background=background, generator=generator, **{key: build[key] for key in NETWORKS})
    return avatar.to(people[0].points.device)


def _judged(
    model: Avatar, index: int, person: Person, split: str, data: Avatars
) -> tuple[np.ndarray, dict[str, float]]:
    clip = getattr(person, split)
    images, alphas = pictures(model, index, person, clip, data.camera)
    return _small(images), score(images, alphas, clip)


def _newcomer(
    run: Run, where: list[tuple[Avatar, int]], data: Avatars, build: dict[str, Any], recipe: Recipe, few: int,
    adapt: int, joint: bool,
) -> dict[str, np.ndarray]:  # fmt: skip
    """What each method makes of a person seen in few frames (in all, where it was there from the start)."""
    newcomer = data.newcomers[0]
    if joint:
        model, index = where[len(data.people)]
        images, scores = _judged(model, index, newcomer, "pose", data)
        run.log(newcomer_psnr=scores["psnr"])
        return {"new": images}
    clip = some_frames(newcomer.train, few)
    brief = Recipe(**{**vars(recipe), "steps": adapt})
    if run.method.uses == "per_person":
        alone = model_of("full", [newcomer], data.background, build, None, run.generator)
        settled(train(alone, [Subject(0, newcomer, clip)], data.camera, recipe, run.generator))
        images, scores = _judged(alone, 0, newcomer, "pose", data)
        run.log(newcomer_psnr=scores["psnr"], newcomer_weights=count_weights(alone))
        return {"new": images}
    if run.method.uses != "cp":
        return {}
    found = {}
    ways: dict[str, dict[str, Any]] = {"": {"color": True}, "_row": {"color": False}, "_all": {"everything": True}}
    for name, chosen in ways.items():
        model = copy.deepcopy(where[0][0])
        index = model.attributes.add_identity()
        before = {key: value.detach().clone() for key, value in model.named_parameters()}
        who = Subject(index, newcomer, clip)
        history, changed = personalize(model, who, data.camera, brief, run.generator, **chosen)
        settled(history)
        images, scores = _judged(model, index, newcomer, "pose", data)
        run.log(**{f"newcomer{name}_psnr": scores["psnr"], f"newcomer{name}_weights": changed})
        found[f"new{name}"] = images
        if name == "_row":
            run.log(
                newcomer_keeps_rest=_only_row(model, before, index)
                and changed == model.attributes.person_rows().shape[1]
            )
    return found


def _only_row(model: Avatar, before: dict[str, torch.Tensor], index: int) -> bool:
    """Whether nothing but the newcomer's row of U2 has changed, to the bit."""
    same = True
    for key, value in model.named_parameters():
        part = slice(0, index) if key == "attributes.u2" else slice(None)
        same &= torch.equal(value[part], before[key][part])
    return same


def _small(images: torch.Tensor) -> np.ndarray:
    return (images.clamp(0, 1) * 255).round().byte().cpu().numpy()


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "pictures", avatar_figures.novel_poses(records)
    yield "quality", avatar_figures.quality(records)
    yield "newcomer", avatar_figures.newcomer(records)
