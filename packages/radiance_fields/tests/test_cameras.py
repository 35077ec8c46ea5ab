"""Cameras: the convention, round trips, normalised device coordinates, poses, views and metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tensorbench.radiance_fields import metrics
from tensorbench.radiance_fields.cameras import (
    Camera,
    camera_rays,
    check_poses,
    look_at,
    ndc_rays,
    orbit,
    project,
    sphere_poses,
)  # fmt: skip
from tensorbench.radiance_fields.views import SceneData, Views


def test_convention_of_a_known_camera():
    """From (0, -4, 0) towards the origin: right is +x, up is +z, and row 0 is the top."""
    camera = Camera(5, 3, 4.0)
    pose = look_at(torch.tensor([0.0, -4.0, 0.0]))
    origins, directions = camera_rays(camera, pose)
    directions = directions.reshape(3, 5, 3)
    assert torch.allclose(origins, torch.tensor([0.0, -4.0, 0.0]).expand(15, 3))
    assert torch.allclose(directions[1, 2], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)
    assert directions[0, 2, 2] > 0 > directions[2, 2, 2] and directions[1, 4, 0] > 0 > directions[1, 0, 0]
    assert torch.allclose(directions.norm(dim=-1), torch.ones(3, 5), atol=1e-6)
    # The identity is a camera at the origin that looks along -z.
    assert torch.allclose(camera_rays(Camera(1, 1, 2.0), torch.eye(4))[1], torch.tensor([[0.0, 0.0, -1.0]]))


def test_rays_without_half_pixels_are_those_of_nerfs_code():
    camera = Camera(6, 4, 5.5)
    pose = sphere_poses(1, generator=torch.Generator().manual_seed(3))[0]
    j, i = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    local = torch.stack([(i - 3.0) / 5.5, -(j - 2.0) / 5.5, -torch.ones_like(i)], -1)
    expected = torch.nn.functional.normalize((local[..., None, :] * pose[:3, :3]).sum(-1), dim=-1).reshape(-1, 3)
    assert torch.allclose(camera_rays(camera, pose, half_pixel=False)[1], expected, atol=1e-6)
    assert float((camera_rays(camera, pose)[1] - expected).norm(dim=-1).min()) > 0.05


def test_points_on_rays_project_to_their_pixels():
    camera = Camera.from_angle(12, 8)
    generator = torch.Generator().manual_seed(0)
    for pose in sphere_poses(4, generator=generator, upper=False).double():
        pixels = torch.stack(
            [torch.randint(8, (30,), generator=generator), torch.randint(12, (30,), generator=generator)], -1
        )
        origins, directions = camera_rays(camera, pose, pixels)
        t = 1 + 3 * torch.rand(30, 1, generator=generator, dtype=torch.float64)
        image, depth = project(camera, pose, origins + t * directions)
        assert torch.allclose(image, pixels.flip(-1).double() + 0.5, atol=1e-5)
        assert (depth > 0).all()


def test_rays_are_differentiable_in_the_pose():
    pose = look_at(torch.tensor([1.0, -3.0, 2.0])).double().requires_grad_()
    pixels = torch.tensor([[0, 1], [2, 3]])
    assert torch.autograd.gradcheck(lambda c: camera_rays(Camera(4, 4, 5.0), c, pixels), pose)


def test_batched_poses_give_each_its_own_rays():
    camera, poses = Camera(3, 2, 2.0), orbit(5)
    origins, directions = camera_rays(camera, poses)
    for k, pose in enumerate(poses):
        o, d = camera_rays(camera, pose)
        assert torch.allclose(origins[k], o) and torch.allclose(directions[k], d)


def test_device_coordinates_keep_points_on_their_rays():
    """NeRF's appendix C: a point goes to (-f/(W/2) x/z, -f/(H/2) y/z, 1 + 2 n/z); near is -1, infinity is 1."""
    camera, near = Camera(20, 16, 15.0), 0.8
    o, d = camera_rays(camera, torch.eye(4, dtype=torch.float64) + 0.0)
    start, step = ndc_rays(camera, near, o, d)
    assert torch.allclose(start[:, 2], torch.full_like(start[:, 2], -1.0))
    assert torch.allclose((start + step)[:, 2], torch.ones_like(start[:, 2]))
    for t in (1.0, 2.5, 40.0):
        p = o + t * d
        z = p[:, 2]
        there = torch.stack([-1.5 * p[:, 0] / z, -15.0 / 8 * p[:, 1] / z, 1 + 2 * near / z], -1)
        along = (there - start)[:, 2:] / step[:, 2:]
        assert torch.allclose(start + along * step, there, atol=1e-9)
    with pytest.raises(ValueError, match="near"):
        ndc_rays(camera, 0.0, o, d)


def test_random_poses_look_at_the_origin_from_the_upper_half():
    poses = sphere_poses(200, radius=4.0, generator=torch.Generator().manual_seed(1))
    check_poses(poses)
    eye, back = poses[:, :3, 3], poses[:, :3, 2]
    assert torch.allclose(eye.norm(dim=-1), torch.full((200,), 4.0), atol=1e-5)
    assert torch.allclose(back, eye / 4, atol=1e-5)
    assert (eye[:, 2] > 0).all() and (poses[:, 2, 1] > 0).all()
    # Uniform in area: height is uniform.
    assert abs(float(eye[:, 2].mean()) / 4 - 0.505) < 0.06
    assert torch.equal(sphere_poses(7, generator=torch.Generator().manual_seed(1), radius=4.0), poses[:7])


def test_orbit_goes_round_once():
    poses = orbit(8, radius=2.0, elevation=30.0)
    assert torch.allclose(poses[:, 2, 3], torch.full((8,), 1.0), atol=1e-6)
    assert torch.allclose(poses[:, :3, 3].mean(0), torch.tensor([0.0, 0.0, 1.0]), atol=1e-6)


def test_bad_cameras_and_poses_are_told():
    with pytest.raises(ValueError, match="focal"):
        Camera(4, 4, math.nan)
    with pytest.raises(ValueError, match="field of view"):
        Camera.from_angle(4, 4, 4.0)
    with pytest.raises(ValueError, match="whole numbers"):
        Camera(5, 5, 1.0).scaled(0.5)
    with pytest.raises(ValueError, match="outside an image"):
        camera_rays(Camera(4, 4, 1.0), torch.eye(4), torch.tensor([[0, 4]]))
    with pytest.raises(ValueError, match="no orientation"):
        look_at(torch.tensor([0.0, 0.0, 2.0]))
    broken = orbit(3)
    broken[1, 0, 3] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        check_poses(broken)
    with pytest.raises(ValueError, match="mirror"):
        check_poses(torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0])))
    with pytest.raises(ValueError, match="elevation"):
        orbit(3, elevation=90)


def test_views_and_scenes_check_what_they_are_given():
    camera, poses = Camera(4, 3, 5.0), orbit(2).numpy()
    images, alpha = np.full((2, 3, 4, 3), 0.5, np.float32), np.ones((2, 3, 4), np.float32)
    views = Views(images, alpha, poses, camera)
    assert len(views.select([1])) == 1
    origins, _, colours = views.rays()
    assert origins.shape == colours.shape == (24, 3)
    assert torch.allclose(origins[12], torch.from_numpy(poses[1, :3, 3]))
    with pytest.raises(ValueError, match="do not fit a camera"):
        Views(images, alpha, poses, Camera(3, 4, 5.0))
    with pytest.raises(ValueError, match="NaN"):
        Views(images * np.nan, alpha, poses, camera)
    with pytest.raises(ValueError, match="opacity holds NaN"):
        Views(images, alpha * np.nan, poses, camera)
    with pytest.raises(ValueError, match="box"):
        SceneData(views, views, views, np.zeros((2, 3)), 1.0, 2.0)
    with pytest.raises(ValueError, match="near"):
        SceneData(views, views, views, np.array([[-1.0] * 3, [1.0] * 3]), 2.0, 1.0)
    assert len(SceneData(views, views, views, np.array([[-1.0] * 3, [1.0] * 3]), 1.0, 2.0).with_train([0]).train) == 1


def test_metrics_against_closed_forms_and_scikit_image():
    from skimage.data import astronaut
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    true = torch.from_numpy(astronaut()[::4, ::4] / 255.0)
    found = (true + 0.08 * torch.randn(true.shape, generator=torch.Generator().manual_seed(0), dtype=true.dtype)).clamp(
        0, 1
    )
    assert metrics.psnr(torch.full((4, 4, 3), 0.6), torch.full((4, 4, 3), 0.5)) == pytest.approx(20.0, abs=1e-4)
    assert metrics.psnr(true, true) == math.inf
    assert metrics.psnr(found, true) == pytest.approx(
        peak_signal_noise_ratio(true.numpy(), found.numpy(), data_range=1.0), abs=1e-9
    )
    oracle = structural_similarity(
        true.numpy(), found.numpy(), channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert metrics.ssim(found, true) == pytest.approx(oracle, abs=1e-4)
    a, b = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 0.0], [1.0, 1.0], [5.0, 0.0]])
    assert metrics.chamfer(a, b) == pytest.approx(0.5 * (0.5 + 5 / 3))
    true_depth = torch.tensor([1.0, 2.0, math.inf])
    assert metrics.depth_error(torch.tensor([1.5, 2.0, 9.0]), true_depth) == pytest.approx(0.25)
    layer = torch.nn.Linear(3, 4)
    assert metrics.count_weights(layer) == 16 and metrics.size_bytes(layer, torch.float16) == 32
    with pytest.raises(ValueError, match="cannot be compared"):
        metrics.psnr(true, true[:3])
    with pytest.raises(ValueError, match="nowhere finite"):
        metrics.depth_error(true_depth, torch.full((3,), math.inf))
