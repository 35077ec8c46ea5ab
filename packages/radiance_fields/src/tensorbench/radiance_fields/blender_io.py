"""Reading and writing posed images in the layout of NeRF-synthetic, unchanged.

A folder holds transforms_train.json, transforms_val.json and transforms_test.json, each with ``camera_angle_x`` (the
horizontal field of view in radians) and ``frames`` of ``file_path`` (without .png) and ``transform_matrix``
(camera-to-world, OpenGL: x right, y up, looks along -z); pictures are RGBA PNG with straight alpha. Beside them this
module keeps distances and normals in ``<file>_geometry.npz``. Mildenhall et al. 2020, arXiv 2003.08934.

>>> data = read_blender("nerf_synthetic/lego", downscale=8)
>>> generator = torch.Generator().manual_seed(0)
>>> field = TensorVM(data.box, (64, 64, 64), generator=generator)
>>> trained = train(field, data, steps=600, generator=generator, schedule=Schedule(mask=(150, 300)))
>>> render_path(field, data, path="lego.gif", alpha_mask=trained.alpha_mask)
>>> export_mesh(field, "lego.ply")
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tensorbench.radiance_fields.cameras import Camera
from tensorbench.radiance_fields.views import SceneData, Views

SPLITS = {"train": "train", "valid": "val", "test": "test"}  # ours: theirs
BOX = np.array([[-1.5, -1.5, -1.5], [1.5, 1.5, 1.5]])


def composite(
    rgba: Float[np.ndarray, "*batch 4"], background: float | Float[np.ndarray, "*batch 3"]
) -> Float[np.ndarray, "*batch 3"]:
    """Straight-alpha pictures on a grey value, a colour, or a colour for every pixel."""
    return rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:]) * background


def straight(views: Views, background: float) -> Float[np.ndarray, "n height width 4"]:
    """RGBA with straight alpha from pictures that were composited on ``background``; black where nothing is seen."""
    alpha = views.alpha[..., None]
    premultiplied = views.images - (1 - alpha) * background
    colour = np.where(alpha > 0, premultiplied / np.maximum(alpha, 1e-6), 0)
    return np.concatenate([np.clip(colour, 0, 1), alpha], axis=-1)


def on_background(views: Views, old: float, new: float | Float[np.ndarray, "3"]) -> Views:
    """The same views on another background: white, black, any colour."""
    from dataclasses import replace

    images = views.images + (1 - views.alpha[..., None]) * (np.asarray(new) - old)
    return replace(views, images=np.clip(images, 0, 1).astype(np.float32))


def area_downscale(pictures: Float[np.ndarray, "n height width c"], factor: int) -> Float[np.ndarray, "n h w c"]:
    """Means over factor × factor pixels; RGBA is averaged with its colours multiplied by alpha, and stays straight.

    Raises:
        ValueError: the factor does not divide the size.
    """
    n, height, width, channels = pictures.shape
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"downscale {factor} does not divide pictures of {height} × {width} pixels")
    if channels == 4:
        pictures = np.concatenate([pictures[..., :3] * pictures[..., 3:], pictures[..., 3:]], axis=-1)
    small = pictures.reshape(n, height // factor, factor, width // factor, factor, channels).mean(axis=(2, 4))
    if channels == 4:
        colour = small[..., :3] / np.maximum(small[..., 3:], 1e-6)
        small = np.concatenate([np.clip(colour, 0, 1), small[..., 3:]], axis=-1)
    return small.astype(np.float32)


def write_blender(folder: str | Path, data: SceneData) -> Path:
    """Write all views as such a folder; pictures have 8 bits a channel. Returns the folder."""
    from PIL import Image

    folder = Path(folder)
    for split, theirs in SPLITS.items():
        views: Views = getattr(data, split)
        (folder / theirs).mkdir(parents=True, exist_ok=True)
        pictures = (straight(views, data.background) * 255).round().astype(np.uint8)
        frames = []
        for k, (picture, pose) in enumerate(zip(pictures, views.c2w, strict=True)):
            Image.fromarray(picture, "RGBA").save(folder / theirs / f"r_{k}.png")
            parts = {n: p[k] for n in ("depth", "normals") if (p := getattr(views, n)) is not None}
            if parts:
                np.savez_compressed(folder / theirs / f"r_{k}_geometry.npz", **parts)
            turn = 2 * math.pi / len(pictures)
            frames.append({"file_path": f"./{theirs}/r_{k}", "rotation": turn, "transform_matrix": pose.tolist()})
        angle = 2 * math.atan(0.5 * views.camera.width / views.camera.focal)
        content = {"camera_angle_x": angle, "frames": frames}
        (folder / f"transforms_{theirs}.json").write_text(json.dumps(content, indent=1))
    return folder


def read_blender(
    folder: str | Path,
    *,
    background: float = 1.0,
    downscale: int = 1,
    limit: int | None = None,
    box: Float[np.ndarray, "2 3"] = BOX,
    near: float = 2.0,
    far: float = 6.0,
) -> SceneData:
    """All three splits. ``limit`` takes that many views of each, spread evenly; a missing val becomes the test's.

    Raises:
        FileNotFoundError: no such folder, no transforms or no picture, with the path.
        ValueError: broken JSON or poses, pictures of different sizes or without alpha.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; it should hold transforms_train.json and the pictures")
    found: dict[str, Views] = {}
    for split, theirs in SPLITS.items():
        if split == "valid" and not (folder / f"transforms_{theirs}.json").exists():
            theirs = SPLITS["test"]
        found[split] = _read_split(folder, theirs, background, downscale, limit)
    return SceneData(**found, box=np.asarray(box, dtype=np.float64), near=near, far=far, background=background)


def _read_split(folder: Path, split: str, background: float, downscale: int, limit: int | None) -> Views:
    path = folder / f"transforms_{split}.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; the layout is transforms_{{train,val,test}}.json and pictures")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    frames = _frames(content, path)
    if limit is not None and limit < len(frames):
        frames = [frames[k] for k in np.linspace(0, len(frames) - 1, limit).round().astype(int)]
    poses = np.stack([_pose(frame, path) for frame in frames])
    names = [_picture(folder, frame, path) for frame in frames]
    pictures = area_downscale(_load(names), downscale)
    height, width = pictures.shape[1:3]
    camera = Camera(width, height, _focal(content, path, width, width * downscale))
    try:
        depth, normals = _geometry(names, downscale)
        return Views(
            composite(pictures, background).astype(np.float32), pictures[..., 3], poses, camera, depth, normals
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _frames(content: Any, path: Path) -> list[dict]:
    frames = content.get("frames") if isinstance(content, Mapping) else None
    if not isinstance(frames, list) or not frames:
        raise ValueError(
            f"{path} has no frames; expected {{camera_angle_x, frames: [{{file_path, transform_matrix}}]}}"
        )
    return frames


def _focal(content: Mapping[str, Any], path: Path, width: int, original: int) -> float:
    if "camera_angle_x" in content:
        angle = content["camera_angle_x"]
        if not isinstance(angle, int | float) or not 0 < angle < math.pi:
            raise ValueError(f"{path}: camera_angle_x {angle!r} must be between 0 and pi radians")
        return 0.5 * width / math.tan(0.5 * angle)
    if "fl_x" in content:
        return float(content["fl_x"]) * width / original
    raise ValueError(f"{path} has neither camera_angle_x (radians) nor fl_x (pixels)")


def _pose(frame: Mapping[str, Any], path: Path) -> Float[np.ndarray, "4 4"]:
    name = frame.get("file_path", "a frame without file_path") if isinstance(frame, Mapping) else "a frame"
    try:
        pose = np.asarray(frame["transform_matrix"], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {name} has no transform_matrix of 4 × 4 numbers") from error
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise ValueError(f"{path}: the transform_matrix of {name} must be 4 × 4 finite numbers")
    return pose


def _picture(folder: Path, frame: Mapping[str, Any], path: Path) -> Path:
    given = frame.get("file_path")
    if not isinstance(given, str):
        raise ValueError(f"{path}: a frame has no file_path")
    picture = folder / given
    if picture.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        picture = picture.with_name(picture.name + ".png")
    if not picture.exists():
        raise FileNotFoundError(f"{picture} is missing, which {path.name} names")
    return picture


def _load(names: list[Path]) -> Float[np.ndarray, "n height width 4"]:
    from PIL import Image

    pictures: list[np.ndarray] = []
    for name in names:
        with Image.open(name) as image:
            if image.mode not in ("RGBA", "LA", "PA"):
                raise ValueError(
                    f"{name} has no alpha channel (mode {image.mode}); the layout asks for RGBA: give opaque pictures "
                    "an alpha of 255, or cut the object out"
                )
            picture = np.asarray(image.convert("RGBA"))
        if pictures and picture.shape != pictures[0].shape:
            raise ValueError(
                f"{name} has {picture.shape[1]} × {picture.shape[0]} pixels, {names[0].name} has "
                f"{pictures[0].shape[1]} × {pictures[0].shape[0]}; all must be of one size"
            )
        pictures.append(picture)
    return np.stack(pictures).astype(np.float32) / 255


def _geometry(names: list[Path], downscale: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Distances and normals where this module wrote them; those of real folders are PNGs in no unit, and left alone."""
    files = [name.with_name(f"{name.stem}_geometry.npz") for name in names]
    if downscale != 1 or not all(file.exists() for file in files):
        return None, None
    parts: dict[str, list[np.ndarray]] = {}
    for file in files:
        with np.load(file, allow_pickle=False) as stored:
            for key in stored.files:
                parts.setdefault(key, []).append(stored[key])
    whole = {key: np.stack(values) for key, values in parts.items() if len(values) == len(files)}
    return whole.get("depth"), whole.get("normals")
