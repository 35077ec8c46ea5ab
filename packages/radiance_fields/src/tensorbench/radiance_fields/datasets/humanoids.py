"""People of capsules in motion, seen by one moving camera: what an avatar is learnt from, and what it is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import dataset

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tensorbench.radiance_fields.cameras import Camera


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

    def to(self, device: torch.device | str) -> Clip:
        """The same frames on another device."""
        return Clip(*(getattr(self, name).to(device) for name in Clip.__annotations__))

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

    def to(self, device: torch.device | str) -> Person:
        """The same person on another device."""
        return Person(*(getattr(self, name).to(device) for name in Person.__annotations__))


@dataclass(frozen=True)
class Avatars:
    """The people to train on, those that come later, and the camera all share."""

    people: list[Person]
    newcomers: list[Person]
    camera: Camera
    background: float

    def to(self, device: torch.device | str) -> Avatars:
        """The same people on another device."""
        people, newcomers = ([person.to(device) for person in group] for group in (self.people, self.newcomers))
        return Avatars(people, newcomers, self.camera, self.background)


@dataclass(frozen=True)
class AttributeTensor:
    """Gaussian attributes (identities, Gaussians, 43) of related people."""

    values: Float[np.ndarray, "i g m"]


@dataclass(frozen=True)
class Shots:
    """What is rendered, in plain arrays: of each person the skeleton, the skin, and all pictures in the order training,
    between training frames, novel views, novel poses."""

    joints: Float[np.ndarray, "p 24 3"]
    points: Float[np.ndarray, "p n 3"]
    weights: Float[np.ndarray, "p n 24"]
    images: Float[np.ndarray, "p f h w 3"]
    masks: Float[np.ndarray, "p f h w"]
    rotations: Float[np.ndarray, "p f 24 3 3"]
    c2w: Float[np.ndarray, "p f 4 4"]
    focal: float


@dataset(
    title="Pictures of capsule humanoids",
    source="generated here: ray-cast capsules on a 24-joint skeleton",
    licence="Apache-2.0",
    generated=True,
    cache=True,
)
def humanoid_shots(*, seed: int, people: int, size: int, frames: int, tests: int, skin: int) -> Shots:
    """Person k makes motion k (walk, dance, reach, squat in turn) in ``frames`` frames; the camera goes round once."""
    from tensorbench.radiance_fields.cameras import Camera
    from tensorbench.radiance_fields.gaussians.humanoid import people as random_people
    from tensorbench.radiance_fields.gaussians.humanoid import picture, skinning_weights, surface

    camera = Camera(size, size, 1.5 * size)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in Shots.__annotations__ if name != "focal"}
    for k, body in enumerate(random_people(people, np.random.default_rng([seed, 7]))):
        rng = np.random.default_rng([seed, k, 11])
        rotations, c2w = _script(k, frames, tests, rng)
        points = surface(body, skin, rng).points
        shots = [picture(body, r, camera, p) for r, p in zip(rotations, c2w, strict=True)]
        made = (body.joints, points, skinning_weights(body, points), np.stack([image for image, _ in shots]),
                np.stack([mask for _, mask in shots]), rotations.numpy(), c2w.numpy())  # fmt: skip
        for name, value in zip(parts, made, strict=True):
            parts[name].append(np.asarray(value, dtype=np.float32))
    return Shots(**{name: np.stack(values) for name, values in parts.items()}, focal=camera.focal)


def _counts(frames: int, tests: int) -> list[int]:
    """Pictures of each kind: training, between, novel views, novel poses."""
    return [frames, max(2, tests // 2), tests, tests]


def _script(number: int, frames: int, tests: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Rotations (f, 24, 3, 3) and camera poses (f, 4, 4) of all of a person's pictures."""
    import torch

    from tensorbench.radiance_fields.cameras import look_at
    from tensorbench.radiance_fields.gaussians.motions import MOTIONS, motion

    own = MOTIONS[number % len(MOTIONS)]
    others = [name for name in MOTIONS if name != own]
    phase, size, start, novel = rng.uniform(), rng.uniform(0.8, 1.0), rng.uniform(), rng.uniform()
    _, halves, _, _ = _counts(frames, tests)
    moved = motion(own, frames, phase=phase, size=size)
    between = motion(own, frames, phase=phase + 0.5 / frames, size=size)
    some, half = (np.linspace(0, frames - 1, count).round().astype(int) for count in (tests, halves))
    foreign = torch.cat([motion(others[k % 3], 1, phase=rng.uniform()) for k in range(tests)])
    turn = start + np.arange(frames) / frames
    turns = [turn, turn[half] + 0.5 / frames, turn[some] + 0.5, novel + np.arange(tests) / tests]
    heights = [np.full(len(t), h) for t, h in zip(turns, (0.1, 0.1, 0.45, 0.2), strict=True)]
    angle, height = 2 * np.pi * np.concatenate(turns), np.concatenate(heights)
    eye = 3.0 * np.stack([np.sin(angle) * np.cos(height), np.sin(height), np.cos(angle) * np.cos(height)], axis=-1)
    rotations = torch.cat([moved, between[half], moved[some], foreign])
    return rotations, look_at(torch.from_numpy(eye).float(), up=(0.0, 1.0, 0.0))


@dataset(
    title="Capsule humanoids in motion",
    source="generated here: ray-cast capsules on a 24-joint skeleton",
    licence="Apache-2.0",
    generated=True,
)
def humanoids(
    *,
    seed: int,
    people: int = 4,
    newcomers: int = 1,
    size: int = 48,
    frames: int = 24,
    tests: int = 6,
    skin: int = 3000,
) -> Avatars:
    """Each person makes a motion of its own (walk, dance, reach, squat in turn) while the camera goes round once.
    ``view``: poses of training from the opposite side and from higher up. ``pose``: frames of the other motions.
    """
    import torch

    from tensorbench.core import data
    from tensorbench.radiance_fields.cameras import Camera
    from tensorbench.radiance_fields.gaussians.skeleton import forward_kinematics

    shots: Shots = data.load(
        "humanoid_shots", seed=seed, people=people + newcomers, size=size, frames=frames, tests=tests, skin=skin
    )
    made = []
    for k in range(people + newcomers):
        joints, points, weights, rotations, images, masks, c2w = (
            torch.from_numpy(np.array(getattr(shots, name)[k]))
            for name in ("joints", "points", "weights", "rotations", "images", "masks", "c2w")
        )
        transforms = forward_kinematics(rotations, joints.expand(len(rotations), -1, -1))
        pieces = (torch.split(x, _counts(frames, tests)) for x in (images, masks, rotations, transforms, c2w))
        clips = [Clip(*piece) for piece in zip(*pieces, strict=True)]
        made.append(Person(joints, points, weights, *clips))
    return Avatars(made[:people], made[people:], Camera(size, size, float(shots.focal)), 1.0)


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
