"""Curvatures, metrics and geodesics against closed forms, finite differences, sympy and theorems."""

import math

import numpy as np
import pytest
import torch

from tensorbench.radiance_fields.surfaces import geodesics, isometries
from tensorbench.radiance_fields.surfaces import geometry as dg
from tensorbench.radiance_fields.surfaces.meshes import (
    Template,
    discrete_curvature,
    grid_mesh,
    interpolation,
    mixed_areas,
)
from tensorbench.radiance_fields.surfaces.nets import SurfaceNet

EYE = torch.eye(2, dtype=torch.float64)


def parameters(n: int = 30, seed: int = 0, low=(-0.5, -0.5), high=(0.5, 0.5)) -> torch.Tensor:
    share = torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    low, high = torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)
    return low + share * (high - low)


def net(seed: int = 0, **options) -> SurfaceNet:
    return SurfaceNet(generator=torch.Generator().manual_seed(seed), dtype=torch.float64, **options)


# --- known surfaces ---


@pytest.mark.parametrize("bend", isometries.BENDS.values(), ids=isometries.BENDS)
@pytest.mark.parametrize("curvature", [0.0, 0.5, 2.5])
def test_bends_keep_the_metric_and_are_flat_inside(bend, curvature):
    found = dg.geometry(lambda x: bend(x, curvature, 0.4), parameters())
    torch.testing.assert_close(found.first, EYE.expand(30, 2, 2), atol=1e-12, rtol=0)
    assert found.gauss.abs().max() < 1e-10


def test_a_bend_by_nothing_leaves_the_sheet():
    uv = parameters()
    for bend in isometries.BENDS.values():
        torch.testing.assert_close(bend(uv, 0.0, 0.7), torch.nn.functional.pad(uv, (0, 1)), atol=1e-14, rtol=0)


def test_a_cylinder_of_radius_r_has_mean_curvature_one_over_two_r():
    for radius in (0.4, 3.0):
        found = dg.geometry(lambda x, r=radius: isometries.cylinder(x, 1 / r, 0.3), parameters())
        torch.testing.assert_close(found.mean.abs(), torch.full((30,), 1 / (2 * radius), dtype=torch.float64))
        across, along = found.principal.abs().sort(dim=1, descending=True).values.unbind(1)
        torch.testing.assert_close(across, torch.full((30,), 1 / radius, dtype=torch.float64))
        assert along.max() < 1e-9


def test_the_curve_under_a_generalised_cylinder_has_its_curvature():
    uv = parameters()
    found = dg.geometry(lambda x: isometries.curved(x, 1.7, 0.0, 4.0, 0.3), uv)
    torch.testing.assert_close(2 * found.mean.abs(), (1.7 * torch.cos(4 * uv[:, 0] + 0.3)).abs())


def test_the_cone_has_its_curvature_in_the_middle():
    found = dg.geometry(lambda x: isometries.cone(x, 1.3), torch.zeros(1, 2, dtype=torch.float64))
    assert 2 * float(found.mean.abs()) == pytest.approx(1.3)


@pytest.mark.parametrize("name", ["cylinder", "sphere", "torus", "catenoid", "saddle"])
def test_curvature_and_area_of_known_shapes(name):
    shape = isometries.shape(name)
    uv = parameters(low=shape.low, high=shape.high)
    found = dg.geometry(shape.map, uv)
    torch.testing.assert_close(found.gauss, shape.gauss(uv), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(found.mean.abs(), shape.mean(uv).abs(), atol=1e-12, rtol=1e-12)
    if shape.area is not None:
        assert dg.gauss_bonnet(shape.map, shape.low, shape.high).area == pytest.approx(shape.area, rel=1e-10)


def test_spheres_of_radius_r_have_curvature_one_over_r_squared():
    found = dg.geometry(lambda x: isometries.sphere_map(x, 2.5), parameters())
    torch.testing.assert_close(found.gauss, torch.full((30,), 1 / 2.5**2, dtype=torch.float64))


def test_a_paraboloid_against_sympy():
    sympy = pytest.importorskip("sympy")
    u, v = sympy.symbols("u v")
    x = sympy.Matrix([u, v, u**2 / 2 + sympy.Rational(3, 10) * u * v])
    xu, xv = x.diff(u), x.diff(v)
    normal = xu.cross(xv) / sympy.sqrt(xu.cross(xv).dot(xu.cross(xv)))
    g = sympy.Matrix([[xu.dot(xu), xu.dot(xv)], [xu.dot(xv), xv.dot(xv)]])
    b = sympy.Matrix(2, 2, lambda i, j: x.diff((u, v)[i], (u, v)[j]).dot(normal))
    at = {u: sympy.Rational(2, 5), v: sympy.Rational(-1, 5)}
    mean, gauss = ((g.inv() * b).trace() / 2).subs(at), (b.det() / g.det()).subs(at)

    def symbol(k, i, j):  # ½ gᵏˡ (∂_i g_jl + ∂_j g_il − ∂_l g_ij)
        p, q = (u, v)[i], (u, v)[j]
        slopes = [g[j, m].diff(p) + g[i, m].diff(q) - g[i, j].diff((u, v)[m]) for m in (0, 1)]
        return float((sum(g.inv()[k, m] * slopes[m] for m in (0, 1)) / 2).subs(at))

    def surface(p):
        return torch.stack([p[:, 0], p[:, 1], p[:, 0] ** 2 / 2 + 0.3 * p[:, 0] * p[:, 1]], 1)

    found = dg.geometry(surface, torch.tensor([[0.4, -0.2]], dtype=torch.float64))
    assert float(found.mean) == pytest.approx(float(mean))
    assert float(found.gauss) == pytest.approx(float(gauss))
    expected = [[[symbol(k, i, j) for j in (0, 1)] for i in (0, 1)] for k in (0, 1)]
    np.testing.assert_allclose(found.christoffel[0].numpy(), expected, atol=1e-12)


def test_a_hyperbolic_paraboloid_is_curved_negatively():
    assert (dg.geometry(isometries.saddle_map, parameters()).gauss < 0).all()


def test_repeated_parameters_may_share_memory():
    uv = torch.tensor([[0.1, 0.2]], dtype=torch.float64)
    found = dg.geometry(isometries.torus_map, uv.expand(4, 2))
    torch.testing.assert_close(found.gauss, dg.geometry(isometries.torus_map, uv).gauss.expand(4))


# --- theorems ---


@pytest.mark.parametrize("name", ["sphere", "torus", "catenoid", "saddle"])
def test_curvature_is_intrinsic(name):
    shape = isometries.shape(name)
    uv = parameters(low=shape.low, high=shape.high)
    torch.testing.assert_close(dg.intrinsic_curvature(shape.map, uv), shape.gauss(uv), atol=1e-10, rtol=1e-10)


def test_gauss_equation_for_a_network():
    f = net(frequencies=1)
    uv = parameters(10)
    torch.testing.assert_close(dg.intrinsic_curvature(f, uv), dg.geometry(f, uv).gauss, atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("name", ["sphere", "torus", "saddle"])
def test_gauss_bonnet(name):
    shape = isometries.shape(name)
    found = dg.gauss_bonnet(shape.map, shape.low, shape.high, 40)
    assert abs(found.defect) < 1e-9
    if shape.chi is not None:
        assert found.curvature == pytest.approx(2 * math.pi * shape.chi, abs=1e-3)


def test_rigid_motions_change_nothing_within_the_surface():
    f, uv = net(), parameters()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
    turn = turn * torch.linalg.det(turn)
    a, b = dg.geometry(f, uv), dg.geometry(lambda x: f(x) @ turn.T + 3.0, uv)
    for name in ("first", "second", "mean", "gauss", "christoffel"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-10, rtol=1e-8)


def test_scaling_a_surface():
    f, uv = net(), parameters()
    a, b = dg.geometry(f, uv), dg.geometry(lambda x: 3 * f(x), uv)
    torch.testing.assert_close(b.first, 9 * a.first)
    torch.testing.assert_close(b.gauss, a.gauss / 9, atol=1e-12, rtol=1e-8)
    torch.testing.assert_close(b.area, 9 * a.area)


def test_latitudes_of_a_sphere_curve_by_the_tangent():
    at = dg.geometry(isometries.sphere_map, parameters(5))
    velocity = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(5, 2)
    torch.testing.assert_close(dg.geodesic_curvature(at, velocity), torch.tan(parameters(5)[:, 1]))


# --- derivatives of networks ---


@pytest.mark.parametrize("activation", ["softplus", "tanh"])
@pytest.mark.parametrize("frequencies", [0, 3])
def test_jets_are_what_torch_differentiates(activation, frequencies):
    f, uv = net(hidden=(20, 24), activation=activation, frequencies=frequencies, skips=[1, 2]), parameters()
    points, jac, second = dg.derivatives(f, uv)
    torch.testing.assert_close(f.jet(uv)[0], points)
    torch.testing.assert_close(f.jacobian(uv), jac, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(f.second_derivatives(uv), second, atol=1e-9, rtol=1e-9)
    per_point = torch.func.vmap(torch.func.jacfwd(lambda x: f(x[None])[0]))(uv)
    torch.testing.assert_close(jac, per_point, atol=1e-10, rtol=1e-10)


def test_jets_are_finite_differences():
    f, uv, h = net(), parameters(), 1e-5
    for axis in (0, 1):
        step = h * EYE[axis]
        slope = (f(uv + step) - f(uv - step)) / (2 * h)
        torch.testing.assert_close(f.jacobian(uv)[..., axis], slope, atol=1e-8, rtol=1e-6)
        bend = (f.jacobian(uv + step) - f.jacobian(uv - step)) / (2 * h)
        torch.testing.assert_close(f.second_derivatives(uv)[..., axis], bend, atol=1e-7, rtol=1e-6)


def test_tangents_of_some_points_only():
    f, uv = net(), parameters()
    points, jac = f.jet(uv, 7)
    torch.testing.assert_close(points, f(uv))
    torch.testing.assert_close(jac, f.jacobian(uv[-7:]))
    assert f.jet(uv, 0)[1].shape == (0, 3, 2)


def test_two_layers_by_hand():
    f, uv = net(hidden=(9,), skips=[]), parameters()
    (w1, w2), b1 = f.weights, f.biases[0]
    by_hand = torch.einsum("ah,nh,hi->nai", w2, torch.sigmoid(5 * (uv @ w1.T + b1)), w1)
    torch.testing.assert_close(f.jacobian(uv), by_hand)


def test_gradients_in_the_weights_are_those_of_the_other_way():
    f, uv = net(), parameters()
    loss = [dg.first_form(jac).square().sum() for jac in (f.jacobian(uv), dg.jacobian(f, uv))]
    first, second = (torch.autograd.grad(value, list(f.parameters()), allow_unused=True) for value in loss)
    *rest, shift = zip(first, second, strict=True)
    for a, b in rest:
        torch.testing.assert_close(a, b)
    assert len(rest) == 5 and not any(x is not None and x.any() for x in shift)  # derivatives do not see the last bias


def test_relu_has_no_second_derivative():
    f = net(activation="relu")
    assert f.second_derivatives(parameters()).abs().max() == 0
    assert net().second_derivatives(parameters()).abs().max() > 1e-3


# --- meshes and geodesics ---


def test_discrete_curvature_comes_near():
    shape = isometries.shape("sphere")
    uv, faces = grid_mesh(31, low=shape.low, high=shape.high, alternate=False)
    mean, gauss = discrete_curvature(shape.map(torch.from_numpy(uv)).numpy(), faces)
    inside = ~np.isnan(gauss)
    assert mixed_areas(shape.map(torch.from_numpy(uv)).numpy(), faces).sum() == pytest.approx(shape.area, rel=1e-2)
    assert inside.sum() == 29**2
    assert np.abs(mean[inside] - 1).mean() < 0.05 and np.abs(gauss[inside] - 1).mean() < 0.1


def test_interpolation_is_exact_for_linear_functions():
    uv, faces = grid_mesh(6, 5)
    at = parameters().numpy()
    np.testing.assert_allclose(interpolation(uv, faces, at) @ (uv @ [2.0, -1.0] + 3), at @ [2.0, -1.0] + 3)


def test_geodesics_of_a_rolled_sheet_are_straight_in_it():
    def f(x):
        return isometries.cone(x, 1.5, 0.2)

    start = torch.tensor([[0.1, -0.2]], dtype=torch.float64)
    velocity = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    path = geodesics.exponential_map(f, start, velocity, 0.4, 20)
    torch.testing.assert_close(path[-1], start + 0.4 * velocity, atol=1e-10, rtol=0)
    _, length = geodesics.shortest_curve(f, start[0], path[-1, 0], points=21, iterations=30)
    assert length == pytest.approx(0.4, rel=1e-5)


def test_geodesics_of_a_sphere_are_great_circles():
    a, b = torch.tensor([-0.9, -0.3], dtype=torch.float64), torch.tensor([0.8, 0.7], dtype=torch.float64)
    x, y = isometries.sphere_map(torch.stack([a, b]))
    angle = math.acos(float(x @ y))
    assert geodesics.shortest_curve(isometries.sphere_map, a, b)[1] == pytest.approx(angle, rel=1e-5)
    path = geodesics.exponential_map(
        isometries.sphere_map, a[None], torch.tensor([[0.3, 0.9]], dtype=torch.float64), 1.0
    )
    points = isometries.sphere_map(path[:, 0])
    plane = torch.linalg.cross(points[0], points[20])
    assert (points @ plane).abs().max() < 1e-8
    assert math.acos(float(points[0] @ points[-1])) == pytest.approx(1.0, abs=1e-8)


def test_distances_over_a_mesh():
    uv, faces = grid_mesh(41)
    points = isometries.cylinder(torch.from_numpy(uv), 2.0).numpy()
    source = 41 * 20 + 20
    true = np.linalg.norm(uv - uv[source], axis=1)
    heat = geodesics.mesh_distances(points, faces, source)
    edges = geodesics.mesh_distances(points, faces, source, "edges")
    assert np.abs(heat - true).mean() < 0.02
    assert (edges >= true - 0.01).all() and np.abs(edges - true).mean() > np.abs(heat - true).mean()


# --- bad input ---


def test_what_is_refused():
    with pytest.raises(ValueError, match="did you mean 'softplus'"):
        SurfaceNet(activation="softpuls")
    with pytest.raises(ValueError, match="skips"):
        SurfaceNet(hidden=(8, 8), skips=[5])
    with pytest.raises(ValueError, match="singular at 3 of 3"):
        dg.geometry(lambda x: torch.stack([x[:, 0], x[:, 0], x[:, 0]], 1), parameters(3))
    with pytest.raises(ValueError, match=r"must give \(3, 3\)"):
        dg.geometry(lambda x: x, parameters(3))
    with pytest.raises(ValueError, match="no length"):
        geodesics.exponential_map(isometries.sphere_map, parameters(2), torch.zeros(2, 2, dtype=torch.float64), 1.0)
    with pytest.raises(ValueError, match="unknown way 'heats'"):
        geodesics.mesh_distances(np.zeros((4, 3)), np.array([[0, 1, 2]]), 0, "heats")
    with pytest.raises(ValueError, match="unknown shape"):
        isometries.shape("klein")


def test_bad_templates():
    uv, faces = grid_mesh(3)
    points = np.concatenate([uv, np.ones((9, 1))], 1)
    with pytest.raises(ValueError, match="zero area"):
        Template(uv, points * [1, 0, 0], faces)
    doubled = uv.copy()
    doubled[4] = doubled[5]
    with pytest.raises(ValueError, match="duplicate vertices"):
        Template(doubled, points, faces)
    with pytest.raises(ValueError, match="vertex numbers"):
        Template(uv, points, faces + 5)
    with pytest.raises(ValueError, match="not finite"):
        Template(uv, points * [1, 1, np.nan], faces)
