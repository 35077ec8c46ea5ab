"""The splatter against gsplat's torch helpers, closed forms, brute force and finite differences."""

import pytest
import torch

from tensorbench.radiance_fields.cameras import Camera, look_at
from tensorbench.radiance_fields.gaussians.covariance import (
    axis_angle_matrix,
    covariance,
    frame_quaternion,
    quaternion_product,
    rotation_matrix,
    unit_quaternion,
)
from tensorbench.radiance_fields.gaussians.gpu import render_gsplat
from tensorbench.radiance_fields.gaussians.projection import Projected, intrinsics, project, world_to_camera
from tensorbench.radiance_fields.gaussians.splatter import rasterize, render

DOUBLE = torch.float64
UP = (0.0, 1.0, 0.0)


def ahead(dtype=DOUBLE):
    """A camera three metres before the origin."""
    return look_at(torch.tensor([0.0, 0.0, 3.0]), torch.zeros(3), UP).to(dtype)


def cloud(n, seed=0, dtype=DOUBLE, views=1, spread=0.6):
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(views, n, 3, generator=g, dtype=dtype) * spread
    q = torch.randn(views, n, 4, generator=g, dtype=dtype)
    scale = torch.rand(views, n, 3, generator=g, dtype=dtype) * 0.15 + 0.02
    colors = torch.rand(views, n, 3, generator=g, dtype=dtype)
    opacity = torch.rand(views, n, generator=g, dtype=dtype) * 0.9 + 0.05
    angles = torch.arange(views) * 1.3 + 0.4
    poses = [look_at(torch.stack([3 * a.sin(), 0.5 + 0 * a, 3 * a.cos()]), torch.zeros(3), UP) for a in angles]
    return means, q, scale, colors, opacity, torch.stack(poses).to(dtype)


def test_rotations_are_those_of_scipy():
    from scipy.spatial.transform import Rotation

    g = torch.Generator().manual_seed(1)
    p, q = torch.randn(2, 20, 4, generator=g, dtype=DOUBLE)
    a, b = (Rotation.from_quat(r.numpy()[:, [1, 2, 3, 0]]) for r in (p, q))
    assert torch.allclose(rotation_matrix(q), torch.from_numpy(b.as_matrix()))
    assert torch.allclose(rotation_matrix(quaternion_product(p, q)), torch.from_numpy((a * b).as_matrix()))
    v = torch.randn(20, 3, generator=g, dtype=DOUBLE)
    v[0] = 0
    assert torch.allclose(axis_angle_matrix(v), torch.from_numpy(Rotation.from_rotvec(v.numpy()).as_matrix()))


def test_a_zero_quaternion_is_the_identity_with_finite_gradients():
    q = torch.zeros(2, 4, dtype=DOUBLE, requires_grad=True)
    assert torch.equal(rotation_matrix(q).detach(), torch.eye(3, dtype=DOUBLE).expand(2, 3, 3))
    covariance(q, torch.ones(2, 3, dtype=DOUBLE)).sum().backward()
    assert torch.isfinite(q.grad).all()
    assert torch.allclose(unit_quaternion(torch.full((4,), 3.0)), torch.full((4,), 0.5))


def test_frames_turn_z_to_the_normal():
    g = torch.Generator().manual_seed(0)
    normal = torch.nn.functional.normalize(torch.randn(50, 3, generator=g, dtype=DOUBLE), dim=-1)
    normal[0] = torch.tensor([0.0, 0.0, -1.0])
    assert torch.allclose(rotation_matrix(frame_quaternion(normal))[..., 2], normal)


def test_projection_and_covariance_equal_gsplat():
    oracle = pytest.importorskip("gsplat.cuda._torch_impl")
    means, q, scale, _, _, c2w = cloud(200, views=3, spread=1.2)
    camera = Camera(64, 48, 70.0)
    ours = covariance(q, scale)
    theirs, _ = oracle._quat_scale_to_covar_preci(q, scale, compute_preci=False)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    k = intrinsics(camera, means)
    for view in range(3):
        projected = project(means[view], ours[view], camera, c2w[view])
        radii, mean, depth, conic, _ = oracle._fully_fused_projection(
            means[view], theirs[view], world_to_camera(c2w[view])[None], k[None], camera.width, camera.height
        )
        shown = depth[0] > 0.01
        assert torch.equal(projected.visible, shown)
        assert int((radii[0].amax(-1) > 0).sum()) > 50
        for a, b in ((projected.mean, mean), (projected.depth, depth), (projected.conic, conic)):
            torch.testing.assert_close(a[shown], b[0][shown], atol=1e-5, rtol=1e-5)


def test_spherical_harmonics_of_degree_3_equal_gsplat():
    oracle = pytest.importorskip("gsplat.cuda._torch_impl")
    from tensorbench.radiance_fields.encodings import spherical_harmonics

    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=g, dtype=DOUBLE), dim=-1)
    coefficients = torch.randn(40, 16, 3, generator=g, dtype=DOUBLE)
    ours = torch.einsum("nk,nkc->nc", spherical_harmonics(directions, 3), coefficients)
    torch.testing.assert_close(ours, oracle._spherical_harmonics(3, directions, coefficients), atol=1e-6, rtol=0)


def test_one_gaussian_is_the_analytic_ellipse():
    camera, c2w = Camera(40, 32, 50.0), ahead()
    mean = torch.tensor([[0.1, 0.2, 0.0]], dtype=DOUBLE)
    turn, scale = torch.tensor([[0.9, 0.1, 0.2, 0.3]]), torch.tensor([[0.3, 0.1, 0.2]])
    sigma, opacity = covariance(turn.to(DOUBLE), scale.to(DOUBLE)), torch.tensor([0.8], dtype=DOUBLE)
    one = torch.ones(1, 1, dtype=DOUBLE)
    x, y, z = 0.1, -0.2, 3.0  # seen from the camera, y down
    centre = torch.tensor([50 * x / z + 20, 50 * y / z + 16], dtype=DOUBLE)
    j = torch.tensor([[50 / z, 0, 50 * x / z**2], [0, -50 / z, 50 * y / z**2]], dtype=DOUBLE)
    flat = j @ sigma[0] @ j.T + 0.3 * torch.eye(2, dtype=DOUBLE)
    rows, columns = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(40) + 0.5, indexing="ij")
    d = torch.stack([columns, rows], dim=-1).to(DOUBLE) - centre
    truth = 0.8 * torch.exp(-0.5 * torch.einsum("hwi,ij,hwj->hw", d, torch.linalg.inv(flat), d))
    assert truth.max() > 0.75
    for dtype in (DOUBLE, torch.float32):
        given = (part.to(dtype) for part in (mean, sigma, one, opacity))
        out = render(*given, camera, c2w.to(dtype), cutoff=1e-6)
        torch.testing.assert_close(out.image[..., 0].double(), truth, atol=1e-4, rtol=0)
        torch.testing.assert_close(out.alpha.double(), truth, atol=1e-4, rtol=0)


def test_the_nearer_of_two_gaussians_covers_the_other():
    camera, c2w = Camera(16, 16, 30.0), ahead(torch.float32)
    means = torch.tensor([[0.0, 0.0, -0.5], [0.0, 0.0, 0.5]])  # the second is nearer
    sigma = 0.04 * torch.eye(3).expand(2, 3, 3)
    colors, opacity = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]), torch.tensor([0.9, 0.9])
    seen = render(means, sigma, colors, opacity, camera, c2w).image[8, 8]
    assert seen[1] > 4 * seen[0] > 0
    swapped = render(means.flip(0), sigma, colors.flip(0), opacity, camera, c2w).image[8, 8]
    torch.testing.assert_close(swapped, seen)
    behind = render(-means, sigma, colors, opacity, camera, c2w).image[8, 8]
    assert behind[0] > 4 * behind[1] > 0


def brute_force(projected, colors, opacity, height, width, background, cutoff=1 / 255):
    """One loop over Gaussians for all pixels."""
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    y, x = rows.to(colors.dtype), columns.to(colors.dtype)
    image = torch.zeros(height, width, colors.shape[-1], dtype=colors.dtype)
    through = torch.ones(height, width, dtype=colors.dtype)
    for k in projected.depth.argsort().tolist():
        if not projected.visible[k]:
            continue
        dx, dy = x - projected.mean[k, 0], y - projected.mean[k, 1]
        a, b, c = projected.conic[k]
        alpha = (opacity[k] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)).clamp(max=0.99)
        alpha = torch.where(alpha > cutoff, alpha, torch.zeros_like(alpha))
        image = image + (through * alpha)[..., None] * colors[k]
        through = through * (1 - alpha)
    return image + through[..., None] * background, 1 - through


@pytest.mark.parametrize("tile", [1, 5, 8, 64])
def test_pictures_equal_brute_force_whatever_the_tiles(tile):
    means, q, scale, colors, opacity, c2w = cloud(80, views=2)
    camera, background = Camera(27, 22, 25.0), torch.tensor([0.2, 0.5, 1.0], dtype=DOUBLE)
    projected = project(means, covariance(q, scale), camera, c2w)
    out = rasterize(projected, colors, opacity, 22, 27, background=background, tile=tile, most=20_000)
    for view in range(2):
        one = Projected(*(getattr(projected, f)[view] for f in Projected.__annotations__))
        image, alpha = brute_force(one, colors[view], opacity[view], 22, 27, background)
        assert alpha.mean() > 0.2
        torch.testing.assert_close(out.image[view], image, atol=1e-10, rtol=0)
        torch.testing.assert_close(out.alpha[view], alpha, atol=1e-10, rtol=0)


def test_gradients_equal_finite_differences_and_brute_force():
    means, q, scale, colors, opacity, c2w = cloud(12, seed=3)
    opacity[0, 0] = 1.0  # capped at 0.99 where it is densest
    weight = torch.rand(12, 14, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    camera, background = Camera(14, 12, 14.0), torch.full((3,), 0.3, dtype=DOUBLE)

    def loss(*given, brute=False):
        m, r, s, c, o = (x[0] for x in given)
        projected = project(m, covariance(r, s), camera, c2w[0])
        if brute:
            image, alpha = brute_force(projected, c, o, 12, 14, background, cutoff=1e-9)
        else:
            out = rasterize(projected, c, o, 12, 14, background=background, cutoff=1e-9)
            image, alpha = out.image, out.alpha
        return (image * weight).sum() + alpha.square().sum()

    given = [x.clone().requires_grad_() for x in (means, q, scale, colors, opacity)]
    ours = torch.autograd.grad(loss(*given), given)
    theirs = torch.autograd.grad(loss(*given, brute=True), given)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)
    step = 1e-5
    for k, gradient in enumerate(ours):
        entry = int(gradient.abs().flatten().argmax())
        moved = []
        for sign in (1, -1):
            values = [x.detach().clone() for x in given]
            values[k].view(-1)[entry] += sign * step
            moved.append(float(loss(*values)))
        assert float(gradient.flatten()[entry]) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-3)


def test_an_empty_scene_is_the_background():
    camera, background = Camera(20, 20, 20.0), torch.tensor([0.1, 0.2, 0.3])
    for means in (torch.zeros(0, 3), torch.tensor([[0.0, 0.0, 5.0]])):  # none, and one behind the camera
        n = len(means)
        sigma = torch.eye(3).expand(n, 3, 3) * 0.01
        out = render(means, sigma, torch.ones(n, 3), torch.full((n,), 0.5), camera, ahead(torch.float32),
                     background=background)  # fmt: skip
        assert torch.equal(out.image, background.expand(20, 20, 3))
        assert not out.alpha.any()


def test_a_gaussian_at_the_camera_gives_no_nan():
    means = torch.tensor([[0.0, 0.0, 3.0], [0.1, 0.0, 0.0]], requires_grad=True)
    sigma = torch.eye(3).expand(2, 3, 3) * 0.01
    camera, opacity = Camera(8, 8, 8.0), torch.full((2,), 0.5)
    out = render(means, sigma, torch.ones(2, 3), opacity, camera, ahead(torch.float32))
    (out.image * torch.arange(8.0)[:, None]).sum().backward()
    assert torch.isfinite(means.grad).all() and means.grad[1].abs().sum() > 0 and not means.grad[0].any()


def test_bad_input():
    means, q, scale, colors, opacity, c2w = cloud(5)
    sigma = covariance(q, scale)
    with pytest.raises(ValueError, match="focal"):
        project(means, sigma, Camera(8, 8, -1.0), c2w)
    with pytest.raises(ValueError, match="do not fit"):
        project(means, sigma[:, :3], Camera(8, 8, 8.0), c2w)
    projected = project(means, sigma, Camera(8, 8, 8.0), c2w)
    with pytest.raises(ValueError, match="do not fit 5 Gaussians"):
        rasterize(projected, colors[:, :4], opacity, 8, 8)
    with pytest.raises(ValueError, match="positive"):
        rasterize(projected, colors, opacity, 0, 8)
    with pytest.raises(ValueError, match="cutoff"):
        rasterize(projected, colors, opacity, 8, 8, cutoff=0.0)


def test_gsplat_says_that_it_wants_cuda():
    pytest.importorskip("gsplat")
    means, q, scale, colors, opacity, c2w = cloud(5, dtype=torch.float32)
    sigma = covariance(q, scale)
    with pytest.raises(RuntimeError, match="CUDA"):
        render_gsplat(means[0], sigma[0], colors[0], opacity[0], Camera(8, 8, 8.0), c2w)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat needs a GPU")
def test_pictures_equal_gsplat_on_a_gpu():
    pytest.importorskip("gsplat")
    means, q, scale, colors, opacity, c2w = (x.cuda() for x in cloud(300, dtype=torch.float32))
    camera, sigma = Camera(64, 64, 80.0), covariance(q, scale)
    ours = render(means, sigma, colors, opacity, camera, c2w)
    theirs = render_gsplat(means[0], sigma[0], colors[0], opacity[0], camera, c2w)
    assert float((ours.image - theirs.image).abs().max()) < 0.02
