"""The trainer: it learns, the same seed gives the same field, and the schedule does what it says."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tensorbench.radiance_fields.cameras import Camera, camera_rays, sphere_poses
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.tensorf.alpha_mask import AlphaMask
from tensorbench.radiance_fields.tensorf.cp import TensorCP
from tensorbench.radiance_fields.tensorf.schedule import Schedule
from tensorbench.radiance_fields.tensorf.vm import TensorVM
from tensorbench.radiance_fields.training import RaySet, mean_psnr, render_views, settled, train
from tensorbench.radiance_fields.views import SceneData, Views

RADIUS = 0.7
BOX = np.array([[-1.0, -1.0, -0.9], [1.0, 0.8, 1.0]], dtype=np.float32)  # not a cube, the ball not in its middle


def ball_views(n: int, size: int, seed: int) -> Views:
    """A ball whose colour is its normal, on white."""
    camera = Camera(size, size, 1.4 * size)
    c2w = sphere_poses(n, 4.0, torch.Generator().manual_seed(seed))
    o, d = (x.reshape(n, size, size, 3) for x in camera_rays(camera, c2w))
    b = (o * d).sum(-1)
    inside = b.square() - o.square().sum(-1) + RADIUS**2
    t = -b - inside.clamp(min=0).sqrt()
    normal = (o + t[..., None] * d) / RADIUS
    hit = inside > 0
    images = torch.where(hit[..., None], 0.5 + 0.5 * normal, torch.ones(()))
    depth = torch.where(hit, t, torch.inf)
    return Views(images.numpy(), hit.float().numpy(), c2w.numpy(), camera, depth.numpy())


@pytest.fixture(scope="module")
def ball() -> SceneData:
    return SceneData(ball_views(12, 24, 0), ball_views(1, 24, 1), ball_views(2, 24, 2), BOX, 2.0, 6.0)


def field(data: SceneData, kind: type = TensorVM, seed: int = 0, resolution=(14, 13, 15)) -> Field:
    generator = torch.Generator().manual_seed(seed)
    ranks = (3, 6) if kind is TensorVM else (12, 24)
    return kind(data.box, resolution, *ranks, width=24, features=8, generator=generator)


def fit(target: Field, data: SceneData, steps: int, seed: int = 0, **options):
    return train(
        target, data, steps=steps, rays=256, samples=24, generator=torch.Generator().manual_seed(seed), **options
    )


@pytest.mark.parametrize(("kind", "least"), [(TensorVM, 18.0), (TensorCP, 18.0)])
def test_a_ball_is_learnt(ball, kind, least):
    model = field(ball, kind)
    found = fit(model, ball, 200, schedule=Schedule(mask=(80,)), background="mixed")
    assert mean_psnr(model, ball, ball.test, 48, found.alpha_mask) > least
    assert found.history.steps == 200 and found.cpu_seconds > 0 and len(found.psnrs) == 200


def test_same_seed_same_field(ball):
    """Growth, mask, random backgrounds and penalties included."""
    plan = Schedule(mask=(4, 8), upsample={6: 20**3}, mask_threshold=1e-7)
    models = [field(ball, seed=1) for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        fit(model, ball, 12, seed, schedule=plan, background="random", losses={"l1": 1e-4, "tv_sigma": 0.1})
    one, two, other = (list(model.parameters()) for model in models)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_schedule_grows_masks_and_restarts_rates(ball):
    model, rates, shapes = field(ball), [], []

    def watch(state):
        rates.append(state.optimizer.param_groups[0]["lr"])
        shapes.append(model.resolution)
        assert sum(p.numel() for g in state.optimizer.param_groups for p in g["params"]) == sum(
            p.numel() for p in model.parameters()
        )

    plan = Schedule(mask=(40,), upsample={20: 20**3}, shrink=False, mask_threshold=1e-6)
    found = fit(model, ball, 60, schedule=plan, callback=watch)
    edges = (BOX[1] - BOX[0]) / (np.prod(BOX[1] - BOX[0]) / 20**3) ** (1 / 3)
    assert shapes[18] == (14, 13, 15) and shapes[19] == tuple(np.floor(edges).astype(int))
    assert rates[0] == pytest.approx(0.02, rel=0.05) and rates[18] < rates[0] and rates[20] > rates[18]
    assert rates[-1] == pytest.approx(0.02 * 0.1 ** (40 / 60), rel=0.05)
    assert found.alpha_mask is not None


def test_shrinking_cuts_the_box_to_what_the_mask_keeps(ball):
    model = field(ball, resolution=(20, 20, 20))
    plan = Schedule(mask=(100,), mask_dilate=1, mask_threshold=1e-2)
    found = fit(model, ball, 120, schedule=plan)
    assert found.alpha_mask is not None
    assert torch.allclose(model.box, found.alpha_mask.occupied_box(), atol=1e-5)
    before, after = torch.from_numpy(BOX[1] - BOX[0]), model.box[1] - model.box[0]
    assert bool((after < before - 0.05).any())
    edges = before / 19
    assert torch.allclose(model.voxel_edges, edges, atol=1e-5) and max(model.resolution) <= 20


def test_rays_are_filtered_by_box_and_mask(ball):
    rays = RaySet.of(ball.train, torch.ones(3))
    box = torch.from_numpy(BOX)
    meeting = rays.meeting(box)
    assert 0 < len(meeting) < len(rays)
    assert (meeting.alpha > 0).sum() == (rays.alpha > 0).sum()
    grid = torch.stack(torch.meshgrid(*[torch.linspace(*BOX[:, k].tolist(), 21) for k in range(3)], indexing="ij"), -1)
    mask = AlphaMask(grid.norm(dim=-1) < RADIUS, box)
    seen = meeting.meeting_mask(mask, 2.0, 6.0, box)
    assert (seen.alpha > 0).sum() == (rays.alpha > 0).sum() and len(seen) < len(meeting)


def test_colours_are_put_on_any_background(ball):
    rays = RaySet.of(ball.train, torch.ones(3))
    images = torch.from_numpy(ball.train.images).reshape(-1, 3)
    assert torch.allclose(rays.on(torch.ones(3)), images, atol=1e-6)
    black = rays.on(torch.zeros(3))
    assert black[rays.alpha == 0].abs().max() == 0
    assert torch.allclose(black[rays.alpha == 1], images[rays.alpha == 1])


class Painted(Field):
    """Any field trains: one colour, one density."""

    def __init__(self, box) -> None:
        super().__init__(box)
        self.rgb = torch.nn.Parameter(torch.zeros(3))
        self.log_sigma = torch.nn.Parameter(torch.tensor(-3.0))

    def density(self, points: Tensor) -> Tensor:
        return self.log_sigma.exp() * (points.norm(dim=-1) < RADIUS)

    def color(self, points: Tensor, directions: Tensor) -> Tensor:
        return self.rgb.sigmoid().expand(len(points), 3)


def test_any_field_trains_and_learns_the_mean_colour(ball):
    model = Painted(ball.box)
    fit(model, ball, 300, schedule=Schedule(lr_net=0.05))
    hit = ball.train.alpha > 0
    assert model.rgb.sigmoid().tolist() == pytest.approx(ball.train.images[hit].mean(0).tolist(), abs=0.05)


def test_callback_stops_and_evaluation_is_not_counted(ball):
    seen = []
    found = fit(
        field(ball), ball, 50, callback=lambda state: state.step == 7, evaluate_every=3,
        evaluate=lambda state: seen.append(state.step) or {"psnr": state.mean_psnr(ball.valid)},
    )  # fmt: skip
    assert found.history.steps == 7 and found.history.stopped == "callback" and seen[:2] == [3, 6]
    assert math.isfinite(found.history.curve("psnr")[0][1])


def test_pictures_have_the_shape_of_views(ball):
    seen = render_views(field(ball), ball, ball.test, 8)
    assert seen.shape == ball.test.images.shape and bool(((seen >= 0) & (seen <= 1)).all())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"background": "grey"}, "background"),
        ({"losses": {"l7": 1.0}}, "penalty"),
        ({"rays": 0}, "rays"),
        ({"samples": 0}, "samples"),
    ],
)
def test_bad_options_are_refused(ball, options, word):
    with pytest.raises(ValueError, match=word):
        train(field(ball), ball, steps=2, generator=torch.Generator(), **options)


def test_what_diverged_is_not_measured(ball):
    history = fit(Painted(ball.box), ball, 2).history
    assert settled(history) is history
    with pytest.raises(RuntimeError, match="diverged after 2 steps"):
        settled(replace(history, stopped="diverged"))


def test_growing_what_has_no_grid_is_refused(ball):
    with pytest.raises(ValueError, match="no grid"):
        fit(Painted(ball.box), ball, 3, schedule=Schedule(upsample={100_000: 1000}))  # at the door, not when it is due
