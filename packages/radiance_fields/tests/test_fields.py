"""Hash, network and voxel fields: their stages agree, start as a fog, learn a ball, have the papers' sizes."""

from __future__ import annotations

import math

import pytest
import torch

from tensorbench.radiance_fields.encodings import spherical_harmonics
from tensorbench.radiance_fields.fields.hash import HashField
from tensorbench.radiance_fields.fields.mlp import MLPField
from tensorbench.radiance_fields.fields.staged import query
from tensorbench.radiance_fields.fields.voxel import PlenoxelField
from tensorbench.radiance_fields.implicit.nets import AxisNet
from tensorbench.radiance_fields.joint_pose.hash_image import HashImage
from tensorbench.radiance_fields.joint_pose.images import BarfImage
from tensorbench.radiance_fields.migs.networks import NonRigid

BOX = torch.tensor([[-1.0, -1.5, -1.2], [1.0, 1.5, 1.8]])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


FIELDS = {
    "hash": lambda: HashField(BOX, levels=4, finest=64, log2_table=10, generator=seeded()),
    "mlp": lambda: MLPField(BOX, depth=4, width=32, skip=1, frequencies=4, generator=seeded()),
    "voxel": lambda: PlenoxelField(BOX, resolution=(8, 9, 10), generator=seeded()),
}


def samples(n=64):
    points = BOX[0] + (BOX[1] - BOX[0]) * torch.rand(n, 3, generator=seeded(1))
    return points, torch.nn.functional.normalize(torch.randn(n, 3, generator=seeded(2)), dim=-1)


@pytest.mark.parametrize("name", FIELDS)
def test_stages_agree_with_density_and_color(name):
    field, (points, directions) = FIELDS[name](), samples()
    sigma, rgb = field(points, directions)
    answer = query(field, points, directions)
    assert torch.allclose(sigma, field.density(points)) and torch.allclose(rgb, field.color(points, directions))
    assert torch.allclose(answer.rgb, rgb) and torch.allclose(answer.log_sigma.exp(), 25 * sigma, rtol=1e-5)
    assert (answer.features is None) == (name == "voxel")
    if answer.features is not None:
        assert answer.features.shape == (64, 16)
        assert torch.equal(field.rgb(answer.features, directions), answer.rgb)
    assert sigma.min() >= 0 and rgb.min() >= 0 and rgb.max() <= 1


@pytest.mark.parametrize("name", FIELDS)
def test_the_start_is_a_fog_and_the_seed_decides_it(name):
    field, (points, _) = FIELDS[name](), samples()
    assert (25 * field.density(points)).log().abs().max() < 1
    assert all(torch.equal(a, b) for a, b in zip(field.parameters(), FIELDS[name]().parameters(), strict=True))


@pytest.mark.parametrize("name", FIELDS)
def test_every_parameter_is_in_one_group_and_gets_a_gradient(name):
    field, (points, directions) = FIELDS[name](), samples(2000)
    listed = [parameter for group in field.parameter_groups(0.02, 0.001) for parameter in group["params"]]
    assert sorted(map(id, listed)) == sorted(map(id, field.parameters()))
    sigma, rgb = field(points, directions)
    (sigma.sum() + rgb.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in field.parameters())


@pytest.mark.parametrize("name", FIELDS)
def test_a_ball_is_learnt(name):
    field = FIELDS[name]()
    optimizer = torch.optim.Adam(field.parameters(), lr=0.02 if name != "mlp" else 0.005)
    points, directions = samples(600)
    inside = points.norm(dim=-1) < 0.8
    target = torch.where(inside, 3.0, -2.0)
    for _ in range(60):
        answer = query(field, points, directions)
        loss = (answer.log_sigma - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((answer.log_sigma > 0.5) == inside).float().mean() > 0.93


def test_sizes_of_the_paper():
    # 63 → 256, five times 256 → 256, 319 → 256, last → 28, with biases; 28 → 64 → 16 and 31 → 64 → 64 → 3 without.
    trunk = 63 * 256 + 5 * 256 * 256 + 319 * 256 + 7 * 256 + 256 * 28 + 28
    heads = 28 * 64 + 64 * 16 + 31 * 64 + 64 * 64 + 64 * 3
    assert sum(p.numel() for p in MLPField(BOX).parameters()) == trunk + heads
    assert PlenoxelField(BOX, resolution=4).features(samples(1)[0]).shape == (1, 28)
    hashed = HashField(BOX, log2_table=8)
    assert hashed.grid.width == 28 and hashed.grid.resolutions[-1] == 2048 and len(hashed.grid.tables) == 14


def test_voxels_interpolate_like_grid_sample():
    field, (points, directions) = FIELDS["voxel"](), samples()
    volume = torch.cat((field.log_density[..., None], field.harmonics), dim=-1)
    volume = volume.permute(3, 2, 1, 0)[None]  # channels, then z, y, x: grid_sample's order
    position = (2 * field.unit(points) - 1).view(1, -1, 1, 1, 3)
    expected = torch.nn.functional.grid_sample(volume, position, align_corners=True).view(28, -1).T
    assert torch.allclose(field.features(points), expected, atol=1e-5)
    basis = spherical_harmonics(directions, 2)
    rgb = torch.stack([(expected[:, 1 + 9 * c : 10 + 9 * c] * basis).sum(-1) for c in range(3)], dim=-1).sigmoid()
    assert torch.allclose(field.color(points, directions), rgb, atol=1e-5)


def test_voxel_total_variation():
    field = FIELDS["voxel"]()
    with torch.no_grad():
        field.log_density[:] = torch.arange(8.0)[:, None, None] * 2  # slope 2 along x alone
    assert field.regularizers()["tv_density"].item() == pytest.approx(4.0)


def test_a_field_without_stages_is_queried_by_its_density():
    class Constant(torch.nn.Module):
        def forward(self, points, directions):
            return torch.full((len(points),), 0.5), torch.full((len(points), 3), 0.25)

    answer = query(Constant(), *samples(4))
    assert answer.features is None and answer.log_sigma.exp().tolist() == pytest.approx([12.5] * 4)
    assert math.isclose(float(answer.rgb[0, 0]), 0.25)


@pytest.mark.parametrize(
    "make",
    [
        lambda: HashField(BOX.flip(0)),
        lambda: MLPField(BOX, depth=1),
        lambda: MLPField(BOX, depth=4, skip=3),
        lambda: PlenoxelField(BOX, resolution=1),
        lambda: PlenoxelField(BOX, degree=5),
    ],
)
def test_bad_input(make):
    with pytest.raises(ValueError):
        make()


NETWORKS = {
    **FIELDS,
    "axis": lambda: AxisNet("wire", features=(8, 8), generator=seeded()),
    "barf": lambda: BarfImage(seeded(), width=8),
    "hash_image": lambda: HashImage(seeded(), levels=2, finest=16, width=8),
    "avatar": lambda: NonRigid(width=8, depth=2, levels=2, log2_table=8, finest=32, generator=seeded()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_come_from_the_generator_and_the_global_one_is_left_alone(name):
    before = torch.get_rng_state()
    first, second = NETWORKS[name](), NETWORKS[name]()
    assert torch.equal(torch.get_rng_state(), before)
    for (key, one), two in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two) and bool(torch.isfinite(one).all()), key
