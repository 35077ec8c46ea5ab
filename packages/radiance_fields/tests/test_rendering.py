"""The volume renderer against closed forms, nerfacc and brute force."""

import math

import pytest
import torch
from torch import Tensor

from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.rendering import (
    box_interval,
    composite,
    distortion_loss,
    nerfacc_weights,
    render_rays,
    render_weights,
    sample_rays,
)

BOX = torch.tensor([[-1.0, -0.5, -2.0], [1.0, 1.5, 0.5]])
WHITE = torch.ones(3)


def rays(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """From a sphere around the box towards points within it."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1) * 4
    aims = BOX[0] + (BOX[1] - BOX[0]) * torch.rand(n, 3, generator=generator)
    return origins, torch.nn.functional.normalize(aims - origins, dim=-1)


class Ball(Field):
    """Constant density within a ball; colours are positions."""

    def __init__(self, sigma: float = 2.0, radius: float = 0.4, box: Tensor = BOX) -> None:
        super().__init__(box)
        self.sigma, self.radius, self.asked = sigma, radius, 0
        self.seen: list[Tensor] = []

    def density(self, points: Tensor) -> Tensor:
        self.asked += len(points)
        return self.sigma * (points.norm(dim=-1) < self.radius).float()

    def color(self, points: Tensor, directions: Tensor) -> Tensor:
        self.seen.append(points)
        return (points + 2) / 4


class Fog(Ball):
    """Constant density everywhere."""

    def density(self, points: Tensor) -> Tensor:
        return torch.full_like(points[:, 0], self.sigma)


def test_compositing_of_three_segments():
    sigma, delta = torch.tensor([[0.5, 2.0, 0.1]]), torch.full((1, 3), 0.1)
    weights, through = render_weights(sigma, delta)
    assert weights[0].tolist() == pytest.approx([0.713495203, 0.284574343, 0.000427014943], rel=1e-5)
    assert through.item() == pytest.approx(0.00150343320, rel=1e-5)
    rendered = composite(sigma, torch.eye(3)[None], delta, torch.tensor([0.0, 0.0, 1.0]))
    assert rendered.rgb[0].tolist() == pytest.approx(
        [0.713495203, 0.284574343, 0.000427014943 + 0.0015034332], rel=1e-5
    )
    assert rendered.opacity.item() == pytest.approx(1 - 0.0015034332, rel=1e-6)


def test_weights_agree_with_nerfacc():
    pytest.importorskip("nerfacc")
    generator = torch.Generator().manual_seed(0)
    delta = 0.05 * torch.rand(20, 40, generator=generator)
    sigma = 3 * torch.rand(20, 40, generator=generator) ** 4
    t = 2 + delta.cumsum(-1) - delta / 2
    assert torch.allclose(render_weights(sigma, delta)[0], nerfacc_weights(sigma, t, delta), atol=2e-5)


def test_weights_agree_with_products_of_transmittances():
    generator = torch.Generator().manual_seed(1)
    sigma, delta = torch.rand(5, 30, generator=generator), torch.rand(5, 30, generator=generator) * 0.02
    alpha = 1 - torch.exp(-sigma * delta * 25)
    light = torch.cumprod(torch.cat([torch.ones(5, 1), 1 - alpha + 1e-10], -1), -1)
    weights, through = render_weights(sigma, delta)
    assert torch.allclose(weights, alpha * light[:, :-1], atol=1e-6)
    assert torch.allclose(through, light[:, -1], atol=1e-6)


def test_fog_has_its_closed_form():
    """Through a medium of constant density over a length L, exp(−σ s L) of the light comes; the mean depth is known."""
    origins, directions = rays(50)
    enter, leave = box_interval(origins, directions, BOX)
    length = leave - enter
    field = Fog(sigma=0.03)
    rendered = render_rays(field, origins, directions, 0.0, 10.0, 400, torch.zeros(3), terminate=0)
    kappa = 0.03 * 25
    through = torch.exp(-kappa * length)
    assert torch.allclose(1 - rendered.opacity, through, atol=1e-5)
    inside = enter * (1 - through) + (1 - through * (1 + kappa * length)) / kappa
    assert torch.allclose(rendered.depth, inside + through * leave, atol=1e-3)


def test_samples_fill_the_box_and_the_interval():
    origins, directions = rays(64)
    enter, leave = box_interval(origins, directions, BOX)
    near, far = 3.0, 4.5
    places = sample_rays(origins, directions, near, far, 17, BOX)
    length = (leave.clamp(near, far) - enter.clamp(near, far)).clamp(min=0)
    assert torch.allclose(places.delta.sum(-1), length, atol=1e-5)
    points = origins[:, None] + directions[:, None] * places.t[..., None]
    inside = ((points >= BOX[0] - 1e-5) & (points <= BOX[1] + 1e-5)).all(-1)
    assert bool(inside[places.inside].all())
    assert bool(((places.t >= near) & (places.t <= far))[places.inside].all())


def test_rays_that_miss_the_box_show_the_background():
    origins, directions = torch.tensor([[0.0, 0.0, 5.0]] * 2), torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    field = Ball(sigma=100.0)
    rendered = render_rays(field, origins, directions, 0.0, 10.0, 8, torch.tensor([0.1, 0.2, 0.3]))
    assert torch.allclose(rendered.rgb, torch.tensor([0.1, 0.2, 0.3]).expand(2, 3))
    assert field.asked == 0 and rendered.opacity.abs().max() == 0


def test_axis_parallel_rays_have_finite_intervals():
    origins = torch.tensor([[0.0, 0.0, -5.0], [0.3, 4.0, 0.1], [1.5, 4.0, 0.1]])
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [0.0, -1.0, 0.0]])
    enter, leave = box_interval(origins, directions, BOX)
    assert (leave - enter)[:2].tolist() == pytest.approx([2.5, 2.0], abs=1e-5)
    assert leave[2] < enter[2]


def test_jitter_stays_in_its_segment_and_follows_the_seed():
    origins, directions = rays(32)
    draw = [
        sample_rays(origins, directions, 0.0, 10.0, 9, BOX, torch.Generator().manual_seed(seed)).t for seed in (1, 1, 2)
    ]
    plain = sample_rays(origins, directions, 0.0, 10.0, 9, BOX)
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])
    assert bool(((draw[0] - plain.t).abs() <= plain.delta / 2 + 1e-6).all())


@pytest.mark.parametrize("grad", [True, False])
def test_skipping_changes_nothing_that_is_seen(grad):
    """Mask, weight threshold and early termination against evaluating every sample."""
    origins, directions = rays(200)
    field = Ball()

    def mask(points: Tensor) -> Tensor:
        return points.norm(dim=-1) < 0.45

    places = sample_rays(origins, directions, 0.0, 10.0, 64, BOX)
    points = (origins[:, None] + directions[:, None] * places.t[..., None]).reshape(-1, 3)
    sigma = field.density(points).reshape(200, 64)
    rgb = field.color(points, points).reshape(200, 64, 3)
    full = composite(sigma, rgb, places.delta, WHITE, t=places.t)
    with torch.set_grad_enabled(grad):
        field.asked = 0
        quick = render_rays(field, origins, directions, 0.0, 10.0, 64, WHITE, alpha_mask=mask, weight_threshold=1e-6)
    assert torch.allclose(quick.rgb, full.rgb, atol=2e-4)
    assert torch.allclose(quick.opacity, full.opacity, atol=2e-4)
    assert quick.density_points == field.asked < 0.2 * points.shape[0]


def test_rays_stop_where_nothing_is_left_of_their_light():
    origins, directions = rays(200)
    field = Ball()
    with torch.no_grad():
        whole = render_rays(field, origins, directions, 0.0, 10.0, 64, WHITE, terminate=0)
        soon = render_rays(field, origins, directions, 0.0, 10.0, 64, WHITE)
    assert torch.allclose(soon.rgb, whole.rgb, atol=2e-4)
    assert soon.density_points < whole.density_points == 200 * 64


def test_colours_are_asked_where_they_count_only():
    origins, directions = rays(100)
    field = Ball(sigma=50.0)
    render_rays(field, origins, directions, 0.0, 10.0, 64, WHITE, weight_threshold=1e-3)
    seen = torch.cat(field.seen)
    assert bool((seen.norm(dim=-1) < 0.4).all()) and len(seen) < 100 * 64 * 0.1


def test_gradients_pass_through_points_to_poses():
    """The renderer is differentiable in where the rays start, for a field that is."""

    class Smooth(Fog):
        def density(self, points: Tensor) -> Tensor:
            return 0.2 * torch.exp(-4 * points.square().sum(-1))

    origins, directions = rays(4)
    field, shift = Smooth(), torch.zeros(3, requires_grad=True)

    def total(offset: Tensor) -> Tensor:
        return render_rays(
            field, origins + offset, directions, 0.0, 10.0, 100, WHITE, weight_threshold=-1.0
        ).rgb.sum()  # fmt: skip

    total(shift).backward()
    for axis in range(3):
        step = torch.zeros(3)
        step[axis] = 1e-2
        slope = (total(step) - total(-step)) / 2e-2
        assert slope.item() == pytest.approx(shift.grad[axis].item(), rel=0.05, abs=5e-3)


def test_distortion_agrees_with_the_double_sum():
    generator = torch.Generator().manual_seed(0)
    weights, delta = torch.rand(6, 12, generator=generator), torch.rand(6, 12, generator=generator)
    t = delta.cumsum(-1) - delta / 2
    pairs = (weights[:, :, None] * weights[:, None] * (t[:, :, None] - t[:, None]).abs()).sum((1, 2))
    brute = (pairs + (weights**2 * delta).sum(-1) / 3).mean()
    assert distortion_loss(weights, t, delta).item() == pytest.approx(brute.item(), rel=1e-5)


@pytest.mark.parametrize(("near", "far", "n"), [(2.0, 1.0, 8), (-1.0, 2.0, 8), (1.0, 2.0, 0)])
def test_bad_intervals_are_refused(near, far, n):
    origins, directions = rays(2)
    with pytest.raises(ValueError, match=r"near|samples"):
        sample_rays(origins, directions, near, far, n, BOX)


@pytest.mark.parametrize("box", [[[0, 0, 0], [1, 0, 1]], [[0, 0, 0]], [[1, 1, 1], [0, 0, 0]]])
def test_bad_boxes_are_refused(box):
    with pytest.raises(ValueError, match="corner"):
        Field(torch.tensor(box, dtype=torch.float32))


def test_depth_of_an_opaque_wall():
    field = Ball(sigma=1e4, radius=0.4)
    origins, directions = torch.tensor([[0.0, 0.0, 4.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    seen = render_rays(field, origins, directions, 0.0, 10.0, 500, WHITE)
    assert seen.depth.item() == pytest.approx(3.6, abs=0.01) and math.isclose(seen.opacity.item(), 1.0)
