"""Meshes with edge lengths, second-order cones, poses and principal bends: exact cases, libraries, constraints."""

import time

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tensorbench.radiance_fields.surfaces.baselines import linear_model, mesh, socp
from tensorbench.radiance_fields.surfaces.evaluation import compare, mesh_surface
from tensorbench.radiance_fields.surfaces.meshes import Template, edges_of, grid_mesh
from tensorbench.radiance_fields.surfaces.pinhole import Pinhole
from tensorbench.radiance_fields.surfaces.sequences import (
    Corruption,
    Observation,
    SurfaceSequence,
    developable_sequence,
)

AHEAD = np.array([0.0, 0.0, 2.5])


def flat_template(side=10, tilt=25.0):
    uv, faces = grid_mesh(side)
    points = Rotation.from_euler("x", tilt, degrees=True).apply(np.c_[uv, np.zeros(len(uv))]) + AHEAD
    return Template(uv, points, faces)


def bending(**changes):
    options = {"seed": 1, "frames": 4, "curvature": 1.0, "points": 150, "side": 10} | changes
    return developable_sequence("cylinder", **options)


def error(points, seq, frame=-1):
    surface = mesh_surface(seq.template.uv, seq.template.faces, points)
    return compare(surface, seq.exact[frame], 0.9 * seq.template.uv, seq.camera).distance


# --- cone program ---


def test_the_cone_program_keeps_edges_and_is_quick():
    pytest.importorskip("cvxpy")
    seq = bending(corruption=Corruption(0.0))
    started = time.perf_counter()
    found = socp.reconstruct(seq.camera, seq.template, seq.observations[-1], 0.01)
    assert time.perf_counter() - started < 5
    assert found.excess < 1e-6
    assert error(found.points, seq) < 0.05


def test_the_cone_program_finds_a_flat_sheet_and_its_objective():
    pytest.importorskip("cvxpy")
    template, camera = flat_template(), Pinhole.centred(500, 640, 480)
    seen = Observation(template.uv, camera.project(template.points))
    found = socp.reconstruct(camera, template, seen, 0.01)
    np.testing.assert_allclose(found.points, template.points, atol=2e-3)
    truth = -0.01 * template.points[:, 2].mean()
    assert found.objective <= truth + 1e-7  # the truth is feasible, so the optimum is no worse


def test_the_cone_program_refuses():
    template, camera = flat_template(4), Pinhole.centred(500, 640, 480)
    seen = Observation(template.uv, camera.project(template.points))
    with pytest.raises(ValueError, match="must be positive"):
        socp.reconstruct(camera, template, seen, 0.0)
    with pytest.raises(ValueError, match="too few"):
        socp.reconstruct(camera, template, Observation(seen.uv[:3], seen.pixels[:3]))


# --- mesh ---


def test_second_differences_vanish_on_a_plane():
    uv, _ = grid_mesh(5, 7)
    assert np.abs(mesh.second_differences(5, 7) @ (uv @ [[1.0, 2], [3, 4]])).max() < 1e-12
    assert mesh.second_differences(5, 7).shape == (3 * 7 + 5 * 5, 35)


def test_derivatives_of_the_projection():
    camera = Pinhole(480, 500, 310, 250, 640, 480)
    points = np.random.default_rng(0).normal(size=(8, 3)) * 0.3 + [0, 0, 2]
    pixels = camera.project(points) + 0.1
    _, slope = mesh.projection_rows(camera, points, pixels, 0.01, 1e6)
    for axis in range(3):
        step = 1e-6 * np.eye(3)[axis]
        numeric = (camera.project(points + step) - camera.project(points - step)) / 2e-6 * 0.01
        np.testing.assert_allclose(slope[:, :, axis], numeric, atol=1e-6)


def test_the_mesh_follows_and_keeps_its_edges():
    seq = bending(corruption=Corruption(0.5))
    *_, last = mesh.track_mesh(seq, seq.template, 10)
    edges, _ = edges_of(seq.template.faces)
    lengths = [np.linalg.norm(x[edges[:, 0]] - x[edges[:, 1]], axis=1) for x in (last, seq.template.points)]
    assert np.abs(lengths[0] / lengths[1] - 1).mean() < 0.02
    assert error(last, seq) < 0.3 * error(seq.template.points, seq)
    with pytest.raises(ValueError, match="must be >= 0"):
        next(mesh.track_mesh(seq, seq.template, 10, edge=-1))
    with pytest.raises(ValueError, match="no grid of 7 rows"):
        next(mesh.track_mesh(seq, seq.template, 7))


# --- pose and linear models ---


def test_poses_of_planes_are_found_and_agree_with_opencv():
    camera = Pinhole.centred(500, 640, 480)
    rotation, translation = Rotation.from_euler("xyz", [30, -20, 10], degrees=True), np.array([0.2, -0.1, 3.0])
    flat = np.random.default_rng(0).uniform(-0.5, 0.5, (12, 2))
    points = np.c_[flat, np.zeros(12)]
    pixels = camera.project(rotation.apply(points) + translation)
    found, where = linear_model.planar_pose(camera, flat, pixels)
    assert (found.inv() * rotation).magnitude() < 1e-6
    np.testing.assert_allclose(where, translation, atol=1e-6)
    cv2 = pytest.importorskip("cv2")
    noisy = pixels + np.random.default_rng(1).normal(size=pixels.shape)
    _, vector, shift = cv2.solvePnP(points, noisy, camera.matrix, None)
    model = linear_model.LinearModel(points, np.zeros((0, 12, 3)))
    start = linear_model.State(np.zeros(0), *linear_model.planar_pose(camera, flat, noisy))
    refined = linear_model.fit(model, start, camera, np.eye(12), noisy, 0.01, threshold=1e6, iterations=50)
    assert (Rotation.from_rotvec(vector[:, 0]).inv() * refined.rotation).magnitude() < 1e-3
    np.testing.assert_allclose(refined.translation, shift[:, 0], atol=2e-3)


def test_a_moved_rigid_sheet_is_followed_despite_outliers():
    template, camera = flat_template(), Pinhole.centred(500, 640, 480)
    motion = Rotation.from_euler("xyz", [3, 2, -4], degrees=True)
    centre = template.points.mean(0)
    moved = motion.apply(template.points - centre) + centre + [0.02, 0.01, 0.03]
    pixels = Corruption(0.3, outliers=0.1).apply(camera.project(moved), np.random.default_rng(0))
    seq = SurfaceSequence("moved", camera, template, (Observation(template.uv, pixels),))
    (found,) = linear_model.track_linear(seq, template, linear_model.rigid_model(template), threshold=1.0)
    assert np.linalg.norm(found - moved, axis=1).mean() < 0.01


def test_what_is_in_the_span_of_the_model_is_found():
    uv, faces = grid_mesh(9)
    model = linear_model.bends_model(uv, 6, np.random.default_rng(0), examples=60)
    rotation = Rotation.from_euler("x", 25, degrees=True)
    c = np.array([0.8, -0.5, 0.3, 0.2, 0.0, -0.1])
    true = rotation.apply(model.shape(c)) + AHEAD
    camera = Pinhole.centred(500, 640, 480)
    template = Template(uv, rotation.apply(np.c_[uv, np.zeros(81)]) + AHEAD, faces)
    seq = SurfaceSequence("span", camera, template, (Observation(uv, camera.project(true)),))
    (found,) = linear_model.track_linear(seq, template, model, ridge=0.0, threshold=50.0, iterations=80)
    assert np.linalg.norm(found - true, axis=1).mean() < 2e-3


def test_more_components_explain_more():
    uv, _ = grid_mesh(7)
    model = linear_model.bends_model(uv, 10, np.random.default_rng(0), examples=40)
    sizes = np.linalg.norm(model.components.reshape(10, -1), axis=1)
    assert (np.diff(sizes) <= 1e-12).all() and sizes[0] > 3 * sizes[-1]
    with pytest.raises(ValueError, match="components 50"):
        linear_model.bends_model(uv, 50, np.random.default_rng(0), examples=40)


def test_poses_that_are_not_determined():
    camera = Pinhole.centred(500, 640, 480)
    line = np.c_[np.linspace(0, 1, 6), np.zeros(6)]
    with pytest.raises(ValueError, match="on a line"):
        linear_model.planar_pose(camera, line, line)
    with pytest.raises(ValueError, match="too few"):
        linear_model.planar_pose(camera, line[:3], line[:3])


def test_a_mirror_image_is_no_camera():
    with pytest.raises(ValueError, match="mirror image"):
        Pinhole(500, 400, 320, 240, 640, 480, rotation=np.diag([1.0, 1.0, -1.0]))
