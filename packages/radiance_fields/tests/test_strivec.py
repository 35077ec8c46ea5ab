"""Local tensors against closed forms, brute force and a global CP field; placement, growth, pruning, bad input."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tensorbench.radiance_fields.strivec import (
    PAPER_GROWTH,
    PAPER_SCALES,
    CellIndex,
    CoarseReconstruction,
    LocalTriVector,
    LocalVM,
    Scale,
    Strivec,
    TensorCloud,
    blend_weights,
    occupied_points,
    voxel_centers,
)  # fmt: skip
from tensorbench.radiance_fields.strivec.boxes import box_edges
from tensorbench.radiance_fields.strivec.placement import full_cover
from tensorbench.radiance_fields.tensorf.cp import TensorCP

BOX = torch.tensor([[-1.5, -1.5, -1.5], [1.5, 1.5, 1.5]])
SCALES = (Scale(0.8, 0.6, 8, 3, 4), Scale(0.4, 0.3, 6, 2, 4), Scale(0.2, 0.15, 4, 2, 3))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sphere(n=600, radius=1.0, seed=0):
    points = torch.randn(n, 3, generator=seeded(seed))
    return radius * points / points.norm(dim=1, keepdim=True)


def cloud(kind="cp", scales=SCALES, **options):
    return TensorCloud.at_points(sphere(), scales, generator=seeded(1), kind=kind, **options)


def strivec(kind="cp", **options):
    return Strivec(cloud(kind), BOX, generator=seeded(2), width=16, **options)


def one(dim=4, ranks=(2, 3), kind=LocalTriVector, n=1, **options):
    return kind(torch.zeros(n, 3), 0.5, dim, *ranks, generator=seeded(), **options)


# --- one tensor ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluate", ["factors", "volume"])
def test_hand_set_vectors_are_interpolated_at_nodes_and_midpoints(evaluate):
    tensor = one(dim=2, ranks=(1, 1), evaluate=evaluate)
    lines = torch.tensor([[1.0, 3.0, -1.0], [2.0, 0.0, 4.0], [0.5, 1.5, 2.5]])
    with torch.no_grad():
        tensor.sigma_lines.copy_(lines[:, None, :, None])
        tensor.color_lines.copy_(lines[:, None, :, None])
    at = torch.tensor([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1], [-0.5, -0.5, 0.5], [0.5, 1, -1]])
    expected = torch.tensor([1 * 2 * 0.5, 0.0, -1 * 4 * 2.5, 2 * 1 * 2.0, 1 * 4 * 0.5])
    ids = torch.zeros(len(at), dtype=torch.long)
    assert torch.allclose(tensor.sigma(ids, at), expected, atol=1e-6)
    assert torch.allclose(tensor.color(ids, at)[:, 0], expected, atol=1e-6)


@pytest.mark.parametrize("kind", [LocalTriVector, LocalVM])
def test_multiplied_out_densities_and_their_gradients_are_those_of_the_factors(kind):
    tensors = kind(torch.zeros(5, 3), 0.5, 3, 4, 2, generator=seeded())
    ids = torch.randint(5, (200,), generator=seeded(1))
    local = 2 * torch.rand(200, 3, generator=seeded(2)) - 1
    upstream = torch.randn(200, generator=seeded(3))
    found = {}
    for way in ("volume", "factors"):
        tensors.evaluate = way
        value = tensors.sigma(ids, local)
        found[way] = [value.detach(), *torch.autograd.grad(value @ upstream, tensors.density_factors())]
    for first, second in zip(found["volume"], found["factors"], strict=True):
        assert torch.allclose(first, second, atol=1e-5)


def test_gradients_of_the_custom_gathers_are_numerically_right():
    from tensorbench.radiance_fields.strivec.interpolation import line_product, trilinear

    ids = torch.tensor([0, 1, 1, 0])
    local = (2 * torch.rand(4, 3, generator=seeded()) - 1).double()
    lines = torch.randn(3, 2, 4, 2, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    volume = torch.randn(2, 4, 4, 4, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: line_product(values, ids, local), lines)
    assert torch.autograd.gradcheck(lambda values: trilinear(values, ids, local), volume)


def test_vm_with_equal_planes_is_cp():
    """A plane that is an outer product makes the local VM tensor a tri-vector tensor."""
    cp, vm = one(), one(kind=LocalVM)
    with torch.no_grad():
        vm.sigma_lines.zero_()
        vm.sigma_lines[0] = cp.sigma_lines[0]
        vm.sigma_planes[0] = torch.einsum("nyr,nzr->nyzr", cp.sigma_lines[1], cp.sigma_lines[2])
    local = 2 * torch.rand(50, 3, generator=seeded(1)) - 1
    ids = torch.zeros(50, dtype=torch.long)
    assert torch.allclose(cp.sigma(ids, local), vm.sigma(ids, local), atol=1e-6)


@pytest.mark.parametrize("kind", [LocalTriVector, LocalVM])
def test_upsampling_keeps_the_field(kind):
    tensors = one(dim=3, kind=kind)
    ids, local = torch.zeros(64, dtype=torch.long), 2 * torch.rand(64, 3, generator=seeded(1)) - 1
    before = tensors.sigma(ids, local), tensors.color(ids, local)
    tensors.upsample(6)
    assert tensors.dim == 6 and tensors.color_lines.shape[2] == 7
    for old, new in zip(before, (tensors.sigma(ids, local), tensors.color(ids, local)), strict=True):
        assert torch.allclose(old, new, atol=1e-6)


# --- neighbours ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 4, 50])
def test_neighbours_are_those_of_brute_force(k):
    centers = torch.rand(300, 3, generator=seeded()) * 2 - 1
    points = torch.rand(2000, 3, generator=seeded(1)) * 3 - 1.5
    half = 0.2
    pairs = CellIndex(centers, half).pairs(points, k)
    offset = points[:, None] - centers
    holds = offset.abs().amax(-1) <= half
    distance = offset.norm(dim=-1).masked_fill(~holds, torch.inf)
    nearest = distance.topk(min(k, len(centers)), dim=1, largest=False)
    keep = nearest.values.isfinite()
    expected = torch.zeros_like(holds).scatter_(1, nearest.indices, keep)
    found = torch.zeros_like(holds)
    found[pairs.rows, pairs.ids] = True
    assert len(pairs) == int(expected.sum()) > 0
    assert torch.equal(found, expected)
    assert torch.allclose(pairs.distance, distance[pairs.rows, pairs.ids])
    assert torch.allclose(pairs.local * half, offset[pairs.rows, pairs.ids], atol=1e-6)
    assert (pairs.rows.diff() >= 0).all()


def test_lookups_of_many_points_go_in_parts():
    index = CellIndex(torch.rand(20, 3, generator=seeded()), 0.2)
    points = torch.rand(70_000, 3, generator=seeded(1))
    pairs, last = index.pairs(points, 2), index.pairs(points[65_536:], 2)
    tail = pairs.rows >= 65_536
    assert torch.equal(pairs.rows[tail] - 65_536, last.rows) and torch.equal(pairs.ids[tail], last.ids)


def test_weights_sum_to_one_where_boxes_are_small_and_to_less_where_all_are_far():
    rows = torch.tensor([0, 0, 0, 1, 2])
    distance = torch.tensor([0.1, 0.3, 0.0, 0.5, 4.0])
    total = torch.zeros(3).index_add_(0, rows, blend_weights(rows, distance, 3))
    assert torch.allclose(total, torch.tensor([1.0, 1.0, 0.25]), atol=1e-5)
    weights = blend_weights(rows, distance, 3)
    assert weights.isfinite().all() and weights[2] > 0.9999  # at a centre nothing else counts
    assert torch.allclose(weights[0] / weights[1], torch.tensor(3.0), rtol=1e-3)
    uniform = blend_weights(rows, distance, 3, "uniform")
    assert torch.allclose(uniform, torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0, 1.0]))
    assert torch.equal(blend_weights(rows, distance, 3, "sum"), torch.ones(5))


# --- the cloud and the field ---------------------------------------------------------------------------------------


def test_one_tensor_over_the_box_is_a_global_cp_field():
    box = torch.tensor([[-0.5] * 3, [0.5] * 3])
    base = TensorCP(box, (5, 5, 5), rank_sigma=3, rank_color=2, generator=seeded())
    tensor = one(dim=4, ranks=(3, 2))
    lines = [line for name, line in base.named_parameters() if "line" in name and line.shape[1] == 3]
    assert len(lines) == 3
    points = torch.rand(200, 3, generator=seeded(1)) - 0.5
    coords = base.normalized(points)
    expected = base.density_features(coords)
    matched = False
    for order in ((0, 1, 2), (2, 1, 0)):  # the reference stores the lines of z, y, x
        with torch.no_grad():
            tensor.sigma_lines.copy_(torch.stack([lines[axis][0, :, :, 0].T for axis in order])[:, None])
        ours = TensorCloud([tensor], spacings=[1.0]).sigma(points)
        matched |= torch.allclose(ours, expected, atol=1e-5)
    assert matched


def test_outside_of_every_tensor_nothing_is_there_and_nothing_is_learnt():
    field = strivec()
    far = torch.tensor([[0.0, 0.0, 0.0], [1.45, 1.45, 1.45], [-30.0, 0.0, 2.0]])
    sigma = field.density(far)
    assert torch.allclose(sigma, torch.full((3,), math.log1p(math.exp(-10))))
    inside = sphere(50, seed=5)
    (field.density(torch.cat([far, inside]))[:3].sum() + 0 * field.density(inside).sum()).backward()
    assert all(p.grad is None or not p.grad.any() for p in field.cloud.parameters())


@pytest.mark.parametrize("kind", ["cp", "vm"])
def test_features_are_the_weighted_sums_of_the_definition(kind):
    field = strivec(kind)
    points = torch.cat([sphere(40, 1.02, seed=3), 3 * torch.rand(40, 3, generator=seeded(4)) - 1.5])
    sigma, colors = torch.zeros(len(points)), [torch.zeros(len(points), s.features) for s in field.cloud.scales]
    covered = torch.ones(len(points), dtype=torch.bool)
    for number, scale in enumerate(field.cloud.scales):
        for i, point in enumerate(points):
            offset = point - scale.centers
            inside = (offset.abs().amax(1) <= scale.half_range).nonzero()[:, 0]
            ids = inside[offset[inside].norm(dim=1).argsort()[:4]]
            covered[i] &= len(ids) > 0
            weights = 1 / (offset[ids].norm(dim=1) + 1e-6)
            weights = weights / weights.sum().clamp(min=1)
            local = offset[ids] / scale.half_range
            sigma[i] += (weights * scale.sigma_by_factors(ids, local)).sum()
            colors[number][i] = (weights[:, None] * scale.color(ids, local)).sum(0)
    assert 0 < covered.sum() < len(points)
    assert torch.equal(field.occupied(points), covered)
    assert torch.allclose(field.density(points), F.softplus(sigma * covered - 10), rtol=1e-4)
    assert torch.allclose(field.cloud.sigma(points), sigma, atol=1e-5)
    for found, expected in zip(field.cloud.color(points), colors, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


def test_coverage_counts_and_statistics():
    made = cloud()
    points = torch.cat([sphere(100, seed=7), torch.full((20, 3), 1.49)])
    coverage = made.coverage(points)
    assert torch.equal(made.filter_uncovered(points), (coverage > 0).all(1))
    assert torch.equal(made.filter_uncovered(points, every=False), (coverage > 0).any(1))
    statistics = made.statistics(points)
    assert statistics["covered"] == pytest.approx(float((coverage > 0).all(1).double().mean()))
    assert statistics["tensors_per_sample_0"] <= 4
    counts = made.counts()
    assert counts["tensors_0"] < counts["tensors_1"] < counts["tensors_2"]
    assert sum(v for k, v in counts.items() if not k.startswith("tensors")) == sum(p.numel() for p in made.parameters())
    assert counts["density_1"] == 3 * counts["tensors_1"] * 7 * 2


def test_the_cloud_depends_only_on_points_and_seed():
    first, second = strivec().state_dict(), strivec().state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    shuffled = sphere()[torch.randperm(600, generator=seeded(9))]
    other = TensorCloud.at_points(shuffled, SCALES, generator=seeded(1))
    assert all(torch.equal(a.centers, b.centers) for a, b in zip(cloud().scales, other.scales, strict=True))


def test_growth_keeps_the_field_and_ends():
    field = strivec(growth=[(16, 12, 8)])
    points = sphere(100, seed=3)
    before = field.density(points)
    field.upsample()
    assert [scale.dim for scale in field.cloud.scales] == [16, 12, 8]
    assert torch.allclose(field.density(points), before, rtol=1e-4)
    with pytest.raises(ValueError, match="growth has no entry left"):
        field.upsample()


def test_pruning_drops_tensors_of_empty_space_only():
    field = strivec()
    with torch.no_grad():
        for scale in field.cloud.scales:
            scale.sigma_lines.zero_()
            dense = scale.centers[:, 2] > 0
            scale.sigma_lines[:, dense] = 2.5
    points = sphere(400, seed=3)
    points = points[points[:, 2] > 0.7]  # further from the empty half than a box reaches
    before = field.density(points)
    dropped = field.prune()
    assert dropped[1] > 0 and dropped[2] > 0  # every coarse box reaches into the full half
    assert all((scale.centers[:, 2] > -0.7).all() for scale in field.cloud.scales[1:])
    assert torch.allclose(field.density(points), before)


def test_a_field_trains_and_its_groups_hold_every_parameter_once():
    field = strivec()
    grouped = [p for group in field.parameter_groups(0.02, 1e-3) for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in field.parameters()} and len(grouped) == len(set(grouped))
    points = sphere(30, seed=2)
    sigma, rgb = field(points, F.normalize(points, dim=1))
    assert sigma.shape == (30,) and rgb.shape == (30, 3) and bool(((rgb >= 0) & (rgb <= 1)).all())
    (sigma.sum() + rgb.sum() + field.regularizers()["l1"]).backward()
    assert all(p.grad is not None and p.grad.any() for p in field.cloud.parameters())
    assert field.counts()["total"] == sum(p.numel() for p in field.parameters())


def test_paper_constants():
    assert [s.half_range / s.spacing for s in PAPER_SCALES] == pytest.approx([0.75] * 3)
    assert PAPER_GROWTH[-1] == (121, 61, 31) and len(PAPER_GROWTH) == 5


# --- placement -----------------------------------------------------------------------------------------------------


def test_voxels_hold_their_points():
    points = sphere(500)
    centers = voxel_centers(points, 0.2)
    nearest = (points[:, None] - centers).abs().amax(-1).amin(1)
    assert nearest.max() <= 0.1 + 1e-5
    means = voxel_centers(points, 0.2, place="mean")
    assert means.shape == centers.shape
    lone = voxel_centers(points[:1], 0.2, place="mean")
    assert torch.allclose(lone, points[:1])


def test_occupied_points_are_grid_nodes():
    opacity = torch.zeros(3, 4, 5)
    opacity[2, 0, 4] = 0.5
    assert torch.equal(occupied_points(opacity, BOX, 0.1), torch.tensor([[1.5, -1.5, 1.5]]))
    with pytest.raises(ValueError, match="lower the threshold"):
        occupied_points(opacity, BOX, 0.6)


def test_the_coarse_field_starts_nearly_transparent_and_is_linear_in_its_nodes():
    coarse = CoarseReconstruction(BOX, 8, opacity=1e-3)
    assert torch.allclose(coarse.opacity(), torch.tensor(1e-3), rtol=1e-3)
    with torch.no_grad():
        coarse.raw_sigma[0, 0, 7, 3, 2] = 20.0  # z, y, x
    place = coarse.occupied(0.5)
    assert torch.allclose(place, BOX[0] + 3 * torch.tensor([[2.0, 3.0, 7.0]]) / 7)
    assert coarse.density(place) > 19 + coarse.shift
    assert coarse.color(place, place).shape == (1, 3)


def test_full_cover_counts_voxels():
    assert full_cover(BOX, 0.4) == 8**3 and full_cover(BOX, 1.5) == 8


def test_edges_of_boxes():
    edges = box_edges(torch.zeros(1, 3), 0.5)
    assert edges.shape == (1, 12, 2, 3)
    assert torch.allclose((edges[0, :, 1] - edges[0, :, 0]).norm(dim=-1), torch.ones(12))


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: one(dim=1), "dim 1"),
        (lambda: one(ranks=(0, 3)), "ranks"),
        (lambda: one(evaluate="fast"), "unknown evaluation"),
        (lambda: Scale(0.4, 0.1, 4, 1, 1), "leave gaps"),
        (lambda: cloud(scales=SCALES[::-1]), "coarse to fine"),
        (lambda: cloud(neighbours=0), "neighbours 0"),
        (lambda: cloud(blend="invers"), "did you mean 'inverse'"),
        (lambda: cloud(kind="tt"), "unknown kind"),
        (lambda: cloud(place="corner"), "unknown place"),
        (lambda: cloud().sigma(torch.full((2, 3), torch.nan)), "finite"),
        (lambda: cloud().sigma(torch.zeros(3)), r"\(m, 3\)"),
        (lambda: CellIndex(torch.tensor([[0.0, 0, 0], [1e4, 1e4, 1e4]]), 0.1), "larger cell"),
        (lambda: voxel_centers(torch.zeros(0, 3), 0.4), "lower the occupancy threshold"),
        (lambda: occupied_points(torch.zeros(4, 4), BOX, 0.1), "at least 2 x 2 x 2"),
        (lambda: CoarseReconstruction(torch.zeros(2, 3)), "upper corner"),
        (lambda: cloud().prune([torch.zeros(len(s.centers), dtype=torch.bool) for s in cloud().scales]), "no tensor"),
        (lambda: cloud().grow((4, 4)), "one a scale"),
    ],
)
def test_bad_input_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_fewer_tensors_than_k_is_no_error():
    lone = TensorCloud([one()], neighbours=8, spacings=[1.0])
    assert lone.sigma(torch.zeros(1, 3)).shape == (1,)


# --- from pictures -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    from tensorbench.core import data

    return data.load("analytic_scene", seed=0, scene="spheres", size=16, train=8, valid=1, test=1)


def test_a_field_is_built_from_pictures_and_learns(tiny):
    from tensorbench.radiance_fields.strivec import build
    from tensorbench.radiance_fields.training import train

    options = {"steps": 40, "resolution": 20, "rays": 128, "samples": 32, "threshold": 0.02}
    field = build(tiny, generator=seeded(), width=16, **options)
    again = build(tiny, generator=seeded(), width=16, **options)
    assert all(torch.equal(a, b) for a, b in zip(field.parameters(), again.parameters(), strict=True))
    full = [full_cover(BOX, spacing) for spacing in field.cloud.spacings]
    assert all(len(s.centers) < n for s, n in zip(field.cloud.scales[1:], full[1:], strict=True))
    trained = train(field, tiny, generator=seeded(), steps=120, rays=128, samples=32, losses={"l1": 1e-5})
    assert sum(trained.psnrs[-5:]) / 5 > sum(trained.psnrs[:5]) / 5 + 2


def test_matched_ranks_spend_the_weights(tiny):
    from tensorbench.radiance_fields.strivec import matched

    points = sphere()
    for kind, make in (("cp", LocalTriVector), ("vm", LocalVM)):
        scale = matched(points, Scale(0.5, 0.375, 6, 3, 4), 40_000, kind=kind)
        centers = voxel_centers(points, 0.5)
        found = make(centers, scale.half_range, scale.dim, scale.rank_sigma, scale.rank_color, generator=seeded())
        total = sum(p.numel() for p in found.parameters())
        assert abs(total - 40_000) <= 0.5 * total / (scale.rank_sigma + scale.rank_color) + 1
