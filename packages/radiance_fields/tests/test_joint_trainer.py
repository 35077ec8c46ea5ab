"""Blurred fields, gradients of renderings in the poses, and joint training on a scene made by a known field."""

from itertools import pairwise

import pytest
import torch

from tensorbench.radiance_fields.cameras import Camera, sphere_poses
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.joint_pose import kernels
from tensorbench.radiance_fields.joint_pose.fields import BarfField, BlurredVM, JointHash
from tensorbench.radiance_fields.joint_pose.schedules import C2F, BarfSchedule, RandomScale, voxel_sigma
from tensorbench.radiance_fields.joint_pose.targets import EdgeMask
from tensorbench.radiance_fields.joint_pose.trainer import (
    JointPlan,
    novel_views,
    pixel_directions,
    rays_through,
    refine_views,
    tensor_of,
    train_joint,
)
from tensorbench.radiance_fields.poses import PoseEmbedding, perturbed, pose_errors, se3_exp
from tensorbench.radiance_fields.rendering import render_image, render_rays
from tensorbench.radiance_fields.views import SceneData, Views

BOX = torch.tensor([[-1.5] * 3, [1.5] * 3])
CAMERA = Camera(48, 48, 66.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def small(resolution=(9, 11, 13), seed=0):
    return BlurredVM(BOX, resolution, 2, 3, width=16, generator=generator(seed), density_shift=-3.0)


class Balls(Field):
    """Three coloured balls with soft sides: what the tests' scene is made of."""

    def __init__(self):
        super().__init__(BOX)

    def density(self, points):
        return 8 * sum(torch.sigmoid((0.45 - (points - centre).norm(dim=-1)) / 0.03) for centre in self.centres())

    def color(self, points, directions):
        weights = torch.stack([(points - centre).norm(dim=-1) for centre in self.centres()], -1)
        stripes = 0.5 + 0.5 * torch.sin(9 * points)
        return torch.softmax(-8 * weights, -1) * 0.7 + 0.3 * stripes

    @staticmethod
    def centres():
        return torch.tensor([[0.5, 0.1, 0.2], [-0.4, 0.5, -0.2], [0.0, -0.6, 0.1]])


def scene(count=16):
    white = torch.ones(3)

    def look(n, seed):
        c2w = torch.as_tensor(sphere_poses(n, generator=generator(seed))).float()
        seen = [render_image(Balls(), CAMERA, pose, 2.0, 6.0, 64, white) for pose in c2w]
        rgb, opacity = (torch.stack(parts).numpy() for parts in zip(*((s.rgb, s.opacity) for s in seen), strict=True))
        return Views(rgb, opacity, c2w.numpy(), CAMERA)

    return SceneData(look(count, 0), look(1, 1), look(2, 2), BOX.numpy(), 2.0, 6.0)


def poses_of(views):
    return tensor_of(views.c2w)


@pytest.fixture(scope="module")
def data():
    return scene()


def test_a_blurred_field_is_the_field_of_the_blurred_grid():
    field = small().double()
    width = 0.3
    kernel = kernels.make_kernel("gaussian", voxel_sigma(width, field.resolution, BOX))
    sharp = field.density_volume()
    with field.blurred(width):
        close(field.density_volume(), kernels.blur_grid(sharp, kernel), 1e-10)
    close(field.density_volume(), sharp, 1e-12)
    points, to = (
        torch.rand(6, 3, generator=generator(1)).double() * 2 - 1,
        torch.randn(6, 3, generator=generator(2)).double(),
    )
    plain = field(points, to)
    with field.blurred(0.0):
        close(field(points, to)[0], plain[0], 1e-12)
    with field.blurred(0.3, 0.0):
        close(field.color(points, to), plain[1], 1e-12)
    with pytest.raises(ValueError, match="sigma kernel"), field.blurred(-1.0):
        pass


def test_gradient_of_the_loss_in_the_poses_is_that_of_differences():
    field = small().double()
    c2w = torch.as_tensor(sphere_poses(4, generator=generator(3))).double()
    local = pixel_directions(CAMERA).double()
    view, pixel = torch.arange(8) % 4, torch.tensor([900, 1010, 1080, 1150, 1176, 1225, 1300, 1400])
    target = torch.rand(8, 3, generator=generator(4)).double()

    def loss(twist):
        origins, to = rays_through(se3_exp(twist[:, :3], twist[:, 3:]) @ c2w, local, view, pixel)
        with field.blurred(0.25):
            seen = render_rays(field, origins, to, 2.0, 6.0, 24, torch.ones(3).double(), weight_threshold=0.0)
        return (seen.rgb - target).square().mean()

    # The direction's own influence on colour is left out of the gradient by design, so it is left out here.
    with torch.no_grad():
        weight = field.net.layers[0].weight
        weight[:, 27:30] = 0  # the direction
        weight[:, 27 + 3 + 2 * 54 :] = 0  # its waves
    twist = (0.02 * torch.randn(4, 6, generator=generator(5))).double().requires_grad_()
    (got,) = torch.autograd.grad(loss(twist), twist)
    h = 1e-5
    for k in range(24):
        step = torch.zeros(24).double()
        step[k] = h
        step = step.view(4, 6)
        with torch.no_grad():
            want = (loss(twist + step) - loss(twist - step)) / (2 * h)
        assert float(got.flatten()[k]) == pytest.approx(float(want), rel=1e-3, abs=1e-8)


def test_rays_are_the_cameras():
    from tensorbench.radiance_fields.cameras import camera_rays

    c2w = torch.as_tensor(sphere_poses(3, generator=generator())).float()
    local = pixel_directions(CAMERA)
    origins, directions = rays_through(c2w, local, torch.full((2304,), 2), torch.arange(2304))
    want_o, want_d = camera_rays(CAMERA, c2w[2])
    close(origins, want_o.reshape(-1, 3).float(), 1e-5)
    close(directions, want_d.reshape(-1, 3).float(), 1e-5)


def test_true_poses_move_by_less_than_a_pixel(data):
    """With the true poses and a field that has seen them, 200 joint steps; a pixel is 0.87 degrees."""
    field = BlurredVM(BOX, (20, 20, 20), 4, 6, width=16, generator=generator())
    rates = {"rays": 384, "samples": 32, "lr_grid": 0.02, "lr_net": 2e-3}
    train_joint(field, data, poses_of(data.train), JointPlan(steps=200, lr_pose=0.0, **rates), generator(1))
    found = train_joint(field, data, poses_of(data.train), JointPlan(steps=200, **rates), generator(2), every=50)
    assert found.curve[0][1] < 1e-3 and 0 < found.curve[-1][1] < 0.6


def test_noisy_poses_come_home_and_test_views_follow(data):
    initial = perturbed(poses_of(data.train), 0.1, generator(7))
    field = BlurredVM(BOX, (14, 14, 14), 4, 6, width=16, generator=generator())
    plan = JointPlan(
        steps=300, rays=256, samples=32, lr_grid=0.02, lr_net=2e-3, lr_pose=1e-2, upsample={150: 20**3}, mask_at=180,
        c2f=C2F((0.3, 0.15, 0.0, 0.0), (0.02, 0.01, 0.0, 0.0)), scales=RandomScale(), mask=EdgeMask(),
    )  # fmt: skip
    found = train_joint(field, data, initial, plan, generator(1), every=150)
    before, after = pose_errors(initial, poses_of(data.train)), pose_errors(found.c2w, poses_of(data.train))
    assert after.rotation.mean() < 0.6 * before.rotation.mean()
    assert field.resolution == (20, 20, 20) and found.mask is not None
    shown = novel_views(field, data, found, generator(2), samples=32, steps=40, rays=256, refine_samples=32)
    error = (shown.pictures - tensor_of(data.test.images)).square().mean()
    assert error < (shown.unrefined - tensor_of(data.test.images)).square().mean() * 1.05 and error < 0.02
    assert all(parameter.requires_grad for parameter in field.parameters())


def test_views_are_found_again_in_a_known_field(data):
    start = perturbed(poses_of(data.test), 0.03, generator())
    found = refine_views(Balls(), data.test, start, 2.0, 6.0, torch.ones(3), steps=80, rays=256, samples=48, lr=4e-3,
                         generator=generator(1))  # fmt: skip
    before = pose_errors(start, poses_of(data.test), align=False)
    after = pose_errors(found, poses_of(data.test), align=False)
    assert after.rotation.mean() < 0.6 * before.rotation.mean()


@pytest.mark.parametrize("kind", [BarfField, JointHash])
def test_other_fields_train_and_give_directions_no_gradient(kind, data):
    options = (
        {"schedule": BarfSchedule(0.0, 0.5), "width": 16}
        if kind is BarfField
        else {"levels": 3, "finest": 32, "log2_table": 10}
    )
    field = kind(BOX, generator=generator(), **options)
    found = train_joint(
        field, data, poses_of(data.train), JointPlan(steps=20, rays=64, samples=16), generator(1), every=10
    )
    assert [step for step, _, _ in found.curve] == [0, 10, 20] and torch.isfinite(found.c2w).all()
    to = torch.nn.functional.normalize(torch.randn(4, 3, generator=generator()), dim=-1).requires_grad_()
    assert not field.color(torch.zeros(4, 3), to).requires_grad or torch.autograd.grad(
        field.color(torch.zeros(4, 3), to).sum(), to, allow_unused=True)[0] is None  # fmt: skip


def test_barf_sees_coordinates_first():
    field = BarfField(BOX, width=16, depth=3, frequencies=4, schedule=BarfSchedule(0.0, 1.0), generator=generator())
    points = torch.rand(50, 3, generator=generator()) * 2 - 1
    steps = []
    for progress in (0.0, 0.5, 1.0):
        field.progress = progress
        steps.append(field.features(points).detach())
    assert all((a - b).abs().max() > 1e-4 for a, b in pairwise(steps))
    with torch.no_grad():
        field.trunk[0].weight[:, 3:] = 0
    field.progress = 0.0
    close(field.features(points).detach(), steps[0], 1e-6)


def test_bad_input(data):
    field = small()
    with pytest.raises(ValueError, match="each image needs its camera"):
        train_joint(field, data, poses_of(data.train)[:3], JointPlan(steps=1), generator())
    with pytest.raises(ValueError, match="each image needs its camera"):
        refine_views(field, data.test, poses_of(data.test)[:1], 2.0, 6.0, torch.ones(3), generator=generator())
    with pytest.raises(ValueError, match=r"PoseEmbedding\(2\)"):
        PoseEmbedding(5).refine(poses_of(data.test))
