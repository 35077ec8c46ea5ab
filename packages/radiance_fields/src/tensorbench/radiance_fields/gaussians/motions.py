"""Sequences of poses for the 24-joint skeleton, drawn by hand with sines: walk, dance, reach, squat."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.gaussians.covariance import axis_angle_matrix
from tensorbench.radiance_fields.gaussians.skeleton import COUNT, JOINT

MOTIONS = ("walk", "dance", "reach", "squat")
_X, _Y, _Z = range(3)


class _Pose:
    """Angles (radians) about the axes of each joint over the time of a sequence."""

    def __init__(self, frames: int) -> None:
        self.angles = torch.zeros(frames, COUNT, 3)

    def add(self, joint: str, axis: int, value: Tensor | float) -> None:
        self.angles[:, JOINT[joint], axis] += value

    def both(self, joint: str, axis: int, left: Tensor | float, right: Tensor | float) -> None:
        self.add(f"left_{joint}", axis, left)
        self.add(f"right_{joint}", axis, right)

    def arms_down(self, angle: Tensor | float) -> None:
        """From the T of the rest pose; 0 keeps it, π/2 lets the arms hang."""
        self.both("shoulder", _Z, -angle, angle)


def motion(name: str, frames: int, *, phase: float = 0.0, size: float = 1.0) -> Float[Tensor, "frames 24 3 3"]:
    """Rotations relative to the parents, one period of a motion in ``frames`` steps.

    Args:
        name: one of ``MOTIONS``.
        phase: where in the period the sequence starts, 0 to 1.
        size: how far joints move, 1 as drawn.

    Raises:
        ValueError: an unknown motion.
    """
    if name not in MOTIONS:
        raise ValueError(unknown("motion", name, MOTIONS))
    if frames < 1:
        raise ValueError(f"frames {frames} must be at least 1")
    t = 2 * math.pi * (torch.arange(frames) / frames + phase)
    pose = _Pose(frames)
    {"walk": _walk, "dance": _dance, "reach": _reach, "squat": _squat}[name](pose, t, size)
    return axis_angle_matrix(pose.angles)


def _walk(pose: _Pose, t: Tensor, size: float) -> None:
    swing = size * 0.55 * t.sin()
    pose.arms_down(1.25)
    pose.both("hip", _X, -swing, swing)
    pose.both("knee", _X, size * 0.6 * (1 + (t + 0.9).cos()) / 2, size * 0.6 * (1 - (t + 0.9).cos()) / 2)
    pose.both("shoulder", _X, 0.8 * swing, -0.8 * swing)
    pose.both("elbow", _Y, -0.5 - 0.3 * size * t.sin(), 0.5 - 0.3 * size * t.sin())
    pose.add("spine2", _Y, size * 0.15 * t.sin())


def _dance(pose: _Pose, t: Tensor, size: float) -> None:
    pose.arms_down(0.3 + size * 0.6 * t.sin())
    pose.both("shoulder", _X, size * 0.5 * (2 * t).sin(), -size * 0.5 * (2 * t).sin())
    pose.both("elbow", _Z, size * (0.6 + 0.6 * t.cos()), -size * (0.6 - 0.6 * t.cos()))
    pose.add("spine1", _Z, size * 0.25 * t.sin())
    pose.add("spine2", _Y, size * 0.35 * t.cos())
    pose.add("head", _Z, size * 0.25 * t.cos())
    pose.both("hip", _Z, 0.15 + size * 0.2 * t.sin(), -0.15 + size * 0.2 * t.sin())
    pose.both("knee", _X, size * 0.35 * (1 + t.sin()), size * 0.35 * (1 - t.sin()))
    pose.both("hip", _X, -size * 0.25 * (1 + t.sin()), -size * 0.25 * (1 - t.sin()))


def _reach(pose: _Pose, t: Tensor, size: float) -> None:
    left, right = (1 + t.sin()) / 2, (1 - t.sin()) / 2
    pose.both("shoulder", _Z, 1.2 - 2.3 * size * right, -1.2 + 2.3 * size * left)
    pose.both("elbow", _Y, -0.3 - 0.5 * size * left, 0.3 + 0.5 * size * right)
    pose.add("spine1", _X, size * 0.25 * (1 + t.cos()) / 2)
    pose.add("spine3", _Z, -size * 0.2 * t.sin())
    pose.add("neck", _X, -0.2 * size)
    pose.both("hip", _X, -0.1 - 0.15 * size * left, -0.1 - 0.15 * size * right)
    pose.both("knee", _X, 0.2 * size * left, 0.2 * size * right)


def _squat(pose: _Pose, t: Tensor, size: float) -> None:
    down = (1 - t.cos()) / 2
    pose.both("hip", _X, -size * 1.2 * down, -size * 1.2 * down)
    pose.both("hip", _Z, 0.12, -0.12)
    pose.both("knee", _X, size * 1.6 * down, size * 1.6 * down)
    pose.add("spine1", _X, size * 0.5 * down)
    pose.both("shoulder", _Y, -1.3 * down * size, 1.3 * down * size)
    pose.arms_down(1.2 * (1 - down))
    pose.both("elbow", _Y, -0.2, 0.2)
    pose.add("head", _Y, 0.4 * size * t.sin())
