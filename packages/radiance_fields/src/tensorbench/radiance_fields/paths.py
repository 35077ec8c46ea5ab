"""Pictures along a path of cameras, and films of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.cameras import Camera, check_poses, orbit
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.rendering import Occupied, render_image
from tensorbench.radiance_fields.training import background_of
from tensorbench.radiance_fields.views import SceneData

FILMS = ("gif", "png")


def render_path(
    field: Field,
    data: SceneData,
    poses: Float[Tensor, "n 4 4"] | None = None,
    *,
    path: str | Path | None = None,
    camera: Camera | None = None,
    samples: int = 128,
    fps: float = 15.0,
    alpha_mask: Occupied | None = None,
) -> Float[np.ndarray, "n h w 3"]:
    """What cameras at ``poses`` see (default: an orbit of 36), in [0, 1]; near, far and background are the scene's.

    ``path`` ending in .gif keeps a film; in .png, pictures ``name_000.png`` and so on.

    Raises:
        ValueError: bad poses, or a suffix that is neither.
    """
    poses = orbit(36) if poses is None else poses
    check_poses(poses)
    if path is not None:
        _check_film(path)
    camera = data.test.camera if camera is None else camera
    background = background_of(data)
    frames = [
        render_image(field, camera, pose, data.near, data.far, samples, background, alpha_mask=alpha_mask).rgb.cpu()
        for pose in poses
    ]
    pictures = torch.stack(frames).numpy()
    if path is not None:
        save_film(path, pictures, fps=fps)
    return pictures


def save_film(path: str | Path, pictures: Float[np.ndarray, "n h w 3"], *, fps: float = 15.0) -> Path:
    """A GIF that loops, or numbered PNGs, of pictures in [0, 1]."""
    import imageio.v3 as iio

    path = _check_film(path)
    if fps <= 0:
        raise ValueError(f"fps {fps} must be positive")
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = (pictures.clip(0, 1) * 255).round().astype(np.uint8)
    if path.suffix.lower() == ".gif":
        iio.imwrite(path, frames, duration=1000 / fps, loop=0)
    else:
        for k, frame in enumerate(frames):
            iio.imwrite(path.with_name(f"{path.stem}_{k:03d}.png"), frame)
    return path


def _check_film(path: str | Path) -> Path:
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in FILMS:
        raise ValueError(unknown("film format", kind or "(no suffix)", FILMS))
    return path
