"""Exponentials and their inverses, similarities, errors of cameras: closed forms, libraries, random group elements."""

import math

import pytest
import torch

from tensorbench.radiance_fields import poses


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def cameras(n=12, seed=0):
    return poses.se3_exp(randn(n, 3, seed=seed), randn(n, 3, seed=seed + 1))


def test_a_known_motion():
    got = poses.se3_exp(torch.tensor([0.3, -0.2, 0.5]).double(), torch.tensor([1.0, 2.0, -1.0]).double())
    want = torch.tensor([[0.8595339, -0.49799154, -0.11491695, 0.52093135],
                         [0.43986763, 0.83531561, -0.32979434, 2.28283445],
                         [0.26022671, 0.23292116, 0.93703244, -0.59942503], [0, 0, 0, 1]]).double()  # fmt: skip
    close(got, want, 1e-6)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 0.0999, 0.1001, 1.0, 3.0])
def test_equals_the_matrix_exponential(angle):
    axis = torch.nn.functional.normalize(randn(5, 3), dim=-1)
    w, v = angle * axis, randn(5, 3, seed=1)
    algebra = torch.zeros(5, 4, 4, dtype=torch.float64)
    algebra[:, :3, :3], algebra[:, :3, 3] = poses.skew(w), v
    close(poses.se3_exp(w, v), torch.linalg.matrix_exp(algebra), 1e-12)
    close(poses.so3_exp(w), poses.se3_exp(w, v)[:, :3, :3], 1e-15)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.05, 0.2, 2.0, 3.1, math.pi - 1e-7])
def test_log_inverts_exp(angle):
    w = angle * torch.nn.functional.normalize(randn(20, 3), dim=-1)
    v = randn(20, 3, seed=1)
    back_w, back_v = poses.se3_log(poses.se3_exp(w, v))
    close(back_w, w, 1e-7)
    close(back_v, v, 1e-6)


def test_a_tiny_twist_is_a_translation():
    motion = poses.se3_exp(torch.full((3,), 5e-9).double(), torch.tensor([1.0, -2.0, 3.0]).double())
    close(motion[:3, :3], torch.eye(3).double(), 1e-8)
    close(motion[:3, 3], torch.tensor([1.0, -2.0, 3.0]).double(), 1e-7)


def test_gradients_are_right_and_finite_at_zero():
    for scale in (0.05, 0.1, 1.0):
        w, v = (scale * randn(2, 3)).requires_grad_(), randn(2, 3, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(poses.se3_exp, (w, v), eps=1e-6, atol=1e-6)
    twist = torch.zeros(1, 6, requires_grad=True)
    poses.se3_exp(twist[:, :3], twist[:, 3:]).sum().backward()
    close(twist.grad, torch.tensor([[0.0, 0, 0, 1, 1, 1]]))  # the generators of turns have entries that sum to zero


def test_rotations_agree_with_scipy_and_roma():
    from scipy.spatial.transform import Rotation

    w = randn(30, 3)
    rotation = poses.so3_exp(w)
    close(rotation, torch.from_numpy(Rotation.from_rotvec(w.numpy()).as_matrix()), 1e-12)
    close(poses.so3_log(rotation), torch.from_numpy(Rotation.from_matrix(rotation.numpy()).as_rotvec()), 1e-7)
    roma = pytest.importorskip("roma")
    close(rotation, roma.rotvec_to_rotmat(w), 1e-12)


def test_group_laws():
    a, b, c = (cameras(seed=s) for s in (0, 5, 9))
    close(poses.compose(a, b, c), a @ (b @ c))
    close(poses.compose(a, poses.invert(a)), torch.eye(4).double().expand(12, 4, 4))
    close(poses.invert(poses.compose(a, b)), poses.compose(poses.invert(b), poses.invert(a)))


def test_homographies_have_determinant_one_and_invert_by_sign():
    h = 0.1 * randn(20, 8)
    matrices = poses.sl3_exp(h)
    close(torch.linalg.det(matrices), torch.ones(20).double())
    close(matrices @ poses.sl3_exp(-h), torch.eye(3).double().expand(20, 3, 3))
    points = randn(20, 7, 2, seed=3) / 4
    close(poses.warp_points(poses.sl3_exp(-h), poses.warp_points(matrices, points)), points)
    shift = torch.zeros(1, 8).double()
    shift[0, 0], shift[0, 1] = 0.3, -0.2
    close(poses.warp_points(poses.sl3_exp(shift), points[:1]), points[:1] + torch.tensor([0.3, -0.2]).double(), 1e-7)


@pytest.mark.parametrize("n", [3, 10])
def test_procrustes_recovers_a_similarity(n):
    truth = poses.sim3_exp(randn(3), randn(3, seed=1), torch.tensor(0.7).double())
    points = randn(n, 3, seed=2)
    found = poses.procrustes(points, truth.points(points))
    close(found.scale, truth.scale, 1e-6)
    close(found.rotation, truth.rotation, 1e-6)
    close(found.translation, truth.translation, 1e-6)
    close(truth.inverse().points(truth.points(points)), points)


def test_procrustes_does_not_reflect():
    points = randn(10, 3)
    found = poses.procrustes(points, points * torch.tensor([1.0, 1.0, -1.0]).double())
    close(torch.linalg.det(found.rotation), torch.tensor(1.0).double())


def test_procrustes_is_the_least_squares_one():
    x, y = randn(8, 3), randn(8, 3, seed=1)
    best = poses.procrustes(x, y)
    error = (best.points(x) - y).square().sum()
    for seed in range(20):
        step = 1e-3 * randn(7, seed=seed)
        turn = poses.so3_exp(step[:3])
        other = poses.Sim3(best.scale * (1 + step[6]), turn @ best.rotation, best.translation + step[3:6])
        assert (other.points(x) - y).square().sum() > error


def test_errors_vanish_under_a_similarity_and_measure_a_turn():
    truth = cameras()
    moved = poses.sim3_exp(randn(3), randn(3, seed=4), torch.tensor(-0.4).double()).cameras(truth)
    errors = poses.pose_errors(moved, truth)
    assert errors.rotation.max() < 1e-5 and errors.translation.max() < 1e-6
    turned = truth.clone()  # each camera turned about its own centre by three degrees
    turned[:, :3, :3] = truth[:, :3, :3] @ poses.so3_exp(torch.tensor([0.0, math.radians(3), 0.0]).double())
    close(poses.pose_errors(turned, truth).rotation, torch.full((12,), 3.0).double(), 1e-6)
    close(poses.pose_errors(turned, truth, align=False).translation, torch.zeros(12).double())


def test_noise_has_the_size_asked_for():
    truth = torch.eye(4).double().expand(4000, 4, 4)
    w, v = poses.se3_log(poses.perturbed(truth, 0.05, generator()))
    assert w.std().item() == pytest.approx(0.05, rel=0.05) and v.std().item() == pytest.approx(0.05, rel=0.05)


def test_bad_input():
    with pytest.raises(ValueError, match="on one line"):
        poses.procrustes(torch.arange(5.0)[:, None] * torch.ones(3), torch.randn(5, 3, generator=generator()))
    with pytest.raises(ValueError, match="three or more"):
        poses.procrustes(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="not finite"):
        poses.procrustes(torch.full((4, 3), math.nan), torch.zeros(4, 3))
    embedding = poses.PoseEmbedding(3)
    close(embedding.refine(cameras(3).float()), cameras(3).float())
    with pytest.raises(ValueError, match=r"PoseEmbedding\(4\)"):
        embedding.refine(torch.eye(4).expand(4, 4, 4))
    with torch.no_grad():
        embedding.twist[1, 2] = math.nan
    with pytest.raises(RuntimeError, match="NaN"):
        embedding.refine(torch.eye(4).expand(3, 4, 4))
    with pytest.raises(ValueError, match="noise"):
        poses.perturbed(torch.eye(4).expand(3, 4, 4), -0.1, generator())


def test_a_camera_far_away_is_warned_of(caplog):
    box = torch.tensor([[-1.5] * 3, [1.5] * 3])
    twist = torch.zeros(2, 6)
    twist[1, 3] = 9.0
    poses.warn_far(torch.eye(4).expand(2, 4, 4), twist, box)
    assert "[1]" in caplog.text
