"""Tracking: projections, metric losses, registration, what is kept, silhouettes, and input that is refused."""

import dataclasses
import logging
import math

import numpy as np
import pytest
import torch

from tensorbench.radiance_fields.surfaces import geometry as dg
from tensorbench.radiance_fields.surfaces import isometries, metric_losses, tracking
from tensorbench.radiance_fields.surfaces.evaluation import compare, mesh_surface, overlap
from tensorbench.radiance_fields.surfaces.folders import grid_parameters, read_folder
from tensorbench.radiance_fields.surfaces.meshes import Template, edges_of, grid_mesh
from tensorbench.radiance_fields.surfaces.nets import SurfaceNet
from tensorbench.radiance_fields.surfaces.pinhole import Pinhole
from tensorbench.radiance_fields.surfaces.rasterize import rasterize, textured
from tensorbench.radiance_fields.surfaces.registration import PointNormalizer, register
from tensorbench.radiance_fields.surfaces.sequences import Corruption, Observation, developable_sequence
from tensorbench.radiance_fields.surfaces.silhouette import Chamfer, Contour, SoftMask, View, chamfer_loss, outline, rim


def rng(seed=0):
    return np.random.default_rng(seed)


def small_net(seed=0):
    return SurfaceNet((32, 32), generator=torch.Generator().manual_seed(seed))


def sequence(**changes):
    options = {"seed": 0, "frames": 2, "curvature": 0.3, "points": 60, "side": 11} | changes
    return developable_sequence(options.pop("shape", "cylinder"), **options)


def follow(seq, seed=0, **options):
    registered = register(small_net(seed), seq.template, rng=rng(seed))
    options = {"control": 40, "steps": 60} | options
    terms = tracking.correspondence_terms(registered, seq.camera, seq.observations)
    return list(tracking.track(registered, terms, rng=rng(seed), **options))


# --- camera ---


def test_projection_by_hand():
    camera = Pinhole(500, 400, 320, 240, 640, 480)
    np.testing.assert_allclose(camera.project(np.array([[0.5, -0.25, 2.0]])), [[320 + 125, 240 - 50]])
    turned = dataclasses.replace(
        camera, rotation=np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]]), translation=np.array([0.0, 0, 3])
    )
    np.testing.assert_allclose(turned.project(np.array([[-1.0, 0.5, 0.25]])), [[320 - 500 / 8, 240 + 100]])
    np.testing.assert_allclose(
        turned.project(torch.tensor([[-1.0, 0.5, 0.25]])).numpy(), [[320 - 500 / 8, 240 + 100]], rtol=1e-6
    )


def test_projections_agree_with_opencv():
    cv2 = pytest.importorskip("cv2")
    camera = Pinhole(480, 500, 310, 250, 640, 480)
    points = rng().normal(size=(20, 3)) + np.array([0, 0, 5])
    theirs, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.matrix, None)
    np.testing.assert_allclose(camera.project(points), theirs[:, 0], atol=1e-9)
    rays = camera.rays(theirs[:, 0])
    np.testing.assert_allclose(rays * points[:, 2:], points, atol=1e-9)


# --- metric losses ---


@pytest.mark.parametrize("name", metric_losses.METRIC_LOSSES)
def test_isometric_bends_cost_nothing_and_stretching_does(name):
    loss = metric_losses.METRIC_LOSSES[name]
    uv = torch.rand(50, 2, dtype=torch.float64) - 0.5
    flat = torch.eye(2, dtype=torch.float64).expand(50, 2, 2)
    bent = dg.first_form(dg.jacobian(lambda x: isometries.curved(x, 2.0, 0.3), uv))
    assert float(loss(bent, flat)) < 1e-10
    assert float(loss(1.3 * bent, flat)) > 1e-2


def test_scaling_costs_its_square_in_each_entry():
    flat, s = torch.eye(2, dtype=torch.float64).expand(7, 2, 2), 1.2
    expected = (s**2 - 1) ** 2
    assert float(metric_losses.diagonal(s**2 * flat, flat)) == pytest.approx(expected)
    assert float(metric_losses.frobenius(s**2 * flat, flat)) == pytest.approx(expected / 2)  # two of four entries
    assert float(metric_losses.log_euclidean(s**2 * flat, flat)) == pytest.approx(math.log(s**2) ** 2 / 2)


def test_shear_and_area_are_free_where_it_is_said():
    flat = torch.eye(2, dtype=torch.float64)[None]
    shear = torch.tensor([[[1.0, 0.4], [0.4, 1.0]]], dtype=torch.float64)
    squeeze = torch.diag(torch.tensor([2.0, 0.5], dtype=torch.float64))[None]
    assert float(metric_losses.diagonal(shear, flat)) == 0
    assert float(metric_losses.area(squeeze, flat)) == pytest.approx(0)
    assert (
        float(metric_losses.frobenius(shear, flat)) > 0.05 and float(metric_losses.log_euclidean(squeeze, flat)) > 0.1
    )


def test_logarithms_are_those_of_eigenvalues_and_have_gradients_at_the_identity():
    a = torch.randn(40, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    form = a.mT @ a + 0.05 * torch.eye(2)
    values, vectors = torch.linalg.eigh(form)
    torch.testing.assert_close(metric_losses.logarithm(form), vectors @ torch.diag_embed(values.log()) @ vectors.mT)
    at = torch.eye(2, dtype=torch.float64)[None].requires_grad_()
    metric_losses.logarithm(at).sum().backward()
    assert torch.isfinite(at.grad).all()


# --- registration ---


def test_the_normaliser_has_unit_size_and_is_undone():
    points = rng().normal(size=(30, 3)) * 4 + 7
    normalizer = PointNormalizer.of(points)
    assert np.linalg.norm(normalizer(points), axis=1).max() == pytest.approx(1)
    np.testing.assert_allclose(normalizer.inverse(normalizer(points)), points)
    np.testing.assert_allclose(normalizer.inverse(normalizer(torch.from_numpy(points))).numpy(), points)


def test_a_flat_template_is_met_exactly_and_its_metric_too():
    template = sequence().template
    found = register(small_net(), template, rng=rng())
    assert found.error < 1e-5
    at = torch.from_numpy(template.draw(50, rng())).float()
    g = dg.first_form(found.net.jacobian(at)) * found.normalizer.scale**2
    torch.testing.assert_close(g, torch.eye(2).expand(50, 2, 2), atol=1e-3, rtol=0)


def test_adam_comes_nearer_to_the_template():
    template = sequence().template
    start = small_net()
    goal = torch.from_numpy(PointNormalizer.of(template.points)(template.points))
    with torch.no_grad():
        before = float((start(torch.from_numpy(template.uv).float()) - goal).square().mean())
    found = register(start, template, method="adam", lr=1e-3, patience=50, max_steps=150, rng=rng())
    assert found.error**2 < 0.1 * before and found.steps <= 150


def test_samples_of_a_template_lie_on_it():
    uv, faces = grid_mesh(4)
    template = Template(uv, np.concatenate([uv, uv[:, :1] * 2 + 1], 1), faces)
    at, points = template.samples(2, 3, rng())
    _, count = edges_of(faces)
    assert len(at) == 16 + 2 * len(faces) + 3 * (count == 1).sum()
    np.testing.assert_allclose(points[:, 2], at[:, 0] * 2 + 1)
    inside = template.draw(2000, rng())
    assert (np.abs(inside) <= 0.5).all() and abs(inside.mean()) < 0.02


# --- tracking ---


def test_a_still_flat_sheet_stays_where_it_is():
    seq = sequence(curvature=0.0, corruption=Corruption(0.0))
    for fit in follow(seq):
        error = np.linalg.norm(fit.surface(seq.template.uv) - seq.template.points, axis=1).mean()
        assert error <= 1e-3


def test_a_bend_is_followed_and_the_metric_kept():
    seq = sequence(frames=3, curvature=0.9, corruption=Corruption(0.5), points=120)
    fits = follow(seq, steps=150)
    found = compare(fits[-1].surface, seq.exact[-1], 0.9 * seq.template.uv, seq.camera)
    flat = mesh_surface(seq.template.uv, seq.template.faces, seq.template.points)
    still = compare(flat, seq.exact[-1], 0.9 * seq.template.uv, seq.camera)
    assert found.distance < 0.4 * still.distance and found.metric < 0.1


def test_the_lowest_loss_is_kept_and_truth_is_not_read():
    seq = sequence()
    fits = follow(seq)
    for fit in fits:
        assert fit.loss == min(fit.history) and sum(fit.terms.values()) == pytest.approx(fit.loss)
    blind = follow(dataclasses.replace(seq, truth=None, exact=()))
    for a, b in zip(fits, blind, strict=True):
        np.testing.assert_array_equal(a.surface(seq.template.uv), b.surface(seq.template.uv))


def test_the_kept_network_has_the_lowest_loss():
    seq = sequence()
    registered = register(small_net(), seq.template, rng=rng())
    term = next(tracking.correspondence_terms(registered, seq.camera, seq.observations))
    control = torch.from_numpy(seq.template.draw(40, rng())).float()
    with torch.no_grad():
        goal, previous = dg.first_form(registered.net.jacobian(control)), registered.net(control)
    objective = tracking.Objective(registered.normalizer, term, control, goal, previous, tracking.Weights())
    fit = follow(seq)[0]
    assert float(objective(fit.net)[0].detach()) == pytest.approx(fit.loss, rel=1e-4)


def test_patience_ends_a_frame():
    seq = sequence(curvature=0.0, corruption=Corruption(0.0))
    assert all(fit.steps < 500 for fit in follow(seq, steps=500, patience=5))


def test_outliers_are_left_behind_by_huber():
    seq = sequence(corruption=Corruption(0.5, outliers=0.3), points=150)
    registered = register(small_net(), seq.template, rng=rng())
    errors = {}
    for threshold in (2.0, math.inf):
        terms = tracking.correspondence_terms(registered, seq.camera, seq.observations, threshold)
        fit = list(tracking.track(registered, terms, control=40, steps=150, rng=rng()))[-1]
        errors[threshold] = compare(fit.surface, seq.exact[-1], 0.9 * seq.template.uv, seq.camera).distance
    assert errors[2.0] < 0.5 * errors[math.inf]


def test_corruption_is_what_it_says():
    pixels = rng().uniform(0, 400, size=(5000, 2))
    found = Corruption(2.0, outliers=0.2, missing=0.1).apply(pixels, rng(1))
    lost = np.isnan(found).any(1)
    assert lost.sum() == 500
    moved = np.linalg.norm(found - pixels, axis=1)
    assert 0.15 < (moved[~lost] > 12).mean() < 0.21
    assert np.nanmedian(np.abs(found - pixels)) == pytest.approx(2 * 0.6745 * 1.3, rel=0.3)
    np.testing.assert_array_equal(Corruption(0.0).apply(pixels, rng()), pixels)


def test_sequences_are_isometric_and_seen():
    for shape in isometries.BENDS:
        seq = sequence(shape=shape, curvature=2.0)
        edges, _ = edges_of(seq.template.faces)
        a, b = (np.linalg.norm(x[edges[:, 0]] - x[edges[:, 1]], axis=1) for x in (seq.truth[-1], seq.template.points))
        assert np.abs(a / b - 1).max() < 0.01
        pixels = seq.camera.project(seq.truth[-1])
        assert (pixels > 0).all() and (pixels < [640, 480]).all()


# --- silhouettes ---


def test_chamfer_by_brute_force():
    a, b = torch.rand(7, 2), torch.rand(9, 2)
    d = (a[:, None] - b[None]).square().sum(-1)
    torch.testing.assert_close(chamfer_loss(a, b), d.min(1).values.mean() + d.min(0).values.mean())
    assert float(chamfer_loss(a, a)) == pytest.approx(0, abs=1e-12)


def test_a_square_is_drawn_where_it_is():
    camera = Pinhole.centred(100.0, 64, 48)
    uv, faces = grid_mesh(5)
    points = np.concatenate([0.2 * uv, np.ones((25, 1))], 1)  # 20 × 20 pixels in the middle
    raster = rasterize(camera, points, faces)
    assert raster.mask.sum() == 400 and raster.mask[14:34, 22:42].all()
    np.testing.assert_allclose(raster.depth[raster.mask], 1)
    ramp = np.linspace(0, 1, 50)[None, :, None] * np.ones((50, 1, 1))
    picture = textured(raster, faces, uv, ramp)
    np.testing.assert_allclose(picture[20, 22:42, 0], (np.arange(20) + 0.5) / 20, atol=1e-6)
    nearer = points * [0.5, 0.5, 0.5]
    both = rasterize(camera, np.concatenate([points, nearer]), np.concatenate([faces, faces + 25]))
    assert both.depth[24, 32] == pytest.approx(0.5)
    assert overlap(raster.mask, raster.mask) == 1 and overlap(raster.mask, ~raster.mask) == 0


def a_sheet_and_its_mask():
    camera = Pinhole.centred(125.0, 160, 120)
    uv, faces = grid_mesh(11)
    points = np.concatenate([0.8 * uv, np.full((121, 1), 2.5)], 1)
    return View(camera, rasterize(camera, points, faces).mask), Template(uv, points, faces)


@pytest.mark.parametrize("kind", ["chamfer", "mask", "contour"])
def test_silhouettes_pull_the_surface_into_place(kind):
    view, template = a_sheet_and_its_mask()
    grid, border = grid_mesh(15)[0], rim(template, 160)
    term = {
        "chamfer": lambda: Chamfer([view], grid, 1 / 125, rng()),
        "mask": lambda: SoftMask([view], grid, 1 / 125, cell=3, sigma=3.0),
        "contour": lambda: Contour([view], border, 1 / 125),
    }[kind]()
    place = torch.from_numpy(np.concatenate([0.8 * term.uv, np.full((len(term.uv), 1), 2.5)], 1)).float()
    shift = torch.tensor([0.15, 0.0, 0.0], requires_grad=True)
    there = float(term(place))
    off = term(place + shift)
    off.backward()
    assert float(off.detach()) > 1.3 * there and float(shift.grad[0]) > 0


def test_outlines_do_not_shrink_a_surface():
    view, template = a_sheet_and_its_mask()  # 40 × 40 pixels
    found = outline(view.mask, 200)
    assert abs(np.ptp(found[:, 0]) - 40) < 0.6 and abs(np.ptp(found[:, 1]) - 40) < 0.6
    assert np.linalg.norm(np.diff(found, axis=0), axis=1).max() < 1.0
    terms = {
        "contour": Contour([view], rim(template, 160), 1.0),
        "chamfer": Chamfer([view], grid_mesh(9)[0], 1.0, rng()),
    }
    slope = {}
    for name, term in terms.items():
        scale = torch.ones((), requires_grad=True)
        place = torch.from_numpy(np.concatenate([0.8 * term.uv, np.full((len(term.uv), 1), 2.5)], 1)).float()
        term(torch.cat([scale * place[:, :2], place[:, 2:]], 1)).backward()
        slope[name] = float(scale.grad)
    assert slope["chamfer"] > 10 * abs(slope["contour"])  # the loss falls where the surface shrinks


# --- folders ---


def write_folder(path, seq, extra=True):
    (path / "model").mkdir(parents=True)
    for part in ("ground_truth", "matches"):
        (path / part).mkdir()
    save = {"cam_intrinsic": seq.camera.matrix, "mesh_vertices": seq.template.points, "mesh_faces": seq.template.faces}
    for name, table in save.items():
        np.savetxt(path / "model" / f"{name}.tsv", table, delimiter="\t")
    corners = seq.template.faces[:40]
    weights = rng().dirichlet(np.ones(3), size=40)
    for k, truth in enumerate(seq.truth, 1):
        np.savetxt(path / "ground_truth" / f"{k}.tsv", truth, delimiter="\t")
        pixels = seq.camera.project(np.einsum("nk,nkd->nd", weights, truth[corners]))
        confidence = np.where(np.arange(40) < 30, 0.9, 0.1)[:, None]
        rows = np.concatenate([corners, weights, pixels, confidence], 1)
        np.savetxt(path / "matches" / f"{k}.tsv", rows if extra else rows[:, :8], delimiter="\t")
    return corners, weights


def test_folders_are_read_back(tmp_path):
    seq = sequence(curvature=0.2)
    corners, weights = write_folder(tmp_path / "brick", seq)
    found = read_folder(tmp_path / "brick", "matches")
    assert found.name == "brick" and len(found.observations) == 2 and len(found.observations[0].uv) == 30
    np.testing.assert_allclose(found.template.uv, seq.template.uv + 0.5, atol=1e-9)
    np.testing.assert_allclose(
        found.observations[1].uv, np.einsum("nk,nkd->nd", weights, found.template.uv[corners])[:30]
    )
    np.testing.assert_allclose(found.truth, seq.truth)
    assert found.camera.fx == 500


def test_folders_that_are_not(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_folder(tmp_path, "matches")
    seq = sequence()
    write_folder(tmp_path / "a", seq)
    with pytest.raises(ValueError, match="no matches"):
        read_folder(tmp_path / "a", "others")
    (tmp_path / "a" / "matches" / "1.tsv").write_text("0\t1\t2\t0.5\t0.5\t0.5\t3\t4\n")
    with pytest.raises(ValueError, match="add up to 1"):
        read_folder(tmp_path / "a", "matches")
    with pytest.raises(ValueError, match="no grid"):
        grid_parameters(rng().normal(size=(7, 3)))


# --- bad input ---


def test_points_behind_the_camera():
    with pytest.raises(ValueError, match="2 points are at or behind"):
        Pinhole.centred(100, 64, 48).project(np.array([[0.0, 0, -1], [0, 0, 0], [0, 0, 1]]))
    with pytest.raises(ValueError, match="must be positive"):
        Pinhole.centred(-500, 64, 48)
    seq = sequence()
    behind = dataclasses.replace(seq.template, points=seq.template.points * [1, 1, -1])
    with pytest.raises(ValueError, match="behind the camera"):
        tracking.pixel_unit(seq.camera, behind, 1.0)


def test_too_few_points_and_lost_ones(caplog):
    uv = rng().uniform(-0.5, 0.5, (6, 2))
    pixels = np.full((6, 2), np.nan)
    pixels[:3] = 1.0
    with pytest.raises(ValueError, match="3 correspondences are too few"):
        tracking.usable(Observation(uv, pixels))
    pixels[3:5] = 2.0
    with caplog.at_level(logging.WARNING):
        assert len(tracking.usable(Observation(uv, pixels)).uv) == 5
    assert "1 of 6 tracked points are lost" in caplog.text


def test_weights_and_names():
    with pytest.raises(ValueError, match="weight of the metric term is -1"):
        tracking.Weights(metric=-1)
    seq = sequence()
    with pytest.raises(ValueError, match="did you mean 'frobenius'"):
        follow(seq, metric_loss="frobenus")
    with pytest.raises(ValueError, match="nothing to minimise"):
        follow(seq, weights=tracking.Weights(0, 0, 0))
    with pytest.raises(ValueError, match="unknown shape"):
        developable_sequence("sphere", seed=0)
    with pytest.raises(ValueError, match="outliers"):
        Corruption(outliers=1.5)


def test_a_wrong_focal_length_is_suspected(caplog):
    seq = sequence()
    wrong = dataclasses.replace(seq.camera, fx=1500.0, fy=1500.0)
    registered = register(small_net(), seq.template, rng=rng())
    with caplog.at_level(logging.WARNING):
        next(tracking.correspondence_terms(registered, wrong, seq.observations))
    assert "focal length" in caplog.text


def test_masks_without_foreground():
    camera = Pinhole.centred(100, 64, 48)
    with pytest.raises(ValueError, match="no foreground"):
        View(camera, np.zeros((48, 64), bool))
    with pytest.raises(ValueError, match="the camera's picture"):
        View(camera, np.ones((64, 48), bool))
