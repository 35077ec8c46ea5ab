"""Distances of solids and flows for implicit representations: oracles, exact solutions, losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tensorbench.core import data
from tensorbench.radiance_fields.datasets.flows import decaying_flow
from tensorbench.radiance_fields.implicit import physics, sdf
from tensorbench.radiance_fields.implicit.functional import FunctionalTensor, pixel_centres
from tensorbench.radiance_fields.implicit.nets import Axis, AxisNet
from tensorbench.radiance_fields.implicit.training import grid_points, train


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_sphere_s_mesh_gives_its_distance():
    trimesh = pytest.importorskip("trimesh")
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=0.6)
    found = sdf.mesh_distance(mesh, 20, samples=100_000)
    np.testing.assert_allclose(found, sdf.on_grid("sphere", 20), atol=4e-3)
    assert sdf.fitted_to_box(mesh).bounds[1].max() == pytest.approx(0.85)


def test_surfaces_and_their_points():
    vertices, faces = sdf.surface(sdf.on_grid("sphere", 48))
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=-1), 0.6, atol=2e-3)
    points = sdf.surface_points(vertices, faces, 4000)
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), 0.6, atol=4e-3)
    assert np.abs(points.mean(0)).max() < 0.03  # spread evenly
    assert len(sdf.surface(np.ones((4, 4, 4)))[1]) == 0
    assert sdf.iou(sdf.on_grid("sphere", 40), sdf.sphere(grid_points((40,) * 3).numpy(), 0.3).reshape(40, 40, 40)) == (
        pytest.approx(1 / 8, rel=0.1)
    )


def test_boolean_solids_have_their_distances_on_the_axes():
    x = np.array([[0.0, 0, 0], [0.31, 0, 0], [0.95, 0, 0], [0.5, 0, 0]])
    assert sdf.csg(x) == pytest.approx([-0.3, 0.01, 0.36, 0.2])  # ball, gap, outside along a bore, within a bore
    assert sdf.box(np.array([[0.0, 0, 0], [1, 1, 0]]), (0.5, 0.6, 0.7)) == pytest.approx([-0.5, math.hypot(0.5, 0.4)])


def test_losses_vanish_at_the_distance_itself():
    net = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.6, 0.8, 0.0]]))
    points = grid_points((6, 6, 6))
    distance = net(points).detach()
    assert float(sdf.points_loss(net, points, distance, 0.3, 0.5)) < 1e-10
    assert float(sdf.points_loss(net, points, distance + 0.1, 0.3, 0.0)) > 1e-3


def test_losses_on_grids_and_points_are_the_same():
    f = FunctionalTensor([Axis("siren", features=(16, 16))] * 3, "tt", 4, 1, seeded()).double()
    x = [pixel_centres(5).double()] * 3
    distance = torch.from_numpy(sdf.on_grid("sphere", 5)).double()[..., None]
    on_grid = sdf.grid_loss(f, x, distance, 0.3, 0.7)
    at_points = sdf.points_loss(f, grid_points((5, 5, 5)).double(), distance.reshape(-1, 1), 0.3, 0.7)
    torch.testing.assert_close(on_grid, at_points, atol=1e-6, rtol=1e-5)


def test_a_sphere_is_learnt():
    distance = torch.from_numpy(sdf.on_grid("sphere", 24))[..., None]
    f = FunctionalTensor([Axis("siren", features=(32, 32))] * 3, "cp", 8, 1, seeded(), std=0.1, offset=True)
    x = [pixel_centres(24)] * 3
    train(f, lambda net, _: sdf.grid_loss(net, x, distance, 0.2, 0.05), steps=300, lr=3e-3, schedule="cosine")
    vertices, faces = sdf.surface(f.materialize((24, 24, 24))[..., 0].numpy())
    radii = np.linalg.norm(sdf.surface_points(vertices, faces, 2000), axis=-1)
    assert np.abs(radii - 0.6).mean() < 0.01


class Decay(AxisNet):
    """exp(−rate (t + 1)) in place of a network of time."""

    def __init__(self, rate):
        super().__init__("siren", features=(2,))
        self.rate = rate

    def forward(self, x):
        return torch.exp(-self.rate * (x + 1))


class Wave(AxisNet):
    def forward(self, x):
        return torch.sin(math.pi * (x + 1))


def test_the_residual_of_an_exact_flow_is_zero():
    """sin x sin y exp(−2νt) is a steady pattern that decays: CP of rank 1 with known factors."""
    viscosity, duration = 0.05, 2.0
    box = physics.Box(16, duration)
    f = FunctionalTensor([Axis("siren", features=(2,))] * 3, "cp", 1, 1, seeded())
    f.nets = nn.ModuleList([Wave(), Wave(), Decay(2 * viscosity * duration / 2)])
    times = torch.linspace(-1, 1, 4)
    assert float(physics.residual(f, box, times, viscosity).abs().max()) < 1e-5
    assert float(physics.residual(f, box, times, 2 * viscosity).abs().max()) > 1e-2


def test_a_flow_of_the_solver_has_a_small_residual():
    """Against the solver: differences in time and space of its frames satisfy the same equation."""
    n, dt = 32, 0.01
    w = decaying_flow(n, np.array([0.0, dt, 2 * dt]), 0.01, 3.0, np.random.default_rng(0), dt=dt / 4)
    field = torch.from_numpy(w[..., 1:2])
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)

    def slope(f, axis, order=1):
        factor = ((1j * k) ** order).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        return torch.fft.ifft2(torch.fft.fft2(f, dim=(0, 1)) * factor, dim=(0, 1)).real

    u, v = physics.velocity(field)
    terms = u * slope(field, 0) + v * slope(field, 1) - 0.01 * (slope(field, 0, 2) + slope(field, 1, 2))
    change = torch.from_numpy(w[..., 2:] - w[..., :1]) / (2 * dt)
    assert float((change + terms).abs().max()) < 2e-2 * float(change.abs().max())


def test_velocity_is_that_of_the_stream_function():
    x = 2 * math.pi * torch.arange(16) / 16
    w = (torch.sin(x)[:, None] * torch.cos(2 * x))[..., None]
    u, v = physics.velocity(w)
    torch.testing.assert_close(u[..., 0], -2 / 5 * torch.sin(x)[:, None] * torch.sin(2 * x), atol=1e-6, rtol=0)
    torch.testing.assert_close(v[..., 0], -1 / 5 * torch.cos(x)[:, None] * torch.cos(2 * x), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("method", "tolerance"), [(physics.fourier, 1e-10), (physics.bicubic, 0.1)])
def test_interpolation_keeps_known_points_and_low_waves(method, tolerance):
    x = 2 * math.pi * np.arange(32) / 32
    field = (np.sin(x)[:, None] * np.cos(2 * x))[..., None]
    found = method(field[::4, ::4], 4)
    np.testing.assert_allclose(found[::4, ::4], field[::4, ::4], atol=1e-9)
    assert physics.relative_error(found, field) < tolerance


def test_a_decaying_flow_keeps_or_loses_enstrophy():
    flow = decaying_flow(32, np.array([0.0, 0.5, 1.0]), 0.0, 4.0, np.random.default_rng(0))
    square = (flow**2).mean((0, 1))
    assert square[2] == pytest.approx(square[0], rel=0.02)
    assert np.abs(flow[..., 2] - flow[..., 0]).max() > 0.1
    thick = decaying_flow(32, np.array([0.0, 0.5]), 0.1, 4.0, np.random.default_rng(0))
    assert (thick[..., 1] ** 2).mean() < 0.8 * (thick[..., 0] ** 2).mean()


def test_shapes_move():
    video = data.get("moving_shapes").loader(seed=0, n=24, frames=5)
    assert video.shape == (24, 24, 5) and video.min() >= 0 and video.max() <= 1
    assert np.abs(np.diff(video, axis=-1)).max() > 0.2


def test_an_unknown_solid_is_told():
    with pytest.raises(ValueError, match="did you mean 'sphere'"):
        sdf.on_grid("spher", 4)
