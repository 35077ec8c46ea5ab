"""Analytic scenes: distances, tracing, shading and soft density against closed forms, libraries and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from tensorbench.core import data
from tensorbench.radiance_fields.cameras import Camera, camera_rays, look_at, orbit
from tensorbench.radiance_fields.scenes import (
    SCENES,
    Blobs,
    Light,
    Material,
    Scene,
    Solid,
    intersect,
    occupancy,
    render,
    scene,
    trace,
)  # fmt: skip
from tensorbench.radiance_fields.scenes import materials as m
from tensorbench.radiance_fields.scenes import solids as s
from tensorbench.radiance_fields.scenes.trace import lit

RNG = np.random.default_rng(0)


def ball(radius: float = 0.7, **light: float) -> Scene:
    return Scene((Solid(s.sphere((0, 0, 0), radius), Material(m.plain((0.8, 0.4, 0.2)))),), Light(**light))


def rays(n: int, target: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """From a sphere of radius 3 towards points near the origin."""
    origins = RNG.standard_normal((n, 3))
    origins *= 3 / np.linalg.norm(origins, axis=1, keepdims=True)
    directions = RNG.uniform(-target, target, (n, 3)) - origins
    return origins, directions / np.linalg.norm(directions, axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["box", "cylinder", "torus", "capsule", "sphere"])
def test_distances_agree_with_meshes(name):
    import trimesh

    meshes = {
        "box": (s.box((0.3, 0.5, 0.2)), trimesh.creation.box((0.6, 1.0, 0.4))),
        "cylinder": (s.cylinder(0.4, 0.3), trimesh.creation.cylinder(0.4, 0.6, sections=128)),
        "torus": (s.torus(0.5, 0.2), trimesh.creation.torus(0.5, 0.2, major_sections=96, minor_sections=48)),
        "capsule": (s.capsule((0, 0, -0.3), (0, 0, 0.3), 0.2), trimesh.creation.capsule(0.6, 0.2, count=(48, 48))),
        "sphere": (s.sphere((0, 0, 0), 0.5), trimesh.creation.icosphere(4, 0.5)),
    }
    shape, mesh = meshes[name]
    if name == "capsule":
        mesh.apply_translation(-mesh.bounds.mean(axis=0))
    points = RNG.uniform(-0.9, 0.9, (150, 3))
    assert np.abs(shape(points) + trimesh.proximity.signed_distance(mesh, points)).max() < 4e-3


@pytest.mark.parametrize("name", SCENES)
def test_distances_never_overestimate(name):
    """|f(p) - f(q)| <= |p - q|: what sphere tracing relies on."""
    made = scene(name)
    p = RNG.uniform(-1.6, 1.6, (4000, 3))
    q = p + RNG.standard_normal(p.shape) * RNG.choice([1e-3, 0.05, 0.5], (len(p), 1))
    assert (np.abs(made.distance(p) - made.distance(q)) <= np.linalg.norm(p - q, axis=1) * (1 + 1e-9) + 1e-12).all()


def test_everything_lies_in_the_box():
    for name in SCENES:
        axis = np.linspace(-1.5, 1.5, 40)
        for k in range(3):
            for side in (-1.5, 1.5):
                face = np.stack(np.meshgrid(axis, axis, [side]), axis=-1).reshape(-1, 3)
                assert (scene(name).distance(np.roll(face, k, axis=1)) > 0).all(), name


def test_rays_meet_a_sphere_where_algebra_says():
    origins, directions = rays(3000)
    found = intersect(ball(0.7), origins, directions)
    b = np.einsum("ij,ij->i", origins, directions)
    discriminant = b**2 - (9 - 0.49)
    clear = np.abs(discriminant) > 1e-3
    assert (found.hit == (discriminant > 0))[clear].all()
    both = found.hit & clear
    assert np.abs(found.t - (-b - np.sqrt(np.maximum(discriminant, 0))))[both].max() < 0.02  # t lags by d / cos
    assert np.median(np.abs(found.t - (-b - np.sqrt(np.maximum(discriminant, 0))))[both]) < 3e-4
    normals = ball(0.7).normals(origins[both] + found.t[both, None] * directions[both])
    expected = (origins + found.t[:, None] * directions)[both] / 0.7
    assert np.abs(normals - expected).max() < 2e-3


def test_rays_meet_a_turned_box_where_slabs_say():
    turn, centre, half = s.rotation((1, 2, 3), 40), np.array([0.2, -0.1, 0.3]), np.array([0.5, 0.3, 0.7])
    made = Scene((Solid(s.placed(s.box(tuple(half)), tuple(centre), turn), Material(m.plain((1, 1, 1)))),))
    origins, directions = rays(3000)
    o, d = (origins - centre) @ turn, directions @ turn
    first, second = (-half - o) / d, (half - o) / d
    enter, leave = np.minimum(first, second).max(axis=1), np.maximum(first, second).min(axis=1)
    found = intersect(made, origins, directions)
    clear = np.abs(leave - enter) > 5e-3
    assert (found.hit == (leave > enter))[clear].all()
    assert np.abs(found.t - enter)[found.hit & clear].max() < 0.02


def test_no_surface_is_missed_or_stepped_through():
    """Against marching in steps of 2 mm: no earlier crossing, and the ray ends on the surface."""
    made = scene("blocks")
    origins, directions = rays(150)
    found = intersect(made, origins, directions)
    t = np.arange(1.0, 5.0, 0.002)
    points = origins[:, None] + t[:, None] * directions[:, None]
    inside = made.distance(points.reshape(-1, 3)).reshape(len(origins), -1) < -1e-3
    first = np.where(inside.any(axis=1), t[inside.argmax(axis=1)], np.inf)
    assert (found.hit | ~np.isfinite(first)).all()
    assert (found.t <= first + 1e-3).all()
    on = origins[found.hit] + found.t[found.hit, None] * directions[found.hit]
    assert np.abs(made.distance(on)).max() < 1e-3


def test_opacity_covers_the_disc_that_a_ball_projects_to():
    camera = Camera.from_angle(64, 64)
    views = render(ball(0.8, ambient=0.5), camera, orbit(1, radius=4.0, elevation=0.0).numpy(), supersample=3)
    tangent = math.tan(math.asin(0.8 / 4.0))
    assert float(views.alpha.sum()) == pytest.approx(math.pi * (camera.focal * tangent) ** 2, rel=5e-3)
    assert views.depth is not None and views.depth.min() == pytest.approx(3.2, abs=2e-3)
    hit = np.isfinite(views.depth)
    assert (hit == (views.alpha > 0.5))[(views.alpha == 0) | (views.alpha == 1)].all()
    assert np.allclose(views.images[views.alpha == 0], 1.0)


def test_more_subpixels_are_the_mean_of_a_finer_picture():
    made, pose = scene("spheres"), orbit(1).numpy()
    coarse = render(made, Camera.from_angle(16, 16), pose, supersample=4)
    fine = render(made, Camera.from_angle(64, 64), pose, supersample=1)
    assert np.allclose(coarse.images, fine.images.reshape(1, 16, 4, 16, 4, 3).mean(axis=(2, 4)), atol=1e-4)
    assert np.allclose(coarse.alpha, fine.alpha.reshape(1, 16, 4, 16, 4).mean(axis=(2, 4)), atol=1e-6)


def test_light_and_shadow_of_a_ball():
    """Lambert where it faces the light, ambient where not, and a hard shadow where the light ray is blocked."""
    light = {"towards": (0.0, 0.0, 1.0), "ambient": 0.3, "strength": 0.6}
    made = ball(0.5, **light)
    up, down = np.array([[0.0, 0.0, 0.5]]), np.array([[0.0, 0.0, -0.5]])
    from tensorbench.radiance_fields.scenes import shade

    assert np.allclose(shade(made, up, up / 0.5, np.array([[0.0, 0.0, -1.0]])), 0.9 * np.array([0.8, 0.4, 0.2]))
    assert np.allclose(shade(made, down, down / 0.5, np.array([[0.0, 0.0, 1.0]])), 0.3 * np.array([0.8, 0.4, 0.2]))
    plate = Solid(s.placed(s.box((1, 1, 0.1)), (0, 0, -1.0)), Material(m.plain((1, 1, 1))))
    both = Scene((*made.solids, plate), made.light)
    points = np.stack([RNG.uniform(-0.9, 0.9, 400), RNG.uniform(-0.9, 0.9, 400), np.full(400, -0.9)], axis=1)
    normals = np.tile([0.0, 0.0, 1.0], (400, 1))
    radius = np.hypot(points[:, 0], points[:, 1])
    clear = np.abs(radius - 0.5) > 0.01
    assert (lit(both, points, normals) == (radius > 0.5))[clear].all()


def test_highlight_is_where_the_halfway_vector_is():
    shiny = Material(m.plain((0.0, 0.0, 0.0)), specular=0.7, shininess=20)
    light = Light(towards=(0, 0, 1))
    tilt = math.radians(20)
    normal = np.array([[math.sin(tilt), 0.0, math.cos(tilt)]])
    mirrored = np.array([[-math.sin(2 * tilt), 0.0, -math.cos(2 * tilt)]])
    colour = m.blinn_phong(shiny, light, np.zeros((1, 3)), normal, mirrored, np.ones(1))
    assert np.allclose(colour, 0.7)
    beside = m.blinn_phong(shiny, light, np.zeros((1, 3)), normal, np.array([[0.0, 0.0, -1.0]]), np.ones(1))
    assert np.allclose(beside, 0.7 * math.cos(tilt) ** 20)
    assert (m.blinn_phong(shiny, light, np.zeros((1, 3)), normal, mirrored, np.zeros(1)) == 0).all()


def test_textures():
    p = np.array([[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [0.3, 0.3, 0.1], [-0.1, 0.1, 0.1]])
    black, white = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    assert m.checker(black, white, 0.2)(p)[:, 0].tolist() == [0, 1, 0, 1]
    assert m.stripes(black, white, 0.2, (2, 0, 0))(p)[:, 0].tolist() == [0, 1, 1, 1]
    points = RNG.uniform(-3, 3, (4000, 3))
    noise = m.value_noise(points, seed=1)
    assert noise.min() >= 0 and noise.max() <= 1 and noise.std() > 0.1
    assert np.array_equal(noise, m.value_noise(points, seed=1)) and not np.allclose(
        noise, m.value_noise(points, seed=2)
    )
    moved = m.value_noise(points + 1e-4, seed=1)
    assert np.abs(moved - noise).max() < 1e-3  # smooth
    lattice = np.floor(points)
    assert np.allclose(m.value_noise(lattice, seed=1), m.value_noise(lattice + 1e-9, seed=1))


def blobs() -> Blobs:
    made = scene("cloud").blobs
    assert made is not None
    return made


def test_optical_depth_of_blobs_is_the_integral_of_their_density():
    origins, directions = rays(5, target=0.5)
    start, end = np.full(5, 1.2), RNG.uniform(2.0, 5.0, 5)
    found = blobs().optical_depth(origins, directions, start, end)
    for k in range(5):
        exact, _ = quad(lambda t, k=k: float(blobs().density((origins[k] + t * directions[k])[None])[0]), 1.2, end[k])
        assert found[k] == pytest.approx(exact, abs=1e-7)


def test_soft_density_is_rendered_as_dense_quadrature_renders_it():
    origins, directions = rays(40, target=0.6)
    made = Scene((), blobs=blobs())
    colour, alpha, depth, _ = trace(made, origins, directions)
    t = np.linspace(0, 6, 6001)
    middle, step = 0.5 * (t[1:] + t[:-1]), t[1] - t[0]
    for k in range(len(origins)):
        each = blobs().each(origins[k] + middle[:, None] * directions[k])
        opacity = 1 - np.exp(-each.sum(axis=1) * step)
        weights = opacity * np.concatenate([[1], np.cumprod(1 - opacity)[:-1]])
        shares = each / np.maximum(each.sum(axis=1, keepdims=True), 1e-300)
        assert alpha[k] == pytest.approx(weights.sum(), abs=2e-3)
        assert np.allclose(colour[k], weights @ (shares @ blobs().colours), atol=3e-3)
        if weights.sum() > 0.1:
            assert depth[k] == pytest.approx((weights * middle).sum() / weights.sum(), abs=1e-2)


def test_a_solid_in_soft_density_is_dimmed_by_what_lies_before_it():
    made = scene("cloud")
    origins, directions = rays(200, target=0.3)
    bare = Scene(made.solids, made.light)
    hit = intersect(bare, origins, directions)
    colour, alpha, _, normals = trace(made, origins, directions)
    assert np.allclose(alpha[hit.hit], 1.0)
    thick = blobs().optical_depth(origins, directions, np.zeros(200), np.where(hit.hit, hit.t, 6.0))
    assert np.allclose(1 - alpha[~hit.hit], np.exp(-thick[~hit.hit]), atol=1e-4)
    assert np.allclose(np.linalg.norm(normals[hit.hit], axis=1), 1.0, atol=1e-6)
    assert colour.max() <= 1.0 + 1e-6


def test_occupancy():
    made = ball(0.9)
    full, cover = occupancy(made, 40), occupancy(made, 40, cover=True)
    assert full.mean() * 27 == pytest.approx(4 / 3 * math.pi * 0.9**3, rel=0.02)
    assert (cover | ~full).all() and cover.sum() > full.sum()
    # A cell that holds any point of the ball is covered.
    points = RNG.standard_normal((5000, 3))
    points *= 0.9 * RNG.random((5000, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True)
    cells = np.floor((points + 1.5) / 3 * 40).astype(int)
    assert cover[tuple(cells.T)].all()
    assert occupancy(scene("cloud"), 16).any()
    # Axes are x, y, z in this order.
    shifted = Scene((Solid(s.sphere((1.0, 0.0, 0.0), 0.3), Material(m.plain((1, 1, 1)))),))
    assert occupancy(shifted, 15)[12, 7, 7] and not occupancy(shifted, 15)[7, 7, 12]


@pytest.mark.parametrize("name", SCENES)
def test_every_scene_can_be_seen(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TENSORBENCH_CACHE", str(tmp_path))
    loaded = data.load("analytic_scene", seed=1, scene=name, size=12, train=2, valid=1, test=1)
    again = data.load("analytic_scene", seed=1, scene=name, size=12, train=2, valid=1, test=1)
    assert np.array_equal(loaded.train.images, again.train.images)
    assert 0.05 < loaded.train.alpha.mean() < 0.7
    assert loaded.train.images.std() > 0.1 and loaded.box.shape == (2, 3)
    assert not np.allclose(loaded.train.c2w[0], loaded.test.c2w[0])
    # Colours on white are at least what opacity leaves of the background.
    assert (loaded.train.images >= (1 - loaded.train.alpha)[..., None] - 1e-5).all()
    # More views leave the first ones as they are.
    more = data.load("analytic_scene", seed=1, scene=name, size=12, train=3, valid=1, test=1)
    assert np.array_equal(more.train.images[:2], loaded.train.images)


def test_the_same_point_has_the_same_place_in_all_views():
    """The highest point of a small ball projects to where its colour is, from every side."""
    made = Scene(
        (Solid(s.sphere((0.3, -0.4, 0.2), 0.08), Material(m.plain((1, 0, 0)))),), Light(ambient=1.0, strength=0.0)
    )
    camera = Camera.from_angle(96, 96)
    from tensorbench.radiance_fields.cameras import project

    poses = orbit(5, elevation=20.0)
    views = render(made, camera, poses.numpy())
    for k, pose in enumerate(poses):
        rows, columns = np.nonzero(views.alpha[k] > 0)
        image, _ = project(camera, pose, torch.tensor([[0.3, -0.4, 0.2]]))
        assert (
            abs(float(image[0, 0]) - columns.mean() - 0.5) < 0.3 and abs(float(image[0, 1]) - rows.mean() - 0.5) < 0.3
        )


def test_bad_input():
    with pytest.raises(ValueError, match="did you mean 'blocks'"):
        scene("block")
    with pytest.raises(ValueError, match="inside an object"):
        render(ball(0.7), Camera(4, 4, 4.0), look_at(torch.tensor([0.3, 0.0, 0.0]))[None].numpy())
    origin = np.zeros((1, 3))
    with pytest.raises(ValueError, match="inside a solid"):
        intersect(ball(0.7), origin, np.array([[0.0, 0.0, 1.0]]))
    with pytest.raises(ValueError, match="supersample"):
        render(ball(), Camera(4, 4, 4.0), orbit(1).numpy(), supersample=0)
    with pytest.raises(ValueError, match="background"):
        render(ball(), Camera(4, 4, 4.0), orbit(1).numpy(), background=2.0)
    with pytest.raises(ValueError, match="radius"):
        s.sphere((0, 0, 0), -1.0)
    with pytest.raises(ValueError, match="minor radius"):
        s.torus(0.2, 0.3)
    with pytest.raises(ValueError, match="deviations"):
        Blobs(np.zeros((1, 3)), np.zeros(1), np.ones(1), np.ones((1, 3)))
    with pytest.raises(ValueError, match="at least 1 view"):
        data.load("analytic_scene", seed=0, train=0)
    assert camera_rays(Camera(2, 2, 1.0), torch.eye(4))[0].shape == (4, 3)
