"""Attribute tensors, deformation networks, losses, training and personalisation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tensorbench.core import data
from tensorbench.radiance_fields.gaussians import humanoid
from tensorbench.radiance_fields.gaussians.covariance import axis_angle_matrix, covariance
from tensorbench.radiance_fields.migs import losses
from tensorbench.radiance_fields.migs.avatar import Avatar
from tensorbench.radiance_fields.migs.networks import NonRigid, PoseEncoder, SkinningNet, hierarchical_softmax
from tensorbench.radiance_fields.migs.tensors import (
    BLOCKS,
    FullTensor,
    GaussianTensorCP,
    GaussianTensorTrain,
    GaussianTensorTucker,
    starting_table,
)
from tensorbench.radiance_fields.migs.training import (
    Recipe,
    Subject,
    personalize,
    pictures,
    pretrain_skinning,
    score,
    some_frames,
    subjects,
    train,
)

DOUBLE = torch.float64


def g(seed=0):
    return torch.Generator().manual_seed(seed)


FORMATS = {
    "cp": lambda: GaussianTensorCP(4, 60, rank=60, generator=g()),
    "tucker": lambda: GaussianTensorTucker(4, 60, ranks=(3, 43, 43), generator=g()),
    "train": lambda: GaussianTensorTrain(4, 60, ranks=(3, 43), generator=g()),
    "full": lambda: FullTensor(4, 60, generator=g()),
}


def table(n=60, **options):
    return starting_table(torch.randn(n, 3, generator=g()), g(1), **options)


def test_cp_attributes_equal_tensorly():
    import tensorly as tl
    from tensorly.cp_tensor import cp_to_tensor

    tensor = GaussianTensorCP(5, 30, rank=7, generator=g())
    with tl.backend_context("numpy"):
        theirs = cp_to_tensor((None, [f.detach().double().numpy() for f in tensor.factors()]))
    np.testing.assert_allclose(tensor.full().detach().numpy(), theirs, atol=1e-6)
    one = tensor.identity(3)
    np.testing.assert_allclose(one.position.detach().numpy(), theirs[3, :, :3], atol=1e-6)
    np.testing.assert_allclose(one.opacity.detach().numpy(), theirs[3, :, 42:], atol=1e-6)
    assert [getattr(one, b).shape[-1] for b in BLOCKS] == [3, 3, 4, 32, 1]


def test_counts_are_the_papers():
    assert GaussianTensorCP(30, 50_000, rank=100).count() == 5_007_300  # of 64 500 000
    assert GaussianTensorCP(4, 800, rank=40).count() == 33_880
    assert FullTensor(4, 800).count() == 137_600
    assert FullTensor(4, 800, mean=True).count() == 34_400
    assert GaussianTensorTucker(4, 800, ranks=(2, 20, 20)).count() == 4 * 2 + 800 * 20 + 43 * 20 + 2 * 20 * 20
    assert GaussianTensorTrain(4, 800, ranks=(2, 20)).count() == 4 * 2 + 2 * 800 * 20 + 20 * 43


def test_a_tensor_of_rank_5_is_recovered():
    """By TensorLy's alternating least squares, with which the attribute experiment fits."""
    import tensorly as tl
    from tensorly.decomposition import parafac

    planted = GaussianTensorCP(6, 50, rank=5, generator=g()).full().detach().double().numpy()
    with tl.backend_context("numpy"):
        fitted = tl.cp_to_tensor(parafac(planted, 5, n_iter_max=200, init="svd", tol=1e-16, random_state=0))
    assert np.linalg.norm(fitted - planted) < 1e-6 * np.linalg.norm(planted)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_starts_with_everybody_alike(name):
    tensor = FORMATS[name]()
    tensor.fit_init(table())
    for person in range(4):
        torch.testing.assert_close(tensor(torch.tensor([person]))[0], table(), atol=2e-3, rtol=1e-3)


def test_the_power_start_is_finite_beyond_the_rank_of_the_table():
    tensor = GaussianTensorCP(3, 60, rank=170)
    tensor.fit_init(table())
    assert all(torch.isfinite(p).all() for p in tensor.parameters())
    torch.testing.assert_close(tensor(torch.tensor([2]))[0], table(), atol=2e-3, rtol=1e-3)
    flat = torch.ones(60, 43)  # of rank 1: the power iteration runs out of things to fit at once
    tensor = GaussianTensorCP(3, 60, rank=20)
    tensor.fit_init(flat)
    assert all(torch.isfinite(p).all() for p in tensor.parameters())
    torch.testing.assert_close(tensor(torch.tensor([0]))[0], flat, atol=1e-3, rtol=1e-3)


def test_a_low_rank_start_is_nearly_the_best_approximation():
    tensor = GaussianTensorCP(2, 60, rank=8)
    tensor.fit_init(table(), repeats=5, iterations=30)
    error = (tensor(torch.tensor([0]))[0] - table()).norm()
    best = torch.linalg.svdvals(table())[8:].norm()
    assert best - 1e-4 <= error < 1.15 * best


@pytest.mark.parametrize("name", FORMATS)
def test_a_person_is_added(name):
    tensor = FORMATS[name]()
    before = tensor.full().detach()
    assert tensor.add_identity() == 4 and tensor.add_identity(like=1) == 5
    after = tensor.full().detach()
    torch.testing.assert_close(after[:4], before, atol=0, rtol=0)
    torch.testing.assert_close(after[5], before[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(after[4], before.mean(0), atol=1e-5, rtol=1e-4)


def test_the_start_has_the_rank_that_appearance_gives_it():
    start = table(opacity=0.1)
    assert torch.linalg.matrix_rank(start) == 3 + 32 + 1 + 1  # positions, appearance, scale, all that is constant
    assert torch.allclose(start[:, 42].sigmoid(), torch.tensor(0.1))
    assert torch.equal(start[:, 6:10], torch.tensor([1.0, 0, 0, 0]).expand(60, 4))


def test_hierarchical_softmax_sums_to_one_and_reaches_every_joint():
    weights = hierarchical_softmax(torch.randn(500, 25, generator=g(), dtype=DOUBLE))
    torch.testing.assert_close(weights.sum(-1), torch.ones(500, dtype=DOUBLE))
    assert (weights > 0).all()
    stay = torch.zeros(1, 25)
    stay[0, 0] = -30  # the pelvis lets nothing on
    assert hierarchical_softmax(stay)[0, 0] > 0.999
    hand = torch.full((1, 25), 30.0)  # all gates open, the spine and the left arm preferred
    hand[0, [1, 2, 12, 14]] = -30
    assert hierarchical_softmax(hand)[0, 22] > 0.999


def test_skinning_is_learnt_from_known_weights():
    body = humanoid.body(np.zeros(4), np.zeros(5))
    points = humanoid.surface(body, 800, np.random.default_rng(0)).points
    known = torch.from_numpy(humanoid.skinning_weights(body, points)).float()
    person = SimpleNamespace(points=torch.from_numpy(points).float(), weights=known)
    avatar = SimpleNamespace(skinning=SkinningNet(64, 3, g()))
    before = float(losses.skinning_prior(avatar.skinning(person.points), known).detach())
    pretrain_skinning(avatar, [person], 200, g(1))
    assert float(losses.skinning_prior(avatar.skinning(person.points), known).detach()) < 0.2 * before


def test_the_pose_code_knows_the_pose_and_not_the_direction():
    encoder = PoseEncoder(generator=g())
    turns = axis_angle_matrix(torch.randn(3, 24, 3, generator=g()) * 0.3)
    joints = torch.randn(3, 24, 3, generator=g())
    code = encoder(turns, joints)
    assert code.shape == (3, encoder.width) == (3, 144)
    turned = turns.clone()
    turned[:, 0] = axis_angle_matrix(torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(encoder(turned, joints), code)
    bent = turns.clone()
    bent[:, 18] = torch.eye(3)  # the left elbow changes its own code and those that follow it
    changed = (encoder(bent, joints) - code).view(3, 24, 6).abs().amax((0, 2)) > 1e-6
    assert 18 in (found := set(changed.nonzero()[:, 0].tolist())) and found <= {18, 20, 22}


def test_the_non_rigid_rotation_is_for_all_gaussians():
    net = NonRigid(width=16, depth=2, features=4, levels=2, log2_table=8, finest=32, generator=g())
    turns = axis_angle_matrix(torch.randn(2, 24, 3, generator=g()))
    shift, scale, turn, features = net(torch.rand(2, 30, 3, generator=g()) - 0.5, turns, torch.zeros(2, 24, 3))
    assert shift.shape == scale.shape == (2, 30, 3) and turn.shape == (2, 30, 4) and features.shape == (2, 30, 4)
    assert (turn[..., 1:].abs().amax(-1) > 1e-7).all() and (turn[..., 0] > 0.5).all()


def test_isometry_is_zero_under_rigid_motion_and_positive_under_scaling():
    x = torch.randn(2, 40, 3, generator=g(), dtype=DOUBLE)
    q, s = torch.randn(2, 40, 4, generator=g(), dtype=DOUBLE), torch.rand(2, 40, 3, generator=g(), dtype=DOUBLE) + 0.1
    sigma, turn = covariance(q, s), axis_angle_matrix(torch.tensor([0.3, -1.0, 2.0], dtype=DOUBLE))
    near = losses.neighbours(x, 5)
    assert near.shape == (2, 40, 5) and not (near == torch.arange(40)[:, None]).any()
    assert losses.isometry(x, x @ turn.T + 1.5, near) < 1e-8
    assert losses.isometry(sigma.flatten(-2), (turn @ sigma @ turn.T).flatten(-2), near) < 1e-8
    assert losses.isometry(x, 1.1 * x, near) > 0.01
    assert losses.isometry(sigma.flatten(-2), (1.2 * sigma).flatten(-2), near) > 1e-3


def test_dissimilarity_is_that_of_scikit_image():
    from skimage.metrics import structural_similarity

    a, b = torch.rand(2, 1, 21, 25, 3, generator=g(), dtype=DOUBLE)
    b = 0.7 * a + 0.3 * b
    _, full = structural_similarity(
        a[0].numpy(), b[0].numpy(), win_size=7, channel_axis=2, data_range=1.0, use_sample_covariance=False, full=True
    )
    assert float(losses.dissimilarity(a, b)) == pytest.approx(1 - full[3:-3:2, 3:-3:2].mean(), abs=1e-9)
    assert float(losses.dissimilarity(a, a)) == pytest.approx(0, abs=1e-12)


def small(rank=12):
    found = data.load("humanoids", seed=0, people=2, newcomers=1, size=24, frames=6, tests=2, skin=300)
    tensor = GaussianTensorCP(2, 120, rank=rank, generator=g())
    tensor.fit_init(starting_table(found.people[0].points[:120], g(), opacity=0.5))
    avatar = Avatar(tensor, generator=g(), skinning=(32, 2), deformation=(16, 2), color=(16, 1), features=4,
                    levels=2, log2_table=8, finest=32)  # fmt: skip
    return found, avatar


QUICK = Recipe(
    steps=40, pretrain=60, prior_points=64, late=0.3, isometry_covariance=10.0,
    rates={"shared": 0.01, "position": 0.002, "appearance": 0.02, "opacity": 0.02, "color": 0.01, "skinning": 1e-3},
)  # fmt: skip


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TENSORBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "humanoids"))


def test_training_makes_pictures_better_and_repeats(cache):
    scores = []
    for _ in range(2):
        found, avatar = small()
        person = found.people[1]
        before = score(*pictures(avatar, 1, person, person.train, found.camera), person.train)
        history = train(avatar, subjects(found.people), found.camera, QUICK, g(1))
        after = score(*pictures(avatar, 1, person, person.train, found.camera), person.train)
        assert not history.diverged and after["psnr"] > before["psnr"] + 1
        assert 0 <= after["iou"] <= 1 and after["ssim"] <= 1
        scores.append(after)
    assert scores[0] == scores[1]


def test_personalising_leaves_the_rest_as_it_is(cache):
    found, avatar = small()
    index = avatar.attributes.add_identity()
    before = {name: p.detach().clone() for name, p in avatar.named_parameters()}
    newcomer = found.newcomers[0]
    subject = Subject(index, newcomer, some_frames(newcomer.train, 3))
    recipe = Recipe(steps=5, rates={"shared": 0.01}, prior_points=64)
    _, changed = personalize(avatar, subject, found.camera, recipe, g(1), color=False)
    after = dict(avatar.named_parameters())
    assert changed == 12
    for name, value in before.items():
        if name == "attributes.u2":
            assert torch.equal(after[name][:index], value[:index]) and not torch.equal(after[name][index], value[index])
        else:
            assert torch.equal(after[name], value), name
        assert after[name].requires_grad
    _, changed = personalize(avatar, subject, found.camera, recipe, g(1), color=True, appearance=True)
    after = dict(avatar.named_parameters())
    assert changed == 12 + 32 * 12 + sum(p.numel() for p in avatar.color.parameters())
    assert not torch.equal(after["attributes.u1.appearance"], before["attributes.u1.appearance"])
    assert torch.equal(after["attributes.u3"], before["attributes.u3"])


def test_bad_input(cache):
    found, avatar = small()
    for wrong in (2, -1):
        with pytest.raises(IndexError, match=f"identity {wrong}"):
            avatar.attributes.identity(wrong)
    with pytest.raises(ValueError, match="rank 0"):
        GaussianTensorCP(2, 10, rank=0)
    with pytest.raises(ValueError, match="attributes 11"):
        GaussianTensorCP(2, 10, 11)
    with pytest.raises(ValueError, match="mode 0"):
        GaussianTensorTucker(2, 10, ranks=(3, 4, 4))
    with pytest.raises(ValueError, match="table"):
        avatar.attributes.fit_init(torch.zeros(3, 43))
    with pytest.raises(ValueError, match="did you mean 'opacity'"):
        Recipe(rates={"opacty": 1.0})
    with pytest.raises(ValueError, match="late 3000 is a share"):
        Recipe(late=3000)
    with pytest.raises(ValueError, match="weights of losses"):
        Recipe(mask=-0.1)
    with pytest.raises(ValueError, match="nobody"):
        train(avatar, [], found.camera, QUICK, g())
    with pytest.raises(IndexError, match="identity 2"):
        train(avatar, subjects(found.people, first=1), found.camera, QUICK, g())
    with pytest.raises(ValueError, match="frames"):
        some_frames(found.people[0].train, 7)
    picture, mask = torch.zeros(1, 4, 4, 3), torch.ones(1, 4, 4)
    with pytest.raises(ValueError, match="does not fit"):
        losses.picture_loss(picture, mask, picture, torch.ones(1, 5, 4))
    with pytest.raises(ValueError, match="empty"):
        losses.picture_loss(picture, mask, picture, torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="25 logits"):
        hierarchical_softmax(torch.zeros(3, 24))
    with pytest.raises(ValueError, match="joints"):
        PoseEncoder()(torch.zeros(1, 23, 3, 3), torch.zeros(1, 23, 3))
    with pytest.raises(ValueError, match="neighbours"):
        losses.neighbours(torch.zeros(1, 5, 3), 5)
