"""A skeleton of 24 joints, forward kinematics, and linear blend skinning.

The tree is that of SMPL (Loper et al. 2015), so that its poses fit; the joints' places are our own. Rest pose: arms
stretched to the sides (T), metres, x to the person's left, y up, z ahead, the pelvis at the origin. A posed point is

    x' = Σ_j w_j(x) (G_j x),   Σ_j w_j = 1,

with G_j what forward kinematics makes of the rotations: from the rest place of joint j to its posed place.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

JOINTS = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
)  # fmt: skip
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
JOINT = {name: k for k, name in enumerate(JOINTS)}
COUNT = len(JOINTS)
_OFFSETS = {  # from the parent; the right side mirrors the left
    "pelvis": (0.0, 0.0, 0.0), "left_hip": (0.09, -0.06, 0.0), "left_knee": (0.01, -0.38, 0.01),
    "left_ankle": (0.0, -0.41, -0.03), "left_foot": (0.01, -0.05, 0.11), "spine1": (0.0, 0.12, -0.01),
    "spine2": (0.0, 0.13, 0.0), "spine3": (0.0, 0.09, 0.01), "neck": (0.0, 0.2, -0.02), "head": (0.0, 0.1, 0.02),
    "left_collar": (0.07, 0.13, -0.01), "left_shoulder": (0.11, 0.02, 0.0), "left_elbow": (0.26, 0.0, -0.01),
    "left_wrist": (0.25, 0.0, 0.0), "left_hand": (0.08, 0.0, 0.0),
}  # fmt: skip


def rest_offsets() -> Float[Tensor, "24 3"]:
    """Each joint's place from its parent's, in metres."""
    rows = []
    for name in JOINTS:
        x, y, z = _OFFSETS[name.replace("right", "left")]
        rows.append((-x if name.startswith("right") else x, y, z))
    return torch.tensor(rows)


def joints_of(offsets: Float[Tensor, "24 3"]) -> Float[Tensor, "24 3"]:
    """Places of the joints at rest from the offsets: sums along the tree."""
    return ancestors().to(offsets) @ offsets


def children(joint: int) -> list[int]:
    """The joints that hang on ``joint``."""
    return [k for k, parent in enumerate(PARENTS) if parent == joint]


def subtree(joint: int) -> list[int]:
    """``joint`` and all that moves with it."""
    return [k for k in range(COUNT) if ancestors()[k, joint]]


def ancestors() -> Float[Tensor, "24 24"]:
    """1 where the column's joint is on the way from the row's joint to the root, itself included."""
    table = torch.eye(COUNT)
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            table[joint] += table[parent]
    return table


def forward_kinematics(
    rotations: Float[Tensor, "*batch 24 3 3"],
    joints: Float[Tensor, "*batch 24 3"],
    root: Float[Tensor, "*batch 3"] | None = None,
) -> Float[Tensor, "*batch 24 4 4"]:
    """G_j, from the rest pose to the world: ``rotations`` are relative to the parent, ``root`` moves the whole.

    Raises:
        ValueError: another number of joints.
    """
    for name, given in (("rotations", rotations.shape[-3:]), ("joints", joints.shape[-2:])):
        if given[0] != COUNT:
            raise ValueError(f"{name} have {given[0]} joints, this skeleton has {COUNT}: {', '.join(JOINTS[:4])}, …")
    turned: list[Tensor] = []
    placed: list[Tensor] = []
    for joint, parent in enumerate(PARENTS):
        own, rest = rotations[..., joint, :, :], joints[..., joint, :]
        if parent < 0:
            turned.append(own)
            placed.append(rest if root is None else rest + root)
            continue
        turned.append(turned[parent] @ own)
        placed.append(placed[parent] + (turned[parent] @ (rest - joints[..., parent, :])[..., None])[..., 0])
    rotation, place = torch.stack(turned, dim=-3), torch.stack(placed, dim=-2)
    shift = place[..., None] - rotation @ joints[..., None]
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=shift.dtype, device=shift.device)
    return torch.cat([torch.cat([rotation, shift], dim=-1), last.expand(*shift.shape[:-2], 1, 4)], dim=-2)


def blend(
    weights: Float[Tensor, "*batch n 24"], transforms: Float[Tensor, "*batch 24 4 4"]
) -> tuple[Float[Tensor, "*batch n 3 3"], Float[Tensor, "*batch n 3"]]:
    """Σ_j w_j G_j of each point: the linear part and the shift. One matrix product."""
    if weights.shape[-1] != transforms.shape[-3]:
        raise ValueError(f"{weights.shape[-1]} skinning weights a point, but {transforms.shape[-3]} joints")
    mixed = (weights @ transforms[..., :3, :].flatten(-2)).unflatten(-1, (3, 4))
    return mixed[..., :3], mixed[..., 3]


def skin(
    points: Float[Tensor, "*batch n 3"],
    weights: Float[Tensor, "*batch n 24"],
    transforms: Float[Tensor, "*batch 24 4 4"],
) -> Float[Tensor, "*batch n 3"]:
    """Linear blend skinning of rest points."""
    linear, shift = blend(weights, transforms)
    return (linear @ points[..., None])[..., 0] + shift
