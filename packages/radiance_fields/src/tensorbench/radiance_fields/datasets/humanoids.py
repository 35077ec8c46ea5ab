"""People of capsules in motion, seen by one moving camera: what an avatar is learnt from, and what it is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import dataset

if TYPE_CHECKING:
    from torch import Tensor

    from tensorbench.radiance_fields.cameras import Camera
    from tensorbench.radiance_fields.gaussians.humanoid import Body


@dataclass(frozen=True)
class Clip:
    """Frames of one person: colours on the background, coverage, joint rotations relative to the parents, transforms
    of the joints from rest to the world, and the poses of the camera. Tensors, all float32."""

    images: Float[Tensor, "f h w 3"]
    masks: Float[Tensor, "f h w"]
    rotations: Float[Tensor, "f 24 3 3"]
    transforms: Float[Tensor, "f 24 4 4"]
    c2w: Float[Tensor, "f 4 4"]

    def __len__(self) -> int:
        return len(self.images)

    def __post_init__(self) -> None:
        if self.masks.shape != self.images.shape[:-1]:
            raise ValueError(f"masks {tuple(self.masks.shape)} do not fit images {tuple(self.images.shape)}")
        if self.rotations.shape[1:] != (24, 3, 3):
            raise ValueError(f"a pose is 24 rotations, got {tuple(self.rotations.shape[1:])}")
        if bool((self.masks.flatten(1).amax(1) <= 0).any()):
            empty = int((self.masks.flatten(1).amax(1) <= 0).nonzero()[0])
            raise ValueError(f"the mask of frame {empty} is empty: nobody is in the picture, leave the frame out")


@dataclass(frozen=True)
class Person:
    """One identity: its skeleton and skin at rest (points with skinning weights), and its clips.

    ``view`` shows poses of training from other sides, ``pose`` poses of other motions. ``valid`` lies between training
    frames.
    """

    joints: Float[Tensor, "24 3"]
    points: Float[Tensor, "n 3"]
    weights: Float[Tensor, "n 24"]
    train: Clip
    valid: Clip
    view: Clip
    pose: Clip


@dataclass(frozen=True)
class Avatars:
    """The people to train on, those that come later, and the camera all share."""

    people: list[Person]
    newcomers: list[Person]
    camera: Camera
    background: float


@dataclass(frozen=True)
class AttributeTensor:
    """Gaussian attributes (identities, Gaussians, 43) of related people."""

    values: Float[np.ndarray, "i g m"]


@dataclass(frozen=True)
class _View:
    body: Body
    camera: Camera
    background: float


@dataset(
    title="Capsule humanoids in motion",
    source="generated here: ray-cast capsules on a 24-joint skeleton",
    licence="Apache-2.0",
    generated=True,
    cache=True,
)
def humanoids(
    *,
    seed: int,
    people: int = 4,
    newcomers: int = 1,
    size: int = 48,
    frames: int = 24,
    tests: int = 6,
    few: int = 6,
    skin: int = 3000,
) -> Avatars:
    """Each person makes one motion (walk, dance, reach, squat in turn), ``frames`` frames while the camera goes round
    once. ``view``: poses of training from the opposite side and another height. ``pose``: frames of the other motions.
    Newcomers have ``frames`` frames too; of these, every (frames/few)-th one is what they are learnt from.
    """
    from tensorbench.radiance_fields.cameras import Camera
    from tensorbench.radiance_fields.gaussians.humanoid import people as random_people

    if frames < few or few < 1:
        raise ValueError(f"few {few} must be between 1 and the number of frames, {frames}")
    camera = Camera(size, size, 1.5 * size)
    rng = np.random.default_rng([seed, 7])
    bodies = random_people(people + newcomers, rng)
    made = [_person(_View(b, camera, 1.0), k, [seed, k], frames, tests, skin) for k, b in enumerate(bodies)]
    return Avatars(made[:people], made[people:], camera, 1.0)


def _person(view: _View, number: int, seed: list[int], frames: int, tests: int, skin: int) -> Person:
    import torch

    from tensorbench.radiance_fields.gaussians.humanoid import skinning_weights, surface
    from tensorbench.radiance_fields.gaussians.motions import MOTIONS, motion

    rng = np.random.default_rng([*seed, 11])
    own = MOTIONS[number % len(MOTIONS)]
    phase, size = rng.uniform(), rng.uniform(0.8, 1.0)
    moved = motion(own, frames, phase=phase, size=size)
    turn = np.arange(frames) / frames + rng.uniform()
    others = [name for name in MOTIONS if name != own]
    novel = torch.cat([motion(others[k % 3], 12, phase=rng.uniform(), size=1.0)[:1] for k in range(tests)])
    between = motion(own, frames, phase=phase + 0.5 / frames, size=size)
    some = np.linspace(0, frames - 1, tests).round().astype(int)
    halves = np.linspace(0, frames - 1, max(2, tests // 2)).round().astype(int)
    skin_points = surface(view.body, skin, rng)
    joints = torch.from_numpy(view.body.joints).float()
    return Person(
        joints=joints,
        points=torch.from_numpy(skin_points.points).float(),
        weights=torch.from_numpy(skinning_weights(view.body, skin_points.points)).float(),
        train=_clip(view, moved, turn, 0.1),
        valid=_clip(view, between[halves], turn[halves] + 0.5 / frames, 0.1),
        view=_clip(view, moved[some], turn[some] + 0.5, 0.45),
        pose=_clip(view, novel, rng.uniform() + np.arange(tests) / tests, 0.2),
    )


def _clip(view: _View, rotations: Tensor, turn: np.ndarray, height: float, distance: float = 3.0) -> Clip:
    """``turn``: where the camera stands, in rounds; ``height`` its elevation in radians."""
    import torch

    from tensorbench.radiance_fields.cameras import look_at
    from tensorbench.radiance_fields.gaussians.humanoid import picture
    from tensorbench.radiance_fields.gaussians.skeleton import forward_kinematics

    angle = 2 * np.pi * np.asarray(turn)
    eye = distance * np.stack([np.sin(angle) * np.cos(height), np.full_like(angle, np.sin(height)),
                               np.cos(angle) * np.cos(height)], axis=-1)  # fmt: skip
    c2w = look_at(torch.from_numpy(eye).float(), up=(0.0, 1.0, 0.0))
    shots = [picture(view.body, r, view.camera, p, background=view.background)
             for r, p in zip(rotations, c2w, strict=True)]  # fmt: skip
    joints = torch.from_numpy(view.body.joints).float().expand(len(rotations), -1, -1)
    return Clip(
        images=torch.from_numpy(np.stack([image for image, _ in shots])),
        masks=torch.from_numpy(np.stack([mask for _, mask in shots])),
        rotations=rotations.float(),
        transforms=forward_kinematics(rotations.float(), joints),
        c2w=c2w,
    )


@dataset(
    title="Gaussian attributes of capsule humanoids",
    source="generated here from a low-rank space of shapes and textures",
    licence="Apache-2.0",
    generated=True,
)
def humanoid_attributes(*, seed: int, people: int = 8, gaussians: int = 800) -> AttributeTensor:
    """(people, gaussians, 43): the same places of the skin on each person."""
    from tensorbench.radiance_fields.gaussians.humanoid import attributes, surface
    from tensorbench.radiance_fields.gaussians.humanoid import people as random_people

    rng = np.random.default_rng([seed, 13])
    places = surface(random_people(1, np.random.default_rng([seed, 7]))[0], gaussians, rng)
    bodies = random_people(people, np.random.default_rng([seed, 7]))
    return AttributeTensor(np.stack([attributes(b, places) for b in bodies]))
