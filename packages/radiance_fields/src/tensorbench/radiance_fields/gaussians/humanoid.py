"""A humanoid of 26 capsules on the 24-joint skeleton: people from a low-rank space of shapes and textures, pictures of
them in any pose by ray casting, surface samples, skinning weights, and what their Gaussians would look like.

A stand-in for scanned people whose truth is known exactly. Four shape coefficients (height, girth, legs against torso,
shoulders against hips) act on lengths and radii through exponentials, five texture coefficients on the colours of
skin, hair, shirt, sleeves, trousers and shoes and on stripes and a front print through a logistic function: few
numbers behind a person, but no linear space. Muscles bulge: the radius of a limb grows with the bend of the joint at
its end, which no blend of rigid motions gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tensorbench.radiance_fields.cameras import Camera, camera_rays
from tensorbench.radiance_fields.gaussians.capsules import cast
from tensorbench.radiance_fields.gaussians.covariance import frame_quaternion
from tensorbench.radiance_fields.gaussians.skeleton import (
    COUNT,
    JOINT,
    PARENTS,
    children,
    forward_kinematics,
    joints_of,
    rest_offsets,
)  # fmt: skip

SHAPES, TEXTURES = 4, 5
PARTS = ("skin", "hair", "shirt", "sleeve", "trousers", "shoe")
LIGHT = np.array([0.4, 0.8, 0.5]) / np.linalg.norm([0.4, 0.8, 0.5])
AMBIENT = 0.72
BULGE = 0.25


@dataclass(frozen=True)
class Bone:
    """A capsule that moves with the joint ``owner``, from one joint to another (or to an offset from the first)."""

    owner: int
    start: int
    end: int | tuple[float, float, float]
    radius: float
    part: str


def _bones() -> tuple[Bone, ...]:
    j = JOINT
    found = [
        Bone(j["pelvis"], j["left_hip"], j["right_hip"], 0.105, "trousers"),
        Bone(j["pelvis"], j["pelvis"], j["spine1"], 0.115, "trousers"),
        Bone(j["spine1"], j["spine1"], j["spine2"], 0.115, "shirt"),
        Bone(j["spine2"], j["spine2"], j["spine3"], 0.12, "shirt"),
        Bone(j["spine3"], j["spine3"], j["left_collar"], 0.1, "shirt"),
        Bone(j["spine3"], j["spine3"], j["right_collar"], 0.1, "shirt"),
        Bone(j["neck"], j["neck"], j["head"], 0.05, "skin"),
        Bone(j["head"], j["head"], (0.0, 0.11, 0.01), 0.095, "skin"),
    ]
    for side, sign in (("left", 1.0), ("right", -1.0)):
        found += [
            Bone(j[f"{side}_collar"], j[f"{side}_collar"], j[f"{side}_shoulder"], 0.065, "shirt"),
            Bone(j[f"{side}_shoulder"], j[f"{side}_shoulder"], j[f"{side}_elbow"], 0.05, "shirt"),
            Bone(j[f"{side}_elbow"], j[f"{side}_elbow"], j[f"{side}_wrist"], 0.042, "sleeve"),
            Bone(j[f"{side}_wrist"], j[f"{side}_wrist"], j[f"{side}_hand"], 0.04, "skin"),
            Bone(j[f"{side}_hand"], j[f"{side}_hand"], (sign * 0.05, 0.0, 0.01), 0.035, "skin"),
            Bone(j[f"{side}_hip"], j[f"{side}_hip"], j[f"{side}_knee"], 0.078, "trousers"),
            Bone(j[f"{side}_knee"], j[f"{side}_knee"], j[f"{side}_ankle"], 0.058, "trousers"),
            Bone(j[f"{side}_ankle"], j[f"{side}_ankle"], j[f"{side}_foot"], 0.05, "shoe"),
            Bone(j[f"{side}_foot"], j[f"{side}_foot"], (0.0, 0.0, 0.06), 0.042, "shoe"),
        ]
    return tuple(found)


BONES = _bones()
_OWNER = np.array([bone.owner for bone in BONES])
_PART = np.array([PARTS.index(bone.part) for bone in BONES])
_UPPER = {JOINT[name] for name in ("spine2", "spine3", "neck", "left_collar", "right_collar", "left_shoulder",
                                   "right_shoulder", "left_elbow", "right_elbow")}  # fmt: skip
_LEGS = {JOINT[f"{side}_{name}"] for side in ("left", "right") for name in ("knee", "ankle")}
_TORSO = {JOINT[name] for name in ("spine1", "spine2", "spine3", "neck")}
_WIDE = {JOINT[f"{side}_{name}"] for side in ("left", "right") for name in ("collar", "shoulder")}


@dataclass(frozen=True)
class Body:
    """A person at rest: joints (24), capsules (26) from ``start`` to ``end`` with ``radius``, texture coefficients."""

    joints: Float[np.ndarray, "24 3"]
    start: Float[np.ndarray, "k 3"]
    end: Float[np.ndarray, "k 3"]
    radius: Float[np.ndarray, "k"]
    texture: Float[np.ndarray, "5"]


def body(shape: Float[np.ndarray, "4"], texture: Float[np.ndarray, "5"]) -> Body:
    """The person of given coefficients; zeros are the mean person, standard normal ones look like people.

    Raises:
        ValueError: another number of coefficients.
    """
    shape, texture = np.asarray(shape, dtype=np.float64), np.asarray(texture, dtype=np.float64)
    if shape.shape != (SHAPES,) or texture.shape != (TEXTURES,):
        raise ValueError(f"{SHAPES} shape and {TEXTURES} texture coefficients, got {shape.shape} and {texture.shape}")
    tall, girth, legs, shoulders = shape
    offsets = rest_offsets().double().numpy() * math.exp(0.04 * tall)
    for joint in range(COUNT):
        factor = 0.05 * legs * ((joint in _LEGS) - (joint in _TORSO)) + 0.1 * shoulders * (joint in _WIDE)
        offsets[joint] *= math.exp(factor)
    joints = joints_of(torch.from_numpy(offsets)).numpy()
    start = joints[[bone.start for bone in BONES]]
    end = np.stack([joints[b.end] if isinstance(b.end, int) else joints[b.start] + np.array(b.end) for b in BONES])
    upper = np.array([1.0 if bone.owner in _UPPER else -1.0 for bone in BONES])
    radius = np.array([bone.radius for bone in BONES]) * np.exp(0.04 * tall + 0.13 * girth + 0.08 * shoulders * upper)
    return Body(joints, start, end, radius, texture)


def people(count: int, generator: np.random.Generator) -> list[Body]:
    """Random persons; the first ones stay the same when there are more."""
    drawn = generator.standard_normal((count, SHAPES + TEXTURES)).clip(-2, 2)
    return [body(row[:SHAPES], row[SHAPES:]) for row in drawn]


def _mixing() -> tuple[np.ndarray, np.ndarray]:
    """The fixed linear maps from texture coefficients to the colours of parts, and of patterns."""
    rng = np.random.default_rng(20240707)
    base = np.array([[1.4, 0.5, 0.1], [-1.2, -1.6, -1.8], [0.2, 0.3, 0.8], [0.2, 0.3, 0.8], [-0.8, -0.6, 0.0],
                     [-1.5, -1.5, -1.3]])  # fmt: skip
    spread = np.array([0.35, 0.7, 1.3, 1.3, 1.1, 0.8])
    return base, np.concatenate([
        rng.standard_normal((len(PARTS), 3, TEXTURES)) * spread[:, None, None] / 1.5,
        rng.standard_normal((3, 3, TEXTURES)) * 0.8,
    ])  # fmt: skip


_BASE, _MIX = _mixing()


def _patterns(
    bone: Int[np.ndarray, "n"], along: Float[np.ndarray, "n"], normal: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 9"]:
    """How much each part, and each of stripes, a front print and a side seam, has to say at surface points."""
    mean = _MEAN
    place = mean.start[bone] + along[:, None] * (mean.end - mean.start)[bone] + mean.radius[bone, None] * normal
    part = _PART[bone].copy()
    head = bone == 7
    part[head & ((normal[:, 1] > 0.55) | (normal[:, 2] < 0.1))] = PARTS.index("hair")
    table = np.zeros((len(bone), len(PARTS) + 3))
    table[np.arange(len(bone)), part] = 1
    shirt = (part == PARTS.index("shirt")) | (part == PARTS.index("sleeve"))
    arm = np.abs(mean.start[bone][:, 0]) > 0.12
    stripe = np.tanh(4 * np.sin(2 * np.pi * np.where(arm, np.abs(place[:, 0]), place[:, 1]) / 0.15))
    table[:, 6] = shirt * stripe
    table[:, 7] = shirt * ~arm * (normal[:, 2] > 0.2) * (np.abs(place[:, 0]) < 0.07)
    table[:, 8] = (part == PARTS.index("trousers")) * (np.abs(normal[:, 0]) > 0.75)
    return table


def colors(
    person: Body, bone: Int[np.ndarray, "n"], along: Float[np.ndarray, "n"], normal: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Albedo in [0, 1] at points of capsules, named by capsule, share along the segment and normal at rest."""
    return 1 / (1 + np.exp(-_logits(person, _patterns(bone, along, normal))))


def _logits(person: Body, patterns: np.ndarray) -> np.ndarray:
    table = np.concatenate([_BASE, np.zeros((3, 3))]) + _MIX @ person.texture
    return patterns @ table


_MEAN = body(np.zeros(SHAPES), np.zeros(TEXTURES))


def posed(
    person: Body, rotations: Float[Tensor, "24 3 3"], bulge: float = BULGE
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Capsules in a pose: start, end, radius, and the rotations (26, 3, 3) from rest to posed."""
    moved = forward_kinematics(rotations.double(), torch.from_numpy(person.joints)).numpy()[_OWNER]
    turn, shift = moved[:, :3, :3], moved[:, :3, 3]
    start = np.einsum("kij,kj->ki", turn, person.start) + shift
    end = np.einsum("kij,kj->ki", turn, person.end) + shift
    trace = np.trace(rotations.double().numpy(), axis1=1, axis2=2)
    bend = np.arccos(np.clip((trace - 1) / 2, -1, 1)) / np.pi
    tip = np.array([b.end if isinstance(b.end, int) and PARENTS[b.end] == b.owner else -1 for b in BONES])
    single = np.array([t >= 0 and len(children(b.owner)) == 1 for t, b in zip(tip, BONES, strict=True)])
    radius = person.radius * (1 + bulge * np.where(single, bend[tip], 0.0))
    return start, end, radius, turn


def picture(
    person: Body,
    rotations: Float[Tensor, "24 3 3"],
    camera: Camera,
    c2w: Float[Tensor, "4 4"],
    *,
    background: float = 1.0,
    samples: int = 2,
    bulge: float = BULGE,
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """The person in a pose: colour on ``background`` and coverage, ``samples``² rays a pixel.

    Raises:
        ValueError: rotations of another number of joints.
    """
    if rotations.shape != (COUNT, 3, 3):
        raise ValueError(f"a pose is {COUNT} rotations (24, 3, 3), got {tuple(rotations.shape)}")
    fine = Camera(camera.width * samples, camera.height * samples, camera.focal * samples)
    origins, directions = camera_rays(fine, c2w.double())
    o, d = (np.ascontiguousarray(rays.reshape(-1, 3).numpy(), dtype=np.float64) for rays in (origins, directions))
    start, end, radius, turn = posed(person, rotations, bulge)
    hits = cast(o, d, start, end, radius)
    image = np.full((len(o), 3), background)
    hit = np.flatnonzero(hits.capsule >= 0)
    bone, normal = hits.capsule[hit], hits.normal[hit]
    rest_normal = np.einsum("nji,nj->ni", turn[bone], normal)
    light = AMBIENT + (1 - AMBIENT) * np.clip(normal @ LIGHT, 0, None)
    image[hit] = colors(person, bone, hits.along[hit], rest_normal) * light[:, None]
    alpha = (hits.capsule >= 0).astype(np.float64)
    shape = (camera.height, samples, camera.width, samples)
    return image.reshape(*shape, 3).mean((1, 3)).astype(np.float32), alpha.reshape(shape).mean((1, 3)).astype(
        np.float32
    )


@dataclass(frozen=True)
class Surface:
    """Points at rest with normals (unit), the capsule of each and its share along the segment."""

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    bone: Int[np.ndarray, "n"]
    along: Float[np.ndarray, "n"]


def surface(person: Body, count: int, generator: np.random.Generator) -> Surface:
    """Points on the skin at rest, uniform by area; those within another capsule are drawn again."""
    length = np.linalg.norm(person.end - person.start, axis=-1)
    area = 2 * np.pi * person.radius * (length + 2 * person.radius)
    found: list[Surface] = []
    have = 0
    while have < count:
        k = generator.choice(len(area), size=2 * count, p=area / area.sum())
        direction = generator.standard_normal((len(k), 3))
        axis = (person.end - person.start)[k] / length[k, None]
        # A point of the swept length 2r + l: beyond its ends it lies on a half sphere, between them on the round side.
        place = generator.uniform(-1, 1, len(k)) * (length[k] / 2 + person.radius[k])
        lift = np.clip((np.abs(place) - length[k] / 2) / person.radius[k], 0, 1) * np.sign(place)
        across = direction - np.einsum("ij,ij->i", direction, axis)[:, None] * axis
        across /= np.linalg.norm(across, axis=-1, keepdims=True)
        normal = np.sqrt(1 - lift**2)[:, None] * across + lift[:, None] * axis
        along = np.clip(place / length[k] + 0.5, 0, 1)
        points = person.start[k] + along[:, None] * (person.end - person.start)[k] + person.radius[k, None] * normal
        free = (bone_distances(person, points) - person.radius > -1e-6).all(axis=1)
        found.append(Surface(points[free], normal[free], k[free], along[free]))
        have += int(free.sum())
    parts = {name: np.concatenate([getattr(s, name) for s in found])[:count] for name in Surface.__annotations__}
    return Surface(**parts)


def on(person: Body, where: Surface) -> Surface:
    """The same places (capsule, share along, normal) on another person."""
    axis = (person.end - person.start)[where.bone]
    points = person.start[where.bone] + where.along[:, None] * axis + person.radius[where.bone, None] * where.normals
    return Surface(points, where.normals, where.bone, where.along)


def bone_distances(person: Body, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n k"]:
    """Distance of points to the segment of each capsule."""
    axis = person.end - person.start
    away = points[:, None] - person.start
    share = np.einsum("nki,ki->nk", away, axis) / np.einsum("ki,ki->k", axis, axis)
    return np.linalg.norm(away - np.clip(share, 0, 1)[..., None] * axis, axis=-1)


def skinning_weights(
    person: Body, points: Float[np.ndarray, "n 3"], softness: float = 0.015
) -> Float[np.ndarray, "n 24"]:
    """Weights of the joints at rest points: a softmax over how far each joint's capsules are, in ``softness`` metres.
    Joints without a capsule have none.
    """
    away = bone_distances(person, points) - person.radius
    nearest = np.full((len(points), COUNT), np.inf)
    for k, owner in enumerate(_OWNER):
        nearest[:, owner] = np.minimum(nearest[:, owner], away[:, k])
    weights = np.exp(-(nearest - nearest.min(axis=1, keepdims=True)) / softness)
    return weights / weights.sum(axis=1, keepdims=True)


def attributes(person: Body, where: Surface, *, features: int = 32) -> Float[np.ndarray, "n m"]:
    """What the Gaussians of a person would be at given places: position 3, log-scale 3, quaternion 4, appearance 32,
    opacity logit 1. Flat Gaussians along the skin, as wide as the samples lie apart; the appearance is the logit of
    the colour, and fixed random combinations of patterns and texture coefficients under tanh.
    """
    placed = on(person, where)
    length = np.linalg.norm(person.end - person.start, axis=-1)
    area = (2 * np.pi * person.radius * (length + 2 * person.radius)).sum()
    width = np.log(0.6 * np.sqrt(area / len(where.points)) * person.radius / _MEAN.radius)[where.bone]
    scale = np.stack([width, width, width - 1.0], axis=-1)
    turn = frame_quaternion(torch.from_numpy(placed.normals)).numpy()
    patterns = _patterns(where.bone, where.along, where.normals)
    logits = _logits(person, patterns)
    mix = np.random.default_rng(43).standard_normal((features - 3, patterns.shape[1], TEXTURES + 1)) / 2
    rest = np.tanh(patterns @ (mix @ np.append(person.texture, 1.0)).T)
    opacity = np.full((len(where.points), 1), 2.0)
    return np.concatenate([placed.points, scale, turn, logits, rest, opacity], axis=1)
