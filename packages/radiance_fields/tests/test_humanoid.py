"""Skeleton, skinning, capsules, and the people made of them."""

import numpy as np
import pytest
import torch

from tensorbench.core import data
from tensorbench.radiance_fields.cameras import Camera, look_at
from tensorbench.radiance_fields.datasets.humanoids import Avatars, Clip, Person
from tensorbench.radiance_fields.gaussians import humanoid
from tensorbench.radiance_fields.gaussians.capsules import cast
from tensorbench.radiance_fields.gaussians.covariance import axis_angle_matrix
from tensorbench.radiance_fields.gaussians.motions import MOTIONS, motion
from tensorbench.radiance_fields.gaussians.skeleton import (
    COUNT,
    JOINT,
    forward_kinematics,
    joints_of,
    rest_offsets,
    skin,
    subtree,
)

MEAN = humanoid.body(np.zeros(4), np.zeros(5))
JOINTS = torch.from_numpy(MEAN.joints)
DOUBLE = torch.float64


def rest(*batch):
    return torch.eye(3, dtype=DOUBLE).expand(*batch, COUNT, 3, 3).clone()


def test_the_rest_pose_moves_nothing():
    transforms = forward_kinematics(rest(2), JOINTS.expand(2, -1, -1))
    assert torch.allclose(transforms, torch.eye(4, dtype=DOUBLE).expand(2, COUNT, 4, 4), atol=1e-12)
    assert torch.allclose(joints_of(rest_offsets()), JOINTS.float(), atol=1e-6)


@pytest.mark.parametrize("joint", ["left_elbow", "right_hip", "spine2", "neck"])
def test_a_turned_joint_moves_its_subtree_alone(joint):
    pose, below = rest(), subtree(JOINT[joint])
    pose[JOINT[joint]] = axis_angle_matrix(torch.tensor([0.0, 0.0, torch.pi / 2], dtype=DOUBLE))
    weights, transforms = torch.eye(COUNT, dtype=DOUBLE), forward_kinematics(pose, JOINTS)
    moved = skin(JOINTS + 0.05, weights, transforms) - (JOINTS + 0.05)
    assert moved[[j for j in range(COUNT) if j not in below]].abs().max() < 1e-12
    assert moved[below].norm(dim=1).min() > 0.05
    # the children turn about the joint by a right angle, at their distance
    arm = JOINTS[below] - JOINTS[JOINT[joint]]
    turned = skin(JOINTS, weights, transforms)[below] - JOINTS[JOINT[joint]]
    assert torch.allclose(turned, torch.stack([-arm[:, 1], arm[:, 0], arm[:, 2]], dim=1), atol=1e-12)


def test_a_turned_root_is_a_rigid_motion():
    g = torch.Generator().manual_seed(0)
    pose = rest()
    pose[0] = axis_angle_matrix(torch.tensor([0.3, 1.0, -0.2], dtype=DOUBLE))
    shift = torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE)
    points = torch.randn(30, 3, generator=g, dtype=DOUBLE)
    weights = torch.softmax(torch.randn(30, COUNT, generator=g, dtype=DOUBLE), dim=-1)
    posed = skin(points, weights, forward_kinematics(pose, JOINTS, shift))
    assert torch.allclose(posed, points @ pose[0].T + shift, atol=1e-12)


def test_skinning_weights_sum_to_one_and_follow_the_bones():
    where = humanoid.surface(MEAN, 500, np.random.default_rng(0))
    weights = humanoid.skinning_weights(MEAN, where.points)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    owner = np.array([bone.owner for bone in humanoid.BONES])[where.bone]
    assert (weights.argmax(1) == owner).mean() > 0.95


def test_surface_points_lie_on_the_skin_and_cover_it():
    where = humanoid.surface(MEAN, 4000, np.random.default_rng(0))
    away = humanoid.bone_distances(MEAN, where.points) - MEAN.radius
    assert np.abs(away.min(axis=1)).max() < 1e-5
    np.testing.assert_allclose(np.linalg.norm(where.normals, axis=1), 1, atol=1e-9)
    left, right = (where.points[:, 0] > 0).sum(), (where.points[:, 0] < 0).sum()
    assert abs(left - right) < 5 * np.sqrt(4000)
    assert set(where.bone) == set(range(len(humanoid.BONES)))


def test_rays_hit_capsules_where_sphere_tracing_says():
    rng = np.random.default_rng(0)
    start, end = rng.standard_normal((2, 5, 3))
    radius, axis = rng.uniform(0.1, 0.4, 5), end - start
    origins = rng.standard_normal((400, 3))
    origins *= 6 / np.linalg.norm(origins, axis=1, keepdims=True)
    directions = rng.standard_normal((400, 3)) * 0.7 - origins
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    hits = cast(origins, directions, start, end, radius)

    def distance(p):
        share = np.clip(np.einsum("nki,ki->nk", p[:, None] - start, axis) / (axis**2).sum(1), 0, 1)
        return np.linalg.norm(p[:, None] - start - share[..., None] * axis, axis=-1) - radius

    t = np.zeros(400)
    for _ in range(300):
        t += distance(origins + t[:, None] * directions).min(1)
    left = distance(origins + t[:, None] * directions)
    met, found = left.min(1) < 1e-6, np.isfinite(hits.distance)
    assert (met == found).mean() > 0.99 and met.sum() > 100
    both = met & found
    np.testing.assert_allclose(hits.distance[both], t[both], atol=1e-4)
    assert (hits.capsule[both] == left.argmin(1)[both]).all()


def test_a_picture_turns_with_the_person():
    camera, up = Camera(32, 32, 48.0), (0.0, 1.0, 0.0)
    front = look_at(torch.tensor([0.0, 0.0, 3.0]), torch.zeros(3), up)
    side = look_at(torch.tensor([3.0, 0.0, 0.0]), torch.zeros(3), up)
    image, alpha = humanoid.picture(MEAN, rest(), camera, front)
    assert image.shape == (32, 32, 3) and 0.05 < alpha.mean() < 0.3
    assert (image[alpha == 0] == 1).all()
    turned = rest()
    turned[0] = axis_angle_matrix(torch.tensor([0.0, torch.pi / 2, 0.0], dtype=DOUBLE))
    _, from_side = humanoid.picture(MEAN, turned, camera, side)
    assert np.abs(from_side - alpha).mean() < 0.01
    _, unturned = humanoid.picture(MEAN, rest(), camera, side)
    assert np.abs(unturned - alpha).mean() > 0.03


def test_people_are_few_numbers_and_no_linear_space():
    bodies = humanoid.people(12, np.random.default_rng(0))
    assert np.array_equal(bodies[0].joints, humanoid.people(3, np.random.default_rng(0))[0].joints)
    where = humanoid.surface(bodies[0], 200, np.random.default_rng(1))
    tensor = np.stack([humanoid.attributes(b, where) for b in bodies])
    assert tensor.shape == (12, 200, 43)
    singular = np.linalg.svd((tensor - tensor.mean(0)).reshape(12, -1), compute_uv=False)
    share = np.cumsum(singular**2) / (singular**2).sum()
    assert share[8] > 0.98 and share[8] < 1 - 1e-9
    np.testing.assert_allclose(np.linalg.norm(tensor[..., 6:10], axis=-1), 1, atol=1e-9)


def test_motions_are_rotations_periodic_and_move():
    for name in MOTIONS:
        turns = motion(name, 8)
        assert torch.allclose(turns @ turns.mT, torch.eye(3).expand_as(turns), atol=1e-5)
        assert torch.allclose(motion(name, 8, phase=1.0), turns, atol=1e-4)
        assert (turns[0] - turns[3]).abs().max() > 0.1
    with pytest.raises(ValueError, match="did you mean 'walk'"):
        motion("wlak", 3)


def test_humanoids_have_clips_that_fit(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBENCH_CACHE", str(tmp_path))
    given = {"people": 2, "newcomers": 1, "size": 16, "frames": 6, "tests": 3, "skin": 100}
    found = data.load("humanoids", seed=0, **given)
    assert len(found.people) == 2 and len(found.newcomers) == 1
    person = found.people[1]
    assert person.train.images.shape == (6, 16, 16, 3) and person.pose.masks.shape == (3, 16, 16)
    assert torch.allclose(person.weights.sum(1), torch.ones(100), atol=1e-5)
    again = data.load("humanoids", seed=0, **given)
    assert torch.equal(again.people[1].train.images, person.train.images)


def test_bad_input():
    with pytest.raises(ValueError, match="coefficients"):
        humanoid.body(np.zeros(3), np.zeros(5))
    with pytest.raises(ValueError, match="24"):
        forward_kinematics(rest()[:23], JOINTS)
    with pytest.raises(ValueError, match="radii"):
        cast(np.zeros((1, 3)), np.ones((1, 3)), np.zeros((1, 3)), np.ones((1, 3)), np.array([-1.0]))
    with pytest.raises(ValueError, match="capsule 1 has no length"):
        cast(np.zeros((1, 3)), np.ones((1, 3)), np.zeros((2, 3)), np.eye(2, 3) * [1, 0, 0], np.ones(2))
    clip = {
        "images": torch.zeros(2, 4, 4, 3), "masks": torch.ones(2, 4, 4), "rotations": rest(2).float(),
        "transforms": torch.zeros(2, 24, 4, 4), "c2w": torch.zeros(2, 4, 4),
    }  # fmt: skip
    whole = Clip(**clip)
    person = Person(torch.zeros(24, 3), torch.zeros(5, 3), torch.zeros(5, 24), whole, whole, whole, whole)
    moved = Avatars([person], [person], Camera(4, 4, 5.0), 1.0).to("cpu").newcomers[0]
    assert moved.points is person.points and moved.pose.images is whole.images
    with pytest.raises(ValueError, match="do not fit"):
        Clip(**clip | {"masks": torch.ones(2, 5, 4)})
    with pytest.raises(ValueError, match="24 rotations"):
        Clip(**clip | {"rotations": rest(2).float()[:, :20]})
    empty = torch.ones(2, 4, 4)
    empty[1] = 0
    with pytest.raises(ValueError, match="frame 1 is empty"):
        Clip(**clip | {"masks": empty})


def test_a_zju_folder_is_read(tmp_path):
    """A folder in that layout whose pictures are of our own people: projected joints land on the person."""
    import json

    from PIL import Image

    from tensorbench.radiance_fields.datasets.zju_mocap import SIDE, zju_mocap
    from tensorbench.radiance_fields.gaussians.projection import project, world_to_camera

    subject, size = tmp_path / "377", 64
    (subject / "models").mkdir(parents=True)
    where = humanoid.surface(MEAN, 300, np.random.default_rng(0))
    camera, focal = Camera(size, size, 1.5 * size), 1.5 * SIDE
    known = {}
    for name, x in (("1", 0.0), ("2", 1.0)):
        c2w = look_at(torch.tensor([x, 0.2, 3.0]), up=(0.0, 1.0, 0.0)).double()
        view = world_to_camera(c2w).numpy()
        k = [[focal, 0, SIDE / 2], [0, focal, SIDE / 2], [0, 0, 1]]
        known[name] = {"K": k, "D": [0] * 5, "R": view[:3, :3].tolist(), "T": view[:3, 3:].tolist()}
        (subject / name).mkdir()
        for frame in range(4):
            turns = motion("walk", 4)[frame].double()
            image, alpha = humanoid.picture(MEAN, turns, camera, c2w, samples=1, bulge=0.0)
            Image.fromarray((image * 255).astype(np.uint8)).save(subject / name / f"{frame:06d}.jpg")
            Image.fromarray((alpha * 255).astype(np.uint8)).save(subject / name / f"{frame:06d}.png")
    from scipy.spatial.transform import Rotation

    for frame in range(4):
        turns = motion("walk", 4)[frame].double()
        vectors = Rotation.from_matrix(turns.numpy()).as_rotvec()
        np.savez(
            subject / "models" / f"{frame:06d}.npz", minimal_shape=where.points, trans=np.zeros(3),
            bone_transforms=forward_kinematics(turns, JOINTS).numpy(), root_orient=vectors[0],
            pose_body=vectors[1:22].ravel(), pose_hand=vectors[22:].ravel(),
        )  # fmt: skip
    (subject / "cam_params.json").write_text(json.dumps(known))
    np.save(tmp_path / "skinning_weights.npy", humanoid.skinning_weights(MEAN, where.points))
    regressor, *_ = np.linalg.lstsq(where.points.T, MEAN.joints.T, rcond=None)
    np.save(tmp_path / "joint_regressor.npy", regressor.T)
    found = zju_mocap(seed=0, path=str(tmp_path), subjects=["377"], frames=3, tests=1, size=size)
    person = found.people[0]
    torch.testing.assert_close(person.joints, JOINTS.float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(person.train.rotations, motion("walk", 4)[:3], atol=1e-5, rtol=0)
    assert not torch.equal(person.valid.rotations, person.view.rotations)
    for clip in (person.train, person.valid, person.view, person.pose):
        posed = skin(person.joints, torch.eye(COUNT), clip.transforms[0])
        seen = project(posed, torch.eye(3).expand(COUNT, 3, 3) * 1e-4, found.camera, clip.c2w[0]).mean
        column, row = seen.floor().long().unbind(-1)
        assert clip.masks[0][row, column].mean() > 0.9
    with pytest.raises(FileNotFoundError, match=r"000004\.(jpg|png) is missing"):
        zju_mocap(seed=0, path=str(tmp_path), subjects=["377"], frames=4, tests=1, size=size)
    with pytest.raises(ValueError, match="camera '9'"):
        zju_mocap(seed=0, path=str(tmp_path), subjects=["377"], camera="9", frames=1, tests=1, size=size)
