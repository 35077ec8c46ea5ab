"""ZJU-MoCap folders in the layout that ARAH and 3DGS-Avatar prepare: real people for the ``full`` scale.

A subject's folder has ``cam_params.json`` (K, D, R, T of each camera, metres), a folder for each camera with pictures
``000000.jpg`` and masks ``000000.png``, and ``models/000000.npz`` with the body's ``minimal_shape`` (6890, 3), the
``bone_transforms`` (24, 4, 4) from that shape to the posed body, ``trans``, and axis-angle ``root_orient``,
``pose_body``, ``pose_hand``. The data are the authors' (asked for at the site of ZJU), the body is SMPL's: its skinning
weights (6890, 24) and joint regressor (24, 6890) come in two ``.npy`` files that the user has under SMPL's licence.
Lens distortion is left as it is (the reference code undoes it with OpenCV).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorbench.core.data import dataset
from tensorbench.radiance_fields.datasets.humanoids import Avatars, Clip, Person

if TYPE_CHECKING:
    from tensorbench.radiance_fields.cameras import Camera

SIDE = 1024  # pixels of the pictures as published


def read_clip(folder: Path, camera_name: str, frames: range, size: int, background: float = 0.0) -> tuple[Clip, Camera]:
    """Frames of one camera, scaled to ``size`` pixels a side, and that camera.

    The principal point is moved to the centre by turning the picture's plane into the pose, as the reference code does;
    the pose may therefore be no exact rotation.

    Raises:
        FileNotFoundError: a file is missing; the message names it.
        ValueError: a mask of another size than its picture.
    """
    import torch

    from tensorbench.radiance_fields.cameras import Camera
    from tensorbench.radiance_fields.gaussians.covariance import axis_angle_matrix

    known = json.loads(_there(folder / "cam_params.json").read_text())
    if camera_name not in known:
        raise ValueError(f"camera {camera_name!r} is not in {folder / 'cam_params.json'}: {', '.join(list(known)[:8])}")
    given = known[camera_name]
    k, r, t = (np.asarray(given[name], dtype=np.float64) for name in ("K", "R", "T"))
    centre = np.eye(3)
    centre[0, 2], centre[1, 2] = (k[0, 2] - SIDE / 2) / k[0, 0], (k[1, 2] - SIDE / 2) / k[1, 1]
    pose = np.eye(4)
    rotation, shift = centre @ r, centre @ t.reshape(3)
    inverse = np.linalg.inv(rotation)
    pose[:3, :3] = inverse @ np.diag([1.0, -1.0, -1.0])
    pose[:3, 3] = -inverse @ shift
    images, masks, poses, transforms = [], [], [], []
    for frame in frames:
        name = f"{frame:06d}"
        image, mask = _picture(folder / camera_name, name, size, background)
        body = dict(np.load(_there(folder / "models" / f"{name}.npz")))
        turns = np.concatenate([body[key].reshape(-1) for key in ("root_orient", "pose_body", "pose_hand")])
        moves = np.array(body["bone_transforms"], dtype=np.float64)
        moves[:, :3, 3] += body["trans"].reshape(3)
        images.append(image)
        masks.append(mask)
        poses.append(axis_angle_matrix(torch.from_numpy(turns.reshape(24, 3)).double()))
        transforms.append(moves)
    count = len(images)
    clip = Clip(
        images=torch.from_numpy(np.stack(images)),
        masks=torch.from_numpy(np.stack(masks)),
        rotations=torch.stack(poses).float(),
        transforms=torch.from_numpy(np.stack(transforms)).float(),
        c2w=torch.from_numpy(pose).float().expand(count, 4, 4).contiguous(),
    )
    return clip, Camera(size, size, float(k[0, 0]) * size / SIDE)


@dataset(
    title="ZJU-MoCap, prepared as for ARAH",
    source="https://chingswy.github.io/Dataset-Demo/ (to be asked for)",
    licence="non-commercial research, as stated there",
    generated=True,
    reads=["path"],
)
def zju_mocap(
    *,
    seed: int,
    path: str,
    subjects: list[str],
    camera: str = "1",
    views: list[str] | None = None,
    frames: int = 300,
    tests: int = 60,
    size: int = 512,
    weights: str = "skinning_weights.npy",
    regressor: str = "joint_regressor.npy",
) -> Avatars:
    """Subjects of a folder: ``frames`` frames of one camera to train on, the ``tests`` frames that follow as novel
    poses, training frames seen by another camera as novel views, those halfway between them to validate. ``weights``
    and ``regressor`` are files in ``path``.
    """
    root = Path(path)
    skinning = np.load(_there(root / weights)).astype(np.float32)
    joints_of = np.load(_there(root / regressor)).astype(np.float32)
    people, lens = [], None
    for subject in subjects:
        folder = root / subject
        train, found = read_clip(folder, camera, range(frames), size)
        lens = lens or found
        if abs(found.focal - lens.focal) > 0.01 * lens.focal:
            raise ValueError(f"subject {subject}: focal {found.focal:.1f} differs from {lens.focal:.1f}; load it alone")
        other = (views or ["2"])[0]
        step = max(1, frames // tests)
        view, _ = read_clip(folder, other, range(0, frames, step), size)
        valid, _ = read_clip(folder, other, range(step // 2, frames, step), size)
        pose, _ = read_clip(folder, camera, range(frames, frames + tests), size)
        people.append(_person(folder, skinning, joints_of, train, valid, view, pose))
    assert lens is not None
    return Avatars(people, [], lens, 0.0)


def _person(folder: Path, skinning: np.ndarray, joints_of: np.ndarray, *clips: Clip) -> Person:
    import torch

    shape = np.load(_there(folder / "models" / "000000.npz"))["minimal_shape"].astype(np.float32)
    if skinning.shape != (len(shape), 24):
        raise ValueError(f"skinning weights {skinning.shape} do not fit the {len(shape)} points of the body")
    train, valid, view, pose = clips
    joints, points, weights = (torch.from_numpy(np.ascontiguousarray(x)) for x in (joints_of @ shape, shape, skinning))
    return Person(joints, points, weights, train=train, valid=valid, view=view, pose=pose)


def _picture(folder: Path, name: str, size: int, background: float) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    image: Any = Image.open(_there(folder / f"{name}.jpg")).convert("RGB")
    mask: Any = Image.open(_there(folder / f"{name}.png")).convert("L").point(lambda value: 255 * (value > 0))
    if image.size != mask.size:
        raise ValueError(f"{folder / name}: the mask has {mask.size} pixels, the picture {image.size}")
    alpha = np.asarray(mask.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 255
    color = np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 255
    return color * alpha[..., None] + background * (1 - alpha[..., None]), alpha


def _there(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; ZJU-MoCap has to be asked for and prepared as for ARAH")
    return path
