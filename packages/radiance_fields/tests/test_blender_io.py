"""Folders of posed pictures: round trips, the real layouts, and what is said of broken ones."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tensorbench.core import data
from tensorbench.radiance_fields.blender_io import (
    area_downscale,
    composite,
    on_background,
    read_blender,
    straight,
    write_blender,
)
from tensorbench.radiance_fields.cameras import Camera, orbit
from tensorbench.radiance_fields.llff_io import read_llff
from tensorbench.radiance_fields.scenes import render, scene
from tensorbench.radiance_fields.views import SceneData

BOX = np.array([[-1.5] * 3, [1.5] * 3])


@pytest.fixture(scope="module")
def spheres() -> SceneData:
    views = render(scene("spheres"), Camera.from_angle(16, 16), orbit(4).numpy())
    return SceneData(views, views.select([0]), views.select([1, 2]), BOX, 2.0, 6.0)


@pytest.fixture
def folder(spheres, tmp_path):
    return write_blender(tmp_path / "spheres", spheres)


def test_round_trip(spheres, folder):
    """Poses and focal length exactly, pictures to 8 bits, geometry exactly."""
    read = read_blender(folder)
    for split in ("train", "valid", "test"):
        old, new = getattr(spheres, split), getattr(read, split)
        assert np.array_equal(old.c2w, new.c2w)
        assert new.camera.focal == pytest.approx(old.camera.focal, rel=1e-12)
        assert np.abs(old.alpha - new.alpha).max() <= 0.5 / 255 + 1e-6
        assert np.abs(old.images - new.images).max() < 1.5 / 255
        assert np.array_equal(old.depth, new.depth) and np.array_equal(old.normals, new.normals)
    assert (read.near, read.far, read.background) == (2.0, 6.0, 1.0)


def test_layout_is_that_of_nerf_synthetic(folder):
    content = json.loads((folder / "transforms_train.json").read_text())
    assert content["camera_angle_x"] == pytest.approx(0.6911112070083618)
    assert content["frames"][1]["file_path"] == "./train/r_1"
    assert np.array(content["frames"][0]["transform_matrix"]).shape == (4, 4)
    with Image.open(folder / "train" / "r_1.png") as picture:
        assert picture.mode == "RGBA"


def test_a_folder_made_by_hand_reads_unchanged(tmp_path):
    """What Blender writes: no depth in our form, other files lying about, half-transparent pixels."""
    rgba = np.zeros((3, 4, 4, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 200, 51
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
        frames = []
        for k, pose in enumerate(orbit(3).tolist()):
            Image.fromarray(rgba[k], "RGBA").save(tmp_path / split / f"r_{k}.png")
            Image.fromarray(rgba[k, ..., 0]).save(tmp_path / split / f"r_{k}_depth_0001.png")
            frames.append({"file_path": f"./{split}/r_{k}", "rotation": 0.0126, "transform_matrix": pose})
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.69, "frames": frames}))
    white, black = read_blender(tmp_path), read_blender(tmp_path, background=0.0, limit=2)
    assert np.allclose(white.train.images[0, 0, 0], [200 / 255 * 0.2 + 0.8, 0.8, 0.8])
    assert np.allclose(black.train.images[0, 0, 0], [200 / 255 * 0.2, 0, 0])
    assert len(black.train) == 2 and white.train.depth is None
    assert np.array_equal(black.train.c2w[1], white.train.c2w[2])
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "transforms_val.json").unlink()
    assert len(read_blender(tmp_path).valid) == 3  # as LLFF-like sets do it: the test's
    loaded = data.load("blender_scene", seed=0, path=str(tmp_path))
    assert loaded.train.images.shape == (3, 4, 4, 3)


def test_backgrounds(spheres):
    views = spheres.train
    rgba = straight(views, 1.0)
    for background in (0.0, 0.3, 1.0):
        truth = render(scene("spheres"), views.camera, views.c2w, background=background)
        assert np.allclose(composite(rgba, background), truth.images, atol=1e-5)
        assert np.allclose(on_background(views, 1.0, background).images, truth.images, atol=1e-5)
    colours = np.random.default_rng(0).random((4, 16, 16, 3))
    mixed = composite(rgba, colours)
    empty = rgba[..., 3] == 0
    assert np.allclose(mixed[empty], colours[empty])


def test_downscaling_averages_light_not_hidden_colours(folder, spheres):
    """A transparent pixel's colour counts nothing; the mean of composited pictures is the composite of the means."""
    pictures = np.array([[[[1.0, 0, 0, 1.0], [0, 1.0, 0, 0.0]], [[1.0, 0, 0, 1.0], [0, 0, 1.0, 0.0]]]], np.float32)
    assert np.allclose(area_downscale(pictures, 2), [[[[1, 0, 0, 0.5]]]])
    small, whole = read_blender(folder, downscale=4), read_blender(folder)
    means = whole.train.images.reshape(4, 4, 4, 4, 4, 3).mean(axis=(2, 4))
    assert np.allclose(small.train.images, means, atol=1e-5)
    assert small.train.camera.focal == pytest.approx(whole.train.camera.focal / 4)
    with pytest.raises(ValueError, match="does not divide"):
        read_blender(folder, downscale=5)


def edit(folder, change):
    path = folder / "transforms_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["frames"][1]["transform_matrix"][0].__setitem__(0, float("nan")), "r_1 must be 4 × 4 finite"),
        (lambda c: c["frames"][1].pop("transform_matrix"), "r_1 has no transform_matrix"),
        (lambda c: c["frames"][0]["transform_matrix"].pop(), "must be 4 × 4"),
        (lambda c: c["frames"][0]["transform_matrix"][0].__setitem__(0, 5.0), "no rotation"),
        (lambda c: c["frames"][0].pop("file_path"), "no file_path"),
        (lambda c: c.pop("frames"), "has no frames"),
        (lambda c: c.pop("camera_angle_x"), "neither camera_angle_x"),
        (lambda c: c.__setitem__("camera_angle_x", 60.0), "between 0 and pi"),
    ],
)
def test_broken_transforms_are_told(folder, change, said):
    edit(folder, change)
    with pytest.raises(ValueError, match=said):
        read_blender(folder)


def test_broken_folders_are_told(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_blender(tmp_path / "nowhere")
    picture = folder / "train" / "r_2.png"
    with Image.open(picture) as image:
        rgba = np.asarray(image)
    Image.fromarray(rgba[..., :3]).save(picture)
    with pytest.raises(ValueError, match=r"r_2\.png has no alpha"):
        read_blender(folder)
    Image.fromarray(rgba[:8], "RGBA").save(picture)
    with pytest.raises(ValueError, match=r"r_2.png has 16 × 8 pixels.*one size"):
        read_blender(folder)
    picture.unlink()
    with pytest.raises(FileNotFoundError, match=r"r_2\.png is missing"):
        read_blender(folder)
    (folder / "transforms_train.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        read_blender(folder)
    (folder / "transforms_train.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"transforms_train\.json is missing"):
        read_blender(folder)


def test_llff(tmp_path):
    """Poses written with LLFF's axes come back: camera distances scaled, all rotations about a common one."""
    rng = np.random.default_rng(0)
    eyes = np.concatenate([rng.uniform(-0.5, 0.5, (9, 2)), np.full((9, 1), 4.0)], axis=1)
    c2w = np.tile(np.eye(4), (9, 1, 1))
    c2w[:, :3, 3] = eyes
    axes = np.stack([-c2w[:, :3, 1], c2w[:, :3, 0], c2w[:, :3, 2], c2w[:, :3, 3], np.tile([32, 48, 40.0], (9, 1))], -1)
    table = np.concatenate([axes.reshape(9, 15), np.tile([2.0, 8.0], (9, 1))], axis=1)
    np.save(tmp_path / "poses_bounds.npy", table)
    (tmp_path / "images").mkdir()
    for k in range(9):
        Image.fromarray(rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)).save(tmp_path / "images" / f"im_{k}.png")
    found = read_llff(tmp_path, downscale=4)
    assert (len(found.train), len(found.test)) == (7, 2)
    assert found.train.images.shape == (7, 8, 12, 3) and found.train.camera.focal == 10.0
    scale = 1 / (0.75 * 2.0)
    expected = scale * (eyes - eyes.mean(axis=0))
    assert np.allclose(found.test.c2w[:, :3, 3], expected[[0, 8]], atol=1e-6)
    assert np.allclose(found.test.c2w[:, :3, :3], np.eye(3), atol=1e-6)
    assert found.far == pytest.approx(8 * scale) and found.near < 2 * scale
    assert len(read_llff(tmp_path, downscale=4, train=3).train) == 3
    (tmp_path / "images" / "im_3.png").unlink()
    with pytest.raises(ValueError, match="8 pictures"):
        read_llff(tmp_path)
    table[2, 0] = np.nan
    np.save(tmp_path / "poses_bounds.npy", table)
    with pytest.raises(ValueError, match="NaN"):
        read_llff(tmp_path)
    np.save(tmp_path / "poses_bounds.npy", table[:, :10])
    with pytest.raises(ValueError, match="17 numbers"):
        read_llff(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"poses_bounds\.npy"):
        read_llff(tmp_path / "images")
