"""Posed images: of the analytic scenes, of a folder in the layout of NeRF-synthetic, of an LLFF capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorbench.core import data
from tensorbench.core.data import dataset
from tensorbench.radiance_fields.views import SceneData, Views

PARTS = ("images", "alpha", "c2w", "depth", "normals")
NEAR, FAR = 2.0, 6.0


@dataset(
    title="Rendered views of an analytic scene, as arrays",
    source="generated here: sphere tracing (scenes/)",
    licence="Apache-2.0",
    generated=True,
    cache=True,
)
def analytic_views(
    *,
    seed: int,
    scene: str = "spheres",
    size: int = 64,
    train: int = 40,
    valid: int = 5,
    test: int = 5,
    supersample: int = 2,
    background: float = 1.0,
) -> dict:
    """The arrays of :func:`analytic_scene`, kept between runs: ``<split>_<part>``, and the focal length."""
    import torch

    from tensorbench.radiance_fields.cameras import Camera, sphere_poses
    from tensorbench.radiance_fields.scenes import render
    from tensorbench.radiance_fields.scenes import scene as named

    if size < 4:
        raise ValueError(f"size {size} must be at least 4 pixels a side")
    counts = {"train": train, "valid": valid, "test": test}
    for split, count in counts.items():
        if count < 1:
            raise ValueError(f"{split} {count} must be at least 1 view")
    made, camera = named(scene), Camera.from_angle(size, size)
    arrays: dict[str, Any] = {"focal": camera.focal}
    for number, (split, count) in enumerate(counts.items()):
        # A stream of poses for each split: more views of one leave the others and its own first ones as they are.
        generator = torch.Generator().manual_seed(1000 * seed + number)
        poses = sphere_poses(count, generator=generator).numpy()
        views = render(made, camera, poses, supersample=supersample, background=background)
        arrays |= {f"{split}_{part}": getattr(views, part) for part in PARTS}
    return arrays


@dataset(
    title="An analytic scene seen from all sides",
    source="generated here: sphere tracing (scenes/)",
    licence="Apache-2.0",
    generated=True,
)
def analytic_scene(
    *,
    seed: int,
    scene: str = "spheres",
    size: int = 64,
    train: int = 40,
    valid: int = 5,
    test: int = 5,
    supersample: int = 2,
    background: float = 1.0,
) -> SceneData:
    """Views of ``spheres``, ``table``, ``blocks``, ``vase`` or ``cloud`` (size × size pixels) from cameras at random on
    the upper half of a sphere, with NeRF-synthetic's distance (4.0311) and field of view; box [-1.5, 1.5]³.
    """
    from tensorbench.radiance_fields.cameras import Camera
    from tensorbench.radiance_fields.scenes.trace import BOX

    arrays = data.load(
        "analytic_views", seed=seed, scene=scene, size=size, train=train, valid=valid, test=test,
        supersample=supersample, background=background,
    )  # fmt: skip
    camera = Camera(size, size, arrays["focal"])
    splits = {split: _views(arrays, split, camera) for split in ("train", "valid", "test")}
    return SceneData(**splits, box=np.array(BOX), near=NEAR, far=FAR, background=background)


def _views(arrays: Mapping[str, np.ndarray], split: str, camera: Any) -> Views:
    images, alpha, c2w, depth, normals = (arrays[f"{split}_{part}"] for part in PARTS)
    return Views(images, alpha, c2w, camera, depth, normals)


@dataset(
    title="A folder in the layout of NeRF-synthetic",
    source="the user's own, or https://www.matthewtancik.com/nerf (Mildenhall et al. 2020)",
    licence="as its makers state",
    generated=True,
    reads=["path"],
)
def blender_scene(
    *,
    seed: int,
    path: str,
    background: float = 1.0,
    downscale: int = 1,
    limit: int | None = None,
    box: Sequence[Sequence[float]] = ((-1.5, -1.5, -1.5), (1.5, 1.5, 1.5)),
    near: float = NEAR,
    far: float = FAR,
) -> SceneData:
    """transforms_{train,val,test}.json and RGBA images; nothing is random, the seed does not matter."""
    from tensorbench.radiance_fields.blender_io import read_blender

    return read_blender(
        path, background=background, downscale=downscale, limit=limit, box=np.asarray(box), near=near, far=far
    )


@dataset(
    title="A forward-facing capture in the LLFF layout",
    source="the user's own, or https://github.com/Fyusion/LLFF (Mildenhall et al. 2019)",
    licence="as its makers state",
    generated=True,
    reads=["path"],
)
def llff_scene(*, seed: int, path: str, downscale: int = 8, hold_out: int = 8, train: int | None = None) -> SceneData:
    """poses_bounds.npy and images; every ``hold_out``-th view is for the test, ``train`` of the others are kept."""
    from tensorbench.radiance_fields.llff_io import read_llff

    return read_llff(path, downscale=downscale, hold_out=hold_out, train=train)
