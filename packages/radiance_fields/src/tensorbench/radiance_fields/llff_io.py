"""Reading forward-facing captures in the LLFF layout: ``poses_bounds.npy`` and a folder of pictures.

A row of the file holds a 3 × 5 matrix (axes down, right, backwards; position; height, width, focal length) and the
nearest and farthest depth. Poses are turned to this package's axes, centred and scaled as in NeRF's code (Mildenhall et
al. 2020, appendix): the nearest depth becomes 1 / 0.75. Rays can go on to ``cameras.ndc_rays``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from tensorbench.radiance_fields.blender_io import area_downscale
from tensorbench.radiance_fields.cameras import Camera
from tensorbench.radiance_fields.views import SceneData, Views

SUFFIXES = (".jpg", ".jpeg", ".png")
MARGIN = 0.75  # the nearest depth becomes 1 / MARGIN


def read_llff(folder: str | Path, *, downscale: int = 8, hold_out: int = 8, train: int | None = None) -> SceneData:
    """Every ``hold_out``-th view (the first included) is for the test and validation; ``train`` of the others, evenly.

    Pictures are those of ``images_<downscale>`` where that folder is there, else of ``images``, averaged.

    Raises:
        FileNotFoundError: no poses_bounds.npy or no pictures.
        ValueError: a table of another shape, NaN, or another number of pictures than poses.
    """
    folder = Path(folder)
    table = _table(folder)
    poses, sizes, bounds = split_table(table)
    images = _images(folder, downscale, len(table))
    height, width = images.shape[1:3]
    scale = 1.0 / (MARGIN * float(bounds.min()))
    poses[:, :3, 3] *= scale
    bounds = bounds * scale
    poses = recentre(poses)
    camera = Camera(width, height, float(sizes[0, 2]) * width / float(sizes[0, 1]))
    rows = np.arange(len(table))
    held = rows % hold_out == 0 if hold_out > 0 else np.zeros(len(rows), dtype=bool)
    if not held.any() or held.all():
        raise ValueError(f"hold_out {hold_out} of {len(rows)} views leaves none to train or none to test on")
    kept = rows[~held]
    if train is not None and train < len(kept):
        kept = kept[np.linspace(0, len(kept) - 1, train).round().astype(int)]
    whole = Views(images, np.ones(images.shape[:3], dtype=np.float32), poses.astype(np.float32), camera)
    test = whole.select(rows[held])
    far = float(bounds.max())
    wide = 0.5 * width / camera.focal * far
    reach = max(wide, wide * height / width) + float(np.abs(poses[:, :2, 3]).max())
    box = np.array([[-reach, -reach, -far], [reach, reach, 0.0]])
    return SceneData(whole.select(kept), test, test, box, float(bounds.min()) * 0.9, far)


def split_table(
    table: Float[np.ndarray, "n 17"],
) -> tuple[Float[np.ndarray, "n 4 4"], Float[np.ndarray, "n 3"], Float[np.ndarray, "n 2"]]:
    """Poses (right, up, backwards), (height, width, focal length) and (nearest, farthest depth)."""
    matrices = table[:, :15].reshape(-1, 3, 5)
    poses = np.zeros((len(table), 4, 4))
    # Their columns are down, right, backwards.
    poses[:, :3, 0], poses[:, :3, 1] = matrices[:, :, 1], -matrices[:, :, 0]
    poses[:, :3, 2:] = matrices[:, :, 2:4]
    poses[:, 3, 3] = 1
    return poses, matrices[:, :, 4], table[:, 15:]


def recentre(poses: Float[np.ndarray, "n 4 4"]) -> Float[np.ndarray, "n 4 4"]:
    """Poses as seen from their mean: mean position, mean viewing axis, mean up made upright to it."""
    back = poses[:, :3, 2].sum(axis=0)
    back /= np.linalg.norm(back)
    right = np.cross(poses[:, :3, 1].sum(axis=0), back)
    right /= np.linalg.norm(right)
    mean = np.eye(4)
    mean[:3, :] = np.stack([right, np.cross(back, right), back, poses[:, :3, 3].mean(axis=0)], axis=1)
    return np.linalg.inv(mean) @ poses


def _table(folder: Path) -> Float[np.ndarray, "n 17"]:
    path = folder / "poses_bounds.npy"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; LLFF's imgs2poses.py makes it from COLMAP's result")
    table = np.load(path, allow_pickle=False).astype(np.float64)
    if table.ndim != 2 or table.shape[1] != 17:
        raise ValueError(f"{path} has shape {table.shape}; expected a row of 17 numbers for each view")
    if not np.isfinite(table).all():
        raise ValueError(f"{path} holds NaN or infinity")
    if (table[:, 15] <= 0).any() or (table[:, 16] <= table[:, 15]).any():
        raise ValueError(f"{path}: depths must be 0 < nearest < farthest in every row")
    return table


def _images(folder: Path, downscale: int, count: int) -> Float[np.ndarray, "n h w 3"]:
    from PIL import Image

    reduced = folder / f"images_{downscale}"
    source, factor = (reduced, 1) if downscale > 1 and reduced.is_dir() else (folder / "images", downscale)
    names = sorted(path for path in source.glob("*") if path.suffix.lower() in SUFFIXES)
    if not names:
        raise FileNotFoundError(f"{source} holds no pictures")
    if len(names) != count:
        raise ValueError(f"{source} holds {len(names)} pictures, poses_bounds.npy has {count} rows")
    found = []
    for name in names:
        with Image.open(name) as image:
            array = np.asarray(image.convert("RGB"), dtype=np.float32)[None] / 255
        height, width = (side - side % factor for side in array.shape[1:3])
        found.append(area_downscale(array[:, :height, :width], factor)[0])
    if len({image.shape for image in found}) > 1:
        raise ValueError(f"{source}: pictures are of different sizes")
    return np.stack(found)
