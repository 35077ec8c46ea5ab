"""Solids, and the low-rank fits of volumes: planted recovery, oracles, counts."""

from __future__ import annotations

import pytest
import tensorly
import torch

from tensorbench.radiance_fields.cameras import Camera, look_at
from tensorbench.radiance_fields.strivec import low_rank, solids
from tensorbench.radiance_fields.strivec.boxes import in_picture
from tensorbench.radiance_fields.strivec.cloud_fit import cloud_fit, voxel_scales

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def planted(rank, sizes=(6, 7, 8), batch=2):
    factors = [torch.rand(batch, s, rank, generator=seeded(k), dtype=F64) for k, s in enumerate(sizes)]
    return low_rank.cp_volume(*factors)


def test_als_recovers_a_planted_rank_for_every_tensor_of_a_batch():
    tensors = planted(2)
    found = low_rank.cp_volume(*low_rank.cp_als(tensors, 2, sweeps=400, generator=seeded(5)))
    errors = (found - tensors).flatten(1).norm(dim=1) / tensors.flatten(1).norm(dim=1)
    assert errors.max() < 1e-3


def test_als_is_as_good_as_tensorly():
    volume = solids.rods(16, 4, seeded(3), radius=0.12)
    ours = low_rank.global_cp(volume, 6, sweeps=100, restarts=2, generator=seeded()).error(volume)
    with tensorly.backend_context("numpy"):
        cp = tensorly.decomposition.parafac(volume.numpy(), rank=6, n_iter_max=100, init="svd", random_state=0)
        theirs = float((torch.from_numpy(tensorly.cp_to_tensor(cp)) - volume).norm() / volume.norm())
    assert ours < 1.05 * theirs


def test_als_never_gets_worse_and_columns_are_balanced():
    tensors = planted(4) + 0.1
    errors = []
    for sweeps in (1, 2, 5, 20):
        factors = low_rank.cp_als(tensors, 2, sweeps=sweeps, generator=seeded(1))
        errors.append(float((low_rank.cp_volume(*factors) - tensors).norm()))
    assert errors == sorted(errors, reverse=True)
    norms = [factor.norm(dim=1) for factor in factors]
    assert torch.allclose(norms[0], norms[1]) and torch.allclose(norms[0], norms[2])


def test_blocks_are_cut_and_put_back():
    volume = torch.rand(8, 4, 12, generator=seeded())
    blocks = low_rank.blocks_of(volume, 4)
    assert blocks.shape == (6, 4, 4, 4)
    assert torch.equal(blocks[1], volume[:4, :4, 4:8])
    assert torch.equal(low_rank.from_blocks(blocks, (8, 4, 12)), volume)


def test_local_cp_leaves_empty_blocks_out_and_one_block_is_the_whole():
    volume = torch.zeros(8, 8, 8, dtype=F64)
    volume[:4, :4, :4] = planted(1, (4, 4, 4), 1)[0]
    local = low_rank.local_cp(volume, 1, 4, sweeps=50, generator=seeded())
    assert local.weights == 3 * 4 and local.error(volume) < 1e-6
    whole = low_rank.local_cp(volume, 2, 8, sweeps=10, generator=seeded())
    assert whole.weights == low_rank.global_cp(volume, 2, sweeps=10, generator=seeded()).weights == 3 * 8 * 2


def test_vm_recovers_its_own_format_and_errors_fall_with_rank():
    generator = seeded()
    volume = torch.zeros(6, 6, 6, dtype=F64)
    for axis in range(3):
        line, plane = (torch.randn(*s, generator=generator, dtype=F64) for s in ((6,), (6, 6)))
        volume += torch.einsum("a,bc->abc", line, plane).movedim(0, axis)
    fits = [low_rank.global_vm(volume, rank, sweeps=200) for rank in (1, 2)]
    assert fits[0].error(volume) < 1e-3 and fits[1].error(volume) <= fits[0].error(volume) + 1e-9
    assert fits[1].weights == 2 * (18 + 108)


def test_svd_and_tucker_against_their_definitions():
    volume = torch.rand(6, 7, 8, generator=seeded(), dtype=F64)
    found = low_rank.unfolding_svd(volume, 3)
    bounds = [
        float(torch.linalg.svdvals(volume.movedim(a, 0).reshape(volume.shape[a], -1))[3:].norm()) for a in range(3)
    ]
    assert found.error(volume) * float(volume.norm()) == pytest.approx(min(bounds))
    with tensorly.backend_context("pytorch"):  # what a notebook may have set
        full = low_rank.tucker(volume, 8)
    assert full.error(volume) < 1e-6 and full.weights == 6 * 7 * 8 + 36 + 49 + 64


def test_ranks_that_an_error_needs():
    assert low_rank.rank_needed({1: 0.5, 2: 0.2, 3: 0.09, 4: 0.1}, 0.1) == 3
    assert low_rank.rank_needed({1: 0.5}, 0.1) != low_rank.rank_needed({1: 0.5}, 0.1)  # NaN
    u, v = torch.linalg.qr(torch.randn(6, 6, generator=seeded(), dtype=F64)).Q, torch.eye(6, dtype=F64)
    matrix = u @ torch.diag(torch.tensor([10.0, 3.0, 0.5, 0, 0, 0], dtype=F64)) @ v
    assert [low_rank.svd_rank(matrix, bound) for bound in (0.5, 0.1, 1e-9)] == [1, 2, 3]


@pytest.mark.parametrize("degrees", [0.0, 90.0])
def test_an_aligned_box_has_rank_one(degrees):
    """Its edges fall on voxel faces here; elsewhere the half-filled layer is that of one line each too."""
    box = solids.turned_box(20, degrees, half=(0.5, 0.3, 0.4))
    assert low_rank.global_cp(box, 1, sweeps=20, generator=seeded()).error(box) < 1e-6
    assert low_rank.svd_rank(solids.turned_rectangle(20, degrees, half=(0.5, 0.3)), 0.01) == 1


def test_turning_a_rectangle_raises_its_global_rank_more_than_its_local_one():
    picture = solids.turned_rectangle(32, 45)
    quarters = [block for rows in picture.split(8) for block in rows.split(8, 1) if block.any()]
    local = max(low_rank.svd_rank(block, 0.1) for block in quarters)
    assert low_rank.svd_rank(picture, 0.1) > local


def test_solids_have_their_volumes():
    ball_like = solids.occupancy(solids.coordinates(40).norm(dim=-1) - 0.5, 40)
    assert float(ball_like.sum()) * (2 / 40) ** 3 == pytest.approx(4 / 3 * torch.pi * 0.125, rel=0.01)
    box = solids.turned_box(40, 30, (1, 1, 1), (0.5, 0.3, 0.4))
    assert float(box.sum()) * (2 / 40) ** 3 == pytest.approx(8 * 0.5 * 0.3 * 0.4, rel=0.02)
    turn = solids.rotation((1, 2, 3), 77)
    assert torch.allclose(turn @ turn.T, torch.eye(3, dtype=F64)) and torch.linalg.det(turn) == pytest.approx(1)
    for made in (solids.rods(24, 3, seeded()), solids.clutter(24, 5, seeded())):
        assert 0 < float(made.mean()) < 0.5 and made[0].max() == 0 and made[:, :, -1].max() == 0


def test_a_cloud_is_fitted_to_a_volume():
    volume = solids.rods(16, 2, seeded(1), radius=0.15)
    scales = voxel_scales((8, 4), 16, 3)
    few = cloud_fit(volume, scales, generator=seeded(), steps=3, batch=512)
    many = cloud_fit(volume, scales, generator=seeded(), steps=150, batch=512)
    assert many.weights == few.weights
    assert many.error(volume) < min(0.5, 0.7 * few.error(volume))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: low_rank.blocks_of(torch.zeros(6, 6, 6), 4), "divisor"),
        (lambda: low_rank.local_cp(torch.zeros(8, 8, 8), 1, 4, generator=seeded()), "zero everywhere"),
        (lambda: low_rank.cp_als(torch.zeros(1, 4, 4, 4), 0, generator=seeded()), "rank 0"),
        (lambda: low_rank.cp_als(torch.zeros(4, 4, 4), 1, generator=seeded()), "batch"),
        (lambda: low_rank.global_vm(torch.zeros(4, 4, 4), 0), "rank 0"),
        (lambda: solids.coordinates(1), "n 1"),
    ],
)
def test_bad_input_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_behind_a_camera_is_in_no_picture():
    points = torch.tensor([[[0.0, 0.0, 0.0], [0.0, -2.0, 8.0]]])  # where the camera looks, and behind it
    seen = in_picture(points, Camera(8, 6, 5.0), look_at(torch.tensor([0.0, -1.0, 4.0])))
    assert torch.allclose(seen[0, 0], torch.tensor([4.0, 3.0]), atol=1e-5) and seen[0, 1].isnan().all()
