"""Progressive volume distillation: schedule and losses to the letter, what a student becomes, what it never sees."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from tensorbench.radiance_fields.cameras import Camera
from tensorbench.radiance_fields.distill import (
    RandomRays,
    Stages,
    View,
    Weights,
    distill,
    distill_points,
    log_sigma_clip,
    mode,
)
from tensorbench.radiance_fields.distill.editing import Composed, Moved, erase
from tensorbench.radiance_fields.distill.kinds import from_arrays, make, to_arrays
from tensorbench.radiance_fields.distill.losses import loss, norm_l2, volume_terms
from tensorbench.radiance_fields.distill.pair import inherit
from tensorbench.radiance_fields.distill.points import random_points
from tensorbench.radiance_fields.distill.rays import random_poses
from tensorbench.radiance_fields.distill.vm import InStages, VMField
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.fields.staged import query
from tensorbench.radiance_fields.fields.voxel import PlenoxelField
from tensorbench.radiance_fields.rendering import render_image
from tensorbench.radiance_fields.tensorf.alpha_mask import AlphaMask, build_alpha_mask
from tensorbench.radiance_fields.tensorf.vm import TensorVM

BOX = torch.tensor([[-1.5, -1.5, -1.5], [1.5, 1.5, 1.5]])
SMALL = {
    "vm": {"resolution": (16, 16, 16), "rank_sigma": 4, "rank_color": 4},
    "hash": {"levels": 4, "finest": 32, "log2_table": 10},
    "mlp": {"width": 32, "depth": 3, "trunk_features": 8},
    "voxel": {"resolution": 16},
}
VIEW = View(Camera(24, 24, 30.0), 2.0, 6.0, torch.ones(3))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small(kind, seed=0):
    return make(kind, BOX, seeded(seed), **SMALL[kind])


class Ball(Field):
    """A red ball of radius 0.8, softly bounded."""

    def density(self, points):
        return torch.sigmoid((0.8 - points.norm(dim=-1)) * 20)

    def color(self, points, directions):
        return torch.stack((0.5 + 0.3 * points[:, 0], 0.2 + 0 * points[:, 0], 0.5 + 0.3 * directions[:, 2]), dim=-1)


def test_stages_at_their_steps():
    assert [Stages().at(step) for step in (0, 1999, 2000, 4999, 5000)] == [1, 1, 2, 2, 3]
    assert Stages.of(30_000) == Stages() and Stages.of(600) == Stages(40, 100)
    assert [Stages().without_features().at(step) for step in (1, 4999, 5000)] == [2, 2, 3]
    with pytest.raises(ValueError, match="in order"):
        Stages(300, 200)


def test_modes():
    assert mode("rgb_only", 600)[0].at(1) == 3 and mode("rgb_only", 600)[1].density == 0
    assert mode("density_only", 600)[0].at(599) == 2 and mode("density_only", 600)[1].color == 0
    assert mode("full", 600) == (Stages(40, 100), Weights())
    with pytest.raises(ValueError, match="rgb_only"):
        mode("rgb", 600)


def test_weight_of_the_features_fades():
    assert Weights().features_at(300) == pytest.approx(4.446e-4, rel=1e-3)
    with pytest.raises(ValueError, match="at least 0"):
        Weights(rgb=-1)


def test_clip_of_the_log_density():
    x = torch.tensor([-9.0, 0.0, 12.0], requires_grad=True)
    y = log_sigma_clip(x)
    assert y.tolist() == [-2.0, 0.0, 7.0]
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


def test_the_norm_is_not_squared_and_grows_with_the_batch():
    assert norm_l2(torch.tensor([3.0, 4.0]), torch.zeros(2)).item() == 5.0
    difference = torch.randn(100, generator=seeded())
    assert norm_l2(difference.repeat(4), torch.zeros(400)) == pytest.approx(2 * difference.norm().item(), rel=1e-5)
    assert Weights.batch("norm_l2", 1024) * 2 == Weights.batch("norm_l2", 256) == 4.0
    with pytest.raises(ValueError, match="norm_l2"):
        loss("l2")


def test_random_cameras_look_at_the_origin_from_the_upper_sphere():
    poses = random_poses(200, generator=seeded())
    eyes, forward = poses[:, :3, 3], -poses[:, :3, 2]
    assert torch.allclose(eyes.norm(dim=-1), torch.full((200,), 4.0), atol=1e-5)
    assert torch.allclose(forward, -eyes / 4, atol=1e-5)
    assert eyes[:, 2].min() >= -1e-6 and eyes[:, 0].min() < -2 and eyes[:, 0].max() > 2
    spread = poses[:, :3, :3] @ poses[:, :3, :3].mT
    assert torch.allclose(spread, torch.eye(3).expand(200, 3, 3), atol=1e-5)
    with pytest.raises(ValueError, match="positive"):
        random_poses(1, radius=0)


def test_rays_come_from_the_cameras_and_hard_ones_come_again():
    source = RandomRays(VIEW.camera, generator=seeded(), hard=0.5, pool=10)
    origins, directions = source.draw(40)
    assert torch.allclose(origins.norm(dim=-1), torch.full((40,), 4.0), atol=1e-5)
    assert torch.allclose(directions.norm(dim=-1), torch.ones(40), atol=1e-5)
    errors = torch.arange(40.0)
    source.learn(origins, directions, errors)
    again, _ = source.draw(20)
    hardest = origins[-10:]
    assert len(again) == 20 and all((hardest - ray).norm(dim=-1).min() < 1e-6 for ray in again[10:])
    with pytest.raises(ValueError, match="share"):
        RandomRays(VIEW.camera, hard=1.0)


@pytest.mark.parametrize("kind", ["vm", "hash", "mlp", "voxel"])
def test_a_twin_has_nothing_to_learn(kind):
    teacher, student = small(kind), small(kind)
    student.load_state_dict(teacher.state_dict())
    points, directions = random_points(100, *BOX, None, seeded(1))
    terms = volume_terms(
        query(student, points, directions), query(teacher, points, directions), 2, Weights(), 1, norm_l2, (-2, 7)
    )
    assert all(value.abs() < 1e-8 for value in terms.values()) and len(terms) == (2 if kind == "voxel" else 3)
    done = distill(teacher, student, VIEW, steps=4, rays=32, samples=24, weight_decay=0.0, stages=Stages(1, 2),
                   weights=Weights(l1=0.0), generator=seeded())  # fmt: skip
    assert max(done.history.losses) < 1e-4
    assert all(torch.allclose(a, b) for a, b in zip(teacher.parameters(), student.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["vm", "hash", "voxel"])
def test_a_ball_is_converted(kind):
    teacher, student = Ball(BOX), small(kind)
    mask = build_alpha_mask(teacher, (24, 24, 24), dilate=3)
    before = _psnr(teacher, student, mask)
    rates = student.parameter_groups(0.1, 0.01)
    distill(teacher, student, VIEW, steps=60, rays=64, samples=32, occupied=mask, groups=rates, generator=seeded())
    assert _psnr(teacher, student, mask) > max(20.0, before + 3)


def _psnr(teacher, student, mask):
    pose = random_poses(1, generator=seeded(5))[0]
    seen, wanted = (
        render_image(f, VIEW.camera, pose, VIEW.near, VIEW.far, 32, VIEW.background, alpha_mask=mask).rgb
        for f in (student, teacher)
    )
    return -10 * math.log10((seen - wanted).square().mean())


def test_the_same_seed_gives_the_same_student():
    students = [small("hash"), small("hash")]
    for student in students:
        distill(small("vm", 3), student, VIEW, steps=3, rays=16, samples=8, generator=seeded())
    assert all(torch.equal(a, b) for a, b in zip(*(s.parameters() for s in students), strict=True))


def test_no_picture_is_looked_at():
    class Views:
        camera = VIEW.camera

        def __getattr__(self, name):
            raise AssertionError(f"the distiller read {name} of the training views")

    data = SimpleNamespace(train=Views(), near=2.0, far=6.0, background=torch.ones(3))
    student = small("hash")
    done = distill(Ball(BOX), student, View.of(data), steps=5, rays=16, samples=8, generator=seeded())
    assert done.history.steps == 5
    with pytest.raises(AssertionError, match="images"):
        _ = data.train.images


def test_the_first_stage_leaves_the_colour_network_alone():
    teacher, student = small("hash", 1), small("hash", 2)
    before = [p.clone() for p in student.color_net.parameters()]
    distill(teacher, student, VIEW, steps=3, rays=16, samples=8, stages=Stages(10, 20), inherited=False,
            weight_decay=0.0, generator=seeded())  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(before, student.color_net.parameters(), strict=True))


def test_networks_are_inherited_and_can_be_kept():
    teacher, student = small("vm", 1), small("hash", 2)
    assert {name.split(".")[0] for name in inherit(teacher, student)} == {"color_net"}
    student = small("hash", 2)
    distill(
        teacher, student, VIEW, steps=3, rays=16, samples=8, stages=Stages(0, 0), fix_heads=True, generator=seeded()
    )
    pairs = zip(teacher.color_net.parameters(), student.color_net.parameters(), strict=True)
    assert all(torch.equal(a, b) and b.requires_grad for a, b in pairs)


def test_features_of_other_widths_take_an_adapter():
    trained = InStages(TensorVM(BOX, (8, 8, 8), 2, 3, features=27, width=16, generator=seeded(), density_shift=-1.0))
    student = small("hash")
    with pytest.raises(ValueError, match="adapter=True"):
        distill(trained, student, VIEW, steps=1, rays=8, samples=4)
    done = distill(trained, student, VIEW, steps=3, rays=16, samples=8, stages=Stages(9, 9), adapter=True,
                   generator=seeded())  # fmt: skip
    assert done.adapter is not None and done.adapter.weight.shape == (28, 16)
    points, directions = random_points(20, *BOX, None, seeded())
    answer = query(trained, points, directions)
    assert torch.allclose(answer.log_sigma.exp() / 25, trained.field.density(points), rtol=1e-4)
    assert torch.allclose(answer.rgb, trained.field.color(points, directions), atol=1e-6)


def test_a_tensor_field_in_stages_equals_its_factors():
    field = small("vm")
    points, directions = random_points(30, *BOX, None, seeded())
    assert isinstance(field, VMField) and isinstance(field, TensorVM)
    assert torch.allclose(field.density(points), query(field, points, directions).log_sigma.exp() / 25, rtol=1e-5)
    listed = [p for group in field.parameter_groups() for p in group["params"]]
    assert sorted(map(id, listed)) == sorted(map(id, field.parameters()))
    field.upsample((20, 20, 20))
    assert field.features(points).shape == (30, 16)


def test_points_alone():
    teacher, student = Ball(BOX), small("voxel")
    groups = student.parameter_groups(0.2, 0.01)
    done = distill_points(teacher, student, steps=60, points=512, groups=groups, generator=seeded())
    points, directions = random_points(500, *BOX, None, seeded(3))
    wanted = log_sigma_clip(query(teacher, points, directions).log_sigma)
    errors = [
        (log_sigma_clip(query(field, points, directions).log_sigma) - wanted).abs().mean().item()
        for field in (student, small("voxel"))
    ]
    assert errors[0] < 0.4 * errors[1] and not done.history.diverged


def test_arrays_and_back():
    field = small("mlp", 4)
    mask = AlphaMask(torch.rand(5, 6, 7, generator=seeded()) > 0.5, BOX)
    other = small("mlp", 5)
    restored = from_arrays(other, to_arrays(field, mask))
    assert torch.equal(restored.cells, mask.cells)
    assert all(torch.equal(a, b) for a, b in zip(field.parameters(), other.parameters(), strict=True))
    with pytest.raises(ValueError, match="voxel"):
        make("voxels", BOX)


def test_moved_fields():
    ball, points = Ball(BOX), random_points(200, *BOX, None, seeded())[0]
    same = Moved(ball)
    assert torch.allclose(same.density(points), ball.density(points))
    moved = Moved(ball, scale=0.5, offset=(0.4, 0.0, 0.0))
    inside = torch.tensor([[0.4, 0.0, 0.0], [0.4, 0.35, 0.0]])
    outside = torch.tensor([[-0.1, 0.0, 0.0], [0.4, 0.0, 0.6]])
    assert moved.density(inside).min() > 1.9 * 0.9 and moved.density(outside).max() < 0.1
    directions = torch.nn.functional.normalize(torch.ones(2, 3), dim=-1)
    assert torch.allclose(moved.color(inside, directions), ball.color(moved.back(inside), directions))
    assert moved.density(torch.tensor([[1.4, 1.4, 1.4]])).item() == 0  # from outside the ball's box
    with pytest.raises(ValueError, match="positive"):
        Moved(ball, scale=0)


def test_composed_fields():
    left, right = (Moved(Ball(BOX), scale=0.5, offset=(x, 0.0, 0.0)) for x in (-0.7, 0.7))
    both = Composed([left, right])
    points = random_points(200, *BOX, None, seeded())[0]
    assert torch.allclose(both.density(points), left.density(points) + right.density(points))
    at = torch.tensor([[-0.7, 0.0, 0.1]])
    direction = torch.tensor([[0.0, 0.0, 1.0]])
    assert torch.allclose(both.color(at, direction), left.color(at, direction), atol=1e-3)
    with pytest.raises(ValueError, match="nothing"):
        Composed([])


def test_erasing_empties_a_region_alone():
    field = PlenoxelField(BOX, resolution=16, generator=seeded())
    before = field.log_density.detach().clone()
    erase(field, torch.tensor([[0.0, 0.0, 0.0], [1.5, 1.5, 1.5]]))
    assert (field.log_density[8:, 8:, 8:] == -20).all() and torch.equal(field.log_density[:8], before[:8])


def test_bad_pairs(caplog):
    with pytest.raises(ValueError, match="other boxes"):
        distill(Ball(2 * BOX), small("hash"), VIEW, steps=1, rays=8, samples=4)
    broken = small("hash")
    with torch.no_grad():
        broken.color_net.layers[0].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        distill(broken, small("hash"), VIEW, steps=1, rays=8, samples=4)
    empty = AlphaMask(torch.zeros(4, 4, 4, dtype=torch.bool), BOX)
    with pytest.raises(ValueError, match="marks no point"):
        distill(Ball(BOX), small("hash"), VIEW, steps=1, rays=8, samples=4, occupied=empty)
    distill(Ball(BOX), small("hash"), VIEW, steps=1, rays=8, samples=4)
    assert "other activations" in caplog.text
