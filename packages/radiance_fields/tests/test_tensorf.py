"""TensoRF fields: what the factors mean, grids that grow and shrink, masks and penalties."""

import pytest
import torch
from torch import Tensor

from tensorbench.radiance_fields.tensorf import losses
from tensorbench.radiance_fields.tensorf.alpha_mask import AlphaMask, build_alpha_mask
from tensorbench.radiance_fields.tensorf.cp import TensorCP
from tensorbench.radiance_fields.tensorf.grids import grid_points, resolution_of, trilinear
from tensorbench.radiance_fields.tensorf.schedule import Decay, Schedule, log_spaced, tensorf_schedule
from tensorbench.radiance_fields.tensorf.vm import LINES, PLANES, TensorVM

BOX = torch.tensor([[-1.0, -0.5, -2.0], [1.0, 1.5, 0.5]])
SIZES = (5, 7, 4)  # three different sizes: a transposed plane would not fit, or would be wrong
WIDE = {"width": 16, "features": 6}


def make(kind: str, resolution=SIZES, seed: int = 0, scale: float = 1.0, **options):
    generator = torch.Generator().manual_seed(seed)
    if kind == "vm":
        return TensorVM(BOX, resolution, 3, 4, scale=scale, generator=generator, **{**WIDE, **options})
    return TensorCP(BOX, resolution, 5, 6, scale=scale, generator=generator, **{**WIDE, **options})


def points(n: int = 300, seed: int = 1) -> Tensor:
    return BOX[0] + (BOX[1] - BOX[0]) * torch.rand(n, 3, generator=torch.Generator().manual_seed(seed))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_weights_are_as_many_as_in_the_papers():
    box = torch.tensor([[-1.5] * 3, [1.5] * 3])
    assert count(TensorVM(box, (300,) * 3, 16, 48)) == 17_377_715
    assert count(TensorCP(box, (500,) * 3, 96, 288)) == 620_003
    assert count(TensorVM(box, (48,) * 3, 8, 16, width=64)) == 184_659


@pytest.mark.parametrize("kind", ["vm", "cp"])
def test_values_at_vertices_are_sums_of_products(kind):
    """On a grid of three different sizes, against loops over the vertices."""
    field = make(kind)
    volume = torch.zeros(SIZES)
    for x in range(SIZES[0]):
        for y in range(SIZES[1]):
            for z in range(SIZES[2]):
                at = (x, y, z)
                if kind == "vm":
                    for (plane, line), (a, b), c in zip(field.factors("sigma"), PLANES, LINES, strict=True):
                        volume[at] += (plane[0, :, at[b], at[a]] * line[0, :, at[c], 0]).sum().item()
                else:
                    lz, ly, lx = (line[0, :, :, 0] for line in field.lines["sigma"])
                    volume[at] = (lx[:, x] * ly[:, y] * lz[:, z]).sum().item()
    assert torch.allclose(field.density_volume(), volume, atol=1e-5)
    coords = field.normalized(grid_points(SIZES, BOX)).reshape(-1, 3)
    assert torch.allclose(field.density_features(coords).reshape(SIZES), volume, atol=1e-4)


@pytest.mark.parametrize("kind", ["vm", "cp"])
def test_volume_and_factors_agree_between_vertices(kind):
    """A plane times a line, interpolated, is the trilinear interpolation of the products; gradients agree too."""
    fields = [make(kind, evaluate=evaluate, density_shift=0.0) for evaluate in ("volume", "factors")]
    at = [points().requires_grad_() for _ in fields]
    values = [field.density(x) for field, x in zip(fields, at, strict=True)]
    assert torch.allclose(values[0], values[1], rtol=1e-4, atol=1e-5)
    for value in values:
        value.square().sum().backward()
    assert torch.allclose(at[0].grad, at[1].grad, rtol=1e-3, atol=1e-3)
    for one, two in zip(*(field.grids() for field in fields), strict=True):
        if one.grad is not None:
            assert torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-3)


def test_trilinear_agrees_with_grid_sample():
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(SIZES, generator=generator, dtype=torch.float64)
    coords = 2 * torch.rand(50, 3, generator=generator, dtype=torch.float64) - 1
    other = torch.nn.functional.grid_sample(
        volume[None, None], coords.flip(-1)[None, :, None, None], align_corners=True
    )
    assert torch.allclose(trilinear(volume, coords), other.reshape(-1), atol=1e-12)
    assert torch.autograd.gradcheck(trilinear, (volume.requires_grad_(), coords.requires_grad_()))


def test_second_derivatives_of_trilinear_are_refused_rather_than_wrong():
    volume = torch.rand(SIZES, generator=torch.Generator().manual_seed(0)).requires_grad_()
    coords = torch.zeros(3, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(trilinear(volume, coords).square().sum(), coords, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_trilinear_takes_corners_and_clamps_beyond():
    volume = torch.arange(8.0).reshape(2, 2, 2)
    coords = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [5.0, 5.0, 5.0], [-5.0, 0.0, -1.0]])
    assert trilinear(volume, coords).tolist() == [0.0, 7.0, 5.0, 7.0, 1.0]


@pytest.mark.parametrize("kind", ["vm", "cp"])
def test_colour_features_mix_products_of_single_components(kind):
    field = make(kind)
    products = field.color_products(field.normalized(points(20)))
    assert products.shape == (12 if kind == "vm" else 6, 20)
    assert torch.allclose(field.appearance(points(20)), products.T @ field.basis.weight.T, atol=1e-5)
    if kind == "vm":  # the components of the third axis pair: plane (y, z), line x
        coords = field.normalized(points(20))
        plane, line = field.factors("color")[2]
        alone = TensorVM(BOX, SIZES, 1, 1, **WIDE)
        with torch.no_grad():
            alone.planes["color"][2].copy_(plane[:, 1:2])
            alone.lines["color"][2].copy_(line[:, 1:2])
        assert torch.allclose(alone.color_products(coords)[2], products[9], atol=1e-5)


@pytest.mark.parametrize("kind", ["vm", "cp"])
def test_doubling_the_grid_changes_nothing(kind):
    """Interpolation to 2n − 1 vertices keeps every linear piece."""
    field = make(kind)
    at, along = points(), torch.nn.functional.normalize(points(seed=3), dim=-1)
    before = field(at, along)
    field.upsample([2 * n - 1 for n in SIZES])
    after = field(at, along)
    assert field.resolution == (9, 13, 7)
    for old, new in zip(before, after, strict=True):
        assert torch.allclose(old, new, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["vm", "cp"])
def test_shrinking_keeps_what_is_inside(kind):
    field = make(kind, resolution=(9, 11, 6))
    wanted = torch.tensor([[-0.52, 0.12, -1.45], [0.74, 1.08, 0.02]])
    at = points(400)
    before = field.density(at)
    box = field.shrink(wanted)
    edges = (BOX[1] - BOX[0]) / (torch.tensor([9, 11, 6]) - 1)
    assert bool(((box - wanted).abs() <= edges / 2 + 1e-6).all())
    inside = ((at >= box[0]) & (at <= box[1])).all(-1)
    assert inside.sum() > 20
    assert torch.allclose(field.density(at[inside]), before[inside], rtol=1e-3, atol=1e-5)
    assert torch.allclose(field.voxel_edges, edges, atol=1e-5)


def test_shrinking_to_nothing_is_refused():
    with pytest.raises(ValueError, match="fewer than two vertices"):
        make("vm").shrink(torch.tensor([[0.0, 0.0, 0.0], [0.01, 1.0, 0.4]]))


def test_same_seed_same_field():
    one, two, other = make("vm", seed=3), make("vm", seed=3), make("vm", seed=4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.planes["sigma"][0], other.planes["sigma"][0])


def test_state_dict_restores_the_field():
    one, two = make("vm", seed=3), make("vm", seed=4)
    two.load_state_dict(one.state_dict())
    along = torch.nn.functional.normalize(points(seed=3), dim=-1)
    for a, b in zip(one(points(), along), two(points(), along), strict=True):
        assert torch.equal(a, b)


# --- masks ---------------------------------------------------------------------------------------------------------


def test_mask_is_where_interpolation_is_positive():
    generator = torch.Generator().manual_seed(0)
    vertices = torch.rand(6, 5, 7, generator=generator) < 0.05
    mask = AlphaMask(vertices, BOX)
    at = BOX[0] - 0.2 + (BOX[1] - BOX[0] + 0.4) * torch.rand(4000, 3, generator=generator)
    coords = (at - BOX[0]) / (BOX[1] - BOX[0]) * 2 - 1
    inside = (coords.abs() <= 1).all(-1)
    expected = (trilinear(vertices.float(), coords) > 0) & inside
    assert torch.equal(mask(at), expected)


def test_mask_keeps_all_the_density_that_counts():
    field = make("vm", resolution=(12, 14, 10), scale=0.9, seed=2)
    mask = build_alpha_mask(field, threshold=1e-3)
    assert 0 < mask.occupied_share < 1
    at = points(5000)
    step = 0.5 * float(field.voxel_edges.mean())
    opaque = 1 - torch.exp(-field.density(at) * step)
    assert bool(mask(at)[opaque > 1e-3].all())
    wider = build_alpha_mask(field, threshold=1e-3, dilate=5)
    assert bool(wider.cells[mask.cells].all()) and wider.occupied_share > mask.occupied_share


def test_occupied_box_is_tight():
    vertices = torch.zeros(6, 5, 11, dtype=torch.bool)
    vertices[2:4, 1:5, 10] = True
    box = AlphaMask(vertices, BOX).occupied_box()
    low, high = BOX[0], BOX[1] - BOX[0]
    expected = torch.stack([low + high * torch.tensor([0.4, 0.25, 1.0]), low + high * torch.tensor([0.6, 1.0, 1.0])])
    assert torch.allclose(box, expected, atol=1e-6)


@pytest.mark.parametrize("options", [{"dilate": 2}, {"dilate": 0}, {"threshold": 0.0}, {"threshold": 1.0}])
def test_bad_masks_are_refused(options):
    with pytest.raises(ValueError, match=r"dilate|threshold"):
        build_alpha_mask(make("vm"), **options)


# --- penalties and schedules ---------------------------------------------------------------------------------------


def test_penalties_have_their_closed_forms():
    ramp = torch.arange(4.0).expand(2, 3, 4)[None]
    assert losses.total_variation(ramp).item() == pytest.approx(2.0)  # 2 (0 + 1²)
    assert losses.total_variation(torch.ones(1, 3, 5, 1)).item() == 0
    line = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])[None, :, :, None]
    assert losses.orthogonality(line).item() == pytest.approx((0 + 1 + 0 + 2 + 1 + 2) / 6)
    assert losses.orthogonality(line[:, :1]).item() == 0
    assert losses.l1([torch.tensor([1.0, -3.0]), torch.tensor([-2.0])]).item() == pytest.approx(4.0)


def test_penalties_are_weighed_by_name():
    terms = make("vm").regularizers()
    assert set(terms) == {"l1", "tv_sigma", "tv_color", "orthogonality"}
    assert losses.weigh(terms, {"l1": 0.0}, 0.5) is None
    both = losses.weigh(terms, {"l1": 2.0, "tv_color": losses.switch(1.0, 3.0, 0.4)}, 0.5)
    assert both.item() == pytest.approx((2 * terms["l1"] + 3 * terms["tv_color"]).item())
    assert losses.decayed(2.0)(1.0) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="tv_color"):
        losses.weigh(terms, {"tv_colour": 1.0}, 0.0)


def test_schedule_in_proportion():
    plan = tensorf_schedule(30_000)
    assert list(plan.upsample) == [2000, 3000, 4000, 5500, 7000] and plan.mask == (2000, 4000)
    assert list(plan.upsample.values())[-1] == 300**3
    logs = torch.tensor([128**3, *plan.upsample.values()], dtype=torch.float64).log()
    assert torch.allclose(logs.diff(), logs.diff().mean().expand(5), atol=1e-6)
    assert log_spaced(8, 512, 2) == [64, 512]
    assert resolution_of(300**3, torch.tensor([[-1.5] * 3, [1.5] * 3])) == (300, 300, 300)
    assert resolution_of(1000, BOX) == (9, 9, 11)
    with pytest.raises(ValueError, match="decay"):
        Schedule(decay=0.0)
    with pytest.raises(ValueError, match="first step"):
        Schedule(mask=(0, 5))


def test_rates_fall_restart_and_wait():
    decay = Decay(0.1)
    assert decay(0.0) == 1 and decay(1.0) == pytest.approx(0.1)
    decay(0.5)
    decay.restart()
    assert decay(0.5) == 1 and decay(1.0) == pytest.approx(0.1**0.5)
    waiting = Decay(0.1)
    waiting.hold = True
    assert waiting(0.4) == 1
    waiting.hold = False
    assert waiting(0.9) == pytest.approx(0.1**0.5)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"rank_sigma": 0}, "rank_sigma"), ({"rank_color": (1, 2)}, "rank_color"), ({"rank_color": 2.5}, "rank_color"),
     ({"activation": "selu"}, "activation"), ({"evaluate": "fast"}, "evaluation")],
)  # fmt: skip
def test_bad_fields_are_refused(options, word):
    with pytest.raises((ValueError, TypeError), match=word):
        TensorVM(BOX, SIZES, **{"rank_sigma": 2, "rank_color": 2, **options})


@pytest.mark.parametrize("resolution", [(4, 4), (1, 4, 4), (4, 4, 4.5)])
def test_bad_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match="resolution"):
        TensorVM(BOX, resolution, 2, 2)
